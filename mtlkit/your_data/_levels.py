"""How good are the networks? Their own level, beside a linear model and always the same answer."""

from __future__ import annotations

import joblib
import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator
from sklearn.compose import make_column_transformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from torch import Tensor

from mtlkit import studies
from mtlkit.datasets import Dataset
from mtlkit.tasks import labelled, lower_is_better
from mtlkit.workers import in_order
from mtlkit.your_data._answers import METHODS, METRICS, SINGLE, named

LINEAR, CONSTANT = "linear model", "the same answer for every row"


def levels(outcome: studies.Study, data: Dataset, jobs: int = 2) -> pd.DataFrame:
    """What the contenders reach on the main task's test split, and what is easily had without them.

    The linear model (:func:`linear_model`) has the same inputs and rows; neither it nor the constant takes the meta
    split into account.

    Args:
        outcome: of :func:`in_units`.
        jobs: processes for the linear models.

    Returns:
        indexed by ``method``, the best first: ``mean`` and ``sd`` over seeds of the metric that decides, and ``seeds``.
    """
    metric = METRICS[data.main.kind]
    found = studies.per_seed(outcome, metric)[[SINGLE, *METHODS]]
    calls = (joblib.delayed(_yardsticks)(data.resample(seed), metric) for seed in found.index)
    found[[LINEAR, CONSTANT]] = in_order(calls, jobs)
    table = found.agg(["mean", "std", "count"]).T.set_axis(["mean", "sd", "seeds"], axis=1)
    table = table.astype({"seeds": int}).rename_axis("method")
    return table.sort_values("mean", ascending=lower_is_better(metric), kind="stable")


def answer_levels(table: pd.DataFrame, data: Dataset) -> str:
    """One sentence on :func:`levels`, and what it means where the networks are no better than what is easily had."""
    main, means = data.main, table["mean"].map("{:.3g}".format)
    text = (
        f"Single-task training reaches {means[SINGLE]}, a linear model {means[LINEAR]}, "
        f"{CONSTANT} {means[CONSTANT]} ({named(METRICS[main.kind], main.name)})."
    )
    order = list(table.index)
    gap = abs(table.loc[SINGLE, "mean"] - table.loc[CONSTANT, "mean"])
    if gap <= table.loc[SINGLE, "sd"]:
        text += " So it has hardly learned anything (the spread over seeds is as large): the answers below mean little."
    elif order.index(SINGLE) > order.index(CONSTANT):
        text += " So it is worse than knowing nothing: the answers below mean little."
    if set(order[: order.index(LINEAR)]) <= {CONSTANT}:
        text += " No network is ahead of the linear model: consider that one first."
    return text


def linear_model(data: Dataset) -> BaseEstimator:
    """Ridge or logistic regression for the main task, with scikit-learn's default penalty, categories one-hot."""
    coded = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), list(data.categories)), remainder="passthrough"
    )
    return make_pipeline(coded, Ridge() if data.main.kind == "regression" else LogisticRegression(max_iter=1000))


def _yardsticks(data: Dataset, metric: str) -> tuple[float, float]:
    constant = DummyRegressor() if data.main.kind == "regression" else DummyClassifier(strategy="prior")
    return _score(linear_model(data), data, metric), _score(constant, data, metric)


def _score(estimator: BaseEstimator, data: Dataset, metric: str) -> float:
    main = data.main
    labels = data.train.y[main.name]
    known = labelled(labels)
    estimator.fit(data.train.x[known].numpy(), labels[known].numpy())
    value = main.metrics(_outputs(estimator, data), data.test.y[main.name])[metric]
    return value * data.scale[main.name][1] if main.name in data.scale else value


def _outputs(estimator: BaseEstimator, data: Dataset) -> Tensor:
    """Predictions in the shape and order of a network's outputs: numbers, or a score per class."""
    x = data.test.x.numpy()
    if data.main.kind == "regression":
        return torch.from_numpy(np.asarray(estimator.predict(x), float))
    seen = torch.from_numpy(estimator.predict_proba(x))
    if data.main.kind == "binary":
        return seen[:, 1] - seen[:, 0]
    outputs = torch.zeros(len(x), data.main.n_classes, dtype=seen.dtype)
    outputs[:, torch.from_numpy(estimator.classes_).long()] = seen
    return outputs
