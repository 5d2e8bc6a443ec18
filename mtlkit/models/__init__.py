"""Multi-task models: a trunk shared by all tasks and a head for each."""

from mtlkit.models.base import MultiTaskModel, initialise
from mtlkit.models.lenet import lenet, multi_lenet
from mtlkit.models.mlp import mlp
from mtlkit.models.resnet import resnet18

__all__ = ["MultiTaskModel", "initialise", "lenet", "mlp", "multi_lenet", "resnet18"]
