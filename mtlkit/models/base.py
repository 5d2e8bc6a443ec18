"""A shared trunk with one head per task, and initial weights from an explicit generator."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtlkit.datasets import Dataset


class MultiTaskModel(nn.Module):
    """One trunk, one head per task: x to ``{task name: head(trunk(x))}``.

    Args:
        trunk: (B, ...) inputs to (B, ...) features, shared by all tasks.
        heads: task name to its head, the main task first; features to (B, n_outputs).
    """

    def __init__(self, trunk: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(heads.values())
        self.names = tuple(heads)

    def forward(self, x: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Outputs of all tasks, or of those in ``names``. Linear heads are computed in one product."""
        features = self.trunk(x)
        chosen = {n: head for n, head in zip(self.names, self.heads, strict=True) if names is None or n in names}
        if all(type(head) is nn.Linear and head.bias is not None for head in chosen.values()):
            weight = torch.cat([head.weight for head in chosen.values()])
            joint = F.linear(features, weight, torch.cat([head.bias for head in chosen.values()]))
            parts = joint.split([head.out_features for head in chosen.values()], dim=-1)
            return dict(zip(chosen, parts, strict=True))
        return {name: head(features) for name, head in chosen.items()}


@torch.no_grad()
def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights anew, in place, from ``generator``: torch's own default distributions.

    Linear and convolutional layers: weights and biases uniform on ±1/√fan_in. Embeddings: N(0, 1).
    Norm layers: one and zero, running statistics reset. A module of another kind that holds
    parameters of its own needs a method ``initialise(generator)``.

    Raises:
        TypeError: a module that holds parameters and has no known rule.
    """
    for name, module in model.named_modules():
        if not any(True for _ in module.parameters(recurse=False)):
            continue
        if hasattr(module, "initialise"):
            module.initialise(generator)
        elif isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            bound = 1 / math.sqrt(module.weight[0].numel())
            for parameter in module.parameters(recurse=False):
                parameter.uniform_(-bound, bound, generator=generator)
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(generator=generator)
        elif isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)):
            module.reset_parameters()
        else:
            raise TypeError(
                f"module {name!r} is a {type(module).__name__}: no rule to draw its weights from a generator; "
                "give it a method initialise(generator)"
            )


def check_images(data: Dataset, expected: tuple[int, ...], model: str) -> None:
    """Refuse a data set whose inputs do not have the shape (N, *expected).

    Raises:
        ValueError: they have another shape; ``model`` is the name in the message.
    """
    found = tuple(data.train.x.shape[1:])
    if found != expected:
        raise ValueError(f"{data.name}: inputs have shape (N, {', '.join(map(str, found))}), {model} takes {expected}")
