"""Tell what happened: tidy frames of runs, and how runs compare."""

from __future__ import annotations

import copy
import itertools
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mtlkit import keep
from mtlkit.datasets import Dataset
from mtlkit.models import MultiTaskModel
from mtlkit.stats import contrast, estimate
from mtlkit.tasks import Task

MOMENTS = ("selected", "last")
PREDICTED_ROWS = 4096


class IncompleteRuns(UserWarning):
    """Runs are not all there: a seed diverged, training was interrupted, or a comparison leaves pairs out."""


@dataclass(frozen=True)
class Runs:
    """The runs of one method on one data set, one per seed.

    Attributes:
        frame: one row per measurement: dataset, method, seed, epoch, split, task, metric, value, diverged. ``epoch`` 0
            is before training. Losses are there for every epoch (from a store the training loss only at the first, the
            selected and the last), the main task's metrics at the selected epoch and the last. ``split`` "train" also
            has the metrics ``weight`` (the task's share of the total weight given in that epoch), ``weight_sd``
            (standard deviation of that share over the steps of the epoch; NaN where a step gave no weight at all) and,
            for noisy labels, ``noisy_weight`` (the share of the task's weight that went to them). What a per-epoch
            method adds is listed with it, e.g. :class:`mtlkit.AlphaVIL`.
        samples: one row per training sample and task: dataset, method, seed, row, task, noisy,
            weight (mean over all its visits, times batch size times number of tasks, so that
            uniform weights are 1; NaN where the label is missing or the row was never visited).
        main: name of the main task.
        states: ``"selected"`` and ``"last"`` to the stacked parameters and buffers, (seeds, ...), by name, at the
            selected and after the last epoch of each seed; empty for runs that were read from a store.
        select_from: first epoch that may be selected.
        draws: each seed's data set as an outline (:meth:`mtlkit.datasets.Dataset.outline`), with the encoder and
            the scale of its training rows; empty for runs that were read from a store.
        architecture: a model like those that were trained; None where there is none.
        recipe: the call of :func:`mtlkit.fit`, without the options that say where and how it runs; empty where an
            argument has no recipe (:mod:`mtlkit.recipes`).
        interrupted: whether training was stopped by hand (Ctrl-C): the runs are what there was then.
    """

    frame: pd.DataFrame
    samples: pd.DataFrame
    main: str
    states: dict[str, dict[str, Tensor]] = field(repr=False)
    select_from: int = 1
    draws: tuple[Dataset, ...] = field(default=(), repr=False)
    architecture: MultiTaskModel | None = field(default=None, repr=False)
    recipe: str = ""
    interrupted: bool = False

    @property
    def method(self) -> str:
        """What the frame calls the method."""
        return self.frame["method"].iloc[0]

    @property
    def seeds(self) -> list[int]:
        """The runs' seeds, in order."""
        return self.frame["seed"].unique().tolist()

    def state_dict(self, seed: int, at: str = "selected") -> dict[str, Tensor]:
        """Weights of the model trained with this seed, for ``model.load_state_dict``.

        Args:
            at: ``"selected"``, the model that :meth:`summary` reports on, or ``"last"``.

        Raises:
            ValueError: no run has this seed, or ``at`` is another word.
            LookupError: the runs were read from a store, which keeps no models.
        """
        _check_moment(at)
        if not self.states:
            raise LookupError(f"{self.method}: these runs were read from a store, which keeps numbers but no models")
        if seed not in self.seeds:
            raise ValueError(f"no run with seed {seed}, expected one of {self.seeds}")
        return {name: value[self.seeds.index(seed)] for name, value in self.states[at].items()}

    def model(self, seed: int) -> MultiTaskModel:
        """The model of this seed's selected epoch, on the CPU, in evaluation mode.

        Raises:
            ValueError: no run has this seed.
            LookupError: the runs were read from a store, or from a file without the model that was trained.
        """
        state = self.state_dict(seed)
        if self.architecture is None:
            raise LookupError(
                f"{self.method}: these runs have weights but no model to put them in, expected "
                "mtlkit.load_runs(path, model=...) with a model like those that were trained"
            )
        model = copy.deepcopy(self.architecture)
        model.to(next(value.dtype for value in state.values() if value.is_floating_point()))
        with torch.no_grad():
            for name, value in itertools.chain(model.named_parameters(), model.named_buffers()):
                value.copy_(state[name])
        return model.eval()

    def predict(
        self, rows: pd.DataFrame | Tensor, seeds: Sequence[int] | None = None, task: str | None = None
    ) -> pd.Series | pd.DataFrame:
        """What the selected models say about new rows, the mean over seeds.

        Args:
            rows: a frame with the input columns of the table that the data set was made from, which each seed
                encodes as its own training rows; or inputs (N, ...) as in ``Split.x``, the same for all seeds.
            seeds: all that did not diverge when None.
            task: the main task when None.

        Returns:
            by the index of the frame, for a regression a series in the target's own units, else a frame of
            probabilities with a column for each class.

        Raises:
            ValueError: no such seed or task, none that did not diverge, inputs of another shape, a frame that the
                encoder refuses (:class:`mtlkit.datasets.tabular.Encoder`) or for data that are not from a table, a
                task with more than one output per row and class.
            TypeError: neither a frame nor a tensor.
            LookupError: as for :meth:`model`.
        """
        if seeds is None:
            seeds = self.frame.loc[~self.frame["diverged"], "seed"].unique().tolist()
        if not len(seeds):
            raise ValueError(f"{self.method}: of the seeds {self.seeds} none is given or all diverged, expected one")
        found = [_predicted(self.model(seed), self.draws[self.seeds.index(seed)], rows, task) for seed in seeds]
        index = rows.index if isinstance(rows, pd.DataFrame) else None
        return as_frame(torch.stack(found).mean(0), index, task or self.main, self.draws[0])

    def save(self, path: str | os.PathLike) -> None:
        """Keep the runs in one file, for :func:`load_runs`; a file that is there is replaced at once.

        ``torch.load(path, weights_only=True)`` reads it too: states and the frame's numbers as tensors, the data
        sets' outlines as JSON.

        Raises:
            ValueError: an input column's name or category is neither text nor number.
        """
        kept = {name: getattr(self, name) for name in ("main", "states", "select_from", "recipe")}
        kept |= {name: keep.pack_frame(getattr(self, name)) for name in ("frame", "samples")}
        kept["draws"] = json.dumps([keep.pack_data(draw) for draw in self.draws])
        keep.write_file(path, {**kept, "model": getattr(self.architecture, "recipe", "")})

    def weights(self) -> pd.DataFrame:
        """The frame's rows of metric ``weight``: seed, epoch, split, task, metric, value."""
        rows = self.frame[self.frame["metric"] == "weight"]
        return rows[["seed", "epoch", "split", "task", "metric", "value"]]

    def selected(self) -> pd.Series:
        """Per seed, the epoch with the lowest main-task loss on the meta split.

        On a tie the first, or the first at which its metrics are known: a store has rounded losses.

        From :attr:`select_from` on; a seed that diverged before has no such epoch, and its last one stands in.
        """
        frame = self.frame
        curve = frame[(frame.split == "meta") & (frame.task == self.main) & (frame.metric == "loss")]
        wide = curve.pivot(index="seed", columns="epoch", values="value").fillna(np.inf).loc[self.seeds]
        last = curve.groupby("seed")["epoch"].max()
        late = wide.loc[:, wide.columns >= self.select_from]
        if not late.shape[1]:
            return last.rename("epoch")
        measured = frame[(frame.split == "test") & (frame.task == self.main) & (frame.metric != "loss")]
        known = measured.groupby(["seed", "epoch"]).size().unstack().reindex_like(late).notna()
        best = (late.eq(late.min(axis=1), axis=0) * (1.0 + known)).idxmax(axis=1)
        return best.clip(upper=last).rename("epoch")

    def final(self, at: str = "selected") -> pd.DataFrame:
        """The frame's rows at the epoch selected on the meta split, or at the last epoch.

        A diverged seed has stopped: its values are NaN at either.

        Raises:
            ValueError: ``at`` is neither ``"selected"`` nor ``"last"``.
        """
        _check_moment(at)
        frame = self.frame
        wanted = self.selected() if at == "selected" else frame.groupby("seed")["epoch"].max()
        rows = frame[frame["epoch"] == frame["seed"].map(wanted)]
        return rows.assign(value=rows["value"].where(~rows["diverged"]))

    def summary(self, at: str = "selected", split: str = "test", overlap: float = 0.0) -> pd.DataFrame:
        """Mean and 95 % interval over seeds, per method, task and metric; see :func:`mtlkit.stats.estimate`."""
        rows = self.final(at)
        rows = rows[rows["split"] == split]
        by = ["method", "task", "metric"]
        return estimate(rows.groupby(by, sort=False)["value"], overlap)


