"""Models that need no network, and the recommended one: fitted, predicting, kept in a file of numbers and text."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor

from mtlkit import keep
from mtlkit.advice._columns import Reader
from mtlkit.datasets import Dataset
from mtlkit.results import Runs, as_frame, load_runs, predictions

SMALLEST = 1e-12
FORMAT = "mtlkit advice"
TREES = {
    "regression": HistGradientBoostingRegressor,
    "binary": HistGradientBoostingClassifier,
    "multiclass": HistGradientBoostingClassifier,
}


def flat(x: Tensor, categories: Mapping[int, int]) -> np.ndarray:
    """Inputs (N, F) with a column for each category in place of its codes."""
    others = [c for c in range(x.shape[1]) if c not in categories]
    coded = [F.one_hot(x[:, c].long(), size) for c, size in categories.items()]
    return torch.cat([x[:, others], *coded], 1).double().numpy()


@dataclass(frozen=True)
class Linear:
    """Outputs that are linear in the inputs; with weights of 0, the same for every row.

    Attributes:
        weight: (columns of :func:`flat`, outputs).
        bias: (outputs,): one number, or a logit, or a logit for each class.
        categories: as in a data set.
    """

    weight: Tensor
    bias: Tensor
    categories: Mapping[int, int]

    @classmethod
    def constant(cls, data: Dataset, y: np.ndarray) -> Linear:
        """The mean of the labels, or the share of each class."""
        width = flat(data.train.x[:1], data.categories).shape[1]
        if data.main.kind == "regression":
            bias = [y.mean()]
        else:
            n = data.main.n_classes or 2
            share = np.log((np.bincount(y.astype(int), minlength=n) + 0.5) / (len(y) + 0.5 * n))
            bias = share if data.main.kind == "multiclass" else [share[1] - share[0]]
        return cls(torch.zeros(width, len(bias)).double(), torch.tensor(np.asarray(bias, float)), data.categories)

    @classmethod
    def fit(cls, data: Dataset, x: Tensor, y: np.ndarray, strength: float) -> Linear:
        """scikit-learn's ridge (alpha = 1 / strength) or logistic (C = strength) regression."""
        rows, main = flat(x, data.categories), data.main
        if main.kind == "regression":
            model = Ridge(1 / strength).fit(rows, y)
            weight, bias = model.coef_[None], np.asarray([model.intercept_])
        else:
            solver = "newton-cholesky" if rows.shape[1] < min(500, len(rows)) else "lbfgs"
            model = LogisticRegression(C=strength, solver=solver, max_iter=2000).fit(rows, y)
            weight, bias = model.coef_, model.intercept_
            if main.kind == "multiclass":
                few = len(model.classes_) == 2
                shown = (np.r_[-weight, weight], np.r_[-bias, bias]) if few else (weight, bias)
                weight, bias = np.zeros((main.n_outputs, rows.shape[1])), np.full(main.n_outputs, np.log(SMALLEST))
                weight[model.classes_.astype(int)], bias[model.classes_.astype(int)] = shown
        return cls(torch.tensor(weight.T.copy()), torch.tensor(bias), data.categories)

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs (N, outputs) for inputs (N, F)."""
        return torch.from_numpy(flat(x, self.categories)) @ self.weight + self.bias


@dataclass(frozen=True)
class Trees:
    """Boosted trees as numbers: the nodes of all trees one after the other.

    Attributes:
        nodes: (nodes, 6): column, threshold, whether a missing value goes left, left and right child (from the tree's
            first node; -1 at a leaf), value.
        first: (rounds, outputs) first node of each tree.
        start: (outputs,) what the trees add to.
    """

    nodes: Tensor
    first: Tensor
    start: Tensor

    @classmethod
    def of(cls, model: HistGradientBoostingClassifier | HistGradientBoostingRegressor, classes: int) -> Trees:
        """A fitted scikit-learn model (numeric inputs) as numbers.

        Args:
            classes: of a multiclass task; 1 for others.
        """
        names = ["feature_idx", "num_threshold", "missing_go_to_left", "left", "right", "value"]
        grown = [[tree.nodes for tree in trees] for trees in model._predictors]
        shown = np.arange(1) if classes == 1 else model.classes_.astype(int)
        start = np.full(classes, np.log(SMALLEST))
        if len(shown) == 2:  # one tree a round, for the logit of the second against the first
            start[shown[0]], shown = 0, shown[1:]
        start[shown] = np.ravel(model._baseline_prediction)
        first, nodes, count = np.zeros((len(grown), classes), int) - 1, [], 0
        for n, trees in enumerate(grown):
            for k, tree in zip(shown, trees, strict=True):
                table = np.stack([tree[name].astype(float) for name in names], 1)
                table[tree["is_leaf"] == 1, 3:5] = -1
                first[n, k], count = count, count + len(table)
                nodes.append(table)
        return cls(torch.from_numpy(np.concatenate(nodes)), torch.from_numpy(first), torch.from_numpy(start))

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs (N, outputs) for inputs (N, F)."""
        x, total = x.double(), self.start.expand(len(x), -1).clone()
        column, threshold, missing_left, left, right, value = self.nodes.unbind(1)
        column, left, right = column.long(), left.long(), right.long()
        for trees in self.first.tolist():
            for k, root in enumerate(trees):
                if root < 0:
                    continue
                at = torch.full((len(x),), root)
                while (inner := left[at] >= 0).any():
                    found = x.gather(1, column[at][:, None])[:, 0]
                    goes_left = torch.where(torch.isnan(found), missing_left[at] > 0, found <= threshold[at])
                    at = torch.where(inner, root + torch.where(goes_left, left[at], right[at]), at)
                total[:, k] += value[at]
        return total


