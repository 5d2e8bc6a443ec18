"""Weights given by the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mtlkit.weighting._base import Weighting, check_hyper


@dataclass(frozen=True)
class Fixed(Weighting):
    """The same given weights w_t in every step, as they are: they need not sum to 1.

    ``Fixed([1, 0, 0])`` trains on the main task alone.

    Args:
        weights: one non-negative weight per task, the main task first.

    Raises:
        ValueError: a negative or non-finite weight, or a number of weights that is not the number of tasks.

    >>> import torch
    >>> from mtlkit.measure import Signal
    >>> like = torch.ones(())
    >>> fixed = Fixed([0.5, 0.25])
    >>> w, _ = fixed.update(fixed.init(2, like), Signal(torch.ones(3, 2), torch.ones(3, 2, dtype=torch.bool)))
    >>> w.tolist()
    [0.5, 0.25]
    """

    weights: Sequence[float]

    def __post_init__(self) -> None:
        for t, weight in enumerate(self.weights):
            check_hyper(f"weights[{t}]", weight, 0)

    def init(self, n_tasks, like):
        if len(self.weights) != n_tasks:
            raise ValueError(f"Fixed has {len(self.weights)} weights, expected {n_tasks}, one per task")
        return ()

    def update(self, state, signal):
        return signal.losses.new_tensor(list(self.weights)), state
