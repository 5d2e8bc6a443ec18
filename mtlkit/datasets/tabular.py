"""Tables: any pandas frame as a data set, fitted to its training split."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mtlkit.datasets.base import Dataset, Split, check_listed, check_seed, check_share, check_sizes
from mtlkit.tasks import KINDS, Task, labelled, taken_for


def from_frame(
    frame: pd.DataFrame,
    main: str,
    auxiliaries: Sequence[str] = (),
    *,
    kinds: Mapping[str, str] | None = None,
    categorical: Sequence[str] = (),
    drop: Sequence[str] = (),
    groups: str | None = None,
    time: str | None = None,
    stratify: bool = False,
    meta: float = 0.2,
    test: float = 0.2,
    name: str = "frame",
    source: str = "",
    licence: str = "",
    seed: int = 0,
) -> Dataset:
    """A data set from your own table: some columns are targets, the others inputs.

    Targets: a column is of the kind that :func:`mtlkit.tasks.taken_for` says; ``kinds`` overrules. Classes are
    numbered in their order (that of the categories, else sorted). A regression target is standardised by its mean and
    standard deviation in the training split, which ``Dataset.scale`` keeps. A missing value is a missing label.

    Inputs: numbers and booleans are standardised by the training split; a missing one becomes the training mean, and
    every column with missing values anywhere gets a further column that is 1 where it is missing. Text, categories and
    the columns named in ``categorical`` become codes in the last columns of ``x`` (``Dataset.categories``); code 0
    stands for a missing value and for a category that the training split does not show. ``Dataset.encoder`` does the
    same to new rows; to call ``from_frame`` on them would number their categories and standardise their numbers anew.

    Rows are split at random, anew for each seed. With ``groups``, all rows of a group go to the same split, and
    ``meta`` and ``test`` are shares of the groups. Because every seed must have splits of the same size, a split of k
    groups then has as many rows as the k smallest groups together; the surplus of a draw is left out, at random. With
    ``stratify``, every split has the same share of each class of the main task, and the rows without a main label are
    all trained on. With ``time``, the latest rows are the test split and the latest of the others the meta split: one
    split for all seeds.

    Args:
        frame: the table; ``rows`` of the data set are positions in it.
        main: column of the main task.
        auxiliaries: columns of the auxiliary tasks.
        kinds: target column to its kind of task, where the inferred one is not meant.
        categorical: numeric input columns that hold codes.
        drop: columns that are neither input nor target.
        groups: column that says which rows belong together; not an input.
        time: column of numbers or dates to split by; not an input. Rows of the same time keep their order.
        stratify: see above; shares are of the rows of each class, rounded.
        meta: share of the rows (or groups) in the meta split.
        test: share of the rows (or groups) in the test split.

    Raises:
        ValueError: an unknown column or kind, a column with two roles, a target that does not fit
            its kind or has no label in training, an infinite value, a missing group or time, an empty
            split, more than one of ``groups``, ``time`` and ``stratify``.
        TypeError: not a frame, a text in place of a list, or a column that is neither number, text nor category.
    """
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"frame is a {type(frame).__name__}, expected a pandas.DataFrame")
    for what, names in {"auxiliaries": auxiliaries, "categorical": categorical, "drop": drop}.items():
        check_listed(what, names)
    targets = [main, *auxiliaries]
    splitting = [column for column in (groups, time) if column is not None]
    if len(splitting) + stratify > 1:
        raise ValueError(f"groups={groups!r}, time={time!r}, stratify={stratify}, expected one of them at most")
    check_columns(frame, targets, [*drop, *splitting], categorical)
    check_share("meta", meta)
    check_share("test", test)
    check_seed(seed)
    if frame.empty:
        raise ValueError("the frame has no rows, expected some for each split")
    inputs = frame.drop(columns=[*targets, *drop, *splitting])
    table = Table.of(inputs, {t: frame[t] for t in targets}, kinds or {}, categorical)
    numbers = None if groups is None else group_numbers(frame[groups])
    available = len(frame) if numbers is None else int(numbers.max()) + 1
    n_meta, n_test = round(meta * available), round(test * available)
    check_sizes(available - 1, meta=n_meta, test=n_test)
    sizes = [available - n_meta - n_test, n_meta, n_test]
    if time is not None:
        rows = time_order(frame[time]).split(sizes)
        return replace(table.dataset(name, *rows), source=source, licence=licence)

    def draw(seed: int) -> Dataset:
        generator = torch.Generator().manual_seed(seed)
        if numbers is not None:
            rows = grouped_rows(numbers, n_meta, n_test, generator)
        elif stratify:
            rows = stratified_rows(main_strata(table), meta, test, generator)
        else:
            rows = torch.randperm(available, generator=generator).split(sizes)
        return replace(table.dataset(name, *rows), source=source, licence=licence, redraw=draw)

    return draw(seed)


def stratified_rows(
    strata: Tensor, meta: float, test: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of train, meta and test with the same share of each stratum.

    Args:
        strata: (N,) stratum of each row, 0 to S - 1, or -1 for a row that is to be trained on.
        meta: share of each stratum in the meta split; a stratum of n rows has ``round(meta * n)`` there.
        test: the same for the test split.

    Returns:
        shuffled rows, as many for every generator.
    """
    parts = [[(strata < 0).nonzero()[:, 0]], [], []]
    for stratum in range(int(strata.max()) + 1):
        rows = (strata == stratum).nonzero()[:, 0]
        n_meta, n_test = round(meta * len(rows)), round(test * len(rows))
        shuffled = rows[torch.randperm(len(rows), generator=generator)]
        for part, chosen in zip(parts, shuffled.split([len(rows) - n_meta - n_test, n_meta, n_test]), strict=True):
            part.append(chosen)

    def mixed(part: list[Tensor]) -> Tensor:
        rows = torch.cat(part)
        return rows[torch.randperm(len(rows), generator=generator)]

    return mixed(parts[0]), mixed(parts[1]), mixed(parts[2])


