"""Read a table, infer what its columns are, refuse what cannot be answered for."""

from __future__ import annotations

import csv
import gzip
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from mtlkit.datasets import Dataset, from_frame
from mtlkit.datasets.tabular import check_columns

MIN_ROWS = 50
MIN_CLASS = 5
MAX_CLASSES = 50
MAX_CATEGORIES = 200
FEW_VALUES = 10
CHOSEN = 3
LEAK = 0.99
LEAK_ROWS = 5000
RARE = 0.05


EXAMPLE_AUXILIARIES = ["worst radius", "worst texture", "worst concave points"]


class Refused(ValueError):
    """A table, or a choice of columns, that cannot be answered for.

    IPython shows its message alone, without a traceback, and stops the notebook there.
    """

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def located(path: str | Path) -> Path:
    """A path as the user means it: relative to the folder in which the run was started.

    ``python -m mtlkit.notebook run`` executes notebooks in another folder and says in the environment
    variable ``MTLKIT_START`` where it was started.
    """
    return Path(os.environ.get("MTLKIT_START", "."), Path(path).expanduser())


def example() -> pd.DataFrame:
    """569 breast masses: the UCI table Breast Cancer Wisconsin (Diagnostic), CC BY 4.0, as scikit-learn ships it.

    ``diagnosis`` is malignant or benign; ten features of the cell nuclei are means over a mass; three of them
    are also given for its worst (largest) nuclei. The other columns of the source are left out.
    """
    frame = load_breast_cancer(as_frame=True).frame
    diagnosis = pd.Series(np.where(frame["target"] == 0, "malignant", "benign"), name="diagnosis")
    columns = [name for name in frame if name.startswith("mean ")]
    return pd.concat([diagnosis, frame[[*columns, *EXAMPLE_AUXILIARIES]]], axis=1)


def read(path: str | Path | None, encoding: str = "utf-8") -> pd.DataFrame:
    """The table in a CSV (by its ending also compressed) or Parquet file; :func:`example` when None.

    The separator of a CSV is the one of comma, semicolon and tab that its first line has most of.

    Raises:
        Refused: no such file, another ending, another encoding, no table in it, a column name that is
            there twice, no rows.
    """
    if path is None:
        return example()
    path = located(path)
    kinds = [suffix for suffix in path.suffixes if suffix in (".csv", ".tsv", ".parquet")]
    if not kinds:
        raise Refused(f"{path.name}: the ending is {path.suffix!r}, expected .csv, .csv.gz, .tsv or .parquet")
    if not path.is_file():
        raise Refused(f"there is no file {path} (looked in {path.parent.resolve()})")
    try:
        frame = pd.read_parquet(path) if kinds[-1] == ".parquet" else _read_csv(path, encoding)
    except UnicodeDecodeError as error:
        raise Refused(
            f"{path.name} is not {encoding}: byte {error.object[error.start]:#04x} does not fit; "
            "save it as UTF-8, or set encoding (often 'cp1252' or 'latin-1')"
        ) from None
    except Refused:
        raise
    except (ValueError, LookupError, ImportError, OSError) as error:
        raise Refused(f"{path.name} could not be read as a table: {error}") from None
    if not len(frame):
        raise Refused(f"{path.name} has no rows")
    return frame


