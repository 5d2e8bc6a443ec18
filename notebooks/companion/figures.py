"""Every figure of the project: one function each, one style, one colour per method everywhere."""

from __future__ import annotations

import functools
import itertools
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtlkit.results import Runs
from mtlkit.stats import estimate

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
    "clean main labels": (GREEN, "--", "P"),
    "GradientCosine, meta": (PURPLE, "--", "h"),
    "train + meta, half each, GradientCosine": (PURPLE, "-.", "X"),
    "single task, noise layer": (ORANGE, "-", "h"),
    "HydaLearn": (PURPLE, "-", "p"),
    "HydaLearn, on batch": (PURPLE, "--", "p"),
    "HydaLearn's epoch means": (PURPLE, ":", "p"),
    "AlphaVIL": (RED, ":", "*"),
    "DIW": (BLUE, ":", "h"),
    "ForkMerge": (ORANGE, "-.", ">"),
    "MetaTartan": (GREEN, "--", "H"),
    "hard sharing": (BLACK, "--", "8"),
    "separate models": (GREEN, ":", "s"),
    "low level": (RED, "--", "^"),
    "routed": (ORANGE, ":", "<"),
    "wide trunk": (SKY, ":", "X"),
    "two backbones": (BLUE, "-.", "v"),
    "TAPS, λ 0.001": (PURPLE, "-", "D"),
    "TAPS, λ 0.003": (PURPLE, "--", "v"),
    "TAPS, λ 0.01": (PURPLE, ":", "*"),
    "DWA": (SKY, "--", "v"),
    "Uncertainty": (GREEN, ":", "8"),
    "single task, forward correction": (GREEN, "--", "s"),
    "Uniform, forward correction": (BLACK, "--", "o"),
    "constant": (BLACK, ":", "_"),
    "linear model": (GREY, "--", "x"),
    "linear model, clean rows": (GREY, "-.", "+"),
}
"""Colour (Okabe and Ito's, safe for colour-blind readers), line and marker of a method; others are grey."""


SCREEN = 110
"""Dots per inch of a figure in a notebook."""


