"""Read a table from a file, or say in one sentence why not."""

from __future__ import annotations

import csv
import gzip
import itertools
import os
import re
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer

CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
MISSING = ["", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null"]
"""What counts as a missing entry of a CSV file. ``None`` does not: it may be the name of a class."""

EXAMPLE_AUXILIARIES = ["worst radius", "worst texture", "worst concave points"]


class Refused(ValueError):
    """A table, or a choice of columns, that cannot be answered for.

    IPython shows its message alone, without a traceback, and stops the notebook there.
    """

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def located(path: str | Path) -> Path:
    """A path as the user means it: relative to the folder in which the run was started.

    ``python -m companion.notebook run`` executes notebooks in another folder and says in the environment
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


def read(path: str | Path | None, encoding: str = "utf-8", decimal: str = ".") -> pd.DataFrame:
    """The table in a CSV (also gzipped) or Parquet file; :func:`example` when None.

    The separator of a CSV is the one of comma, semicolon, tab and bar that its header has most of, outside
    quotes. Blanks around column names are taken off. A named index of a Parquet file becomes a column.

    Args:
        decimal: the decimal point of a CSV, ``"."`` or ``","``.

    Raises:
        Refused: no such file, another ending, another encoding, no table in it, a column name that is
            there twice, rows that are longer than the header, no rows.
    """
    if path is None:
        return example()
    if not isinstance(path, str | Path) or not str(path):
        raise Refused(f"path is {path!r}, expected the name of a file")
    if "://" in str(path):
        raise Refused(f"{path} is an address, expected a file: download it first")
    if decimal not in (".", ","):
        raise Refused(f"decimal is {decimal!r}, expected '.' or ','")
    path = located(path)
    name = path.name
    if path.is_dir():
        raise Refused(f"{path} is a folder, expected a file")
    if not name.lower().endswith((*CSV, ".parquet")):
        raise Refused(f"{name}: the ending is {path.suffix!r}, expected one of {', '.join(CSV)} or .parquet")
    if not path.is_file():
        raise Refused(f"there is no file {path} (looked in {path.parent.resolve()})")
    try:
        frame = _read_parquet(path) if name.lower().endswith(".parquet") else _read_csv(path, encoding, decimal)
    except UnicodeDecodeError as error:
        raise Refused(
            f"{name} is not {encoding}: byte {error.object[error.start]:#04x} does not fit; "
            "save it as UTF-8, or set encoding (often 'cp1252' or 'latin-1')"
        ) from None
    except Refused:
        raise
    except (ValueError, TypeError, LookupError, ImportError, OSError, EOFError, zlib.error, csv.Error) as error:
        reason = str(error).strip().partition("\n")[0]
        raise Refused(f"{name} could not be read as a table: {reason or type(error).__name__}") from None
    if not len(frame):
        raise Refused(f"{name} has no rows")
    return frame


def _read_parquet(path: Path) -> pd.DataFrame:
    frame = pd.read_parquet(path)
    return frame.reset_index() if any(frame.index.names) else frame


def _read_csv(path: Path, encoding: str, decimal: str) -> pd.DataFrame:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rt", encoding=encoding, newline="") as file:
        lines = (line.removeprefix("\ufeff") for line in file)
        first = next((line for line in lines if line.strip()), "")
        unquoted = re.sub(r'"[^"]*"', "", first)
        separator = max(",;\t|", key=unquoted.count)
        records = filter(None, csv.reader(itertools.chain([first], lines), delimiter=separator))
        names, entries = next(records, []), next(records, [])
    names = [name.strip() for name in names]
    if len(entries) > len(names):
        raise Refused(
            f"{path.name}: rows have {len(entries)} entries, the header has {len(names)}; "
            "is there a separator at the end of each row, or a comma in unquoted numbers?"
        )
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise Refused(f"{path.name} has more than one column {', '.join(map(repr, twice))}, expected each name once")
    frame = pd.read_csv(
        path,
        sep=separator,
        encoding=encoding,
        decimal=decimal,
        na_values=MISSING,
        keep_default_na=False,
        skipinitialspace=True,
        low_memory=False,
    )
    return frame.rename(columns=str.strip)
