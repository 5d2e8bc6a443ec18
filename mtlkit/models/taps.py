"""TAPS: every task changes some layers of a shared trunk for itself, and learns which."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mtlkit.models.base import MultiTaskModel, check_sequential
from mtlkit.recipes import remembered


class Added(nn.Module):
    """What one task adds to the weights of one layer: 1[s ≥ τ] δ.

    The indicator's derivative counts as 1 (straight-through), so that ∂L/∂s = ⟨∂L/∂w, δ⟩, on or off.

    Args:
        layer: whose own parameters have a δ each, of the same name.
        threshold: τ.

    Attributes:
        score: (1,) s; it starts at 2 τ, δ at zero.
    """

    def __init__(self, layer: nn.Module, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        for name, parameter in layer.named_parameters(recurse=False):
            self.register_parameter(name, nn.Parameter(torch.zeros_like(parameter)))
        self.score = nn.Parameter(torch.full((1,), 2.0 * threshold))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Back to the start, at which the task's layer is the shared one; nothing is drawn."""
        for name, parameter in self.named_parameters():
            parameter.fill_(2 * self.threshold if name == "score" else 0)

    @property
    def on(self) -> Tensor:
        """(1,) bool, whether the layer is the task's own."""
        return self.score >= self.threshold

    def forward(self) -> dict[str, Tensor]:
        """What is added to each parameter."""
        switch = self.on.to(self.score.dtype) + (self.score - self.score.detach())
        return {name: switch * delta for name, delta in self.named_parameters() if name != "score"}


class Taps(MultiTaskModel):
    """A trunk with task-specific changes of its layers, see :func:`taps`.

    Attributes:
        layers: names of the trunk's layers with parameters, L of them.
        changes: T times L :class:`Added`, an ``nn.ModuleList`` of such lists.
    """

    changes: Any

    def __init__(
        self, trunk: nn.Module, heads: Mapping[str, nn.Module], threshold: float, strength: float, joint: bool
    ) -> None:
        super().__init__(trunk, heads)
        self.strength = strength
        self.trunk.requires_grad_(joint)
        found = {n: m for n, m in trunk.named_modules() if any(True for _ in m.parameters(recurse=False))}
        self.layers = tuple(found)
        self.changes = nn.ModuleList(nn.ModuleList(Added(layer, threshold) for layer in found.values()) for _ in heads)

    def forward(self, x: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Outputs of all tasks, or of those in ``names``: a pass per task."""
        shared: dict[str, Tensor] = dict(self.trunk.named_parameters())
        found = {}
        for name, head in self.chosen(names).items():
            own = dict(shared)
            for layer, change in zip(self.layers, self.changes[self.names.index(name)], strict=True):
                for key, added in change().items():
                    key = f"{layer}.{key}" if layer else key
                    own[key] = shared[key] + added
            found[name] = head(functional_call(self.trunk, own, (x,)))
        return found

    def penalty(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """λ Σ_ti |s_ti|, () of parameters by name, which the step adds to the weighted losses."""
        scores = [v for n, v in parameters.items() if n.startswith("changes.") and n.endswith(".score")]
        return self.strength * torch.cat(scores).abs().sum()

    def switches(self) -> Tensor:
        """(T, L) bool, which layers are a task's own."""
        return torch.stack([torch.cat([change.on for change in own]) for own in self.changes])

    def task_share(self) -> float:
        """Share of the T L layers that are task specific: 0 is hard sharing, 1 a trunk of its own for every task."""
        return self.switches().double().mean().item()

    def measures(self) -> dict[str, float]:
        """What a study keeps of a trained model: :meth:`task_share`, and :meth:`task_parameters` of all tasks."""
        return {"task_share": self.task_share(), "task_parameters": float(sum(self.task_parameters().values()))}

    def task_parameters(self) -> dict[str, int]:
        """Task to how many numbers it keeps beside the shared trunk and its head: its δ where switched on."""
        sizes = torch.tensor([sum(p.numel() for p in c.parameters()) - 1 for c in self.changes[0]])
        return dict(zip(self.names, (self.switches().cpu() * sizes).sum(1).tolist(), strict=True))


@remembered
def taps(model: MultiTaskModel, threshold: float = 0.1, strength: float = 0.01, joint: bool = True) -> Taps:
    """Task-adaptive parameter sharing over the trunk of a model.

    Layer i of task t has the weights w_i + 1[s_ti ≥ τ] δ_ti; its loss is straight-through in the indicator, and
    λ Σ_ti |s_ti| is added to the objective of every step. A pass per task.

    The w are the shared parameters, which weightings read gradients of: ∂L_t/∂w_i is the gradient at the task's own
    weights. δ and s are the task's, like its head; the penalty is no task's loss, and no weighting sees it.
    With ``joint=False`` the w stay as they are (by ``requires_grad``), so that nothing is shared that is trained,
    and weightings that read shared gradients are refused.

    ``fit(taps(model), data, ..., initial=runs.state_dict)`` starts each seed from the run of ``model`` with the same
    seed, trunk and heads; without, the w are drawn.

    Source: Wallingford et al., *Task adaptive parameter sharing for multi-task learning*, arXiv 2203.16708.
    *Reading*: every layer starts switched on, s = 2 τ and δ = 0; biases and norms change with their layer's
    weights; λ is an option without a published default.

    Args:
        model: of :func:`mlp`, a LeNet, :func:`resnet18` or :func:`recurrent`; it is not changed.
        threshold: τ.
        strength: λ.
        joint: learn w as well.

    Raises:
        ValueError: a threshold that is not positive, a negative strength.
        TypeError: a model of another kind, or with heads at lower layers.
    """
    check_sequential(model, "taps")
    if not threshold > 0:
        raise ValueError(f"threshold is {threshold}, expected a positive number")
    if not strength >= 0:
        raise ValueError(f"strength is {strength}, expected at least 0")
    heads = dict(zip(model.names, copy.deepcopy(model.heads), strict=True))
    return Taps(copy.deepcopy(model.trunk), heads, threshold, strength, joint)
