"""AuxiLearn: auxiliary weights along the implicit gradient of the meta loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mtlkit.measure import ImplicitAlignment
from mtlkit.weighting._adamax import Moments, adamax, no_moments
from mtlkit.weighting._base import Weighting, check_hyper


class Sum(NamedTuple):
    """φ of a linear g = Σ_k φ_k L_k.

    Attributes:
        weights: φ ≥ 0.
    """

    weights: Float[Tensor, "*runs auxiliaries"]

    def value(self, auxiliary: Float[Tensor, "*runs auxiliaries"]) -> Float[Tensor, "*runs"]:
        """g of auxiliary losses."""
        return (self.weights * auxiliary).sum(-1)

    def slopes(self, auxiliary: Float[Tensor, "*runs auxiliaries"]) -> Float[Tensor, "*runs auxiliaries"]:
        """∂g/∂L_k."""
        return self.weights.expand_as(auxiliary)

    def clipped(self) -> Sum:
        """The nearest φ for which g never falls as a loss grows."""
        return Sum(self.weights.clamp(min=0))


class Network(NamedTuple):
    """φ of g = Σ_h a_h softplus(Σ_k u_hk L_k + c_h), with H hidden units.

    Attributes:
        inner: u ≥ 0.
        offsets: c.
        outer: a ≥ 0.
    """

    inner: Float[Tensor, "*runs hidden auxiliaries"]
    offsets: Float[Tensor, "*runs hidden"]
    outer: Float[Tensor, "*runs hidden"]

    def _hidden(self, auxiliary: Float[Tensor, "*runs auxiliaries"]) -> Float[Tensor, "*runs hidden"]:
        return (self.inner * auxiliary.unsqueeze(-2)).sum(-1) + self.offsets

    def value(self, auxiliary: Float[Tensor, "*runs auxiliaries"]) -> Float[Tensor, "*runs"]:
        """g of auxiliary losses."""
        return (self.outer * torch.nn.functional.softplus(self._hidden(auxiliary))).sum(-1)

    def slopes(self, auxiliary: Float[Tensor, "*runs auxiliaries"]) -> Float[Tensor, "*runs auxiliaries"]:
        """∂g/∂L_k."""
        return ((self.outer * self._hidden(auxiliary).sigmoid()).unsqueeze(-1) * self.inner).sum(-2)

    def clipped(self) -> Network:
        """The nearest φ for which g never falls as a loss grows."""
        return Network(self.inner.clamp(min=0), self.offsets, self.outer.clamp(min=0))


class Combination(NamedTuple):
    """State of :class:`AuxiLearn`.

    Attributes:
        phi: φ, a :class:`Sum` or :class:`Network`.
        moments: what its optimiser remembers.
        steps: () steps taken so far.
    """

    phi: Sum | Network
    moments: Moments
    steps: Float[Tensor, "*runs"]


@dataclass(frozen=True)
class AuxiLearn(Weighting):
    """A learned combination of the auxiliary losses that lowers the main task's meta loss at the minimum it leads to.

    L = L_main + g(L_aux; φ),    g = Σ_k φ_k L_k  (or a perceptron),    φ ≥ 0

    every N steps φ moves against dL_main(V)/dφ = −∂L_main(V)/∂θ (∂²L/∂θ²)⁻¹ ∂²L/∂φ∂θ = −Σ_k q_k ∂²g/∂φ∂L_k,
    q_k = ⟨∇L_k, p⟩,    p = α Σ_{j=0}^{J} (I − α ∂²L/∂θ²)^j ∇L_main(V) ≈ (∂²L/∂θ²)⁻¹ ∇L_main(V)

    θ: all parameters; L_t: mean loss of the training batch; V: a batch of the meta split. The gradient of L is
    that of Σ_t w_t L_t with w_main = 1 and w_k = ∂g/∂L_k, so that the weights (T,) given are w/T. The steps
    N, 2N, ... are still taken with φ from before its update. It is exact as J → ∞ if α is below 2 over the
    Hessian's largest eigenvalue, the Hessian is positive and θ a minimum of L; with small α J it is the plain
    alignment of the gradients, α (J + 1) ⟨∇L_k, ∇L_main(V)⟩.

    Source: Navon et al., *Auxiliary learning by implicit differentiation*, arXiv 2007.02693. There the weights
    are w; ``paper_scale=True`` gives that. *Readings*: the perceptron a·softplus(u L + c) has u, a ≥ 0, so that
    it never falls as a loss grows, takes mean losses of the auxiliaries, and starts with units of slope 1 at
    different offsets; φ is moved by Adamax, whose steps do not depend on the unit of the losses nor on α as a
    factor (the authors' published code leaves that factor out). Linear weights start at 1.

    Args:
        hidden: hidden units of the perceptron; a linear g when None.
        every: N ≥ 1.
        lr: step size of φ.
        alpha: α, step of the Neumann series.
        terms: J ≥ 0, Hessian-vector products of an update.
        paper_scale: do not divide by T.

    Raises:
        ValueError: an option out of its range.

    >>> from mtlkit.measure import Signal
    >>> learn = AuxiLearn(lr=0.5, paper_scale=True)
    >>> state = learn.init(3, torch.ones(()))
    >>> implicit = torch.tensor([0.2, 0.1, -0.3])
    >>> for _ in range(2):
    ...     signal = Signal(torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool), implicit_alignment=implicit)
    ...     w, state = learn.update(state, signal)
    >>> [round(v, 4) for v in w.tolist()]
    [1.0, 1.5, 0.5]
    """

    hidden: int | None = None
    every: int = 10
    lr: float = 0.05
    alpha: float = 0.1
    terms: int = 3
    paper_scale: bool = False

    def __post_init__(self) -> None:
        if self.hidden is not None:
            check_hyper("hidden", self.hidden, 1)
        check_hyper("every", self.every, 1)
        check_hyper("lr", self.lr, 0)
        check_hyper("alpha", self.alpha, 0)
        check_hyper("terms", self.terms, 0)

    def init(self, n_tasks, like):
        if self.hidden is None:
            phi = Sum(like.new_ones(n_tasks - 1))
        else:
            offsets = torch.linspace(-2, 2, self.hidden, dtype=like.dtype, device=like.device)
            phi = Network(like.new_ones(self.hidden, n_tasks - 1), offsets, torch.full_like(offsets, 1 / self.hidden))
        return Combination(phi, no_moments(phi), like.new_zeros(()))

    @property
    def reads(self):
        return (ImplicitAlignment(_objective, self.alpha, self.terms, self._due),)

    def _due(self, state: Combination) -> bool:
        return (state.steps.flatten()[0].item() + 1) % self.every == 0

    def update(self, state, signal):
        auxiliary = signal.means[1:]
        phi, moments = state.phi, state.moments
        weights = torch.cat([torch.ones_like(signal.means[:1]), phi.slopes(auxiliary)])
        if signal.implicit_alignment is not None:

            def loss(phi):
                return -(signal.implicit_alignment[1:] * phi.slopes(auxiliary)).sum()

            phi, moments = adamax(phi, torch.func.grad(loss)(phi), moments, self.lr)
            phi = phi.clipped()
        used = weights if self.paper_scale else weights / weights.shape[-1]
        return used, Combination(phi, moments, state.steps + 1)


def _objective(state: Combination, means: Float[Tensor, "*runs tasks"]) -> Float[Tensor, "*runs"]:
    return means[..., 0] + state.phi.value(means[..., 1:])
