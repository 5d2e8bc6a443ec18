"""Measure: what the tasks, and each sample of them, do to the main task.

Everything here works on functions of the parameters, so that it serves one model as well as a stack
of models: a sum over independent models differentiates to each model's own gradient.

Shapes are in the signatures, with the same names of axes everywhere: ``*runs`` (leading seed axes: none for one
model, one for a stack), ``batch`` and ``tasks`` (the main task first). Parameters are ``(*runs, *)``, each its own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mtlkit.gradients import (
    Params,
    TaskGradients,
    Total,
    after_step,
    aligned_losses,
    dense,
    dot,
    each_task,
    gradient,
    gramian,
    mean_losses,
    norm,
)
from mtlkit.tasks import Task, labelled_by_task

Metric = Callable[[Tensor, Tensor], Any]
"""Outputs and targets (n, ...) to a number to be lowered, see :func:`score`."""


class Signal(NamedTuple):
    """What a weighting sees of one batch.

    Detached, but for ``learned`` and, for a weighting that penalises gradients, ``gramian``.
    θ are the shared parameters and L_t the mean of task t's losses over the samples with a label;
    a task without a label in the batch has L_t = 0 and a zero gradient.

    Attributes:
        losses: per-sample losses ℓ_bt, zero where a label is missing.
        present: which labels are there.
        epoch: number of the epoch, from 0.
        lr: the optimiser's learning rate.
        regression: which tasks are regressions (the others are classifications).
        binary: which tasks are binary classifications.
        noise: independent N(0, 1), new every step, from the run's own generator.
        learned: what the model's optimiser learns for the weighting.
        gramian: inner products ⟨∇_θ L_s, ∇_θ L_t⟩.
        last_norms: norms ‖∇ L_t‖ over the last shared layer.
        alignment: inner products ⟨∇_θ ℓ_bt, g⟩ with the meta gradient g = ∇_θ L_main(meta
            batch): to first order, how much a unit step on that loss lowers the main meta loss.
        meta_alignment: the same per task, ⟨∇_θ L_t, g⟩.
        meta_norm: ‖g‖.
        implicit_alignment: ⟨∇L_t, H⁻¹ ∇L_main(meta batch)⟩ over all parameters, H the Hessian of the
            training objective (:class:`ImplicitAlignment`); None in steps in which it is not due.
        gains: M(θ) - M(θ_t) of the main task's metric M after a fake step on task t alone; zero
            for a task without a label.
    """

    losses: Float[Tensor, "*runs batch tasks"]
    present: Bool[Tensor, "*runs batch tasks"]
    epoch: Int[Tensor, "*runs"] | None = None
    lr: Float[Tensor, "*runs"] | None = None
    regression: Bool[Tensor, "*runs tasks"] | None = None
    binary: Bool[Tensor, "*runs tasks"] | None = None
    noise: Float[Tensor, "*runs tasks"] | None = None
    learned: Float[Tensor, "*runs tasks"] | None = None
    gramian: Float[Tensor, "*runs tasks tasks"] | None = None
    last_norms: Float[Tensor, "*runs tasks"] | None = None
    alignment: Float[Tensor, "*runs batch tasks"] | None = None
    meta_alignment: Float[Tensor, "*runs tasks"] | None = None
    meta_norm: Float[Tensor, "*runs"] | None = None
    implicit_alignment: Float[Tensor, "*runs tasks"] | None = None
    gains: Float[Tensor, "*runs tasks"] | None = None

    @property
    def means(self) -> Float[Tensor, "*runs tasks"]:
        """Mean losses L_t, see :func:`mean_losses`."""
        return mean_losses(self.losses, self.present)

    @property
    def labelled(self) -> Bool[Tensor, "*runs tasks"]:
        """Which tasks have a label in this batch."""
        return self.present.any(-2)


class Lookahead(NamedTuple):
    """A virtual step of all parameters before measuring, θ' = θ − η ∇ Σ w ℓ(θ).

    Attributes:
        step: η; the optimiser's learning rate when None.
        weights: from the weighting's state, losses and labels to weights of the mean losses, or of the losses
            themselves.
        losses_too: whether ∇ℓ_bt of the alignment is taken at θ' as well; otherwise only the meta gradient is.
    """

    step: float | None
    weights: Callable[
        [Any, Float[Tensor, "*runs batch tasks"], Bool[Tensor, "*runs batch tasks"]],
        Float[Tensor, "*runs tasks"] | Float[Tensor, "*runs batch tasks"],
    ]
    losses_too: bool = True


def no_meta_batch(*_: Any) -> Tensor:
    """What stands for functions of the meta batch in a step without one."""
    raise ValueError("the step has no meta batch, but the weighting looks at one")


@dataclass(frozen=True)
class Problem:
    """One step's functions of the parameters.

    ``losses``, ``meta_loss`` and ``score`` take a dictionary of parameters that stand in for the
    model's own of the same names; what is not in it stays as it is.

    Attributes:
        parameters: all trainable parameters of the model.
        shared: names of the shared ones.
        last: names of the last shared layer's.
        losses: to per-sample losses.
        meta_loss: to the main task's mean meta loss.
        score: for :class:`Gains`, to the main task's metric, to be lowered, under no_grad: called with the
            parameters and the request.
        lr: the optimiser's learning rate.
        stacked: whether the tasks' gradients are computed in one mapped backward pass rather than one after the
            other, and fake steps likewise; the numbers are the same but for rounding.
        two_pass: whether the alignment is measured in a pass of its own that keeps no tape, before the
            plain pass, rather than together with it. Both give the same numbers; together is faster for
            a small model, apart takes less memory (:func:`mtlkit.memory.prefers_two_passes`). ``losses`` must then be
            the same function at every call, random masks included.
        columns: to each task's own losses, the same numbers as ``losses``; a task's gradient
            then leaves the other tasks' heads alone. For tasks one after the other only.
        penalty: to a term that the model adds to the objective, the same for all weightings. It is no task's
            loss: no field of the signal sees it.
        total: sums gradients by name over processes, with the parameters as second argument
            (:func:`mtlkit.ranks.total`). All functions above then give numbers of the whole batch, whose
            gradient within one process is its share. For tasks one after the other only.
    """

    parameters: Params
    shared: tuple[str, ...]
    last: tuple[str, ...]
    losses: Callable[[Params], Float[Tensor, "*runs batch tasks"]]
    meta_loss: Callable[[Params], Float[Tensor, "*runs"]] = no_meta_batch
    score: Callable[[Params, Gains], Float[Tensor, "*runs"]] = no_meta_batch
    lr: float = 0.0
    stacked: bool = False
    two_pass: bool = False
    columns: Callable[[Params], Sequence[Float[Tensor, "*runs batch"]]] | None = None
    penalty: Callable[[Params], Float[Tensor, "*runs"]] | None = None
    total: Total | None = None

    @property
    def of_shared(self) -> Params:
        """The shared parameters."""
        return {name: self.parameters[name] for name in self.shared}

    def summed(self, found: dict[str, Any], parameters: Params) -> dict[str, Any]:
        """Gradients summed over processes, where there are several."""
        return found if self.total is None else self.total(found, parameters)

    def of_each_task(self, means: Any, parameters: Params, create_graph: bool = False) -> TaskGradients:
        """Gradients of each task's mean loss, see :func:`mtlkit.gradients.each_task`."""
        return each_task(means, parameters, together=self.stacked, total=self.summed, create_graph=create_graph)


