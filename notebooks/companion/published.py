"""Methods as SLGrad's published code has them, where that differs from the papers' rules.

For one study only, which asks whether a verdict depends on these differences; everything else of the
library follows the papers. Two further differences need no class of their own: OL-AUX's step counter
starts at 0.4 and is compared with 2, so that its weights never change (``OLAux(beta=0)``), and GradNorm's
weights receive no gradient (``GradNorm(lr=0)``). Both are uniform weighting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from mtlkit.measure import Alignment, InnerProducts, Lookahead
from mtlkit.weighting import SLGrad, Weighting, per_sample
from mtlkit.weighting._base import check_hyper, normalise, safe_divide


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

    reads = (InnerProducts(),)

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
    def reads(self):
        """What the weighting reads."""
        return self.weighting.reads

    def init(self, n_tasks, like):
        """State of the weighting."""
        return self.weighting.init(n_tasks, like)

    def update(self, state, signal):
        """Weights (T,)."""
        weights, state = self.weighting.update(state, signal._replace(gramian=accumulated(signal.gramian)))
        return _of_tasks(weights), state


class Positions(NamedTuple):
    """State of :class:`RealLookahead`: (B, T) the last batch's normalised weights, by position in the batch."""

    weights: Tensor


@dataclass(frozen=True)
class RealLookahead(SLGrad):
    """SLGrad as published: the look-ahead step stays, has other samples' weights, and both steps are short.

    w_bt = (v_bt + max(δ_bt, 0)/Σ max(δ, 0)) / B,    δ taken at θ' = θ − η ∇ Σ v_bt ℓ_bt(θ)/B

    v_bt: the weight that the sample at position b of the *previous* batch was given for task t (1/(B T) in
    the first step), although another sample is there now. The published code takes a real step with v,
    measures δ after it, and takes the weighted step from there. Weights sum to 1 over the batch, and the
    loss of either step is divided by the batch size B once more. So the weights (B, T) sum to 2/B at most.

    The published look-ahead step is the optimiser's own, so that η is its learning rate. *Reading*: both
    steps are taken as one, their gradients added at θ. Without momentum that equals the two steps to first
    order in their size; with it, the optimiser sees one gradient a batch where the published code's
    sees two. *Reading*: a missing label, of which the published code has none, has weight zero in both
    steps, and hands on zero.

    Source: the published code of Grégoire, Chaudhary, Verboven, *Sample-Level Weighting for Multi-Task
    Learning with Auxiliary Tasks*, arXiv 2306.04519.

    Args:
        lookahead: η, the size of the step after which δ is measured.
        batch_size: B, of every batch.

    Raises:
        ValueError: a batch of another size.
    """

    lookahead: float = 0.01
    batch_size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_hyper("batch_size", self.batch_size, 1)

    def init(self, n_tasks, like):
        """State with uniform weights 1/(B T)."""
        return Positions(like.new_full((self.batch_size, n_tasks), 1 / (self.batch_size * n_tasks)))

    @property
    def reads(self):
        """The alignment after the look-ahead step with weights (B, T)."""
        return (Alignment(Lookahead(self.lookahead, self._kept)),)

    def _kept(self, state: Positions, losses: Tensor, present: Tensor) -> Tensor:
        return state.weights / self.batch_size

    def update(self, state, signal):
        """Weights (B, T) of both steps together."""
        weights = normalise(signal.alignment)
        return (per_sample(state.weights, signal.present) + weights) / self.batch_size, Positions(weights)


def accumulated(gramian: Tensor) -> Tensor:
    """Inner products of the rows h_t = Σ_{s≤t} g_s from those of the gradients, (..., T, T) both."""
    return gramian.cumsum(-1).cumsum(-2)


def _of_tasks(weights: Tensor) -> Tensor:
    """Weights of the rows h as weights of the gradients g: Σ_t v_t h_t = Σ_s (Σ_{t≥s} v_t) g_s."""
    return weights.flip(-1).cumsum(-1).flip(-1)
