"""mtlkit: which weights should the losses get when one task matters and the others help it?"""

from mtlkit import datasets, models
from mtlkit.merging import DIW, AlphaVIL, ForkMerge, Merger
from mtlkit.results import Runs, compare
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
    "Fixed",
    "ForkMerge",
    "GradNorm",
    "GradientCosine",
    "Gramian",
    "HydaLearn",
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
    "audit",
    "compare",
    "datasets",
    "fit",
    "models",
]
