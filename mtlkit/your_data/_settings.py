"""The notebook's parameters as a user may write them, also on a command line."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtlkit.your_data._read import Refused, located


@dataclass(frozen=True)
class Settings:
    """Parameters that have passed the checks.

    Attributes:
        learning_rates: one or more, different.
        seeds: two or more; None for the number that fits the table.
        audit_levels: none, or shares of wrong labels from 0.05 to 0.95.
        jobs: number of processes.
        out: folder, or None.
    """

    learning_rates: tuple[float, ...]
    seeds: int | None
    audit_levels: tuple[float, ...]
    jobs: int
    out: Path | None


def settings(
    *,
    learning_rates: Sequence[float] | float | str,
    seeds: int | None,
    audit_levels: Sequence[float] | float | str,
    jobs: int,
    out: str | None,
) -> Settings:
    """Check everything that is not about the table, before anything is trained.

    Args:
        learning_rates: a list, a number, or text with commas between the numbers.
        audit_levels: given alike.

    Raises:
        Refused: naming the parameter.
    """
    rates = _numbers("learning_rates", learning_rates)
    if not rates or min(rates) <= 0 or len(set(rates)) < len(rates):
        raise Refused(f"learning_rates is {learning_rates!r}, expected one or more different numbers above 0")
    levels = _numbers("audit_levels", audit_levels)
    if any(not 0.05 <= level <= 0.95 for level in levels) or len(set(levels)) < len(levels):
        raise Refused(f"audit_levels is {audit_levels!r}, expected different shares from 0.05 to 0.95, or none")
    if seeds is not None and (not isinstance(seeds, numbers.Integral) or seeds < 2):
        raise Refused(f"seeds is {seeds!r}, expected None or a whole number from 2: an interval needs two")
    if not isinstance(jobs, numbers.Integral) or jobs < 1:
        raise Refused(f"jobs is {jobs!r}, expected a whole number from 1")
    folder = None if out is None else located(str(out))
    if folder is not None and folder.exists() and not folder.is_dir():
        raise Refused(f"out is {out!r}, which is a file, expected a folder")
    return Settings(rates, seeds, levels, jobs, folder)


def _numbers(name: str, given: object) -> tuple[float, ...]:
    items = given
    if isinstance(given, str):
        items = split(given)
    elif isinstance(given, numbers.Real):
        items = [given]
    try:
        found = tuple(float(item) for item in items)
    except (TypeError, ValueError):
        found = (math.nan,)
    if not all(map(math.isfinite, found)):
        raise Refused(f"{name} is {given!r}, expected numbers")
    return found


def split(text: str) -> list[str]:
    """The parts of a text between commas, with or without brackets around them."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    return [part.strip(" '\"") for part in text.split(",") if part.strip(" '\"")]


def listed(names: Sequence[str] | str | None, columns: Sequence[str]) -> list[str]:
    """Names of columns: a list, one name, or text with commas between names; none for None."""
    if names is None:
        return []
    if not isinstance(names, str):
        return [str(name) for name in names] if isinstance(names, Sequence) else [str(names)]
    return [names] if names in columns else split(names)


def kinds_of(kinds: Mapping[str, str] | str | None) -> dict[str, str]:
    """Target to kind: a mapping, or text such as ``"stars=regression, sold=binary"``.

    Raises:
        Refused: neither.
    """
    if isinstance(kinds, Mapping):
        return {str(column): kind for column, kind in kinds.items()}
    pairs = [part.rsplit("=", 1) for part in split(kinds)] if isinstance(kinds, str) else []
    if (kinds and not pairs) or any(len(pair) != 2 for pair in pairs):
        raise Refused(f"kinds is {kinds!r}, expected a dictionary or text such as 'stars=regression, sold=binary'")
    return {column.strip(): kind.strip() for column, kind in pairs}
