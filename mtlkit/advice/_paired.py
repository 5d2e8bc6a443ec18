"""One test for all pairs, and how many rows it would need."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import optimize
from scipy.stats import nct, t

from mtlkit import stats

LEVEL, POWER = stats.LEVEL, 0.8
MOST_ROWS = 1e7


def judged(
    values: pd.DataFrame, pairs: Mapping[str, tuple[str, str]], *, overlap: float, lower_is_better: bool
) -> pd.DataFrame:
    """Pairs of columns, the second minus the first, over repetitions whose splits share rows.

    Args:
        values: a row for each repetition.
        pairs: name of the row to (reference, method).
        overlap: test rows over training rows. The variance of the mean of n repetitions is that of independent ones
            times 1 + n * overlap (Nadeau and Bengio, *Inference for the Generalization Error*, 2003).

    Returns:
        ``difference``, ``low`` and ``high`` (95 % interval), ``p`` (two-sided, adjusted for the number of pairs after
        Holm) and ``verdict``: better or worse where p is below 0.05, else no difference.
    """
    sides = [(method, reference) for reference, method in pairs.values()]
    found = stats.contrast(values, sides, overlap=overlap).set_axis(pd.Index(pairs))
    gain = found["difference"] * (-1 if lower_is_better else 1)
    verdict = np.where(found["p_holm"] >= LEVEL, "no difference", np.where(gain > 0, "better", "worse"))
    return found[["difference", "low", "high"]].assign(p=found["p_holm"], verdict=verdict)


def rows_needed(row: pd.Series, pairs: int, repetitions: int, rows: int) -> float:
    """How many rows show a difference of this size in four of five tables, if its error shrinks as 1/sqrt(rows).

    Args:
        row: of :func:`judged`.
        pairs: number of them, which the level is divided by.
        repetitions: n there.
        rows: of the table.

    Returns:
        infinity for more than ten million.
    """
    half = (row["high"] - row["low"]) / 2
    if not half > 0 or row["difference"] == 0:
        return math.inf if row["difference"] == 0 else rows
    seen = abs(row["difference"]) / (half / t.ppf(1 - LEVEL / 2, repetitions - 1))
    bar = t.ppf(1 - LEVEL / pairs / 2, repetitions - 1)
    wanted = optimize.brentq(lambda shift: nct.sf(bar, repetitions - 1, shift) - POWER, 0, 20 * bar)
    needed = rows * (wanted / seen) ** 2
    return needed if needed <= MOST_ROWS else math.inf


def promise(values: pd.Series, lower_is_better: bool) -> tuple[float, float, float]:
    """Mean, and the interval in which the score on as many new rows as a fold has lies in 95 of 100 tables.

    A score that is better when high is at most 1; none is below 0.
    """
    n = len(values)
    half = t.ppf(1 - LEVEL / 2, n - 1) * values.std(ddof=1) * math.sqrt(1 + 1 / n)
    low, high = values.mean() - half, values.mean() + half
    return values.mean(), max(low, 0.0), high if lower_is_better else min(high, 1.0)
