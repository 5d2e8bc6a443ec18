"""The interface of a weighting, and the two helpers that all of them share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mtlkit.measure import Learnable, Request, Signal

State = Any
"""A weighting's memory: a NamedTuple of tensors, or the empty tuple."""


class Weighting:
    """Turns a signal into weights. Subclasses are frozen dataclasses of their hyper-parameters.

    ``init`` and ``update`` are pure functions of tensors: no model, no data set, no branch on a
    value, so that they can be stacked over seeds with ``torch.vmap``.

    Attributes:
        stacks: whether ``update`` can be stacked with ``torch.vmap``; otherwise it is called for
            one seed after the other.
    """

    stacks: ClassVar[bool] = True

    @property
    def reads(self) -> Sequence[Request]:
        """What is to be measured for it, beside the losses; requests of :mod:`mtlkit.measure`."""
        return ()

    @property
    def uses_meta(self) -> bool:
        """Whether it looks at a batch of the meta split."""
        return any(request.of_meta for request in self.reads)

    def asks(self, kind: type[Request]) -> bool:
        """Whether it reads what requests of this kind measure."""
        return any(isinstance(request, kind) for request in self.reads)

    def learn(self, n_tasks: int, like: Tensor) -> Float[Tensor, " tasks"] | None:
        """Initial value of what the model's own optimiser learns for it, if anything."""
        starts = [request.start for request in self.reads if isinstance(request, Learnable)]
        return like.new_full((n_tasks,), starts[0]) if starts else None

    def init(self, n_tasks: int, like: Tensor) -> State:
        """State before the first step; tensors take the dtype and device of ``like``."""
        return ()

    def update(
        self, state: State, signal: Signal
    ) -> tuple[Float[Tensor, " tasks"] | Float[Tensor, "batch tasks"], State]:
        """Weights for this batch, of the mean losses or of the samples' losses, and the new state."""
        raise NotImplementedError

    def penalty(self, signal: Signal) -> Float[Tensor, ""] | None:
        """A differentiable term of the objective besides the weighted losses, if it has one."""
        return None


def per_sample(
    weights: Float[Tensor, "... tasks"], present: Bool[Tensor, "*runs batch tasks"]
) -> Float[Tensor, "*runs batch tasks"]:
    """Weights of the samples' losses, so that Σ w_bt ℓ_bt is the objective whatever the weighting's level.

    Args:
        weights: of the mean losses, (*runs, tasks), or of the losses themselves, with the shape of ``present``.
        present: a missing label gets weight zero and does not count in the mean.
    """
    if weights.ndim == present.ndim:
        return torch.where(present, weights, 0)
    mean = present.to(weights.dtype) / present.sum(-2, keepdim=True).clamp(min=1)
    return weights.unsqueeze(-2) * mean


def equal_weights(
    losses: Float[Tensor, "*runs batch tasks"], present: Bool[Tensor, "*runs batch tasks"]
) -> Float[Tensor, "*runs batch tasks"]:
    """Weights of the single losses that make Σ_t L_t/T of them; zero where a label is missing."""
    return per_sample(torch.full_like(losses[..., 0, :], 1 / losses.shape[-1]), present)


def normalise(gains: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """max(gains, 0) divided by their sum over all axes; all zero where no gain is positive, NaN where one is NaN."""
    positive = gains.clamp(min=0)
    top = positive.amax()
    scaled = positive / torch.where(top > 0, top, 1)
    return scaled / scaled.sum().clamp(min=1)


def safe_divide(a: Tensor, b: Tensor, otherwise: float = 0.0) -> Tensor:
    """a / b where b > 0, and ``otherwise`` elsewhere; with a finite gradient in both cases."""
    usable = b > 0
    return torch.where(usable, a / torch.where(usable, b, 1), otherwise)


def check_hyper(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Raise ValueError unless the hyper-parameter is a finite number in [low, high]."""
    if not (math.isfinite(value) and low <= value <= high):
        upper = "" if high == math.inf else f" and at most {high:g}"
        raise ValueError(f"{name} is {value!r}, expected a finite number of at least {low:g}{upper}")
