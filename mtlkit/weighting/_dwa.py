"""Dynamic weight average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mtlkit.measure import Given
from mtlkit.weighting._base import Weighting, check_hyper, safe_divide


class Averages(NamedTuple):
    """State of :class:`DWA`.

    Attributes:
        epoch: of the last step, -1 before the first.
        total: sum of L_t over this epoch's steps with a label.
        steps: how many those are.
        last: mean over the epoch before, NaN if there is none.
        earlier: mean over the epoch before that, NaN if there is none.
    """

    epoch: Int[Tensor, "*runs"]
    total: Float[Tensor, "*runs tasks"]
    steps: Float[Tensor, "*runs tasks"]
    last: Float[Tensor, "*runs tasks"]
    earlier: Float[Tensor, "*runs tasks"]


@dataclass(frozen=True)
class DWA(Weighting):
    """Dynamic weight average: tasks whose loss falls more slowly weigh more.

    r_t = L_t(e−1)/L_t(e−2),    w_t = softmax_t(r_t/τ)

    L_t(e): mean of L_t over the steps of epoch e in which the task has a label; τ: temperature. In
    the first two epochs r_t = 1 for all tasks, so that w_t = 1/T; so it is for a task that has no
    label in one of the two epochs, or L_t(e−2) = 0. The weights (T,) sum to 1.

    Source: Liu, Johns, Davison, *End-to-end multi-task learning with attention*, arXiv 1803.10704
    (τ = 2). There the weights sum to T; ``paper_scale=True`` gives that.

    Args:
        temperature: τ > 0; a large one gives equal weights.
        paper_scale: let the weights sum to T.

    Raises:
        ValueError: an option out of its range.

    >>> from mtlkit.measure import Signal
    >>> dwa = DWA()
    >>> state = dwa.init(2, torch.ones(()))
    >>> for epoch, losses in enumerate([[4.0, 1.0], [2.0, 1.0], [1.0, 1.0]]):
    ...     present = torch.ones(1, 2, dtype=torch.bool)
    ...     w, state = dwa.update(state, Signal(torch.tensor([losses]), present, epoch=torch.tensor(epoch)))
    >>> [round(v, 4) for v in w.tolist()]  # softmax(1/4, 1/2)
    [0.4378, 0.5622]
    """

    temperature: float = 2.0
    paper_scale: bool = False
    reads = (Given("epoch"),)

    def __post_init__(self) -> None:
        check_hyper("temperature", self.temperature, 1e-6)

    def init(self, n_tasks, like):
        zero, unknown = like.new_zeros(n_tasks), like.new_full((n_tasks,), torch.nan)
        return Averages(torch.full((), -1, device=like.device), zero, zero, unknown, unknown)

    def update(self, state, signal):
        new = signal.epoch != state.epoch
        last = torch.where(new, state.total / state.steps, state.last)
        earlier = torch.where(new, state.last, state.earlier)
        ratio = safe_divide(last, earlier, 1.0)
        ratio = torch.where(ratio.isnan(), 1, ratio)
        weights = torch.softmax(ratio / self.temperature, -1)
        total = torch.where(new, 0, state.total) + torch.where(signal.labelled, signal.means, 0)
        steps = torch.where(new, 0, state.steps) + signal.labelled
        scale = weights.shape[-1] if self.paper_scale else 1
        return scale * weights, Averages(signal.epoch, total, steps, last, earlier)
