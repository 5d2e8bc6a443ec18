"""Adaptive weight assignment."""

from __future__ import annotations

from dataclasses import dataclass

from mtlkit.weighting._base import Weighting, safe_divide


@dataclass(frozen=True)
class AdaptiveWeights(Weighting):
    """Harder tasks weigh more: w_t = L_t / Σ_u L_u.

    The weights (T,) sum to 1; a task without a label in the batch has weight zero. All are zero if all losses are.

    Source: Huq, Pervin, *Adaptive weight assignment scheme for multi-task learning*, arXiv
    2303.07278. *Reading*: the losses are those of the batch at hand, and they count as constants
    when the weighted loss is differentiated. *Reading*: the total weight is 1.

    >>> import torch
    >>> from mtlkit.measure import Signal
    >>> losses = torch.tensor([[1.0, 2.0], [1.0, 4.0]])
    >>> w, _ = AdaptiveWeights().update((), Signal(losses, torch.ones(2, 2, dtype=torch.bool)))
    >>> w.tolist()
    [0.25, 0.75]
    """

    def update(self, state, signal):
        means = signal.means
        return safe_divide(means, means.sum(-1, keepdim=True)), state