class Pass:
    """One step's measuring: what several requests need is computed once, when the first of them asks.

    Attributes:
        problem: the step's.
        state: the weighting's.
        present: which labels are there.
        given: fields that need no computation.
        columns: the problem's, where the tasks' losses are kept apart, so that one task's gradient visits no other's
            head.
    """

    def __init__(self, problem: Problem, reads: Sequence[Request], state: Any, given: dict[str, Tensor]) -> None:
        self.problem, self.state, self.given = problem, state, given
        self.present: Bool[Tensor, "*runs batch tasks"] = given["present"]
        self.columns = None if problem.stacked or not any(r.of_tasks for r in reads) else problem.columns
        self.task_gradients: TaskGradients | None = None
        self._losses: Tensor | None = None
        self._columns: Sequence[Tensor] | None = None
        self._directions: dict[Lookahead | None, tuple[Problem, Params]] = {}

    @property
    def losses(self) -> Float[Tensor, "*runs batch tasks"]:
        """Per-sample losses at the model's own parameters, with their tape."""
        if self._losses is not None:
            return self._losses
        if self.columns is None:
            self._losses = self.problem.losses(self.problem.parameters)
        else:
            self._columns = self.columns(self.problem.parameters)
            self._losses = torch.stack(list(self._columns), -1)
        return self._losses

    @property
    def means(self) -> Float[Tensor, "*runs tasks"] | list[Float[Tensor, "*runs"]]:
        """Mean losses with their tape, one by one where they are kept apart."""
        losses = self.losses
        if self._columns is None:
            return mean_losses(losses, self.present)
        return [
            mean_losses(column.unsqueeze(-1), self.present[..., [t]]).squeeze(-1)
            for t, column in enumerate(self._columns)
        ]

    def direction(self, lookahead: Lookahead | None = None) -> tuple[Problem, Params]:
        """The problem after a look-ahead, and the gradient g of the main meta loss there."""
        if lookahead not in self._directions:
            there = self.problem if lookahead is None else _ahead(self, lookahead)
            own = there.of_shared
            self._directions[lookahead] = there, self.problem.summed(gradient(there.meta_loss(own), own), own)
        return self._directions[lookahead]

    def each_task(self, differentiable: bool = False) -> TaskGradients:
        """Gradients of the tasks' mean losses with respect to all parameters."""
        if self.task_gradients is None:
            self.task_gradients = self.problem.of_each_task(self.means, self.problem.parameters, differentiable)
        return self.task_gradients

    def shared_rows(self, differentiable: bool = False) -> Iterator[Tensor]:
        """The same as (tasks, *runs, *) for one shared parameter after the other."""
        return dense(self.each_task(differentiable), self.problem.of_shared, self.present.shape[-1])

    @property
    def seed_axes(self) -> int:
        """Number of seed axes."""
        return self.present.ndim - 2


