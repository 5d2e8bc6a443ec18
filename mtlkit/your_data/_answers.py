"""Train the contenders and answer: do the auxiliaries help, which one, which samples hurt, what to use?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from scipy import stats

from mtlkit import studies
from mtlkit.datasets import Dataset
from mtlkit.models import MultiTaskModel, mlp
from mtlkit.results import Runs
from mtlkit.samples import audit, sample_losses
from mtlkit.stats import estimate, holm
from mtlkit.studies import Candidate, Study
from mtlkit.tasks import KINDS, labelled, lower_is_better
from mtlkit.weighting import GradientCosine, HydaLearn, SLGrad, Uniform, Weighting
from mtlkit.your_data._table import HELD_OUT, Prepared

SINGLE = "single task"
MANY_ROWS = 5000
WEIGHT, SLGRAD_LOSS = "weight under SLGrad", "loss under SLGrad"
METRICS = {name: next(iter(kind.metrics)) for name, kind in KINDS.items()}
"""The metric that decides, by the kind of the main task."""

METHODS = {
    "Uniform": Uniform(),
    "GradientCosine": GradientCosine(),
    "HydaLearn": HydaLearn(),
    "SLGrad": SLGrad(),
}
"""What is compared with single-task training: equal weights, and weights per task, per batch and per sample."""


def model(data: Dataset) -> MultiTaskModel:
    """The model of every contender: two shared layers of 32, one linear head per task."""
    return mlp(data, hidden=(32, 32))


def contenders(data: Dataset, methods: Mapping[str, Weighting] = METHODS) -> dict[str, Candidate]:
    """Single-task training, the methods, and equal weights without each of the auxiliaries in turn.

    The last are named ``without NAME``; with one auxiliary that is single-task training itself.
    """
    names = [task.name for task in data.tasks]
    parts = {SINGLE: data.only(names[:1])}
    if len(names) > 2:
        parts |= {f"without {out}": data.only([n for n in names if n != out]) for out in names[1:]}
    found = {name: Candidate(model(part), part, Uniform()) for name, part in parts.items()}
    return found | {name: Candidate(model(data), data, weighting) for name, weighting in methods.items()}


def budget(data: Dataset) -> dict[str, object]:
    """Options of :func:`mtlkit.studies.study` that fit the number of rows: minutes on two cores up to 50,000.

    Twelve epochs of 20 to 40 steps. Ten seeds, five above 5,000 training rows, which also take larger batches.
    """
    rows = len(data.train)
    batch_size = 256 if rows > MANY_ROWS else min(64, rows)
    return {
        "seeds": 5 if rows > MANY_ROWS else 10,
        "tuning_seeds": 2,
        "tuning_epochs": 4,
        "epochs": 12,
        "steps_per_epoch": min(max(rows // batch_size, 20), 40),
        "batch_size": batch_size,
        "meta_batch_size": min(256, len(data.meta)),
        "optimizer": torch.optim.Adam,
        "dtype": torch.float64,
    }


def in_units(outcome: Study, data: Dataset) -> Study:
    """The same study with a regression's ``rmse`` and ``mae`` in the units of the main column."""
    main = data.main.name

    def scaled(runs: Runs) -> Runs:
        if main not in data.scale:
            return runs
        sd = {seed: data.resample(seed).scale[main][1] for seed in runs.seeds}
        frame = runs.frame
        own = (frame["task"] == main) & frame["metric"].isin(["rmse", "mae"])
        return replace(
            runs, frame=frame.assign(value=frame["value"].where(~own, frame["value"] * frame["seed"].map(sd)))
        )

    return replace(outcome, runs={name: scaled(runs) for name, runs in outcome.runs.items()})


