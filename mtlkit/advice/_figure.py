"""The one picture of a report, as SVG text."""

from __future__ import annotations

import html

import numpy as np
import pandas as pd

CHOSEN, OTHER = "#0072B2", "#6e6e6e"
ROW, LEFT, WIDTH, RIGHT, TOP = 24, 330, 300, 80, 34


def dots(levels: pd.DataFrame, recommended: str, label: str, lower_is_better: bool) -> str:
    """A row for each level: its mean, the interval for new rows, and the recommended one in colour.

    Args:
        levels: ``mean``, ``low`` and ``high`` by name.
        label: of the axis.
    """
    low, high = levels["low"].min(), levels["high"].max()
    span = (high - low) or 1.0
    bottom = TOP + ROW * len(levels)

    def at(value: float) -> str:
        return f"{LEFT + WIDTH * (value - low) / span:.1f}"

    parts = [
        f'<text x="{LEFT}" y="16">{html.escape(label)} ({"left" if lower_is_better else "right"} is better)</text>'
    ]
    for tick in _ticks(low, high):
        parts.append(
            f'<line x1="{at(tick)}" y1="{TOP - 6}" x2="{at(tick)}" y2="{bottom}" stroke="#ddd"/>'
            f'<text x="{at(tick)}" y="{bottom + 14}" text-anchor="middle" fill="#444">{tick:.4g}</text>'
        )
    for n, (name, row) in enumerate(levels.iterrows()):
        y, chosen = TOP + ROW * n + ROW // 2, name == recommended
        colour, weight = (CHOSEN, "bold") if chosen else (OTHER, "normal")
        parts.append(
            f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end" font-weight="{weight}">{html.escape(name)}</text>'
            f'<line x1="{at(row["low"])}" y1="{y}" x2="{at(row["high"])}" y2="{y}" stroke="{colour}" stroke-width="2"/>'
            f'<circle cx="{at(row["mean"])}" cy="{y}" r="{6 if chosen else 4}" fill="{colour}"/>'
            f'<text x="{LEFT + WIDTH + 10}" y="{y + 4}" font-weight="{weight}">{row["mean"]:.3g}</text>'
        )
    size = f'width="{LEFT + WIDTH + RIGHT}" height="{bottom + 22}"'
    style = 'font-family="sans-serif" font-size="12" style="background:white;max-width:100%"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{"".join(parts)}</svg>'


def _ticks(low: float, high: float) -> np.ndarray:
    """Three to six round numbers between the two."""
    if not high > low:
        return np.array([low])
    rough = (high - low) / 4
    unit = 10.0 ** np.floor(np.log10(rough))
    step = unit * min((1, 2, 5, 10), key=lambda factor: abs(factor * unit - rough))
    return np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
