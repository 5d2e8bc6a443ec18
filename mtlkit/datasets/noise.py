"""Label noise: which labels become wrong, and what they become."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mtlkit.datasets.base import Split, choose


def flip_labels(labels: Tensor, chosen: Tensor, noise: str) -> Tensor:
    """Binary labels (N,) with the ``chosen`` ones made wrong.

    ``"flip"`` turns 0 into 1 and 1 into 0; ``"background"`` turns 1 into 0 and leaves 0 as it is, so that such a label
    does not count as noisy.

    Raises:
        ValueError: another ``noise``.
    """
    if noise not in ("flip", "background"):
        raise ValueError(f"noise is {noise!r}, expected 'flip' or 'background'")
    return torch.where(chosen, 1 - labels if noise == "flip" else torch.zeros_like(labels), labels)


def with_flipped_labels(train: Split, share: float, noise: str, generator: torch.Generator) -> Split:
    """Exactly ``round(share * N)`` labels of the main task chosen to be made wrong, see :func:`flip_labels`."""
    main = next(iter(train.y.values()))
    return with_main_labels(train, flip_labels(main, choose(len(main), share, generator), noise))


def other_class(labels: Tensor, chosen: Tensor, n_classes: int, generator: torch.Generator) -> Tensor:
    """Classes (N,) with each ``chosen`` one replaced by one of the other classes, all equally likely."""
    away = torch.randint(1, n_classes, labels.shape, generator=generator)
    return torch.where(chosen, (labels + away) % n_classes, labels)


def with_main_labels(split: Split, labels: Tensor) -> Split:
    """The split with ``labels`` (N,) for its first task; those that differ from the old ones are marked noisy."""
    main = next(iter(split.y))
    noisy = split.noisy.clone()
    noisy[:, 0] = labels != split.y[main]
    return replace(split, y={**split.y, main: labels}, noisy=noisy)
