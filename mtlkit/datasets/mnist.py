"""MNIST and Fashion-MNIST: as ten one-vs-rest tasks, together as twenty, and overlaid in pairs (Multi-MNIST)."""

from __future__ import annotations

import functools
import gzip
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mtlkit.datasets import files
from mtlkit.datasets.base import Dataset, Split, check_share, check_sizes, join_splits, main_first
from mtlkit.datasets.noise import with_flipped_labels
from mtlkit.datasets.overlay import draw_pairs, pair_of_tasks, paired, tasks, with_label_noise
from mtlkit.tasks import Task

SHIFT = 8
N_TRAIN, N_META, N_TEST = 45_000, 15_000, 10_000
CLOTHES = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
"""Names of Fashion-MNIST's classes."""
FOLDERS = {
    "multi_mnist": ("mnist", "mnist"),
    "multi_fashion": ("fashion-mnist", "fashion-mnist"),
    "multi_fashion_mnist": ("mnist", "fashion-mnist"),
}
"""Data set to the folders of its left and right images."""
SINGLE = {"mnist": "mnist", "fashion_mnist": "fashion-mnist"}
"""Data set of single images to its folder."""
IMAGES = {"mnist": "digit", "fashion_mnist": "article"}
"""The same to what its twenty-task form calls an image."""
_LICENCES = {"mnist": "CC BY-SA 3.0 (as commonly stated)", "fashion-mnist": "MIT"}
_SOURCES = {"mnist": "MNIST (LeCun, Cortes, Burges)", "fashion-mnist": "Fashion-MNIST (Xiao, Rasul, Vollgraf)"}


def one_vs_rest(
    name: str,
    *,
    main: int = 8,
    label_noise: float = 0.0,
    noise: str = "flip",
    n_train: int = 1000,
    n_meta: int = 200,
    n_test: int = 10_000,
    pixels: int = 28,
    seed: int = 0,
) -> Dataset:
    """Ten one-vs-rest tasks, ``is_0`` to ``is_9``, the chosen ``main`` class first.

    No two seeds share a training or meta image: one fixed permutation of the 60,000 training images is cut into blocks
    of ``n_train + n_meta``, and seed s has the s-th block, its first ``n_train`` images for training. The test split is
    the first ``n_test`` of the 10,000 test images, in their order, and the same object for every seed. Inputs are
    (``pixels``²,) numbers, 0 to 1, in float32. ``rows`` counts the test images from 60,000 on.

    Args:
        name: ``"mnist"`` or ``"fashion_mnist"``.
        main: class of the main task; the classes of Fashion-MNIST are named in :data:`CLOTHES`.
        label_noise: share of the main task's training labels that is made wrong, exactly ``round(share * n_train)``.
        noise: see :func:`mtlkit.datasets.noise.flip_labels`.
        pixels: a side of the image, 28, or 14 or 7 for means over squares of 2x2 or 4x4 pixels.

    Raises:
        ValueError: a share outside [0, 1], an unknown class or ``noise``, an empty split, another number of
            ``pixels``, a seed for which no images are left, a damaged file.
        FileNotFoundError: a file that is not there and could not be downloaded.
    """
    check_share("label_noise", label_noise)
    order = tuple(main_first(range(10), main))
    if pixels not in (28, 14, 7):
        raise ValueError(f"pixels is {pixels}, expected 28, 14 or 7")
    check_sizes(N_TRAIN + N_META, n_train=n_train, n_meta=n_meta)
    check_sizes(N_TEST, n_test=n_test)
    permutation = torch.randperm(N_TRAIN + N_META, generator=torch.Generator().manual_seed(0))
    drawn = own_block(permutation, n_train + n_meta, seed)
    folder = SINGLE[name]
    paths = tuple(files.fetch(file) for file in files.needed(folder))
    images, classes = _source(folder, paths)
    train, meta = (_single(images, classes, rows, order, pixels) for rows in drawn.split([n_train, n_meta]))
    return Dataset(
        name,
        tuple(Task(task, "binary") for task in train.y),
        with_flipped_labels(train, label_noise, noise, torch.Generator().manual_seed(seed)),
        meta,
        _single_test(folder, paths, n_test, order, pixels),
        source=_SOURCES[folder],
        licence=_LICENCES[folder],
        classes={f"is_{c}": ("rest", CLOTHES[c]) for c in order} if folder == "fashion-mnist" else {},
    )


