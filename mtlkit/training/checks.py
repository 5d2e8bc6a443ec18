"""What :func:`mtlkit.training.fit` refuses, in a sentence, before it trains."""

from __future__ import annotations

import copy
import numbers
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from mtlkit.datasets import Dataset, Split
from mtlkit.models import MultiTaskModel
from mtlkit.tasks import labelled, pack, per_sample_losses
from mtlkit.training.stack import check_layers


def seed_numbers(seeds: int | Sequence[int]) -> list[int]:
    """The seeds that are meant: 0 to seeds - 1, or those that are given.

    Raises:
        TypeError: neither a number nor numbers.
        ValueError: none, a negative one, or one twice.
    """
    if isinstance(seeds, numbers.Integral) and not isinstance(seeds, bool):
        if seeds < 1:
            raise ValueError(f"seeds is {seeds}, expected at least one")
        return list(range(seeds))
    listed: list[Any] = list(seeds) if isinstance(seeds, Iterable) and not isinstance(seeds, str | bytes) else [None]
    if not all(isinstance(seed, numbers.Integral) and not isinstance(seed, bool) for seed in listed):
        raise TypeError(f"seeds is {seeds!r}, expected their number, or integers such as [0, 1, 2]")
    if not listed or len(set(listed)) != len(listed):
        raise ValueError(f"seeds are {listed}, expected at least one, all different")
    if min(listed) < 0:
        raise ValueError(f"seeds are {listed}, expected none below 0")
    return [int(seed) for seed in listed]


def first_line(error: BaseException) -> str:
    """Of its message; its kind where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def check_draw(data: Dataset, dtype: torch.dtype) -> None:
    """Refuse data that cannot be trained on, or choose an epoch; warn of a main task with one class in training."""
    for where, split in data.splits.items():
        check_finite(f"{data.name}, {where} split", split, dtype)
    main = data.main
    for where, split in (("train", data.train), ("meta", data.meta)):
        target = split.y[main.name]
        known = target[labelled(target)]
        if not len(known):
            raise ValueError(f"{data.name}: no row of the {where} split has a label of the main task {main.name!r}")
        if where == "train" and main.kind != "regression" and len(known.unique()) < 2:
            warnings.warn(
                f"{data.name}: all training labels of the main task {main.name!r} are {known[0].item():g}, expected at "
                "least two classes",
                stacklevel=3,
            )


def check_finite(where: str, split: Split, dtype: torch.dtype) -> None:
    """Raise ValueError where inputs or known targets are NaN or infinite, or become so as ``dtype``."""
    for what, values in {"inputs": split.x, **{f"target {name!r}": y for name, y in split.y.items()}}.items():
        known = values if what == "inputs" else values[labelled(values)]
        if known.is_floating_point() and not torch.isfinite(known.to(dtype)).all():
            raise ValueError(f"{where}: {what} hold NaN or infinite values as {dtype}, expected finite ones")


@torch.no_grad()
def check_model(model: MultiTaskModel, data: Dataset, device: str | torch.device, dtype: torch.dtype) -> None:
    """Refuse layers that do not stack, a model that cannot take the data's inputs, outputs that do not fit."""
    check_layers(model)
    for name, parameter in model.named_parameters():
        if not parameter.numel():
            raise ValueError(f"the model's {name} has shape {tuple(parameter.shape)}, expected no width of 0")
    x = data.train.x[:2].to(device, dtype if data.train.x.is_floating_point() else None)
    try:
        outputs = copy.deepcopy(model).to(device, dtype).eval()(x)
    except Exception as error:
        shape = ", ".join(map(str, x.shape[1:]))
        raise ValueError(
            f"the model cannot take inputs of shape (N, {shape}) of {data.name}, expected one made for them "
            f"({first_line(error)})"
        ) from error
    targets = {task.name: data.train.y[task.name][:2].to(device) for task in data.tasks}
    per_sample_losses(data.tasks, outputs, pack(data.tasks, targets))
