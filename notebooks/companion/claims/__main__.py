"""Bring a text up to date with what the pipeline found: ``python -m companion.claims README.md``."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from companion.claims._papers import PAPERS_BASELINES
from companion.claims._table import short


def with_table(text: str, table: pd.DataFrame) -> str:
    """The text with the short table of claims between its marks.

    Raises:
        ValueError: the marks are not there, once each.
    """
    return _between(text, "claims", short(table).to_markdown())


def with_hero(text: str, numbers: pd.DataFrame) -> str:
    """The text with what the picture on top says, in a sentence, between its marks.

    Args:
        numbers: the per-seed numbers of label_noise_mnist.

    Raises:
        ValueError: the marks are not there, once each.
    """
    rows = numbers[(numbers["condition"] == "60% label noise") & (numbers["metric"] == "loss")]
    mean = rows.groupby("method")["value"].mean()
    best = mean[list(PAPERS_BASELINES)].min()
    seeds = rows["seed"].nunique()
    sentence = (
        f"MNIST as ten one-vs-rest tasks, 60 % of the main task's 1,000 training labels flipped, {seeds} seeds with "
        f"rows of their own, training until the loss on clean rows stops falling (3,000 steps, more where needed): "
        f"SLGrad's test loss is {mean['SLGrad']:.3f}. The best of its paper's seven baselines has {best:.3f}, plain "
        f"training on the 200 clean rows that guide SLGrad {mean['meta rows only']:.3f}, a logistic regression on them "
        f"{mean['linear model, clean rows']:.3f}, and a constant {mean['constant']:.3f}."
    )
    return _between(text, "hero", sentence)


def _between(text: str, name: str, block: str) -> str:
    """The text with a block between the marks of this name."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if any(text.count(mark) != 1 for mark in (begin, end)):
        raise ValueError(f"expected the lines {begin} and {end} once each")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{block}\n{end}{rest.partition(end)[2]}"


def main(path: Path) -> None:
    """Bring a text up to date."""
    claims = pd.read_csv("figures/claims/claims.csv", dtype=str, keep_default_na=False)
    numbers = pd.read_csv("figures/label_noise_mnist/label_noise_mnist_per_seed.csv")
    text = with_hero(with_table(path.read_text(encoding="utf-8"), claims), numbers)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
