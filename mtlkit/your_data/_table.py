"""Decide which column is what, refuse what cannot be answered for, warn of what may mislead."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from mtlkit.datasets import Dataset, from_frame
from mtlkit.datasets.tabular import check_columns
from mtlkit.tasks import labelled
from mtlkit.your_data._columns import alone, cleaned, input_of, kind_of, moment
from mtlkit.your_data._read import Refused
from mtlkit.your_data._settings import kinds_of, listed

MIN_ROWS = 50
MIN_CLASS = 5
LEAK = 0.99
CHOSEN = 3
RARE = 0.05
COMMON = 0.7
FEW_GROUPS = 10
HELD_OUT = 0.2
NAMED = 20


@dataclass(frozen=True)
class Prepared:
    """A table that has passed the checks.

    Attributes:
        data: the multi-task data set; every seed draws its own splits unless they are by time.
        frame: the table as it was given; ``rows`` of ``data`` are positions in it.
        columns: a row per column: ``role``, ``read as``, ``why``, ``missing`` (share).
        warnings: what the user should know before believing the answers.
    """

    data: Dataset
    frame: pd.DataFrame
    columns: pd.DataFrame
    warnings: tuple[str, ...]


def prepare(
    frame: pd.DataFrame,
    main: str,
    auxiliaries: Sequence[str] | str | None,
    *,
    leave_out: Sequence[str] | str | None = None,
    kinds: Mapping[str, str] | str | None = None,
    groups: str | None = None,
    time: str | None = None,
    seeds: int = 1,
    name: str = "your data",
) -> Prepared:
    """Check a table, infer what its columns are, and make it a data set.

    Targets: two values are binary, text is multiclass, whole numbers from 0 or 1 to at most ten in a
    row are multiclass, other numbers are a regression; ``kinds`` overrules. Inputs: numbers and
    categories as :func:`mtlkit.datasets.from_frame` reads them; text that is nearly all numbers counts
    as numbers; dates, columns with more than 200 categories or another one in every second row, row numbers
    and constant ones are left out. Splits are stratified by the main task's classes, or made by ``groups`` or
    ``time``.

    Args:
        frame: the table; names of columns that are numbers are taken as text.
        main: the column that matters.
        auxiliaries: columns that are known when training, not when predicting. A text is split at its commas.
            None takes the three columns that say most about the main one, to show something, and warns.
        leave_out: columns to ignore, given alike.
        kinds: target column to ``"regression"``, ``"binary"`` or ``"multiclass"``; or text such as
            ``"stars=regression, sold=binary"``.
        groups: column that says which rows must stay together.
        time: column to split by: trained on the early rows, tested on the late ones.
        seeds: number of draws that will be used; each is checked.

    Raises:
        Refused: with what was found and what was expected.
    """
    frame = frame.rename(columns=str).reset_index(drop=True)
    groups, time = (None if column is None else str(column) for column in (groups, time))
    try:
        chosen = None if auxiliaries is None else listed(auxiliaries, frame.columns)
        unused = listed(leave_out, frame.columns)
        return _prepare(frame, str(main), chosen, unused, kinds_of(kinds), groups, time, seeds, name)
    except Refused:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise Refused(str(error).strip().partition("\n")[0]) from None


def _prepare(
    frame: pd.DataFrame,
    main: str,
    auxiliaries: list[str] | None,
    leave_out: list[str],
    kinds: dict[str, str],
    groups: str | None,
    time: str | None,
    seeds: int,
    name: str,
) -> Prepared:
    splitting = [column for column in (groups, time) if column is not None]
    _known(frame, [main, *(auxiliaries or []), *leave_out, *splitting])
    check_columns(frame, [main, *(auxiliaries or [])], [*leave_out, *splitting], ())
    given, frame = frame, frame.drop(columns=leave_out).apply(cleaned)
    if time is not None:
        frame[time] = moment(frame[time])
    main_kind, _ = kind_of(frame[main], kinds.get(main))
    labels = frame[main].dropna()
    if len(labels) < MIN_ROWS:
        raise Refused(f"{len(labels)} rows have a label for {main!r}, expected at least {MIN_ROWS}")
    warnings: list[str] = []
    if auxiliaries is None:
        auxiliaries = _related(frame.drop(columns=splitting), main, main_kind)
        warnings.append(
            f"you named no auxiliaries, so the columns that say most about {main!r} are taken: "
            f"{', '.join(auxiliaries)}; they are no inputs then. Better name columns that you will not have when you "
            "predict, and keep the others as inputs"
        )
    if not auxiliaries:
        raise Refused("no auxiliary column is given, expected at least one: without any there is nothing to weigh")
    targets = [main, *auxiliaries]
    found: dict[str, tuple[str, str, str]] = {}
    for target in targets:
        kind, why = kind_of(frame[target], kinds.get(target))
        kinds[target] = kind
        found[target] = ("main" if target == main else "auxiliary", kind, why)
        if kind != "regression":
            warnings += _about_classes(frame[target], kind, target == main)
    inputs = {}
    for column in frame.columns.drop([*targets, *splitting]):
        values, read_as, why, to_be_told = input_of(frame[column])
        found[column] = ("input" if values is not None else "left out", read_as, why)
        if to_be_told:
            warnings.append(f"column {column!r}: {why}")
        if values is not None:
            inputs[column] = values
    found |= {column: ("left out", "", "as you asked") for column in leave_out}
    found |= {column: ("splits rows", "", "") for column in splitting}
    if not inputs:
        raise Refused(f"no usable input is left among {', '.join(given.columns[:NAMED])}, expected at least one")
    warnings += _about_leaks(inputs, frame[auxiliaries], labels, main_kind)
    usable = pd.DataFrame(inputs).assign(**{column: frame[column] for column in [*targets, *splitting]})
    if groups is not None and frame[groups].nunique() < 3:
        raise Refused(
            f"group column {groups!r} has {frame[groups].nunique()} groups, expected at least 3, one for each split"
        )
    data = from_frame(
        usable,
        main,
        auxiliaries,
        kinds=kinds,
        groups=groups,
        time=time,
        stratify=not splitting,
        meta=HELD_OUT,
        test=HELD_OUT,
        name=name,
        source=name,
    )
    warnings += _about_splits(data, len(frame), groups, time, 0 if groups is None else frame[groups].nunique())
    unseen = max(_unseen(data.resample(seed)) for seed in range(seeds))
    if unseen:
        warnings.append(
            f"up to {unseen:.1%} of the test rows are of a class of {main!r} that is in no training row of the split"
        )
    columns = pd.DataFrame.from_dict(found, orient="index", columns=["role", "read as", "why"])
    missing = frame.isna().mean().reindex(columns.index)
    missing = missing.fillna(given.isna().mean())
    return Prepared(data, given, columns.assign(missing=missing).rename_axis("column"), tuple(warnings))


def _known(frame: pd.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        if name not in frame:
            close = difflib.get_close_matches(name, frame.columns, n=3)
            like = f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
            rest = ", ..." if len(frame.columns) > NAMED else ""
            raise Refused(f"no column {name!r}{like}, expected one of {', '.join(frame.columns[:NAMED])}{rest}")


def _about_classes(column: pd.Series, kind: str, main: bool) -> list[str]:
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
    if share < min(RARE, 0.5 / len(counts)) or HELD_OUT * count < MIN_CLASS:
        found.append(
            f"class {rarest!r} of {name!r} is rare ({rows}, {share:.1%}): the test split has about "
            f"{max(round(HELD_OUT * count), 1)} of it, so that differences are uncertain"
        )
    if kind == "multiclass" and shares.iloc[0] > COMMON:
        found.append(
            f"always answering {classes[0]!r} is right in {shares.iloc[0]:.1%} of the rows, so the accuracy, "
            "which decides here, says little about the other classes"
        )
    return found


def _about_leaks(inputs: Mapping[str, pd.Series], auxiliaries: pd.DataFrame, labels: pd.Series, kind: str) -> list[str]:
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


def _about_splits(data: Dataset, rows: int, groups: str | None, time: str | None, n_groups: int) -> list[str]:
    found = []
    used = sum(map(len, data.splits.values()))
    if used < 0.9 * rows:
        found.append(
            f"splitting by {groups!r} uses {used:,} of {rows:,} rows: a split has the same number of rows for every "
            "seed, whichever groups are in it, and the groups differ much in size"
        )
    if groups is not None and n_groups < FEW_GROUPS:
        found.append(f"{groups!r} has {n_groups} groups only: the answers hold for these, hardly for others")
    if time is not None:
        found.append(
            f"all seeds have the same split by {time!r}: intervals and p-values say what other initial weights would "
            "do, nothing about other rows"
        )
    return found


def _related(frame: pd.DataFrame, main: str, kind: str) -> list[str]:
    """The three columns that alone say most about the main one, leaks left aside."""
    labels = frame[main].dropna()
    scores, usable = {}, 0
    for column in frame.columns.drop(main):
        values, *_ = input_of(frame[column])
        if values is None:
            continue
        usable += 1
        try:
            kind_of(frame[column], None)
        except Refused:
            continue
        score = alone(values, labels, kind)
        if score <= LEAK:
            scores[column] = score
    found = sorted(scores, key=scores.get, reverse=True)[: min(CHOSEN, usable - 1)]
    if not found:
        raise Refused(f"no column is left that could be an auxiliary of {main!r}, expected one beside an input")
    return found


def _unseen(data: Dataset) -> float:
    """Share of the test rows whose main class no training row has.

    Raises:
        Refused: the main task cannot be trained or scored on this draw.
    """
    main = data.main
    known = {where: split.y[main.name][labelled(split.y[main.name])] for where, split in data.splits.items()}
    for where, labels in known.items():
        needs_two = main.kind == "binary" or (main.kind == "multiclass" and where == "train")
        if len(labels) < 2 or (needs_two and len(labels.unique()) < 2):
            raise Refused(
                f"the {where} split has {len(labels)} labels of {len(labels.unique())} different values for "
                f"{main.name!r}, expected at least two: there are too few groups or rows to split this way"
            )
    if main.kind == "regression":
        return 0.0
    share = float((~torch.isin(known["test"], known["train"])).double().mean())
    if share == 1:
        raise Refused(f"no test row has a class of {main.name!r} that a training row has, expected the same classes")
    return share
