"""The logarithm of the squared error."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mtlkit.weighting._base import Weighting, safe_divide


@dataclass(frozen=True)
class LogSE(Weighting):
    """Homoscedastic uncertainty of regression tasks without learned weights.

    minimise Σ_t (N_t/2) ln Σ_b (y_bt − ŷ_bt)²,    whose gradient is Σ_t w_t ∇L_t with w_t = N_t / (2 L_t)

    N_t: samples with a label; L_t: mean squared error. By default the weights (T,) are w_t ∝ 1/L_t
    and sum to 1; a task whose loss is zero, or that has no label in the batch, has weight zero.

    Source: Ghasemi-Naraghi et al., JUCS 28(2), for two regression tasks; here for any number of them (nothing forbids a
    classification task, but the derivation does not hold for it). *Reading*: the sum runs over the batch; what is kept
    of the objective is the ratio of the weights, so that the length of the step is that of the other methods.
    ``paper_scale=True`` gives w_t = N_t / (2 L_t), the objective's own gradient.

    Args:
        paper_scale: follow the objective's own gradient.

    >>> import torch
    >>> from mtlkit.measure import Signal
    >>> losses = torch.tensor([[1.0, 2.0], [1.0, 4.0]])
    >>> w, _ = LogSE().update((), Signal(losses, torch.ones(2, 2, dtype=torch.bool)))
    >>> w.tolist()
    [0.75, 0.25]
    """

    paper_scale: bool = False

    def update(self, state, signal):
        means = signal.means
        if self.paper_scale:
            return safe_divide(signal.present.sum(-2).to(means.dtype) / 2, means), state
        smallest = torch.where(means > 0, means, torch.inf).amin(-1)
        inverse = safe_divide(smallest, means)
        return inverse / inverse.sum(-1, keepdim=True).clamp(min=1), state
