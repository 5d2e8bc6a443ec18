"""Architectures in pictures: which task trains which part of a model, and how many numbers a model needs for its loss.

The first are read off a model itself. A box is a part with weights of its own, with a stripe for every task whose
loss trains it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from torch import nn

from companion import tables
from companion.figures import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, look
from mtlkit.models import LowLevel, MultiBackbone, Routed, Taps
from mtlkit.studies import Candidate, Study

COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
"""Of the tasks, the main one first."""
WIDTH, HEIGHT, RISE = 3.0, 0.5, 1.0
"""Of a box, and from one layer to the next."""
INPUTS = 0.4
"""How high the word stands that names them."""


def _canvas(names: Sequence[str], size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    axis.set_aspect("equal")
    axis.axis("off")
    marks = [
        Patch(color=colour, label=f"{name} (main)" if i == 0 else name)
        for i, (name, colour) in enumerate(zip(names, COLOURS, strict=False))
    ]
    figure.legend(
        handles=marks, loc="outside lower center", ncols=len(names), title="trained by the loss of", frameon=False
    )
    return figure, axis


def _box(axis: Axes, x: float, y: float, width: float, tasks: Sequence[int], text: str = "") -> None:
    """A box at its lower left corner with a stripe per task; dashed and empty where no task trains it."""
    for place, task in enumerate(tasks):
        stripe = HEIGHT / len(tasks)
        corner = (x, y + HEIGHT - (place + 1) * stripe)
        axis.add_patch(Rectangle(corner, width, stripe, facecolor=COLOURS[task], alpha=0.55, linewidth=0))
    line = {"edgecolor": BLACK, "linewidth": 1.2} if tasks else {"edgecolor": GREY, "linestyle": "--"}
    axis.add_patch(Rectangle((x, y), width, HEIGHT, facecolor="none", **line))
    axis.text(x + width / 2, y + HEIGHT / 2, text, ha="center", va="center", fontsize=9)


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=BLACK, linewidth=0.9))


def _heads(axis: Axes, tasks: Sequence[int], x: float, width: float, y: float) -> None:
    """A head per task side by side, each with an arrow from below."""
    gap = 0.2
    each = (width - gap * (len(tasks) - 1)) / len(tasks)
    for place, task in enumerate(tasks):
        left = x + place * (each + gap)
        _arrow(axis, (left + each / 2, y - RISE + HEIGHT), (left + each / 2, y))
        _box(axis, left, y, each, [task], "head")


def _trunk(axis: Axes, x: float, width: float, trained: Sequence[Sequence[int]], name: str = "layer") -> None:
    """Boxes from the first layer up, and the inputs below them."""
    middle = x + width / 2
    axis.text(middle, INPUTS, "inputs", ha="center", va="center", fontsize=9)
    for layer, tasks in enumerate(trained, start=1):
        _arrow(axis, (middle, (layer - 1) * RISE + HEIGHT if layer > 1 else INPUTS + 0.15), (middle, layer * RISE))
        _box(axis, x, layer * RISE, width, tasks, f"{name} {layer}")


def _framed(axis: Axes, left: float, right: float, top: float) -> None:
    axis.set(xlim=(left - 0.1, right + 0.1), ylim=(INPUTS - 0.2, top + 0.1))


def draw_low_level(model: LowLevel) -> Figure:
    """Each head at the layer that it reads; a layer has the stripes of the tasks whose losses reach it."""
    figure, axis = _canvas(model.names, (4.8, 4.2))
    stages = [model.stages[name] for name in model.names]
    layers = max(stages)
    _trunk(axis, 0, WIDTH, [[t for t, s in enumerate(stages) if s >= k] for k in range(1, layers + 1)])
    _heads(axis, [t for t, s in enumerate(stages) if s == layers], 0, WIDTH, (layers + 1) * RISE)
    right = WIDTH
    for stage in range(1, layers):
        low = [t for t, s in enumerate(stages) if s == stage]
        for place, task in enumerate(low):
            right, level = WIDTH + 2, stage * RISE + 1.2 * HEIGHT * ((len(low) - 1) / 2 - place)
            _arrow(axis, (WIDTH, stage * RISE + HEIGHT / 2), (right - 1, level + HEIGHT / 2))
            _box(axis, right - 1, level, 1, [task], "head")
    _framed(axis, 0, right, (layers + 1) * RISE + HEIGHT)
    return figure


def draw_routed(model: Routed) -> Figure:
    """The units of every layer, a row per task: filled where they are on the task's route."""
    figure, axis = _canvas(model.names, (4.8, 4.6))
    widest = max(route.mask.shape[1] for route in model.routes)
    side, tasks = WIDTH * 1.6 / widest, len(model.names)
    rise = tasks * side + 0.7
    axis.text(widest * side / 2, INPUTS, "inputs", ha="center", va="center", fontsize=9)
    for layer, route in enumerate(model.routes):
        low = RISE + layer * rise
        left = (widest - route.mask.shape[1]) * side / 2
        _arrow(axis, (widest * side / 2, low - 0.6 if layer else INPUTS + 0.15), (widest * side / 2, low - 0.05))
        for task, row in enumerate(route.mask.tolist()):
            for unit, kept in enumerate(row):
                corner = (left + unit * side, low + (tasks - 1 - task) * side)
                face = COLOURS[task] if kept else "white"
                axis.add_patch(Rectangle(corner, 0.86 * side, 0.8 * side, facecolor=face, edgecolor=GREY, alpha=0.8))
        middle = low + tasks * side / 2
        axis.text(-0.15, middle, f"units of\nlayer {layer + 1}", ha="right", va="center", fontsize=9)
    top = RISE + len(model.routes) * rise - 0.15
    _heads(axis, range(tasks), 0, widest * side, top)
    _framed(axis, -1.1, widest * side, top + HEIGHT)
    return figure