def style():
    """The context in which every figure is drawn and saved."""
    return mpl.rc_context(STYLE)


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Run a drawing function under :data:`STYLE`."""

    @functools.wraps(draw)
    def drawn(*arguments, **options) -> Figure:
        with style():
            return draw(*arguments, **options)

    return drawn


VARIANTS = (", as published", ", twice the steps", ", linear head", ", look-ahead")
"""Ends of the name of a variant, which looks like its method but is dotted."""


def look(method: str) -> tuple[str, str, str]:
    """Colour, line style and marker of a method."""
    for end in VARIANTS:
        if method.endswith(end):
            colour, _, marker = look(method.removesuffix(end))
            return colour, ":", marker
    return LOOKS.get(method, (GREY, ":", "."))


def _figure(
    columns: int, rows: int = 1, width: float = 4.2, height: float = 3.2, **options
) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(width * columns, height * rows))
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save_figure(figure: Figure, folder: str | Path | None, name: str) -> None:
    """Write ``name.svg`` and ``name.png`` into ``folder``, the same bytes every time; nothing if it is None."""
    if folder is None:
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vector = folder / f"{name}.svg"
    with style():
        figure.savefig(vector, metadata={"Date": None, "Creator": None})
        figure.savefig(folder / f"{name}.png", metadata={"Software": None})
    vector.write_text(_settled(vector.read_text(encoding="utf-8")), encoding="utf-8")


def _settled(svg: str) -> str:
    """An SVG that does not move with the last bit of a sum.

    Coordinates are given to a thousandth of a point. Matplotlib names clips and markers by a hash of their
    coordinates; they are numbered in their order instead.
    """
    hashed = r"[a-zA-Z]*[0-9a-f]{10}"
    names = {name: f"{name[:-10]}{i}" for i, name in enumerate(dict.fromkeys(re.findall(rf'id="({hashed})"', svg)))}
    svg = re.sub(rf"\b{hashed}\b", lambda name: names.get(name[0], name[0]), svg)
    return re.sub(r"(?<!scale\()\b\d+\.\d{4,}", lambda number: f"{float(number[0]):.3f}", svg)


INTERVAL = "mean and 95 % interval over seeds"
"""What a mark with a bar is."""
WIDE = 5.0
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""


def _spread_out(axis: Axes, values: np.ndarray, along: str = "x") -> None:
    """A logarithmic axis where the values span most of a decade."""
    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() > 0 and finite.max() > WIDE * finite.min():
        axis.set(**{f"{along}scale": "log"})
        low, high = getattr(axis, f"get_{along}lim")()
        for digits in ((1, 2, 5), (1, 3), (1,)):
            ticks = [n * 10.0**k for k in range(-6, 7) for n in digits if low <= n * 10.0**k <= high]
            if len(ticks) <= 6:
                break
        ticks = ticks[:: -(-len(ticks) // 6)]
        getattr(axis, f"set_{along}ticks")(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()


@_styled
def ranking(
    panels: Mapping[str, pd.DataFrame],
    *,
    label: str,
    reference: str = "Uniform",
    lower_is_better: bool = True,
    floors: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """Methods with their mean and 95 % interval, two conditions side by side, in each row its first one's best on top.

    Args:
        panels: title to a frame indexed by method with the columns ``mean``, ``low``, ``high``.
        label: of the axis.
        reference: method whose mean is drawn as a line; not where there are floors.
        floors: title to the names and levels of the floors, drawn as lines.
    """
    columns = min(len(panels), 2)
    titles = list(panels)
    rows = [titles[n : n + columns] for n in range(0, len(titles), columns)]
    best = {title: table["mean"].sort_values(ascending=lower_is_better).index for title, table in panels.items()}
    orders = [list(dict.fromkeys(itertools.chain(*(best[title] for title in row))))[::-1] for row in rows]
    heights = [0.7 + 0.2 * len(order) for order in orders]
    figure = Figure(figsize=(6.6, sum(heights) + 0.5))
    axes = figure.subplots(len(rows), columns, squeeze=False, sharey="row", height_ratios=heights)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for place, order in enumerate(orders):
        axes[place, 0].set_yticks(range(len(order)), order, fontsize=9)
        axes[place, 0].set_ylim(-0.6, len(order) - 0.4)
    for n, (title, table) in enumerate(panels.items()):
        axis, order = axes.flat[n], orders[n // columns]
        for place, method in enumerate(order):
            if method not in table.index:
                continue
            row = table.loc[method]
            colour, _, marker = look(method)
            axis.plot([row["low"], row["high"]], [place, place], "-", color=colour, linewidth=2)
            axis.plot(row["mean"], place, marker, color=colour, markersize=6)
        if floors is not None:
            _floors(axis, floors.get(title, {}), across=False)
        elif reference in table.index:
            axis.axvline(table.loc[reference, "mean"], color=BLACK, linewidth=0.8, linestyle=":")
        if lower_is_better:
            _spread_out(axis, np.array([*table["mean"], *(floors or {}).get(title, {}).values()]))
        else:
            _near(axis, table, (floors or {}).get(title, {}))
        axis.set_title(title)
    says = f"{label}; {INTERVAL}"
    if floors is None:
        figure.supxlabel(says, fontsize=9)
    else:
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, title=says, title_fontsize=9)
    return figure


def _near(axis: Axes, table: pd.DataFrame, floors: Mapping[str, float]) -> None:
    """Cut the axis to the methods where floors lie so far below that differences would not show; words name them."""
    low, high = table["low"].min(), table["high"].max()
    reach = low - 2 * (high - low)
    if far := {name: level for name, level in floors.items() if level < reach}:
        near = min([low, *(level for level in floors.values() if level >= reach)])
        axis.set_xlim(near - 0.15 * (high - near), high + 0.1 * (high - near))
        words = "; ".join(f"{name} {level:.2f}" for name, level in far.items())
        axis.annotate(f"← {words}", (0.01, -1), xycoords=("axes fraction", "data"), fontsize=8, va="center")
        axis.set_ylim(bottom=-1.6)


@_styled
def reached(
    panels: Mapping[str, Sequence[Runs]],
    floors: Mapping[str, Mapping[str, float]],
    *,
    steps_per_epoch: int,
    label: str = "main-task test loss",
) -> Figure:
    """The test loss that would be reported had training stopped there: at the best epoch so far on the meta split.

    Mean and 95 % band over seeds; a seed that has stopped keeps its value. One panel per condition.

    Args:
        panels: title to the runs drawn in that panel.
        floors: title to the names and levels of the floors, drawn as lines across.
    """
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(6.6, 2.6 * rows + 0.9))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    drawn, values = {}, []
    for axis, (title, runs) in zip(axes.flat, panels.items(), strict=False):
        for run in runs:
            band = so_far(run).apply(estimate).T
            colour, line, _ = look(run.method)
            steps = band.index * steps_per_epoch
            axis.plot(steps, band["mean"], line, color=colour, label=run.method)
            axis.fill_between(steps, band["low"], band["high"], color=colour, alpha=0.15, linewidth=0)
            values.append(band["mean"])
        _floors(axis, floors.get(title, {}), across=True)
        axis.set(title=title, xlabel="steps")
        handles, labels = axis.get_legend_handles_labels()
        drawn |= dict(zip(labels, handles, strict=True))
    for axis in axes.flat[: len(panels)]:
        _spread_out(axis, np.concatenate(values), "y")
        _spread_out(axis, np.array([steps_per_epoch, axis.get_xlim()[1]]))
    for axis in axes.flat[max(len(panels) - columns, 0) : len(panels)]:
        axis.tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel(label)
    figure.legend(drawn.values(), drawn, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def so_far(run: Runs) -> pd.DataFrame:
    """Test loss at the best epoch so far: a row per seed, a column per epoch from the first that may be selected."""
    rows = run.frame[(run.frame["task"] == run.main) & (run.frame["metric"] == "loss")]
    rows = rows[rows["epoch"] >= run.select_from]
    meta, test = (
        rows[rows["split"] == split].pivot(index="seed", columns="epoch", values="value") for split in ("meta", "test")
    )
    lowest = meta.cummin(axis=1)
    return test.where((meta == lowest) & (lowest < lowest.shift(axis=1).fillna(np.inf))).ffill(axis=1)


FLOORS = {"constant": (BLACK, ":"), "linear model": (GREY, "--"), "linear model, clean rows": (GREY, "-.")}
"""Colour and line of a floor."""


def _floors(axis: Axes, floors: Mapping[str, float], across: bool) -> None:
    """Lines at the floors' levels, across the panel or up and down."""
    for name, level in floors.items():
        colour, line = FLOORS.get(name, (GREY, ":"))
        (axis.axhline if across else axis.axvline)(level, color=colour, linestyle=line, linewidth=1.2, label=name)


