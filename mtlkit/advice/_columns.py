"""What a single column is: a task's kind, a usable input, or something that the user should know about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from mtlkit.advice._read import Refused
from mtlkit.tasks import FEW_VALUES, KINDS, taken_for

MAX_CLASSES = 50
MAX_CATEGORIES = 200
LARGEST = 1e100
FAR_OUT = 1e6
LEAK_ROWS = 2000
NUMBER, CATEGORY = "number", "category"
MARKS = {"number, decimal point": ("[, ']", "."), "number, decimal comma": ("[. ']", ",")}
"""How text may hold numbers: what stands between thousands, and before decimals."""
OF_A_DATE = {"year": "year", "month": "month", "weekday": "day_of_week"}


@dataclass(frozen=True)
class Reader:
    """From a table as the user has it to inputs: numbers and text.

    Attributes:
        columns: name and how it is read: "number", "category", one of :data:`MARKS`, "date" or "date, day first".
    """

    columns: tuple[tuple[str, str], ...]

    def __call__(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The inputs of these rows; other columns do not matter.

        Raises:
            Refused: a column that is not there or cannot be read.
        """
        frame = frame.rename(columns=str)
        missing = [name for name, _ in self.columns if name not in frame]
        if missing:
            raise Refused(f"no column {', '.join(map(repr, missing))}, expected the inputs of the training table")
        found = {}
        for name, how in self.columns:
            if how == CATEGORY:  # as it is written, whether or not these rows hold numbers alone
                text = frame[name].astype(object).map(lambda value: str(value).strip() or None, na_action="ignore")
                found[name] = text.where(text.notna(), np.nan)
                continue
            column = cleaned(frame[name])
            if how.startswith("date"):
                day = pd.to_datetime(column, errors="coerce", format="mixed", dayfirst=how != "date", utc=True).dt
                found |= {f"{name}, {part}": getattr(day, of).astype(float) for part, of in OF_A_DATE.items()}
            else:
                found[name] = as_numbers(column, how)
                _check_size(found[name])
        return pd.DataFrame(found, index=frame.index)


def cleaned(column: pd.Series) -> pd.Series:
    """A column in the form that the rest takes for granted.

    Text loses the blanks at its ends and is missing where nothing is left; text, objects and categories that are all
    numbers become numbers, truth values 0 and 1.

    Raises:
        Refused: a list or another entry that cannot be compared, a number that is infinite or beyond 1e100.
    """
    name = column.name
    if pd.api.types.is_complex_dtype(column):
        raise Refused(f"column {name!r} is {column.dtype}, expected real numbers, text or categories")
    if isinstance(column.dtype, pd.CategoricalDtype | pd.StringDtype) or column.dtype == object:
        column = column.astype(object).where(column.notna(), None)
        strange = column.dropna().map(lambda value: not pd.api.types.is_hashable(value))
        if strange.any():
            kind = type(column[strange.idxmax()]).__name__
            raise Refused(f"column {name!r} holds lists or the like ({kind}), expected numbers, text or categories")
        column = column.map(lambda value: value.strip() or None if isinstance(value, str) else value)
        if column.map(lambda value: isinstance(value, bool)).any() and column.dropna().isin([True, False]).all():
            return column.astype(float)
        if dates(column.dropna()):
            return column
        plain = as_numbers(column, NUMBER)
        if plain.notna().sum() < column.notna().sum():
            return column
        column = plain
    elif isinstance(column.dtype, pd.IntervalDtype | pd.PeriodDtype):
        return column.astype(str).where(column.notna(), None)
    if pd.api.types.is_numeric_dtype(column):
        _check_size(column)
    return column


def _check_size(column: pd.Series) -> None:
    values = column.to_numpy(float, na_value=np.nan)
    beyond = np.flatnonzero(np.abs(values) > LARGEST)
    if len(beyond):
        what = "an infinite value" if np.isinf(values[beyond[0]]) else f"{values[beyond[0]]:g}"
        raise Refused(
            f"column {column.name!r} holds {what} (row {beyond[0]}), expected numbers below {LARGEST:g} in size; "
            "leave an unknown value empty"
        )


def as_numbers(column: pd.Series, how: str) -> pd.Series:
    """A :func:`cleaned` column as numbers, NaN where it holds none; ``how`` is "number" or one of :data:`MARKS`."""
    if pd.api.types.is_numeric_dtype(column):
        return column.astype(float)
    text = column.map(str, na_action="ignore").astype(object)
    if how != NUMBER:
        between, mark = MARKS[how]
        shape = rf"[€$£]?\s?[-+]?(\d{{1,3}}(?P<mark>{between})\d{{3}}((?P=mark)\d{{3}})*|\d+)([{mark}]\d+)?\s?[%€$£]?"
        text = text.where(text.str.fullmatch(shape).fillna(False).astype(bool))
        text = text.str.replace(rf"[€$£%\s]|{between}", "", regex=True).str.replace(mark, ".", regex=False)
    return pd.to_numeric(text, errors="coerce").astype(float)


