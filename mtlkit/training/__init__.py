"""Train: one visible loop (:mod:`mtlkit.training.loop`), the seeds of a run stacked into one program."""

from mtlkit.training._fit import SAME_NUMBERS, fit
from mtlkit.training.settings import BATCH_SIZE, SGD, Settings

__all__ = ["BATCH_SIZE", "SAME_NUMBERS", "SGD", "Settings", "fit"]
