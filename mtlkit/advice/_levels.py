"""How good is what could be used? Every level on the same held-out rows: from a constant to weighted networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from sklearn import metrics as skm

from mtlkit import studies
from mtlkit.advice._models import Linear, Model, Trees, boosted
from mtlkit.advice._prepare import Prepared, dataset_of
from mtlkit.datasets import Dataset, Split
from mtlkit.datasets.base import join_splits
from mtlkit.datasets.tabular import Table
from mtlkit.levels import CONSTANT, LINEAR, STRENGTHS, TREES, labelled_rows
from mtlkit.models import MultiTaskModel, mlp
from mtlkit.progress import progress
from mtlkit.results import Runs, predictions
from mtlkit.studies import Candidate
from mtlkit.tasks import Task
from mtlkit.weighting import GradientCosine, HydaLearn, SLGrad, Uniform, Weighting
from mtlkit.workers import parallel

WITH = "boosted trees, if auxiliaries are known"
SINGLE, EQUAL = "network, main task alone", "network, equal weights"
WEIGHTED = {"network, SLGrad": SLGrad()}
MORE = {"network, GradientCosine": GradientCosine(), "network, HydaLearn": HydaLearn()}
"""What ``effort="thorough"`` tries besides."""

LEAVES = (31, 4)
ROUNDS = {"binary": 200, "regression": 200, "multiclass": 60}
MOST_APART = 4
"""Auxiliaries that are tried one by one; more of them only with ``effort="thorough"``."""


@dataclass(frozen=True)
class Effort:
    """How long the networks may train.

    Attributes:
        epochs: cap; the patience is a fifth of it.
        steps: of an epoch.
        batch: rows of a step, or all that there are.
        hidden: width of the two shared layers.
        doublings: how often the cap is doubled while something is still improving.
        tuning: draws on which settings are chosen.
        methods: weightings beside equal weights.
        apart: most auxiliaries that are tried one by one.
    """

    epochs: int
    steps: int
    batch: int
    hidden: int
    doublings: int = 0
    tuning: int = 3
    methods: Mapping[str, Weighting] = field(default_factory=lambda: WEIGHTED)
    apart: int = MOST_APART

    @classmethod
    def of(cls, effort: str, rows: int) -> Effort:
        """For so many labelled rows."""
        if effort == "quick":
            return cls(15, 20, 64, 32)
        more: dict[str, Any] = (
            {"doublings": 2, "tuning": 5, "methods": WEIGHTED | MORE, "apart": 99} if effort == "thorough" else {}
        )
        if rows > 10_000:
            return cls(30, 40, 256, 32, **more)
        return cls(50, 20, 64 if rows <= 2000 else 128, 32, **({"doublings": 1} | more))


@dataclass(frozen=True)
class Found:
    """What every level says of the held-out rows.

    Attributes:
        predictions: level to (rows, predictions) of each repetition; probabilities (n, C), or (n,) in own units.
        settings: of the linear model and the trees, and the learning rates of the networks.
        runs: of the networks.
        epochs: the longest cap that a network had.
        unfinished: networks that were still improving at the end, or whose best learning rate is the last one tried.
    """

    predictions: Mapping[str, list[tuple[np.ndarray, np.ndarray]]]
    settings: Mapping[str, Any]
    runs: Mapping[str, Runs]
    epochs: int
    unfinished: list[str]

    def scores(self, target: np.ndarray, score: Callable) -> pd.DataFrame:
        """The metric that decides: a row for each repetition, a column for each level."""
        return pd.DataFrame(
            {name: [score(target[rows], said) for rows, said in parts] for name, parts in self.predictions.items()}
        )


def scorer(main: Task, balanced: bool) -> tuple[str, Callable[[np.ndarray, np.ndarray], float]]:
    """The metric that decides, its name and the function of labels and predictions."""
    if main.kind == "regression":
        return "rmse", lambda y, said: float(skm.root_mean_squared_error(y, said))
    if main.kind == "binary":
        return "ROC AUC", lambda y, said: float(skm.roc_auc_score(y, said[:, 1]))
    score = skm.balanced_accuracy_score if balanced else skm.accuracy_score
    name = "balanced accuracy" if balanced else "accuracy"
    return name, lambda y, said: float(score(y, said.argmax(1)))


def row_losses(main: Task, y: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Each row's loss: squared error, or minus the logarithm of the label's probability."""
    if main.kind == "regression":
        return np.square(y - said)
    return -np.log(np.maximum(said[np.arange(len(y)), y.astype(int)], 1e-12))


def network(data: Dataset, effort: Effort) -> MultiTaskModel:
    """Two shared layers and a linear head for each task."""
    return mlp(data, hidden=(effort.hidden, effort.hidden))


