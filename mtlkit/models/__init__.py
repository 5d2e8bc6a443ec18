"""Multi-task models: a trunk shared by all tasks and a head for each, and the architectures around them."""

from mtlkit.models.base import MultiTaskModel, initialise
from mtlkit.models.lenet import lenet, multi_lenet
from mtlkit.models.low_level import LowLevel
from mtlkit.models.mlp import mlp
from mtlkit.models.multi_backbone import MultiBackbone, multi_backbone, warm_start
from mtlkit.models.recurrent import recurrent
from mtlkit.models.resnet import resnet18
from mtlkit.models.routed import Routed, routed
from mtlkit.models.taps import Taps, taps
from mtlkit.models.text import hugging_face, text_encoder

__all__ = [
    "LowLevel",
    "MultiBackbone",
    "MultiTaskModel",
    "Routed",
    "Taps",
    "hugging_face",
    "initialise",
    "lenet",
    "mlp",
    "multi_backbone",
    "multi_lenet",
    "recurrent",
    "resnet18",
    "routed",
    "taps",
    "text_encoder",
    "warm_start",
]