class Request:
    """What a weighting asks to be measured; the outcome is the field of that name of its :class:`Signal`.

    Attributes:
        field: of the signal.
        of_shared: whether it is a gradient of the shared parameters.
        of_tasks: whether it takes each task's own gradient.
    """

    field: str
    of_shared: ClassVar[bool] = False
    of_tasks: ClassVar[bool] = False

    @property
    def of_meta(self) -> bool:
        """Whether it takes a batch of the meta split."""
        return False

    @property
    def of_lr(self) -> bool:
        """Whether it takes the optimiser's learning rate."""
        return False

    @property
    def bends(self) -> bool:
        """Whether the model is differentiated in forward mode or twice."""
        return False

    @property
    def compiles(self) -> bool:
        """Whether it can be traced: the same operations in every step, all of them torch's."""
        return True

    def measure(self, now: Pass) -> Tensor | None:
        """Its value; None in a step in which it is not due."""
        raise NotImplementedError


@dataclass(frozen=True)
class Given(Request):
    """A field that needs no measuring: ``epoch``, ``noise``, ``regression`` or ``binary``.

    Raises:
        ValueError: on measuring, where the caller does not give it.
    """

    field: str

    def measure(self, now: Pass) -> Tensor:
        """As it was given."""
        if now.given.get(self.field) is None:
            raise ValueError(f"the weighting reads {self.field!r}, which was neither given nor can be measured")
        return now.given[self.field]


@dataclass(frozen=True)
class Learnable(Request):
    """``learned``: numbers that the model's own optimiser learns for the weighting.

    Args:
        start: their initial value.

    Raises:
        ValueError: on measuring, where the caller does not give them.
    """

    start: float = 0.0
    field = "learned"

    def measure(self, now: Pass) -> Float[Tensor, "*runs tasks"]:
        """As they were given, with their tape."""
        return Given(self.field).measure(now)


