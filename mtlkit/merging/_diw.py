"""DIW: discriminative importance weighting."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mtlkit.measure import Metric
from mtlkit.merging._base import (
    Epoch,
    Merged,
    Merging,
    branch_report,
    check_metric,
    check_rho,
    error_rate,
    moved,
    one_task_each,
)


@dataclass(frozen=True)
class DIW(Merging):
    """Weigh each task by what the merged model loses on the main task's meta metric without its update.

    Per epoch, from the same θ:

        θ_t = train(θ; w_t L_t on a share ρ of the training data),  δ_t = θ_t - θ
        Δ_t = M(θ + Σ_{s≠t} δ_s) - M(θ + Σ_s δ_s)
        θ ← θ + Σ_t δ_t,  w_t ← max(w_t + Δ_t, 0)

    θ, δ_t: all parameters, heads included; w (T,): task weights, 1 at the start; L_t: mean training loss
    of task t; M: the main task's metric on the whole meta split, to be lowered.

    Source: the baseline of this name in Kourdis, Gordon-Hall, Gorinski, arXiv 2405.07769. *Reading*: the rule above,
    with M = 1 - accuracy, added to the weight as it is. *Reading*: all updates are merged with coefficient 1, weights
    are clipped at zero, and each branch starts every epoch with a fresh optimiser and its own draw of the training
    rows, as for αVIL. Deviation: a branch's loss is w_t L_t / T, so that weights of 1 add up to the step of uniform
    weighting (with SGD); ``paper_scale`` takes w_t L_t.

    The frame has, per task and epoch: ``task_weight`` (the w_t that the branch was trained with),
    ``meta_gain`` (Δ_t), ``branch_meta_loss`` (the main task's meta loss of θ_t) and ``branch_steps``.

    Args:
        rho: ρ, share of a task's training rows for its branch; with 1/T an epoch costs as much as a plain one.
        metric: M, called with the main task's outputs and targets (see :func:`mtlkit.measure.score`);
            1 - accuracy unless told otherwise, the mean loss when None.
        paper_scale: do not divide by T.

    Raises:
        ValueError: ``rho`` outside (0, 1]; in training, an error rate of a regression task.
        TypeError: ``metric`` cannot be called.
    """

    rho: float = 1.0
    metric: Metric | None = error_rate
    paper_scale: bool = False

    def __post_init__(self):
        check_rho("DIW", self.rho)
        check_metric("DIW", self.metric)

    def epoch(self, epoch: Epoch, state):
        """Fork, train, merge, and compare with the merges that leave one branch out."""
        scaled = state if self.paper_scale else state / epoch.n_tasks
        branches, deltas = one_task_each(epoch, scaled, self.rho)
        every = torch.ones_like(state)
        merged = moved(epoch.parameters, every, deltas)
        but_one = every.unsqueeze(-2) - torch.eye(epoch.n_tasks, dtype=state.dtype, device=state.device)
        without = [epoch.score(moved(epoch.parameters, but_one[..., t, :], deltas)) for t in range(epoch.n_tasks)]
        gain = torch.stack(without, -1) - epoch.score(merged).unsqueeze(-1)
        report = {
            "task_weight": ("train", state),
            "meta_gain": ("meta", gain),
            **branch_report(epoch, branches, self.rho, gain),
        }
        return Merged(merged, (state + gain).clamp(min=0), scaled, report)
