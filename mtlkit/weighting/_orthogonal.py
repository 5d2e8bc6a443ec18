"""Orthogonal gradients: a penalty on cosines between the tasks' gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mtlkit.measure import InnerProducts
from mtlkit.weighting._base import Weighting, check_hyper, safe_divide


@dataclass(frozen=True)
class OrthogonalGradients(Weighting):
    """Equal weights, and a penalty that turns the tasks' gradients away from each other.

    objective: Σ_t L_t/T + λ Σ_{i<j} cos²(g_i, g_j)

    g_t: gradient of L_t with respect to the shared parameters. A cosine with a zero gradient is zero. The weights (T,)
    are 1/T. The penalty is differentiated through the gradients (second order), with respect to all parameters.

    Source: Suteu, Guo, *Regularizing deep multi-task networks using orthogonal gradients*, arXiv
    1912.06844. *Reading*: gradients with respect to all shared parameters, of the batch means.

    Args:
        strength: λ ≥ 0, beside losses of total weight 1.

    Raises:
        ValueError: an option out of its range.

    >>> from mtlkit.measure import Signal
    >>> gradients = torch.tensor([[2.0, 0.0], [3.0, 4.0], [0.0, 5.0]])
    >>> signal = Signal(torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool), gramian=gradients @ gradients.T)
    >>> round(OrthogonalGradients(strength=0.5).penalty(signal).item(), 4)  # (0.36 + 0 + 0.64) / 2
    0.5
    """

    strength: float = 1.0
    reads = (InnerProducts(differentiable=True),)

    def __post_init__(self) -> None:
        check_hyper("strength", self.strength, 0)

    def update(self, state, signal):
        return torch.full_like(signal.losses[0], 1 / signal.losses.shape[-1]), state

    def penalty(self, signal):
        squared = signal.gramian.diagonal(dim1=-2, dim2=-1)
        ratio = safe_divide(signal.gramian, squared.unsqueeze(-1))
        return self.strength * (ratio * ratio.mT).triu(1).sum((-1, -2))
