"""CIFAR-10 as ten one-vs-rest tasks."""

from __future__ import annotations

import functools
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtlkit.datasets import files
from mtlkit.datasets.base import Dataset, Split, check_share, check_sizes, choose, main_first
from mtlkit.datasets.noise import flip_labels, with_main_labels
from mtlkit.tasks import Task

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
N_TEST = 10_000
TRAIN, TEST = "cifar-10-batches-py/data_batch_1", "cifar-10-batches-py/test_batch"


def cifar10(
    *,
    main: str = "airplane",
    label_noise: float = 0.0,
    noise: str = "flip",
    n_train: int = 800,
    n_meta: int = 200,
    n_test: int = 2000,
    seed: int = 0,
) -> Dataset:
    """Ten one-vs-rest tasks, ``is_airplane`` to ``is_truck``, the chosen ``main`` class first.

    SLGrad's split (arXiv 2306.04519): the first ``n_train + n_meta`` training images, of which each
    seed draws which ones are the meta split, and the first ``n_test`` test images, in their order.
    Training images come from the first of the five published batches, so at most 10,000.
    Inputs are (3, 32, 32), each channel standardised by its mean and standard deviation over the
    training split. ``rows`` counts the test images from 50,000 on.

    Args:
        main: class of the main task.
        label_noise: share of the main task's training labels that is chosen to be made wrong,
            exactly ``round(share * n_train)`` of them (the paper flips each with that probability).
        noise: see :func:`mtlkit.datasets.noise.flip_labels`; a label that ``"background"`` leaves
            as it is does not count as noisy.

    Raises:
        ValueError: a share outside [0, 1], an unknown class or ``noise``, an empty split, a
            damaged file.
        FileNotFoundError: a file that is not there and could not be downloaded.
    """
    check_share("label_noise", label_noise)
    order = [f"is_{name}" for name in main_first(CLASSES, main)]
    check_sizes(N_TEST, n_train=n_train, n_meta=n_meta)
    check_sizes(N_TEST, n_test=n_test)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(n_train + n_meta, generator=generator)
    pixels, classes = _batch(TRAIN, files.fetch(TRAIN))
    test_pixels, test_classes = _batch(TEST, files.fetch(TEST))
    mean, sd = _moments(pixels[drawn[:n_train]])

    def split(pixels: Tensor, classes: Tensor, rows: Tensor) -> Split:
        y = {name: (classes == CLASSES.index(name.removeprefix("is_"))).float() for name in order}
        return Split((pixels.float() - mean) / sd, y, rows, torch.zeros(len(rows), len(order), dtype=torch.bool))

    train, meta = (split(pixels[rows], classes[rows], rows) for rows in drawn.split([n_train, n_meta]))
    chosen = choose(n_train, label_noise, generator)
    return Dataset(
        "cifar10",
        tuple(Task(name, "binary") for name in order),
        with_main_labels(train, flip_labels(train.y[order[0]], chosen, noise)),
        meta,
        split(test_pixels[:n_test], test_classes[:n_test], 50_000 + torch.arange(n_test)),
        source="CIFAR-10 (Krizhevsky 2009)",
        licence="none stated",
        classes={name: ("rest", name.removeprefix("is_")) for name in order},
    )


def _moments(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of (N, 3, 32, 32), as (3, 1, 1)."""
    values = pixels.double().transpose(0, 1).flatten(1)
    return tuple(m.float().view(3, 1, 1) for m in (values.mean(1), values.std(1, correction=0)))


@functools.lru_cache(maxsize=2)
def _batch(name: str, path: Path) -> tuple[Tensor, Tensor]:
    """Pixels (N, 3, 32, 32) of one published batch, 0 to 255, and their classes."""
    batch = PlainUnpickler(io.BytesIO(files.read(name, path)), encoding="bytes").load()
    return torch.from_numpy(batch[b"data"].copy()).view(-1, 3, 32, 32), torch.tensor(batch[b"labels"])


class PlainUnpickler(pickle.Unpickler):
    """Reads plain containers, numbers, strings and numeric numpy arrays, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The constructors that an array needs.

        Raises:
            UnpicklingError: any other global.
        """
        admitted = {
            ("numpy.core.multiarray", "_reconstruct"): _empty_array,
            ("numpy._core.multiarray", "_reconstruct"): _empty_array,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): _numeric_dtype,
        }
        if (module, name) not in admitted:
            raise pickle.UnpicklingError(f"the file asks for {module}.{name}, expected numeric arrays only")
        return admitted[module, name]


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    return np.ndarray(shape, np.uint8)


def _numeric_dtype(code: bytes | str, align: int, copy: int) -> np.dtype:
    kind = np.dtype(code if isinstance(code, str) else code.decode())
    if kind.kind not in "biuf":
        raise pickle.UnpicklingError(f"the file asks for an array of {kind}, expected numbers")
    return kind
