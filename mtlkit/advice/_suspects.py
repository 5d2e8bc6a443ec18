"""Rows that contradict their labels, in the order that finds labels best which were made wrong on purpose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from mtlkit import studies
from mtlkit.advice._levels import (
    EQUAL,
    LINEAR,
    SINGLE,
    TREES,
    WEIGHTED,
    Effort,
    Found,
    committee,
    fitting,
    networks,
    plain,
    row_losses,
)
from mtlkit.advice._prepare import Prepared, dataset_of
from mtlkit.advice._splits import FOLDS
from mtlkit.datasets.base import choose
from mtlkit.datasets.noise import other_class
from mtlkit.datasets.tabular import Table
from mtlkit.results import Runs
from mtlkit.tasks import labelled

SHARE = 0.1
"""Share of the labels that the check makes wrong."""
TOP = 20
LOSS, WEIGHT = "held-out loss, {}", "little weight, {}"


def suspects(
    prepared: Prepared, found: Found, effort: Effort, frame: pd.DataFrame, jobs: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rank the labels of the main task, the most suspect first.

    Returns:
        the rows: ``suspicion`` under the ranking that the check found best, and the table's columns, the main one
        first; and the check: a row for each ranking, the best first, with ``roc_auc`` (1: all labels made wrong first,
        0.5: guessing) and ``precision`` (share of labels made wrong among the ``first`` rows, at most :data:`TOP`).
    """
    table, main = prepared.table, prepared.table.tasks[0]
    truth = table.targets[main.name]
    spoilt, wrong = _spoilt(prepared)
    once = replace(prepared, table=spoilt, draws=prepared.draws[: FOLDS * prepared.inner])
    data = dataset_of(spoilt, once.draws)
    predictions = plain(data, spoilt, found.settings, range(0, len(once.draws), prepared.inner), jobs)
    names = [name for name in (SINGLE, EQUAL, *WEIGHTED) if name in found.runs]
    chosen = networks(data, effort)
    done = studies.fits(
        {name: chosen[name] for name in names},
        [(name, found.settings[name]) for name in names],
        "labels made wrong on purpose",
        seeds=len(once.draws),
        jobs=jobs,
        **fitting(data, effort) | {"epochs": found.epochs},
    )
    runs = {name: run for (name, _), run in done.items()}
    for name, run in runs.items():
        repetitions = range(0, len(once.draws), prepared.inner)
        predictions[name] = [committee(run, data, range(r, r + prepared.inner)) for r in repetitions]
    check = []
    for ranking, order in _rankings(prepared, predictions, runs, spoilt.targets[main.name]).items():
        known = order.dropna().sort_values(ascending=False, kind="stable")
        hit = wrong[known.index]
        first = min(TOP, int(hit.sum()))
        check.append((ranking, roc_auc_score(hit, known), hit[:first].mean(), first))
    check = pd.DataFrame(check, columns=["ranking", "roc_auc", "precision", "first"]).set_index("ranking")
    check = check.sort_values(["precision", "roc_auc"], ascending=False, kind="stable")
    own = _rankings(prepared, found.predictions, found.runs, truth)[check.index[0]]
    own = own.dropna().sort_values(ascending=False, kind="stable").rename("suspicion")
    shown = frame.rename(columns=str).reset_index(drop=True)
    shown = shown[[main.name, *shown.columns.drop(main.name)]].astype(object)
    return own.to_frame().join(shown.rename(columns={"suspicion": "suspicion (column)"})).rename_axis("row"), check


def _spoilt(prepared: Prepared) -> tuple[Table, np.ndarray]:
    """The table with a share of its main labels wrong, and which ones (N,).

    A binary label is flipped, a class becomes another one, a number that of another row.
    """
    table, main = prepared.table, prepared.table.tasks[0]
    generator = torch.Generator().manual_seed(0)
    labels = table.targets[main.name]
    known = labelled(labels).nonzero()[:, 0]
    chosen = known[choose(len(known), SHARE, generator)]
    wrong = labels.clone()
    if main.kind == "binary":
        wrong[chosen] = 1 - labels[chosen]
    elif main.kind == "multiclass":
        every = torch.ones(len(chosen), dtype=torch.bool)
        wrong[chosen] = other_class(labels[chosen], every, main.n_outputs, generator)
    else:
        wrong[chosen] = labels[known[torch.randint(len(known), (len(chosen),), generator=generator)]]
    changed = (wrong != labels) & labelled(labels)
    return replace(table, targets={**table.targets, main.name: wrong}), changed.numpy()


def _rankings(
    prepared: Prepared, predictions: Mapping[str, list], runs: Mapping[str, Runs], labels: torch.Tensor
) -> dict[str, pd.Series]:
    """Suspicion by row of the table, the highest first, under each ranking."""
    main, y = prepared.table.tasks[0], labels.numpy()
    found = {}
    for level in (LINEAR, TREES, SINGLE, EQUAL, *WEIGHTED):
        if level in predictions and (level in runs or level in (LINEAR, TREES)):
            parts = [pd.Series(row_losses(main, y[rows], said), rows) for rows, said in predictions[level]]
            found[LOSS.format(level)] = pd.concat(parts).groupby(level=0).mean()
    for level in WEIGHTED:
        if level in runs:
            samples = runs[level].samples
            samples = samples[samples["task"] == main.name]
            found[WEIGHT.format(level)] = -samples.groupby("row")["weight"].mean()
    return found
