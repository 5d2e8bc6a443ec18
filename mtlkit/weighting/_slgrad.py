"""SLGrad: one weight per sample and task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mtlkit.weighting._base import Weighting, normalise


@dataclass(frozen=True)
class SLGrad(Weighting):
    """Sample-level weights from the alignment with the main task's meta gradient.

    δ_bt = ⟨∇_θ ℓ_bt, ∇_θ L_main(V)⟩,    w_bt = max(δ_bt, 0) / Σ_b't' max(δ_b't', 0)

    θ: shared parameters; ℓ_bt: loss of sample b on task t; V: a batch of the meta split. The
    weights are (B, T) and sum to 1, or are all zero where no sample helps (no update that step).

    Source: Grégoire, Chaudhary, Verboven, *Sample-Level Weighting for Multi-Task Learning with
    Auxiliary Tasks*, arXiv 2306.04519. Their published code takes a real look-ahead step, never
    rolled back, and divides the loss by the batch size once more; here nothing but the weighted
    step moves the model, and the weights sum to 1.

    >>> import torch
    >>> from mtlkit.signals import Signal
    >>> delta = torch.tensor([[3.0, -2.0], [0.0, 1.0]])
    >>> w, _ = SLGrad().update((), Signal(torch.ones(2, 2), torch.ones(2, 2, dtype=torch.bool), alignment=delta))
    >>> w.tolist()
    [[0.75, 0.0], [0.0, 0.25]]
    """

    reads: ClassVar = frozenset({"alignment"})

    def update(self, state, signal):
        return normalise(signal.alignment), state
