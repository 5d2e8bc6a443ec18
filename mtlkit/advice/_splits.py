"""Which rows are trained on, which choose, which are tested on, in every repetition."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

FOLDS = 5
"""Every labelled row is tested on once in as many repetitions; a fifth of the rows each time."""

Draw = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw_splits(
    strata: np.ndarray,
    *,
    repeats: int,
    inner: int,
    groups: np.ndarray | None = None,
    time: np.ndarray | None = None,
    balanced: bool = False,
) -> list[Draw]:
    """Positions of the train, meta and test rows of each draw; draw ``r * inner + k`` is part k of repetition r.

    Five folds of the labelled rows are tested on in turn, ``repeats`` times. Of the others a fifth is meta, another
    one in each of the ``inner`` parts. With ``time`` there are five windows of the same length instead, each with the
    rows after it as its test rows. Rows without a label are trained on.

    Args:
        strata: (N,) class of each row, 0 for a regression, -1 without a label.
        groups: (N,) which rows stay together; a group of more than a fifth of the rows is always trained on.
        time: (N,) to split by.
        balanced: repeat rows of rarer classes, up to twenty times, in train and meta, so that each class is as common.

    Returns:
        a split has the same number of rows in all draws: what is over is left out, at random.
    """
    if time is not None:
        found = _windows(strata, time, inner)
    else:
        found = []
        for repeat in range(repeats):
            for fold, (rest, test) in enumerate(_folds(np.arange(len(strata)), strata, groups, repeat)):
                halves = _folds(rest, strata, groups, repeat * FOLDS + fold)
                found += [(train, meta, test) for train, meta in halves[:inner]]
    return _same_sizes(found, strata, balanced)


def parts_of_all(
    strata: np.ndarray,
    inner: int,
    *,
    groups: np.ndarray | None = None,
    time: np.ndarray | None = None,
    balanced: bool = False,
) -> list[Draw]:
    """The parts of all rows, for a model that is not to be tested: its meta rows stand in for test rows."""
    if time is None:
        found = _folds(np.arange(len(strata)), strata, groups, 0)[:inner]
    else:
        order, last = np.argsort(time, kind="stable"), len(time) - len(time) // FOLDS
        found = [(order[:last], order[last:])]
    return _same_sizes([(train, meta, meta) for train, meta in found], strata, balanced)


def _same_sizes(found: list[Draw], strata: np.ndarray, balanced: bool) -> list[Draw]:
    found = [(train, meta[strata[meta] >= 0], test[strata[test] >= 0]) for train, meta, test in found]
    if balanced:
        found = [(_even(train, strata), _even(meta, strata), test) for train, meta, test in found]
    sizes = [min(map(len, split)) for split in zip(*found, strict=True)]
    one, two, three = sizes
    return [(_some(train, one), _some(meta, two), _some(test, three)) for train, meta, test in found]


def _some(rows: np.ndarray, size: int) -> np.ndarray:
    """So many of the rows, shuffled: the parts of a repetition have the same test rows in the same order."""
    return np.random.default_rng(0).permutation(rows)[:size]


def _folds(rows: np.ndarray, strata: np.ndarray, groups: np.ndarray | None, seed: int) -> list[tuple]:
    """(others, fold) for each of the five folds of these rows."""
    movable = strata[rows] >= 0
    if groups is not None:
        sizes = np.bincount(groups[rows])
        movable &= sizes[groups[rows]] <= len(rows) / FOLDS
        if len(np.unique(groups[rows[movable]])) < FOLDS:
            movable = strata[rows] >= 0
    used = rows[movable]
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    folds = FOLDS if groups is None else min(FOLDS, len(np.unique(groups[used])))
    found = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        together = None if groups is None else groups[used]
        for _, chosen in splitter(folds, shuffle=True, random_state=seed).split(used, strata[used], together):
            fold = used[chosen]
            apart = np.isin(rows, fold) if groups is None else np.isin(groups[rows], groups[fold])
            found.append((rows[~apart], fold))
    return found


def _windows(strata: np.ndarray, time: np.ndarray, inner: int) -> list[Draw]:
    order, length = np.argsort(time, kind="stable"), len(time) // (2 * FOLDS)
    found = []
    for window in range(FOLDS):
        end = len(order) - window * length
        before = order[end - len(order) + (FOLDS - 1) * length : end - length]
        train, meta = np.split(before, [len(before) - len(before) // FOLDS])
        found += [(train, meta, order[end - length : end])] * inner
    return found


def _even(rows: np.ndarray, strata: np.ndarray) -> np.ndarray:
    counts = np.bincount(strata[rows[strata[rows] >= 0]])
    times = np.ones(len(rows), int)
    known = strata[rows] >= 0
    times[known] = np.clip(counts.max() / counts[strata[rows[known]]], 1, 20).round()
    return np.repeat(rows, times)


def ratio(draws: Sequence[Draw], strata: np.ndarray) -> float:
    """Labelled test rows over labelled rows trained or chosen on, for the correction of tests."""
    *others, test = draws[0]
    used = np.unique(np.concatenate(others))
    return len(test) / int((strata[used] >= 0).sum())
