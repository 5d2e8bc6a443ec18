"""Data sets by name: ``names()`` lists them, ``load(name, **options)`` makes one; ``from_frame`` takes yours."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace

from mtlkit import recipes
from mtlkit.datasets import files
from mtlkit.datasets.base import Dataset, Split, check_seed
from mtlkit.datasets.card import Card
from mtlkit.datasets.cifar import cifar10
from mtlkit.datasets.digits import digits
from mtlkit.datasets.language import language
from mtlkit.datasets.layered import layered
from mtlkit.datasets.mnist import FOLDERS, SINGLE, digits_and_articles, one_vs_rest, overlaid
from mtlkit.datasets.nyuv2 import nyuv2
from mtlkit.datasets.overlay import multi_digits
from mtlkit.datasets.synthetic import synthetic, toy_regression
from mtlkit.datasets.tabular import from_frame
from mtlkit.datasets.text import Text
from mtlkit.datasets.toy_language import toy_language
from mtlkit.datasets.uci import adult, parkinsons

__all__ = ["Card", "Dataset", "Split", "Text", "from_frame", "load", "names", "needs", "outline"]

_LOADERS: dict[str, Callable[..., Dataset]] = {
    "adult": adult,
    "cifar10": cifar10,
    "digits": digits,
    "digits_and_articles": digits_and_articles,
    "multi_digits": multi_digits,
    "language": language,
    "layered": layered,
    **{name: functools.partial(one_vs_rest, name) for name in SINGLE},
    **{name: functools.partial(overlaid, name) for name in FOLDERS},
    "nyuv2": nyuv2,
    "parkinsons": parkinsons,
    "synthetic": synthetic,
    "toy_language": toy_language,
    "toy_regression": toy_regression,
}
_FOLDERS: dict[str, tuple[str, ...]] = {
    "adult": ("adult",),
    "cifar10": ("cifar-10-batches-py",),
    "digits_and_articles": tuple(SINGLE.values()),
    "language": ("superglue", "mrpc", "winogrande"),
    "parkinsons": ("parkinsons-telemonitoring",),
    **{name: (folder,) for name, folder in SINGLE.items()},
    **FOLDERS,
}


def names() -> list[str]:
    """Names that :func:`load` knows."""
    return sorted(_LOADERS)


def needs(name: str) -> tuple[str, ...]:
    """The files behind a data set, as named in :data:`mtlkit.datasets.files.FILES`; none for most small ones."""
    _check_name(name)
    return files.needed(*_FOLDERS.get(name, ()))


def load(name: str, *, seed: int = 0, **options) -> Dataset:
    """Load the data set ``name``.

    Args:
        seed: draws the split, the label noise and, for synthetic data, the data themselves.
        options: the keyword arguments of the function of that name in :mod:`mtlkit.datasets`
            (:func:`mtlkit.datasets.mnist.one_vs_rest` for mnist and fashion_mnist,
            :func:`mtlkit.datasets.mnist.overlaid` for the multi_mnist family).

    Raises:
        ValueError: unknown name, or an option out of its range.
        TypeError: unknown option, or a seed that is no integer.
        FileNotFoundError: a data file is not there and could not be downloaded.
    """
    _check_name(name)
    loader = _LOADERS[name]
    allowed = [option for option in inspect.signature(loader).parameters if option != "seed"]
    for option in options:
        if option not in allowed:
            raise TypeError(f"data set {name!r} has no option {option!r}, expected some of {', '.join(allowed)}")
    check_seed(seed)
    line = recipes.call(loader, name, name="load", **options)
    return replace(loader(seed=seed, **options), redraw=functools.partial(_redraw, name, options), recipe=line)


def outline(name: str, **options) -> Dataset:
    """:func:`load`, but of the draw at hand only tasks and shapes: its inputs are blank, and no file is read.

    What trains on it draws real rows (:meth:`Dataset.resample`), and reads the files then. So a study whose runs
    are all in a store needs none. For the MNIST family, CIFAR-10, Adult and language; data sets that need no file
    are what they are.

    Args:
        options: as for :func:`load`.

    Raises:
        FileNotFoundError: a data set of other files, which are not there.
    """
    with files.blanks():
        return load(name, **options)


def _check_name(name: str) -> None:
    if name not in _LOADERS:
        raise ValueError(f"no data set {name!r}, expected one of {', '.join(names())}")


def _redraw(name: str, options: dict, seed: int) -> Dataset:
    return load(name, seed=seed, **options)
