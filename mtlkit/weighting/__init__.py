"""Weigh: one short module per method, signal to weights."""

from mtlkit.weighting._adaptive import AdaptiveWeights
from mtlkit.weighting._arml import ARML
from mtlkit.weighting._auxilearn import AuxiLearn
from mtlkit.weighting._base import State, Weighting, per_sample
from mtlkit.weighting._cosine import GradientCosine
from mtlkit.weighting._dwa import DWA
from mtlkit.weighting._fixed import Fixed
from mtlkit.weighting._gradnorm import GradNorm
from mtlkit.weighting._gramian import Gramian
from mtlkit.weighting._hydalearn import HydaLearn
from mtlkit.weighting._logse import LogSE
from mtlkit.weighting._metaweightnet import MetaWeightNet
from mtlkit.weighting._noise import NoiseLayer
from mtlkit.weighting._olaux import OLAux
from mtlkit.weighting._orthogonal import OrthogonalGradients
from mtlkit.weighting._random import RandomWeighting
from mtlkit.weighting._slaw import SLAW
from mtlkit.weighting._slgrad import SLGrad
from mtlkit.weighting._tartan import MetaTartan
from mtlkit.weighting._uncertainty import RevisedUncertainty, Uncertainty
from mtlkit.weighting._uniform import Uniform

__all__ = [
    "ARML",
    "DWA",
    "SLAW",
    "AdaptiveWeights",
    "AuxiLearn",
    "Fixed",
    "GradNorm",
    "GradientCosine",
    "Gramian",
    "HydaLearn",
    "LogSE",
    "MetaTartan",
    "MetaWeightNet",
    "NoiseLayer",
    "OLAux",
    "OrthogonalGradients",
    "RandomWeighting",
    "RevisedUncertainty",
    "SLGrad",
    "State",
    "Uncertainty",
    "Uniform",
    "Weighting",
    "per_sample",
]
