"""Meta-Weight-Net: sample weights as a learned function of the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mtlkit.measure import Alignment, Lookahead
from mtlkit.weighting._adamax import Moments, adamax, no_moments
from mtlkit.weighting._base import Weighting, check_hyper, equal_weights


class Perceptrons(NamedTuple):
    """φ: T perceptrons from a loss to a number in (0, 1), with H hidden units each.

    Attributes:
        slopes, offsets: of the hidden units.
        heights: weights of the output.
        level: its bias.
    """

    slopes: Float[Tensor, "*runs tasks hidden"]
    offsets: Float[Tensor, "*runs tasks hidden"]
    heights: Float[Tensor, "*runs tasks hidden"]
    level: Float[Tensor, "*runs tasks"]

    def __call__(self, losses: Float[Tensor, "*runs batch tasks"]) -> Float[Tensor, "*runs batch tasks"]:
        """V_t(ℓ_bt), of as many seeds as φ has."""
        slopes, offsets, heights = (field.unsqueeze(-3) for field in (self.slopes, self.offsets, self.heights))
        hidden = (losses.unsqueeze(-1) * slopes + offsets).relu()
        return ((hidden * heights).sum(-1) + self.level.unsqueeze(-2)).sigmoid()


class Learned(NamedTuple):
    """State of :class:`MetaWeightNet`: φ, and what its optimiser remembers."""

    phi: Perceptrons
    moments: Moments


@dataclass(frozen=True)
class MetaWeightNet(Weighting):
    """Sample-level weights from the sample's own loss, by a perceptron that lowers the main task's meta loss.

    w_bt = V_t(ℓ_bt; φ) / (T n_t),    V_t = sigmoid(a·relu(u ℓ + c) + d) with φ = (u, c, a, d) of each task

    φ moves along Σ_bt ∂w_bt/∂φ δ_bt,    δ_bt = ⟨∇_θ ℓ_bt(θ), ∇_θ L_main(V; θ')⟩,    θ' = θ − η ∇ Σ w_bt ℓ_bt(θ)

    θ: shared parameters; ℓ_bt: loss of sample b on task t; n_t: samples with a label of task t; V: a batch of the
    meta split. That is the slope of the meta loss after the virtual step θ' (of all parameters, with the weights
    of φ as it was), over η. The model's step is taken with the new φ. The weights are (B, T) and sum to 1 at most;
    V is 1/2 for every loss at the start.

    Source: Shu et al., *Meta-Weight-Net: Learning an explicit mapping for sample weighting*, arXiv 1902.07379,
    which has one task, w_b = V(ℓ_b)/n; the factor 1/T is ours, as for all methods. *Readings*: one V a task; φ is
    moved by Adamax, whose steps do not depend on the unit of the losses (the authors' published code: Adam, with
    weight decay); the hidden units start evenly spread over their directions (u, c) and the output at a = d = 0,
    for every task and seed alike, where the published code draws them.

    Args:
        hidden: H, hidden units of each V.
        lr: step size of φ.
        lookahead: η, the size of the virtual step, which costs a pass; the optimiser's learning rate when None, 0
            for none.

    Raises:
        ValueError: an option out of its range.

    >>> from mtlkit.measure import Signal
    >>> meta = MetaWeightNet(lr=0.1)
    >>> state = meta.init(1, torch.ones(()))
    >>> present, loss = torch.ones(2, 1, dtype=torch.bool), torch.tensor([[0.1], [3.0]])
    >>> for _ in range(20):  # the sample with the large loss points away from the meta gradient
    ...     w, state = meta.update(state, Signal(loss, present, alignment=torch.tensor([[1.0], [-1.0]])))
    >>> w[0].item() > 0.45, w[1].item() < 0.05
    (True, True)
    """

    hidden: int = 100
    lr: float = 1e-2
    lookahead: float | None = None

    def __post_init__(self) -> None:
        check_hyper("hidden", self.hidden, 1)
        check_hyper("lr", self.lr, 0)
        if self.lookahead is not None:
            check_hyper("lookahead", self.lookahead, 0)

    @property
    def reads(self):
        return (Alignment(None if self.lookahead == 0 else Lookahead(self.lookahead, _before, losses_too=False)),)

    def init(self, n_tasks, like):
        # Directions from -π/2 to π: a unit in the rest is off for every loss.
        middles = (torch.arange(self.hidden, dtype=like.dtype, device=like.device) + 0.5) / self.hidden
        angles = ((1.5 * middles - 0.5) * math.pi).expand(n_tasks, -1)
        phi = Perceptrons(angles.cos(), angles.sin(), torch.zeros_like(angles), like.new_zeros(n_tasks))
        return Learned(phi, no_moments(phi))

    def update(self, state, signal):
        def loss(phi):
            return -(_weights(phi, signal.losses, signal.present) * signal.alignment).sum()

        phi, moments = adamax(state.phi, torch.func.grad(loss)(state.phi), state.moments, self.lr)
        return _weights(phi, signal.losses, signal.present), Learned(phi, moments)


def _before(
    state: Learned, losses: Float[Tensor, "*runs batch tasks"], present: Bool[Tensor, "*runs batch tasks"]
) -> Float[Tensor, "*runs batch tasks"]:
    return _weights(state.phi, losses, present)


def _weights(
    phi: Perceptrons, losses: Float[Tensor, "*runs batch tasks"], present: Bool[Tensor, "*runs batch tasks"]
) -> Float[Tensor, "*runs batch tasks"]:
    """w_bt, zero where a label is missing."""
    return equal_weights(losses, present) * phi(losses)