def _read_csv(path: Path, encoding: str) -> pd.DataFrame:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding=encoding, newline="") as file:
        first = file.readline().removeprefix("\ufeff").strip()
    separator = max(",;\t", key=first.count)
    counts = Counter(next(csv.reader([first], delimiter=separator), []))
    twice = [name for name, count in counts.items() if count > 1 and name]
    if twice:
        raise Refused(f"{path.name} has more than one column {', '.join(map(repr, twice))}, expected each name once")
    return pd.read_csv(path, sep=separator, encoding=encoding, low_memory=False)


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
    leave_out: Sequence[str] | str = (),
    kinds: Mapping[str, str] | None = None,
    groups: str | None = None,
    time: str | None = None,
    seeds: int = 1,
    name: str = "your data",
) -> Prepared:
    """Check a table, infer what its columns are, and make it a data set.

    Targets: two values are binary, text is multiclass, whole numbers from 0 or 1 to at most ten in a
    row are multiclass, other numbers are a regression; ``kinds`` overrules. Inputs: numbers and
    categories as :func:`mtlkit.datasets.from_frame` reads them; text that is nearly all numbers counts
    as numbers; dates, columns with more than 200 categories and constant ones are left out.
    Splits are stratified by the main task's classes, or made by ``groups`` or ``time``.

    Args:
        frame: the table; names of columns that are numbers are taken as text.
        main: the column that matters.
        auxiliaries: columns that are known when training, not when predicting. A text is split at its commas.
            None takes the three columns that say most about the main one, to show something, and warns.
        leave_out: columns to ignore, given alike.
        kinds: target column to ``"regression"``, ``"binary"`` or ``"multiclass"``.
        groups: column that says which rows must stay together.
        time: column to split by: trained on the early rows, tested on the late ones.
        seeds: number of draws that will be used; each is checked.

    Raises:
        Refused: with what was found and what was expected.
    """
    frame = frame.rename(columns=str).reset_index(drop=True)
    auxiliaries = None if auxiliaries is None else _listed(auxiliaries, frame)
    groups, time = (None if column is None else str(column) for column in (groups, time))
    kinds = {str(column): kind for column, kind in (kinds or {}).items()}
    try:
        return _prepare(frame, str(main), auxiliaries, _listed(leave_out, frame), kinds, groups, time, seeds, name)
    except Refused:
        raise
    except (TypeError, ValueError) as error:
        raise Refused(str(error)) from None


def _listed(names: Sequence[str] | str, frame: pd.DataFrame) -> list[str]:
    if not isinstance(names, str):
        return [str(name) for name in names]
    return [names] if names in frame else [name.strip() for name in names.split(",") if name.strip()]


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
    warnings: list[str] = []
    check_columns(frame, [main, *(auxiliaries or [])], [*leave_out, *splitting], ())
    if auxiliaries is None:
        auxiliaries = _related(frame, main, kinds.get(main), [*leave_out, *splitting])
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
        kind, why = _kind(target, frame[target], kinds.get(target))
        kinds[target] = kind
        found[target] = ("main" if target == main else "auxiliary", kind, why)
    labels = frame[main].dropna()
    _enough(main, labels)
    warnings += _classes(frame, main, auxiliaries, kinds)
    inputs = {}
    for column in frame.columns.drop([*targets, *leave_out, *splitting]):
        values, read_as, why = _input(column, frame[column])
        found[column] = ("input" if values is not None else "left out", read_as, why)
        if values is None or (read_as.startswith("number") and why):
            warnings.append(f"column {column!r}: {why}")
        if values is not None:
            inputs[column] = values
    found |= {column: ("left out", "", "as you asked") for column in leave_out}
    found |= {column: ("splits rows", "", "") for column in splitting}
    if not inputs:
        raise Refused(f"no usable input is left among {', '.join(map(str, frame.columns))}, expected at least one")
    for column, values in inputs.items():
        score = _alone(values, labels, kinds[main])
        if score > LEAK:
            warnings.append(
                f"column {column!r} alone predicts {main!r} almost perfectly ({score:.3f} of 1): does it leak the "
                "answer? If it will not be known when you predict, leave it out"
            )
    usable = pd.DataFrame(inputs).assign(**{str(c): frame[c] for c in [*targets, *splitting]})
    stratify = not splitting
    data = from_frame(
        usable, main, auxiliaries, kinds=kinds, groups=groups, time=time, stratify=stratify, name=name, source=name
    )
    for seed in range(seeds):
        _check_draw(data.resample(seed))
    columns = pd.DataFrame.from_dict(found, orient="index", columns=["role", "read as", "why"])
    missing = frame.isna().mean().reindex(columns.index)
    return Prepared(data, frame, columns.assign(missing=missing).rename_axis("column"), tuple(warnings))


