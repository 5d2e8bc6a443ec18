"""Intervals over runs and paired tests: every interval and every test of the project is one of these two."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.05
"""Of the tests; intervals hold 1 minus that."""
NO_SPREAD = 1e-12
"""A standard deviation below this share of the mean is rounding."""


def estimate(values: pd.Series | pd.api.typing.SeriesGroupBy, overlap: float = 0.0) -> pd.Series | pd.DataFrame:
    """Mean of runs with its 95 % t interval.

    Args:
        values: of one run each; or such values by group, ``frame.groupby(...)["value"]``.
        overlap: as in :func:`contrast`.

    Returns:
        ``mean``, ``low``, ``high`` (NaN below two values), ``seeds`` (finite values) and ``missing`` (runs without a
        finite value: diverged, or undefined metric); where there are groups, a row each, in the order of their first
        key, then of their second.
    """
    if isinstance(values, pd.Series):
        finite = values[np.isfinite(values)].to_numpy(float)
        mean, low, high, _ = _tested(finite[:, None], overlap)[:, 0]
        return pd.Series(
            {"mean": mean, "low": low, "high": high, "seeds": len(finite), "missing": len(values) - len(finite)}
        )
    sizes = values.size()
    whole, groups, index = values.obj.to_numpy(float), values.ngroup(), sizes.index
    # Groups are numbered among those that have rows; rows without a key have the number NaN or -1.
    number = np.append(np.flatnonzero(sizes), -1)[groups.fillna(-1).astype(int)]
    known = np.isfinite(whole) & (number >= 0)
    seeds, runs = (np.bincount(number[rows], minlength=len(index)) for rows in (known, number >= 0))
    in_order = whole[known][np.argsort(number[known], kind="stable")]
    first = seeds.cumsum() - seeds
    found = np.full((4, len(index)), np.nan)
    for n in np.unique(seeds):
        alike = np.flatnonzero(seeds == n)
        found[:, alike] = _tested(in_order[first[alike] + np.arange(n)[:, None]], overlap)
    table = pd.DataFrame(found[:3].T, index, columns=["mean", "low", "high"])
    table = table.assign(seeds=seeds, missing=runs - seeds)
    return table.iloc[np.lexsort(index.codes[::-1])] if isinstance(index, pd.MultiIndex) else table


def contrast(
    table: pd.DataFrame,
    pairs: Sequence[tuple[Hashable, Hashable]],
    *,
    margin: float | Sequence[float] = 0.0,
    overlap: float | Sequence[float] = 0.0,
) -> pd.DataFrame:
    """Pairs of columns, seed by seed.

    Args:
        table: a row per seed, a column per side of a pair; not finite where a seed has no value.
        pairs: (ours, theirs), names of columns.
        margin: smallest difference that matters, of all pairs or of each.
        overlap: n_test / n_train where seeds split the same rows again, 0 where each has rows of its own; of all
            pairs or of each. The variance of a mean is then s² (1/n + ``overlap``), after Nadeau and Bengio,
            *Inference for the generalization error*, Machine Learning 52 (2003).

    Returns:
        a row per pair: ``ours`` and ``theirs`` (means over the seeds that have both), ``difference`` (ours minus
        theirs) with its 95 % t interval ``low`` to ``high``, ``p`` (two-sided paired t-test), ``p_holm`` (corrected
        for the number of pairs), ``seeds`` (that have both) and ``outcome``: "above" or "below" if significant after
        the correction and at least ``margin``; "level" if the whole interval is within ``margin``; else "unclear".
        Where all seeds have the same difference, the interval has no width, and p is 0, or NaN (for Holm 1) where the
        sides are equal.
    """
    rows = []
    for (ours, theirs), allowed in zip(pairs, np.broadcast_to(overlap, len(pairs)), strict=True):
        sides = table[ours].to_numpy(float), table[theirs].to_numpy(float)
        both = np.isfinite(sides[0]) & np.isfinite(sides[1])
        left, right = (side[both] for side in sides)
        means = [side.mean() if len(side) else np.nan for side in (left, right)]
        rows.append((*means, *_tested((left - right)[:, None], allowed)[:, 0], len(left)))
    columns = ["ours", "theirs", "difference", "low", "high", "p", "seeds"]
    found = pd.DataFrame(rows, columns=columns).astype({"seeds": int})
    found.insert(6, "p_holm", holm(found["p"]))
    sure = found["p_holm"] < LEVEL
    found["outcome"] = np.select(
        [
            sure & (found["difference"] >= margin),
            sure & (-found["difference"] >= margin),
            (found["low"] > -np.asarray(margin)) & (found["high"] < margin),
        ],
        ["above", "below", "level"],
        "unclear",
    )
    return found


def _tested(values: np.ndarray, overlap: float) -> np.ndarray:
    """Mean, interval and p of the test for zero of each column of (n, m) values: (4, m)."""
    n = len(values)
    if n < 2:
        mean = values.mean(0) if n else np.full(values.shape[1], np.nan)
        return np.stack([mean, *np.full((3, values.shape[1]), np.nan)])
    mean = values.mean(0)
    same = values.std(0, ddof=1) <= NO_SPREAD * np.abs(mean)
    found = np.stack([mean, mean, mean, np.where(mean == 0, np.nan, 0)])
    if not same.all():
        test = stats.ttest_1samp(values[:, ~same], 0)
        interval = test.confidence_interval(1 - LEVEL)
        wider = np.sqrt(1 + n * overlap)
        low, high = (mean[~same] + wider * (side - mean[~same]) for side in (interval.low, interval.high))
        found[1:, ~same] = low, high, 2 * stats.t.sf(np.abs(test.statistic) / wider, n - 1)
    return found


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number after Holm; a missing one counts as 1."""
    values = np.nan_to_num(np.asarray(p, dtype=float), nan=1.0)
    order = np.argsort(values, kind="stable")
    raised = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)) if len(values) else values
    found = np.empty_like(values)
    found[order] = np.minimum(raised, 1)
    return found.tolist()