def contrast(outcome: Study, pairs: Mapping[str, tuple[str, str]], data: Dataset, metric: str) -> pd.DataFrame:
    """Pairs of methods, the second minus the first, on the main task's test split at the selected epoch.

    Args:
        pairs: name of the row to (reference, method).

    Returns:
        ``difference`` (mean over seeds), ``low`` and ``high`` (95 % interval), ``p`` (two-sided), ``p, Holm``
        (adjusted for the number of rows), ``p, seeds alone`` and ``seeds``. The last ``p`` is that of
        :func:`mtlkit.compare`, which takes the seeds as independent. But they draw their splits from the same rows:
        interval and ``p`` allow for that and multiply the variance of the mean by 1 + n · test labels / training
        labels (Nadeau and Bengio, *Inference for the Generalization Error*, 2003; n seeds, labels of the main
        task, the ratio at least the 1/3 by which groups are split), but for a split by time, which is the same
        for all seeds. ``verdict`` (better, worse or no difference) asks for ``p, Holm`` below 0.05. Where all
        seeds have the same difference there is no interval and no p-value (NaN; 1 for Holm), hence no difference.
    """
    train, test = (int(labelled(split.y[data.main.name]).sum()) for split in (data.train, data.test))
    overlap = 0.0 if data.redraw is None else max(test / train, HELD_OUT / (1 - 2 * HELD_OUT))
    values = studies.per_seed(outcome, metric)
    rows = []
    for reference, method in pairs.values():
        differences = (values[method] - values[reference]).dropna()
        n, mean = len(differences), differences.mean()
        sem = differences.sem()
        if not sem > 1e-9 * values[reference].abs().mean():
            sem = np.nan
        wide = sem * np.sqrt(1 + n * overlap)
        half = stats.t.ppf(0.975, n - 1) * wide
        p, alone = (2 * stats.t.sf(abs(mean) / error, n - 1) for error in (wide, sem))
        rows.append((mean, mean - half, mean + half, p, alone, n))
    columns = ["difference", "low", "high", "p", "p, seeds alone", "seeds"]
    table = pd.DataFrame(rows, index=pd.Index(pairs, name="method"), columns=columns)
    table.insert(4, "p, Holm", holm(table["p"]))
    sign = -1 if lower_is_better(metric) else 1
    sure = table["p, Holm"] < 0.05
    table["verdict"] = np.where(~sure, "no difference", np.where(sign * table["difference"] > 0, "better", "worse"))
    return table


def against_single(outcome: Study, data: Dataset, metric: str, methods: Sequence[str] = tuple(METHODS)) -> pd.DataFrame:
    """Do the auxiliaries help? Every method against single-task training, see :func:`contrast`."""
    return contrast(outcome, {name: (SINGLE, name) for name in methods}, data, metric)


def attribution(outcome: Study, data: Dataset, metric: str) -> pd.DataFrame:
    """Which auxiliary helps? Equal weights with it against equal weights without it, and the weight it got.

    Returns:
        the columns of :func:`contrast` (all auxiliaries minus all but this one), with ``helps``, ``hurts`` or
        ``no difference`` as the verdict, and for HydaLearn and SLGrad the auxiliary's share of the total weight in the
        first and in the last epoch, mean over seeds.
    """
    names = [task.name for task in data.tasks[1:]]
    without = {name: f"without {name}" if len(names) > 1 else SINGLE for name in names}
    table = contrast(outcome, {name: (without[name], "Uniform") for name in names}, data, metric)
    table["verdict"] = table["verdict"].replace({"better": "helps", "worse": "hurts"})
    for method in ("HydaLearn", "SLGrad"):
        frame = outcome.runs[method].frame
        rows = frame[(frame["metric"] == "weight") & (frame["split"] == "train")]
        share = rows.groupby(["task", "epoch"])["value"].mean().unstack()
        table[f"{method}, first"] = share.iloc[:, 0]
        table[f"{method}, last"] = share.iloc[:, -1]
    return table.rename_axis("auxiliary")


def suspects(runs: Runs, prepared: Prepared) -> pd.DataFrame:
    """Which samples hurt? The rows of the table, those that contradict their main label most first.

    The order is that of the main loss after training under a sample-level method, the largest first: such a
    method takes the weight off labels that contradict the meta split, and a label that the model was not made
    to follow keeps its loss. The weight alone is lowest for labels that are learned already and have no gradient left.

    Args:
        runs: of a sample-level method with :func:`model`.

    Returns:
        indexed by the row of the table (from 0): ``loss`` (after training, mean over the seeds that trained on the
        row), ``weight``, ``low``, ``high`` and ``seeds`` as in :func:`mtlkit.audit`, and the table's own columns, the
        main one first, as they are (objects).
    """
    data = prepared.data
    main = data.main.name
    found = audit(runs).samples
    found = found[found["task"] == main].drop(columns=["task", "noisy"]).set_index("row")
    losses = sample_losses(runs, model(data), data)
    found.insert(0, "loss", losses[losses["task"] == main].groupby("row")["loss"].mean())
    own = prepared.frame.reset_index(drop=True)
    own = own[[main, *own.columns.drop(main)]]
    own = own.rename(columns={name: f"{name} (column)" for name in own if name in {"row", *found}}).astype(object)
    return found.sort_values(["loss", "weight"], ascending=[False, True]).join(own)


