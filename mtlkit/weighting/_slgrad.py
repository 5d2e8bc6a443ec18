"""SLGrad: one weight per sample and task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from mtlkit.measure import Alignment, Lookahead
from mtlkit.weighting._base import Weighting, check_hyper, normalise


class Current(NamedTuple):
    """State of :class:`SLGrad` with a look-ahead: the last batch's weights, summed over its samples."""

    weights: Float[Tensor, "*runs tasks"]


@dataclass(frozen=True)
class SLGrad(Weighting):
    """Sample-level weights from the alignment with the main task's meta gradient.

    δ_bt = ⟨∇_θ ℓ_bt, ∇_θ L_main(V)⟩,    w_bt = max(δ_bt, 0) / Σ_b't' max(δ_b't', 0)

    θ: shared parameters; ℓ_bt: loss of sample b on task t; V: a batch of the meta split. The
    weights are (B, T) and sum to 1, or are all zero where no sample helps (no update that step).

    With a look-ahead, δ is taken at θ' = θ − η ∇ Σ_t v_t L_t(θ), a virtual step of all parameters
    with the current weights: v_t = Σ_b w_bt of the batch before, 1/T in the first step.

    Source: Grégoire, Chaudhary, Verboven, *Sample-Level Weighting for Multi-Task Learning with Auxiliary Tasks*, arXiv
    2306.04519. Their published code takes a real look-ahead step, never rolled back, and divides the loss by the batch
    size once more; here nothing but the weighted step moves the model, and the weights sum to 1. *Reading*: the current
    weights belong to other samples than those at hand, so the look-ahead takes their sums per task.

    Without auxiliaries it is learning to reweight, which came first: max(δ_b, 0), normalised (Ren et al.,
    *Learning to reweight examples for robust deep learning*, arXiv 1803.09050).

    Args:
        lookahead: η, the size of the virtual step; 0 for none.

    Raises:
        ValueError: an option out of its range.

    >>> import torch
    >>> from mtlkit.measure import Signal
    >>> delta = torch.tensor([[3.0, -2.0], [0.0, 1.0]])
    >>> w, _ = SLGrad().update((), Signal(torch.ones(2, 2), torch.ones(2, 2, dtype=torch.bool), alignment=delta))
    >>> w.tolist()
    [[0.75, 0.0], [0.0, 0.25]]
    """

    lookahead: float = 0.0

    def __post_init__(self) -> None:
        check_hyper("lookahead", self.lookahead, 0)

    def init(self, n_tasks, like):
        return Current(like.new_full((n_tasks,), 1 / n_tasks)) if self.lookahead else ()

    @property
    def reads(self):
        return (Alignment(Lookahead(self.lookahead, _current) if self.lookahead else None),)

    def update(self, state, signal):
        weights = normalise(signal.alignment)
        return weights, Current(weights.sum(-2)) if self.lookahead else ()


def _current(
    state: Current, losses: Float[Tensor, "*runs batch tasks"], present: Bool[Tensor, "*runs batch tasks"]
) -> Float[Tensor, "*runs tasks"]:
    return state.weights
