"""Compare methods seed by seed, on tables with the columns :data:`companion.tables.PER_SEED`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from mtlkit.results import interval


def gains(table: pd.DataFrame, metric: str, reference: str, *, lower_is_better: bool = True) -> pd.DataFrame:
    """By how much each method is better than ``reference``, over the same seeds.

    Args:
        table: condition, method, seed, metric, value.
        metric: which of the metrics to compare.

    Returns:
        a row per condition and other method, in the table's order: condition, method, ``gain`` (mean over
        seeds, positive where the method is better), ``low``, ``high`` (95 % t interval), ``p`` (two-sided
        paired t-test) and ``seeds`` (pairs with both values finite).

    Raises:
        ValueError: no such metric, or no such reference in a condition.
    """
    rows = [
        {"condition": condition, "method": method, **_tested("gain", gained[method])}
        for condition, gained in _gained(table, metric, reference, lower_is_better).items()
        for method in gained
    ]
    return pd.DataFrame(rows)


def gain_changes(
    table: pd.DataFrame, metric: str, reference: str, before: str, after: str, *, lower_is_better: bool = True
) -> pd.DataFrame:
    """How the gain over ``reference`` changes from the condition ``before`` to the condition ``after``.

    Args:
        table: condition, method, seed, metric, value; seeds of the same number are paired.

    Returns:
        a row per method that is in both conditions: method, ``gain_before`` and ``gain_after`` (means over
        seeds), ``change`` (mean of after minus before, negative where the gain shrinks), ``low``, ``high``,
        ``p`` and ``seeds`` as in :func:`gains`.

    Raises:
        ValueError: no such metric or condition, or no such reference in a condition.
    """
    gained = _gained(table, metric, reference, lower_is_better)
    for condition in (before, after):
        if condition not in gained:
            raise ValueError(f"no condition {condition!r}, found {', '.join(gained)}")
    first, last = gained[before], gained[after]
    rows = [
        {
            "method": method,
            "gain_before": first[method].mean(),
            "gain_after": last[method].mean(),
            **_tested("change", last[method] - first[method]),
        }
        for method in first
        if method in last
    ]
    return pd.DataFrame(rows)


def _gained(table: pd.DataFrame, metric: str, reference: str, lower_is_better: bool) -> dict[str, pd.DataFrame]:
    """Condition to what each method gains over the reference: a row per seed, a column per other method."""
    rows = table[table["metric"] == metric]
    if rows.empty:
        raise ValueError(f"no metric {metric!r}, found {', '.join(table['metric'].unique())}")
    found = {}
    for condition, part in rows.groupby("condition", sort=False):
        values = part.pivot(index="seed", columns="method", values="value")[part["method"].unique()]
        if reference not in values:
            raise ValueError(f"{condition}: no method {reference!r}, found {', '.join(values)}")
        gained = values.rsub(values[reference], axis=0).drop(columns=reference)
        found[condition] = gained if lower_is_better else -gained
    return found


def _tested(name: str, differences: pd.Series) -> dict[str, float]:
    finite = differences[np.isfinite(differences)]
    found = interval(finite)
    p = stats.ttest_1samp(finite, 0).pvalue if len(finite) > 1 and finite.std() > 0 else np.nan
    return {name: found["mean"], "low": found["low"], "high": found["high"], "p": p, "seeds": len(finite)}
