"""Weigh: one short module per method, signal to weights."""

from mtlkit.weighting._base import State, Weighting, per_sample
from mtlkit.weighting._random import RandomWeighting
from mtlkit.weighting._slgrad import SLGrad
from mtlkit.weighting._step import Step, step
from mtlkit.weighting._uniform import Uniform

__all__ = ["RandomWeighting", "SLGrad", "State", "Step", "Uniform", "Weighting", "per_sample", "step"]
