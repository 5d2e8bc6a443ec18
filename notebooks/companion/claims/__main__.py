"""Bring a text up to date with what the pipeline found: ``python -m companion.claims README.md``."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from companion.claims._front import filled, generated


def main(path: Path) -> None:
    """Write every generated part of a front page anew, between its marks."""
    claims = pd.read_csv("figures/claims/claims.csv", dtype=str, keep_default_na=False)
    studies = ("label_noise_mnist/label_noise_mnist", "clean_rows/clean_rows")
    numbers = [pd.read_csv(f"figures/{study}_per_seed.csv") for study in studies]
    collapsed = pd.read_csv("figures/alphavil/alphavil_collapsed.csv")
    parts = generated(claims, *numbers, collapsed)
    path.write_text(filled(path.read_text(encoding="utf-8"), parts), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