def digits_and_articles(
    *, main: str = "digit_8", n_train: int = 1000, n_meta: int = 200, n_test: int = 10_000, pixels: int = 28,
    seed: int = 0,
) -> Dataset:  # fmt: skip
    """Twenty one-vs-rest tasks on images of two sets: ``digit_0`` to ``digit_9`` and ``article_0`` to ``article_9``.

    MNIST and Fashion-MNIST as in :func:`one_vs_rest`, ``n_train`` training images of each. An image has the labels
    of its own set; those of the other ten tasks are missing. Meta and test images are of the main task's set alone,
    the only ones that methods and reports look at. Articles count their ``rows`` from 70,000 on.

    Args:
        main: the main task; the articles are numbered as in :data:`CLOTHES`.
        pixels: see :func:`one_vs_rest`.

    Raises:
        ValueError: an unknown task, an empty split, another number of ``pixels``, a seed for which no images are left,
            a damaged file.
        FileNotFoundError: a file that is not there and could not be downloaded.
    """
    order = tuple(main_first([f"{kind}_{c}" for kind in IMAGES.values() for c in range(10)], main))
    found = {
        kind: one_vs_rest(name, n_train=n_train, n_meta=n_meta, n_test=n_test, pixels=pixels, seed=seed)
        for name, kind in IMAGES.items()
    }
    own = main.split("_")[0]
    folder = next(SINGLE[name] for name, kind in IMAGES.items() if kind == own)
    paths = tuple(files.fetch(file) for file in files.needed(folder))
    return Dataset(
        "digits_and_articles",
        tuple(Task(name, "binary") for name in order),
        join_splits(*(_among(data.train, kind, order) for kind, data in found.items())),
        _among(found[own].meta, own, order),
        _test_among(own, folder, paths, n_test, order, pixels),
        source="; ".join(data.source for data in found.values()),
        licence="; ".join(data.licence for data in found.values()),
        classes={f"article_{c}": ("rest", name) for c, name in enumerate(CLOTHES)},
    )


def _among(split: Split, kind: str, order: Sequence[str]) -> Split:
    """The rows of one set with their own ten tasks' labels and none of the other ten's."""
    missing = torch.full((len(split),), torch.nan)
    y = {name: split.y[f"is_{name[-1]}"] if name.startswith(kind) else missing for name in order}
    rows = split.rows + (N_TRAIN + N_META + N_TEST) * (kind == "article")
    return Split(split.x, y, rows, torch.zeros(len(split), len(order), dtype=torch.bool))


@functools.lru_cache(maxsize=2)
def _test_among(kind: str, folder: str, paths: tuple[Path, ...], n: int, order: tuple[str, ...], pixels: int) -> Split:
    return _among(_single_test(folder, paths, n, tuple(range(10)), pixels), kind, order)


def own_block(rows: Tensor, size: int, seed: int) -> Tensor:
    """The (size,) part of ``rows`` that is ``seed``'s own: entries ``seed * size`` and following.

    Raises:
        ValueError: a seed for which no whole block is left.
    """
    blocks = len(rows) // size
    if not 0 <= seed < blocks:
        raise ValueError(
            f"seed is {seed}, expected one from 0 to {blocks - 1}: "
            f"{len(rows)} training rows give {blocks} disjoint draws of {size}"
        )
    return rows[seed * size : (seed + 1) * size]


