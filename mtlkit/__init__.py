"""mtlkit: which weights should the losses get when one task matters and the others help it?"""

from mtlkit import datasets, models
from mtlkit.advice import advise, load_advised
from mtlkit.estimator import AuxiliaryClassifier, AuxiliaryRegressor
from mtlkit.live import LiveWeights
from mtlkit.merging import DIW, AlphaVIL, ForkMerge, Merger
from mtlkit.results import Runs, compare, load_runs
from mtlkit.samples import audit
from mtlkit.tasks import Task
from mtlkit.training import fit
from mtlkit.weigher import Weigher
from mtlkit.weighting import (
    ARML,
    DWA,
    SLAW,
    AdaptiveWeights,
    AuxiLearn,
    Fixed,
    GradientCosine,
    GradNorm,
    Gramian,
    HydaLearn,
    LogSE,
    MetaTartan,
    MetaWeightNet,
    NoiseLayer,
    OLAux,
    OrthogonalGradients,
    RandomWeighting,
    RevisedUncertainty,
    SLGrad,
    Uncertainty,
    Uniform,
)

__version__ = "0.1.0"
__all__ = [
    "ARML",
    "DIW",
    "DWA",
    "SLAW",
    "AdaptiveWeights",
    "AlphaVIL",
    "AuxiLearn",
    "AuxiliaryClassifier",
    "AuxiliaryRegressor",
    "Fixed",
    "ForkMerge",
    "GradNorm",
    "GradientCosine",
    "Gramian",
    "HydaLearn",
    "LiveWeights",
    "LogSE",
    "Merger",
    "MetaTartan",
    "MetaWeightNet",
    "NoiseLayer",
    "OLAux",
    "OrthogonalGradients",
    "RandomWeighting",
    "RevisedUncertainty",
    "Runs",
    "SLGrad",
    "Task",
    "Uncertainty",
    "Uniform",
    "Weigher",
    "advise",
    "audit",
    "compare",
    "datasets",
    "fit",
    "load_advised",
    "load_runs",
    "models",
]
