"""Homoscedastic uncertainty: weights that the model's optimiser learns."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mtlkit.measure import Given, Learnable
from mtlkit.weighting._base import Weighting


@dataclass(frozen=True)
class Uncertainty(Weighting):
    """Uncertainty weighting: the objective (1/T) Σ_t c_t e^{−s_t} L_t + s_t/2, minimised over θ and s.

    s_t = ln σ_t², learned with the model, starts at 0; c_t is 1/2 for a regression and 1 for a
    classification task. The weights (T,) are w_t = c_t e^{−s_t}/T and the rest is the penalty. A
    task without a label in the batch leaves its s_t alone.

    Source: Kendall, Gal, Cipolla, *Multi-task learning using uncertainty to weigh losses for scene
    geometry and semantics*, arXiv 1705.07115. The factor 1/T is ours: the whole objective is
    divided by the number of tasks, which changes no optimum and makes the first weights sum to 1 at
    most; ``paper_scale=True`` leaves it out. *Reading*: s rather than σ is learned, as the
    paper does for numerical stability, by the optimiser of the model and at its learning rate.

    Args:
        paper_scale: do not divide by T.

    >>> from mtlkit.measure import Signal
    >>> signal = Signal(
    ...     torch.ones(3, 1).expand(3, 2), torch.ones(3, 2, dtype=torch.bool),
    ...     learned=torch.tensor([0.0, 2.0]).log1p(), regression=torch.tensor([True, False]),
    ... )
    >>> w, _ = Uncertainty().update((), signal)
    >>> [round(v, 4) for v in w.tolist()]
    [0.25, 0.1667]
    >>> round(Uncertainty().penalty(signal).item(), 4)
    0.2747
    """

    paper_scale: bool = False

    @property
    def reads(self):
        return (Learnable(), Given("regression"))

    def update(self, state, signal):
        factor = torch.where(signal.regression, 0.5, 1.0).to(signal.learned.dtype)
        return self._scaled(factor * torch.exp(-signal.learned)), state

    def penalty(self, signal):
        return self._scaled(torch.where(signal.labelled, signal.learned / 2, 0)).sum()

    def _scaled(self, by_task):
        return by_task if self.paper_scale else by_task / by_task.shape[-1]


@dataclass(frozen=True)
class RevisedUncertainty(Uncertainty):
    """Uncertainty weighting with a penalty that stays positive: (1/T) Σ_t L_t/(2σ_t²) + ln(1 + σ_t²).

    σ_t² is learned with the model and starts at 1. The weights (T,) are w_t = 1/(2 T σ_t²), for regression and
    classification alike, and the rest is the penalty. A task without a label in the batch leaves its σ_t alone.

    Source: Liebel, Körner, *Auxiliary tasks in multi-task learning*, arXiv 1805.06334. The factor
    1/T is ours, as in :class:`Uncertainty`; ``paper_scale=True`` leaves it out. *Reading*: what is
    learned is s_t = ln σ_t², so that σ_t² cannot reach zero; the optimum is the same.

    Args:
        paper_scale: do not divide by T.

    >>> from mtlkit.measure import Signal
    >>> signal = Signal(
    ...     torch.ones(3, 2), torch.ones(3, 2, dtype=torch.bool), learned=torch.tensor([1.0, 2.0]).log(),
    ... )
    >>> w, _ = RevisedUncertainty().update((), signal)
    >>> [round(v, 4) for v in w.tolist()]
    [0.25, 0.125]
    >>> round(RevisedUncertainty().penalty(signal).item(), 4)  # (ln 2 + ln 3) / 2
    0.8959
    """

    @property
    def reads(self):
        return (Learnable(),)

    def update(self, state, signal):
        return self._scaled(torch.exp(-signal.learned) / 2), state

    def penalty(self, signal):
        return self._scaled(torch.where(signal.labelled, torch.nn.functional.softplus(signal.learned), 0)).sum()
