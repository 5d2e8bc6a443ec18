"""What a task is: the kinds with their losses and metrics, which way is better, and how a missing label looks."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from sklearn import metrics as skm
from torch import Tensor

FEW_VALUES = 10
"""Up to so many whole numbers from 0 or 1 on are taken for classes."""


class Metric(NamedTuple):
    """A metric beside the loss.

    Attributes:
        measure: from the labels and the outputs (of classes: the most probable one), (N,) each, to a number.
        lower_is_better: whether a small value is a good one.
        defined: whether it has a value for these labels, of which there is one at least.
    """

    measure: Callable[[np.ndarray, np.ndarray], float]
    lower_is_better: bool
    defined: Callable[[np.ndarray], bool] = lambda labels: True


class Kind(NamedTuple):
    """What all tasks of a kind have in common.

    Attributes:
        loss: from outputs, labels and the share of flipped labels to the losses, of all tasks of the kind at once.
        metrics: by name; the first is the one that decides.
        per_class: whether there is an output for each class, rather than one in all.
    """

    loss: Callable[[Tensor, Tensor, float], Tensor]
    metrics: Mapping[str, Metric]
    per_class: bool = False


def _squared_errors(
    output: Float[Tensor, "batch tasks *place"], target: Shaped[Tensor, "batch tasks *place"], flip: float
) -> Float[Tensor, "batch tasks *place"]:
    return (output - target.to(output.dtype)).square()


def _binary_losses(
    output: Float[Tensor, "batch tasks *place"], target: Shaped[Tensor, "batch tasks *place"], flip: float
) -> Float[Tensor, "batch tasks *place"]:
    """−log((1 − flip) p_y + flip (1 − p_y)), p_y the probability of the label."""
    target = target.to(output.dtype)
    if flip in (0, 1):
        return F.binary_cross_entropy_with_logits(output, 1 - target if flip else target, reduction="none")
    towards = output * (2 * target - 1)
    kept, flipped = F.logsigmoid(towards) + math.log1p(-flip), F.logsigmoid(-towards) + math.log(flip)
    return -torch.stack([kept, flipped]).logsumexp(0)


def _cross_entropies(
    output: Float[Tensor, "batch classes tasks *place"], target: Shaped[Tensor, "batch tasks *place"], flip: float
) -> Float[Tensor, "batch tasks *place"]:
    return F.cross_entropy(output, target.long(), reduction="none")


def _both_classes(labels: np.ndarray) -> bool:
    return labels.min() != labels.max()


KINDS = {
    "regression": Kind(
        _squared_errors,
        {
            "rmse": Metric(skm.root_mean_squared_error, True),
            "mae": Metric(skm.mean_absolute_error, True),
            "r2": Metric(skm.r2_score, False, lambda labels: len(labels) > 1),
        },
    ),
    "binary": Kind(
        _binary_losses,
        {
            "roc_auc": Metric(skm.roc_auc_score, False, _both_classes),
            "average_precision": Metric(skm.average_precision_score, False, _both_classes),
            "accuracy": Metric(lambda labels, logits: skm.accuracy_score(labels, logits > 0), False),
        },
    ),
    "multiclass": Kind(_cross_entropies, {"accuracy": Metric(skm.accuracy_score, False)}, per_class=True),
}
"""The kinds of tasks by name. Metrics are scikit-learn's."""


def lower_is_better(metric: str) -> bool:
    """Whether a small value of ``"loss"`` or of a metric of :data:`KINDS` is a good one.

    Raises:
        ValueError: no such metric.
    """
    known = {"loss": True} | {name: m.lower_is_better for kind in KINDS.values() for name, m in kind.metrics.items()}
    if metric not in known:
        raise ValueError(f"metric is {metric!r}, expected one of {', '.join(known)}")
    return known[metric]


