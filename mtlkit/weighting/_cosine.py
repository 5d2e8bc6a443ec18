"""Gradient cosine similarity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mtlkit.weighting._base import Weighting, safe_divide


@dataclass(frozen=True)
class GradientCosine(Weighting):
    """An auxiliary counts while its gradient does not point against the main task's.

    v_main = 1,    v_t = 1 if cos(g_t, g_main) ≥ 0 else 0    (or v_t = max(cos(g_t, g_main), 0)),    w = v/T

    g_t: gradient of L_t with respect to the shared parameters, of the training batch. A cosine
    with a zero gradient is zero. The weights (T,) sum to 1 at most.

    Source: Du et al., *Adapting auxiliary losses using gradient similarity*, arXiv 1812.02224.
    There the weights are v; ``paper_scale=True`` gives that. Both forms are the paper's; the
    weighted one is ``weighted=True``.

    Args:
        weighted: weigh an auxiliary by its cosine rather than by 0 or 1.
        paper_scale: do not divide by T.

    >>> from mtlkit.signals import Signal
    >>> gradients = torch.tensor([[2.0, 0.0], [3.0, 4.0], [-1.0, 5.0]])
    >>> signal = Signal(torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool), gramian=gradients @ gradients.T)
    >>> w, _ = GradientCosine(paper_scale=True).update((), signal)
    >>> w.tolist()
    [1.0, 1.0, 0.0]
    >>> w, _ = GradientCosine(weighted=True, paper_scale=True).update((), signal)
    >>> [round(v, 4) for v in w.tolist()]
    [1.0, 0.6, 0.0]
    """

    weighted: bool = False
    paper_scale: bool = False
    reads: ClassVar = frozenset({"gramian"})

    def update(self, state, signal):
        cosine = cosines(signal.gramian)[..., 0, :]
        weights = cosine.clamp(min=0) if self.weighted else (cosine >= 0).to(cosine.dtype)
        n_tasks = weights.shape[-1]
        main = torch.arange(n_tasks, device=weights.device) == 0
        weights = torch.where(main, 1, weights)
        return weights if self.paper_scale else weights / n_tasks, state


def cosines(gramian: Tensor) -> Tensor:
    """Cosines between gradients (..., T, T) from their Gramian; zero with a zero gradient."""
    norms = gramian.diagonal(dim1=-2, dim2=-1).sqrt()
    return safe_divide(safe_divide(gramian, norms.unsqueeze(-1)), norms.unsqueeze(-2))
