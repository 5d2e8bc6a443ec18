"""META-TARTAN: task weights learned from the alignment with a dev gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from mtlkit.measure import InnerProducts, MetaAlignment, MetaNorm
from mtlkit.weighting._base import Weighting, check_hyper
from mtlkit.weighting._cosine import meta_cosines


class Logits(NamedTuple):
    """State of :class:`MetaTartan`: z."""

    logits: Float[Tensor, "*runs tasks"]


@dataclass(frozen=True)
class MetaTartan(Weighting):
    """Task weights that follow the cosine of each task's gradient with the main task's dev gradient.

    w = softmax(z),    z_t ← z_t + β cos(∇_θ L_t, ∇_θ L_main(V))

    θ: shared parameters; V: a batch of the meta split (the paper's dev set). A cosine with a zero gradient is zero. z
    starts at 0; a step is taken with the weights from before the update. The weights (T,) sum to 1.

    Source: Dery et al., *Should we be pre-training? An argument for end-task aware training as an alternative*, arXiv
    2109.07437. Deviation: the dev gradient goes through the model's own main head, where the paper has a dev head of
    its own. *Reading*: z is moved by the cosine itself, without the softmax's Jacobian.

    Args:
        beta: β ≥ 0, step size of the logits.

    Raises:
        ValueError: an option out of its range.

    >>> import torch
    >>> from mtlkit.measure import Signal
    >>> tartan = MetaTartan(beta=1.0)
    >>> signal = Signal(
    ...     torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool), gramian=torch.tensor([[4.0, 0.0], [0.0, 4.0]]),
    ...     meta_alignment=torch.tensor([6.0, -3.0]), meta_norm=torch.tensor(3.0),
    ... )
    >>> w, state = tartan.update(tartan.init(2, torch.ones(())), signal)
    >>> w.tolist(), state.logits.tolist()
    ([0.5, 0.5], [1.0, -0.5])
    """

    beta: float = 0.05
    reads = (InnerProducts(), MetaAlignment(), MetaNorm())

    def __post_init__(self) -> None:
        check_hyper("beta", self.beta, 0)

    def init(self, n_tasks, like):
        return Logits(like.new_zeros(n_tasks))

    def update(self, state, signal):
        cosines = meta_cosines(signal.gramian, signal.meta_alignment, signal.meta_norm)
        return state.logits.softmax(-1), Logits(state.logits + self.beta * cosines)
