"""Merge: fork the model, train the branches, and merge them with coefficients found on the meta split."""

from mtlkit.merging._alphavil import AlphaVIL
from mtlkit.merging._base import Epoch, Merged, Merging, error_rate, steps_of
from mtlkit.merging._diw import DIW
from mtlkit.merging._forkmerge import ForkMerge
from mtlkit.merging._merger import Branch, Merger

__all__ = [
    "DIW",
    "AlphaVIL",
    "Branch",
    "Epoch",
    "ForkMerge",
    "Merged",
    "Merger",
    "Merging",
    "error_rate",
    "steps_of",
]
