"""ARML: auxiliary weights whose summed gradient is close to the main task's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mtlkit.measure import InnerProducts
from mtlkit.weighting._base import Weighting, check_hyper


class Auxiliary(NamedTuple):
    """State of :class:`ARML`: (K,) α."""

    alpha: Float[Tensor, "*runs auxiliaries"]


@dataclass(frozen=True)
class ARML(Weighting):
    """Auxiliary weights that minimise the distance of the summed auxiliary gradient to the main task's.

    L = L_main + Σ_k α_k L_k,    α ← P(α − lr ∇_α ‖g_main − Σ_k α_k g_k‖²),    P: onto {Σ_k α_k = K, α ≥ 0}

    g_t: gradient of L_t with respect to the shared parameters, of the training batch; K = T − 1 auxiliaries. All
    it takes is the Gramian G of the gradients: the slope is 2 (Σ_j G_kj α_j − G_k,main). α starts at 1; a step is
    taken with the weights from before their update, and a batch without a label of the main task leaves α alone.
    The weights (T,) are (1, α)/T, so that they sum to 1; ``paper_scale=True`` gives (1, α).

    Source: Shi et al., *Auxiliary task reweighting for minimum-data learning*, arXiv 2010.08244. *Readings*: P is
    the nearest point (the authors' published code adds the same number to every α_k so that Σ α = K, and then
    clips at 0, which leaves Σ α above K where something is clipped); α moves in every step (there: in every 20th,
    which moves nothing else). The paper's Langevin noise on θ is left out.

    Args:
        lr: step size of α.
        paper_scale: let the weights sum to T.

    Raises:
        ValueError: an option out of its range.

    >>> from mtlkit.measure import Signal
    >>> arml = ARML(lr=0.1, paper_scale=True)
    >>> state = arml.init(3, torch.ones(()))
    >>> gradients = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> signal = Signal(torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool), gramian=gradients @ gradients.T)
    >>> for _ in range(2):
    ...     w, state = arml.update(state, signal)
    >>> [round(v, 4) for v in w.tolist()]  # (1, 1 - 0.2), and 0.1 more each
    [1.0, 1.1, 0.9]
    """

    lr: float = 0.05
    paper_scale: bool = False
    reads = (InnerProducts(),)

    def __post_init__(self) -> None:
        check_hyper("lr", self.lr, 0)

    def init(self, n_tasks, like):
        return Auxiliary(like.new_ones(n_tasks - 1))

    def update(self, state, signal):
        alpha, gramian = state.alpha, signal.gramian
        slope = 2 * (gramian[1:, 1:] @ alpha - gramian[1:, 0])
        moved = torch.where(signal.labelled[0], to_simplex(alpha - self.lr * slope), alpha)
        weights = torch.cat([torch.ones_like(gramian[0, :1]), alpha])
        return weights if self.paper_scale else weights / weights.shape[-1], Auxiliary(moved)


def to_simplex(values: Float[Tensor, "*runs auxiliaries"]) -> Float[Tensor, "*runs auxiliaries"]:
    """The nearest (..., K) numbers that are at least 0 and sum to K: max(values − τ, 0).

    τ = max_j ((Σ of the j largest) − K)/j (Held, Wolfe, Crowder, *Validation of subgradient optimization*, 1974).
    """
    total = values.shape[-1]
    if total == 0:
        return values
    below = values - values.amax(-1, keepdim=True)
    count = torch.arange(1, total + 1, dtype=values.dtype, device=values.device)
    tau = ((below.sort(-1, descending=True).values.cumsum(-1) - total) / count).amax(-1, keepdim=True)
    return (below - tau).clamp(min=0)