def _kind(name: str, column: pd.Series, given: str | None) -> tuple[str, str]:
    """The kind of a target and the reason."""
    _finite(name, column)
    known = column.dropna()
    if known.empty:
        raise Refused(f"target {name!r} has no label in any row")
    if pd.api.types.is_datetime64_any_dtype(known) or _dates(known):
        raise Refused(f"target {name!r} holds dates, expected numbers or classes")
    values = known.unique().tolist()
    if len(values) == 1:
        raise Refused(f"target {name!r} is {values[0]!r} in every row, expected two different values or more")
    numeric = pd.api.types.is_numeric_dtype(known)
    if not numeric:
        strange = known[pd.to_numeric(known, errors="coerce").isna()]
        if 0 < len(strange) < len(known):
            raise Refused(
                f"target {name!r} mixes numbers and text: {len(strange)} of {len(known)} entries are no numbers, "
                f"such as {strange.iloc[0]!r}; expected one or the other (leave a missing label empty)"
            )
    if given is not None:
        return given, "as you said"
    if len(values) == 2:
        return "binary", "two values"
    if not numeric:
        if len(values) > MAX_CLASSES:
            raise Refused(f"target {name!r} has {len(values):,} classes, expected at most {MAX_CLASSES}")
        return "multiclass", f"text, {len(values)} values"
    whole = np.sort(np.asarray(values, float))
    if len(whole) <= FEW_VALUES and whole[0] in (0, 1) and (np.diff(whole) == 1).all():
        return "multiclass", f"the whole numbers {whole[0]:.0f} to {whole[-1]:.0f}"
    return "regression", f"numbers, {len(values):,} values"


def _finite(name: str, column: pd.Series) -> None:
    if pd.api.types.is_complex_dtype(column):
        raise Refused(f"column {name!r} is {column.dtype}, expected real numbers, text or categories")
    if not pd.api.types.is_float_dtype(column):
        return
    infinite = np.flatnonzero(np.isinf(column.to_numpy(float, na_value=np.nan)))
    if len(infinite):
        raise Refused(
            f"column {name!r} holds {len(infinite)} infinite values (the first in row {infinite[0]}), "
            "expected finite numbers; leave an unknown value empty"
        )


def _dates(known: pd.Series) -> bool:
    """Whether text reads as ISO 8601 dates."""
    if pd.api.types.is_numeric_dtype(known) or not known.map(lambda value: isinstance(value, str)).all():
        return False
    if not known.head(20).str.match(r"\d{4}-\d\d").all():
        return False
    return bool(pd.to_datetime(known, format="ISO8601", errors="coerce").notna().all())


def _input(name: str, column: pd.Series) -> tuple[pd.Series | None, str, str]:
    """An input column as it will be used (None: not at all), what it is read as, and what was done to it."""
    _finite(name, column)
    known = column.dropna()
    if known.nunique() < 2 and not 0 < len(known) < len(column):
        return None, "constant", "the same in every row, left out"
    if pd.api.types.is_integer_dtype(column) and (column.diff().iloc[1:] == 1).all():
        return None, "row numbers", "it numbers the rows, left out"
    if pd.api.types.is_numeric_dtype(column):
        return column, "number", ""
    if pd.api.types.is_datetime64_any_dtype(column) or _dates(known):
        return None, "date", "a date, left out; set time to split by it"
    if pd.api.types.is_timedelta64_dtype(column) or isinstance(column.dtype, pd.PeriodDtype):
        return None, "date", f"{column.dtype}, left out; expected numbers, text or categories"
    numbers = pd.to_numeric(column.astype(str).where(column.notna()), errors="coerce")
    strange = known[numbers[known.index].isna()]
    if len(known) and len(strange) <= 0.1 * len(known):
        why = (
            f"{len(strange)} entries such as {strange.iloc[0]!r} are no numbers, taken as missing"
            if len(strange)
            else ""
        )
        return numbers.astype(float), "number", why
    text = column.where(column.isna(), column.astype(str)).astype("object")
    if text.nunique() > MAX_CATEGORIES:
        return None, "text", f"{text.nunique():,} different entries, more than {MAX_CATEGORIES}, left out"
    mixed = f", {len(known) - len(strange):,} of them numbers" if len(strange) < len(known) else ""
    return text, "category", f"{text.nunique()} categories{mixed}"


