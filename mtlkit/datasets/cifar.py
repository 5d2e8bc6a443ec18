"""CIFAR-10 as ten one-vs-rest tasks."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mtlkit.datasets import files
from mtlkit.datasets.base import Dataset, Split, check_share, check_sizes, main_first
from mtlkit.datasets.mnist import own_block
from mtlkit.datasets.noise import with_flipped_labels
from mtlkit.tasks import Task

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
N_TRAIN, N_TEST = 10_000, 10_000
TRAIN, TEST = "cifar-10-batches-py/data_batch_1", "cifar-10-batches-py/test_batch"


def cifar10(
    *,
    main: str = "airplane",
    label_noise: float = 0.0,
    noise: str = "flip",
    n_train: int = 800,
    n_meta: int = 200,
    n_test: int = 10_000,
    seed: int = 0,
) -> Dataset:
    """Ten one-vs-rest tasks, ``is_airplane`` to ``is_truck``, the chosen ``main`` class first.

    SLGrad's images (arXiv 2306.04519) and more of the same kind: seed 0 has the first ``n_train + n_meta`` training
    images, the paper's, seed 1 those that follow, and so on, so that no two seeds share one; the seed draws which of
    its images are the meta split. Training images come from the first of the five published batches, 10,000 images,
    which is enough for ten seeds of 1,000. The test split is the first ``n_test`` test images, in their order, and the
    same object for every seed (the paper has 2,000).

    Inputs are (3, 32, 32) in float32, each channel standardised by its mean and standard deviation
    over all 10,000 images of that batch. ``rows`` counts the test images from 50,000 on.

    Args:
        main: class of the main task.
        label_noise: share of the main task's training labels that is made wrong, exactly ``round(share * n_train)``
            (the paper flips each with that probability).
        noise: see :func:`mtlkit.datasets.noise.flip_labels`.

    Raises:
        ValueError: a share outside [0, 1], an unknown class or ``noise``, an empty split, a seed
            for which no images are left, a damaged file.
        FileNotFoundError: a file that is not there and could not be downloaded.
    """
    check_share("label_noise", label_noise)
    order = tuple(f"is_{name}" for name in main_first(CLASSES, main))
    check_sizes(N_TRAIN, n_train=n_train, n_meta=n_meta)
    check_sizes(N_TEST, n_test=n_test)
    own = own_block(torch.arange(N_TRAIN), n_train + n_meta, seed)
    generator = torch.Generator().manual_seed(seed)
    drawn = own[torch.randperm(len(own), generator=generator)]
    paths = files.fetch(TRAIN), files.fetch(TEST)
    pixels, classes = _batch(TRAIN, paths[0])
    moments = _moments(paths[0])
    train, meta = (_split(pixels[rows], classes[rows], rows, moments, order) for rows in drawn.split([n_train, n_meta]))
    return Dataset(
        "cifar10",
        tuple(Task(name, "binary") for name in order),
        with_flipped_labels(train, label_noise, noise, generator),
        meta,
        _test(*paths, n_test, order),
        source="CIFAR-10 (Krizhevsky 2009)",
        licence="none stated",
        classes={name: ("rest", name.removeprefix("is_")) for name in order},
    )


def _split(
    pixels: Tensor, classes: Tensor, rows: Tensor, moments: tuple[Tensor, Tensor], order: Sequence[str]
) -> Split:
    mean, sd = moments
    y = {name: (classes == CLASSES.index(name.removeprefix("is_"))).float() for name in order}
    return Split((pixels.float() - mean) / sd, y, rows, torch.zeros(len(rows), len(order), dtype=torch.bool))


@functools.lru_cache(maxsize=1)
def _moments(path: Path) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of the training batch, as (3, 1, 1)."""
    values = _batch(TRAIN, path)[0].double().transpose(0, 1).flatten(1)
    return values.mean(1).float().view(3, 1, 1), values.std(1, correction=0).float().view(3, 1, 1)


@functools.lru_cache(maxsize=2)
def _test(train: Path, test: Path, n: int, order: tuple[str, ...]) -> Split:
    pixels, classes = _batch(TEST, test)
    return _split(pixels[:n], classes[:n], 50_000 + torch.arange(n), _moments(train), order)


@functools.lru_cache(maxsize=2)
def _batch(name: str, path: Path) -> tuple[Tensor, Tensor]:
    """Pixels (N, 3, 32, 32) of one published batch, 0 to 255, and their classes."""
    if path == files.BLANK:
        pixels = (torch.arange(3072) % 256).to(torch.uint8).view(3, 32, 32)
        return pixels.expand(N_TEST, -1, -1, -1), torch.arange(N_TEST) % len(CLASSES)
    batch = pickle.loads(files.checked_bytes(name, path), encoding="bytes")  # the bytes are known by their hash
    return torch.from_numpy(batch[b"data"].copy()).view(-1, 3, 32, 32), torch.tensor(batch[b"labels"])
