"""Multi-task models: a trunk shared by all tasks and a head for each."""

from mtlkit.models.base import MultiTaskModel, initialise
from mtlkit.models.lenet import lenet, multi_lenet
from mtlkit.models.mlp import mlp
from mtlkit.models.resnet import resnet18
from mtlkit.models.text import hugging_face, text_encoder

__all__ = ["MultiTaskModel", "hugging_face", "initialise", "lenet", "mlp", "multi_lenet", "resnet18", "text_encoder"]