def networks(data: Dataset, effort: Effort) -> dict[str, Candidate]:
    """The networks: the main task alone, with each auxiliary by itself, and all tasks with each weighting."""
    main, *others = (task.name for task in data.tasks)
    parts = {SINGLE: [main]}
    if 1 < len(others) <= effort.apart:
        parts |= {network_with(name): [main, name] for name in others}
    if others:
        parts[EQUAL] = [main, *others]
    found = {}
    for name, tasks in parts.items():
        part = data.only(tasks)
        found[name] = Candidate(network(part, effort), part, Uniform(), {"meta_batch_size": None})
    for name, weighting in (effort.methods if others else {}).items():
        found[name] = Candidate(network(data, effort), data, weighting)
    return found


def network_with(name: str) -> str:
    """What the network with equal weights that learns this auxiliary alone beside the main task is called."""
    return f"network, equal weights, only {name}"


def try_levels(prepared: Prepared, effort: Effort, jobs: int) -> Found:
    """Choose settings on the meta rows of a few repetitions, fit every level in all, predict their test rows."""
    table, draws, inner = prepared.table, prepared.draws, prepared.inner
    data, repetitions = prepared.data, len(draws) // inner
    tuning = [inner * r for r in range(min(effort.tuning, repetitions))]
    settings = _plain_settings(data, tuning, jobs)
    predictions = plain(data, table, settings, range(0, len(draws), inner), jobs)
    candidates, options = networks(data, effort), fitting(data, effort)
    outcome = studies.study(
        {name: candidate for name, candidate in candidates.items() if not name.startswith(network_with(""))},
        seeds=len(draws),
        lrs=(0.003, 0.01, 0.03) if effort.epochs > 15 else (0.01,),
        tuning_seeds=tuning,
        more_lrs=3,
        doublings=effort.doublings,
        jobs=jobs,
        label="networks, ",
        **options,
    )
    choices, rates = outcome.choices, outcome.choices["lr"].to_dict()
    unfinished = choices.index[(choices["late"] > studies.LATE) | choices["edge"]].tolist()
    rates |= {name: rates[SINGLE] for name in candidates if name not in rates}
    epochs = int(choices["epochs"].max())
    todo = [(name, rates[name]) for name in candidates if name not in outcome.runs]
    again = options | {"epochs": epochs}
    rest = studies.fits(candidates, todo, "networks with one auxiliary", seeds=len(draws), jobs=jobs, **again)
    unfinished += [name for (name, _), run in rest.items() if studies.late(run, epochs).mean() > studies.LATE]
    runs = outcome.runs | {name: run for (name, _), run in rest.items()}
    for name in candidates:
        predictions[name] = [committee(runs[name], data, range(r * inner, (r + 1) * inner)) for r in range(repetitions)]
    return Found(predictions, settings | rates, runs, epochs, unfinished)


