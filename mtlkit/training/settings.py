"""How runs are trained, in one object that is handed on as it is."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mtlkit.datasets import Dataset
from mtlkit.training.checks import first_line

BATCH_SIZE = 64
SGD = functools.partial(torch.optim.SGD, momentum=0.9)


@dataclass(frozen=True)
class Settings:
    """What :func:`mtlkit.fit` takes of these names; None where the data decide (:meth:`completed`).

    Raises:
        ValueError: a number out of range, a device that is not there.
        TypeError: a count that is no integer, a ``dtype`` that is not floating-point.
    """

    epochs: int = 50
    batch_size: int = BATCH_SIZE
    meta_batch_size: int | None = None
    steps_per_epoch: int | None = None
    patience: int | None = None
    select_from: int = 1
    lr: float = 1e-2
    optimizer: Callable[..., torch.optim.Optimizer] = SGD
    clip: float | None = None
    initial: Callable[[int], Mapping[str, Tensor]] | None = None
    dtype: torch.dtype = torch.float32
    autocast: bool = False
    compile: bool = False
    device: str | torch.device = "auto"

    def __post_init__(self) -> None:
        for what in ("epochs", "batch_size", "select_from"):
            check_count(what, getattr(self, what))
        for what in ("meta_batch_size", "steps_per_epoch", "patience"):
            check_count(what, getattr(self, what), optional=True)
        if not isinstance(self.lr, numbers.Real) or not 0 <= self.lr < math.inf:
            raise ValueError(f"lr is {self.lr!r}, expected a positive number (or 0, which trains nothing)")
        if self.clip is not None and not (isinstance(self.clip, numbers.Real) and self.clip > 0):
            raise ValueError(f"clip is {self.clip!r}, expected None or a positive number")
        if not isinstance(self.dtype, torch.dtype) or not self.dtype.is_floating_point:
            raise TypeError(f"dtype is {self.dtype!r}, expected a floating-point one such as torch.float32")
        if self.lr > torch.finfo(self.dtype).max:
            raise ValueError(f"lr is {self.lr!r}, expected a number that {self.dtype} can hold")
        try:
            torch.zeros((), device=None if self.device == "auto" else self.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device is {self.device!r}, expected one that is there ({first_line(error)})") from None

    def completed(self, data: Dataset) -> Settings:
        """The same with numbers and a device in place of what was left open.

        Raises:
            ValueError: a batch larger than its split, no epochs, no steps, no patience, an epoch to select from
                that is not there.
        """
        there = "cuda" if torch.cuda.is_available() else "cpu"
        found = replace(self, lr=float(self.lr), device=there if self.device == "auto" else self.device)
        if found.meta_batch_size is None:
            found = replace(found, meta_batch_size=min(4 * found.batch_size, len(data.meta)))
        for what, split in (("batch_size", "train"), ("meta_batch_size", "meta")):
            size, rows = getattr(found, what), len(data.splits[split])
            if not 1 <= size <= rows:
                raise ValueError(f"{what} is {size}, expected 1 to {rows} (rows of the {split} split)")
        if found.steps_per_epoch is None:
            found = replace(found, steps_per_epoch=len(data.train) // found.batch_size)
        for what in ("epochs", "steps_per_epoch", "patience"):
            number = getattr(found, what)
            if number is not None and number < 1:
                raise ValueError(f"{what} is {number}, expected at least 1")
        if not 1 <= found.select_from <= found.epochs:
            raise ValueError(f"select_from is {found.select_from}, expected an epoch from 1 to {found.epochs}")
        return found


def check_count(what: str, number: object, optional: bool = False) -> None:
    """Raise TypeError unless it is an integer, or None where that is allowed."""
    if not (isinstance(number, numbers.Integral) and number is not True) and not (optional and number is None):
        raise TypeError(f"{what} is {number!r}, expected an integer")