@_styled
def weights_and_losses(
    runs: Sequence[Runs], table: pd.DataFrame, floors: Mapping[str, float], *, title: str, steps_per_epoch: int
) -> Figure:
    """What happens to the weight of wrong labels over training, and the test losses that come of it, side by side.

    Args:
        runs: on data with label noise; left, the share of the main task's weight that goes to wrong labels, while
            half of the seeds still train and a quarter give the main task any weight.
        table: as in :func:`ranking`, of the methods to compare.
        floors: names and levels, drawn as lines.
    """
    figure = Figure(figsize=(7.0, 3.4))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    for run in runs:
        rows = run.frame[(run.frame["task"] == run.main) & (run.frame["metric"] == "noisy_weight")]
        by_epoch = rows.groupby("epoch")["value"]
        enough = (by_epoch.size() >= len(run.seeds) / 2) & (by_epoch.count() >= len(run.seeds) / 4)
        band = estimate(by_epoch)[enough]
        colour, line, _ = look(run.method)
        steps = band.index * steps_per_epoch
        left.plot(steps, 100 * band["mean"], line, color=colour, label=run.method, linewidth=2)
        left.fill_between(steps, 100 * band["low"], 100 * band["high"], color=colour, alpha=0.15, linewidth=0)
    left.set(xlabel="steps", ylabel="% of the main task's weight", ylim=(0, 100))
    left.set_title("Weight that goes to wrong labels", fontsize=10)
    left.legend(loc="upper right", fontsize=9)
    order = table["mean"].sort_values(ascending=False).index
    for place, method in enumerate(order):
        row = table.loc[method]
        colour, _, marker = look(method)
        right.plot([row["low"], row["high"]], [place, place], "-", color=colour, linewidth=3)
        right.plot(row["mean"], place, marker, color=colour, markersize=7)
        right.annotate(
            f"{row['mean']:.2f}",
            (row["high"], place),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )
    _floors(right, floors, across=False)
    right.set_yticks(range(len(order)), order, fontsize=9)
    right.set_title(title, fontsize=10)
    right.set_xlabel("main-task test loss (lower is better)\n" + INTERVAL, fontsize=9)
    right.margins(x=0.18, y=0.1)
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", fontsize=8.5, ncols=3)
    return figure


