"""One weighted step: measure, weigh, and an objective to differentiate. All engines call this."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from mtlkit.signals import Params, Problem, Signal, measure
from mtlkit.weighting._base import State, Weighting, per_sample


class Step(NamedTuple):
    """The outcome of :func:`step`.

    Attributes:
        objective: (...) weighted loss; its gradient is the step's.
        weights: what the weighting gave, (..., T) or (..., B, T), detached.
        state: the weighting's new state.
        signal: what it saw.
    """

    objective: Tensor
    weights: Tensor
    state: State
    signal: Signal


def step(weighting: Weighting, problem: Problem, state: State, **given: Tensor) -> Step:
    """Measure what ``weighting`` reads, weigh, and build the objective Σ w ℓ (+ penalty).

    Args:
        state: the weighting's state, stacked like the problem.
        given: signal fields that need no computation: ``present`` always; ``noise``, ``epoch``,
            ``regression`` and ``learned`` where the weighting reads them.

    Raises:
        ValueError: the weighting reads a field that is neither given nor can be measured.
    """
    measured = measure(
        problem,
        weighting.reads,
        lookahead=weighting.lookahead_from(state),
        fake_step=weighting.fake_step(problem.lr),
        differentiable=weighting.penalises,
        **given,
    )
    signal = measured.signal
    weights, state = _over_seeds(weighting, weighting.update, signal, state)
    if measured.task_gradients is not None and weights.ndim < signal.present.ndim:
        objective = _combined(problem.parameters, measured, weights)
    else:
        objective = (per_sample(weights, signal.present) * measured.losses).sum((-1, -2))
    if weighting.penalises:
        objective = objective + _over_seeds(weighting, weighting.penalty, signal)
    return Step(objective, weights.detach(), state, signal)


def _over_seeds(weighting, function, signal, *state):
    """Apply a function of one run to a signal that may have a leading seed axis."""
    if signal.losses.ndim == 2:
        return function(*state, signal)
    if not weighting.stacks or len(signal.losses) == 1:
        found = [
            function(
                *tree_map(lambda stacked, s=s: stacked[s], state),
                Signal(*(None if field is None else field[s] for field in signal)),
            )
            for s in range(len(signal.losses))
        ]
        return tree_map(lambda *values: torch.stack(values), *found)
    axes = Signal(*(None if field is None else 0 for field in signal))
    return torch.vmap(function, in_dims=(*(0 for _ in state), axes))(*state, signal)


class _Combine(torch.autograd.Function):
    """A value with given gradients: task gradients are at hand, no further backward pass is needed."""

    @staticmethod
    def forward(ctx, value, gradients, *parameters):
        ctx.gradients = gradients
        return value

    @staticmethod
    def backward(ctx, by_seed):
        return None, None, *(None if g is None else _scaled(by_seed, g) for g in ctx.gradients)


def _scaled(by_run: Tensor, gradient: Tensor) -> Tensor:
    """Weights (...) times gradients (..., *)."""
    return by_run.view(*by_run.shape, *[1] * (gradient.ndim - by_run.ndim)) * gradient


def _combined(parameters: Params, measured, weights: Tensor) -> Tensor:
    weights = weights.detach()
    value = (per_sample(weights, measured.signal.present) * measured.losses.detach()).sum((-1, -2))
    by_task = weights.movedim(-1, 0)
    gradients = []
    for name in parameters:
        found = measured.task_gradients[name]
        if isinstance(found, Tensor):
            gradients.append(_scaled(by_task, found).sum(0))
        else:
            gradients.append(sum(_scaled(by_task[t], g) for t, g in found.items()) if found else None)
    return _Combine.apply(value, gradients, *parameters.values())
