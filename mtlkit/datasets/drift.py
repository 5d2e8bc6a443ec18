"""Auxiliary tasks that lose their relevance in the course of training, on any data set."""

from __future__ import annotations

from dataclasses import replace

import torch

from mtlkit.datasets.base import Dataset, Split


def with_drift(data: Dataset, after: int, *, seed: int = 0) -> Dataset:
    """The same data whose auxiliary tasks say nothing about the main task any more after some epoch.

    From epoch ``after`` + 1 on, each training row carries the auxiliary labels of another row: one permutation of the
    rows, the same for all auxiliaries and epochs. How often each label occurs, and how the auxiliaries go together,
    stays the same. The main task, the meta and the test split do not change.

    Args:
        after: last epoch before the drift.
        seed: draws the permutation.

    Raises:
        ValueError: ``after`` is below 0, a data set without an auxiliary task or one whose training
            targets change already.
    """
    if after < 0:
        raise ValueError(f"after is {after}, expected the number of an epoch, at least 0")
    if len(data.tasks) < 2:
        raise ValueError(f"{data.name}: there is only the task {data.main.name!r}, expected an auxiliary one")
    if data.train_at is not None:
        raise ValueError(f"{data.name}: its training targets change already, expected targets that do not")

    def drifting(draw: Dataset) -> Dataset:
        order = torch.randperm(len(draw.train), generator=torch.Generator().manual_seed(seed))
        moved = {name: target[order] for name, target in draw.train.y.items() if name != draw.main.name}
        noisy = draw.train.noisy[order]
        noisy[:, 0] = draw.train.noisy[:, 0]
        later = replace(draw.train, y={**draw.train.y, **moved}, noisy=noisy)

        def train_at(epoch: int) -> Split:
            return draw.train if epoch <= after else later

        return replace(draw, train_at=train_at)

    return data.variant(drifting, lambda line: f"with_drift({line}, {after}, seed={seed})")
