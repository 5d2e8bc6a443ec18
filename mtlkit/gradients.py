"""Gradients of functions of the parameters, of one model or of a stack of models: plain, per task, along a direction.

Axes are called as in :mod:`mtlkit.measure`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from jaxtyping import Bool, Float
from torch import Tensor

Params = dict[str, Tensor]
TaskGradients = dict[str, Tensor | dict[int, Tensor]]
"""Gradients of the mean losses by parameter: (tasks, *runs, *), or task number to (*runs, *), where tasks that are not
there, as those of other heads, have a zero gradient."""

Total = Callable[[dict[str, Any], Params], dict[str, Any]]
"""Sums gradients by name, None where there is none, over processes."""


def gradient(loss: Float[Tensor, "*runs"], parameters: Params, **options: Any) -> Params:
    """Gradient of ``loss`` (summed over a seed axis, if any), zero where it does not depend on a parameter."""
    found = gradient_or_none(loss, parameters, **options)
    return {name: torch.zeros_like(parameters[name]) if slope is None else slope for name, slope in found.items()}


def gradient_or_none(loss: Float[Tensor, "*runs"], parameters: Params, **options: Any) -> dict[str, Tensor | None]:
    """The same, but None where the loss does not depend on a parameter."""
    if not loss.requires_grad:
        return dict.fromkeys(parameters)
    found = torch.autograd.grad(loss.sum(), list(parameters.values()), allow_unused=True, **options)
    return dict(zip(parameters, found, strict=True))


def each_task(
    means: Float[Tensor, "*runs tasks"] | Sequence[Float[Tensor, "*runs"]],
    parameters: Params,
    *,
    together: bool,
    total: Total,
    create_graph: bool = False,
) -> TaskGradients:
    """Gradients of each task's mean loss.

    Args:
        together: in one mapped backward pass rather than one after the other.
        total: of gradients taken one after the other, over processes.
    """
    if together and isinstance(means, Tensor) and means.requires_grad:
        n_tasks = means.shape[-1]
        one_hot = torch.eye(n_tasks, dtype=means.dtype, device=means.device)
        chosen = one_hot.view(n_tasks, *[1] * (means.ndim - 1), n_tasks).expand(n_tasks, *means.shape)
        found = torch.autograd.grad(
            means,
            list(parameters.values()),
            chosen,
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            is_grads_batched=True,
        )
        pairs = zip(parameters.items(), found, strict=True)
        return {n: p.new_zeros(n_tasks, *p.shape) if g is None else g for (n, p), g in pairs}
    each = means.unbind(-1) if isinstance(means, Tensor) else means
    found_by_task = (gradient_or_none(mean, parameters, retain_graph=True, create_graph=create_graph) for mean in each)
    rows = [total(found, parameters) for found in found_by_task]
    return {name: {t: row[name] for t, row in enumerate(rows) if row[name] is not None} for name in parameters}


def dense(task_gradients: TaskGradients, parameters: Params, n_tasks: int) -> Iterator[Tensor]:
    """The gradients as (tasks, *runs, *), with zeros, for one of these parameters after the other."""
    for name, parameter in parameters.items():
        found = task_gradients[name]
        if isinstance(found, dict):
            zero = torch.zeros_like(parameter)
            found = torch.stack([found.get(t, zero) for t in range(n_tasks)])
        yield found


def mean_losses(
    losses: Float[Tensor, "*runs batch tasks"], present: Bool[Tensor, "*runs batch tasks"]
) -> Float[Tensor, "*runs tasks"]:
    """Means over the labelled samples, zero for a task without a label."""
    return losses.sum(-2) / present.sum(-2).clamp(min=1)


def _flat(a: Tensor, kept: int) -> Tensor:
    return a.reshape(*a.shape[:kept], -1)


def _wide(a: Tensor) -> Tensor:
    """Half precision, in which sums go wrong, as single."""
    return a.to(torch.promote_types(a.dtype, torch.float32))


def dot(a: Iterable[Tensor], b: Iterable[Tensor], kept: int) -> Tensor:
    """Inner product over all parameters, keeping the first ``kept`` axes of their product."""
    return sum_up(_flat(_wide(x) * _wide(y), kept).sum(-1) for x, y in zip(a, b, strict=True))


def norm(a: Iterable[Tensor], kept: int) -> Tensor:
    """Norm over all parameters, keeping the first ``kept`` axes."""
    return sum_up(_flat(x * x, kept).sum(-1) for x in map(_wide, a)).sqrt()


def sum_up(parts: Iterable[Tensor]) -> Tensor:
    """Their sum, one after the other."""
    return functools.reduce(torch.add, parts)


def gramian(task_gradients: Iterable[Tensor], seeds: int = 0) -> Float[Tensor, "*runs tasks tasks"]:
    """Inner products of the tasks' gradients with each other.

    Args:
        task_gradients: (tasks, *runs, *) with respect to each parameter.
        seeds: number of seed axes.
    """
    rows = (_flat(g, 1 + seeds).movedim(0, -2) for g in map(_wide, task_gradients))
    return sum_up(row @ row.mT for row in rows)


def after_step(parameters: Params, task_gradients: TaskGradients, task: int, step: float) -> Params:
    """Parameters after a step down the gradient of one task."""
    rows = {n: g[task] for n, g in task_gradients.items() if isinstance(g, Tensor) or task in g}
    return {name: value - step * rows[name] if name in rows else value for name, value in parameters.items()}


def aligned_losses(
    losses: Callable[[Params], Float[Tensor, "*runs batch tasks"]],
    shared: Params,
    direction: Params,
    total: Total = lambda found, parameters: found,
) -> tuple[Float[Tensor, "*runs batch tasks"], Float[Tensor, "*runs batch tasks"]]:
    """Per-sample losses (with tape) and their alignment with ``direction`` (detached).

    δ_bt = ⟨∇_θ ℓ_bt, g⟩ is the derivative of ℓ_bt along g, so one forward-mode product gives all of them and no
    per-sample gradient ever exists. A model with an operator that has no forward mode (such as the float32 kernel of
    ``nn.LSTM``) is differentiated twice in reverse instead: δ is the gradient of w ↦ ⟨∇_θ Σ_bt w_bt ℓ_bt, g⟩.
    """
    try:
        with forward_ad.dual_level():
            dual = {name: forward_ad.make_dual(value, direction[name]) for name, value in shared.items()}
            live, tangent = forward_ad.unpack_dual(losses(dual))
            return live, torch.zeros_like(live) if tangent is None else tangent.detach()
    except NotImplementedError:
        return _aligned_in_reverse(losses, shared, direction, total)


def _aligned_in_reverse(
    losses: Callable[[Params], Float[Tensor, "*runs batch tasks"]], shared: Params, direction: Params, total: Total
) -> tuple[Float[Tensor, "*runs batch tasks"], Float[Tensor, "*runs batch tasks"]]:
    with torch.enable_grad():
        live = losses(shared)
        weights = torch.ones_like(live, requires_grad=True)
        slope = gradient((weights * live).sum(), shared, create_graph=True)
        along = sum_up((slope[name] * direction[name]).sum() for name in shared)
        own = {"weights": weights}
        return live, total(gradient(along, own, retain_graph=True), own)["weights"]
