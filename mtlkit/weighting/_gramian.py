"""Weightings of the tasks' Gramian, from the TorchJD library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mtlkit.measure import Given, InnerProducts
from mtlkit.weighting._base import Weighting

SUMS = ("PCGradWeighting",)
"""Weightings that sum T gradients where a paper compares with averages."""
STOPS = ("CAGradWeighting",)
"""Weightings to which the library gives no weight at all where the combined gradient is next to nothing."""


@dataclass(frozen=True)
class Gramian(Weighting):
    """w = f(G) with G_st = ⟨∇_θ L_s, ∇_θ L_t⟩: MGDA, PCGrad, CAGrad, IMTL-G, Aligned-MTL, UPGrad, ...

    θ: shared parameters; f: a weighting of :mod:`torchjd.aggregation` that takes a Gramian, such
    as ``MGDAWeighting()``. With it the step of the shared parameters is that library's aggregation of the
    task gradients. Each head moves by its own task's gradient times the task's weight.

    The weights (T,) are those of the library, but for PCGrad, whose T projected gradients are summed and which is
    divided by T here; ``paper_scale=True`` leaves that out. A weighting that draws at random (PCGrad's order of tasks)
    does so from a stream of its own, started from the run's random numbers in every step; global random state stays as
    it is. Every seed of a stacked run calls f in turn, on the CPU. A non-finite Gramian gives NaN.

    Needs TorchJD: ``pip install mtlkit[torchjd]``. SLGrad's published code lets gradients of several tasks accumulate
    for PCGrad and CAGrad, and projects along the task's own gradient; the library does what the papers say,
    but for one case: CAGrad's combined gradient g_w = Σ_t w*_t ∇L_t is nearly zero as soon as one task is learned, and
    there TorchJD gives no task any weight ("Pareto front"), so that training stops for good. The paper's step goes on,
    g_0 + c ‖g_0‖ g_w / ‖g_w‖ with g_0 the mean, and ends at a minimum of the mean loss only; so the weights are 1/T
    there, which is g_0.

    Args:
        weighting: stateless, from a (T, T) Gramian to (T,) weights.
        paper_scale: leave PCGrad's sum as it is.

    Raises:
        ImportError: TorchJD is not installed.
        TypeError: not one of its weightings, or one that has a memory (several seeds would share it).

    >>> from torchjd.aggregation import PCGradWeighting
    >>> from mtlkit.measure import Signal
    >>> gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    >>> signal = Signal(
    ...     torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool), gramian=gradients @ gradients.T, noise=torch.ones(2)
    ... )
    >>> w, _ = Gramian(PCGradWeighting(), paper_scale=True).update((), signal)
    >>> w.tolist()  # each is freed of its part against the other: (1/2, 1/2) + (0, 1)
    [2.0, 1.5]
    """

    weighting: Callable[[Tensor], Tensor]
    paper_scale: bool = False
    reads = (InnerProducts(), Given("noise"))
    stacks: ClassVar = False

    def __post_init__(self) -> None:
        try:
            import torchjd
        except ImportError as error:
            raise ImportError("Gramian needs TorchJD; install it with: pip install mtlkit[torchjd]") from error
        from torchjd.aggregation import Weighting as TorchjdWeighting

        if not isinstance(self.weighting, TorchjdWeighting):
            raise TypeError(f"weighting is {self.weighting!r}, expected one of torchjd.aggregation's, on a Gramian")
        if isinstance(self.weighting, torchjd.Stateful):
            raise TypeError(
                f"weighting is {type(self.weighting).__name__}, which has a memory; expected one that is stateless"
            )

    def update(self, state, signal):
        gramian = signal.gramian.cpu()
        if not gramian.isfinite().all():
            return torch.full_like(signal.gramian[0], torch.nan), state
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(_seed(signal.noise))
            weights = self.weighting(gramian).to(signal.gramian)
        kind = type(self.weighting).__name__
        if kind in STOPS and not weights.any():
            weights = torch.full_like(weights, 1 / len(weights))
        return weights / len(weights) if kind in SUMS and not self.paper_scale else weights, state


def _seed(noise: Tensor) -> int:
    """A seed from random numbers: the bits of all of them, added up."""
    return int(noise.double().cpu().view(torch.int64).sum()) & (2**63 - 1)