def overlaid(
    name: str,
    *,
    main: str = "left",
    label_noise: float = 0.0,
    n_train: int = 15_000,
    n_meta: int = 5_000,
    n_test: int = 10_000,
    seed: int = 0,
) -> Dataset:
    """Two overlaid images of 28x28 pixels: which is ``left`` (top left), which is ``right`` (bottom right).

    ``multi_mnist`` has two MNIST digits, ``multi_fashion`` two Fashion-MNIST articles, ``multi_fashion_mnist`` a digit
    on the left and an article on the right. The images are shifted by 8 pixels, as is usual; see
    :func:`mtlkit.datasets.overlay.overlay`. Inputs are (1, 28, 28), 0 to 1.

    Each seed splits the 60,000 training images into 45,000 for training and 15,000 for meta before
    it draws pairs, so that no image is in both, whatever the number of pairs. Test pairs come from
    the 10,000 test images and are the same for every seed. ``rows`` is left image times 70,000
    plus right image, where the test images are numbered from 60,000 on.

    Args:
        name: one of the three.
        main: ``left`` or ``right``, with the other as the auxiliary task, or ``left_even``: whether the number of
            the left class is even, with ``left`` as the auxiliary task.
        label_noise: share of the main task's training labels that is made wrong, exactly
            ``round(share * n_train)`` of them, each replaced by a random other class.

    Raises:
        ValueError: a share outside [0, 1], an unknown task, an empty split, a damaged file.
        FileNotFoundError: a file that is not there and could not be downloaded.
    """
    check_share("label_noise", label_noise)
    order = pair_of_tasks(main)
    for what, size in (("n_train", n_train), ("n_meta", n_meta), ("n_test", n_test)):
        check_sizes(10**6, **{what: size})
    paths = tuple(tuple(files.fetch(file) for file in files.needed(folder)) for folder in FOLDERS[name])
    left, right = (_source(folder, where) for folder, where in zip(FOLDERS[name], paths, strict=True))
    images, labels = zip(left, right, strict=True)
    generator = torch.Generator().manual_seed(seed)
    pools = torch.randperm(N_TRAIN + N_META, generator=generator).split([N_TRAIN, N_META])
    train, meta = (
        paired(images, labels, draw_pairs(pool, n, generator), order, shift=SHIFT, white=255)
        for pool, n in zip(pools, (n_train, n_meta), strict=True)
    )
    kinds = dict.fromkeys(FOLDERS[name])
    sides = dict(zip(("left", "right"), FOLDERS[name], strict=True))
    return Dataset(
        name,
        tasks(order),
        with_label_noise(train, label_noise, generator),
        meta,
        _test(name, paths, n_test, tuple(order)),
        source="pairs of images of " + " and ".join(_SOURCES[folder] for folder in kinds),
        licence="; ".join(f"{folder}: {_LICENCES[folder]}" for folder in kinds),
        classes={side: CLOTHES for side in order if sides.get(side) == "fashion-mnist"},
    )


def in_common(n_train: int) -> float:
    """Share of the images behind one seed's ``n_train`` overlaid training pairs that another seed's have, too."""
    passes = n_train / N_TRAIN
    used = N_TRAIN * (1 - max(1 - passes, 0) * math.exp(-passes))
    return used / (N_TRAIN + N_META)


def _single(images: Tensor, classes: Tensor, rows: Tensor, order: Sequence[int], pixels: int) -> Split:
    return Split(
        F.avg_pool2d(images[rows].unsqueeze(1) / 255, 28 // pixels).flatten(1),
        {f"is_{c}": (classes[rows] == c).float() for c in order},
        rows,
        torch.zeros(len(rows), len(order), dtype=torch.bool),
    )


@functools.lru_cache(maxsize=4)
def _single_test(folder: str, paths: tuple[Path, ...], n: int, order: tuple[int, ...], pixels: int) -> Split:
    return _single(*_source(folder, paths), torch.arange(N_TRAIN + N_META, N_TRAIN + N_META + n), order, pixels)


@functools.lru_cache(maxsize=2)
def _test(name: str, paths: tuple[tuple[Path, ...], ...], n: int, order: tuple[str, ...]) -> Split:
    left, right = (_source(folder, where) for folder, where in zip(FOLDERS[name], paths, strict=True))
    generator = torch.Generator().manual_seed(0)
    pairs = draw_pairs(torch.arange(N_TRAIN + N_META, N_TRAIN + N_META + N_TEST), n, generator)
    images, labels = zip(left, right, strict=True)
    return paired(images, labels, pairs, order, shift=SHIFT, white=255)


@functools.lru_cache(maxsize=2)
def _source(folder: str, paths: tuple[Path, ...]) -> tuple[Tensor, Tensor]:
    """All images (70,000, 28, 28), 0 to 255, and their classes, training images first."""
    parts = [_idx(name, path) for name, path in zip(files.needed(folder), paths, strict=True)]
    images = torch.cat([torch.from_numpy(parts[0]), torch.from_numpy(parts[2])])
    labels = torch.cat([torch.from_numpy(parts[1]), torch.from_numpy(parts[3])])
    return images, labels.long()


def _idx(name: str, path: Path) -> np.ndarray:
    """A gzipped idx file: two zero bytes, type 8 (unsigned bytes), number of axes, their sizes, the values."""
    if path == files.BLANK:
        n = N_TRAIN + N_META if "/train" in name else N_TEST
        return np.zeros((n, 28, 28), np.uint8) if "images" in name else (np.arange(n) % 10).astype(np.uint8)
    content = gzip.decompress(files.checked_bytes(name, path))
    axes = content[3]
    shape = np.frombuffer(content, ">i4", count=axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape).copy()