@dataclass(frozen=True)
class LearningRate(Request):
    """``lr``: the optimiser's learning rate."""

    field = "lr"
    of_lr = True

    def measure(self, now: Pass) -> Float[Tensor, "*runs"]:
        """One number a seed."""
        return now.losses.new_full(now.losses.shape[:-2], now.problem.lr)


@dataclass(frozen=True)
class InnerProducts(Request):
    """``gramian``: ⟨∇_θ L_s, ∇_θ L_t⟩.

    Args:
        differentiable: keep its graph, for a penalty on it.
    """

    differentiable: bool = False
    field = "gramian"
    of_shared = of_tasks = True

    @property
    def bends(self) -> bool:
        """A penalty on gradients is differentiated twice."""
        return self.differentiable

    def measure(self, now: Pass) -> Float[Tensor, "*runs tasks tasks"]:
        """From the tasks' gradients."""
        return gramian(now.shared_rows(self.differentiable), now.seed_axes)


@dataclass(frozen=True)
class LastNorms(Request):
    """``last_norms``: ‖∇ L_t‖ over the last shared layer."""

    field = "last_norms"
    of_shared = of_tasks = True

    def measure(self, now: Pass) -> Float[Tensor, "*runs tasks"]:
        """From gradients of that layer alone."""
        last = {name: now.problem.parameters[name] for name in now.problem.last}
        rows = dense(now.problem.of_each_task(now.means, last), last, now.present.shape[-1])
        return norm(rows, 1 + now.seed_axes).movedim(0, -1)


@dataclass(frozen=True)
class Alignment(Request):
    """``alignment``: ⟨∇_θ ℓ_bt, g⟩ with the main task's meta gradient.

    Args:
        lookahead: a virtual step before measuring.
    """

    lookahead: Lookahead | None = None
    field = "alignment"
    of_meta = of_shared = bends = True

    @property
    def of_lr(self) -> bool:
        """A look-ahead may take the optimiser's step."""
        return self.lookahead is not None and self.lookahead.step is None

    def measure(self, now: Pass) -> Float[Tensor, "*runs batch tasks"]:
        """By one forward-mode product, together with the plain pass where that is faster."""
        there, direction = now.direction(self.lookahead)
        if self.lookahead is not None and not self.lookahead.losses_too:
            there = now.problem
        together = now._losses is None and not now.problem.two_pass
        with torch.set_grad_enabled(together):
            losses, found = aligned_losses(there.losses, there.of_shared, direction, now.problem.summed)
        if together:
            now._losses = losses
        return found


@dataclass(frozen=True)
class MetaAlignment(Request):
    """``meta_alignment``: ⟨∇_θ L_t, g⟩ with the main task's meta gradient."""

    field = "meta_alignment"
    of_meta = of_shared = of_tasks = True

    def measure(self, now: Pass) -> Float[Tensor, "*runs tasks"]:
        """From the tasks' gradients."""
        _, direction = now.direction()
        return dot(now.shared_rows(), direction.values(), 1 + now.seed_axes).movedim(0, -1)


@dataclass(frozen=True)
class MetaNorm(Request):
    """``meta_norm``: ‖g‖ of the main task's meta gradient."""

    field = "meta_norm"
    of_meta = of_shared = True

    def measure(self, now: Pass) -> Float[Tensor, "*runs"]:
        """Over the shared parameters."""
        _, direction = now.direction()
        return norm(direction.values(), now.seed_axes)


