"""A bidirectional recurrent encoder of sequences with hard parameter sharing, or with heads at lower layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mtlkit.datasets import Dataset
from mtlkit.models.base import MultiTaskModel
from mtlkit.models.low_level import LowLevel, stages_of
from mtlkit.recipes import remembered


class BiGRU(nn.Module):
    """A gated recurrent unit in both directions: (B, L, D) to (B, L, 2 width), forward states first.

    Its steps are plain operations, so that it differentiates in forward mode, twice, and stacked over seeds, none
    of which cuDNN's kernel does. Equations and weights are those of ``nn.GRU(D, width, bidirectional=True)``, one
    row of each tensor per direction, and drawn as there, uniform on ±1/√width.

    Source: Cho et al., arXiv 1406.1078, with the reset gate after the product as in cuDNN.

    Args:
        n_in: D.
        width: units of each direction.
    """

    def __init__(self, n_in: int, width: int) -> None:
        super().__init__()
        self.width, self.out_features = width, 2 * width
        self.weight_x = nn.Parameter(torch.empty(2, 3 * width, n_in))
        self.weight_h = nn.Parameter(torch.empty(2, 3 * width, width))
        self.bias_x = nn.Parameter(torch.empty(2, 3 * width))
        self.bias_h = nn.Parameter(torch.empty(2, 3 * width))
        self.initialise(None)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None) -> None:
        """Draw the weights anew."""
        for parameter in self.parameters():
            parameter.uniform_(-1 / math.sqrt(self.width), 1 / math.sqrt(self.width), generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """One state of each direction for every position."""
        both = torch.stack([x, x.flip(1)]).transpose(1, 2)  # (2, L, B, D)
        given = both @ self.weight_x.mT.unsqueeze(1) + self.bias_x[:, None, None]
        bias = self.bias_h.unsqueeze(1)
        h = torch.zeros_like(given[:, 0, :, : self.width])
        states = []
        for step in given.unbind(1):
            reset_x, keep_x, new_x = step.chunk(3, -1)
            reset_h, keep_h, new_h = (h @ self.weight_h.mT + bias).chunk(3, -1)
            keep = torch.sigmoid(keep_x + keep_h)
            new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
            h = new + keep * (h - new)
            states.append(h)
        forwards, backwards = torch.stack(states, 2)
        return torch.cat([forwards, backwards.flip(1)], -1)


class Tokens(nn.Embedding):
    """(B, L) token ids, as category codes are, whole floating-point numbers, to (B, L, D) vectors."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return super().forward(x.long())


class Mean(nn.Module):
    """(B, L, D) to (B, D), the mean over positions."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.mean(1)


class PerPosition(nn.Module):
    """(B, L, C) to (B, C, L), as losses of targets (B, L) take it."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.movedim(-1, 1)


@remembered
def recurrent(
    data: Dataset,
    hidden: Sequence[int] = (32, 32),
    vocabulary: int | None = None,
    embedding: int = 32,
    stages: Mapping[str, int] | None = None,
) -> MultiTaskModel:
    """Layers of :class:`BiGRU` over sequences of one length L, and a linear head per task.

    Inputs are (N, L, features), or (N, L) token ids, which are embedded first (:class:`Tokens`). The head of a task
    with targets (N, L) reads every position, that of one with targets (N,) the mean over all positions. Where
    shorter sequences are padded, give padding an id of its own, and no label at its positions; it is encoded and
    counts in the mean like any other.

    Args:
        hidden: units of each direction, of one layer after the other.
        vocabulary: number of token ids, 0 to vocabulary - 1; None for features.
        embedding: dimensions of a token's vector.
        stages: auxiliary task to the layer, from 1, that its head reads; the last one for all others
            (:class:`LowLevel`).

    Raises:
        ValueError: inputs or targets of another shape, no layer, token ids outside the vocabulary, stages that are
            not there.
    """
    x = data.train.x
    tokens = vocabulary is not None
    if x.ndim != (2 if tokens else 3):
        raise ValueError(
            f"{data.name}: inputs have shape {tuple(x.shape)}, recurrent takes "
            f"{'token ids (N, L) with a vocabulary' if tokens else '(N, L, features) without a vocabulary'}"
        )
    if not hidden:
        raise ValueError("hidden is empty, expected the width of at least one layer")
    if vocabulary is not None:
        ids = [split.x for split in data.splits.values()]
        if any((x < 0).any() or (x >= vocabulary).any() or (x != x.round()).any() for x in ids):
            raise ValueError(f"{data.name}: inputs are not all token ids, expected whole numbers 0 to {vocabulary - 1}")
    at = stages_of(data.tasks, stages, len(hidden))
    first = [] if vocabulary is None else [Tokens(vocabulary, embedding)]
    widths = [embedding if tokens else x.shape[2], *(2 * width for width in hidden)]
    layers = [BiGRU(n_in, n_out // 2) for n_in, n_out in itertools.pairwise(widths)]
    trunk, heads = nn.Sequential(*first, *layers), {}
    for task in data.tasks:
        target, out = data.train.y[task.name], nn.Linear(widths[at[task.name]], task.n_outputs)
        if tuple(target.shape[1:]) not in ((), (x.shape[1],)):
            raise ValueError(f"task {task.name!r}: targets have shape {tuple(target.shape)}, expected (N,) or (N, L)")
        heads[task.name] = nn.Sequential(Mean(), out) if target.ndim == 1 else nn.Sequential(out, PerPosition())
    return LowLevel(trunk, heads, at) if stages else MultiTaskModel(trunk, heads)
