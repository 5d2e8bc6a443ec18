"""ForkMerge: branches on sets of tasks, merged by a greedy search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mtlkit.gradients import Params
from mtlkit.measure import Metric
from mtlkit.merging._base import Epoch, Merged, Merging, check_metric, combine, fork, of_each

GRID = (0.2, 0.4, 0.6, 0.8, 1.0)


class Unranked(NamedTuple):
    """State before the first merge: the tasks in the data's order, main task first."""

    order: Int[Tensor, "*runs tasks"]


class Ranked(NamedTuple):
    """State after it: the main task, then the auxiliaries, the most helpful first."""

    order: Int[Tensor, "*runs tasks"]


@dataclass(frozen=True)
class ForkMerge(Merging):
    """Train branches on the main task with different auxiliaries, average those that help.

    Per epoch, from the same θ:

        θ_k = the best of ``interval`` checkpoints, by M, of train(θ; mean of L_t over t in S_k)
        with θ_(0), θ_(1), ... the branches from best to worst:  λ_0 = 1 and, for i = 1, 2, ...,
            λ_i = a Σ_{j<i} λ_j / i  with the a in {0, .2, .4, .6, .8, 1} that has the lowest
            M(Σ_{j≤i} λ_j θ_(j) / Σ_{j≤i} λ_j)
        θ ← Σ_j λ_j θ_(j) / Σ_j λ_j

    θ, θ_k: all parameters, heads included; S_0 = {main}; M: the main task's metric on the whole meta split,
    to be lowered. An epoch of ``fit`` is one merge; its branches take ``interval`` passes of
    ``steps_per_epoch`` steps. The merged model is never worse on M than the branch that trains on
    the main task alone, since a = 0 leaves a branch out.

    With ``top_k=None`` the other branches are S_k = {main, auxiliary k}. With a number the first epoch is the same and
    ranks the auxiliaries by their branches' M; from then on S_k = {main and the best k auxiliaries}, k = 1..top_k.

    Source: Jiang et al., *ForkMerge: Mitigating Negative Transfer in Auxiliary-Task Learning*, arXiv 2301.12618.
    Optimisers: one per branch, which continues after a merge, except after the ranking, when the branches change.
    *Reading*: of equal values of M the smaller a wins. *Reading*: the ranking is made in the first epoch, whose
    branches are merged like any others; the authors' published code ranks in separate runs and throws their models
    away. *Reading*: a branch's best checkpoint is the best of this interval; the published code also goes back to
    earlier ones. Deviation: a branch's loss is the mean over its tasks, so that every branch has a total weight of 1;
    ``paper_scale`` takes the sum.

    The frame has, per epoch, with each branch under the task that it adds (the main task for S_0):
    ``alpha`` (λ_k / Σ λ), ``branch_meta_loss``, ``branch_meta_metric`` (M) and ``branch_steps``; and
    ``task_weight``, the weight of each task's loss averaged over branches by ``alpha``.

    Args:
        top_k: number of auxiliaries in the largest branch after the first epoch.
        interval: Δ, passes between merges.
        metric: M, called with the main task's outputs and targets (see :func:`mtlkit.measure.score`);
            the mean loss when None.
        paper_scale: sum the losses of a branch's tasks.

    Raises:
        ValueError: an ``interval`` or ``top_k`` below 1 or above the number of auxiliaries.
        TypeError: ``metric`` cannot be called.
    """

    top_k: int | None = None
    interval: int = 1
    metric: Metric | None = None
    paper_scale: bool = False

    def __post_init__(self):
        if self.interval < 1:
            raise ValueError(f"ForkMerge: interval is {self.interval}, expected at least 1 pass between merges")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"ForkMerge: top_k is {self.top_k}, expected None or at least 1 auxiliary")
        check_metric("ForkMerge", self.metric)

    def init(self, n_tasks, like):
        """The tasks in the data's order."""
        if self.top_k is not None and self.top_k >= n_tasks:
            raise ValueError(f"ForkMerge: top_k is {self.top_k}, expected at most {n_tasks - 1} (the auxiliary tasks)")
        return Unranked(torch.arange(n_tasks, device=like.device))

    def epoch(self, epoch: Epoch, state):
        """Fork, train each branch and keep its best checkpoint, merge greedily, rank."""
        members = _members(state, self.top_k, next(iter(epoch.parameters.values())))
        weights = members if self.paper_scale else members / members.sum(-1, keepdim=True)
        branches, scores = self._trained(epoch, weights, "ranked" if isinstance(state, Ranked) else "all")
        alpha = greedy(epoch, branches, scores)
        adds = state.order[..., : len(weights)]
        given = (alpha.unsqueeze(-1) * weights.movedim(0, -2)).sum(-2)

        def by_task(values):
            return torch.full_like(given, torch.nan).scatter(-1, adds, values)

        report = {
            "alpha": ("meta", by_task(alpha)),
            "task_weight": ("train", given),
            "branch_meta_loss": ("meta", by_task(of_each(epoch.meta_loss, branches).movedim(0, -1))),
            "branch_meta_metric": ("meta", by_task(scores.movedim(0, -1))),
            "branch_steps": ("train", by_task(torch.full_like(alpha, self.interval * epoch.steps))),
        }
        if self.top_k is not None and isinstance(state, Unranked):
            state = Ranked(torch.cat([adds[..., :1], 1 + scores[1:].argsort(dim=0, stable=True).movedim(0, -1)], -1))
        return Merged(combine(alpha, branches), state, given, report)

    def _trained(
        self, epoch: Epoch, weights: Float[Tensor, "branches *runs tasks"], keep: str
    ) -> tuple[Params, Float[Tensor, " branches *runs"]]:
        """Each branch's best checkpoint, and its M, infinite where it diverged."""
        best = current = epoch.train(fork(epoch.parameters, len(weights)), weights, 1.0, keep)
        lowest = _ordered(of_each(epoch.score, current))
        for _ in range(1, self.interval):
            current = epoch.train(current, weights, 1.0, keep)
            found = _ordered(of_each(epoch.score, current))
            better = found < lowest
            lowest = torch.where(better, found, lowest)
            best = {
                name: torch.where(better.view(*better.shape, *[1] * (value.ndim - better.ndim)), value, best[name])
                for name, value in current.items()
            }
        return best, lowest


