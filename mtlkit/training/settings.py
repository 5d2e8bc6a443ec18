"""How runs are trained, in one object that is handed on as it is."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mtlkit.datasets import Dataset
from mtlkit.training.checks import first_line

BATCH_SIZE = 64
SGD = functools.partial(torch.optim.SGD, momentum=0.9)


@dataclass(frozen=True)
class Settings:
    """What :func:`mtlkit.fit` takes of these names, nothing left open.

    Raises:
        ValueError: a number out of range, a device that is not there.
        TypeError: a count that is no integer, a ``dtype`` that is not floating-point.
    """

    epochs: int
    batch_size: int
    meta_batch_size: int
    steps_per_epoch: int
    lr: float
    optimizer: Callable[..., torch.optim.Optimizer]
    dtype: torch.dtype
    device: str | torch.device
    patience: int | None = None
    select_from: int = 1
    clip: float | None = None
    initial: Callable[[int], Mapping[str, Tensor]] | None = None
    autocast: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        for what in ("batch_size", "meta_batch_size", "select_from"):
            check_count(what, getattr(self, what), least=None)
        for what in ("epochs", "steps_per_epoch", "patience"):
            check_count(what, getattr(self, what), optional=what == "patience")
        if not isinstance(self.lr, numbers.Real) or not 0 <= self.lr < math.inf:
            raise ValueError(f"lr is {self.lr!r}, expected a positive number (or 0, which trains nothing)")
        if self.clip is not None and not (isinstance(self.clip, numbers.Real) and self.clip > 0):
            raise ValueError(f"clip is {self.clip!r}, expected None or a positive number")
        if not isinstance(self.dtype, torch.dtype) or not self.dtype.is_floating_point:
            raise TypeError(f"dtype is {self.dtype!r}, expected a floating-point one such as torch.float32")
        if float(self.lr) > torch.finfo(self.dtype).max:
            raise ValueError(f"lr is {self.lr!r}, expected a number that {self.dtype} can hold")
        try:
            torch.zeros((), device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device is {self.device!r}, expected one that is there ({first_line(error)})") from None

    def check(self, data: Dataset) -> None:
        """Raise ValueError for a batch larger than its split, or no epoch to select from."""
        for what, split in (("batch_size", "train"), ("meta_batch_size", "meta")):
            size, rows = getattr(self, what), len(data.splits[split])
            if not 1 <= size <= rows:
                raise ValueError(f"{what} is {size}, expected 1 to {rows} (rows of the {split} split)")
        if not 1 <= self.select_from <= self.epochs:
            raise ValueError(f"select_from is {self.select_from}, expected an epoch from 1 to {self.epochs}")


def check_count(what: str, number: object, *, optional: bool = False, least: int | None = 1) -> None:
    """Raise TypeError unless it is an integer, or None where that is allowed, and ValueError below ``least``."""
    if optional and number is None:
        return
    if not isinstance(number, numbers.Integral) or isinstance(number, bool):
        raise TypeError(f"{what} is {number!r}, expected an integer")
    if least is not None and int(number) < least:
        raise ValueError(f"{what} is {number}, expected at least {least}")