@dataclass(frozen=True)
class Gains(Request):
    """``gains``: M(θ) − M(θ_t) of the main task's metric M after a fake step on task t alone; 0 without a label of it.

    All θ_t are evaluated together where that is faster.

    Args:
        step: size of the fake steps; the optimiser's learning rate when None.
        on: the batch on which M is evaluated, ``"meta"`` or ``"batch"`` (the training batch).
        metric: M, see :func:`score`; the main task's mean loss when None.

    Raises:
        ValueError: another ``on``, a step that is no finite number of at least 0.
        TypeError: ``metric`` cannot be called.
    """

    step: float | None = None
    on: str = "meta"
    metric: Metric | None = None
    field = "gains"
    of_tasks = True

    def __post_init__(self) -> None:
        if self.step is not None and not 0 <= self.step < math.inf:
            raise ValueError(f"step is {self.step!r}, expected a finite number of at least 0")
        if self.on not in ("meta", "batch"):
            raise ValueError(f"on is {self.on!r}, expected 'meta' or 'batch'")
        if self.metric is not None and not callable(self.metric):
            raise TypeError(f"metric is {self.metric!r}, expected a function of outputs and targets")

    @property
    def of_meta(self) -> bool:
        """Whether M is evaluated on the meta split."""
        return self.on == "meta"

    @property
    def of_lr(self) -> bool:
        """Whether the fake steps are as long as the optimiser's."""
        return self.step is None

    @property
    def compiles(self) -> bool:
        """A user's metric need not be torch's."""
        return self.metric is None

    def measure(self, now: Pass) -> Float[Tensor, "*runs tasks"]:
        """From the tasks' gradients with respect to all parameters."""
        problem, before, n_tasks = now.problem, now.problem.parameters, now.present.shape[-1]
        step = problem.lr if self.step is None else self.step
        gradients = now.each_task()
        with torch.no_grad():
            if problem.stacked and self.metric is None:
                rows = zip(before.items(), dense(gradients, before, n_tasks), strict=True)
                stands = {name: torch.cat([v.unsqueeze(0), v - step * row]) for (name, v), row in rows}
                scores = torch.vmap(lambda own: problem.score(own, self), randomness="same")(stands)
            else:
                after = (problem.score(after_step(before, gradients, t, step), self) for t in range(n_tasks))
                scores = torch.stack([problem.score(before, self), *after])
            return torch.where(now.present.any(-2), (scores[0] - scores[1:]).movedim(0, -1), 0)


@dataclass(frozen=True)
class ImplicitAlignment(Request):
    """``implicit_alignment``: how much the main meta loss falls as each task's weight grows, at the minimum.

    q_t = ⟨∇L_t, p⟩ over all parameters,    p = α Σ_{j=0}^{J} (I − αH)^j g ≈ H⁻¹ g

    g: gradient of the main task's meta loss; H: Hessian of the training objective. At a minimum of Σ_t w_t L_t
    the implicit function theorem gives dL_main(meta)/dw_t = −q_t. Each Hessian-vector product is a backward pass
    through the objective's gradient.

    Args:
        objective: from the weighting's state and the mean losses to the training objective.
        step: α of the Neumann series, below 2 over the largest eigenvalue of the Hessian.
        terms: J, Hessian-vector products to take.
        due: from the weighting's state to whether it is measured in this step.
    """

    objective: Callable[[Any, Float[Tensor, "*runs tasks"]], Float[Tensor, "*runs"]]
    step: float
    terms: int
    due: Callable[[Any], bool]
    field = "implicit_alignment"
    of_meta = bends = True
    compiles = False

    def measure(self, now: Pass) -> Float[Tensor, "*runs tasks"] | None:
        """Where it is due."""
        if not self.due(now.state):
            return None
        problem, own, over_all = now.problem, now.problem.parameters, now.problem.summed
        means = mean_losses(now.losses, now.present)
        term = over_all(gradient(problem.meta_loss(own), own), own)
        slope = _slope(problem, means, functools.partial(self.objective, now.state))
        series = term
        for _ in range(self.terms):
            bent = over_all(gradient(dot(slope.values(), term.values(), 0), own, retain_graph=True), own)
            term = {name: value - self.step * bent[name] for name, value in term.items()}
            series = {name: value + term[name] for name, value in series.items()}
        rows = dense(problem.of_each_task(means, own), own, means.shape[-1])
        return self.step * dot(rows, series.values(), means.ndim).movedim(0, -1)


@dataclass(frozen=True)
class Measured:
    """The outcome of :func:`measure`.

    Attributes:
        losses: per-sample losses at the model's own parameters, with their tape.
        signal: what the weighting asked for.
        task_gradients: of the mean losses L_t with respect to all parameters, where they were needed anyway and
            need not be differentiated once more.
    """

    losses: Float[Tensor, "*runs batch tasks"]
    signal: Signal
    task_gradients: TaskGradients | None = None


