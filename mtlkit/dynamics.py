"""How weights move: from mini-batch to mini-batch, and when an auxiliary task loses its relevance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from mtlkit.datasets import Dataset
from mtlkit.results import Runs
from mtlkit.studies import PER_SEED, Candidate, fits
from mtlkit.weighting import Weighting


@dataclass(frozen=True)
class Schedule(Weighting):
    """Given weights w_t for each epoch, as they are: what a method does without its changes within an epoch.

    Args:
        weights: (epochs, T), the main task first; from the last of them on the weights stay.

    Raises:
        ValueError: no epochs, or a number of weights that is not the number of tasks.
    """

    weights: Sequence[Sequence[float]]
    reads: ClassVar = frozenset({"epoch"})

    def init(self, n_tasks, like):
        """No state; the number of weights must be the number of tasks."""
        if not self.weights or any(len(row) != n_tasks for row in self.weights):
            found = sorted({len(row) for row in self.weights})
            raise ValueError(f"Schedule has rows of {found} weights, expected at least one row of {n_tasks}")
        return ()

    def update(self, state, signal):
        """The weights of this epoch."""
        table = signal.losses.new_tensor(self.weights)
        return table[signal.epoch.clamp(max=len(self.weights) - 1)], state


def schedule_of(runs: Runs) -> Schedule:
    """The weights that a method gave, as shares of their sum, averaged over each epoch and over all seeds."""
    rows = runs.frame[(runs.frame["metric"] == "weight") & (runs.frame["split"] == "train")]
    mean = rows.pivot_table(index="epoch", columns="task", values="value", sort=False)
    return Schedule(tuple(map(tuple, mean.to_numpy().tolist())))


def auxiliary_shares(runs: Runs) -> pd.DataFrame:
    """The auxiliary tasks' share of the total weight: a row per seed, a column per epoch; NaN where a seed diverged."""
    rows = runs.frame[(runs.frame["metric"] == "weight") & (runs.frame["split"] == "train")]
    main = rows[rows["task"] == runs.main]
    return 1 - main.pivot(index="seed", columns="epoch", values="value").where(lambda table: _trained(runs, table))


def _trained(runs: Runs, table: pd.DataFrame) -> np.ndarray:
    diverged = runs.frame.groupby("seed")["diverged"].first()
    return np.broadcast_to(~diverged.loc[table.index].to_numpy()[:, None], table.shape)


def around_drift(condition: str, runs: Sequence[Runs], after: int) -> pd.DataFrame:
    """Each seed's auxiliary share before and after the end of epoch ``after``, as rows of a per-seed table.

    Args:
        condition: what the rows say there.
        after: last epoch before the drift.

    Returns:
        the columns :data:`mtlkit.studies.PER_SEED`; metrics ``auxiliary_share_before`` and
        ``auxiliary_share_after``, each the mean over as many epochs as there are on the shorter side,
        those next to the drift.
    """
    rows = []
    for run in runs:
        shares = auxiliary_shares(run)
        count = min(after, shares.shape[1] - after)
        for when, first in (("before", after - count + 1), ("after", after + 1)):
            mean = shares.loc[:, first : first + count - 1].mean(axis=1)
            rows += [(condition, run.method, seed, f"auxiliary_share_{when}", value) for seed, value in mean.items()]
    return pd.DataFrame(rows, columns=PER_SEED)


def step_shares(
    candidates: Mapping[str, Candidate], lrs: Mapping[str, float], *, epochs: int, steps_per_epoch: int, **options
) -> dict[str, pd.DataFrame]:
    """The auxiliary tasks' share of the weight in every single step, for each candidate.

    The runs are those of ``fit(..., epochs=epochs, steps_per_epoch=steps_per_epoch)``, batch by batch,
    with a look at the weights after each step.

    Args:
        candidates: name to contender; a weighting that reads the number of the epoch does not fit here.
        lrs: name to learning rate.
        options: of :func:`mtlkit.studies.fits`; ``seeds`` always.

    Returns:
        name to a frame with a row per seed and step: seed, epoch (from 1), step (within the epoch, from 1),
        share; NaN where a seed diverged.

    Raises:
        ValueError: a weighting that reads the epoch, a candidate with its own number of epochs or steps.
    """
    for name, candidate in candidates.items():
        if "epoch" in candidate.weighting.reads:
            method = type(candidate.weighting).__name__
            raise ValueError(f"{name}: {method} reads the number of the epoch, expected a weighting that does not")
        if not candidate.options.keys().isdisjoint({"epochs", "steps_per_epoch"}):
            raise ValueError(f"{name} has its own epochs or steps_per_epoch, expected those of all")
    slowed = {name: replace(c, data=_by_step(c.data, steps_per_epoch)) for name, c in candidates.items()}
    todo = [(name, lrs[name]) for name in slowed]
    runs = fits(slowed, todo, "looking at every step", epochs=epochs * steps_per_epoch, steps_per_epoch=1, **options)
    return {name: _by_epoch_and_step(runs[name, lr], steps_per_epoch) for name, lr in todo}


def _by_epoch_and_step(runs: Runs, steps_per_epoch: int) -> pd.DataFrame:
    long = auxiliary_shares(runs).rename_axis(columns="number").stack(future_stack=True).rename("share").reset_index()
    epoch, step = np.divmod(long.pop("number").to_numpy() - 1, steps_per_epoch)
    return long.assign(epoch=epoch + 1, step=step + 1)[["seed", "epoch", "step", "share"]]


def _by_step(data: Dataset, steps_per_epoch: int) -> Dataset:
    """The same data for epochs of a single step; of the test split, which costs most to evaluate, one row is left."""

    def changed(draw: Dataset) -> Dataset:
        train_at = draw.train_at
        slowed = None if train_at is None else lambda step: train_at(1 + (step - 1) // steps_per_epoch)
        return replace(draw, train_at=slowed, test=draw.test.take(torch.arange(1)))

    return data.variant(changed, lambda line: f"by_step({line}, {steps_per_epoch})")


def within_epochs(shares: pd.DataFrame) -> pd.DataFrame:
    """How much the weights of one epoch vary, apart from how the epochs' means move.

    Args:
        shares: of :func:`step_shares`.

    Returns:
        a row per seed: ``within_epoch_sd`` (standard deviation of the share within an epoch, pooled over
        epochs), ``within_epoch_range`` (from the 5th to the 95th percentile of an epoch, mean over epochs),
        ``between_epoch_sd`` (standard deviation of the epochs' means) and ``within_epoch_part`` (the part of the
        variance over all steps that lies within epochs).
    """
    by_epoch = shares.groupby(["seed", "epoch"])["share"]
    variance = by_epoch.var().groupby("seed").mean()
    total = shares.groupby("seed")["share"].var(ddof=0)
    inside = by_epoch.var(ddof=0).groupby("seed").mean()
    width = by_epoch.quantile(0.95) - by_epoch.quantile(0.05)
    return pd.DataFrame(
        {
            "within_epoch_sd": variance**0.5,
            "within_epoch_range": width.groupby("seed").mean(),
            "between_epoch_sd": by_epoch.mean().groupby("seed").std(),
            "within_epoch_part": inside / total,
        }
    )
