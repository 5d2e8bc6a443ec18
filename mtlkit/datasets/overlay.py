"""Two digits on one image: the construction behind Multi-MNIST and its relatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

from mtlkit.datasets.base import Dataset, Split, check_share, check_sizes, choose, main_first
from mtlkit.datasets.noise import other_class, with_main_labels
from mtlkit.tasks import Task

CLASSES = {"left": 10, "right": 10, "left_even": 2}
"""Task to its number of classes."""


def pair_of_tasks(main: str) -> list[str]:
    """Two tasks, ``main`` first: ``left`` and ``right`` compete for the model, ``left_even`` and ``left`` are related.

    Raises:
        ValueError: another ``main``.
    """
    return main_first(("left", "left_even") if main == "left_even" else ("left", "right"), main)


def overlay(left: Tensor, right: Tensor, shift: int) -> Tensor:
    """``left`` in the top left and ``right`` in the bottom right corner of one image, the larger pixel winning.

    Both are put on a canvas that is ``shift`` pixels higher and wider, which is then brought back
    to their size by bilinear interpolation with antialiasing.

    Args:
        left: (N, H, W) images.
        right: (N, H, W) images.

    Returns:
        (N, H, W) images.
    """
    size = left.shape[-2:]
    canvas = torch.maximum(F.pad(left, (0, shift, 0, shift)), F.pad(right, (shift, 0, shift, 0)))
    return F.interpolate(canvas[:, None], size=size, mode="bilinear", antialias=True, align_corners=False)[:, 0]


def draw_pairs(pool: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """(n, 2) images of ``pool``: the left ones in shuffled passes over it, each with a random other one."""
    passes = -(-n // len(pool))
    left = torch.cat([torch.randperm(len(pool), generator=generator) for _ in range(passes)])[:n]
    right = (left + torch.randint(1, len(pool), (n,), generator=generator)) % len(pool)
    return pool[torch.stack([left, right], 1)]


def paired(
    images: tuple[Tensor, Tensor],
    labels: tuple[Tensor, Tensor],
    pairs: Tensor,
    order: Sequence[str],
    *,
    shift: int,
    white: int,
) -> Split:
    """The overlaid images of ``pairs`` as a split without noise.

    Args:
        images: (M, H, W) source images of the left and of the right side, from 0 to ``white``.
        labels: (M,) their classes.
        pairs: (N, 2) row of the left and of the right source image.
        order: the tasks, main task first.

    Returns:
        inputs (N, 1, H, W) from 0 to 1; ``rows`` is left row times M plus right row.
    """
    left, right = pairs.T
    y = {"left": labels[0][left], "right": labels[1][right], "left_even": 1 - labels[0][left] % 2}
    return Split(
        overlay(images[0][left] / white, images[1][right] / white, shift)[:, None],
        {name: y[name] for name in order},
        left * len(images[1]) + right,
        torch.zeros(len(pairs), len(order), dtype=torch.bool),
    )


def with_label_noise(train: Split, share: float, generator: torch.Generator) -> Split:
    """Exactly ``round(share * N)`` labels of the main task replaced by another of its classes."""
    name, main = next(iter(train.y.items()))
    return with_main_labels(train, other_class(main, choose(len(main), share, generator), CLASSES[name], generator))


def tasks(order: Sequence[str]) -> tuple[Task, ...]:
    """The tasks of these names."""
    return tuple(Task(name, "multiclass", n_classes=CLASSES[name]) for name in order)


def multi_digits(
    *,
    main: str = "left",
    label_noise: float = 0.0,
    n_train: int = 2000,
    n_meta: int = 400,
    n_test: int = 1000,
    seed: int = 0,
) -> Dataset:
    """Two overlaid scikit-learn digits: which is ``left`` (top left), which is ``right`` (bottom right).

    A small stand-in for Multi-MNIST that needs no file. Each seed first splits the 1,797 scans into
    1,000 for training, 200 for meta and 597 for test, and then draws pairs within each part, so
    that no scan is in two splits. The scans of 8x8 pixels are overlaid with a shift of 3 pixels;
    inputs are the 64 pixels, 0 to 1. ``rows`` is left scan times 1,797 plus right scan.

    Args:
        main: ``left`` or ``right``, with the other as the auxiliary task, or ``left_even``: whether the left
            digit is even, with ``left`` as the auxiliary task.
        label_noise: share of the main task's training labels that is made wrong, exactly
            ``round(share * n_train)`` of them, each replaced by a random other class.

    Raises:
        ValueError: a share outside [0, 1], an unknown task, an empty split.
    """
    check_share("label_noise", label_noise)
    order = pair_of_tasks(main)
    for name, size in (("n_train", n_train), ("n_meta", n_meta), ("n_test", n_test)):
        check_sizes(len(_scans()[1]) ** 2, **{name: size})
    images, labels = _scans()
    generator = torch.Generator().manual_seed(seed)
    pools = torch.randperm(len(labels), generator=generator).split([1000, 200, 597])
    pairs = (
        paired((images, images), (labels, labels), draw_pairs(pool, n, generator), order, shift=3, white=16)
        for pool, n in zip(pools, (n_train, n_meta, n_test), strict=True)
    )
    train, meta, test = (replace(split, x=split.x.flatten(1)) for split in pairs)
    return Dataset(
        "multi_digits",
        tasks(order),
        with_label_noise(train, label_noise, generator),
        meta,
        test,
        source="pairs of scikit-learn load_digits: test part of UCI Optical Recognition of Handwritten Digits",
        licence="CC BY 4.0",
    )


def _scans() -> tuple[Tensor, Tensor]:
    source = load_digits()
    return torch.from_numpy(source.images), torch.from_numpy(source.target)