def taken_for(column: pd.Series) -> tuple[str, str]:
    """The kind of task that a target column is taken for where nothing is said, and why.

    Two values are binary; other text and categories, and whole numbers from -1, 0 or 1 without a gap, at most
    :data:`FEW_VALUES` of them, multiclass; other numbers a regression.

    >>> taken_for(pd.Series(["no", "yes", None])), taken_for(pd.Series([1.0, 2.0, 3.0, 2.0]))
    (('binary', 'two values'), ('multiclass', 'the whole numbers 1 to 3'))
    """
    values = column.dropna().unique()
    if len(values) == 2:
        return "binary", "two values"
    if not pd.api.types.is_numeric_dtype(column):
        return "multiclass", f"text, {len(values)} values"
    whole = np.sort(np.asarray(values, float))
    if 2 < len(whole) <= FEW_VALUES and whole[0] in (-1, 0, 1) and (np.diff(whole) == 1).all():
        return "multiclass", f"the whole numbers {whole[0]:.0f} to {whole[-1]:.0f}"
    return "regression", f"numbers, {len(values):,} values"


@dataclass(frozen=True)
class Task:
    """One task of a multi-task problem.

    Args:
        name: key of the task in the model's outputs and in the targets.
        kind: ``"regression"`` (squared error), ``"binary"`` (cross-entropy of one logit) or
            ``"multiclass"`` (cross-entropy of ``n_classes`` logits).
        n_classes: number of classes, for ``"multiclass"`` only.
        flip: known share φ of the *training* labels that are flipped, 0 to 1, for ``"binary"`` only. The
            training loss of a label then takes the probability of the label as it is recorded,
            p' = (1 − φ) p + φ (1 − p), in place of p = sigmoid(output), so that the output stays an estimate
            of the true label (forward correction for a symmetric flip: Patrini et al., *Making deep neural
            networks robust to label noise*, arXiv 1609.03683). At φ = 1/2 labels carry no information and
            have no gradient. Losses of meta and test rows, and all metrics, are those of p.

    A missing target is NaN in a floating-point target and -1 in an integer one. A target may have trailing axes
    (pixels, several regression outputs): a sample's loss is then the mean over its observed elements.

    Raises:
        ValueError: unknown kind; ``n_classes`` missing, below 2, or given for another kind; ``flip``
            outside 0 to 1, or not 0 for another kind.
        TypeError: ``n_classes`` that is no integer, ``flip`` that is no number.
    """

    name: str
    kind: str
    n_classes: int | None = None
    flip: float = 0.0

    def __post_init__(self) -> None:
        if self.n_classes is not None and (
            not isinstance(self.n_classes, numbers.Integral) or isinstance(self.n_classes, bool)
        ):
            raise TypeError(f"task {self.name!r}: n_classes is {self.n_classes!r}, expected an integer")
        if not isinstance(self.flip, numbers.Real):
            raise TypeError(f"task {self.name!r}: flip is {self.flip!r}, expected a share from 0 to 1")
        if self.kind not in KINDS:
            raise ValueError(f"task {self.name!r}: kind is {self.kind!r}, expected one of {', '.join(KINDS)}")
        if self.kind == "multiclass":
            if self.n_classes is None or self.n_classes < 2:
                raise ValueError(
                    f"task {self.name!r}: n_classes is {self.n_classes}, a multiclass task needs at least 2"
                )
        elif self.n_classes is not None:
            raise ValueError(f"task {self.name!r}: n_classes is {self.n_classes}, but a {self.kind} task takes none")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"task {self.name!r}: flip is {self.flip}, expected a share from 0 to 1")
        if self.flip and self.kind != "binary":
            raise ValueError(f"task {self.name!r}: flip is {self.flip}, but only a binary task takes one")

    @property
    def n_outputs(self) -> int:
        """Width of the head: ``n_classes`` logits, else one number."""
        return self.n_classes or 1

    def check(self, target: Tensor, size: int, values: bool = True) -> None:
        """Refuse a target that is not a label of this task.

        Args:
            target: the labels of ``size`` samples.
            values: whether to read the values, for which a GPU must finish all its work first.

        Raises:
            TypeError: not a tensor, or classes that are not integers.
            ValueError: wrong number of rows, infinite values, a class out of range.
        """
        where = f"task {self.name!r}"
        if not isinstance(target, Tensor):
            raise TypeError(f"{where}: target is a {type(target).__name__}, expected a torch.Tensor")
        if target.ndim == 0 or target.shape[0] != size:
            raise ValueError(f"{where}: target has shape {tuple(target.shape)}, expected {size} rows")
        if self.kind != "multiclass" and target.ndim == 2 and target.shape[1] == 1:
            raise ValueError(f"{where}: target has shape {tuple(target.shape)}, expected ({size},)")
        if self.kind == "multiclass" and target.is_floating_point():
            raise TypeError(f"{where}: target is {target.dtype}, expected integer classes 0 to {self.n_outputs - 1}")
        if not values or target.dtype == torch.bool:
            return
        known = target[labelled(target)]
        if known.is_floating_point() and not torch.isfinite(known).all():
            raise ValueError(f"{where}: target holds an infinite value; a missing label is NaN")
        if self.kind == "regression" or known.numel() == 0:
            return
        top = 1 if self.kind == "binary" else self.n_outputs - 1
        wrong = known[(known < 0) | (known > top) | (known != known.round())]
        if wrong.numel():
            raise ValueError(
                f"{where}: target holds {wrong[0].item():g}, expected integer classes 0 to {top} "
                "(missing: -1 in an integer target, NaN in a floating-point one)"
            )

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, float]:
        """The metrics of the task's kind (:data:`KINDS`), over the samples that have a label.

        A metric that is undefined (one class only, no label, outputs that are not finite) is NaN.
        """
        kind, where = KINDS[self.kind], labelled(target)
        output = output.detach()
        answer = (output.argmax(1) if kind.per_class else output.reshape(target.shape))[where].double().cpu().numpy()
        labels = target[where].double().cpu().numpy()
        finite = torch.isfinite(output).all() if kind.per_class else np.isfinite(answer).all()
        return {
            name: float(metric.measure(labels, answer))
            if len(labels) and finite and metric.defined(labels)
            else math.nan
            for name, metric in kind.metrics.items()
        }