def boosted(kind: str, rounds: int, leaves: int) -> HistGradientBoostingClassifier | HistGradientBoostingRegressor:
    """scikit-learn's boosted trees, not stopped early."""
    return TREES[kind](max_iter=rounds, max_leaf_nodes=leaves, early_stopping=False, random_state=0)


@dataclass(frozen=True)
class Model:
    """The recommended model, fitted on the whole table.

    Attributes:
        level: what it is.
        reader: from rows as they come to inputs.
        fitted: the model.
        data: the data set's outline, with the encoder of its training rows.
    """

    level: str
    reader: Reader
    fitted: Linear | Trees | Runs
    data: Dataset

    def predict(self, frame: pd.DataFrame) -> pd.Series | pd.DataFrame:
        """The main target of these rows.

        Args:
            frame: a table like the one that was given, with its input columns; others do not matter.

        Returns:
            by the index of the frame, for a regression a series in the target's own units, else a frame of
            probabilities with a column for each class.

        Raises:
            Refused: a column is missing or holds something else.
        """
        inputs = self.reader(frame)
        if isinstance(self.fitted, Runs):
            return self.fitted.predict(inputs)
        main, encode = self.data.main, self.data.encoder
        assert encode is not None
        found = predictions(main, self.fitted(encode(inputs)), self.data.scale.get(main.name, (0.0, 1.0)))
        return as_frame(found, frame.index, main.name, self.data)

    def save(self, path: str | os.PathLike) -> None:
        """Keep the model in one file, without a row of the table, for :func:`mtlkit.load_advised`."""
        about = json.dumps({"level": self.level, "columns": self.reader.columns, "data": keep.pack_data(self.data)})
        if isinstance(self.fitted, Runs):
            self.fitted.save(path)
            keep.write_file(path, keep.read_file(path) | {"advice": about})
            return
        parts = {name: value for name, value in vars(self.fitted).items() if isinstance(value, Tensor)}
        keep.write_file(path, {"format": FORMAT, "advice": about, "kind": type(self.fitted).__name__, **parts})


def load_advised(path: str | os.PathLike) -> Model:
    """The model that :meth:`Model.save` kept.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, or one that holds something else.
    """
    content = keep.read_file(path, (FORMAT, keep.FORMAT))
    if "advice" not in content:
        raise ValueError(f"{path} holds runs, expected a model that Advice.model.save wrote")
    about = json.loads(content["advice"])
    data, reader = keep.unpack_data(about["data"]), Reader(tuple(map(tuple, about["columns"])))
    fitted: Runs | Trees | Linear
    if content["format"] == keep.FORMAT:
        fitted = load_runs(path)
    elif content["kind"] == "Trees":
        fitted = Trees(content["nodes"], content["first"], content["start"])
    else:
        fitted = Linear(content["weight"], content["bias"], data.categories)
    return Model(about["level"], reader, fitted, data)