@_styled
def gain_bars(table: pd.DataFrame) -> Figure:
    """By how much a method is ahead of what a claim compares it with, right is better: a row per comparison.

    Gains beyond a hundred are drawn at the edge, with their number.

    Args:
        table: columns ``group`` (a heading over neighbouring rows), ``label``, ``gain``, ``low``, ``high`` (in
            hundredths of what the best contender gains on a constant) and ``outcome``.
    """
    figure = Figure(figsize=(6.6, 1.0 + 0.2 * (len(table) + 1.3 * table["group"].nunique())))
    axis = figure.subplots()
    y, ticks = -1.3, []
    for group, rows in table.groupby("group", sort=False):
        y += 1.3
        ticks.append((y, group, "bold"))
        for row in rows.itertuples():
            y += 1
            ticks.append((y, row.label, "normal"))
            colour, marker = {"better": (BLUE, "o"), "worse": (RED, "X")}.get(row.outcome, (GREY, "s"))
            if abs(row.gain) > 100:
                edge = math.copysign(100, row.gain)
                axis.plot(edge, y, ">" if edge > 0 else "<", color=colour, markersize=7, clip_on=False)
                options = {"xytext": (-math.copysign(8, edge), 0), "textcoords": "offset points", "va": "center"}
                side = "right" if edge > 0 else "left"
                axis.annotate(f"{row.gain:+.0f} %", (edge, y), ha=side, fontsize=8.5, **options)
                continue
            axis.plot([row.low, row.high], [y, y], "-", color=colour, linewidth=2)
            axis.plot(row.gain, y, marker, color=colour, markersize=6)
    axis.axvline(0, color=BLACK, linewidth=1)
    axis.set_yticks([place for place, _, _ in ticks], [text for _, text, _ in ticks], fontsize=8.5)
    for label, (_, _, weight) in zip(axis.get_yticklabels(), ticks, strict=True):
        label.set_fontweight(weight)
    axis.set(ylim=(y + 0.6, -0.8), xlim=(min(-25, max(-100, table["low"].min() - 5)), 100))
    axis.xaxis.set_major_locator(mpl.ticker.MultipleLocator(50))
    axis.xaxis.set_major_formatter("{x:+.0f} %")
    axis.tick_params(axis="x", labelsize=8)
    words = "← behind     ahead →\nof the way from a constant\nto the best method; 95 % interval"
    axis.set_xlabel(words, fontsize=9)
    axis.grid(axis="y", visible=False)
    return figure


@_styled
def trajectories(runs: Sequence[Runs], metrics: Mapping[str, str]) -> Figure:
    """What a per-epoch method did over training: a row per metric, a panel per method, a line per task.

    Args:
        metrics: metric of the frame (such as ``alpha``) to the label of its axis.
    """
    figure, axes = _figure(len(runs), len(metrics), width=3.2, height=2.1, sharex=True, sharey="row")
    for row, (metric, label) in zip(axes, metrics.items(), strict=True):
        for axis, run in zip(row, runs, strict=True):
            rows = run.frame[run.frame["metric"] == metric]
            for number, (task, group) in enumerate(rows.groupby("task", sort=False)):
                band = estimate(group.groupby("epoch")["value"])
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
def gain_by_level(panels: Mapping[tuple[str, str], pd.DataFrame], *, label: str) -> Figure:
    """A line per method over levels such as noise or size, with 95 % intervals; levels are evenly spaced.

    The panels of a column have one axis, which goes as far as its means; longer intervals are cut.

    Args:
        panels: title of a row and label of the horizontal axis to a frame with the columns ``method``,
            ``level``, ``gain``, ``low``, ``high``; the first label of all is that of the first column.
        label: of the vertical axes.
    """
    rows, columns = (list(dict.fromkeys(key[place] for key in panels)) for place in (0, 1))
    figure, axes = _figure(len(columns), len(rows), width=3.3, height=2.5, sharex="col")
    methods = list(dict.fromkeys(m for table in panels.values() for m in table["method"]))
    drawn = {}
    for (row, column), table in panels.items():
        axis = axes[rows.index(row), columns.index(column)]
        ticks = list(table["level"].unique())
        axis.axhline(0, color=BLACK, linewidth=0.8, linestyle=":")
        for number, method in enumerate(methods):
            found = table[table["method"] == method]
            if found.empty:
                continue
            colour, line, marker = look(method)
            places = [ticks.index(level) + 0.5 * ((number + 0.5) / len(methods) - 0.5) for level in found["level"]]
            drawn[method] = axis.plot(places, found["gain"], line, marker=marker, color=colour, linewidth=1.2)[0]
            axis.vlines(places, found["low"], found["high"], color=colour, linewidth=1.5)
        axis.set_xticks(range(len(ticks)), [f"{tick:g}" for tick in ticks])
        axis.set_title(row)
        means = pd.concat([other["gain"] for key, other in panels.items() if key[1] == column])
        space = 0.15 * (max(means.max(), 0) - min(means.min(), 0))
        axis.set_ylim(min(means.min(), 0) - space, max(means.max(), 0) + space)
    for axis, column in zip(axes[-1], columns, strict=True):
        axis.set_xlabel(column)
    figure.supylabel(label, fontsize="medium")
    figure.legend(drawn.values(), drawn, loc="outside lower center", ncols=2, fontsize=9)
    return figure


