"""What the studies have in common: train contenders under conditions, beside floors, and say what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display

from companion import claims, figures, paired, tables
from companion.show import show
from mtlkit import models, studies
from mtlkit.datasets import Dataset
from mtlkit.levels import CONSTANT, levels
from mtlkit.merging import Merging
from mtlkit.results import Runs, compare
from mtlkit.stats import estimate
from mtlkit.studies import Candidate, Study
from mtlkit.weighting import Weighting


@dataclass(frozen=True)
class Studied:
    """Outcomes and floors by condition.

    Attributes:
        outcomes: condition to its study.
        floors: condition to its constant and linear models.
        overlap: condition to how much its seeds have in common: n_test / n_train where they split the same rows again
            (:func:`mtlkit.stats.contrast`). Intervals over seeds and of differences are wider for it.
        called: what tables call a condition.
    """

    outcomes: dict[str, Study]
    floors: dict[str, dict[str, Runs]]
    overlap: Mapping[str, float]
    called: str = "condition"

    def lines(self, metric: str = "loss") -> dict[str, dict[str, float]]:
        """Condition to the floors' mean of a test metric."""
        return tables.floor_means(self.floors, metric)

    def means(self, metric: str = "loss", start: str = "") -> dict[str, pd.DataFrame]:
        """Condition to mean, low and high of the main task's test metric, a row per method.

        Args:
            start: of the conditions to take.
        """
        found = {
            name: studies.per_seed(outcome, metric).apply(estimate, overlap=self.overlap[name]).T
            for name, outcome in self.outcomes.items()
            if name.startswith(start)
        }
        return {name: tables.possible(table, metric)[["mean", "low", "high"]] for name, table in found.items()}

    def summaries(self, metrics: Sequence[str], reference: str = "Uniform") -> dict[str, pd.DataFrame]:
        """Condition to its :func:`companion.tables.summary`."""
        return {c: tables.summary(o, metrics, reference, self.overlap[c]) for c, o in self.outcomes.items()}

    def show_summaries(
        self, folder: str | None, names: Mapping[str, str], metrics: Sequence[str], reference: str = "Uniform"
    ) -> None:
        """A table for each condition, best first, saved with :func:`companion.tables.summary` behind it.

        Args:
            names: condition to the name under which its table is saved.
            metrics: the first is compared with the reference.
        """
        for condition, table in self.summaries(metrics, reference).items():
            shown = tables.readable_summary(table)
            how = f"Floors: {tables.floors_in_words(self.lines(metrics[0])[condition])}."
            show(
                shown, names[condition], folder, says=f"{condition}: {shown.index[0]} is first.", how=how, numbers=table
            )

    def compared(self, pairs: Sequence[tuple[str, str]], metric: str) -> pd.DataFrame:
        """A method's metric minus another's, seed by seed: a row per condition and pair of trained ones."""
        rows = [
            compare([outcome.runs[other], outcome.runs[method]], metric, overlap=self.overlap[condition]).assign(
                **{self.called: condition, "method": method, "against": other}
            )
            for condition, outcome in self.outcomes.items()
            for method, other in pairs
            if {method, other} <= outcome.runs.keys()
        ]
        return pd.concat(rows)[[self.called, "method", "against", "difference", "low", "high", "p", "seeds"]]

    def show_spread(self, folder: str | None, name: str, metric: str, start: str = "") -> None:
        """Mean, standard deviation and maximum over seeds: :func:`companion.tables.spread`.

        Args:
            start: of the sentence that says what was found.
        """
        parts = {condition: tables.spread(outcome, metric) for condition, outcome in self.outcomes.items()}
        spread = pd.concat(parts, names=[self.called])
        condition, method = spread["max"].idxmax()
        says = f"{start}the highest maximum, {spread['max'].max():.3f}, is that of {method} ({condition})."
        whole = spread.reset_index()
        show(spread.round(3).reset_index().set_index(self.called), name, folder, says=says, numbers=whole)

    def collapsed(self, metric: str) -> pd.DataFrame:
        """How many seeds come to no more than half of what the best contender has over the constant.

        Args:
            metric: of the test rows, the higher the better.

        Returns:
            a row per condition and method: collapsed seeds, of how many, and the metric's mean over the others.
        """
        rows = {}
        for condition, floors in self.lines(metric).items():
            values = studies.per_seed(self.outcomes[condition], metric)
            down = values < (floors[CONSTANT] + values.mean().max()) / 2
            counts = {"collapsed seeds": down.sum(), "of": len(values), "mean of the others": values[~down].mean()}
            rows[condition] = pd.DataFrame(counts)
        return pd.concat(rows, names=[self.called, "method"])

    def numbers(self, metrics: Sequence[str]) -> pd.DataFrame:
        """Every number for every seed, for the claims: :func:`companion.tables.protocol_table`."""
        return tables.protocol_table(self.outcomes, self.floors, metrics, self.overlap)

    def show_tuning(self, folder: str | None, names: str | Mapping[str, str]) -> None:
        """Per contender what was chosen, and whether a verdict may rest on it; the search behind it is saved.

        Args:
            names: under which the searches are saved together, or condition to the name of its own.
        """
        if isinstance(names, str):
            together = pd.concat({c: outcome.tuning for c, outcome in self.outcomes.items()}, names=[self.called])
            tables.save_table(together.reset_index(self.called), None, folder, names)
        for condition, outcome in self.outcomes.items():
            if not isinstance(names, str):
                tables.save_table(outcome.tuning, None, folder, names[condition])
            floors = tables.floors_in_words(self.lines()[condition])
            display(Markdown(f"**{condition}**; floors: {floors}"), outcome.choices)


