"""How weights move: from mini-batch to mini-batch, and when an auxiliary task loses its relevance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from companion.tables import PER_SEED
from mtlkit.measure import Given
from mtlkit.results import Runs
from mtlkit.stats import estimate
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
    reads = (Given("epoch"),)

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


def around_drift(runs: Mapping[str, Sequence[Runs]], after: int) -> pd.DataFrame:
    """Each seed's auxiliary share before and after the end of epoch ``after``, as rows of a per-seed table.

    Args:
        runs: condition to the runs under it.
        after: last epoch before the drift.

    Returns:
        the columns :data:`companion.tables.PER_SEED`; metrics ``auxiliary_share_before`` and
        ``auxiliary_share_after``, each the mean over as many epochs as there are on the shorter side,
        those next to the drift.
    """
    rows = []
    for condition, run in ((condition, run) for condition, several in runs.items() for run in several):
        shares = auxiliary_shares(run)
        count = min(after, shares.shape[1] - after)
        for when, first in (("before", after - count + 1), ("after", after + 1)):
            mean = shares.loc[:, first : first + count - 1].mean(axis=1)
            rows += [(condition, run.method, seed, f"auxiliary_share_{when}", value) for seed, value in mean.items()]
    return pd.DataFrame(rows, columns=PER_SEED)


def owed_to_drift(shares: pd.DataFrame, data: Sequence[str], methods: Sequence[str]) -> pd.DataFrame:
    """The auxiliaries' share before and after the drift, its change, and how much of that is not there without drift.

    Args:
        shares: of :func:`around_drift`, under the conditions ``<data>, drift`` and ``<data>, no drift``.

    Returns:
        a row per data, method and ``auxiliary share`` (before, after, change, change without drift, owed to the
        drift): mean over seeds and its 95 % interval.
    """
    wide = shares.pivot(index=["condition", "method", "seed"], columns="metric", values="value")
    before, after = (wide[f"auxiliary_share_{when}"] for when in ("before", "after"))
    change, rows = after - before, []
    for name in data:
        for method in methods:
            at, without = (f"{name}, drift", method), (f"{name}, no drift", method)
            found = {"before": before[at], "after": after[at], "change": change[at]}
            found |= {"change without drift": change[without], "owed to the drift": change[at] - change[without]}
            rows += [{"data": name, "method": method, "auxiliary share": w, **estimate(v)} for w, v in found.items()]
    return pd.DataFrame(rows)


def variation(runs: Runs) -> pd.DataFrame:
    """How much the auxiliary tasks' share varies within an epoch, apart from how the epochs' means move.

    Returns:
        a row per seed: ``within_epoch_sd`` (standard deviation over the steps of an epoch, pooled over epochs) and
        ``between_epoch_sd`` (standard deviation of the epochs' means); NaN where a seed diverged.
    """
    rows = runs.frame[(runs.frame["metric"] == "weight_sd") & (runs.frame["task"] == runs.main)]
    spreads = rows.pivot(index="seed", columns="epoch", values="value").where(lambda table: _trained(runs, table))
    within = (spreads**2).mean(axis=1) ** 0.5
    return pd.DataFrame({"within_epoch_sd": within, "between_epoch_sd": auxiliary_shares(runs).std(axis=1)})
