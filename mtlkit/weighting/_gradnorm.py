"""GradNorm: weights that balance the norms of the tasks' gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mtlkit.measure import LastNorms
from mtlkit.weighting._base import Weighting, check_hyper, safe_divide


class Balance(NamedTuple):
    """State of :class:`GradNorm`.

    Attributes:
        weights: w, summing to T.
        first: L_t(0), the loss in the first batch with a label; NaN before.
    """

    weights: Float[Tensor, "*runs tasks"]
    first: Float[Tensor, "*runs tasks"]


@dataclass(frozen=True)
class GradNorm(Weighting):
    """Weights trained so that all tasks learn at the same rate.

    G_t = w_t ‖∇_W L_t‖,    r_t = (L_t/L_t(0)) / mean_u(L_u/L_u(0)),
    w ← w − lr ∇_w Σ_t |G_t − Ḡ r_t^α|   with Ḡ = mean_u G_u and r held constant, then w ← T w/Σw

    W: parameters of the last shared layer. A step is taken with the weights from before the update, as in the paper's
    algorithm 1; they start equal. A task without a label in the batch counts in no mean and gets no gradient; a task
    with L_t(0) = 0 has L_t/L_t(0) = 1. The weights (T,) are w/T, so that they sum to 1; ``paper_scale=True`` gives w
    itself. Inside the update w sums to T either way.

    Source: Chen et al., *GradNorm: Gradient normalization for adaptive loss balancing in deep multitask networks*,
    arXiv 1711.02257. *Reading*: w is moved by plain gradient descent with its own step size, and is kept from becoming
    negative (max(w, 0), before Σw is restored; all equal if nothing is left).

    Args:
        alpha: α ≥ 0, how strongly slow tasks are favoured.
        lr: step size of the weights.
        paper_scale: let the weights sum to T.

    Raises:
        ValueError: an option out of its range.

    >>> from mtlkit.measure import Signal
    >>> gradnorm = GradNorm(lr=0.1)
    >>> signal = Signal(torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool), last_norms=torch.tensor([3.0, 1.0]))
    >>> state = gradnorm.init(2, torch.ones(()))
    >>> for _ in range(2):
    ...     w, state = gradnorm.update(state, signal)
    >>> [round(v, 4) for v in w.tolist()]  # (1 - 0.3, 1 + 0.1), over their sum
    [0.3889, 0.6111]
    """

    alpha: float = 1.5
    lr: float = 0.025
    paper_scale: bool = False
    reads = (LastNorms(),)

    def __post_init__(self) -> None:
        check_hyper("alpha", self.alpha, 0)
        check_hyper("lr", self.lr, 0)

    def init(self, n_tasks, like):
        return Balance(like.new_ones(n_tasks), like.new_full((n_tasks,), torch.nan))

    def update(self, state, signal):
        losses, labelled, norms = signal.means, signal.labelled, signal.last_norms
        first = torch.where(state.first.isnan() & labelled, losses, state.first)
        ratio = safe_divide(losses, first, 1.0)
        rate = safe_divide(ratio, _mean(ratio, labelled), 1.0)
        scaled = state.weights * norms
        target = _mean(scaled, labelled) * rate**self.alpha
        slope = torch.where(labelled, torch.sign(scaled - target) * norms, 0)
        moved = (state.weights - self.lr * slope).clamp(min=0)
        n_tasks = moved.shape[-1]
        weights = n_tasks * safe_divide(moved, moved.sum(-1, keepdim=True), 1 / n_tasks)
        used = state.weights if self.paper_scale else state.weights / n_tasks
        return used, Balance(weights, first)


def _mean(values: Float[Tensor, " tasks"], among: Bool[Tensor, " tasks"]) -> Float[Tensor, " 1"]:
    return torch.where(among, values, 0).sum(-1, keepdim=True) / among.sum(-1, keepdim=True).clamp(min=1)
