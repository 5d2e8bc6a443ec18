"""Decide which column is what, refuse what cannot be answered for, warn of what may mislead."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from mtlkit.advice._columns import Reader, alone, cleaned, input_of, moment, target_of
from mtlkit.advice._read import Refused
from mtlkit.advice._splits import FOLDS, Draw, draw_splits, parts_of_all, ratio
from mtlkit.datasets import Dataset
from mtlkit.datasets.tabular import Table, check_columns, group_numbers, main_strata
from mtlkit.tasks import labelled

MIN_ROWS = 50
MIN_CLASS = 5
LEAK = 0.99
RARE = 0.05
COMMON = 0.7
FEW_GROUPS = 10
NAMED = 20


@dataclass(frozen=True)
class Prepared:
    """A table that has passed the checks.

    Attributes:
        table: encoded, main task first.
        strata: (N,) class of the main task, 0 for a regression, -1 without a label.
        draws: rows of train, meta and test, see :func:`mtlkit.advice._splits.draw_splits`.
        inner: draws of a repetition.
        parts: of all rows, for the model that is kept.
        overlap: labelled test rows over the other labelled rows.
        reader: from rows as they come to inputs.
        columns: a row per column: ``role``, ``read as``, ``why``, ``missing`` (share).
        warnings: what the user should know before believing the answers.
    """

    table: Table
    strata: np.ndarray
    draws: list[Draw]
    inner: int
    parts: list[Draw]
    overlap: float
    reader: Reader
    columns: pd.DataFrame
    warnings: list[str]

    @property
    def data(self) -> Dataset:
        """The data set whose draws are those of :attr:`draws`, by seed."""
        return dataset_of(self.table, self.draws)


def dataset_of(table: Table, draws: Sequence[Draw]) -> Dataset:
    """A table with these splits: seed s has those of draw s."""

    def draw(seed: int) -> Dataset:
        found = table.dataset("your data", *(torch.from_numpy(rows) for rows in draws[seed]))
        return replace(found, redraw=draw)

    return draw(0)


@dataclass
class Roles:
    """What the columns are there for, as :func:`mtlkit.advise` is told; names become text, as the columns' do.

    Raises:
        Refused: a text in place of a list, two columns to split by.
    """

    main: str
    auxiliaries: Sequence[str] = ()
    leave_out: Sequence[str] = ()
    dates: Sequence[str] = ()
    kinds: Mapping[str, str] | None = None
    groups: str | None = None
    time: str | None = None
    balanced: bool = False

    def __post_init__(self) -> None:
        for what in ("auxiliaries", "leave_out", "dates"):
            names = getattr(self, what)
            if isinstance(names, str) or not isinstance(names, Sequence):
                raise Refused(f"{what} is {names!r}, expected a list of column names")
            setattr(self, what, [str(name) for name in names])
        self.main, self.kinds = str(self.main), {str(name): kind for name, kind in (self.kinds or {}).items()}
        self.groups, self.time = (None if name is None else str(name) for name in (self.groups, self.time))
        if None not in (self.groups, self.time):
            raise Refused(f"groups is {self.groups!r} and time is {self.time!r}, expected one of them at most")

    @property
    def targets(self) -> list[str]:
        """The main column and the auxiliaries."""
        return [self.main, *self.auxiliaries]

    @property
    def splitting(self) -> list[str]:
        """The column to split by, if there is one."""
        return [column for column in (self.groups, self.time) if column is not None]

    def check(self, frame: pd.DataFrame) -> None:
        """Refuse a column that is not there or has two roles, and a kind of no target."""
        kinds = self.kinds or {}
        for name in [*self.targets, *self.leave_out, *self.dates, *self.splitting, *kinds]:
            if name not in frame:
                close = difflib.get_close_matches(name, frame.columns, n=3)
                like = f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
                rest = ", ..." if len(frame.columns) > NAMED else ""
                raise Refused(f"no column {name!r}{like}, expected one of {', '.join(frame.columns[:NAMED])}{rest}")
        if unmeant := [name for name in kinds if name not in self.targets]:
            raise Refused(f"kinds names {unmeant[0]!r}, expected one of the targets {', '.join(self.targets)}")
        try:
            check_columns(frame, self.targets, [*self.leave_out, *self.splitting], self.dates)
        except ValueError as error:
            raise Refused(str(error)) from None


def prepare(frame: pd.DataFrame, roles: Roles, *, repeats: int | None = None, inner: int | None = None) -> Prepared:
    """Check a table, infer what its columns are, and draw the splits.

    Args:
        repeats, inner: of :func:`mtlkit.advice._splits.draw_splits`; what fits the number of rows when None.

    Raises:
        Refused: with what was found and what was expected.
    """
    if not isinstance(frame, pd.DataFrame):
        raise Refused(f"frame is a {type(frame).__name__}, expected a pandas.DataFrame")
    if frame.columns.nlevels > 1:
        raise Refused(f"the columns have {frame.columns.nlevels} levels, expected one: frame.columns.to_flat_index()")
    frame = frame.rename(columns=str).reset_index(drop=True)
    roles.check(frame)
    main, targets, groups, time, balanced = roles.main, roles.targets, roles.groups, roles.time, roles.balanced
    kinds = dict(roles.kinds or {})
    missing = frame.isna().mean()
    used = frame.drop(columns=roles.leave_out).apply(cleaned)
    found: dict[str, tuple[str, str, str]] = {}
    told: list[str] = []
    labels: dict[str, pd.Series] = {}
    for target in targets:
        labels[target], kinds[target], why = target_of(used[target], kinds.get(target))
        found[target] = ("main" if target == main else "auxiliary", kinds[target], why)
    known = labels[main].dropna()
    if len(known) < MIN_ROWS:
        raise Refused(f"{len(known)} rows have a label for {main!r}, expected at least {MIN_ROWS}")
    for target in targets:
        if kinds[target] != "regression":
            told += _about_classes(labels[target], kinds[target], target == main, balanced)
    if balanced and kinds[main] == "regression":
        raise Refused(f"balanced is True, but {main!r} is a regression: expected classes to weigh")
    reading = []
    for column in used.columns.drop([*targets, *roles.splitting]):
        how, read_as, why, to_be_told = input_of(used[column], column in roles.dates)
        found[column] = ("input" if how else "left out", read_as, why)
        told += [f"column {column!r}: {why}"] if to_be_told else []
        reading += [(column, how)] if how else []
    found |= {column: ("left out", "", "as you asked") for column in roles.leave_out}
    found |= {column: ("splits rows", "", "") for column in roles.splitting}
    if not reading:
        raise Refused(f"no usable input is left among {', '.join(frame.columns[:NAMED])}, expected at least one")
    reader = Reader(tuple(reading))
    inputs = reader(frame)
    told += _about_leaks(inputs, {name: labels[name] for name in roles.auxiliaries}, known, kinds[main])
    table = Table.of(inputs, labels, kinds)
    strata = main_strata(table).numpy()
    by_group = None if groups is None else _groups(used[groups])
    by_time = None if time is None else moment(used[time]).to_numpy()
    fitting = _repetitions(len(known), inputs.size)
    repeats, inner = fitting[0] if repeats is None else repeats, fitting[1] if inner is None else inner
    if time is not None:
        inner = 1
    divided: dict[str, Any] = {"inner": inner, "groups": by_group, "time": by_time, "balanced": balanced}
    draws = draw_splits(strata, repeats=repeats, **divided)
    told += _about_splits(draws, len(frame), groups, by_group, balanced or time is not None)
    told += _check_draws(strata, draws, table, main, kinds[main])
    columns = pd.DataFrame.from_dict(found, orient="index", columns=["role", "read as", "why"])
    columns = columns.assign(missing=missing.reindex(columns.index)).rename_axis("column")
    every = parts_of_all(strata, **divided)
    return Prepared(table, strata, draws, inner, every, ratio(draws, strata), reader, columns, told)


def _repetitions(rows: int, entries: int) -> tuple[int, int]:
    """Repetitions of the five folds, and parts of each: more where rows are few and memory allows."""
    if rows > 10_000 or entries > 1_000_000:
        return 1, 1
    return 2, 1 if rows > 2000 else 2


def _groups(column: pd.Series) -> np.ndarray:
    try:
        found = group_numbers(column).numpy()
    except ValueError as error:
        raise Refused(str(error)) from None
    if found.max() < FOLDS - 1:
        raise Refused(
            f"group column {column.name!r} has {found.max() + 1} groups, expected at least {FOLDS}, one for each fold: "
            "split by another column, or at random"
        )
    return found


def _about_classes(column: pd.Series, kind: str, main: bool, balanced: bool) -> list[str]:
    """Warnings about rare classes and classes that may be one; a main class too rare to be split is refused."""
    name, counts = column.name, column.value_counts()
    classes, shares = counts.index.tolist(), counts / counts.sum()
    rarest, count, share = classes[-1], counts.iloc[-1], shares.iloc[-1]
    rows = f"{count} {'row' if count == 1 else 'rows'}"
    found = []
    if len({str(value).casefold() for value in classes}) < len(classes):
        found.append(f"target {name!r} has classes that differ only in upper and lower case")
    if not main:
        return [*found, f"class {rarest!r} of auxiliary {name!r} has {rows} only"] if count < MIN_CLASS else found
    if count < MIN_CLASS:
        advice = "leave these rows out or merge the class with another"
        if kind == "multiclass" and pd.api.types.is_numeric_dtype(column):
            advice += ", or set kinds to 'regression' if these are amounts"
        raise Refused(f"class {rarest!r} of {name!r} has {rows}, expected at least {MIN_CLASS} of each class: {advice}")
    if share < min(RARE, 0.5 / len(counts)) or count < MIN_CLASS * FOLDS:
        found.append(
            f"class {rarest!r} of {name!r} is rare ({rows}, {share:.1%}): a fold has about "
            f"{max(round(count / FOLDS), 1)} of it, so that differences are uncertain"
        )
    if kind == "multiclass" and shares.iloc[0] > COMMON and not balanced:
        found.append(
            f"always answering {classes[0]!r} is right in {shares.iloc[0]:.1%} of the rows, so the accuracy, which "
            "decides here, says little about the other classes: set balanced to give each class the same weight"
        )
    return found


def _about_leaks(inputs: pd.DataFrame, auxiliaries: Mapping[str, pd.Series], labels: pd.Series, kind: str) -> list[str]:
    asked = (
        ("column", inputs, "does it leak the answer? If it will not be known when you predict, leave it out"),
        ("auxiliary", auxiliaries, "is it the same thing under another name?"),
    )
    return [
        f"{role} {column!r} alone predicts {labels.name!r} almost perfectly ({score:.3f} of 1): {question}"
        for role, columns, question in asked
        for column, values in columns.items()
        if (score := alone(values, labels, kind)) > LEAK
    ]


def _about_splits(
    draws: Sequence[Draw], rows: int, groups: str | None, by_group: np.ndarray | None, some_unused: bool
) -> list[str]:
    found = []
    used = sum(map(len, draws[0]))
    if used < 0.9 * rows and not some_unused:
        found.append(
            f"splitting by {groups!r} uses {used:,} of {rows:,} rows, as its groups differ much in size: a finer "
            "column, or a split at random if rows are independent, would use them all"
        )
    if by_group is not None:
        sizes = np.bincount(by_group)
        if sizes.max() > rows / FOLDS:
            found.append(
                f"the largest group of {groups!r} has {sizes.max():,} of {rows:,} rows and is always trained on: what "
                "is said holds for the smaller groups; split by a finer column, or by time, to test on its rows too"
            )
        if len(sizes) < FEW_GROUPS:
            found.append(f"{groups!r} has {len(sizes)} groups only: the answers hold for these, hardly for others")
    return found


def _check_draws(strata: np.ndarray, draws: Sequence[Draw], table: Table, main: str, kind: str) -> list[str]:
    """Refuse draws on which a task cannot be trained or scored; warn of classes that training does not show."""
    unseen = 0.0
    for draw in draws:
        known = {where: strata[rows][strata[rows] >= 0] for where, rows in zip(SPLITS, draw, strict=True)}
        for where, labels in known.items():
            needs_two = kind == "binary" or (kind == "multiclass" and where == "train")
            if len(labels) < 2 or (needs_two and len(np.unique(labels)) < 2):
                raise Refused(
                    f"a {where} split has {len(labels)} labels of {len(np.unique(labels))} different values for "
                    f"{main!r}, expected at least two: there are too few groups or rows to split this way"
                )
        unseen = max(unseen, float((~np.isin(known["test"], known["train"])).mean()))
        for task in table.tasks[1:]:
            if not labelled(table.targets[task.name][torch.from_numpy(draw[0])]).any():
                raise Refused(f"auxiliary {task.name!r} has no label in a training split, expected some in each")
    if unseen == 1:
        raise Refused(f"no test row has a class of {main!r} that a training row has, expected the same classes")
    if unseen:
        return [f"up to {unseen:.1%} of the test rows are of a class of {main!r} that is in no training row"]
    return []


SPLITS = ("train", "meta", "test")
