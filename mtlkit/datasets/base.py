"""Splits, label noise, and the three ways in which clean meta rows can be trained on."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pandas as pd
import torch
from torch import Tensor
from torch.utils._pytree import register_dataclass

from mtlkit import recipes
from mtlkit.datasets.card import Card
from mtlkit.datasets.text import Text
from mtlkit.tasks import Task, check_tasks


@dataclass(frozen=True)
class Split:
    """Rows of one split; a pytree of torch's, its tensors the leaves.

    Attributes:
        x: (N, ...) inputs.
        y: task name to (N, ...) targets; in training, packed (:func:`mtlkit.tasks.pack`).
        rows: (N,) number of each row in the source, the same in every split and draw.
        noisy: (N, T) bool, where a training label was replaced by label noise.
    """

    x: Tensor
    y: Mapping[Any, Tensor]
    rows: Tensor
    noisy: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Tensor) -> Split:
        """The rows at these positions, in this order."""
        return Split(self.x[index], {k: v[index] for k, v in self.y.items()}, self.rows[index], self.noisy[index])


register_dataclass(Split)


@dataclass(frozen=True)
class Dataset:
    """A multi-task data set with its three splits; the first task is the main one.

    ``train`` is trained on, ``meta`` (held out of the training data, always clean) gives the meta
    gradient and selects hyper-parameters, ``test`` is only ever reported.

    Attributes:
        source: where the rows come from.
        licence: of the source.
        categories: column of ``x`` to its number of categories, for the columns that hold category
            codes (0 to categories - 1, as floating-point numbers) rather than quantities.
        classes: task name to the names of its classes, where they have any.
        scale: task name to (mean, standard deviation) that were taken out of a regression target.
        text: what the ids mean, where ``x`` holds token ids; None where it does not.
        train_at: epoch (from 1) to the training split of that epoch, for training targets that
            change in the course of training; same rows, same shapes. None when they do not.
        redraw: seed to the same data set with another split, other label noise and, for
            synthetic data, other data. None when there is just this one draw.
        encoder: from new rows of the table that the data set was made from to inputs ``x``, encoded as this
            draw's own rows are (:class:`mtlkit.datasets.tabular.Encoder`); None where there was no table.
        recipe: the line that makes this data set again, whatever the seed (:mod:`mtlkit.recipes`); empty where
            there is none, as for a table of the user's own.

    Raises:
        ValueError: an empty split, non-finite inputs, a target that does not fit its task.
    """

    name: str
    tasks: tuple[Task, ...]
    train: Split
    meta: Split
    test: Split
    source: str = ""
    licence: str = ""
    categories: Mapping[int, int] = field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    scale: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    text: Text | None = None
    train_at: Callable[[int], Split] | None = field(default=None, repr=False)
    redraw: Callable[[int], Dataset] | None = field(default=None, repr=False)
    recipe: str = ""
    encoder: Callable[[pd.DataFrame], Tensor] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_tasks(self.tasks)
        for where, split in self.splits.items():
            if len(split) == 0:
                raise ValueError(f"{self.name}: the {where} split is empty, expected at least one row")
            if not torch.isfinite(split.x).all():
                raise ValueError(f"{self.name}: the {where} inputs hold NaN or infinite values, expected finite ones")
            for task in self.tasks:
                if task.name not in split.y:
                    raise ValueError(
                        f"{self.name}: the {where} split has no target {task.name!r}, found {list(split.y)}"
                    )
                try:
                    task.check(split.y[task.name], len(split))
                except (TypeError, ValueError) as error:
                    raise type(error)(f"{self.name}, {where} split: {error}") from None

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name."""
        return {"train": self.train, "meta": self.meta, "test": self.test}

    @property
    def main(self) -> Task:
        """The task that matters."""
        return self.tasks[0]

    @property
    def card(self) -> Card:
        """What is in the data: rows, tasks, class balance, missing and noisy labels, source, licence."""
        return Card.of(self)

    def resample(self, seed: int) -> Dataset:
        """The draw that belongs to ``seed``, with the same options; itself where there is one draw only."""
        return self if self.redraw is None else self.redraw(seed)

    def outline(self) -> Dataset:
        """All that describes this draw, with one blank row in each split and no further draws."""
        row = blank(self.tasks, self.train.x.shape[1:], {name: y.shape[1:] for name, y in self.train.y.items()})
        return replace(self, train=row, meta=row, test=row, train_at=None, redraw=None)

    def variant(self, change: Callable[[Dataset], Dataset], recipe: Callable[[str], str]) -> Dataset:
        """This data set changed, at every seed.

        Args:
            change: from a draw to the changed draw.
            recipe: from this data set's recipe to that of the changed one.
        """
        line = recipe(self.recipe) if self.recipe else ""

        def changed(draw: Dataset) -> Dataset:
            redraw = draw.redraw
            again = None if redraw is None else lambda seed: changed(redraw(seed))
            return replace(change(draw), recipe=line, redraw=again)

        return changed(self)

    def only(self, names: Sequence[str]) -> Dataset:
        """The same rows with these tasks only, in this order (the first becomes the main task).

        ``data.only([data.main.name])`` is the single-task problem.

        Raises:
            ValueError: an unknown task, none, or one twice.
            TypeError: a text in place of a list.
        """
        check_listed("names", names)
        position = {task.name: i for i, task in enumerate(self.tasks)}
        for name in names:
            if name not in position:
                raise ValueError(f"{self.name}: no task {name!r}, expected one of {', '.join(position)}")
        keep = [position[name] for name in names]

        def cut(split: Split) -> Split:
            return replace(split, y={name: split.y[name] for name in names}, noisy=split.noisy[:, keep])

        def narrow(data: Dataset) -> Dataset:
            tasks = tuple(data.tasks[i] for i in keep)
            train, meta, test = map(cut, data.splits.values())
            return replace(data, tasks=tasks, train=train, meta=meta, test=test, train_at=_then(data.train_at, cut))

        return self.variant(narrow, lambda line: f"{line}.only({recipes.of(list(names))})")

    def forward_corrected(self, flip: float) -> Dataset:
        """The same rows, where training knows that this share of the main task's labels is flipped.

        Args:
            flip: see :class:`mtlkit.Task`; 0 to 1.

        Raises:
            ValueError: a share outside [0, 1], a main task that is not binary.
        """

        def correct(data: Dataset) -> Dataset:
            return replace(data, tasks=(replace(data.main, flip=flip), *data.tasks[1:]))

        return self.variant(correct, lambda line: f"{line}.forward_corrected({flip})")

    def without_main_labels(self) -> Dataset:
        """The same rows, whose main labels training does not see; those of the auxiliaries stay.

        With :meth:`train_on_meta` on top, the main task learns from clean labels alone, and the auxiliaries from all.
        """

        def leave_out(split: Split) -> Split:
            target = split.y[self.main.name]
            missing = torch.full_like(target, torch.nan if target.is_floating_point() else -1)
            noisy = split.noisy.clone()
            noisy[:, 0] = False
            return replace(split, y={**split.y, self.main.name: missing}, noisy=noisy)

        def change(data: Dataset) -> Dataset:
            return replace(data, train=leave_out(data.train), train_at=_then(data.train_at, leave_out))

        return self.variant(change, lambda line: f"{line}.without_main_labels()")

    def train_on_meta(self, share: float | None, hold_out: float = 0.0) -> Dataset:
        """Let training use the clean meta rows directly, as any method could.

        Args:
            share: None pools train and meta as they are; a number in (0, 1) repeats the meta rows until they are that
                share of the training rows (0.5: half of each batch on average); 1 trains on the meta rows alone.
            hold_out: share of the meta rows that are not trained on and become the meta split, which
                chooses epoch and learning rate: the last ``round(hold_out * n_meta)``. With 0 the meta split
                stays whole, so that the choice is made on rows that are trained on.

        Raises:
            ValueError: a share outside (0, 1], a ``hold_out`` that leaves no row on either side.
        """
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"share is {share}, expected None or a number above 0 and at most 1")

        held = round(hold_out * len(self.meta))
        if not 0 <= hold_out < 1 or (hold_out and not 0 < held < len(self.meta)):
            raise ValueError(
                f"hold_out is {hold_out}, expected 0, or a share of the {len(self.meta)} meta rows that leaves "
                "at least one on either side"
            )

        def mix(data: Dataset) -> Dataset:
            train, meta = data.train, data.meta
            if held:
                meta, kept = (meta.take(rows) for rows in torch.arange(len(meta)).split([len(meta) - held, held]))
                data = replace(data, meta=kept)
            if share == 1:
                return replace(data, train=meta, train_at=None)
            repeats = len(meta) if share is None else max(1, round(len(train) * share / (1 - share)))
            extra = meta.take(torch.arange(repeats) % len(meta))
            return replace(
                data, train=join_splits(train, extra), train_at=_then(data.train_at, lambda s: join_splits(s, extra))
            )

        options = recipes.call(Dataset.train_on_meta, share, name="train_on_meta", hold_out=hold_out)
        return self.variant(mix, lambda line: f"{line}.{options}")