def fitting(data: Dataset, effort: Effort) -> dict[str, Any]:
    """Options of :func:`mtlkit.fit`."""
    return {
        "epochs": effort.epochs,
        "patience": max(effort.epochs // 5, 1),
        "steps_per_epoch": effort.steps,
        "batch_size": min(effort.batch, len(data.train)),
        "meta_batch_size": min(256, len(data.meta)),
        "optimizer": torch.optim.Adam,
        "dtype": torch.float64,
        "device": "cpu",
    }


def committee(runs: Runs, data: Dataset, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The test rows of a repetition, and the mean prediction of the networks of its parts."""
    diverged = set(runs.frame.loc[runs.frame["diverged"], "seed"])
    found = []
    for seed in [s for s in seeds if s not in diverged] or seeds:
        draw = data.resample(seed)
        with torch.no_grad():
            outputs = runs.model(seed)(draw.test.x.double())[draw.main.name].double()
        outputs = torch.nan_to_num(outputs.reshape(len(draw.test), -1))
        found.append(predictions(draw.main, outputs, draw.scale.get(draw.main.name, (0.0, 1.0))).numpy())
    order = draw.test.rows.numpy()
    return order, np.mean(found, 0)


def plain(
    data: Dataset, table: Table, settings: Mapping[str, Any], seeds: Sequence[int], jobs: int
) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Test rows and predictions of the levels that need no network, in each of these draws."""
    calls = [joblib.delayed(_without_network)(data.resample(seed), table, settings) for seed in seeds]
    done = _in_order(calls, "linear models and trees", jobs)
    return {level: [found[level] for found in done] for level in done[0]}


def _in_order(calls: list, label: str, jobs: int) -> list:
    """The results of calls, while a progress bar tells how many are there."""
    found = dict(pair for _, pair in zip(progress(calls, label), parallel(calls, jobs), strict=True))
    return [found[n] for n in range(len(calls))]


def _without_network(draw: Dataset, table: Table, settings: Mapping) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    known = all_known(draw)
    x, y = known.x, known.y[draw.main.name].numpy()
    scale = draw.scale.get(draw.main.name, (0.0, 1.0))
    rows = draw.test.rows.numpy()
    said = {
        CONSTANT: Linear.constant(draw, y)(draw.test.x),
        LINEAR: Linear.fit(draw, x, y, settings[LINEAR])(draw.test.x),
        TREES: _grown(draw, settings[TREES], x.numpy(), y, draw.test.x.numpy()),
    }
    if len(table.tasks) > 1:
        own, others = (np.c_[part.x.numpy(), _auxiliaries_of(table, part.rows)] for part in (known, draw.test))
        said[WITH] = _grown(draw, settings[TREES], own, y, others)
    return {name: (rows, predictions(draw.main, out, scale).numpy()) for name, out in said.items()}


def _grown(draw: Dataset, settings: tuple[int, int], x: np.ndarray, y: np.ndarray, new: np.ndarray) -> torch.Tensor:
    model = boosted(draw.main.kind, *settings).fit(x, y)
    say = model.predict if draw.main.kind == "regression" else model.decision_function
    return _of_trees(draw.main, model, say(new))


def _of_trees(main: Task, model: Any, said: np.ndarray) -> torch.Tensor:
    """scikit-learn's numbers in the shape of a network's outputs."""
    found = torch.from_numpy(np.asarray(said, float)).reshape(len(said), -1)
    if main.kind != "multiclass":
        return found
    outputs = torch.full((len(said), main.n_outputs), float(np.log(1e-12)), dtype=torch.float64)
    shown = torch.from_numpy(model.classes_).long()
    outputs[:, shown] = torch.cat([torch.zeros_like(found), found], 1) if len(shown) == 2 else found
    return outputs


def all_known(draw: Dataset) -> Split:
    """The rows of train and meta together that have a main label."""
    return labelled_rows(join_splits(draw.train, draw.meta), draw.main)


def _auxiliaries_of(table: Table, rows: torch.Tensor) -> np.ndarray:
    pairs = [(table.targets[task.name][rows].double(), task) for task in table.tasks[1:]]
    columns = [torch.where(c == -1, torch.nan, c) if t.n_classes else c for c, t in pairs]
    return torch.stack(columns, 1).numpy()


def _plain_settings(data: Dataset, tuning: Sequence[int], jobs: int) -> dict[str, Any]:
    """Penalty of the linear model, rounds and leaves of the trees: the lowest mean meta loss."""
    calls = [joblib.delayed(_meta_losses)(data.resample(seed)) for seed in tuning]
    done = _in_order(calls, "linear models and trees, settings", jobs)
    linear, trees = (np.mean([found[part] for found in done], 0) for part in range(2))
    leaves, rounds = np.unravel_index(trees.argmin(), trees.shape)
    return {LINEAR: STRENGTHS[linear.argmin()], TREES: (int(rounds) + 1, LEAVES[leaves])}


def _meta_losses(draw: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Meta losses of linear models (strengths,) and of trees (leaves, rounds)."""
    main, known = draw.main, labelled_rows(draw.train, draw.main)
    x, y = known.x, known.y[main.name].numpy()
    target = draw.meta.y[main.name].numpy()

    def loss(outputs: torch.Tensor) -> float:
        return row_losses(main, target, predictions(main, outputs).numpy()).mean()

    linear = [loss(Linear.fit(draw, x, y, strength)(draw.meta.x)) for strength in STRENGTHS]
    trees = []
    for leaves in LEAVES:
        model = boosted(main.kind, ROUNDS[main.kind], leaves).fit(x.numpy(), y)
        staged = model.staged_predict if main.kind == "regression" else model.staged_decision_function
        trees.append([loss(_of_trees(main, model, said)) for said in staged(draw.meta.x.numpy())])
    return np.asarray(linear), np.asarray(trees)


def fit_on_all(prepared: Prepared, level: str, found: Found, effort: Effort) -> Model:
    """This level fitted on all rows, with the settings that were chosen: a network in as many parts as were judged."""
    data = dataset_of(prepared.table, prepared.parts)
    if level in found.runs:
        chosen = networks(data, effort)[level]
        options = fitting(data, effort) | {"epochs": found.epochs} | dict(chosen.options)
        runs = studies.fits(
            {level: chosen},
            [(level, found.settings[level])],
            "the recommended one on all rows",
            seeds=len(prepared.parts),
            jobs=1,
            **options,
        )[level, found.settings[level]]
        return Model(level, prepared.reader, runs, data.only([t.name for t in chosen.data.tasks]).outline())
    known = all_known(data)
    x, y = known.x, known.y[data.main.name].numpy()
    if level == CONSTANT:
        fitted: Linear | Trees = Linear.constant(data, y)
    elif level == LINEAR:
        fitted = Linear.fit(data, x, y, found.settings[LINEAR])
    else:
        model = boosted(data.main.kind, *found.settings[TREES]).fit(x.numpy(), y)
        fitted = Trees.of(model, data.main.n_classes or 1)
    return Model(level, prepared.reader, fitted, data.outline())