def read_numbers(column: pd.Series) -> tuple[str, pd.Series]:
    """How nearly all entries of a text column read as numbers ("number" where they do not), and what they read as."""
    known, how = column.dropna(), NUMBER
    if len(known) and as_numbers(known, NUMBER).notna().mean() < 0.9:
        shares = {how: as_numbers(known, how).notna().mean() for how in MARKS}
        best = max(shares, key=lambda how: shares[how])
        how = best if shares[best] > 0.9 else NUMBER
    return how, as_numbers(column, how)


def target_of(column: pd.Series, given: str | None) -> tuple[pd.Series, str, str]:
    """A :func:`cleaned` target as it will be used, the kind of task that it is, and the reason.

    Raises:
        Refused: nothing that could be learned, or not as the kind that was given.
    """
    name, known, note = column.name, column.dropna(), ""
    if given is not None and given not in KINDS:
        raise Refused(f"target {name!r}: kind is {given!r}, expected one of {', '.join(KINDS)}")
    if known.empty:
        raise Refused(f"target {name!r} has no label in any row")
    if is_time(column) or dates(known):
        raise Refused(f"target {name!r} holds dates or times, expected numbers or classes")
    if known.nunique() == 1:
        raise Refused(f"target {name!r} is {known.tolist()[0]!r} in every row, expected two different values or more")
    if not pd.api.types.is_numeric_dtype(known) and given not in ("binary", "multiclass"):
        _, read = read_numbers(column)
        strange = known[read[known.index].isna()]
        if 0 < len(strange) < len(known):
            raise Refused(
                f"target {name!r} mixes numbers and text: {len(strange)} of {len(known)} entries are no numbers, such "
                f"as {strange.iloc[0]!r}; leave a missing label empty, or if these are classes set kinds to "
                "'multiclass'"
            )
        if not len(strange):
            column, known, note = read, read.dropna(), f", {known.iloc[0]!r} read as {read[known.index[0]]:g}"
    values, (kind, why) = known.unique().tolist(), taken_for(known)
    if given == "regression" and not pd.api.types.is_numeric_dtype(known):
        raise Refused(f"target {name!r} holds text such as {values[0]!r}, expected numbers for a regression")
    if given == "binary" and len(values) > 2:
        raise Refused(f"target {name!r} has {len(values):,} different values, expected two for kind 'binary'")
    if (given or kind) == "multiclass" and len(values) > MAX_CLASSES:
        raise Refused(f"target {name!r} has {len(values):,} classes, expected at most {MAX_CLASSES}")
    return column, given or kind, f"{why if given is None else 'as you said'}{note}"


def input_of(column: pd.Series, as_date: bool) -> tuple[str | None, str, str, bool]:
    """How a :func:`cleaned` input will be used.

    Args:
        as_date: whether the user wants the year, month and weekday of it.

    Returns:
        how to read it (None: it is not used), what it is, what is done to it, and whether to tell the user.

    Raises:
        Refused: ``as_date``, and it holds no dates.
    """
    known = column.dropna()
    if as_date:
        if not (pd.api.types.is_datetime64_any_dtype(column) or dates(known)):
            raise Refused(f"column {column.name!r} holds {known.iloc[0] if len(known) else None!r}, expected dates")
        day_first = not is_time(column) and known.map(str).str.match(r"((1[3-9]|[23]\d)\D|\d\d?\.)").any()
        return "date, day first" if day_first else "date", "date", "its year, month and weekday", False
    if known.empty:
        return None, "empty", "no value in any row, left out", True
    if known.nunique() < 2 and len(known) == len(column):
        return None, "constant", "the same in every row, left out", True
    if _numbers_the_rows(column):
        return None, "row numbers", "it numbers the rows, left out", True
    if is_time(column) or dates(known):
        return None, "date", "a date or time, left out; name it in dates to use it, or in time to split by it", True
    if pd.api.types.is_numeric_dtype(column):
        why = _far_out(known)
        return NUMBER, NUMBER, why, bool(why)
    how, read = read_numbers(known)
    strange = known[read.isna()]
    if len(strange) <= 0.1 * len(known):
        first, parts = read.first_valid_index(), []
        if how != NUMBER:
            parts.append(f"text such as {known[first]!r} read as {read[first]:g}")
        if len(strange):
            parts.append(f"{len(strange)} entries such as {strange.iloc[0]!r} are no numbers, taken as missing")
        return how, NUMBER, "; ".join(parts), bool(parts)
    count = known.map(str).nunique()
    if count > MAX_CATEGORIES:
        return None, "text", f"{count:,} different entries, more than {MAX_CATEGORIES}, left out", True
    if count > max(FEW_VALUES, len(known) / 2):
        return None, "text", f"{count:,} different entries in {len(known):,} rows, like names of rows, left out", True
    mixed = len(strange) < len(known)
    why = f", {len(known) - len(strange):,} entries are numbers" if mixed else ""
    return CATEGORY, CATEGORY, f"{count} categories{why}", mixed


