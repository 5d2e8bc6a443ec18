"""Measure: what the tasks, and each sample of them, do to the main task.

Everything here works on functions of the shared parameters, so that it serves one model as well as
a stack of models with a leading seed axis: sums over independent models differentiate to each
model's own gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jvp

Params = dict[str, Tensor]


class Signal(NamedTuple):
    """What one weighting sees of one batch of B samples and T tasks. All detached.

    Attributes:
        losses: (B, T) per-sample losses ℓ_bt, zero where a label is missing.
        present: (B, T) bool, which labels are there.
        noise: (T,) independent N(0, 1), new every step, from the run's own generator.
        alignment: (B, T) inner products ⟨∇_θ ℓ_bt, ∇_θ L_main(meta batch)⟩ over the shared
            parameters θ: to first order, how much a unit step on that one loss lowers the main
            task's meta loss.
    """

    losses: Tensor
    present: Tensor
    noise: Tensor | None = None
    alignment: Tensor | None = None


def measure(
    reads: Collection[str],
    shared: Params,
    losses: Callable[[Params], Tensor],
    meta_loss: Callable[[Params], Tensor],
    **given: Tensor,
) -> tuple[Tensor, Signal]:
    """Compute the signal's fields named in ``reads``, and nothing else.

    Args:
        shared: the shared parameters.
        losses: shared parameters to per-sample losses (..., B, T).
        meta_loss: shared parameters to the main task's mean meta loss (...); called only if needed.
        given: fields that need no computation.

    Returns:
        the per-sample losses with their tape, to be weighted and differentiated, and the signal.
    """
    if "alignment" in reads:
        direction = gradient(meta_loss(shared), shared)
        live, given["alignment"] = aligned_losses(losses, shared, direction)
    else:
        live = losses(shared)
    return live, Signal(live.detach(), **given)


def gradient(loss: Tensor, shared: Params) -> Params:
    """Gradient of ``loss`` (summed over a seed axis, if any), zero where it does not depend on a parameter."""
    found = torch.autograd.grad(loss.sum(), list(shared.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(shared, found, strict=True))


def aligned_losses(
    losses: Callable[[Params], Tensor], shared: Params, direction: Params
) -> tuple[Tensor, Tensor]:
    """Per-sample losses (with tape) and their alignment with ``direction`` (detached), both (..., B, T).

    δ_bt = ⟨∇_θ ℓ_bt, g⟩ is the derivative of ℓ_bt along g, so one forward-mode product gives all
    of them and no per-sample gradient ever exists.
    """
    live, alignment = jvp(losses, (shared,), (direction,))
    return live, alignment.detach()
