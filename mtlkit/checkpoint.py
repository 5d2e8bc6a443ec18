"""The state of a training under way, in a file from which it goes on as if nothing had happened."""

from __future__ import annotations

import hashlib
import numbers
import os
import pickle
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from mtlkit import recipes
from mtlkit.datasets import Dataset, Split

INTERVAL = 120.0
"""Seconds between two writes, at least."""

FORMAT = "mtlkit checkpoint 2"


class Checkpoint:
    """The file of one stack of seeds.

    Every :meth:`save` replaces the file at once, so that a process may be killed at any moment.

    Args:
        path: need not exist yet.
        settings: what the training is made of, by name; a file of others is refused.
    """

    def __init__(self, path: str | os.PathLike, settings: Mapping[str, str]) -> None:
        self.path, self.settings = Path(path), dict(settings)
        self.interval, self.written = INTERVAL, time.monotonic()

    def due(self) -> bool:
        """Whether the last write, or the start, is long enough ago."""
        return time.monotonic() - self.written >= self.interval

    def save(self, epoch: int, state: Mapping[str, Any]) -> None:
        """Write the state at the end of an epoch: plain containers of tensors, numbers and texts.

        Raises:
            TypeError: something else in the state, which could not be read back.
        """
        found = {"format": FORMAT, "settings": self.settings, "epoch": epoch, "state": state}
        check_plain(found)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f"{self.path.name}.part")
        with part.open("wb") as file:
            torch.save(found, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self.path)
        self.written = time.monotonic()

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """Epoch and state of the last write; None where there is no file.

        Raises:
            ValueError: a file that is damaged, or of other settings.
        """
        if not self.path.exists():
            return None
        damaged = f"{self.path} is damaged or no checkpoint; expected one to go on from: delete it to start afresh"
        try:
            with zipfile.ZipFile(self.path) as archive:
                broken = archive.testzip()
            found = None if broken else torch.load(self.path, weights_only=True)
        except (zipfile.BadZipFile, pickle.UnpicklingError, OSError, EOFError, RuntimeError, LookupError) as error:
            raise ValueError(
                f"{damaged} ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
            ) from None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(damaged)
        there = found["settings"]
        differ = [name for name in {**there, **self.settings} if there.get(name) != self.settings.get(name)]
        if differ:
            what = ", ".join(f"{name} is {there.get(name)} there and {self.settings.get(name)} here" for name in differ)
            raise ValueError(f"{self.path} is the checkpoint of another training, expected one of the same: {what}")
        return found["epoch"], found["state"]

    def last_epoch(self) -> int:
        """The epoch to which the file goes, 0 where there is none."""
        kept = self.load()
        return 0 if kept is None else kept[0]

    def remove(self) -> None:
        """Delete the file, if there is one."""
        self.path.unlink(missing_ok=True)
        self.path.with_name(f"{self.path.name}.part").unlink(missing_ok=True)


def check_plain(value: Any) -> None:
    """Raise TypeError unless these are dicts, lists and tuples of tensors, numbers and texts."""
    if isinstance(value, dict):
        check_plain(list(value))
        check_plain(list(value.values()))
    elif type(value) in (list, tuple):
        for item in value:
            check_plain(item)
    elif value is not None and type(value) not in (bool, int, float, str, Tensor, nn.Parameter):
        raise TypeError(f"the training's state holds a {type(value).__name__}, expected tensors, numbers and texts")


def of_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, list]:
    """Its groups' options, and what it remembers of each parameter, in order."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        "groups": [{name: v for name, v in group.items() if name != "params"} for group in optimizer.param_groups],
        "memory": [dict(optimizer.state.get(parameter, {})) for parameter in parameters],
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, list]) -> None:
    """Put back what :func:`of_optimizer` gave, as it was: ``load_state_dict`` would change some dtypes."""
    for group, options in zip(optimizer.param_groups, state["groups"], strict=True):
        group.update(options)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter, memory in zip(parameters, state["memory"], strict=True):
        if memory:
            optimizer.state[parameter] = memory


def of_method(state: Any) -> dict[str, Any]:
    """The state of a weighting or a merging: the name of its kind, and its tensors."""
    return {"kind": type(state).__name__, "tensors": tree_flatten(state)[0]}


def restored_method(method: object, first: Any, saved: Mapping[str, Any]) -> Any:
    """The state that :func:`of_method` took apart.

    Args:
        method: the weighting or merging.
        first: its state before the first step.

    Raises:
        ValueError: a kind of state that is neither that of ``first`` nor a NamedTuple of the method's module.
    """
    if saved["kind"] == type(first).__name__:
        return tree_unflatten(saved["tensors"], tree_flatten(first)[1])
    for kind in type(method).__mro__:
        found = getattr(sys.modules[kind.__module__], saved["kind"], None)
        if isinstance(found, type) and issubclass(found, tuple):
            return found(*saved["tensors"])
    raise ValueError(
        f"{type(method).__name__}: no state called {saved['kind']!r} is known, expected {type(first).__name__}"
    )


def draws(data: Dataset, seed: int, epochs: int) -> list[Dataset | Split]:
    """What tells data apart: the given draw, that of a seed, and the last epoch's training split."""
    last = [] if data.train_at is None else [data.train_at(epochs)]
    return [data, data.resample(seed), *last]


def fingerprint(value: object) -> str:
    """An argument as a text that is the same in every process, and another one for another argument."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return str(int(value) if isinstance(value, numbers.Integral) else float(value))
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(fingerprint, value))}]"
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        content = plain.flatten().view(torch.uint8).numpy().tobytes()
        return hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)} ".encode() + content).hexdigest()[:16]
    if isinstance(value, Split):
        return fingerprint([value.x, value.y, value.rows, value.noisy])
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {fingerprint(inner)}" for name, inner in value.items())
    if isinstance(value, Dataset):
        told = [value.tasks, value.recipe, value.categories, *value.splits.values()]
        return f"{value.name} {_digest(fingerprint(told))}"
    if isinstance(value, nn.Module):
        shapes = {name: tuple(p.shape) for name, p in value.named_parameters()}
        names = getattr(value, "names", ())
        told = [str(value), names, shapes, dict(value.named_buffers())]
        return f"{type(value).__name__} {_digest(fingerprint(told))}"
    try:
        return recipes.of(value)
    except (TypeError, ValueError):
        kind = value if hasattr(value, "__qualname__") else type(value)
        inside = {f.name: getattr(value, f.name) for f in fields(value)} if is_dataclass(value) else {}
        return f"{kind.__module__}.{kind.__qualname__}({fingerprint(inside)})"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def files_of(path: Path, settings: Mapping[str, str], chunks: Sequence[Sequence[int]]) -> list[Checkpoint]:
    """The checkpoint of each chunk; ValueError if a file that is there belongs to another training."""
    paths = [path, *(path.with_name(f"{path.name}.{n}") for n in range(1, len(chunks)))]
    found = [Checkpoint(p, {**settings, "seeds in it": str(part)}) for p, part in zip(paths, chunks, strict=True)]
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    others = [p for p in beside if p.stem == path.name and p.suffix[1:].isdigit() and p not in paths]
    for file in [*found, *(Checkpoint(p, settings) for p in others)]:
        file.load()
    return found
