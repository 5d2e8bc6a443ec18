"""What every study of label noise shows: the finding, every contender, training, and where the weight goes."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from companion import figures, recipe, tables
from companion.claims import PAPERS_BASELINES
from companion.recipe import Studied
from companion.show import show
from mtlkit import datasets
from mtlkit.datasets import Dataset

DRAWN = (
    *("Uniform", "single task", "SLGrad", "SLGrad, main task only"),
    *("meta rows only", "train + meta, half each", "clean main labels"),
)
"""Contenders to draw in colour."""
LABEL = "main-task test loss (lower is better)"


def ten_tasks(dataset: str, main: int | str, label_noise: float, **options) -> Dataset:
    """Ten one-vs-rest tasks on images, MNIST's at 14x14; ``options`` of :func:`mtlkit.datasets.outline`."""
    pixels = {"pixels": 14} if dataset == "mnist" else {}
    return datasets.outline(dataset, main=main, label_noise=label_noise, **pixels, **options)


def lead(found: Studied, numbers: pd.DataFrame, out: str | None, steps_per_epoch: int) -> None:
    """SLGrad at the highest noise beside the best of its paper's baselines, the clean rows used directly, and floors.

    Args:
        numbers: condition, method, seed, metric, value.
        out: where the picture is saved.
    """
    noisy = _noisiest(found)
    runs, losses = found.outcomes[noisy].runs, found.means()[noisy]
    best = recipe.best_of(numbers, noisy, PAPERS_BASELINES)
    drawn = [m for m in dict.fromkeys([*DRAWN, best, "single task, forward correction"]) if m in runs]
    weighed = [runs[m] for m in ("Uniform", "SLGrad", "SLGrad, main task only") if m in runs]
    opponents = [m for m in (best, "meta rows only", "clean main labels") if m in runs]
    others = [recipe.against(numbers, noisy, "SLGrad", o) for o in (*opponents, "linear model, clean rows")]
    floors, title = found.lines()[noisy], f"Test loss, {noisy}"
    ranked = recipe.ranks(numbers, noisy, "SLGrad", [*drawn, "linear model, clean rows"])
    show(
        figures.weights_and_losses(weighed, losses.loc[drawn], floors, title=title, steps_per_epoch=steps_per_epoch),
        "label_noise_weights",
        out,
        says=f"With {noisy.split()[0]} wrong labels SLGrad's test loss, {losses.loc['SLGrad', 'mean']:.3f}, is "
        f"{recipe.listed(others)}.{recipe.caution(numbers, noisy, 'SLGrad')}",
        how="Left, the share of the main task's weight that goes to wrong labels; right, test losses beside floors. "
        f"{best} is the best of the paper's baselines; brackets hold 95 % intervals of paired differences.{ranked}",
    )


def every_contender(
    found: Studied, numbers: pd.DataFrame, out: str | None, name: str, metrics: Sequence[str], figure: str
) -> None:
    """A ranking of all contenders, and a table for each condition.

    Args:
        name: under which the tables are saved, with the level of noise.
        metrics: of the tables, the loss first.
        figure: under which the ranking is saved.
    """
    ranked = dict(sorted(found.means().items(), key=lambda item: -float(item[0].split("%")[0])))
    lowest = [f"at {c}: {t['mean'].idxmin()} ({t['mean'].min():.3f})" for c, t in ranked.items()]
    says = f"The lowest test loss {', '.join(lowest)}."
    how = "Test losses of all contenders, a row's best of the first panel on top; what lies right of the dotted "
    how += "line, a constant, has learned nothing."
    show(figures.ranking(ranked, label=LABEL, floors=found.lines()), figure, out, says=says, how=how)
    by_condition(found, numbers, out, name, metrics)


def by_condition(found: Studied, numbers: pd.DataFrame, out: str | None, name: str, metrics: Sequence[str]) -> None:
    """A table of all contenders for each condition."""
    for condition, table in found.summaries(metrics).items():
        others = [m for m in ("Uniform", "SLGrad, main task only") if m in found.outcomes[condition].runs]
        words = recipe.listed([recipe.against(numbers, condition, "SLGrad", other) for other in others])
        show(
            tables.readable_summary(table).drop(columns="loss, last epoch"),
            f"{name}_{condition.split('%')[0]}",
            out,
            says=f"{condition}: SLGrad is {words}.{recipe.caution(numbers, condition, 'SLGrad')}",
            how=f"Floors: {tables.floors_in_words(found.lines()[condition])}.",
            numbers=table,
        )


def over_training(found: Studied, out: str | None, steps_per_epoch: int) -> None:
    """The test loss that would be reported had training stopped there, at the best epoch so far on the meta rows."""
    panels = {c: [o.runs[m] for m in DRAWN if m in o.runs] for c, o in found.outcomes.items()}
    words = [
        f"{c}: {recipe.overtaken(o.runs, 'SLGrad', 'Uniform', steps_per_epoch)}" for c, o in found.outcomes.items()
    ]
    figure = figures.reached(panels, found.lines(), steps_per_epoch=steps_per_epoch)
    how = "Test loss at the best epoch so far on the meta rows, mean and 95 % band over seeds; lines are floors."
    show(figure, "label_noise_curves", out, says=f"{'; '.join(words)}.", how=how)


def weights(found: Studied, numbers: pd.DataFrame, out: str | None, name: str) -> None:
    """Where the weight goes; saves every number for every seed for the claims."""
    shares = tables.share_table(found.outcomes, ["Uniform", "SLGrad", "SLGrad, main task only"])
    tables.save_table(pd.concat([numbers, shares]), None, out, f"{name}_per_seed")
    mean = shares.groupby(["condition", "method", "metric"], sort=False)["value"].mean().unstack().round(3)
    row = mean.loc[_noisiest(found), "SLGrad"]
    show(
        mean,
        f"{name}_shares",
        None,
        says=f"SLGrad gives wrong labels, {row['noisy_labels']:.0%} of all, {row['noisy_weight']:.0%} of the main "
        f"task's weight, and the auxiliaries {row['auxiliary_share_first']:.0%} of the total at first, "
        f"{row['auxiliary_share_last']:.0%} at last.",
        how="Shares, means over seeds.",
    )


def _noisiest(found: Studied) -> str:
    return max(found.outcomes, key=lambda condition: float(condition.split("%")[0]))