def labelled(target: Shaped[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """Where a target has a label: not NaN (floating point), not -1 (integer)."""
    return ~torch.isnan(target) if target.is_floating_point() else target != -1


Packed = dict[tuple[str, ...], Shaped[Tensor, "batch _ ..."]]
"""Targets of a batch: names of tasks of one kind and flip rate to their targets, side by side."""


def pack(tasks: Sequence[Task], targets: Mapping[str, Tensor]) -> Packed:
    """Targets of like tasks stacked, so that ten binary tasks cost as much as one.

    Args:
        targets: task name to (B, ...) target.

    Raises:
        ValueError: no target for a task.
    """
    alike: dict[tuple, list[str]] = {}
    for task in tasks:
        if task.name not in targets:
            raise ValueError(f"task {task.name!r}: no target of that name, found {', '.join(map(repr, targets))}")
        target = targets[task.name]
        alike.setdefault((task.kind, task.n_classes, task.flip, target.dtype, target.shape), []).append(task.name)
    return {tuple(names): torch.stack([targets[name] for name in names], 1) for names in alike.values()}


def labelled_by_task(tasks: Sequence[Task], targets: Packed) -> Bool[Tensor, "batch tasks"]:
    """Which samples have a label for which task."""
    return _in_task_order(
        tasks,
        {
            names: labelled(target).flatten(2).any(2) if target.ndim > 2 else labelled(target)
            for names, target in targets.items()
        },
    )


def per_sample_losses(
    tasks: Sequence[Task], outputs: Mapping[str, Tensor], targets: Packed, training: bool = False
) -> Float[Tensor, "batch tasks"]:
    """All tasks' per-sample losses, zero and without gradient where a label is missing.

    Args:
        outputs: task name to (B,) or (B, 1, ...) for regression and binary tasks, (B, C, ...) logits
            for multiclass ones.
        training: whether the labels are training labels, of which a share may be flipped (``Task.flip``).

    Raises:
        ValueError: no output for a task, or one that does not fit its target.
        TypeError: an output that is not a tensor.
    """
    by_name = {task.name: task for task in tasks}
    found = {}
    for names, target in targets.items():
        columns = [_output(by_name[name], outputs, target[:, 0].shape) for name in names]
        kind, flip = KINDS[by_name[names[0]].kind], by_name[names[0]].flip if training else 0.0
        output = torch.stack(columns, 2 if kind.per_class else 1)
        where = labelled(target)
        element = torch.where(where, kind.loss(output, torch.where(where, target, 0), flip), 0)
        if element.ndim > 2:
            element = element.flatten(2).sum(2) / where.flatten(2).sum(2).clamp(min=1)
        found[names] = element
    return _in_task_order(tasks, found)


def separate_losses(
    tasks: Sequence[Task], outputs: Mapping[str, Tensor], targets: Packed, training: bool = False
) -> list[Float[Tensor, " batch"]]:
    """The same numbers as :func:`per_sample_losses`, each task's on its own.

    One task's gradient then never visits another's output.
    """
    alone: dict[str, Packed] = {
        name: {(name,): target[:, [i]]} for names, target in targets.items() for i, name in enumerate(names)
    }
    return [per_sample_losses((task,), outputs, alone[task.name], training).squeeze(1) for task in tasks]


def _output(task: Task, outputs: Mapping[str, Tensor], target_shape: torch.Size) -> Tensor:
    if task.name not in outputs:
        raise ValueError(f"task {task.name!r}: no output of that name, found {', '.join(map(repr, outputs))}")
    output = outputs[task.name]
    if not isinstance(output, Tensor):
        raise TypeError(f"task {task.name!r}: output is a {type(output).__name__}, expected a torch.Tensor")
    expected = tuple(target_shape)
    if task.kind == "multiclass":
        expected = (target_shape[0], task.n_outputs, *target_shape[1:])
    elif output.ndim == len(target_shape) + 1 and output.shape[1] == 1:
        output = output.squeeze(1)
    if tuple(output.shape) != expected:
        raise ValueError(
            f"task {task.name!r}: output has shape {tuple(output.shape)}, "
            f"expected {expected} for a {task.kind} target of shape {tuple(target_shape)}"
        )
    return output


def _in_task_order(
    tasks: Sequence[Task], found: dict[tuple[str, ...], Shaped[Tensor, "batch _"]]
) -> Shaped[Tensor, "batch tasks"]:
    """The columns of groups of tasks, put in the order of ``tasks``."""
    joined = torch.cat(list(found.values()), 1) if len(found) > 1 else next(iter(found.values()))
    names = [name for group in found for name in group]
    order = [names.index(task.name) for task in tasks]
    return joined if order == list(range(len(order))) else joined[:, order]


def check_tasks(tasks: Sequence[Task]) -> tuple[Task, ...]:
    """The tasks as a tuple, main task first.

    Raises:
        TypeError: something else than tasks.
        ValueError: no task, or two of the same name.
    """
    example = "expected a list such as [mtlkit.Task('price', 'regression'), ...], the main task first"
    if isinstance(tasks, (str, Task)):
        raise TypeError(f"tasks is {tasks!r}, {example}")
    for task in tasks:
        if not isinstance(task, Task):
            raise TypeError(f"tasks holds {task!r}, {example}")
    names = [task.name for task in tasks]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"tasks are {names}, expected at least one, each with its own name (the main task first)")
    return tuple(tasks)