def answer_samples(table: pd.DataFrame, check: pd.DataFrame | None = None) -> str:
    """Where to look in :func:`suspects`, and how often such a look finds wrong labels that were put there.

    Args:
        check: of :func:`audit_check` on the same table, with one share of wrong labels.
    """
    first = ", ".join(map(str, table.index[:5]))
    text = f"Look first at rows {first} (from 0): the model, trained on them, contradicts their labels most."
    if check is None:
        return text
    share = check["label_noise"].iloc[0]
    auc = {ranking: estimate(rows) for ranking, rows in check.groupby("ranking")["roc_auc"]}
    found, weight = auc.pop(SLGRAD_LOSS), auc.pop(WEIGHT)
    rival = max(auc, key=lambda ranking: auc[ranking]["mean"])
    return (
        f"{text} With {share:.0%} of the labels made wrong on purpose, this order finds those with ROC AUC "
        f"{found['mean']:.2f} [{found['low']:.2f}, {found['high']:.2f}], where 1 is all of them first and 0.5 is "
        f"guessing; the weights alone have {weight['mean']:.2f}, the best other ranking "
        f"{auc[rival]['mean']:.2f} ({rival})."
    )


def _numbers(row: pd.Series) -> str:
    if np.isnan(row["low"]):
        return f"{row['difference']:+.3g}, no interval"
    return f"{row['difference']:+.3g} [{row['low']:+.3g}, {row['high']:+.3g}], adjusted p = {row['p, Holm']:.2g}"


def named(metric: str, main: str) -> str:
    """A metric in words, with its unit."""
    words = {
        "roc_auc": "ROC AUC",
        "rmse": f"rmse, in units of {main}",
        "mae": f"mean absolute error, in units of {main}",
    }
    return words.get(metric, metric.replace("_", " "))


def answer_helps(table: pd.DataFrame, metric: str, main: str) -> str:
    """One sentence on :func:`against_single`."""
    good, bad = (table[table["verdict"] == verdict] for verdict in ("better", "worse"))
    parts = []
    for rows, word in ((good, "better"), (bad, "worse")):
        if len(rows):
            listed = "; ".join(f"{name} {_numbers(row)}" for name, row in rows.iterrows())
            parts.append(f"{word} than single-task training: {listed}")
    start = "Yes" if len(good) else "No"
    if not parts:
        closest = table.loc[_best(table, metric)]
        parts = [f"no difference from single-task training (the best, {closest.name}: {_numbers(closest)})"]
    return f"{start}: {'; '.join(parts)} ({named(metric, main)})."


def _best(table: pd.DataFrame, metric: str) -> str:
    return table["difference"].idxmin() if lower_is_better(metric) else table["difference"].idxmax()


def answer_which(table: pd.DataFrame) -> str:
    """One sentence for each verdict in :func:`attribution`."""
    parts = []
    for verdict in ("helps", "hurts"):
        rows = table[table["verdict"] == verdict]
        if len(rows):
            listed = "; ".join(f"{name}, {_numbers(row)}" for name, row in rows.iterrows())
            parts.append(f"What {verdict}: {listed}.")
    rest = table.index[table["verdict"] == "no difference"]
    if len(rest):
        parts.append(f"No difference when left out{', each alone' if len(rest) > 1 else ''}: {', '.join(rest)}.")
    return " ".join(parts)


def answer_use(outcome: Study, helps: pd.DataFrame, which: pd.DataFrame, data: Dataset, metric: str) -> str:
    """What to use, in one sentence.

    Single-task training unless a method is better than it; then equal weights if they are, and no other method is
    better than they are (Holm over those that are better than single-task training); else the best method.
    """
    better = helps[helps["verdict"] == "better"]
    main, why = data.main.name, f"{named(metric, data.main.name)} against single-task training: "
    if better.empty:
        best = helps.loc[_best(helps, metric)]
        return (
            f"Use single-task training of {main} and leave the auxiliaries out: no method that uses them is better "
            f"({named(metric, main)}; the best of them, {best.name}, is at {_numbers(best)})."
        )
    if "Uniform" not in better.index:
        best = _best(better, metric)
        return f"Use {best} ({why}{_numbers(helps.loc[best])})."
    equal = f"Use equal weights for all tasks ({why}{_numbers(helps.loc['Uniform'])})"
    rivals = better.index.drop("Uniform")
    if rivals.empty:
        return f"{equal}.{_drop(which)}"
    against = contrast(outcome, {name: ("Uniform", name) for name in rivals}, data, metric)
    ahead = against[against["verdict"] == "better"]
    best = _best(against if ahead.empty else ahead, metric)
    if ahead.empty:
        return f"{equal}: {best} is not better than they are ({_numbers(against.loc[best])}).{_drop(which)}"
    return f"Use {best} ({why}{_numbers(helps.loc[best])}; against equal weights: {_numbers(against.loc[best])})."


def _drop(which: pd.DataFrame) -> str:
    hurting = which.index[which["verdict"] == "hurts"]
    if not 0 < len(hurting) < len(which):
        return ""
    return f" Leave out {', '.join(hurting)}: {'it hurts' if len(hurting) == 1 else 'each hurts by itself'}."
