"""Multi-backbone: parallel trunks whose features are put together for every head."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from mtlkit.models.base import MultiTaskModel, check_sequential, of_last_module, units
from mtlkit.recipes import remembered


class Parallel(nn.ModuleList):
    """Several trunks side by side on the same input, their features one after the other in the axis of units."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) to (B, K C, H, W) for K trunks with features (B, C, H, W), to (..., K C) for (..., C)."""
        found = [trunk(x) for trunk in self]
        return torch.cat(found, 1 if found[0].ndim == 4 else -1)


class MultiBackbone(MultiTaskModel):
    """K trunks in parallel: task t's output is head_t([f_1(x); …; f_K(x)]).

    All trunks are shared by all tasks, also those that were first trained on one of them; the last shared layer is
    the last one of every trunk: ``Weigher(..., last=model.last)``.

    Args:
        trunk: the trunks.
        heads: task name to its head, the main task first; each takes the features of all trunks.
    """

    trunk: Parallel

    @property
    def last(self) -> tuple[str, ...]:
        """Names of the parameters of the last layer of every trunk."""
        own = [of_last_module([name for name, _ in backbone.named_parameters()]) for backbone in self.trunk]
        return tuple(f"trunk.{k}.{name}" for k, names in enumerate(own) for name in names)


@remembered
def multi_backbone(model: MultiTaskModel, backbones: int = 2) -> MultiBackbone:
    """Trunks like that of ``model`` in parallel, see :class:`MultiBackbone`.

    The first layer of each head takes the features of all trunks, its other layers are the model's. Trunks may
    start from single-task runs: ``fit(..., initial=warm_start([runs_a, runs_b]))``, see :func:`warm_start`.

    Source: MBMT-Net (IEEE Access), whose text was not at hand. *Reading*: trunks of one architecture, features
    concatenated, every trunk trained on.

    Args:
        model: of :func:`mlp`, a LeNet, :func:`resnet18` or :func:`recurrent`; it is not changed.
        backbones: K.

    Raises:
        ValueError: fewer than one backbone.
        TypeError: a model of another kind, a head without a linear or convolutional layer.
    """
    check_sequential(model, "multi_backbone")
    if backbones < 1:
        raise ValueError(f"backbones is {backbones}, expected at least 1")
    heads = {name: _widened(head, name, backbones) for name, head in zip(model.names, model.heads, strict=True)}
    return MultiBackbone(Parallel(copy.deepcopy(model.trunk) for _ in range(backbones)), heads)


def _widened(head: nn.Module, name: str, times: int) -> nn.Module:
    """A like head for so many times the features."""
    if type(head) is nn.Linear:
        return nn.Linear(times * head.in_features, head.out_features, bias=head.bias is not None)
    if type(head) is nn.Conv2d and head.groups == 1:
        options = {key: getattr(head, key) for key in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
        return nn.Conv2d(times * head.in_channels, head.out_channels, bias=head.bias is not None, **options)
    layers = list(head) if isinstance(head, nn.Sequential) else []
    first = next((i for i, layer in enumerate(layers) if units(layer) is not None), None)
    if first is None:
        raise TypeError(
            f"the head of task {name!r} is a {type(head).__name__}, expected its first layer to be Linear or Conv2d"
        )
    rest = copy.deepcopy(layers)
    return nn.Sequential(*rest[:first], _widened(layers[first], name, times), *rest[first + 1 :])


class HasStates(Protocol):
    """Models that were trained, by seed, as :class:`mtlkit.Runs` are."""

    def state_dict(self, seed: int) -> Mapping[str, Tensor]:
        """Parameters and buffers of the model trained with this seed, by name."""
        ...


def warm_start(runs: Sequence[HasStates]) -> Callable[[int], dict[str, Tensor]]:
    """Initial weights for :func:`multi_backbone`: trunk k of a seed is that of the same seed in ``runs[k]``.

    A seed has the same draw of the data everywhere, so no test row was trained on before; each seed has trunks of
    its own. Heads are drawn as always, and so are the trunks beyond the runs.

    Args:
        runs: of models with the trunk of each backbone, such as single-task ones,
            ``fit(mlp(alone), alone, Uniform())`` with ``alone = data.only([name])``. They have all seeds that are to
            be trained, and their models (at the selected epoch; runs from a store have none).

    Returns:
        seed to weights by name, for the ``initial`` of :func:`mtlkit.fit`.
    """
    return functools.partial(_trunks, tuple(runs))


def _trunks(runs: Sequence[HasStates], seed: int) -> dict[str, Tensor]:
    return {
        f"trunk.{k}.{name.removeprefix('trunk.')}": value
        for k, run in enumerate(runs)
        for name, value in run.state_dict(seed).items()
        if name.startswith("trunk.")
    }