def load_runs(path: str | os.PathLike, model: MultiTaskModel | None = None) -> Runs:
    """The runs that :meth:`Runs.save` kept.

    Args:
        model: a model like those that were trained, where that is not one of :mod:`mtlkit.models`. Without it the
            runs have their numbers and weights, but ``model`` and ``predict`` raise LookupError.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, one of another version, a model with other weights.
    """
    kept = keep.read_file(path)
    draws = tuple(map(keep.unpack_data, json.loads(kept["draws"])))
    if model is None and draws:
        model = keep.model_of(kept["model"], draws[0])
    runs = Runs(
        **{name: keep.unpack_frame(kept[name]) for name in ("frame", "samples")},
        **{name: kept[name] for name in ("main", "states", "select_from", "recipe")},
        draws=draws,
        architecture=model,
    )
    if model is not None and runs.states:
        has = {name: tuple(v.shape) for name, v in (*model.named_parameters(), *model.named_buffers())}
        wanted = {name: tuple(v.shape[1:]) for name, v in runs.states["selected"].items()}
        for name in sorted(has.keys() | wanted.keys()):
            if has.get(name) != wanted.get(name):
                raise ValueError(f"the model has {name} of shape {has.get(name)}, expected {wanted.get(name)} ({path})")
    return runs