def measure(problem: Problem, reads: Sequence[Request], state: Any = (), **given: Tensor) -> Measured:
    """Measure what is asked for, and nothing else.

    Args:
        reads: the requests.
        state: the weighting's, for requests that depend on it.
        given: fields that need no computation; ``present`` always.

    Raises:
        ValueError: a :class:`Given` field that is not given; a look-ahead with weights for another number of samples.
    """
    now = Pass(problem, reads, state, given)
    found = {request.field: request.measure(now) for request in reads}
    once_more = any(isinstance(request, InnerProducts) and request.differentiable for request in reads)
    signal = Signal(now.losses.detach(), now.present, **found)
    return Measured(now.losses, signal, None if once_more else now.task_gradients)


def _ahead(now: Pass, lookahead: Lookahead) -> Problem:
    """The problem after a virtual step on Σ w_t L_t or Σ w_bt ℓ_bt; the model's own parameters stay as they are."""
    problem, losses, present = now.problem, now.losses, now.present
    weights = lookahead.weights(now.state, losses.detach(), present)
    step = problem.lr if lookahead.step is None else lookahead.step
    by_sample = weights.ndim == losses.ndim
    if by_sample and weights.shape != losses.shape:
        raise ValueError(
            f"the look-ahead has weights for {weights.shape[-2]} samples, found a batch of {losses.shape[-2]}"
        )
    terms = torch.where(present, weights, 0) * losses if by_sample else weights * mean_losses(losses, present)
    moved = gradient(terms.sum(), problem.parameters, retain_graph=True)
    moved = problem.summed(moved, problem.parameters)
    ahead = {name: (value - step * moved[name]).detach().requires_grad_() for name, value in problem.parameters.items()}
    return replace(
        problem,
        parameters=ahead,
        losses=lambda own: problem.losses({**ahead, **own}),
        meta_loss=lambda own: problem.meta_loss({**ahead, **own}),
    )


def _slope(
    problem: Problem,
    means: Float[Tensor, "*runs tasks"],
    objective: Callable[[Float[Tensor, "*runs tasks"]], Float[Tensor, "*runs"]],
) -> Params:
    """The objective's gradient, to be differentiated once more.

    Over several processes each task's gradient is summed on its own: the slope of the objective in one mean loss
    depends on all of them, and so on the rows of all processes.
    """
    own = problem.parameters
    if problem.total is None:
        return gradient(objective(means), own, create_graph=True)
    [by_task] = torch.autograd.grad(objective(means).sum(), means, create_graph=True)
    rows = dense(problem.of_each_task(means, own, True), own, means.shape[-1])
    return {name: torch.tensordot(by_task, row, 1) for name, row in zip(own, rows, strict=True)}


def score(
    metric: Metric, task: Task, output: Float[Tensor, "batch ..."], target: Shaped[Tensor, "batch ..."]
) -> Float[Tensor, ""]:
    """A user's metric of one task as a number, over the samples that have a label; 0 without any.

    Where an output is not finite, it is NaN and the metric is not called.

    Args:
        metric: called with outputs and targets, (n, ...) each, of the n samples with a label; returns a number to be
            lowered, which need not be differentiable. Put a minus sign before a metric to be raised, such as accuracy.
        output: as the model gives it.

    Raises:
        ValueError: the metric returns more than one number.
    """
    labelled = labelled_by_task((task,), {(task.name,): target.unsqueeze(1)})[:, 0]
    if not labelled.any():
        return output.new_zeros(())
    if not output[labelled].isfinite().all():
        return output.new_full((), torch.nan)
    value = torch.as_tensor(metric(output[labelled], target[labelled]), dtype=output.dtype, device=output.device)
    if value.numel() != 1:
        raise ValueError(
            f"task {task.name!r}: the metric returned shape {tuple(value.shape)}, expected one number to be lowered"
        )
    return value.reshape(()).detach()