@_styled
def ratios(table: pd.DataFrame, *, label: str) -> Figure:
    """Costs in units of something plain, one panel per column, one row per row of the table, first on top.

    Args:
        table: indexed by what costs; NaN where it was not measured.
        label: of the axes.
    """
    figure, axes = _figure(table.shape[1], width=3.0, height=1.0 + 0.24 * len(table), sharey=True)
    places = np.arange(len(table))[::-1]
    for axis, (title, column) in zip(axes[0], table.items(), strict=True):
        axis.hlines(places, 1, column, color=GREY, linewidth=1)
        axis.plot(column, places, "o", color=BLUE)
        axis.axvline(1, color=BLACK, linewidth=0.8, linestyle=":")
        axis.set(title=title, xlabel=label)
        axis.set_xlim(left=0)
        for value, place in zip(column, places, strict=True):
            if np.isfinite(value):
                axis.annotate(f"{value:.2f}", (max(value, 1), place), (6, 0), textcoords="offset points", va="center")
        axis.margins(x=0.2)
    axes[0, 0].set_yticks(places, table.index)
    return figure


@_styled
def growth(panels: Mapping[tuple[str, str], pd.DataFrame]) -> Figure:
    """How costs grow, on logarithmic axes: one panel per table, a line per column, panels with the same label in a row.

    Args:
        panels: labels of the vertical and the horizontal axis to a table indexed by what grows.
    """
    rows = list(dict.fromkeys(label for label, _ in panels))
    columns = max(sum(label == row for label, _ in panels) for row in rows)
    figure, axes = _figure(columns, len(rows), width=3.8, height=3.2, sharey="row")
    lines = [(RED, "-", "o"), (BLUE, "--", "s"), (SKY, ":", "v"), (GREEN, "-.", "^"), (ORANGE, "--", "P")]
    lines.append((PURPLE, ":", "X"))
    for number, ((label, title), table) in enumerate(panels.items()):
        axis = axes[divmod(number, columns)]
        for (name, column), (colour, line, marker) in zip(table.items(), lines, strict=False):
            axis.plot(table.index, column, line, marker=marker, color=colour, label=name)
        axis.set(xscale="log", yscale="log", xlabel=title)
        axis.set_xticks(table.index, table.index.astype(str))
        axis.minorticks_off()
        if number % columns == 0:
            axis.set_ylabel(label)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center")
    return figure


