"""Put the claims table into a text between its marks: ``python -m mtlkit.claims README.md``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd

from mtlkit.claims._table import short

MARKS = ("<!-- claims -->", "<!-- end of claims -->")


def with_table(text: str, table: pd.DataFrame) -> str:
    """The text with the short table of claims between :data:`MARKS`.

    Raises:
        ValueError: the marks are not there, once each.
    """
    if any(text.count(mark) != 1 for mark in MARKS):
        raise ValueError(f"expected the lines {' and '.join(MARKS)} once each")
    begin, end = MARKS
    block = f"{begin}\n{short(table).to_markdown()}\n{end}"
    return re.sub(f"{begin}.*{end}", lambda _: block, text, flags=re.DOTALL)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    claims = pd.read_csv("figures/claims/claims.csv", dtype=str, keep_default_na=False)
    path.write_text(with_table(path.read_text(encoding="utf-8"), claims), encoding="utf-8")
