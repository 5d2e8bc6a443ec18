"""What a single column is: a task's kind, a usable input, or something that the user should know about."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from mtlkit.tasks import KINDS
from mtlkit.your_data._read import Refused

MAX_CLASSES = 50
MAX_CATEGORIES = 200
FEW_VALUES = 10
LARGEST = 1e100
FAR_OUT = 1e6
ADVICE = "set decimal to ',' if that is the decimal point, and take out thousands separators and units"
LEAK_ROWS = 5000


def cleaned(column: pd.Series) -> pd.Series:
    """A column in the form that the rest takes for granted.

    Text loses the blanks at its ends and is missing where nothing is left; text, objects and categories that are all
    numbers become numbers.

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
        if column.map(lambda value: value is None or isinstance(value, bool)).all() or _dates(column.dropna()):
            return column
        numbers = _numbers(column)
        if numbers.notna().sum() < column.notna().sum():
            return column
        column = numbers
    elif isinstance(column.dtype, pd.IntervalDtype | pd.PeriodDtype):
        return column.astype(str).where(column.notna(), None)
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        check_size(column)
    return column


def check_size(column: pd.Series) -> None:
    """Refuse a numeric column with an infinite entry or one beyond 1e100."""
    values = column.to_numpy(float, na_value=np.nan)
    beyond = np.flatnonzero(np.abs(values) > LARGEST)
    if len(beyond):
        what = "an infinite value" if np.isinf(values[beyond[0]]) else f"{values[beyond[0]]:g}"
        raise Refused(
            f"column {column.name!r} holds {what} (row {beyond[0]}), expected numbers below {LARGEST:g} in size; "
            "leave an unknown value empty"
        )


def kind_of(column: pd.Series, given: str | None) -> tuple[str, str]:
    """The kind of task that a :func:`cleaned` target is, and the reason.

    Raises:
        Refused: nothing that could be learned, or not as the kind that was given.
    """
    name, known = column.name, column.dropna()
    if given is not None and given not in KINDS:
        raise Refused(f"target {name!r}: kind is {given!r}, expected one of {', '.join(KINDS)}")
    if known.empty:
        raise Refused(f"target {name!r} has no label in any row")
    if _times(column) or _dates(known):
        raise Refused(f"target {name!r} holds dates or times, expected numbers or classes")
    values = known.unique().tolist()
    if len(values) == 1:
        raise Refused(f"target {name!r} is {values[0]!r} in every row, expected two different values or more")
    numeric = pd.api.types.is_numeric_dtype(known)
    if not numeric and given not in ("binary", "multiclass"):
        _text_target(name, known)
    if given is None and len(values) == 2:
        return "binary", "two values"
    if given == "regression" and not numeric:
        raise Refused(f"target {name!r} holds text such as {values[0]!r}, expected numbers for a regression")
    if given == "binary" and len(values) > 2:
        raise Refused(f"target {name!r} has {len(values):,} different values, expected two for kind 'binary'")
    whole = np.sort(np.asarray(values, float)) if numeric else np.empty(0)
    few = numeric and len(whole) <= FEW_VALUES and whole[0] in (0, 1) and (np.diff(whole) == 1).all()
    kind = given or ("multiclass" if few or not numeric else "regression")
    if kind == "multiclass" and len(values) > MAX_CLASSES:
        raise Refused(f"target {name!r} has {len(values):,} classes, expected at most {MAX_CLASSES}")
    if given is not None:
        return given, "as you said"
    if few:
        return kind, f"the whole numbers {whole[0]:.0f} to {whole[-1]:.0f}"
    return kind, f"numbers, {len(values):,} values" if numeric else f"text, {len(values)} values"


def _text_target(name: str, known: pd.Series) -> None:
    strange = known[_numbers(known).isna()]
    if len(strange) and _like_numbers(strange):
        raise Refused(
            f"target {name!r} looks like numbers, such as {strange.iloc[0]!r}, but does not read as such; {ADVICE}; "
            "if these are classes, set kinds to 'multiclass'"
        )
    if 0 < len(strange) < len(known):
        raise Refused(
            f"target {name!r} mixes numbers and text: {len(strange)} of {len(known)} entries are no numbers, such as "
            f"{strange.iloc[0]!r}; leave a missing label empty, or if these are classes set kinds to 'multiclass'"
        )


