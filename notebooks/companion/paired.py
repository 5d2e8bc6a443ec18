"""Compare methods seed by seed, on tables with the columns :data:`companion.tables.PER_SEED`."""

from __future__ import annotations

import pandas as pd

from mtlkit.stats import contrast
from mtlkit.tasks import lower_is_better


def gains_over(table: pd.DataFrame, metric: str, reference: str) -> pd.DataFrame:
    """By how much each method is better than ``reference``, over the same seeds.

    Args:
        table: condition, method, seed, metric, value; with what the seeds of a condition have in common
            (:func:`companion.tables.protocol_table`).
        metric: which of the metrics to compare.

    Returns:
        a row per condition and other method, in the table's order: condition, method, ``gain`` (mean over
        seeds, positive where the method is better), ``low``, ``high``, ``p`` and ``seeds``: see
        :func:`mtlkit.stats.contrast`.

    Raises:
        ValueError: no such metric, no such reference in a condition, or nothing about what the seeds share.
    """
    return _against(table, metric, reference, 1 if lower_is_better(metric) else -1)


def gains_of(table: pd.DataFrame, metric: str, method: str) -> pd.DataFrame:
    """By how much ``method`` is better than each other one: :func:`gains_over` with both sides changed over."""
    return _against(table, metric, method, -1 if lower_is_better(metric) else 1)


def _against(table: pd.DataFrame, metric: str, reference: str, sign: int) -> pd.DataFrame:
    """``sign`` times (reference minus method)."""
    rows = table[table["metric"] == metric]
    if rows.empty:
        raise ValueError(f"no metric {metric!r}, found {', '.join(table['metric'].unique())}")
    parts = []
    for condition, part in rows.groupby("condition", sort=False):
        methods = part["method"].unique().tolist()
        if reference not in methods:
            raise ValueError(f"{condition}: no method {reference!r}, found {', '.join(methods)}")
        methods.remove(reference)
        overlap = table.loc[(table["condition"] == condition) & (table["metric"] == "overlap"), "value"]
        if overlap.empty:
            raise ValueError(f"{condition}: expected rows of the metric overlap, found none: do the seeds share rows?")
        found = contrast(
            sign * part.pivot(index="seed", columns="method", values="value"),
            [(reference, m) for m in methods],
            overlap=overlap.mean(),
        )
        parts.append(found.assign(condition=condition, method=methods).rename(columns={"difference": "gain"}))
    return pd.concat(parts, ignore_index=True)[["condition", "method", "gain", "low", "high", "p", "seeds"]]
