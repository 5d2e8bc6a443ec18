"""The residual network of 18 layers, with group normalisation."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from mtlkit.datasets import Dataset
from mtlkit.models.base import MultiTaskModel, check_images
from mtlkit.recipes import remembered

GROUPS = 32


class Residual(nn.Module):
    """x ↦ ReLU(f(x) + s(x)), f: convolution 3x3, norm, ReLU, convolution 3x3, norm.

    s is the identity, or a convolution 1x1 and a norm where the shape changes.

    Args:
        n_in: channels of the input.
        n_out: channels of the output.
        stride: of the first convolution.
    """

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.out_channels = n_out
        self.residual = nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False),
            _group_norm(n_out),
            nn.ReLU(),
            nn.Conv2d(n_out, n_out, 3, padding=1, bias=False),
            _group_norm(n_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or n_in != n_out:
            self.shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), _group_norm(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, H, W) to (B, n_out, H / stride, W / stride), rounded up."""
        return F.relu(self.residual(x) + self.shortcut(x))


@remembered
def resnet18(data: Dataset, width: int = 64) -> MultiTaskModel:
    """ResNet-18 for images of (3, 32, 32), with one linear head per task.

    Trunk: convolution 3→width (3x3), norm, ReLU; four stages of two :class:`Residual` blocks each,
    with 1, 2, 4 and 8 times ``width`` channels on 32, 16, 8 and 4 pixels a side; mean over the
    pixels, (B, 8 width). Heads: linear 8 width→outputs.

    Source: He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition*, arXiv 1512.03385,
    with the first layer of its CIFAR-10 networks: no stride, no pooling. Norms are GroupNorm (Wu &
    He, arXiv 1803.08494) with 32 groups, or as many as divide ``width``: every sample is normalised on
    its own, so that a per-sample loss has a gradient of its own.

    Args:
        width: channels of the first stage.

    Raises:
        ValueError: inputs of another shape.
    """
    check_images(data, (3, 32, 32), "resnet18")
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False), _group_norm(width), nn.ReLU()]
    n_in = width
    for stage in range(4):
        n_out = width * 2**stage
        layers += [Residual(n_in, n_out, stride=1 if stage == 0 else 2), Residual(n_out, n_out, stride=1)]
        n_in = n_out
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return MultiTaskModel(nn.Sequential(*layers), {t.name: nn.Linear(n_in, t.n_outputs) for t in data.tasks})


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)
