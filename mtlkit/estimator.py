"""scikit-learn estimators: a perceptron with one target that matters and auxiliary ones that help it."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)
from torch import Tensor

from mtlkit.datasets.tabular import Table, stratified_rows
from mtlkit.merging import Merging
from mtlkit.models import mlp
from mtlkit.results import Runs
from mtlkit.training import fit
from mtlkit.weighting import Uniform, Weighting

MAIN = "y"
META_SHARE = 0.2


class _Auxiliary(BaseEstimator):
    """What both estimators share."""

    def __init__(
        self,
        weighting: Weighting | Merging | None = None,
        *,
        hidden: tuple[int, ...] = (64, 64),
        epochs: int = 50,
        lr: float = 1e-2,
        batch_size: int = 64,
        seeds: int = 1,
        patience: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        """Keep the hyper-parameters.

        Args:
            weighting: of the tasks; :class:`mtlkit.Uniform` when None.
            hidden: widths of the shared layers.
            epochs: at most; the one with the lowest loss of the main task on the meta rows is kept.
            lr: learning rate of SGD with momentum 0.9.
            batch_size: rows per step, or all training rows where those are fewer.
            seeds: number of models with initial weights and data order of their own; predictions are their mean.
            patience: epochs without a lower loss on the meta rows after which a model is finished.
            random_state: draws the meta rows and the seeds.
        """
        self.weighting = weighting
        self.hidden = hidden
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.seeds = seeds
        self.patience = patience
        self.random_state = random_state

    def fit(
        self,
        X: pd.DataFrame | ArrayLike,
        y: ArrayLike,
        auxiliaries: pd.DataFrame | ArrayLike | None = None,
        meta: ArrayLike | None = None,
    ) -> Self:
        """Train on one main target and any auxiliary ones.

        Args:
            X: (N, features). A frame's text and categories are embedded; numbers may be missing.
            y: (N,) main target.
            auxiliaries: (N, tasks) targets, which may be missing; each column is of the kind that
                :func:`mtlkit.datasets.from_frame` finds.
            meta: (N,) bool, the rows that are not trained on, but select the epoch and guide the methods that look
                at the main task's held-out loss. A fifth at random when None, of each class where that is possible.

        Raises:
            ValueError: what scikit-learn refuses, one class, an auxiliary that cannot be a target, ``meta`` that
                leaves no row on either side, ``seeds`` that is no number of models, ``hidden`` that is no sequence of
                widths, or where every model diverged.
        """
        if not isinstance(self.seeds, Integral) or self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds!r}, expected how many models to train, 1 or more")
        if not isinstance(self.hidden, Sequence):
            raise ValueError(f"hidden is {self.hidden!r}, expected the widths of the layers, such as (64, 64)")
        frame = self._frame(X, reset=True)
        kind, labels = self._target(column_or_1d(y, warn=True))
        targets = {MAIN: pd.Series(labels), **_auxiliaries(auxiliaries)}
        check_consistent_length(frame, *targets.values())
        random = check_random_state(self.random_state)
        first = int(random.randint(2**31 - self.seeds))
        strata = torch.zeros(len(labels)) if kind == "regression" else torch.from_numpy(labels)
        train, held = _train_and_meta(strata.long(), meta, torch.Generator().manual_seed(first))
        data = Table.of(frame, targets, {MAIN: kind}).dataset(type(self).__name__, train, held, held)
        runs = fit(
            mlp(data, hidden=tuple(self.hidden)),
            data,
            Uniform() if self.weighting is None else self.weighting,
            epochs=self.epochs,
            lr=self.lr,
            batch_size=min(self.batch_size, len(train)),
            patience=self.patience,
            seeds=range(first, first + self.seeds),
            dtype=torch.float64,
        )
        if runs.frame.groupby("seed")["diverged"].first().all():
            raise ValueError(f"every model diverged with lr={self.lr}, expected a lower one")
        self.runs_: Runs = runs
        return self

    def _frame(self, X: pd.DataFrame | ArrayLike, reset: bool = False) -> pd.DataFrame:
        """The inputs, rows from 0, columns by their names in training."""
        if isinstance(X, pd.DataFrame):
            frame = validate_data(self, X, reset=reset, skip_check_array=True).reset_index(drop=True)
        else:
            frame = pd.DataFrame(validate_data(self, X, reset=reset, ensure_all_finite="allow-nan"))
        return frame.set_axis(getattr(self, "feature_names_in_", [f"x{i}" for i in range(frame.shape[1])]), axis=1)

    def _output(self, X: pd.DataFrame | ArrayLike) -> NDArray:
        check_is_fitted(self)
        return self.runs_.predict(self._frame(X)).to_numpy()

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class AuxiliaryClassifier(ClassifierMixin, _Auxiliary):
    """A perceptron that predicts classes and learns auxiliary targets beside them.

    Attributes:
        classes_: in the order of :meth:`predict_proba`.
        runs_: what was trained (:class:`mtlkit.Runs`), main task "y"; its test rows are the meta rows.
    """

    def _target(self, y: NDArray) -> tuple[str, NDArray]:
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has 1 class ({self.classes_.tolist()[0]!r}), expected 2 or more")
        return "binary" if len(self.classes_) == 2 else "multiclass", codes

    def predict_proba(self, X: pd.DataFrame | ArrayLike) -> NDArray:
        """Probabilities (N, classes), in the order of ``classes_``."""
        return self._output(X)

    def predict(self, X: pd.DataFrame | ArrayLike) -> NDArray:
        """The most probable classes (N,)."""
        classes = self._output(X).argmax(1)
        return self.classes_[classes]


class AuxiliaryRegressor(RegressorMixin, _Auxiliary):
    """A perceptron that predicts a number and learns auxiliary targets beside it.

    Attributes:
        runs_: what was trained (:class:`mtlkit.Runs`), main task "y"; its test rows are the meta rows.
    """

    def _target(self, y: NDArray) -> tuple[str, NDArray]:
        return "regression", check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")

    def predict(self, X: pd.DataFrame | ArrayLike) -> NDArray:
        """The main target (N,) in its own units."""
        return self._output(X)


def _auxiliaries(given: pd.DataFrame | ArrayLike | None) -> dict[str, pd.Series]:
    """Auxiliary targets by name, rows from 0."""
    if given is None:
        return {}
    frame = given
    if not isinstance(frame, pd.DataFrame):
        values = check_array(given, dtype=None, ensure_all_finite="allow-nan", input_name="auxiliaries")
        frame = pd.DataFrame(values).infer_objects().add_prefix("auxiliary ")
    names = [str(name) for name in frame]
    if len({MAIN, *names}) <= len(names):
        raise ValueError(f"auxiliaries has columns {names}, expected different names other than {MAIN!r}")
    return dict(frame.set_axis(names, axis=1).reset_index(drop=True).items())


def _train_and_meta(strata: Tensor, meta: ArrayLike | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows to train on and meta rows."""
    if meta is None:
        train, held, _ = stratified_rows(strata, META_SHARE, 0.0, generator)
        if not len(held):
            train, held = train[1:], train[:1]
    else:
        mask = np.asarray(meta)
        if mask.dtype != bool or mask.shape != (len(strata),):
            raise ValueError(f"meta is {mask.dtype} of shape {mask.shape}, expected bool of shape ({len(strata)},)")
        held, train = (torch.from_numpy(np.flatnonzero(rows)) for rows in (mask, ~mask))
    if not len(train) or not len(held):
        raise ValueError(
            f"{len(strata)} sample{'s' * (len(strata) > 1)} with {len(held)} meta rows, expected a row at least on "
            "either side"
        )
    return train, held
