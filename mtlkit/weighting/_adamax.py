"""Adamax: how the parameters of a learned weighting move."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_map

from mtlkit.weighting._base import safe_divide

MEAN, LARGEST = 0.9, 0.999


class Moments(NamedTuple):
    """What :func:`adamax` remembers.

    Attributes:
        mean: of the slopes, like the parameters.
        largest: size of the slopes, like the parameters.
        steps: how many were taken.
    """

    mean: Any
    largest: Any
    steps: Float[Tensor, "*runs"]


def no_moments(parameters: Any) -> Moments:
    """Before the first step of ``parameters``, a NamedTuple of tensors."""
    zero = tree_map(torch.zeros_like, parameters)
    return Moments(zero, zero, parameters[0].new_zeros(()))


def adamax(parameters: Any, slopes: Any, moments: Moments, lr: float) -> tuple[Any, Moments]:
    """One step of descent: m ← 0.9 m + 0.1 s, u ← max(0.999 u, |s|), φ ← φ − lr m/((1 − 0.9^k) u).

    A step does not depend on the unit of the slopes s, and nothing is squared, so that any magnitude is fine. A
    parameter that never had a slope stays where it is. Source: Kingma, Ba, *Adam: A method for stochastic
    optimization*, arXiv 1412.6980, section 7.1.
    """
    steps = moments.steps + 1
    mean = tree_map(lambda m, s: MEAN * m + (1 - MEAN) * s, moments.mean, slopes)
    largest = tree_map(lambda u, s: torch.maximum(LARGEST * u, s.abs()), moments.largest, slopes)
    rate = lr / (1 - MEAN**steps)
    moved = tree_map(lambda p, m, u: p - rate * safe_divide(m, u), parameters, mean, largest)
    return moved, Moments(mean, largest, steps)
