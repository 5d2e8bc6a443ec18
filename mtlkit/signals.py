"""Measure: what the tasks, and each sample of them, do to the main task.

Everything here works on functions of the parameters, so that it serves one model as well as a stack
of models with a leading seed axis (written ``...`` in the shapes): a sum over independent models
differentiates to each model's own gradient.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

Params = dict[str, Tensor]


class Signal(NamedTuple):
    """What a weighting sees of one batch of B samples and T tasks, main task first.

    Detached, but for ``learned`` and, for a weighting that penalises gradients, ``gramian``.
    θ are the shared parameters and L_t the mean of task t's losses over the samples with a label.

    Attributes:
        losses: (B, T) per-sample losses ℓ_bt, zero where a label is missing.
        present: (B, T) bool, which labels are there.
        epoch: () number of the epoch, from 0.
        noise: (T,) independent N(0, 1), new every step, from the run's own generator.
        learned: (T,) what the model's optimiser learns for the weighting.
        gramian: (T, T) inner products ⟨∇_θ L_s, ∇_θ L_t⟩.
        last_norms: (T,) norms ‖∇ L_t‖ over the last shared layer.
        alignment: (B, T) inner products ⟨∇_θ ℓ_bt, g⟩ with the meta gradient g = ∇_θ L_main(meta
            batch): to first order, how much a unit step on that loss lowers the main meta loss.
        meta_alignment: (T,) the same per task, ⟨∇_θ L_t, g⟩.
        meta_norm: () ‖g‖.
        gains: (T,) M(θ) - M(θ_t) of the main task's metric M after a fake step on task t alone.
    """

    losses: Tensor
    present: Tensor
    epoch: Tensor | None = None
    noise: Tensor | None = None
    learned: Tensor | None = None
    gramian: Tensor | None = None
    last_norms: Tensor | None = None
    alignment: Tensor | None = None
    meta_alignment: Tensor | None = None
    meta_norm: Tensor | None = None
    gains: Tensor | None = None


@dataclass(frozen=True)
class Problem:
    """One step's functions of the parameters.

    ``losses``, ``meta_loss`` and ``score`` take a dictionary of parameters that stand in for the
    model's own of the same names; what is not in it stays as it is.

    Attributes:
        parameters: all trainable parameters of the model.
        shared: names of the shared ones.
        last: names of the last shared layer's.
        losses: to per-sample losses (..., B, T).
        meta_loss: to the main task's mean meta loss (...).
        score: to the main task's metric (...), to be lowered, for fake updates.
        lr: the optimiser's learning rate.
        stacked_score: whether ``score`` may be mapped with ``torch.vmap``.
    """

    parameters: Params
    shared: tuple[str, ...]
    last: tuple[str, ...]
    losses: Callable[[Params], Tensor]
    meta_loss: Callable[[Params], Tensor]
    score: Callable[[Params], Tensor]
    lr: float = 0.0
    stacked_score: bool = True


@dataclass(frozen=True)
class Measured:
    """The outcome of :func:`measure`.

    Attributes:
        losses: (..., B, T) per-sample losses at the model's own parameters, with their tape.
        signal: what the weighting asked for.
        task_gradients: (T, ..., *) gradients of the mean losses L_t, where they were needed anyway.
    """

    losses: Tensor
    signal: Signal
    task_gradients: Params | None = None


def measure(
    problem: Problem,
    reads: Collection[str],
    *,
    lookahead: tuple[float, Tensor] | None = None,
    fake_step: float = 0.0,
    differentiable: bool = False,
    **given: Tensor,
) -> Measured:
    """Compute the signal's fields named in ``reads``, and nothing else.

    Args:
        lookahead: step size and task weights (..., T) of a virtual step; the meta gradient and the
            alignment are then taken after it.
        fake_step: step size of the fake updates behind ``gains``.
        differentiable: keep the graph of ``gramian``.
        given: fields that need no computation; ``present`` always.
    """
    present = given["present"]
    shared = {name: problem.parameters[name] for name in problem.shared}
    found = {name: value for name, value in given.items() if name in reads or name == "present"}
    reads_meta = not {"alignment", "meta_alignment", "meta_norm"}.isdisjoint(reads)
    live = task_gradients = direction = None
    if lookahead is not None and reads_meta:
        live = problem.losses(problem.parameters)
        step, weights = lookahead
        objective = (weights * mean_losses(live, present)).sum()
        moved = gradient(objective, problem.parameters, retain_graph=True)
        ahead = {
            name: (value - step * moved[name]).detach().requires_grad_() for name, value in problem.parameters.items()
        }
        problem = replace(problem, losses=_from(ahead, problem.losses), meta_loss=_from(ahead, problem.meta_loss))
        shared = {name: ahead[name] for name in problem.shared}
    if reads_meta:
        direction = gradient(problem.meta_loss(shared), shared)
    if "alignment" in reads:
        if live is None:
            live, found["alignment"] = aligned_losses(problem.losses, shared, direction)
        else:
            with torch.no_grad():
                found["alignment"] = aligned_losses(problem.losses, shared, direction)[1]
    if live is None:
        live = problem.losses(problem.parameters)
    seeds = live.ndim - 2
    if direction is not None and "meta_norm" in reads:
        found["meta_norm"] = _dot(direction, direction, seeds).sqrt()
    means = mean_losses(live, present)
    n_tasks = live.shape[-1]
    if not {"gramian", "meta_alignment", "gains"}.isdisjoint(reads):
        rows = [
            gradient(means[..., t], problem.parameters, retain_graph=True, create_graph=differentiable)
            for t in range(n_tasks)
        ]
        if "gramian" in reads:
            found["gramian"] = gramian([{name: row[name] for name in problem.shared} for row in rows], seeds)
        if "meta_alignment" in reads:
            found["meta_alignment"] = torch.stack([_dot(row, direction, seeds) for row in rows], -1)
        task_gradients = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        if "gains" in reads:
            found["gains"] = gains(problem, task_gradients, fake_step)
    if "last_norms" in reads:
        last = {name: problem.parameters[name] for name in problem.last}
        rows = [gradient(means[..., t], last, retain_graph=True) for t in range(n_tasks)]
        found["last_norms"] = torch.stack([_dot(row, row, seeds).sqrt() for row in rows], -1)
    return Measured(live, Signal(live.detach(), **found), None if differentiable else task_gradients)


def _from(start: Params, function: Callable[[Params], Tensor]) -> Callable[[Params], Tensor]:
    return lambda own: function({**start, **own})


def gradient(loss: Tensor, parameters: Params, **options: bool) -> Params:
    """Gradient of ``loss`` (summed over a seed axis, if any), zero where it does not depend on a parameter."""
    if not loss.requires_grad:
        return {name: torch.zeros_like(value) for name, value in parameters.items()}
    found = torch.autograd.grad(
        loss.sum(), list(parameters.values()), allow_unused=True, materialize_grads=True, **options
    )
    return dict(zip(parameters, found, strict=True))


def mean_losses(losses: Tensor, present: Tensor) -> Tensor:
    """Means over the labelled samples: (..., B, T) to (..., T), zero for a task without a label."""
    return losses.sum(-2) / present.sum(-2).clamp(min=1)


def _dot(a: Params, b: Params, seeds: int) -> Tensor:
    """Inner product over all parameters of ``b``, keeping ``seeds`` leading axes."""
    return sum((a[name] * b[name]).flatten(seeds).sum(-1) for name in b)


def gramian(rows: list[Params], seeds: int = 0) -> Tensor:
    """Inner products of T gradients with each other: (..., T, T)."""
    size = len(rows)
    upper = {(s, t): _dot(rows[s], rows[t], seeds) for s, t in itertools.combinations_with_replacement(range(size), 2)}
    return torch.stack([torch.stack([upper[min(s, t), max(s, t)] for t in range(size)], -1) for s in range(size)], -2)


def gains(problem: Problem, task_gradients: Params, step: float) -> Tensor:
    """How much a fake step on each task alone lowers the score: (..., T), all tasks evaluated together.

    Args:
        task_gradients: (T, ..., *) gradients of the mean losses.
        step: size of the fake step.
    """
    with torch.no_grad():
        fakes = {name: value - step * task_gradients[name] for name, value in problem.parameters.items()}
        before = problem.score(problem.parameters)
        if problem.stacked_score:
            after = torch.vmap(problem.score, randomness="same")(fakes)
        else:
            n_tasks = len(next(iter(fakes.values())))
            after = torch.stack([problem.score({name: f[t] for name, f in fakes.items()}) for t in range(n_tasks)])
        return (before - after).movedim(0, -1)


def aligned_losses(losses: Callable[[Params], Tensor], shared: Params, direction: Params) -> tuple[Tensor, Tensor]:
    """Per-sample losses (with tape) and their alignment with ``direction`` (detached), both (..., B, T).

    δ_bt = ⟨∇_θ ℓ_bt, g⟩ is the derivative of ℓ_bt along g, so one forward-mode product gives all
    of them and no per-sample gradient ever exists.
    """
    with forward_ad.dual_level():
        dual = {name: forward_ad.make_dual(value, direction[name]) for name, value in shared.items()}
        live, tangent = forward_ad.unpack_dual(losses(dual))
        return live, torch.zeros_like(live) if tangent is None else tangent.detach()