def _predicted(model: MultiTaskModel, draw: Dataset, rows: pd.DataFrame | Tensor, name: str | None) -> Tensor:
    """One seed's predictions, float64: (N,) in the target's own units, or (N, C) probabilities."""
    tasks = {task.name: task for task in draw.tasks}
    if name is not None and name not in tasks:
        raise ValueError(f"no task {name!r}, expected one of {', '.join(tasks)}")
    task = draw.main if name is None else tasks[name]
    x = _inputs(draw, rows).to(next(model.parameters()).dtype)
    with torch.no_grad():
        output = torch.cat([model(part, (task.name,))[task.name] for part in x.split(PREDICTED_ROWS)]).double()
    if output.numel() != len(x) * task.n_outputs:
        shape = tuple(output.shape[1:])
        raise ValueError(f"task {task.name!r} has outputs of {shape} for each row, expected {task.n_outputs}")
    return predictions(task, output.reshape(len(x), task.n_outputs), draw.scale.get(task.name, (0.0, 1.0)))


def predictions(task: Task, outputs: Tensor, scale: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Outputs (N, n_outputs) as probabilities (N, C), or (N,) in the target's own units.

    Args:
        scale: mean and standard deviation that were taken out of a regression target.
    """
    if task.kind == "multiclass":
        return outputs.softmax(1)
    if task.kind == "binary":
        return torch.cat([-outputs, outputs], 1).sigmoid()
    mean, sd = scale
    return outputs.squeeze(1) * sd + mean


def as_frame(values: Tensor, index: pd.Index | None, task: str, data: Dataset) -> pd.Series | pd.DataFrame:
    """Predictions (N,) as a series, probabilities (N, C) with a column for each class."""
    if values.ndim == 1:
        return pd.Series(values.numpy(), index, name=task)
    return pd.DataFrame(values.numpy(), index, columns=data.classes.get(task, range(values.shape[1])))


def _inputs(draw: Dataset, rows: pd.DataFrame | Tensor) -> Tensor:
    if isinstance(rows, pd.DataFrame):
        if draw.encoder is None:
            raise ValueError(f"the rows are a frame, but {draw.name} is not made from one: expected a tensor of inputs")
        return draw.encoder(rows)
    if not isinstance(rows, Tensor):
        raise TypeError(f"the rows are a {type(rows).__name__}, expected a pandas.DataFrame or a torch.Tensor")
    if rows.shape[1:] != draw.train.x.shape[1:]:
        expected = ", ".join(map(str, draw.train.x.shape[1:]))
        raise ValueError(f"the rows have shape {tuple(rows.shape)}, expected (N, {expected})")
    return rows


def _check_moment(at: str) -> None:
    if at not in MOMENTS:
        raise ValueError(f"at is {at!r}, expected one of {', '.join(MOMENTS)}")


def join_runs(parts: Sequence[Runs]) -> Runs:
    """Runs of the same method with different seeds as one, in this order."""
    if len(parts) == 1:
        return parts[0]
    return replace(
        parts[0],
        frame=pd.concat([part.frame for part in parts], ignore_index=True),
        samples=pd.concat([part.samples for part in parts], ignore_index=True),
        states={
            at: {name: torch.cat([part.states[at][name] for part in parts]) for name in state}
            for at, state in parts[0].states.items()
        },
        draws=tuple(draw for part in parts for draw in part.draws),
        interrupted=any(part.interrupted for part in parts),
    )


def compare(
    runs: Sequence[Runs],
    metric: str = "loss",
    task: str | None = None,
    at: str = "selected",
    split: str = "test",
    overlap: float = 0.0,
) -> pd.DataFrame:
    """Each run against the first, seed by seed.

    Args:
        runs: runs on the same data set with the same seeds; the first is the reference.
        task: the main task when None.
        overlap: test rows over training rows where the seeds split the same rows again, such as those of a small
            table; 0 where each seed has rows of its own (:func:`mtlkit.stats.contrast`).

    Returns:
        a row per further run: ``difference`` (mean of run minus reference), ``low`` and ``high``
        (95 % t interval), ``p`` (two-sided paired t-test) and ``seeds`` (pairs with both values finite). A warning
        says how many pairs are left out, since a seed diverged or the metric is undefined.

    Raises:
        ValueError: fewer than two runs, other seeds or another data set, no such metric or task.
    """
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} runs given, expected at least two to compare")
    task = task or runs[0].main
    columns = {}
    for run in runs:
        rows = run.final(at)
        rows = rows[(rows["split"] == split) & (rows["metric"] == metric) & (rows["task"] == task)]
        if rows.empty:
            known = sorted(set(zip(run.frame["task"], run.frame["metric"], strict=True)))
            raise ValueError(f"{run.method}: no {metric!r} of task {task!r} on {split!r}, found {known}")
        if run.method in columns:
            raise ValueError(f"two runs are called {run.method!r}, expected different names (fit(..., name=))")
        columns[run.method] = rows.set_index("seed")["value"]
    datasets = {run.frame["dataset"].iloc[0] for run in runs}
    if len(datasets) > 1:
        raise ValueError(f"runs are on different data sets: {', '.join(sorted(datasets))}")
    if any(set(run.seeds) != set(runs[0].seeds) for run in runs):
        raise ValueError(f"runs have different seeds: {'; '.join(f'{r.method} {r.seeds}' for r in runs)}")
    reference, *others = columns
    found = contrast(pd.DataFrame(columns), [(method, reference) for method in others], overlap=overlap)
    for method, pairs in zip(others, found["seeds"], strict=True):
        if pairs < len(runs[0].seeds):
            warnings.warn(
                f"{len(runs[0].seeds) - pairs} of {len(runs[0].seeds)} pairs of {method} and {reference} are left out: "
                f"a seed diverged, or its {metric} is undefined",
                IncompleteRuns,
                stacklevel=2,
            )
    shown = found[["difference", "low", "high", "p", "seeds"]]
    return shown.set_axis(pd.Index(others, name=f"against {reference}"))