def _then(train_at: Callable[[int], Split] | None, change: Callable[[Split], Split]) -> Callable[[int], Split] | None:
    return None if train_at is None else lambda epoch: change(train_at(epoch))


def blank(tasks: Sequence[Task], shape: Sequence[int], targets: Mapping[str, Sequence[int]]) -> Split:
    """One row of zeros of this shape, without labels; ``targets`` has the shape of each task's."""
    missing = {True: -1, False: torch.nan}
    y = {task.name: torch.full((1, *targets.get(task.name, ())), missing[task.kind == "multiclass"]) for task in tasks}
    return Split(torch.zeros(1, *shape), y, torch.zeros(1, dtype=torch.long), torch.zeros(1, len(tasks)).bool())


def of_one_task(name: str, tasks: Sequence[Task], x: Tensor, labels: Tensor, rows: Tensor) -> Split:
    """Rows with a label, (N,) classes, for one of these classification tasks and none for the others."""
    y = {}
    for task in tasks:
        own = labels if task.kind == "multiclass" else labels.float()
        y[task.name] = own if task.name == name else torch.full_like(own, -1 if own is labels else torch.nan)
    return Split(x, y, rows, torch.zeros(len(x), len(tasks), dtype=torch.bool))


def join_splits(*parts: Split) -> Split:
    """Rows of several splits one after the other."""
    return Split(
        torch.cat([p.x for p in parts]),
        {name: torch.cat([p.y[name] for p in parts]) for name in parts[0].y},
        torch.cat([p.rows for p in parts]),
        torch.cat([p.noisy for p in parts]),
    )


