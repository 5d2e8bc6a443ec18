"""Handwritten digits that ship with scikit-learn: 1,797 real scans of 8x8 pixels."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from mtlkit.datasets.base import Dataset, Split, check_share, main_first
from mtlkit.datasets.noise import with_flipped_labels
from mtlkit.tasks import Task


def digits(
    *,
    main: int = 8,
    label_noise: float = 0.0,
    noise: str = "flip",
    n_meta: int = 200,
    n_test: int = 597,
    seed: int = 0,
) -> Dataset:
    """Ten one-vs-rest tasks, ``is_0`` to ``is_9``, the chosen ``main`` digit first.

    Inputs are the 64 pixels divided by 16. Each seed draws another split.

    Args:
        main: digit of the main task.
        label_noise: share of the main task's training labels that is made wrong, exactly
            ``round(share * n_train)`` of them (the papers flip each with that probability).
        noise: see :func:`mtlkit.datasets.noise.flip_labels`.

    Raises:
        ValueError: a share outside [0, 1], an unknown digit or ``noise``, an empty split.
    """
    check_share("label_noise", label_noise)
    order = main_first(range(10), main)
    source = load_digits()
    n = len(source.target)
    n_train = n - n_meta - n_test
    if min(n_train, n_meta, n_test) < 1:
        raise ValueError(
            f"n_meta is {n_meta} and n_test is {n_test}, expected at least 1 row in each split of {n} rows"
        )
    generator = torch.Generator().manual_seed(seed)
    digit = torch.from_numpy(source.target)
    clean = Split(
        torch.from_numpy(source.data) / 16,
        {f"is_{d}": (digit == d).double() for d in order},
        torch.arange(n),
        torch.zeros(n, len(order), dtype=torch.bool),
    )
    train, meta, test = (
        clean.take(rows) for rows in torch.randperm(n, generator=generator).split([n_train, n_meta, n_test])
    )
    return Dataset(
        "digits",
        tuple(Task(f"is_{d}", "binary") for d in order),
        with_flipped_labels(train, label_noise, noise, generator),
        meta,
        test,
        source="scikit-learn load_digits: test part of UCI Optical Recognition of Handwritten Digits",
        licence="CC BY 4.0",
    )
