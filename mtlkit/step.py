"""One weighted step: measure, weigh, and an objective to differentiate. All engines call this."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_map

from mtlkit.gradients import Params, TaskGradients
from mtlkit.measure import Measured, Problem, Signal, measure
from mtlkit.weighting import State, Weighting, per_sample


class Step(NamedTuple):
    """The outcome of :func:`step`.

    Attributes:
        objective: weighted loss; its gradient is the step's.
        weights: what the weighting gave, detached.
        state: the weighting's new state.
        signal: what it saw.
    """

    objective: Float[Tensor, "*runs"]
    weights: Float[Tensor, "*runs tasks"] | Float[Tensor, "*runs batch tasks"]
    state: State
    signal: Signal


def step(weighting: Weighting, problem: Problem, state: State, **given: Tensor) -> Step:
    """Measure what ``weighting`` reads, weigh, and build the objective Σ w ℓ (+ the weighting's and model's penalties).

    Args:
        state: the weighting's state, stacked like the problem.
        given: signal fields that need no computation: ``present`` always; ``noise``, ``epoch``,
            ``regression``, ``binary`` and ``learned`` where the weighting reads them.

    Raises:
        ValueError: the weighting reads a field that is neither given nor can be measured.
    """
    measured = measure(problem, weighting.reads, state, **given)
    signal = measured.signal
    weights, state, penalty = _over_seeds(weighting, state, signal)
    by_task = measured.task_gradients if weights.ndim < signal.present.ndim else None
    if by_task is not None:
        objective = _combined(problem.parameters, by_task, measured, weights)
    else:
        objective = (per_sample(weights, signal.present) * measured.losses).sum((-1, -2))
    if isinstance(penalty, Tensor):
        objective = objective + penalty
    if problem.total is not None and by_task is None:
        objective = _over_processes(problem, objective, signal.learned)
    if problem.penalty is not None:
        objective = objective + problem.penalty(problem.parameters)
    return Step(objective, weights.detach(), state, signal)


def _over_seeds(weighting: Weighting, state: State, signal: Signal) -> tuple:
    """Weights, new state and penalty (or an empty tuple) for a signal that may have a leading seed axis."""

    def one(state: State, signal: Signal) -> tuple:
        weights, new = weighting.update(state, signal)
        penalty = weighting.penalty(signal)
        return weights, new, () if penalty is None else penalty

    if signal.losses.ndim == 2:
        return one(state, signal)
    seeds = len(signal.losses)
    if weighting.stacks and seeds > 1:
        axes: list[Any] = [None if field is None else 0 for field in signal]
        return torch.vmap(one, in_dims=(0, Signal(*axes)))(state, signal)

    def at(s: int, part: Any) -> Any:
        return tree_map(lambda leaf: None if leaf is None else leaf[s], part)

    found = [one(at(s, state), at(s, signal)) for s in range(seeds)]
    return tree_map(lambda *leaves: leaves[0].unsqueeze(0) if seeds == 1 else torch.stack(leaves), *found)


class _Combine(torch.autograd.Function):
    """A value with given gradients: task gradients are at hand, no further backward pass is needed."""

    @staticmethod
    def forward(ctx, value, gradients, *parameters):
        ctx.gradients = gradients
        return value

    @staticmethod
    def backward(ctx, by_run):
        return None, None, *(None if g is None else _times(by_run, g) for g in ctx.gradients)


def _weighted(by_task: Float[Tensor, " tasks *runs"], found: Tensor | dict[int, Tensor]) -> Tensor | None:
    """Σ w_t g_t of one parameter's task gradients; None if no task reaches it."""
    if isinstance(found, Tensor):
        return _times(by_task, found).sum(0)
    total = None
    for task, gradient in found.items():
        total = _times(by_task[task], gradient) if total is None else total.add_(_times(by_task[task], gradient))
    return total


def _times(weights: Tensor, gradient: Tensor) -> Tensor:
    """Weights (...) times gradients (..., *)."""
    return weights.view(*weights.shape, *[1] * (gradient.ndim - weights.ndim)) * gradient


def _combined(
    parameters: Params, found: TaskGradients, measured: Measured, weights: Float[Tensor, "*runs tasks"]
) -> Float[Tensor, "*runs"]:
    """The objective Σ w_t L_t; each parameter's task gradients are let go once they are summed."""
    weights = weights.detach()
    value = (per_sample(weights, measured.signal.present) * measured.losses.detach()).sum((-1, -2))
    by_task = weights.movedim(-1, 0)
    gradients = [_weighted(by_task, found.pop(name)) for name in parameters]
    return _Combine.apply(value, gradients, *parameters.values())


def _over_processes(
    problem: Problem, objective: Float[Tensor, ""], learned: Float[Tensor, " tasks"] | None
) -> Float[Tensor, ""]:
    """The same objective with the gradient of all processes; that of what is learned is whole in each of them."""
    leaves = [*problem.parameters.values(), *([] if learned is None else [learned])]
    found = torch.autograd.grad(objective, leaves, allow_unused=True)
    own = dict(zip(problem.parameters, found, strict=False))
    gradients = [*problem.summed(own, problem.parameters).values(), *found[len(own) :]]
    return _Combine.apply(objective.detach(), gradients, *leaves)
