"""Put the claims table into a text between its marks: ``python -m companion.claims README.md``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd

from companion.claims._papers import PAPERS_BASELINES
from companion.claims._table import short

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


HERO = ("<!-- hero -->", "<!-- end of hero -->")


def with_hero(text: str, numbers: pd.DataFrame) -> str:
    """The text with what the picture on top says, in a sentence, between the marks :data:`HERO`.

    Args:
        numbers: the per-seed numbers of label_noise_mnist.

    Raises:
        ValueError: the marks are not there, once each.
    """
    if any(text.count(mark) != 1 for mark in HERO):
        raise ValueError(f"expected the lines {' and '.join(HERO)} once each")
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
    return re.sub(f"{HERO[0]}.*{HERO[1]}", lambda _: f"{HERO[0]}\n{sentence}\n{HERO[1]}", text, flags=re.DOTALL)


def main(path: Path) -> None:
    """Bring a text up to date with what the pipeline found."""
    claims = pd.read_csv("figures/claims/claims.csv", dtype=str, keep_default_na=False)
    numbers = pd.read_csv("figures/label_noise_mnist/label_noise_mnist_per_seed.csv")
    text = with_hero(with_table(path.read_text(encoding="utf-8"), claims), numbers)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
