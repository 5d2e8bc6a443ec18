"""SLAW: scaled loss approximate weighting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mtlkit.weighting._base import Weighting, check_hyper


class Spreads(NamedTuple):
    """State of :class:`SLAW`.

    Attributes:
        mean: b, moving average of L.
        variance: a − b², a the moving average of L².
        seen: which tasks have had a label.
    """

    mean: Float[Tensor, "*runs tasks"]
    variance: Float[Tensor, "*runs tasks"]
    seen: Bool[Tensor, "*runs tasks"]


@dataclass(frozen=True)
class SLAW(Weighting):
    """Weights inverse to the spread of each task's loss, an estimate of its gradient's norm.

    a ← βa + (1−β)L²,    b ← βb + (1−β)L,    s = max(ε, √(a − b²)),    w_t = (1/s_t) / Σ_u (1/s_u)

    a and b start at 0 and are not corrected for it. The weights (T,) sum to 1. A task without a
    label in the batch keeps its averages; one that never had a label has weight zero.

    Source: Crawshaw, Košecká, *SLAW: Scaled loss approximate weighting for efficient multi-task learning*, arXiv
    2109.08218. There the weights sum to T; ``paper_scale=True`` gives that. The state is v = a − b² itself, as v ← βv +
    β(1−β)(L − b)²: the same number, without the cancellation.

    Args:
        beta: β, in [0, 1].
        eps: ε > 0, the least spread.
        paper_scale: let the weights sum to T.

    Raises:
        ValueError: an option out of its range.

    >>> from mtlkit.measure import Signal
    >>> slaw = SLAW()
    >>> signal = Signal(torch.tensor([[1.0, 3.0]]), torch.ones(1, 2, dtype=torch.bool))
    >>> w, state = slaw.update(slaw.init(2, torch.ones(())), signal)
    >>> [round(v, 4) for v in w.tolist()]
    [0.75, 0.25]
    """

    beta: float = 0.99
    eps: float = 1e-5
    paper_scale: bool = False

    def __post_init__(self) -> None:
        check_hyper("beta", self.beta, 0, 1)
        check_hyper("eps", self.eps, 1e-30)

    def init(self, n_tasks, like):
        zero = like.new_zeros(n_tasks)
        return Spreads(zero, zero, torch.zeros_like(zero, dtype=torch.bool))

    def update(self, state, signal):
        losses, labelled, beta = signal.means, signal.labelled, self.beta
        variance = beta * state.variance + beta * (1 - beta) * (losses - state.mean).square()
        mean = beta * state.mean + (1 - beta) * losses
        state = Spreads(
            torch.where(labelled, mean, state.mean),
            torch.where(labelled, variance, state.variance),
            state.seen | labelled,
        )
        spread = state.variance.sqrt().clamp(min=self.eps)
        smallest = torch.where(state.seen, spread, torch.inf).amin(-1)
        inverse = torch.where(state.seen, smallest / spread, 0)
        scale = inverse.shape[-1] if self.paper_scale else 1
        return scale * inverse / inverse.sum(-1, keepdim=True).clamp(min=1), state