def draw_multi_backbone(model: MultiBackbone) -> Figure:
    """The trunks side by side, their features put together, and the heads that read all of them."""
    figure, axis = _canvas(model.names, (4.8, 4.6))
    every, width, gap = range(len(model.names)), 2.0, 0.5
    trunks = len(model.trunk)
    layers = sum(1 for layer in model.trunk[0] if any(True for _ in layer.parameters()))
    for trunk in range(trunks):
        left = trunk * (width + gap)
        _trunk(axis, left, width, [every] * layers)
        _arrow(axis, (left + width / 2, layers * RISE + HEIGHT), (left + width / 2, (layers + 1) * RISE))
    total, level = trunks * width + (trunks - 1) * gap, (layers + 1) * RISE
    axis.add_patch(Rectangle((0, level), total, HEIGHT / 2, facecolor="white", edgecolor=BLACK))
    axis.text(total / 2, level + HEIGHT / 4, "features of all trunks", ha="center", va="center", fontsize=8)
    _heads(axis, every, 0, total, level + RISE - HEIGHT / 2)
    _framed(axis, 0, total, level + RISE + HEIGHT / 2)
    return figure


def draw_taps(model: Taps) -> Figure:
    """The shared layers and, beside each, every task's change of it: filled where the task has switched it on."""
    figure, axis = _canvas(model.names, (5.6, 4.2))
    every = range(len(model.names)) if next(model.trunk.parameters()).requires_grad else []
    _trunk(axis, 0, WIDTH, [every] * len(model.layers), "shared layer")
    for layer in range(len(model.layers)):
        level = (layer + 1) * RISE
        for task, on in enumerate(model.switches()[:, layer].tolist()):
            left = WIDTH + 0.35 + task * 0.95
            _box(axis, left, level, 0.75, [task] if on else [], "+ δ" if on else "off")
    _heads(axis, range(len(model.names)), 0, WIDTH, (len(model.layers) + 1) * RISE)
    right = WIDTH + 0.35 + len(model.names) * 0.95
    axis.text((WIDTH + right) / 2, 0.75, "the tasks' own changes", ha="center", va="center", fontsize=9)
    _framed(axis, 0, right, (len(model.layers) + 1) * RISE + HEIGHT)
    return figure


def n_parameters(model: nn.Module) -> int:
    """How many numbers a model has, without the tasks' own changes of the layers in TAPS."""
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith("changes."))


def kept(
    condition: str, candidates: Mapping[str, Candidate | Sequence[Candidate]], outcome: Study, n_tasks: int
) -> pd.DataFrame:
    """What each contender has to keep for all tasks, in the form of :func:`companion.tables.per_seed_table`.

    Args:
        candidates: as given to the study; the variants of one have as many parameters.
        n_tasks: T; ``separate models`` are T times ``single task``.

    Returns:
        ``parameters``, with what each task has switched on in TAPS, and that model's own ``task_share``.
    """
    rows = []
    for name, runs in outcome.runs.items():
        given = candidates[name]
        total = n_parameters((given if isinstance(given, Candidate) else given[0]).model)
        told = runs.frame[runs.frame["metric"].isin(["task_parameters", "task_share"])]
        told = told.pivot(index="seed", columns="metric", values="value").reindex(runs.seeds)
        own = told.get("task_parameters", pd.Series(0.0, runs.seeds))
        rows += [(condition, name, seed, "parameters", total + value) for seed, value in own.items()]
        rows += [
            (condition, name, seed, "task_share", value) for seed, value in told.get("task_share", own[:0]).items()
        ]
        if name == "single task":
            rows += [(condition, "separate models", seed, "parameters", n_tasks * total) for seed in runs.seeds]
    return pd.DataFrame(rows, columns=tables.PER_SEED).astype({"value": float})


def sizes(table: pd.DataFrame, floors: dict[str, float]) -> Figure:
    """The test loss against the number of parameters: best are those at the lower left.

    Args:
        table: indexed by method: ``parameters``, and ``mean``, ``low`` and ``high`` of the loss.
        floors: names and levels, drawn as lines across.
    """
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axis = figure.subplots()
    for method, row in table.iterrows():
        colour, _, marker = look(method)
        axis.vlines(row["parameters"], row["low"], row["high"], color=colour, linewidth=1.5)
        axis.plot(row["parameters"], row["mean"], marker, color=colour, markersize=8, label=method)
    for name, level in floors.items():
        axis.axhline(level, color=GREY, linestyle="--" if name.startswith("linear") else ":", linewidth=1)
        axis.annotate(name, (0.5, level), (0, 3), ("axes fraction", "data"), "offset points", ha="center", fontsize=8)
    axis.set(xlabel="parameters for all tasks", ylabel="main-task test loss", xlim=(0, 1.1 * table["parameters"].max()))
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False)
    return figure
