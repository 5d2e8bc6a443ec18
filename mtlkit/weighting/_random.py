"""Random loss weighting."""

from __future__ import annotations

from dataclasses import dataclass

from mtlkit.measure import Given
from mtlkit.weighting._base import Weighting


@dataclass(frozen=True)
class RandomWeighting(Weighting):
    """w = softmax(z) with z ~ N(0, I), drawn anew in every step.

    Source: Lin et al., *Reasonable effectiveness of random weighting*, arXiv 2111.10603. No deviation.

    >>> import torch
    >>> from mtlkit.measure import Signal
    >>> z = torch.tensor([0.0, 0.0, torch.log(torch.tensor(2.0))])
    >>> w, _ = RandomWeighting().update((), Signal(torch.ones(5, 3), torch.ones(5, 3, dtype=torch.bool), noise=z))
    >>> w.tolist()
    [0.25, 0.25, 0.5]
    """

    reads = (Given("noise"),)

    def update(self, state, signal):
        return signal.noise.softmax(-1), state
