"""A shared trunk with one head per task, and initial weights from an explicit generator."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, nn

from mtlkit.datasets import Dataset


class MultiTaskModel(nn.Module):
    """One trunk, one head per task: x to ``{task name: head(trunk(x))}``.

    Args:
        trunk: (B, ...) inputs to (B, ...) features, shared by all tasks.
        heads: task name to its head, the main task first; features to (B, n_outputs).

    Attributes:
        recipe: the line that makes it, only where there is one (:mod:`mtlkit.recipes`).
    """

    recipe: str

    def __init__(self, trunk: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(heads.values())
        self.names = tuple(heads)

    def forward(self, x: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Outputs of all tasks, or of those in ``names``; like heads share work, see :func:`_shared_patches`.

        Linear heads are computed in one product.
        """
        return outputs_of(self.chosen(names), self.trunk(x))

    def chosen(self, names: Collection[str] | None) -> dict[str, nn.Module]:
        """Name to head of all tasks, or of those in ``names``, in the model's order."""
        return {n: head for n, head in zip(self.names, self.heads, strict=True) if names is None or n in names}

    @property
    def last(self) -> tuple[str, ...]:
        """Names of the parameters of the last shared layer, for weightings that read gradients there."""
        return of_last_module([name for name, _ in self.named_parameters() if name.startswith("trunk.")])


def of_last_module(names: Sequence[str]) -> tuple[str, ...]:
    """Those of the names of parameters that belong to the same module as the last one."""
    return tuple(name for name in names if name.rpartition(".")[0] == names[-1].rpartition(".")[0])


def outputs_of(heads: Mapping[str, nn.Module], features: Tensor) -> dict[str, Tensor]:
    """What each head makes of the same features, by its name."""
    linear = [head for head in heads.values() if type(head) is nn.Linear and head.bias is not None]
    if len(linear) == len(heads):
        weight = torch.cat([head.weight for head in linear])
        joint = F.linear(features, weight, torch.cat([head.bias for head in linear]))
        parts = joint.split([head.out_features for head in linear], dim=-1)
        return dict(zip(heads, parts, strict=True))
    return dict(zip(heads, _shared_patches(list(heads.values()), features), strict=True))


def _shared_patches(heads: Sequence[nn.Module], features: Tensor) -> list[Tensor]:
    """What each head makes of the features (B, C, H, W), or of features of another shape.

    Heads that begin with a convolution of the same k by l pixels share their patches: one matrix
    (B P, C k l) for P positions, times a weight per head. Each head still has a tape of its own, so that
    the gradient of one task leaves the other heads alone. In forward mode, where every operation costs
    torch much time whatever its size, heads of the same layers run as one stack instead.
    """
    stacks = [head for head in heads if type(head) is nn.Sequential]
    first = _with_like_patches(stacks, features)
    if not first or len(first) < len(heads):
        return [head(features) for head in heads]
    size = first[0].kernel_size
    sides = [side - k + 1 for side, k in zip(features.shape[2:], size, strict=True)]
    patches = F.unfold(features, size).mT.flatten(0, 1)

    def images(pixels: Tensor) -> Tensor:
        """(..., B P, out) to (..., B, out, *sides)."""
        return pixels.unflatten(-2, (-1, math.prod(sides))).mT.contiguous().unflatten(-1, sides)

    if not _has_tangent(features) or not _same_layers(stacks):
        maps = (images(F.linear(patches, layer.weight.flatten(1), layer.bias)) for layer in first)
        return [head[1:](image) for head, image in zip(stacks, maps, strict=True)]
    stacked = images(_linear(first, patches.expand(len(heads), -1, -1)))
    for layers in list(zip(*stacks, strict=True))[1:]:
        linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
        stacked = _linear(linear, stacked) if linear else torch.vmap(layers[0])(stacked)
    return list(stacked)


def _linear(layers: Sequence[nn.Linear | nn.Conv2d], x: Tensor) -> Tensor:
    """T layers on inputs of their own, (T, ..., in) to (T, ..., out); a weight of more axes counts as (out, in)."""
    weight = torch.stack([layer.weight.flatten(1) for layer in layers])
    return torch.vmap(F.linear)(x, weight, torch.stack([layer.bias for layer in layers if layer.bias is not None]))


