"""Task routing: every task has its own random part of the units of a shared trunk."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from mtlkit.models.base import MultiTaskModel, check_sequential, run_layers, stage_ends, units
from mtlkit.recipes import remembered


class Route(nn.Module):
    """Keeps the units of a layer that are a task's, and sets the others to zero.

    Args:
        n_tasks: T.
        n_units: C, units, or channels of (B, C, H, W) features.
        share: σ; each task keeps max(1, round(σ C)) units.

    Attributes:
        mask: (T, C) bool, which unit is kept for which task.
    """

    mask: Tensor

    def __init__(self, n_tasks: int, n_units: int, share: float) -> None:
        super().__init__()
        self.kept = max(1, round(share * n_units))
        self.register_buffer("mask", torch.zeros(n_tasks, n_units, dtype=torch.bool))
        self.initialise(None)

    def initialise(self, generator: torch.Generator | None) -> None:
        """Draw the masks anew."""
        self.mask.copy_(torch.rand(self.mask.shape, generator=generator).argsort(1) < self.kept)

    def forward(self, x: Tensor, task: int) -> Tensor:
        """(B, C, H, W) or (..., C) to the same shape."""
        mask = self.mask[task]
        return torch.where(mask[:, None, None] if x.ndim == 4 else mask, x, 0)


class Routed(MultiTaskModel):
    """A trunk through which every task has its own fixed route.

    h_k = m_tk ⊙ f_k(h_{k-1}) for stage k of the trunk, with a binary mask m_tk over its units for every task t, and
    head_t on top: one pass per task (the first stage is the same for all, before its mask). A task's gradient is
    zero for the weights that only units of other routes use; the shared parameters are those of the whole trunk.

    The masks are buffers of the state dict. :func:`mtlkit.models.initialise` draws them after all weights, so a
    seed of fit has its own, and has the weights of the model without routes.

    Args:
        trunk: layers in a row; a stage is a layer with weights and what follows it up to the next.
        heads: task name to its head, the main task first.
        share: σ in (0, 1], the share of units that a task keeps in every stage.

    Attributes:
        routes: the masks, one :class:`Route` per stage.

    Raises:
        ValueError: a share outside (0, 1].
    """

    trunk: nn.Sequential

    def __init__(self, trunk: nn.Sequential, heads: Mapping[str, nn.Module], share: float) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}, expected a number above 0 and at most 1")
        super().__init__(trunk, heads)
        self._ends = stage_ends(trunk)
        parts = [list(trunk)[start:end] for start, end in itertools.pairwise([0, *self._ends])]
        widths = [next(n for layer in reversed(part) if (n := units(layer)) is not None) for part in parts]
        self.routes = nn.ModuleList(Route(len(heads), width, share) for width in widths)

    def forward(self, x: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Outputs of all tasks, or of those in ``names``."""
        first = run_layers(self.trunk, 0, self._ends[0], x)
        found = {}
        for name, head in self.chosen(names).items():
            task = self.names.index(name)
            h = self.routes[0](first, task)
            for (start, end), route in zip(itertools.pairwise(self._ends), self.routes[1:], strict=True):
                h = route(run_layers(self.trunk, start, end, h), task)
            found[name] = head(h)
        return found


@remembered
def routed(model: MultiTaskModel, share: float = 0.5) -> Routed:
    """Task routing through the trunk of a model, see :class:`Routed`.

    ``share=1`` is hard sharing: the model itself. Masks of other initial weights come with every seed of fit.

    Source: Strezoski, van Noord, Worring, *Many task learning with task routing*, arXiv 1903.12117. *Reading*: σ is
    met exactly in every stage, and a mask follows a layer's activation and pooling.

    Args:
        model: of :func:`mlp`, a LeNet, :func:`resnet18` or :func:`recurrent`; it is not changed.
        share: σ.

    Raises:
        ValueError: a share outside (0, 1].
        TypeError: a model of another kind, or with heads at lower layers.
    """
    trunk = check_sequential(model, "routed")
    return Routed(copy.deepcopy(trunk), dict(zip(model.names, copy.deepcopy(model.heads), strict=True)), share)
