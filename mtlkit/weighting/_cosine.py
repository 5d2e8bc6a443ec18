"""Gradient cosine similarity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mtlkit.measure import InnerProducts, MetaAlignment, MetaNorm
from mtlkit.weighting._base import Weighting, safe_divide


@dataclass(frozen=True)
class GradientCosine(Weighting):
    """An auxiliary counts while its gradient does not point against the main task's.

    v_main = 1,    v_t = 1 if cos(g_t, g) ≥ 0 else 0    (or v_t = max(cos(g_t, g), 0)),    w = v/T

    g_t: gradient of L_t with respect to the shared parameters, of the training batch; g: that of the main task,
    of the training batch, or (``on="meta"``) of a batch of the meta split. A cosine with a zero gradient is zero.
    The weights (T,) sum to 1 at most.

    Source: Du et al., *Adapting auxiliary losses using gradient similarity*, arXiv 1812.02224.
    There the weights are v; ``paper_scale=True`` gives that. Both forms are the paper's; the
    weighted one is ``weighted=True``. The meta gradient is ours, for a main task whose training labels are noisy.

    Args:
        weighted: weigh an auxiliary by its cosine rather than by 0 or 1.
        paper_scale: do not divide by T.
        on: ``"batch"`` or ``"meta"``, where the main task's gradient is taken.

    Raises:
        ValueError: another ``on``.

    >>> from mtlkit.measure import Signal
    >>> gradients = torch.tensor([[2.0, 0.0], [3.0, 4.0], [-1.0, 5.0]])
    >>> signal = Signal(torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool), gramian=gradients @ gradients.T)
    >>> w, _ = GradientCosine(paper_scale=True).update((), signal)
    >>> w.tolist()
    [1.0, 1.0, 0.0]
    >>> w, _ = GradientCosine(weighted=True, paper_scale=True).update((), signal)
    >>> [round(v, 4) for v in w.tolist()]
    [1.0, 0.6, 0.0]
    """

    weighted: bool = False
    paper_scale: bool = False
    on: str = "batch"

    def __post_init__(self) -> None:
        if self.on not in ("meta", "batch"):
            raise ValueError(f"on is {self.on!r}, expected 'meta' or 'batch'")

    @property
    def reads(self):
        of_meta = (MetaAlignment(), MetaNorm()) if self.on == "meta" else ()
        return (InnerProducts(), *of_meta)

    def update(self, state, signal):
        cosine = (
            cosines(signal.gramian)[..., 0, :]
            if self.on == "batch"
            else meta_cosines(signal.gramian, signal.meta_alignment, signal.meta_norm)
        )
        weights = cosine.clamp(min=0) if self.weighted else (cosine >= 0).to(cosine.dtype)
        n_tasks = weights.shape[-1]
        main = torch.arange(n_tasks, device=weights.device) == 0
        weights = torch.where(main, 1, weights)
        return weights if self.paper_scale else weights / n_tasks, state


def cosines(gramian: Float[Tensor, "*runs tasks tasks"]) -> Float[Tensor, "*runs tasks tasks"]:
    """Cosines between gradients from their Gramian; zero with a zero gradient."""
    norms = gramian.diagonal(dim1=-2, dim2=-1).sqrt()
    return safe_divide(safe_divide(gramian, norms.unsqueeze(-1)), norms.unsqueeze(-2))


def meta_cosines(
    gramian: Float[Tensor, "tasks tasks"], alignment: Float[Tensor, " tasks"], norm: Float[Tensor, ""]
) -> Float[Tensor, " tasks"]:
    """Cosines of the tasks' gradients with the main task's meta gradient; zero with a zero gradient.

    Args:
        gramian: of the tasks' gradients.
        alignment: their inner products with the meta gradient.
        norm: of the meta gradient.
    """
    norms = gramian.diagonal(dim1=-2, dim2=-1).sqrt()
    return safe_divide(safe_divide(alignment, norms), norm)
