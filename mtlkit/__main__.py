"""``python -m mtlkit advise my.csv --main target``: advice on a table, see :func:`mtlkit.advise`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mtlkit.advice import Refused, advise, read
from mtlkit.advice._advice import EFFORTS


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the advice; 2 for a table that is refused, whose reason goes to stderr."""
    parser = argparse.ArgumentParser(prog="python -m mtlkit")
    command = parser.add_subparsers(required=True).add_parser(
        "advise", help="what to use to predict a column of a table, and whether auxiliary columns help"
    )
    command.add_argument("path", help="a CSV (also gzipped) or Parquet file")
    command.add_argument("--main", required=True, help="the column that matters")
    for name, what in (
        ("auxiliaries", "columns that are known now and will not be when you predict"),
        ("leave-out", "columns to ignore"),
        ("dates", "columns whose year, month and weekday are inputs"),
    ):
        command.add_argument(f"--{name}", nargs="+", default=[], metavar="COLUMN", help=what)
    command.add_argument("--kinds", nargs="+", default=[], metavar="TARGET=KIND", help="such as stars=regression")
    command.add_argument("--groups", metavar="COLUMN", help="rows of a group stay together")
    command.add_argument("--time", metavar="COLUMN", help="train on early rows, test on late ones")
    command.add_argument("--balanced", action="store_true", help="give each class the same weight")
    command.add_argument("--effort", choices=EFFORTS, default="default")
    command.add_argument("--jobs", type=int, default=2, help="processes")
    command.add_argument("--encoding", default="utf-8", help="of a CSV file")
    command.add_argument("--decimal", default=".", help="decimal point of a CSV file")
    command.add_argument("--out", type=Path, metavar="FOLDER", help="for report.html, the tables and model.pt")
    given = vars(parser.parse_args(arguments))
    out, path, encoding, decimal = (given.pop(name) for name in ("out", "path", "encoding", "decimal"))
    try:
        if out is not None and out.exists() and not out.is_dir():
            raise Refused(f"out is {out}, which is a file, expected a folder")
        given["kinds"] = dict(_pair(text) for text in given["kinds"])
        found = advise(read(path, encoding, decimal), **given)
    except Refused as reason:
        print(reason, file=sys.stderr)
        return 2
    print(found)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.html").write_text(found._repr_html_(), encoding="utf-8")
        for name in ("levels", "helps", "which", "suspects", "check", "columns"):
            getattr(found, name).to_csv(out / f"{name}.csv")
        found.model.save(out / "model.pt")
    return 0


def _pair(text: str) -> list[str]:
    pair = [part.strip() for part in text.rsplit("=", 1)]
    if len(pair) != 2:
        raise Refused(f"kinds is {text!r}, expected TARGET=KIND such as stars=regression")
    return pair


if __name__ == "__main__":
    sys.exit(main())
