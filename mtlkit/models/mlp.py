"""A multi-layer perceptron with hard parameter sharing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mtlkit.datasets import Dataset
from mtlkit.models.base import MultiTaskModel
from mtlkit.models.low_level import LowLevel, stages_of
from mtlkit.recipes import remembered


class Embed(nn.Module):
    """Category codes in (B, F) inputs replaced by learned vectors, which come after the other columns.

    Args:
        n_inputs: F.
        categories: column to its number of categories.
        width: dimensions of each vector; min(50, half the number of categories rounded up) when None.
    """

    def __init__(self, n_inputs: int, categories: Mapping[int, int], width: int | None = None) -> None:
        super().__init__()
        self.columns = tuple(categories)
        self.others = [c for c in range(n_inputs) if c not in categories]
        sizes = categories.values()
        tables = [nn.Embedding(size, min(50, (size + 1) // 2) if width is None else width) for size in sizes]
        self.tables = nn.ModuleList(tables)
        self.n_outputs = len(self.others) + sum(table.embedding_dim for table in tables)

    def forward(self, x: Tensor) -> Tensor:
        """(B, F) to (B, n_outputs)."""
        vectors = [table(x[:, c].long()) for c, table in zip(self.columns, self.tables, strict=True)]
        return torch.cat([x[:, self.others], *vectors], 1)


@remembered
def mlp(
    data: Dataset,
    hidden: Sequence[int] = (64, 64),
    head: Sequence[int] = (),
    embedding: int | None = None,
    stages: Mapping[str, int] | None = None,
) -> MultiTaskModel:
    """A perceptron that fits ``data``: shared ReLU layers, one head per task.

    The columns in ``data.categories`` are embedded first.

    Args:
        hidden: widths of the shared layers, each followed by a ReLU.
        head: widths of each head's own hidden layers, each followed by a ReLU; the output layer
            (one number, or one logit per class) comes on top.
        embedding: dimensions of each embedding, see :class:`Embed`.
        stages: auxiliary task to the shared layer, from 1, that its head reads; the last one for all others
            (:class:`LowLevel`).

    Raises:
        ValueError: inputs that are not (N, features) or are token ids, no shared layer, stages that are not there.
    """
    if data.text is not None:
        raise ValueError(f"{data.name}: inputs are token ids, expected quantities or categories; see text_encoder")
    if data.train.x.ndim != 2:
        raise ValueError(f"{data.name}: inputs have shape {tuple(data.train.x.shape)}, an mlp expects (N, features)")
    if not hidden:
        raise ValueError("hidden is empty, expected the width of at least one shared layer")
    at = stages_of(data.tasks, stages, len(hidden))
    width = data.train.x.shape[1]
    first = [Embed(width, data.categories, embedding)] if data.categories else []
    trunk = nn.Sequential(*first, *_layers([first[0].n_outputs if first else width, *hidden]))
    heads = {}
    for task in data.tasks:
        widths = [hidden[at[task.name] - 1], *head]
        out = nn.Linear(widths[-1], task.n_outputs)
        heads[task.name] = nn.Sequential(*_layers(widths), out) if head else out
    return LowLevel(trunk, heads, at) if stages else MultiTaskModel(trunk, heads)


def _layers(widths: Sequence[int]) -> list[nn.Module]:
    return [layer for n_in, n_out in itertools.pairwise(widths) for layer in (nn.Linear(n_in, n_out), nn.ReLU())]
