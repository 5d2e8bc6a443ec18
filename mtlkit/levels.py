"""Floors: what is easily had on a study's data without a network, in the same numbers as its contenders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from torch import Tensor

from mtlkit.datasets import Dataset
from mtlkit.datasets.base import Split
from mtlkit.progress import progress
from mtlkit.results import Runs
from mtlkit.store import Store
from mtlkit.studies import HOLD_OUT
from mtlkit.tasks import Task, labelled, labelled_by_task, pack, per_sample_losses

CONSTANT, LINEAR, CLEAN, TREES = "constant", "linear model", "linear model, clean rows", "boosted trees"
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
"""Inverse penalties (C of a logistic, 1/alpha of a ridge regression) among which a linear model chooses."""


def levels(
    data: Dataset, seeds: int, *, trees: bool = False, store: str | Path | None = None, missing: str = "train"
) -> dict[str, Runs]:
    """The floors of a study, for the main task, as runs with one epoch.

    ``constant``: the mean of the clean meta labels. ``linear model``: ridge or logistic regression on the training
    rows, noisy labels included; its penalty is lowered while the meta rows' loss falls (weak ones take by far the
    longest). ``linear model, clean rows``: the same on three quarters of the meta rows, the last quarter choosing.
    ``boosted trees``: scikit-learn's histogram gradient boosting with its defaults, on the training rows. Of token ids
    they see how often each occurs in a row.

    Args:
        seeds: their number; each has its own draw of ``data``.
        trees: with boosted trees, for tables.
        store, missing: see :func:`mtlkit.studies.study`.

    Returns:
        floor to its runs: loss and metrics on the test split, at epoch 0.

    Raises:
        LookupError: a floor that is not in the store, with ``missing="raise"``.
    """
    names = [CONSTANT, LINEAR, CLEAN, *([TREES] if trees else [])]
    kept = None if store is None else Store(store)
    found = {}
    for name in names:
        settings = {"data": data.recipe, "model": name, "weighting": "none", "options": "none", "lr": 0.0}
        there = [] if kept is None else kept.seeds(settings, 0)
        left = [seed for seed in range(seeds) if seed not in there]
        if left and missing == "raise":
            raise LookupError(f"{store} has no {name} of {data.recipe} for seeds {left}, and training is switched off")
        if left and missing == "skip":
            continue
        rows = [(seed, _measured(name, data.resample(seed))) for seed in progress(left, f"{name} on {data.name}")]
        runs = _as_runs(name, data, rows)
        if kept is not None and rows:
            kept.add(settings, 0, runs)
        found[name] = runs if kept is None else kept.runs(settings, 0, range(seeds), name)
    return found


def _as_runs(name: str, data: Dataset, rows: Sequence[tuple[int, Mapping[str, float]]]) -> Runs:
    long = [(seed, metric, value) for seed, measured in rows for metric, value in measured.items()]
    frame = pd.DataFrame(long, columns=["seed", "metric", "value"])
    frame = frame.assign(dataset=data.name, method=name, epoch=0, split="test", task=data.main.name, diverged=False)
    columns = ["dataset", "method", "seed", "epoch", "split", "task", "metric", "value", "diverged"]
    return Runs(frame[columns], pd.DataFrame(), data.main.name, {})


def _measured(name: str, data: Dataset) -> dict[str, float]:
    """Test loss and metrics of a floor on one draw."""
    data = as_counts(data)
    main, meta, target = data.main, labelled_rows(data.meta, data.main), data.test.y[data.main.name]
    if name == CONSTANT:
        output = _best_constant(main, meta.y[main.name], len(data.test))
    elif name == TREES:
        boosted = HistGradientBoostingRegressor if main.kind == "regression" else HistGradientBoostingClassifier
        output = _outputs(_fitted(boosted(random_state=0), labelled_rows(data.train, main), main), data.test, main)
    else:
        train = labelled_rows(data.train, main)
        if name == CLEAN:
            held = round(HOLD_OUT * len(meta))
            train, meta = (meta.take(rows) for rows in torch.arange(len(meta)).split([len(meta) - held, held]))
        lowest = np.inf
        for strength in STRENGTHS:
            model = _fitted(linear(data, strength), train, main)
            loss = _mean_loss(main, _outputs(model, meta, main), meta.y[main.name])
            if loss >= lowest:
                break
            lowest, output = loss, _outputs(model, data.test, main)
    return {"loss": _mean_loss(main, output, target), **main.metrics(output, target)}


def as_counts(data: Dataset) -> Dataset:
    """Token ids, where the inputs are such, replaced by how often each entry of the vocabulary occurs in the row."""
    text = data.text
    if text is None:
        return data

    def count(split: Split) -> Split:
        of_main = labelled_rows(split, data.main)
        hits = torch.zeros(len(of_main), text.entries).scatter_add_(1, of_main.x.long(), torch.ones_like(of_main.x))
        hits[:, text.padding] = 0
        return replace(of_main, x=hits)

    train, meta, test = map(count, data.splits.values())
    return replace(data, train=train, meta=meta, test=test)


def labelled_rows(split: Split, main: Task) -> Split:
    """The rows with a label of this task."""
    return split.take(labelled(split.y[main.name]).nonzero().squeeze(1))


def _best_constant(main: Task, labels: Tensor, rows: int) -> Tensor:
    if main.kind == "multiclass":
        counts = torch.bincount(labels, minlength=main.n_outputs).double() + 0.5
        return (counts / counts.sum()).log().expand(rows, -1)
    mean = labels.double().mean()
    if main.kind == "binary":
        edge = 0.5 / len(labels)
        mean = mean.clamp(edge, 1 - edge).logit()
    return mean.expand(rows)


def linear(data: Dataset, strength: float) -> BaseEstimator:
    """Ridge or logistic regression for the main task, categories one-hot."""
    coded = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), list(data.categories)), remainder="passthrough"
    )
    if data.main.kind == "regression":
        return make_pipeline(coded, Ridge(1 / strength))
    # Solved far beyond the default's tolerance, which leaves digits that differ from one processor to the next.
    return make_pipeline(coded, LogisticRegression(C=strength, solver="newton-cg", tol=1e-10, max_iter=2000))


def _fitted(model: BaseEstimator, split: Split, main: Task) -> BaseEstimator | Tensor:
    """The model fitted to these rows; their labels where they are of one class, which is then the best constant."""
    labels = split.y[main.name]
    if main.kind != "regression" and len(labels.unique()) < 2:
        return labels
    return model.fit(split.x.double().flatten(1).numpy(), labels.numpy())


def _outputs(model: BaseEstimator | Tensor, split: Split, main: Task) -> Tensor:
    """Predictions in the shape of a network's outputs: numbers, or logits."""
    if isinstance(model, Tensor):
        return _best_constant(main, model, len(split))
    x = split.x.double().flatten(1).numpy()
    if main.kind == "regression":
        return torch.from_numpy(np.asarray(model.predict(x), float))
    chances = torch.from_numpy(model.predict_proba(x)).clamp(1e-12, 1 - 1e-12)
    if main.kind == "binary":
        return chances[:, 1].logit()
    outputs = torch.full((len(x), main.n_outputs), float(np.log(1e-12)), dtype=torch.float64)
    outputs[:, torch.from_numpy(model.classes_).long()] = chances.log()
    return outputs


def _mean_loss(main: Task, output: Tensor, target: Tensor) -> float:
    targets = pack((main,), {main.name: target})
    losses = per_sample_losses((main,), {main.name: output}, targets)
    return float(losses.sum() / labelled_by_task((main,), targets).sum())