def main_strata(table: Table) -> Tensor:
    """The main task's class of each row (0 for a regression), -1 where it has no label."""
    main = table.tasks[0]
    target = table.targets[main.name]
    known = torch.zeros_like(target) if main.kind == "regression" else target
    return torch.where(labelled(target), known, -1).long()


def time_order(column: pd.Series) -> Tensor:
    """Positions of the rows from the earliest to the latest, (N,); rows of the same time keep their order.

    Raises:
        ValueError: a missing time, or text that is no date.
    """
    if column.isna().any():
        raise ValueError(f"time column {column.name!r} has missing values, expected a time for every row")
    if not (_is_number(column) or pd.api.types.is_datetime64_any_dtype(column)):
        try:
            column = pd.to_datetime(column, format="ISO8601")
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"time column {column.name!r} is {column.dtype}, expected numbers or dates such as 2024-03-31 ({error})"
            ) from None
    return torch.from_numpy(np.argsort(column.to_numpy(), kind="stable").astype(np.int64))


def grouped_rows(groups: Tensor, n_meta: int, n_test: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of train, meta and test such that no group is in two of them.

    Args:
        groups: (N,) group of each row, 0 to G - 1.
        n_meta: number of groups in the meta split.
        n_test: number of groups in the test split.

    Returns:
        shuffled rows; a split of k groups has as many as the k smallest groups together.
    """
    counts = torch.bincount(groups)
    n_groups = len(counts)
    smallest = counts.sort().values.cumsum(0)
    found = []
    for members in torch.randperm(n_groups, generator=generator).split([n_groups - n_meta - n_test, n_meta, n_test]):
        rows = torch.isin(groups, members).nonzero()[:, 0]
        shuffled = rows[torch.randperm(len(rows), generator=generator)]
        found.append(shuffled[: smallest[len(members) - 1]])
    train, meta, test = found
    return train, meta, test


class Column(NamedTuple):
    """An input column.

    Attributes:
        name: in the frame.
        kind: what it holds, see :func:`_kind`.
        values: the categories of codes 1, 2, ...; None for a column of quantities.
    """

    name: str
    kind: str
    values: tuple | None


@dataclass(frozen=True)
class Table:
    """A frame as tensors, before anything is fitted to a training split.

    Attributes:
        columns: the input columns.
        numbers: (N, F) numeric inputs, NaN where missing.
        codes: (N, C) categorical inputs, 0 where missing.
        tasks: the tasks, main one first.
        targets: task name to (N,) labels, not standardised.
        classes: task name to the names of its classes, where it has any.
    """

    columns: tuple[Column, ...]
    numbers: Tensor
    codes: Tensor
    tasks: tuple[Task, ...]
    targets: Mapping[str, Tensor]
    classes: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(
        cls,
        inputs: pd.DataFrame,
        targets: Mapping[str, pd.Series],
        kinds: Mapping[str, str],
        categorical: Sequence[str] = (),
    ) -> Table:
        """Encode input and target columns; see :func:`from_frame`."""
        for column in kinds:
            if column not in targets:
                raise ValueError(f"kinds names {column!r}, expected one of the targets {', '.join(targets)}")
        encoded = {name: _target(name, column, kinds.get(name)) for name, column in targets.items()}
        columns = []
        for name, column in inputs.items():
            quantity = name not in categorical and _is_number(column)
            values = None if quantity else tuple(_categories(name, column))
            columns.append(Column(name, _kind(column), values))
        return cls(
            tuple(columns),
            *_tensors(inputs, columns),
            tuple(task for task, _, _ in encoded.values()),
            {name: target for name, (_, target, _) in encoded.items()},
            {name: classes for name, (_, _, classes) in encoded.items() if classes},
        )

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.numbers)

    def dataset(self, name: str, train: Tensor, meta: Tensor, test: Tensor) -> Dataset:
        """The data set with these rows in its splits, everything fitted to the training rows."""
        encoder = Encoder.fit(self, train)
        x = encoder.inputs(self.numbers, self.codes)
        first = x.shape[1] - len(encoder.shown)
        targets, scale = dict(self.targets), {}
        for task in self.tasks:
            target = targets[task.name]
            if not labelled(target[train]).any():
                raise ValueError(f"{name}: target {task.name!r} has no label in the training split")
            if task.kind == "regression":
                mean, sd = _mean_and_sd(target[train, None])
                targets[task.name] = (target - mean) / sd
                scale[task.name] = (mean.item(), sd.item())
        whole = Split(x, targets, torch.arange(len(x)), torch.zeros(len(x), len(self.tasks), dtype=torch.bool))
        return Dataset(
            name,
            self.tasks,
            whole.take(train),
            whole.take(meta),
            whole.take(test),
            categories={first + c: len(shown) for c, shown in enumerate(encoder.shown)},
            classes=self.classes,
            scale=scale,
            encoder=encoder,
        )


@dataclass(frozen=True)
class Encoder:
    """Rows of a frame as inputs of a data set, encoded as its training rows were; see :func:`from_frame`.

    Attributes:
        columns: the input columns that a frame must have; others do not matter.
        mean: (F,) of the quantities, in training.
        sd: (F,) of the quantities, in training.
        flagged: (F,) bool, the quantities with a further column for where they are missing. In the others a missing
            value is read as the training mean.
        shown: for each column of categories, which of its codes training shows, (categories + 1,) bool.
    """

    columns: tuple[Column, ...]
    mean: Tensor
    sd: Tensor
    flagged: Tensor
    shown: tuple[Tensor, ...]

    @classmethod
    def fit(cls, table: Table, train: Tensor) -> Encoder:
        """The encoder of a table whose training rows these are."""
        mean, sd = _mean_and_sd(table.numbers[train])
        values = [column.values for column in table.columns if column.values is not None]
        shown = [torch.zeros(len(v) + 1, dtype=torch.bool) for v in values]
        for mask, codes in zip(shown, table.codes[train].unbind(1), strict=True):
            mask[codes] = True
        return cls(table.columns, mean, sd, torch.isnan(table.numbers).any(0), tuple(shown))

    def inputs(self, numbers: Tensor, codes: Tensor) -> Tensor:
        """(N, F) numbers, NaN where missing, and (N, C) codes of all categories to (N, inputs)."""
        missing = torch.isnan(numbers[:, self.flagged])
        scaled = torch.nan_to_num((numbers - self.mean) / self.sd)
        return torch.cat([scaled, missing.to(scaled.dtype), self._known(codes).to(scaled.dtype)], 1)

    def _known(self, codes: Tensor) -> Tensor:
        """The codes, 0 for those that training does not show."""
        columns = [torch.where(mask[c], c, 0) for mask, c in zip(self.shown, codes.unbind(1), strict=True)]
        return torch.stack(columns, 1) if columns else codes

    def __call__(self, frame: pd.DataFrame) -> Tensor:
        """The inputs (N, ...) of these rows, float64.

        A category that the training rows do not show is read as missing, with a warning.

        Raises:
            TypeError: not a frame.
            ValueError: a column that is not there, is there twice or holds something else; an infinite value.
        """
        if not isinstance(frame, pd.DataFrame):
            raise TypeError(f"frame is a {type(frame).__name__}, expected a pandas.DataFrame")
        names = list(frame.columns)
        for name, kind, _ in self.columns:
            if names.count(name) != 1:
                expected = ", ".join(str(column.name) for column in self.columns)
                raise ValueError(
                    f"column {name!r} is there {names.count(name)} times in {', '.join(map(str, names))}, "
                    f"expected each of {expected} once"
                )
            found = _kind(frame[name])
            if found not in (kind, NOTHING):
                raise ValueError(f"column {name!r} holds {found}, expected {kind} as in training")
        numbers, codes = _tensors(frame, self.columns)
        categorical = [column.name for column in self.columns if column.values is not None]
        for name, known in zip(categorical, self._known(codes).unbind(1), strict=True):
            new = frame[name][(known == 0).numpy() & frame[name].notna().to_numpy()].unique().tolist()
            if new:
                more = f" and {len(new) - LISTED} more" if len(new) > LISTED else ""
                warnings.warn(
                    f"column {name!r} holds {', '.join(map(repr, new[:LISTED]))}{more}, expected categories of the "
                    "training rows: read as missing",
                    stacklevel=2,
                )
        return self.inputs(numbers, codes)


NOTHING = "nothing but missing values"
LISTED = 5


def _kind(column: pd.Series) -> str:
    """What the known values of a column are: numbers, text (or other objects), or the name of another type."""
    known = column.dropna()
    if not _is_number(known):
        known = known.astype(object).infer_objects()
    if known.empty:
        return NOTHING
    if _is_number(known):
        return "numbers"
    return "text" if pd.api.types.is_string_dtype(known) or known.dtype == object else str(known.dtype)


def _tensors(frame: pd.DataFrame, columns: Sequence[Column]) -> tuple[Tensor, Tensor]:
    """The quantities (N, F), NaN where missing, and the codes (N, C), 0 where missing or not among the values."""
    numbers = [_numbers(name, frame[name]) for name, _, values in columns if values is None]
    codes = [_codes(frame[name], values) + 1 for name, _, values in columns if values is not None]
    empty = torch.empty(len(frame), 0, dtype=torch.float64)
    return torch.stack(numbers, 1) if numbers else empty, torch.stack(codes, 1) if codes else empty.long()


def _mean_and_sd(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the known values in each column; 0 and 1 where nothing is known or varies."""
    known = ~torch.isnan(values)
    count = known.sum(0).clamp(min=1)
    mean = torch.where(known, values, 0).sum(0) / count
    sd = (torch.where(known, values - mean, 0).square().sum(0) / count).sqrt()
    constant = sd <= 1e-12 * mean.abs()
    return mean, torch.where(constant, 1, sd)


def check_columns(
    frame: pd.DataFrame, targets: Sequence[str], unused: Sequence[str], categorical: Sequence[str]
) -> None:
    """Raise ValueError unless each column is there once, has one role at most, and some are left as inputs."""
    columns = list(frame.columns)
    if len(set(columns)) != len(columns):
        raise ValueError(f"the frame's columns are {columns}, expected each name once")
    roles = [*targets, *unused, *categorical]
    for column in roles:
        if column not in columns:
            raise ValueError(f"no column {column!r}, expected one of {', '.join(map(str, columns))}")
        if roles.count(column) > 1:
            raise ValueError(f"column {column!r} is given {roles.count(column)} roles, expected one")
    if len(targets) + len(unused) >= len(columns):
        raise ValueError(f"no column of {', '.join(map(str, columns))} is left as an input, expected at least one")


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column)


