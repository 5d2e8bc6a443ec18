"""Uniform weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mtlkit.weighting._base import Weighting


@dataclass(frozen=True)
class Uniform(Weighting):
    """w_t = 1/T in every step: plain multi-task learning, and with one task plain training.

    >>> import torch
    >>> from mtlkit.measure import Signal
    >>> w, _ = Uniform().update((), Signal(torch.ones(3, 4), torch.ones(3, 4, dtype=torch.bool)))
    >>> w.tolist()
    [0.25, 0.25, 0.25, 0.25]
    """

    def update(self, state, signal):
        n_tasks = signal.losses.shape[-1]
        return torch.full_like(signal.losses[0], 1 / n_tasks), state
