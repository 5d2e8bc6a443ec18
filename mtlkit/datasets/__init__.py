"""Data sets by name: ``names()`` lists them, ``load(name, **options)`` makes one."""

from __future__ import annotations

import functools
import inspect
from dataclasses import replace

from mtlkit.datasets.base import Dataset, Split
from mtlkit.datasets.digits import digits
from mtlkit.datasets.synthetic import toy_regression

__all__ = ["Dataset", "Split", "load", "names"]

_LOADERS = {"digits": digits, "toy_regression": toy_regression}


def names() -> list[str]:
    """Names that :func:`load` knows."""
    return sorted(_LOADERS)


def load(name: str, *, seed: int = 0, **options) -> Dataset:
    """Load the data set ``name``.

    Args:
        seed: draws the split, the label noise and, for synthetic data, the data themselves.
        options: the keyword arguments of the function of that name in :mod:`mtlkit.datasets`.

    Raises:
        ValueError: unknown name, or an option out of its range.
        TypeError: unknown option.
    """
    if name not in _LOADERS:
        raise ValueError(f"no data set {name!r}, expected one of {', '.join(names())}")
    loader = _LOADERS[name]
    allowed = [option for option in inspect.signature(loader).parameters if option != "seed"]
    for option in options:
        if option not in allowed:
            raise TypeError(f"data set {name!r} has no option {option!r}, expected some of {', '.join(allowed)}")
    return replace(loader(seed=seed, **options), redraw=functools.partial(_redraw, name, options))


def _redraw(name: str, options: dict, seed: int) -> Dataset:
    return load(name, seed=seed, **options)
