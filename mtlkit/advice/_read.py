"""Read a table from a file, or say in one sentence why not."""

from __future__ import annotations

import csv
import gzip
import itertools
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
MISSING = ["", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null"]
"""What counts as a missing entry of a CSV file. ``None`` does not: it may be the name of a class."""


class Refused(ValueError):
    """A table, or a choice of columns, that cannot be answered for.

    IPython shows its message alone, without a traceback, and stops the notebook there.
    """

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def read(path: str | Path, encoding: str = "utf-8", decimal: str = ".") -> pd.DataFrame:
    """The table in a CSV (also gzipped) or Parquet file.

    The separator of a CSV is the one of comma, semicolon, tab and bar that its header has most of, outside quotes, or
    that a first line such as ``sep=;`` names. Lines without a separator above the header are left out: titles and
    comments. Blanks around column names are taken off. A named index of a Parquet file becomes a column.

    Args:
        decimal: the decimal point of a CSV, ``"."`` or ``","``.

    Raises:
        Refused: no such file, another ending, another encoding, no table in it, a column name that is
            there twice, rows that are longer than the header, no rows.
    """
    if not isinstance(path, str | Path) or not str(path):
        raise Refused(f"path is {path!r}, expected the name of a file")
    if "://" in str(path):
        raise Refused(f"{path} is an address, expected a file: download it first")
    if decimal not in (".", ","):
        raise Refused(f"decimal is {decimal!r}, expected '.' or ','")
    path = Path(path).expanduser()
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
        above, separator, lines = _header(line.removeprefix("\ufeff") for line in file)
        records = filter(None, csv.reader(lines, delimiter=separator))
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
        skiprows=above,
        na_values=MISSING,
        keep_default_na=False,
        skipinitialspace=True,
        low_memory=False,
    )
    return frame.rename(columns=str.strip)


def _header(lines: Iterator[str]) -> tuple[int, str, Iterator[str]]:
    """How many lines stand above the header, the separator, and the lines from the header on."""
    top = list(itertools.islice(lines, 20))
    filled = [n for n, line in enumerate(top) if line.strip()]
    named = re.fullmatch(r'"?sep=(.)"?\s*', top[filled[0]]) if filled else None
    filled = filled[1:] if named else filled
    first = filled[0] if filled else 0
    for first, after in itertools.pairwise(filled):
        own, following = (_most(top[n]) for n in (first, after))
        title = not _outside_quotes(top[first], own) and _outside_quotes(top[after], following)
        comment = top[first].startswith("#") and _outside_quotes(top[first], own) != _outside_quotes(top[after], own)
        if not title and not comment:
            break
    separator = named[1] if named else _most("".join(top[first : first + 1]))
    return first, separator, itertools.chain(top[first:], lines)


def _most(line: str) -> str:
    return max(",;\t|", key=lambda separator: _outside_quotes(line, separator))


def _outside_quotes(line: str, separator: str) -> int:
    return re.sub(r'"[^"]*"', "", line).count(separator)