def _numbers(name: str, column: pd.Series) -> Tensor:
    values = torch.from_numpy(column.to_numpy(np.float64, na_value=np.nan, copy=True))
    if torch.isinf(values).any():
        raise ValueError(f"column {name!r} holds an infinite value, expected finite ones (missing: NaN)")
    return values


def _categories(name: str, column: pd.Series) -> list:
    """The distinct known values in their order."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.remove_unused_categories().cat.categories.tolist()
    if not (_is_number(column) or pd.api.types.is_string_dtype(column) or column.dtype == object):
        raise TypeError(f"column {name!r} is {column.dtype}, expected numbers, text or categories")
    values = column.dropna().unique().tolist()
    return sorted(values) if _is_number(column) else sorted(values, key=str)


def _codes(column: pd.Series, values: Sequence) -> Tensor:
    """The position of each entry in ``values``, -1 for a missing one."""
    return torch.from_numpy(pd.Index(values, dtype=object).get_indexer(column.astype(object)).astype(np.int64))


def _target(name: str, column: pd.Series, kind: str | None) -> tuple[Task, Tensor, tuple[str, ...]]:
    """The task, its labels (NaN or -1 where missing) and the names of its classes."""
    values = _categories(name, column)
    kind = kind or taken_for(column)[0]
    if kind not in KINDS:
        raise ValueError(f"target {name!r}: kind is {kind!r}, expected one of {', '.join(KINDS)}")
    if kind == "regression":
        if not _is_number(column):
            raise ValueError(f"target {name!r} is {column.dtype}, expected numbers for a regression")
        return Task(name, kind), _numbers(name, column), ()
    if len(values) < 2 or (kind == "binary" and len(values) > 2):
        raise ValueError(
            f"target {name!r} has {len(values)} distinct values, expected {'2' if kind == 'binary' else '2 or more'}"
        )
    codes = _codes(column, values)
    classes = tuple(map(str, values))
    if kind == "binary":
        return Task(name, kind), torch.where(codes < 0, torch.nan, codes.double()), classes
    return Task(name, kind, n_classes=len(values)), codes, classes


def group_numbers(column: pd.Series) -> Tensor:
    """The group of each row as a number from 0, in order of appearance.

    Raises:
        ValueError: a missing group.
    """
    if column.isna().any():
        raise ValueError(f"group column {column.name!r} has missing values, expected a group for every row")
    return torch.from_numpy(pd.factorize(column)[0].astype(np.int64))