def input_of(column: pd.Series) -> tuple[pd.Series | None, str, str, bool]:
    """A :func:`cleaned` input as it will be used.

    Returns:
        the column (None: it is not used), what it is read as, what was done to it, and whether the user should
        hear of that.
    """
    known = column.dropna()
    if known.empty:
        return None, "empty", "no value in any row, left out", True
    if known.nunique() < 2 and len(known) == len(column):
        return None, "constant", "the same in every row, left out", True
    if _numbers_the_rows(column):
        return None, "row numbers", "it numbers the rows, left out", True
    if _times(column):
        return None, "date", "a date or time, left out; set time to split by it", True
    if _dates(known):
        return None, "date", "a date, left out; to split by it set time (which reads dates such as 2024-03-31)", True
    if pd.api.types.is_numeric_dtype(column):
        why = _far_out(known)
        return column, "number", why, bool(why)
    numbers = _numbers(column)
    strange = known[numbers[known.index].isna()]
    if len(strange) <= 0.1 * len(known):
        why = f"{len(strange)} entries such as {strange.iloc[0]!r} are no numbers, taken as missing"
        check_size(numbers)
        return numbers, "number", why, True
    if _like_numbers(strange) and known.nunique() > FEW_VALUES:
        why = f"looks like numbers, such as {strange.iloc[0]!r}, but does not read as such, left out; {ADVICE}"
        return None, "text", why, True
    text = column.map(str, na_action="ignore").astype(object)
    count = text.nunique()
    if count > MAX_CATEGORIES:
        return None, "text", f"{count:,} different entries, more than {MAX_CATEGORIES}, left out", True
    if count > max(FEW_VALUES, len(known) / 2):
        return None, "text", f"{count:,} different entries in {len(known):,} rows, like names of rows, left out", True
    mixed = len(strange) < len(known)
    why = f", {len(known) - len(strange):,} entries are numbers" if mixed else ""
    return text, "category", f"{count} categories{why}", mixed


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
    if pd.api.types.is_numeric_dtype(column) or _times(column):
        return column
    found = pd.to_datetime(column.astype(str), format="ISO8601", errors="coerce", utc=True)
    if found.isna().any():
        raise Refused(
            f"time column {name!r} holds {column[found.isna()].iloc[0]!r}, expected numbers or dates such as 2024-03-31"
        )
    return found


def alone(column: pd.Series, labels: pd.Series, kind: str) -> float:
    """How well a decision tree on this column alone predicts held-out labels: balanced accuracy, or R².

    The column is scaled, as trees hold their inputs in single precision.
    """
    rows = labels.index
    if len(rows) > LEAK_ROWS:
        rows = rows[np.random.default_rng(0).choice(len(rows), LEAK_ROWS, replace=False)]
    values = column.loc[rows]
    if not pd.api.types.is_numeric_dtype(values):
        values = pd.Series(pd.factorize(values)[0], rows).where(values.notna())
    x = values.to_numpy(float, na_value=np.nan)[:, None]
    x = x / np.nanmax(np.abs(x), initial=1)
    folds = KFold(3, shuffle=True, random_state=0)
    if kind == "regression":
        y = labels.loc[rows].to_numpy(float)
        tree = DecisionTreeRegressor(min_samples_leaf=2, random_state=0)
        return float(r2_score(y, cross_val_predict(tree, x, y, cv=folds)))
    y = labels.loc[rows].astype(str).to_numpy()
    tree = DecisionTreeClassifier(min_samples_leaf=2, random_state=0)
    return float(balanced_accuracy_score(y, cross_val_predict(tree, x, y, cv=folds)))


def _numbers(column: pd.Series) -> pd.Series:
    return pd.to_numeric(column.map(str, na_action="ignore").astype(object), errors="coerce").astype(float)


def _times(column: pd.Series) -> bool:
    types = pd.api.types
    return types.is_datetime64_any_dtype(column) or types.is_timedelta64_dtype(column)


def _dates(known: pd.Series) -> bool:
    """Whether the entries read as dates: a year first, or day and month in any order."""
    if pd.api.types.is_numeric_dtype(known) or known.empty:
        return False
    text = known.map(str)
    month, day = "(0?[1-9]|1[0-2])", "(0?[1-9]|[12][0-9]|3[01])"
    first = rf"\d{{4}}([-/.]){month}\1{day}([T ].*)?"
    last = rf"({day}([-/.]){month}|{month}([-/.]){day})[-/.]\d{{4}}( .*)?"
    return any(text.str.fullmatch(shape).all() for shape in (first, last))


def _like_numbers(strange: pd.Series) -> bool:
    """Whether nearly all entries that are no numbers would be, without thousands separators, comma and unit."""
    text = strange.map(str)
    whole = r"(\d+|\d{1,3}([.,' ]\d{3})+)"
    return len(text) > 0 and text.str.fullmatch(rf"[€$£]?\s?[-+]?{whole}([.,]\d+)?\s?[%€$£]?").mean() > 0.9


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