def _classes(frame: pd.DataFrame, main: str, auxiliaries: Sequence[str], kinds: Mapping[str, str]) -> list[str]:
    """Warnings about rare classes; a main class too rare to be split is refused."""
    found = []
    for target in [main, *auxiliaries]:
        if kinds[target] == "regression":
            continue
        counts = frame[target].value_counts()
        rarest, count = counts.index.tolist()[-1], counts.iloc[-1]
        if target == main and count < MIN_CLASS:
            raise Refused(
                f"class {rarest!r} of {main!r} has {count} {'row' if count == 1 else 'rows'}, expected at least "
                f"{MIN_CLASS} of each class: leave these rows out or merge the class with another"
            )
        if count < MIN_CLASS:
            found.append(f"class {rarest!r} of auxiliary {target!r} has {count} {'row' if count == 1 else 'rows'} only")
        elif target == main and count / counts.sum() < RARE:
            found.append(
                f"class {rarest!r} of {main!r} is rare ({count / counts.sum():.1%}): always answering the commonest "
                f"class is right in {counts.iloc[0] / counts.sum():.1%} of the rows, so accuracy says little"
            )
    return found


def _alone(column: pd.Series, labels: pd.Series, kind: str) -> float:
    """How well a shallow tree on this column alone predicts held-out labels: balanced accuracy, or R²."""
    rows = labels.index
    if len(rows) > LEAK_ROWS:
        rows = rows[np.random.default_rng(0).choice(len(rows), LEAK_ROWS, replace=False)]
    values = column.loc[rows]
    if not pd.api.types.is_numeric_dtype(values):
        values = pd.Series(pd.factorize(values)[0], rows).where(values.notna())
    x = values.to_numpy(float, na_value=np.nan)[:, None]
    folds = KFold(3, shuffle=True, random_state=0)
    if kind == "regression":
        y = labels.loc[rows].to_numpy(float)
        tree = DecisionTreeRegressor(min_samples_leaf=2, random_state=0)
        return float(r2_score(y, cross_val_predict(tree, x, y, cv=folds)))
    y = labels.loc[rows].astype(str).to_numpy()
    tree = DecisionTreeClassifier(min_samples_leaf=2, random_state=0)
    return float(balanced_accuracy_score(y, cross_val_predict(tree, x, y, cv=folds)))


def _related(frame: pd.DataFrame, main: str, given: str | None, unused: Sequence[str]) -> list[str]:
    """The three columns that alone say most about the main one, leaks left aside."""
    kind, _ = _kind(main, frame[main], given)
    labels = frame[main].dropna()
    _enough(main, labels)
    scores = {}
    for column in frame.columns.drop([main, *unused]):
        values, _, _ = _input(column, frame[column])
        if values is not None:
            scores[column] = _alone(values, labels, kind)
    order = sorted((c for c, score in scores.items() if score <= LEAK), key=scores.get, reverse=True)
    return order[: min(CHOSEN, len(scores) - 1)]


def _enough(main: str, labels: pd.Series) -> None:
    if len(labels) < MIN_ROWS:
        raise Refused(f"{len(labels)} rows have a label for {main!r}, expected at least {MIN_ROWS}")


def _check_draw(data: Dataset) -> None:
    """Refuse a draw in which the main task cannot be trained or scored."""
    main = data.main
    for where, split in data.splits.items():
        target = split.y[main.name]
        known = target[~torch.isnan(target)] if target.is_floating_point() else target[target != -1]
        if len(known) < 2 or (main.kind == "binary" and len(known.unique()) < 2):
            raise Refused(
                f"the {where} split has {len(known)} labels of {len(known.unique())} different values for "
                f"{main.name!r}, expected at least two: there are too few groups or rows to split this way"
            )
