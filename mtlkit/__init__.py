"""mtlkit: which weights should the losses get when one task matters and the others help it?"""

from mtlkit import datasets, models
from mtlkit.results import Runs, compare
from mtlkit.tasks import Task
from mtlkit.training import fit
from mtlkit.weighting import RandomWeighting, SLGrad, Uniform

__version__ = "0.1.0"
__all__ = ["RandomWeighting", "Runs", "SLGrad", "Task", "Uniform", "compare", "datasets", "fit", "models"]
