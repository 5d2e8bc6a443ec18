"""Methods as SLGrad's published code has them, where that differs from the papers' rules.

For one study only, which asks whether a verdict depends on these differences; everything else of the
library follows the papers. Two further differences need no class of their own: OL-AUX's step counter
starts at 0.4 and is compared with 2, so that its weights never change (``OLAux(beta=0)``), and GradNorm's
weights receive no gradient (``GradNorm(lr=0)``). Both are uniform weighting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mtlkit.weighting import SLGrad, Weighting, per_sample
from mtlkit.weighting._base import normalise, safe_divide
from mtlkit.weighting._slgrad import Current


@dataclass(frozen=True)
class AccumulatedPCGrad(Weighting):
    """PCGrad on accumulated rows, each projected along itself.

    h_t = Σ_{s≤t} g_s,    c_t = 1 + Σ_{u: ⟨h_t, h_u⟩ < 0} |⟨h_t, h_u⟩| / ‖h_t‖²,    w_s = Σ_{t≥s} c_t / T

    Gradients are not set to zero between the tasks' backward passes, so that row t holds the sum of
    the first t gradients. A conflicting row's projection onto h_t is then taken out of h_t, where the
    paper takes h_t's projection onto the other row out: h_t keeps its direction and grows. (*Reading*: the
    projection is divided by ‖h_t‖²; the order of the tasks makes no difference.) Divided by T, as the
    paper's rule is here.
    """

    reads: ClassVar = frozenset({"gramian"})

    def update(self, state, signal):
        """Weights (T,)."""
        rows = accumulated(signal.gramian)
        norms = rows.diagonal(dim1=-2, dim2=-1)
        grown = 1 + safe_divide((-rows).clamp(min=0).sum(-1), norms)
        return _of_tasks(grown) / grown.shape[-1], state


@dataclass(frozen=True)
class Accumulated(Weighting):
    """A weighting of the Gramian, such as CAGrad, on accumulated rows h_t = Σ_{s≤t} g_s.

    Args:
        weighting: reads a Gramian; its weights of the rows become weights of the tasks, w_s = Σ_{t≥s} v_t.
    """

    weighting: Weighting
    stacks: ClassVar = False

    @property
    def reads(self) -> frozenset[str]:
        """What the weighting reads."""
        return self.weighting.reads

    def init(self, n_tasks, like):
        """State of the weighting."""
        return self.weighting.init(n_tasks, like)

    def update(self, state, signal):
        """Weights (T,)."""
        weights, state = self.weighting.update(state, signal._replace(gramian=accumulated(signal.gramian)))
        return _of_tasks(weights), state


@dataclass(frozen=True)
class RealLookahead(SLGrad):
    """SLGrad whose look-ahead step stays, and whose loss is divided by the batch size once more.

    w_bt = v_t/B + max(δ_bt, 0)/Σ max(δ, 0) / B

    The published code takes a step with the current weights v, measures δ after it, and goes on from
    there with the weighted step, of 1/B the size. Here both steps are taken as one: their gradients
    are added at θ, which is the same to first order in the step size. *Reading*: v_t is the sum of
    the last batch's weights of task t, 1/T at first, as in :class:`mtlkit.SLGrad`.

    Args:
        lookahead: size of the step after which δ is measured.
        divided: divide the weighted loss by the batch size B; without it the second step has full size.
    """

    lookahead: float = 0.01
    divided: bool = True

    def update(self, state, signal):
        """Weights (B, T) of both steps together."""
        weights = normalise(signal.alignment)
        kept = per_sample(state.weights, signal.present)
        size = weights.shape[-2] if self.divided else 1
        return kept + weights / size, Current(weights.sum(-2))


def accumulated(gramian: Tensor) -> Tensor:
    """Inner products of the rows h_t = Σ_{s≤t} g_s from those of the gradients, (..., T, T) both."""
    return gramian.cumsum(-1).cumsum(-2)


def _of_tasks(weights: Tensor) -> Tensor:
    """Weights of the rows h as weights of the gradients g: Σ_t v_t h_t = Σ_s (Σ_{t≥s} v_t) g_s."""
    return weights.flip(-1).cumsum(-1).flip(-1)