BUDGET = (
    "doublings", "tuning_seeds", "seeds", "jobs", "chunk", "epochs", "patience", "steps_per_epoch", "batch_size",
    "meta_batch_size", "store", "missing",
)  # fmt: skip
"""Parameters of a notebook that go to :func:`mtlkit.studies.study` under their own names."""


def budget(parameters: Mapping[str, object]) -> dict[str, object]:
    """What a notebook's parameters say of the training, as arguments of :func:`studied`.

    Args:
        parameters: names to values, such as a notebook's ``globals()``: those of :data:`BUDGET` that are there,
            ``learning_rates``, ``more_learning_rates`` and ``precision``.
    """
    found = {name: parameters[name] for name in BUDGET if name in parameters}
    rates = {"lrs": parameters["learning_rates"], "more_lrs": parameters["more_learning_rates"]}
    return found | rates | {"dtype": getattr(torch, parameters["precision"])}


def studied(
    conditions: Mapping[str, tuple[Dataset, dict]],
    *,
    seeds: int,
    store: str | None,
    missing: str,
    called: str = "condition",
    overlap: float | Mapping[str, float] = 0.0,
    **options,
) -> Studied:
    """Study contenders under every condition; one that the store lacks is left out where nothing is trained.

    Args:
        conditions: name to its data and the candidates of :func:`mtlkit.studies.study`.
        seeds, store, missing: see there.
        called: what tables call a condition.
        overlap: how much the seeds have in common, under all conditions or by condition: :attr:`Studied.overlap`.
        options: the other arguments of :func:`mtlkit.studies.study`.
    """
    outcomes, floors = {}, {}
    for condition, (data, candidates) in conditions.items():
        where = {"store": store, "missing": missing}
        found = studies.study(candidates, seeds=seeds, label=f"{condition}, ", **where, **options)
        floor = levels(data, seeds, **where) if found.runs else {}
        if CONSTANT in floor:
            outcomes[condition], floors[condition] = found, floor
    shared = overlap if isinstance(overlap, Mapping) else dict.fromkeys(conditions, overlap)
    return Studied(outcomes, floors, shared, called)


def on_overlaid(data: Dataset, weighting: Weighting | Merging, **options) -> Candidate:
    """A contender on two overlaid digits: Multi-LeNet, or a perceptron where the digits are small scans."""
    images = data.train.x.ndim == 4
    model = models.multi_lenet(data) if images else models.mlp(data, hidden=(64, 64))
    return Candidate(model, data, weighting, options)