def moment(column: pd.Series) -> pd.Series:
    """A :func:`cleaned` column to split by time, as numbers or dates.

    Raises:
        Refused: a missing time, text that is no date, the same time in every row.
    """
    name = column.name
    if column.isna().any():
        raise Refused(f"time column {name!r} has missing values, expected a time for every row")
    if column.nunique() < 2:
        raise Refused(f"time column {name!r} is the same in every row, expected early and late rows")
    if pd.api.types.is_timedelta64_dtype(column):
        return column.dt.total_seconds()
    if pd.api.types.is_numeric_dtype(column) or is_time(column):
        return column
    found = pd.to_datetime(column.astype(str), format="ISO8601", errors="coerce", utc=True)
    if found.isna().any():
        raise Refused(
            f"time column {name!r} holds {column[found.isna()].iloc[0]!r}, expected numbers or dates such as 2024-03-31"
        )
    return found


def alone(column: pd.Series, labels: pd.Series, kind: str) -> float:
    """How well a decision tree on this column alone, grown on half of the rows, predicts the other half.

    Balanced accuracy, or R². The column is scaled, as trees hold their inputs in single precision; at most 2,000 rows
    take part, so that thousands of columns take seconds.
    """
    rows = labels.index[np.random.default_rng(0).permutation(len(labels))[:LEAK_ROWS]]
    values = column.loc[rows]
    if not pd.api.types.is_numeric_dtype(values):
        values = pd.Series(pd.factorize(values)[0], rows).where(values.notna())
    x = values.to_numpy(float, na_value=np.nan)[:, None]
    x = (x / np.nanmax(np.abs(x), initial=1e-300)).astype(np.float32)
    half = len(rows) // 2
    if kind == "regression":
        y = labels.loc[rows].to_numpy(float)
        tree = DecisionTreeRegressor(min_samples_leaf=2, random_state=0).fit(x[:half], y[:half])
        rest = y[half:]
        spread = np.square(rest - rest.mean()).sum()
        return float(1 - np.square(rest - tree.predict(x[half:])).sum() / spread) if spread else 0.0
    y = pd.factorize(labels.loc[rows])[0]
    tree = DecisionTreeClassifier(min_samples_leaf=2, random_state=0).fit(x[:half], y[:half])
    right = tree.predict(x[half:]) == y[half:]
    return float(np.mean([right[y[half:] == label].mean() for label in np.unique(y[half:])]))


def is_time(column: pd.Series) -> bool:
    """Whether the column's type is that of dates or durations."""
    types = pd.api.types
    return types.is_datetime64_any_dtype(column) or types.is_timedelta64_dtype(column)


def dates(known: pd.Series) -> bool:
    """Whether the entries read as dates: a year first, or day and month in any order."""
    if pd.api.types.is_numeric_dtype(known) or known.empty:
        return False
    text = known.map(str)
    month, day = "(0?[1-9]|1[0-2])", "(0?[1-9]|[12][0-9]|3[01])"
    first = rf"\d{{4}}([-/.]){month}\1{day}([T ].*)?"
    last = rf"({day}([-/.]){month}|{month}([-/.]){day})[-/.]\d{{4}}( .*)?"
    return any(text.str.fullmatch(shape).all() for shape in (first, last))


def _numbers_the_rows(column: pd.Series) -> bool:
    """Whether whole numbers from 0 or 1 run up or down with the rows, few of them left out."""
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column) or column.isna().any():
        return False
    values = column.to_numpy(float)
    steps = np.diff(values)
    unnamed = str(column.name).startswith("Unnamed:") and column.is_unique
    whole = bool((values == np.round(values)).all())
    in_order = (steps > 0).all() or (steps < 0).all()
    return whole and (unnamed or (in_order and values.min() in (0, 1) and values.max() <= 1.1 * len(values)))


def _far_out(known: pd.Series) -> str:
    values = known.to_numpy(float)
    away = np.abs(values - np.median(values))
    others = np.delete(away, away.argmax()).max(initial=0)
    if 0 < FAR_OUT * others < away.max():
        largest = values[away.argmax()]
        return f"one value, {largest:g}, is a million times farther out than any other and drowns them: check it"
    return ""
