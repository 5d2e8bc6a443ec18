"""A multi-layer perceptron with hard parameter sharing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from mtlkit.datasets import Dataset
from mtlkit.models.base import MultiTaskModel


def mlp(data: Dataset, hidden: Sequence[int] = (64, 64), head: Sequence[int] = ()) -> MultiTaskModel:
    """A perceptron that fits ``data``: shared ReLU layers, one head per task.

    Args:
        hidden: widths of the shared layers, each followed by a ReLU.
        head: widths of each head's own hidden layers, each followed by a ReLU; the output layer
            (one number, or one logit per class) comes on top.

    Raises:
        ValueError: inputs that are not (N, features), no shared layer.
    """
    if data.train.x.ndim != 2:
        raise ValueError(f"{data.name}: inputs have shape {tuple(data.train.x.shape)}, an mlp expects (N, features)")
    if not hidden:
        raise ValueError("hidden is empty, expected the width of at least one shared layer")
    top = [hidden[-1], *head][-1]
    outputs = {task.name: nn.Linear(top, task.n_outputs) for task in data.tasks}
    return MultiTaskModel(
        nn.Sequential(*_layers([data.train.x.shape[1], *hidden])),
        {name: nn.Sequential(*_layers([hidden[-1], *head]), out) if head else out for name, out in outputs.items()},
    )


def _layers(widths: Sequence[int]) -> list[nn.Module]:
    return [layer for n_in, n_out in itertools.pairwise(widths) for layer in (nn.Linear(n_in, n_out), nn.ReLU())]