def _ordered(scores: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Infinite in place of NaN."""
    return torch.where(scores.isnan(), torch.inf, scores)


def _members(state: Unranked | Ranked, top_k: int | None, like: Tensor) -> Float[Tensor, "branches *runs tasks"]:
    """Which branch trains on which tasks: ones and zeros."""
    one_hot = torch.nn.functional.one_hot(state.order, state.order.shape[-1]).to(like.dtype)
    if top_k is not None and isinstance(state, Ranked):
        return one_hot[..., : top_k + 1, :].cumsum(-2).movedim(-2, 0)
    return one_hot.maximum(one_hot[..., :1, :]).movedim(-2, 0)


def greedy(epoch: Epoch, branches: Params, scores: Float[Tensor, " branches *runs"]) -> Float[Tensor, "*runs branches"]:
    """Coefficients λ / Σ λ of the greedy search.

    Args:
        branches: (branches, *runs, *).
        scores: their M.
    """
    n_branches = len(scores)
    rank = torch.nn.functional.one_hot(scores.argsort(dim=0, stable=True), n_branches).to(scores.dtype)
    coefficients, lowest = rank[0], scores.amin(0)
    for i in range(1, n_branches):
        before = coefficients
        for a in GRID:
            trial = before + a * before.sum(-1, keepdim=True) / i * rank[i]
            found = epoch.score(combine(trial / trial.sum(-1, keepdim=True), branches))
            better = found < lowest
            coefficients = torch.where(better.unsqueeze(-1), trial, coefficients)
            lowest = torch.where(better, found, lowest)
    return coefficients / coefficients.sum(-1, keepdim=True)
