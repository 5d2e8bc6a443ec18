"""Convolutional networks of the LeNet family, as the multi-task papers use them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtlkit.datasets import Dataset
from mtlkit.models.base import MultiTaskModel, check_images
from mtlkit.models.low_level import LowLevel, stages_of
from mtlkit.recipes import remembered


class MaxPool(nn.Module):
    """The largest of every 2 by 2 pixels; an odd row or column at the end is left out.

    Without gradients by two comparisons: the same values, many times as fast as torch's pooling on a CPU, which also
    looks for the places.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H // 2, W // 2)."""
        if torch.is_grad_enabled():
            return F.max_pool2d(x, 2)
        high, wide = (size // 2 * 2 for size in x.shape[-2:])
        x = torch.maximum(x[..., 0:high:2, :wide], x[..., 1:high:2, :wide])
        return torch.maximum(x[..., 0::2], x[..., 1::2])


@remembered
def multi_lenet(data: Dataset, stages: Mapping[str, int] | None = None) -> MultiTaskModel:
    """Multi-LeNet for images of (1, 28, 28): two convolutions and a shared layer of 50, a small head per task.

    Trunk: convolution 1→10 (5x5), max pooling, ReLU, convolution 10→20 (5x5), max pooling, ReLU,
    linear 320→50, ReLU. Heads: linear 50→50, ReLU, linear 50→outputs.

    Args:
        stages: auxiliary task to the stage that its head reads: 1 or 2, a convolution's (10, 12, 12) or (20, 4, 4)
            features, all of which go into the head's first layer; 3 for all others (:class:`LowLevel`).

    Raises:
        ValueError: inputs of another shape, stages that are not there.
    """
    check_images(data, (1, 28, 28), "multi_lenet")
    at = stages_of(data.tasks, stages, 3)
    trunk = nn.Sequential(
        nn.Conv2d(1, 10, 5),
        MaxPool(),
        nn.ReLU(),
        nn.Conv2d(10, 20, 5),
        MaxPool(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(320, 50),
        nn.ReLU(),
    )
    size = {1: 1440, 2: 320, 3: 50}
    heads = {
        t.name: nn.Sequential(
            *([nn.Flatten()] if at[t.name] < 3 else []),
            nn.Linear(size[at[t.name]], 50),
            nn.ReLU(),
            nn.Linear(50, t.n_outputs),
        )
        for t in data.tasks
    }
    return LowLevel(trunk, heads, at) if stages else MultiTaskModel(trunk, heads)


@remembered
def lenet(data: Dataset, stages: Mapping[str, int] | None = None) -> MultiTaskModel:
    """The LeNet of SLGrad's CIFAR-10 study (arXiv 2306.04519) for images of (3, 32, 32).

    Trunk: convolution 3→6 (3x3, padding 2), ReLU, max pooling, convolution 6→16 (5x5), ReLU, max
    pooling. Heads: convolution 16→128 (5x5), ReLU, linear 512→84, ReLU, linear 84→84, ReLU, linear
    84→outputs (*reading*: the paper gives the layers, the ReLU after each is LeNet's usual one).

    Args:
        stages: auxiliary task to the stage that its head reads: 1, the first convolution's (6, 17, 17) features,
            averaged to the 6 by 6 pixels of the second one's before a like head; 2 for all others (:class:`LowLevel`).

    Raises:
        ValueError: inputs of another shape, stages that are not there.
    """
    check_images(data, (3, 32, 32), "lenet")
    at = stages_of(data.tasks, stages, 2)
    trunk = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=2),
        nn.ReLU(),
        MaxPool(),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        MaxPool(),
    )
    heads = {
        t.name: nn.Sequential(
            *([nn.AdaptiveAvgPool2d(6), nn.Conv2d(6, 128, 5)] if at[t.name] == 1 else [nn.Conv2d(16, 128, 5)]),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 84),
            nn.ReLU(),
            nn.Linear(84, 84),
            nn.ReLU(),
            nn.Linear(84, t.n_outputs),
        )
        for t in data.tasks
    }
    return LowLevel(trunk, heads, at) if stages else MultiTaskModel(trunk, heads)