def check_share(what: str, value: float) -> None:
    """Raise ValueError unless ``value`` lies in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{what} is {value}, expected a number from 0 to 1")


def check_listed(what: str, names: Sequence[str]) -> None:
    """Raise TypeError if ``names`` is one text, whose letters would be taken for names."""
    if isinstance(names, str):
        raise TypeError(f"{what} is {names!r}, expected a list of names such as [{names!r}]")


def check_seed(seed: int) -> None:
    """Raise TypeError unless ``seed`` is an integer, ValueError if it has more than 63 bits."""
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool):
        raise TypeError(f"seed is {seed!r}, expected an integer")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed is {seed}, expected one of at most 63 bits")


def check_sizes(available: int, **sizes: int) -> None:
    """Raise ValueError unless every size is at least 1 and all of them together are at most ``available``."""
    given = " and ".join(f"{name} is {size}" for name, size in sizes.items())
    if min(sizes.values()) < 1 or sum(sizes.values()) > available:
        raise ValueError(f"{given}, expected at least 1 each and at most {available} together")


Name = TypeVar("Name")


def main_first(names: Sequence[Name], main: Name) -> list[Name]:
    """``names`` with ``main`` moved to the front.

    Raises:
        ValueError: ``main`` is not among them.
    """
    if main not in names:
        raise ValueError(f"main is {main!r}, expected one of {', '.join(map(str, names))}")
    return [main, *(name for name in names if name != main)]


def some_of(known: Collection[str], names: Sequence[str], main: str, what: str) -> list[str]:
    """``names``, some of those that are ``known``, with ``main`` moved to the front; ``what`` is for the message.

    Raises:
        ValueError: an unknown name, one twice, or ``main`` is not among them.
    """
    for name in names:
        if name not in known:
            raise ValueError(f"no {what} {name!r}, expected some of {', '.join(known)}")
    if len(set(names)) < len(names):
        raise ValueError(f"tasks are {', '.join(names)}, expected each once")
    return main_first(names, main)


def choose(n: int, share: float, generator: torch.Generator) -> Tensor:
    """(n,) bool with exactly ``round(share * n)`` True, drawn without replacement."""
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[torch.randperm(n, generator=generator)[: round(share * n)]] = True
    return chosen
