"""HydaLearn: weights per mini-batch, from the gain of a fake step on each task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mtlkit.measure import Gains
from mtlkit.weighting._base import Weighting, normalise


@dataclass(frozen=True)
class HydaLearn(Weighting):
    """Task weights in the ratio of what a fake step on each task alone would gain the main task.

    θ_t = θ − η ∇L_t(θ),    δ_t = M(θ) − M(θ_t),    w_t = max(δ_t, 0) / Σ_u max(δ_u, 0)

    L_t: mean loss of the training batch; θ: all parameters; M: the main task's metric, to be
    lowered. The weights (T,) sum to 1; where no gain is positive, the main task has them all. A gain that is
    not finite, as after a fake step that overflows, counts as none.

    Source: Verboven et al., *HydaLearn: Highly dynamic task weighting for multi-task learning with auxiliary tasks*,
    arXiv 2008.11643. *Reading*: M is evaluated on a batch of the meta split; ``on="batch"`` takes the training batch
    itself. *Reading*: the fake steps are plain gradient steps, whatever the optimiser.

    Args:
        step: η, the size of the fake steps; the optimiser's learning rate when None.
        on: ``"meta"`` or ``"batch"``.
        metric: M, called with the main task's outputs and targets, (n, ...) each, of the n samples
            with a label; returns a number to be lowered and need not be differentiable (see
            :func:`mtlkit.measure.score`). The main task's mean loss when None.

    Raises:
        ValueError: another ``on``, a negative step.
        TypeError: ``metric`` cannot be called.

    >>> from mtlkit.measure import Signal
    >>> present = torch.ones(1, 3, dtype=torch.bool)
    >>> w, _ = HydaLearn().update((), Signal(torch.ones(1, 3), present, gains=torch.tensor([3.0, -2.0, 1.0])))
    >>> w.tolist()
    [0.75, 0.0, 0.25]
    >>> w, _ = HydaLearn().update((), Signal(torch.ones(1, 3), present, gains=torch.tensor([-3.0, -2.0, 0.0])))
    >>> w.tolist()
    [1.0, 0.0, 0.0]
    """

    step: float | None = None
    on: str = "meta"
    metric: Callable[[Tensor, Tensor], Tensor | float] | None = None

    def __post_init__(self) -> None:
        Gains(self.step, self.on, self.metric)

    @property
    def reads(self):
        return (Gains(self.step, self.on, self.metric),)

    def update(self, state, signal):
        gains = torch.where(signal.gains.isfinite(), signal.gains, 0)
        main = (torch.arange(gains.shape[-1], device=gains.device) == 0).to(gains.dtype)
        return torch.where((gains > 0).any(-1, keepdim=True), normalise(gains), main), state
