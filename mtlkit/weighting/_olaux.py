"""OL-AUX: online learning of auxiliary weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mtlkit.measure import InnerProducts, LearningRate
from mtlkit.weighting._base import Weighting, check_hyper


class Progress(NamedTuple):
    """State of :class:`OLAux`.

    Attributes:
        weights: w, the main task's is 1.
        gathered: Σ η⟨g_main, g_t⟩ since the last update.
        steps: how many steps that is.
    """

    weights: Float[Tensor, "*runs tasks"]
    gathered: Float[Tensor, "*runs tasks"]
    steps: Float[Tensor, "*runs"]


@dataclass(frozen=True)
class OLAux(Weighting):
    """Auxiliary weights that follow how much each task's steps lowered the main loss.

    every N steps: w_t ← w_t + β Σ_{last N steps} η ⟨g_main, g_t⟩ for the auxiliaries;    w_main = 1

    g_t: gradient of L_t with respect to the shared parameters, of the training batch; η: learning rate.
    The steps N, 2N, ... are still taken with the weights from before their update. The weights
    (T,) given are w/T: they start at 1/T, and may become negative.

    Source: Lin et al., *Adaptive auxiliary task weighting for reinforcement learning*, NeurIPS 2019. There the weights
    are w; ``paper_scale=True`` gives that. *Reading*: all weights start at 1 and are not clipped. SLGrad's published
    code starts its step counter at 0.4 and compares it with 2, so that the weights of this baseline never change there.

    Args:
        every: N ≥ 1.
        beta: β ≥ 0, step size of the weights.
        paper_scale: do not divide by T.

    Raises:
        ValueError: an option out of its range.

    >>> from mtlkit.measure import Signal
    >>> olaux = OLAux(every=2, beta=10.0, paper_scale=True)
    >>> state = olaux.init(2, torch.ones(()))
    >>> gramian = torch.tensor([[1.0, -0.5], [-0.5, 1.0]])
    >>> for _ in range(3):
    ...     signal = Signal(torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool), gramian=gramian, lr=torch.tensor(0.1))
    ...     w, state = olaux.update(state, signal)
    ...     print(w.tolist())
    [1.0, 1.0]
    [1.0, 1.0]
    [1.0, 0.0]
    """

    every: int = 5
    beta: float = 1.0
    paper_scale: bool = False
    reads = (InnerProducts(), LearningRate())

    def __post_init__(self) -> None:
        check_hyper("every", self.every, 1)
        check_hyper("beta", self.beta, 0)

    def init(self, n_tasks, like):
        return Progress(like.new_ones(n_tasks), like.new_zeros(n_tasks), like.new_zeros(()))

    def update(self, state, signal):
        gathered = state.gathered + signal.lr * signal.gramian[0]
        steps = state.steps + 1
        due = steps >= self.every
        n_tasks = gathered.shape[-1]
        auxiliary = torch.arange(n_tasks, device=gathered.device) > 0
        weights = torch.where(due & auxiliary, state.weights + self.beta * gathered, state.weights)
        used = state.weights if self.paper_scale else state.weights / n_tasks
        return used, Progress(weights, torch.where(due, 0, gathered), torch.where(due, 0, steps))
