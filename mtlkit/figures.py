"""Every figure of the project: one function each, one style, one colour per method everywhere."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtlkit.datasets import Split
from mtlkit.results import Runs, interval

STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "savefig.dpi": 150,
    "svg.fonttype": "path",
    "svg.hashsalt": "mtlkit",
}

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE, GREY = [
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#888888",
]
CLEAN, NOISY = BLUE, RED

LOOKS = {
    "Uniform": (BLACK, "-", "o"),
    "RandomWeighting": (GREY, "--", "v"),
    "single task": (GREEN, "-.", "s"),
    "SLGrad": (RED, "-", "D"),
    "SLGrad, main task only": (ORANGE, "--", "d"),
    "meta rows only": (BLUE, "-", "^"),
    "meta rows only, main task only": (BLUE, "--", "<"),
    "train + meta": (SKY, "-", "P"),
    "train + meta, half each": (SKY, "-.", "X"),
    "HydaLearn": (PURPLE, "-", "p"),
    "AlphaVIL": (RED, ":", "*"),
    "DIW": (BLUE, ":", "h"),
    "ForkMerge": (ORANGE, "-.", ">"),
}
"""Colour (Okabe and Ito's, safe for colour-blind readers), line and marker of a method; others are grey."""


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Run a drawing function under :data:`STYLE`."""

    @functools.wraps(draw)
    def drawn(*arguments, **options) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*arguments, **options)

    return drawn


def look(method: str) -> tuple[str, str, str]:
    """Colour, line style and marker of a method."""
    return LOOKS.get(method, (GREY, ":", "."))


def _figure(
    columns: int, rows: int = 1, width: float = 4.2, height: float = 3.2, **options
) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(width * columns, height * rows))
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(figure: Figure, folder: str | Path | None, name: str) -> None:
    """Write ``name.svg`` and ``name.png`` into ``folder``, the same bytes every time; nothing if it is None."""
    if folder is None:
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
        figure.savefig(folder / f"{name}.png", metadata={"Software": None})


@_styled
def curves(panels: Mapping[str, Sequence[Runs]], *, split: str = "test", label: str = "main-task test loss") -> Figure:
    """The main task's loss over training, mean and 95 % band over seeds, one panel per condition.

    Args:
        panels: title to the runs drawn in that panel.
    """
    figure, axes = _figure(len(panels), width=4.6, height=3.6, sharey=True)
    for axis, (title, runs) in zip(axes[0], panels.items(), strict=True):
        for run in runs:
            frame = run.frame
            rows = frame[(frame.split == split) & (frame.task == run.main) & (frame.metric == "loss")]
            band = rows.groupby("epoch")["value"].apply(interval).unstack()
            colour, line, _ = look(run.method)
            axis.plot(band.index, band["mean"], line, color=colour, label=run.method)
            axis.fill_between(band.index, band["low"], band["high"], color=colour, alpha=0.15, linewidth=0)
        axis.set(title=title, xlabel="epoch")
    axes[0, 0].set_ylabel(label)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    return figure


@_styled
def ranking(
    panels: Mapping[str, pd.DataFrame], *, label: str, reference: str = "Uniform", lower_is_better: bool = True
) -> Figure:
    """Methods with their mean and 95 % interval, best on top, one panel per condition.

    Args:
        panels: title to a frame indexed by method with the columns ``mean``, ``low``, ``high``.
        label: of the axis.
        reference: method whose mean is drawn as a line.
    """
    first = next(iter(panels.values()))
    order = first["mean"].sort_values(ascending=not lower_is_better).index
    figure, axes = _figure(len(panels), width=4.6, height=1.0 + 0.24 * len(order), sharey=True)
    for axis, (title, table) in zip(axes[0], panels.items(), strict=True):
        for place, method in enumerate(order):
            if method not in table.index:
                continue
            row = table.loc[method]
            colour, _, marker = look(method)
            axis.plot([row["low"], row["high"]], [place, place], "-", color=colour, linewidth=2)
            axis.plot(row["mean"], place, marker, color=colour, markersize=7)
        if reference in table.index:
            axis.axvline(table.loc[reference, "mean"], color=BLACK, linewidth=0.8, linestyle=":")
        axis.set(title=title, xlabel=label)
    axes[0, 0].set_yticks(range(len(order)), order)
    axes[0, 0].set_ylim(-0.6, len(order) - 0.4)
    return figure


@_styled
def sample_weights(runs: Sequence[Runs]) -> Figure:
    """Mean weights earned by clean and by noisy main-task samples, one panel per method.

    Weights are in units of the uniform weight; the last bin holds everything above it. The title
    says which share of the main task's total weight went to noisy labels, and what share of the
    labels is noisy.
    """
    figure, axes = _figure(len(runs), width=3.6, height=3.0, sharey=True)
    for axis, run in zip(axes[0], runs, strict=True):
        _weights(axis, run)
    axes[0, 0].set_ylabel("share of the samples")
    axes[0, 0].legend(loc="upper right")
    return figure


def _weights(axis: Axes, run: Runs) -> None:
    rows = run.samples[run.samples["task"] == run.main].dropna(subset="weight")
    top = max(2.0, float(rows["weight"].quantile(0.98)))
    bins = np.linspace(0, top, 25)
    for noisy, colour, name, hatch in ((False, CLEAN, "clean label", ""), (True, NOISY, "noisy label", "///")):
        values = rows.loc[rows["noisy"] == noisy, "weight"].clip(upper=top)
        if len(values):
            share = np.full(len(values), 1 / len(values))
            axis.hist(values, bins, weights=share, color=colour, alpha=0.55, label=name, hatch=hatch, edgecolor=colour)
    given = rows.loc[rows["noisy"], "weight"].sum() / rows["weight"].sum()
    dirty = rows["noisy"].mean()
    axis.set(
        title=f"{run.method}\n{given:.0%} of the weight goes to\nthe {dirty:.0%} of labels that are noisy",
        xlabel="mean weight (uniform = 1)",
    )


@_styled
def hero(runs: Runs, table: pd.DataFrame, *, title: str, metric: str = "main-task test loss") -> Figure:
    """What sample weights look like, and what they do to the test loss, side by side.

    Args:
        runs: of the method whose weights are drawn.
        table: as in :func:`ranking`, of the methods to compare.
    """
    figure, axes = _figure(2, width=5.0, height=3.6)
    left, right = axes[0]
    _weights(left, runs)
    left.set_ylabel("share of the samples")
    left.legend(loc="upper right")
    order = table["mean"].sort_values(ascending=False).index
    for place, method in enumerate(order):
        row = table.loc[method]
        colour, _, marker = look(method)
        right.plot([row["low"], row["high"]], [place, place], "-", color=colour, linewidth=3)
        right.plot(row["mean"], place, marker, color=colour, markersize=8)
        right.annotate(f"{row['mean']:.2f}", (row["high"], place), (6, 0), textcoords="offset points", va="center")
    right.set_yticks(range(len(order)), order)
    right.set(title=title, xlabel=f"{metric} (lower is better)")
    right.margins(x=0.15, y=0.1)
    return figure


@_styled
def task_weights(panels: Mapping[str, Runs], *, share_of: str | None = None) -> Figure:
    """The share of the total weight that each task got in each epoch, one panel per run.

    Args:
        panels: title to run.
        share_of: draw this task alone and all others together; every task when None.
    """
    figure, axes = _figure(len(panels), width=3.4, height=3.0, sharey=True)
    for axis, (title, run) in zip(axes[0], panels.items(), strict=True):
        rows = run.frame[(run.frame.metric == "weight") & (run.frame.split == "train")]
        if share_of is not None:
            rows = rows.assign(task=rows["task"].where(rows["task"] == share_of, "all auxiliaries"))
        per_seed = rows.groupby(["task", "epoch", "seed"], sort=False)["value"].sum().reset_index()
        for number, (task, group) in enumerate(per_seed.groupby("task", sort=False)):
            band = group.groupby("epoch")["value"].apply(interval).unstack()
            colour = (RED, BLUE, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY)[number % 8]
            axis.plot(band.index, band["mean"], ("-", "--", "-.", ":")[number % 4], color=colour, label=task)
            axis.fill_between(band.index, band["low"], band["high"], color=colour, alpha=0.15, linewidth=0)
        axis.set(title=title, xlabel="epoch", ylim=(0, 1))
    axes[0, 0].set_ylabel("share of the total weight")
    axes[0, 0].legend(loc="best")
    return figure


@_styled
def trajectories(runs: Sequence[Runs], metrics: Mapping[str, str]) -> Figure:
    """What a per-epoch method did over training: a row per metric, a panel per method, a line per task.

    Args:
        metrics: metric of the frame (such as ``alpha``) to the label of its axis.
    """
    figure, axes = _figure(len(runs), len(metrics), width=4.0, height=2.6, sharex=True, sharey="row")
    for row, (metric, label) in zip(axes, metrics.items(), strict=True):
        for axis, run in zip(row, runs, strict=True):
            rows = run.frame[run.frame["metric"] == metric]
            for number, (task, group) in enumerate(rows.groupby("task", sort=False)):
                band = group.groupby("epoch")["value"].apply(interval).unstack()
                colour, line = ((RED, "-"), (BLUE, "--"), (GREEN, "-."), (PURPLE, ":"))[number % 4]
                name = f"{task} (main)" if task == run.main else task
                axis.plot(band.index, band["mean"], line, color=colour, label=name)
                axis.fill_between(band.index, band["low"], band["high"], color=colour, alpha=0.15, linewidth=0)
        row[0].set_ylabel(label)
    for axis, run in zip(axes[0], runs, strict=True):
        axis.set_title(run.method)
        axis.legend(loc="best")
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    return figure


@_styled
def images(split: Split, *, count: int, shape: tuple[int, int]) -> Figure:
    """The first inputs of a split as pictures, with their labels.

    Args:
        shape: height and width in pixels; inputs may be flat.
    """
    columns = min(count, 12)
    figure, axes = _figure(columns, -(-count // columns), width=0.9, height=1.15)
    for number, axis in enumerate(axes.flat):
        axis.axis("off")
        if number < count:
            axis.imshow(split.x[number].reshape(shape).numpy(), cmap="gray_r")
            axis.set_title(" ".join(str(y[number].item()) for y in split.y.values()), loc="center")
    return figure