def against(numbers: pd.DataFrame, condition: str, method: str, other: str, metric: str = "loss") -> str:
    """Where a method's mean lies beside another's, in words, by the rules of the claims.

    Args:
        numbers: of :meth:`Studied.numbers`.
    """
    rows = claims.compared(claims.Numbers(numbers), [claims.Versus(condition, method, [other], metric)])
    row = claims.outcomes(rows).iloc[0]
    low, high = sorted((abs(row["low"]), abs(row["high"])))
    mean = f"{row['theirs']:.3f}"
    if row["outcome"] == "level":
        return f"level with {other} ({mean})"
    if not row["low"] * row["high"] > 0:
        difference = f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
        return f"not clearly apart from {other} ({mean}; {difference})"
    where = "below" if row["difference"] < 0 else "above"
    hangs = "; unclear: another rate would narrow it" if row["rate"] == "decides" else ""
    return f"{abs(row['difference']):.3f} [{low:.3f}, {high:.3f}] {where} {other} ({mean}{hangs})"


def ranks(numbers: pd.DataFrame, condition: str, method: str, others: Sequence[str]) -> str:
    """What becomes of the order by loss where test rows are ranked: a sentence, empty where that is not measured."""
    rows = numbers[(numbers["condition"] == condition) & (numbers["metric"] == "average_precision")]
    means = rows.groupby("method")["value"].mean().reindex([*dict.fromkeys([method, *others])]).dropna()
    if method not in means:
        return ""
    return f" By average precision {means.idxmax()} ranks best, {means.max():.3f}; {method} has {means[method]:.3f}."


def caution(numbers: pd.DataFrame, condition: str, method: str) -> str:
    """Why a method's numbers decide nothing under a condition, as a sentence; empty if they may."""

    def mean(name: str, metric: str) -> float:
        rows = numbers[(numbers["condition"] == condition) & (numbers["method"] == name)]
        return rows[rows["metric"] == metric]["value"].mean()

    why = []
    if mean(method, "loss") >= mean(CONSTANT, "loss"):
        why.append("it is no better than a constant")
    if (late := mean(method, "late")) > claims.LATE:
        why.append(f"{late:.0%} of its seeds still improved at the end of the training")
    if mean(method, "edge") > 0:
        why.append("its learning rate lies at the edge of those tried")
    return f" No verdict on {method}: {listed(why)}." if why else ""


def listed(parts: Sequence[str]) -> str:
    """Parts of a sentence: a, b and c."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def best_of(numbers: pd.DataFrame, condition: str, methods: Sequence[str], metric: str = "loss") -> str:
    """The method with the lowest mean among those that are there; a diverged seed's loss is infinite."""
    own = numbers[(numbers["condition"] == condition) & (numbers["metric"] == metric)]
    means = own[own["method"].isin(methods)].fillna({"value": np.inf}).groupby("method")["value"].mean()
    return means.idxmin()


def overtaken(runs: Mapping[str, Runs], method: str, other: str, steps_per_epoch: int) -> str:
    """From which step on the reported test loss of a method stays below another's, in words."""
    ours, theirs = (figures.so_far(runs[name]).mean() for name in (method, other))
    epochs = range(1, max(ours.index[-1], theirs.index[-1]) + 1)
    below = (ours.reindex(epochs).ffill() < theirs.reindex(epochs).ffill()).to_numpy()
    if not below[-1]:
        return f"the mean of {method} {'ends' if below.any() else 'stays'} above that of {other}"
    start = int(np.flatnonzero(~below)[-1]) + 2 if not below.all() else 1
    return f"the mean of {method} is below that of {other} from step {start * steps_per_epoch:,} on"


def gain(numbers: pd.DataFrame, condition: str, method: str, other: str, metric: str = "loss") -> float:
    """By how much a method's mean loss lies below another's, over the same seeds."""
    own = numbers[numbers["condition"] == condition]
    return paired.gains_over(own, metric, other).set_index("method").loc[method, "gain"]


def scale(store: str | None) -> str:
    """How a sentence begins that says what a study found: with a warning where no full-scale run is behind it."""
    return "Quick scale, which decides nothing: " if store is None else ""


def tally(table: pd.DataFrame) -> str:
    """How many differences are clear, in words: their 95 % interval, ``low`` to ``high``, leaves out zero."""
    ahead, behind = (table["low"] > 0).sum(), (table["high"] < 0).sum()
    return f"clearly ahead in {ahead} of {len(table)} comparisons, clearly behind in {behind}"
