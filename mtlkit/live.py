"""A picture of the task weights that is redrawn while training runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pandas as pd

from mtlkit.stats import estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#888888")
LINES = ("-", "--", "-.", ":")


class LiveWeights:
    """The share of weight that each task gets, redrawn in place while training runs.

    ``mtl.fit(..., watch=mtl.LiveWeights("HydaLearn"))`` in a notebook shows one picture; after every epoch it is
    drawn again where it is, and what stays in the notebook is the last one.

    Args:
        title: of the picture.
        epochs: length of the axis; as many as there are when None.

    Attributes:
        figure: the last picture; None before the first epoch.
    """

    def __init__(self, title: str = "", epochs: int | None = None) -> None:
        self.title, self.epochs = title, epochs
        self.figure: Figure | None = None
        self._shown = None

    def __call__(self, rows: pd.DataFrame) -> None:
        """Draw the rows of metric ``weight`` so far: seed, epoch, task, value."""
        self.figure = self._drawn(rows)
        if "ipykernel" not in sys.modules:
            return
        from IPython.display import display

        if self._shown is None:
            self._shown = display(self.figure, display_id=True)
        else:
            self._shown.update(self.figure)

    def _drawn(self, rows: pd.DataFrame) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axis = figure.subplots()
        for number, (task, group) in enumerate(rows.groupby("task", sort=False)):
            band = estimate(group.groupby("epoch")["value"])
            colour = COLOURS[number % len(COLOURS)]
            axis.plot(band.index, band["mean"], LINES[number % len(LINES)], color=colour, label=task)
            axis.fill_between(band.index, band["low"], band["high"], color=colour, alpha=0.15, linewidth=0)
        last = max(self.epochs or rows["epoch"].max(), 2)
        axis.set(title=self.title, xlabel="epoch", ylabel="share of the total weight", xlim=(1, last), ylim=(0, 1))
        figure.legend(*axis.get_legend_handles_labels(), loc="outside right center")
        return figure