@_styled
def ratio_by_size(panels: Mapping[str, pd.DataFrame], *, label: str, size_label: str = "training rows") -> Figure:
    """A ratio to a reference against the amount of data: a panel per method, a line per pair of tasks.

    Bars are 95 % intervals; the line at 1 is the reference. Both axes are logarithmic.

    Args:
        panels: title to a frame with the columns ``pair``, ``size``, ``ratio``, ``low``, ``high``.
        label: of the ratio.
    """
    columns = 3
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(6.6, 1.9 * rows + 1))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    sizes = sorted(pd.concat(panels)["size"].unique())
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (title, table) in zip(axes.flat, panels.items(), strict=False):
        for number, (pair, rows) in enumerate(table.groupby("pair", sort=False)):
            colour, line, marker = ((RED, "-", "o"), (ORANGE, "--", "s"), (BLUE, "-.", "D"))[number % 3]
            bars = [rows["ratio"] - rows["low"], rows["high"] - rows["ratio"]]
            axis.errorbar(rows["size"], rows["ratio"], bars, color=colour, linestyle=line, marker=marker, label=pair)
        axis.axhline(1, color=BLACK, linewidth=0.8)
        axis.set(title=title, xscale="log", yscale="log", xlim=(sizes[0] / 1.6, sizes[-1] * 1.6))
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.minorticks_off()
    low, high = axes[0, 0].get_ylim()
    fine, coarse = (0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.4, 1.5), (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
    ticks = [t for t in (fine if fine[0] < low and high < fine[-1] else coarse) if low <= t <= high]
    axes[0, 0].set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes[-1, columns // 2].set_xlabel(size_label)
    figure.supylabel("\n".join(textwrap.wrap(label, 30)), fontsize="medium")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


@_styled
def drift_shares(panels: Mapping[str, Mapping[str, pd.DataFrame]], *, after: int, columns: int) -> Figure:
    """The auxiliaries' share of the weight over training, and when the drift sets in.

    Mean and 95 % band over seeds, while half of them still train.

    Args:
        panels: title to the lines of that panel: name to shares, a row per seed, a column per epoch.
        after: last epoch before the drift.
        columns: panels side by side.
    """
    figure, axes = _figure(columns, -(-len(panels) // columns), width=3.2, height=2.2, sharex=True, sharey=True)
    for axis, (title, lines) in zip(axes.flat, panels.items(), strict=True):
        for (name, shares), (colour, line) in zip(lines.items(), ((RED, "-"), (BLUE, "--")), strict=False):
            band = shares.loc[:, shares.notna().sum() >= len(shares) / 2].apply(estimate).T
            axis.plot(band.index, band["mean"], line, color=colour, label=name)
            axis.fill_between(band.index, band["low"], band["high"], color=colour, alpha=0.15, linewidth=0)
        axis.axvline(after + 0.5, color=BLACK, linewidth=0.8, linestyle=":", label="drift sets in")
        axis.set(title=title, ylim=(0, 1))
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    figure.supylabel("auxiliaries' share of the weight", fontsize="medium")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)
    return figure


VERDICTS = {
    "reproduced": ("o", BLUE, BLUE),
    "partly": ("D", SKY, BLUE),
    "undecided": ("$?$", BLACK, BLACK),
    "not reproduced": ("o", "white", ORANGE),
    "opposite": ("X", RED, RED),
    "nothing learned here": ("s", "white", GREY),
    "not tested here": (".", "white", GREY),
}
"""Verdict to the marker, face and edge that it is drawn with."""


@_styled
def verdicts(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """A mark per claim and setting: what came of testing it.

    Args:
        panels: title to a frame of verdicts, indexed by claim and test, with columns named by data and place; the
            empty text draws nothing.
    """
    columns = max(table.shape[1] for table in panels.values())
    left, right = -0.62 * columns - 0.5, columns - 0.5
    figure = Figure(figsize=(6.5, 1))
    axis = figure.subplots()
    handles, y = {}, 0.0
    for title, table in panels.items():
        axis.text(left, y, title, fontweight="bold", fontsize=10)
        space = min(columns / table.shape[1], 2.4)
        x = space * np.arange(table.shape[1])
        _grouped(axis, [data for data, _ in table.columns], x, y)
        for at, (_, place) in zip(x, table.columns, strict=True):
            axis.text(at, y + 0.9, place, ha="center", fontsize=7.5)
        y += 1.9
        for claim, part in table.groupby(level=0, sort=False):
            alone = len(part) == 1
            headed = alone or part.index[0][1] == ""
            if not headed:
                axis.text(left, y, claim, va="center", fontsize=8.5)
                y += 1
            for (_, test), row in part.iterrows():
                text = ", ".join(filter(None, [claim, test])) if alone or test == "" else f"    {test}"
                axis.text(left, y, text, va="center", fontsize=8.5)
                axis.hlines(y, x[0] - 0.5, x[-1] + 0.5, color=GREY, alpha=0.3, linewidth=0.8)
                for verdict, (marker, face, edge) in VERDICTS.items():
                    at = x[row.to_numpy() == verdict]
                    size = 6 if verdict == "not tested here" else 40
                    options = {"marker": marker, "facecolors": face, "edgecolors": edge, "zorder": 3}
                    handles[verdict] = axis.scatter(at, np.full(len(at), y), s=size, label=verdict, **options)
                y += 1
        y += 1
    axis.set(xlim=(left, right), ylim=(y - 1, -1.2))
    axis.set_axis_off()
    figure.set_figheight(0.18 * y + 0.6)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, fontsize=8.5)
    return figure


def _grouped(axis: Axes, names: Sequence[str], x: np.ndarray, y: float) -> None:
    """Names over neighbouring columns that share one."""
    start = 0
    for name, group in itertools.groupby(names):
        end = start + len(list(group)) - 1
        axis.plot([x[start] - 0.35, x[end] + 0.35], [y + 0.15, y + 0.15], "-", color=GREY, linewidth=0.8)
        broken = name if (x[end] - x[start] + 1) * 4 > len(name) else name.replace(" ", "\n")
        axis.text((x[start] + x[end]) / 2, y, broken, ha="center", fontsize=7.5, linespacing=0.9)
        start = end + 1


PARTS = {"main, right labels": BLUE, "main, wrong labels": RED, "helpful": GREEN, "unrelated": "#BBBBBB"}
"""Where weight can go in the guide to the methods, and its colour."""


@_styled
def stacked_shares(panels: Mapping[str, pd.DataFrame], columns: int = 5) -> Figure:
    """Where the weight goes over training: areas on top of each other that sum to 1, a panel per method.

    Args:
        panels: title to shares, a row per epoch, a column for each of :data:`PARTS`.
    """
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(6.6, 1.15 * rows + 0.5))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (title, table) in zip(axes.flat, panels.items(), strict=False):
        areas = axis.stackplot(
            table.index, table[list(PARTS)].T, colors=list(PARTS.values()), edgecolor="white", linewidth=0.4
        )
        axis.set(xlim=(table.index[0], table.index[-1]), ylim=(0, 1), xticks=[], yticks=[0, 1])
        axis.set_title(title, fontsize=8.5)
        axis.tick_params(labelsize=8, length=2)
        axis.grid(False)
    figure.supylabel("share of the weight over training", fontsize=9)
    figure.legend(areas, PARTS, loc="outside lower center", ncols=4, fontsize=8.5)
    return figure


@_styled
def curves(table: pd.DataFrame, *, label: str, along: str = "step") -> Figure:
    """A line per column over its index.

    Args:
        label: of the vertical axis.
        along: what the index counts.
    """
    figure = Figure(figsize=(6.0, 2.9))
    axis = figure.subplots()
    for name, column in table.items():
        colour, line, _ = look(name)
        axis.plot(column.index, column, line, color=colour, label=name)
    axis.set(xlabel=along, ylabel=label)
    _spread_out(axis, table.to_numpy().ravel(), "y")
    axis.legend(fontsize=9)
    return figure


@_styled
def side_by_side(
    table: pd.DataFrame, *, label: str, floors: Mapping[str, Mapping[str, float]], names: Sequence[str] | None = None
) -> Figure:
    """Conditions from left to right, in each the methods side by side: mean and 95 % interval, floors as dashes.

    Args:
        table: indexed by condition and method: ``mean``, ``low``, ``high``.
        label: of the vertical axis.
        floors: condition to the names and levels of its floors.
        names: of the conditions on the axis, in the table's order; their own when None.
    """
    conditions = list(dict.fromkeys(table.index.get_level_values(0)))
    methods = list(dict.fromkeys(table.index.get_level_values(1)))
    figure, axes = _figure(1, width=2.5 + 1.5 * len(conditions), height=3.6)
    axis = axes[0, 0]
    for number, method in enumerate(methods):
        rows = table.xs(method, level=1)
        places = [conditions.index(c) + 0.7 * ((number + 0.5) / len(methods) - 0.5) for c in rows.index]
        colour, _, marker = look(method)
        axis.vlines(places, rows["low"], rows["high"], color=colour, linewidth=2)
        axis.plot(places, rows["mean"], marker, color=colour, markersize=7, label=method)
    for place, condition in enumerate(conditions):
        for name, level in floors.get(condition, {}).items():
            colour, line = FLOORS.get(name, (GREY, ":"))
            bounds = (place - 0.42, place + 0.42)
            axis.hlines(level, *bounds, color=colour, linestyle=line, label=name if place == 0 else None)
    axis.set_xticks(range(len(conditions)), names or conditions)
    axis.grid(axis="x", visible=False)
    axis.set_ylabel(label)
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    return figure
