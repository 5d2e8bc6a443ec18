"""αVIL: α-variable importance learning."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mtlkit.gradients import Params
from mtlkit.merging._base import Epoch, Merged, Merging, branch_report, check_rho, inner, moved, one_task_each


@dataclass(frozen=True)
class AlphaVIL(Merging):
    """Merge one branch per task with coefficients tuned by gradient descent on the main task's meta loss.

    Per epoch, from the same θ:

        θ_t = train(θ; w_t L_t on a share ρ of the training data),  δ_t = θ_t - θ
        α ← 1;  α_t ← α_t - η_α ⟨∇L_main(meta; θ + Σ_s α_s δ_s), δ_t⟩,  ``alpha_steps`` times
        θ ← θ + Σ_t α_t δ_t,  w_t ← max(w_t + (α_t - 1), 0)

    θ, δ_t: all parameters, heads included; w (T,): task weights, 1 at the start; L_t: mean training
    loss of task t; α (T,): merge coefficients, of any sign. The merged model depends on α only
    through one sum, so a step on α costs one backward pass to the merged parameters and T inner products.

    Source: Kourdis, Gordon-Hall, Gorinski, *αVIL: Learning to Leverage Auxiliary Tasks for Multitask Learning*, arXiv
    2405.07769. *Reading*: weights are clipped at zero; a task whose weight is zero has no update any more and stays at
    zero. *Reading*: α descends on the whole meta split, plainly. *Reading*: each branch starts every epoch with a fresh
    optimiser (no momentum from the last merge). *Reading*: each branch draws its share of the rows with a label of its
    task anew every epoch. Deviation: a branch's loss is w_t L_t / T, so that weights of 1 add up to the step of uniform
    weighting; this holds for SGD and not for optimisers that rescale gradients. ``paper_scale`` takes w_t L_t. The
    defaults of ``alpha_steps`` and ``alpha_lr`` are not the paper's.

    The frame has, per task and epoch: ``alpha``, ``task_weight`` (the w_t that the branch was trained
    with), ``branch_meta_loss`` (the main task's meta loss of θ_t) and ``branch_steps``.

    Args:
        rho: ρ, share of a task's training rows for its branch; with 1/T an epoch costs as much as a plain one.
        alpha_steps: gradient steps on α per epoch; 0 keeps α at 1.
        alpha_lr: η_α, their learning rate; too large where α oscillates from one step to the next. Then α may end
            below zero for every task, all weights are zero, and nothing is trained any more, which the default did to
            some seeds of ``notebooks/alphavil.ipynb``; ``alpha`` and ``task_weight`` show it.
        paper_scale: do not divide by T.

    Raises:
        ValueError: ``rho`` outside (0, 1], a negative ``alpha_steps`` or ``alpha_lr``.
    """

    rho: float = 1.0
    alpha_steps: int = 10
    alpha_lr: float = 0.5
    paper_scale: bool = False

    def __post_init__(self):
        check_rho("AlphaVIL", self.rho)
        if self.alpha_steps < 0 or self.alpha_lr < 0:
            raise ValueError(
                f"AlphaVIL: alpha_steps is {self.alpha_steps} and alpha_lr {self.alpha_lr}, expected none below 0"
            )

    def epoch(self, epoch: Epoch, state):
        """Fork, train, tune α, merge."""
        scaled = state if self.paper_scale else state / epoch.n_tasks
        branches, deltas = one_task_each(epoch, scaled, self.rho)
        alpha = torch.ones_like(state)
        for _ in range(self.alpha_steps):
            alpha = alpha - self.alpha_lr * slope(epoch, alpha, deltas)
        report = {
            "alpha": ("meta", alpha),
            "task_weight": ("train", state),
            **branch_report(epoch, branches, self.rho, alpha),
        }
        return Merged(moved(epoch.parameters, alpha, deltas), (state + alpha - 1).clamp(min=0), alpha * scaled, report)


def slope(epoch: Epoch, alpha: Float[Tensor, "*runs tasks"], deltas: Params) -> Float[Tensor, "*runs tasks"]:
    """∂/∂α_t of the meta loss at θ + Σ_s α_s δ_s."""
    return inner(deltas, epoch.meta_gradient(moved(epoch.parameters, alpha, deltas)), alpha.ndim - 1)