def _has_tangent(tensor: Tensor) -> bool:
    """Whether it is differentiated in forward mode; no, where a tangent hides under ``torch.vmap``."""
    try:
        return forward_ad.unpack_dual(tensor).tangent is not None
    except RuntimeError:
        return False


def _with_like_patches(heads: Sequence[nn.Sequential], features: Tensor) -> list[nn.Conv2d]:
    """The heads' first layers, if these are like convolutions, on a CPU, and patches no larger than their outputs.

    With larger patches it takes more memory and is no faster. Other devices have not been measured.
    """
    first = [layer for head in heads for layer in list(head)[:1] if type(layer) is nn.Conv2d]
    if features.device.type != "cpu" or features.ndim != 4:
        return []
    options = {(c.kernel_size, c.stride, c.padding, c.dilation, c.groups) for c in first}
    if len(options) != 1 or options != {(first[0].kernel_size, (1, 1), (0, 0), (1, 1), 1)}:
        return []
    fits = first[0].weight[0].numel() <= sum(convolution.out_channels for convolution in first)
    return first if fits else []


def _same_layers(heads: Sequence[nn.Sequential]) -> bool:
    """Whether heads that begin with convolutions have the same layers, all with a bias, of kinds that stack."""
    layers = [layer for head in heads for layer in list(head)[1:]]
    known = all(type(layer) in (nn.Linear, nn.ReLU, nn.Flatten) for layer in layers)
    return known and len({str(head) for head in heads}) == 1 and "bias=False" not in str(heads[0])


@torch.no_grad()
def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights anew, in place, from ``generator``: torch's own default distributions.

    A module with parameters or buffers of its own may have a method ``initialise(generator)`` instead.

    Linear and convolutional layers: weights and biases uniform on ±1/√fan_in. Embeddings: N(0, 1). Norm layers: one and
    zero, running statistics reset. A module of another kind that holds parameters of its own needs that method. A
    module with a true attribute ``keeps_weights``, such as a pretrained encoder, stays as it is with all that is in it.

    Raises:
        TypeError: a module that holds parameters and has no known rule.
    """
    kept = tuple(f"{name}." for name, module in model.named_modules() if getattr(module, "keeps_weights", False))
    for name, module in model.named_modules():
        if f"{name}.".startswith(kept):
            continue
        holds = any(True for _ in module.parameters(recurse=False))
        if hasattr(module, "initialise") and (holds or any(True for _ in module.buffers(recurse=False))):
            module.initialise(generator)
        elif not holds:
            continue
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


def units(layer: nn.Module) -> int | None:
    """Units (or channels) that a layer with weights puts out; None for an activation, pooling, norm or embedding."""
    return getattr(layer, "out_features", getattr(layer, "out_channels", None))


def stage_ends(trunk: nn.Sequential) -> list[int]:
    """Where the stages of a trunk end: one past the last of each stage's layers.

    A stage is a layer with :func:`units` and all that follows it up to the next one, such as its activation and
    pooling; what comes before the first belongs to the first, and ``nn.Flatten`` to the stage after it.
    """
    starts = [i for i, layer in enumerate(trunk) if units(layer) is not None]
    return [i - 1 if isinstance(trunk[i - 1], nn.Flatten) else i for i in starts[1:]] + [len(trunk)]


def run_layers(trunk: nn.Sequential, start: int, end: int, x: Tensor) -> Tensor:
    """What the layers from ``start`` to before ``end`` make of x."""
    for layer in list(trunk)[start:end]:
        x = layer(x)
    return x


def check_sequential(model: nn.Module, build: str) -> nn.Sequential:
    """The trunk of a model that is one trunk of layers in a row with heads on top of it.

    Raises:
        TypeError: it is not; ``build`` is the name in the message.
    """
    if type(model) is not MultiTaskModel or not isinstance(model.trunk, nn.Sequential):
        raise TypeError(
            f"{build} takes a MultiTaskModel whose trunk is an nn.Sequential, such as mlp(data), "
            f"found a {type(model).__name__}"
        )
    return model.trunk


def check_images(data: Dataset, expected: tuple[int, ...], model: str) -> None:
    """Refuse a data set whose inputs do not have the shape (N, *expected).

    Raises:
        ValueError: they have another shape; ``model`` is the name in the message.
    """
    found = tuple(data.train.x.shape[1:])
    if found != expected:
        raise ValueError(f"{data.name}: inputs have shape (N, {', '.join(map(str, found))}), {model} takes {expected}")
