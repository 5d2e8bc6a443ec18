"""Fair comparisons: every method gets the same seeds, splits, budget and choice of learning rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch

from mtlkit.datasets import Dataset
from mtlkit.merging import Merging
from mtlkit.models import MultiTaskModel
from mtlkit.progress import progress
from mtlkit.results import Runs, compare, interval
from mtlkit.training import BATCH_SIZE, fit
from mtlkit.weighting import SLGrad, Uniform, Weighting


@dataclass(frozen=True)
class Candidate:
    """One contender: a method, the data it may train on, a model for them.

    Attributes:
        options: of :func:`mtlkit.training.fit`, in place of the study's own, for a method that needs
            other numbers at the same budget.
    """

    model: MultiTaskModel
    data: Dataset
    weighting: Weighting | Merging
    options: Mapping[str, object] = field(default_factory=dict)


def contenders(
    data: Dataset, model: Callable[[Dataset], MultiTaskModel], methods: Mapping[str, Weighting]
) -> dict[str, Candidate]:
    """The methods to compare, with the baselines and ablations that a fair comparison needs.

    Besides ``methods`` on the data as they are: ``single task`` (plain training of the main task),
    ``SLGrad, main task only`` (no auxiliaries), and plain training that uses the clean meta rows
    directly: ``meta rows only`` with all tasks and with the main task only, ``train + meta`` pooled,
    and ``train + meta, half each``. Those choose their epoch and learning rate on rows that they train
    on, which is a handicap.

    Args:
        model: makes a model that fits a data set.
        methods: name to weighting.
    """
    alone = data.only([data.main.name])
    variants = {
        "single task": (alone, Uniform()),
        "SLGrad, main task only": (alone, SLGrad()),
        "meta rows only": (data.train_on_meta(1), Uniform()),
        "meta rows only, main task only": (alone.train_on_meta(1), Uniform()),
        "train + meta": (data.train_on_meta(None), Uniform()),
        "train + meta, half each": (data.train_on_meta(0.5), Uniform()),
    }
    everyone = {name: (data, weighting) for name, weighting in methods.items()} | variants
    return {name: Candidate(model(used), used, weighting) for name, (used, weighting) in everyone.items()}


@dataclass(frozen=True)
class Study:
    """The outcome of :func:`study`.

    Attributes:
        runs: candidate to its runs at the learning rate chosen for it.
        lrs: candidate to that learning rate.
        tuning: a row per candidate and learning rate: method, lr, meta_loss (mean over the tuning
            seeds of the lowest main-task meta loss; infinite where a seed diverged) and chosen.
    """

    runs: dict[str, Runs]
    lrs: dict[str, float]
    tuning: pd.DataFrame


def study(
    candidates: Mapping[str, Candidate],
    *,
    lrs: Sequence[float],
    tuning_seeds: int | Sequence[int],
    tuning_epochs: int,
    seeds: int | Sequence[int],
    epochs: int,
    jobs: int = 2,
    **options,
) -> Study:
    """Choose each candidate's learning rate on the meta split, then run it with all seeds.

    Args:
        candidates: name to contender.
        lrs: the grid, the same for every candidate; with one entry nothing is tuned.
        tuning_seeds: seeds of the search. No choice looks at a test split; but where every seed draws
            its own splits of the same rows, one seed's test rows are among another's meta rows.
        tuning_epochs: length of the runs of the search, which may be shorter than the final ones.
        epochs: length of the final runs.
        jobs: processes side by side; the results do not depend on it.
        options: passed to :func:`mtlkit.training.fit`. ``steps_per_epoch`` is one pass over the first
            candidate's training split unless given, so that everyone makes the same number of steps.

    Raises:
        ValueError: an empty grid, no candidates.
    """
    if not lrs or not candidates:
        raise ValueError(
            f"{len(lrs)} learning rates and {len(candidates)} candidates given, expected at least one each"
        )

    first = next(iter(candidates.values())).data.train
    options.setdefault("steps_per_epoch", len(first) // options.get("batch_size", BATCH_SIZE))

    def runs(jobs_to_do: list[tuple[str, float]], label: str, **budget) -> list[Runs]:
        calls = (
            joblib.delayed(_fit)(candidates[name], name=name, lr=lr, **budget, **options) for name, lr in jobs_to_do
        )
        done = joblib.Parallel(n_jobs=jobs, return_as="generator")(calls)
        return [run for _, run in zip(progress(jobs_to_do, label), done, strict=True)]

    grid = [(name, lr) for name in candidates for lr in lrs] if len(lrs) > 1 else []
    tried = runs(grid, "choosing learning rates", seeds=tuning_seeds, epochs=tuning_epochs)
    rows = [(name, lr, _meta_loss(run)) for (name, lr), run in zip(grid, tried, strict=True)]
    tuning = pd.DataFrame(rows, columns=["method", "lr", "meta_loss"])
    best = tuning.loc[tuning.groupby("method")["meta_loss"].idxmin()].set_index("method")["lr"] if grid else {}
    chosen = {name: float(best[name]) if grid else float(lrs[0]) for name in candidates}
    tuning["chosen"] = [lr == chosen[name] for name, lr in grid]
    final = runs(list(chosen.items()), "training with all seeds", seeds=seeds, epochs=epochs)
    return Study(dict(zip(candidates, final, strict=True)), chosen, tuning)


def _fit(candidate: Candidate, **options) -> Runs:
    """One fit on one thread, so that its sums have one order wherever it runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return fit(candidate.model, candidate.data, candidate.weighting, **{**options, **candidate.options})
    finally:
        torch.set_num_threads(threads)


def _meta_loss(runs: Runs) -> float:
    rows = runs.final("selected")
    rows = rows[(rows["split"] == "meta") & (rows["task"] == runs.main) & (rows["metric"] == "loss")]
    return np.inf if runs.frame["diverged"].any() else float(rows["value"].mean())


def summary(outcome: Study, metrics: Sequence[str] = ("loss",), reference: str = "Uniform") -> pd.DataFrame:
    """A row per method and metric of the main task on the test split.

    Returns:
        method, lr, metric, at (epoch ``selected`` on the meta split, or ``last``), mean, low, high
        (95 % interval over seeds), seeds, diverged, and the paired comparison with ``reference``:
        reference, difference, difference_low, difference_high, p. The last epoch has only the loss.
    """
    rows = []
    for name, runs in outcome.runs.items():
        for at, names in (("selected", metrics), ("last", ["loss"])):
            found = runs.summary(at).xs(runs.main, level="task").loc[name]
            for metric in names:
                row = {"method": name, "lr": outcome.lrs[name], "metric": metric, "at": at}
                row |= found.loc[metric, ["mean", "low", "high", "seeds"]].to_dict()
                row["diverged"] = int(runs.frame.groupby("seed")["diverged"].first().sum())
                row["reference"] = reference
                if name != reference:
                    against = compare([outcome.runs[reference], runs], metric, at=at).iloc[0]
                    row |= {"difference": against["difference"], "p": against["p"]}
                    row |= {"difference_low": against["low"], "difference_high": against["high"]}
                rows.append(row)
    columns = ["method", "lr", "metric", "at", "mean", "low", "high", "seeds", "diverged", "reference"]
    table = pd.DataFrame(rows, columns=[*columns, "difference", "difference_low", "difference_high", "p"])
    return table.astype({"seeds": int})


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A :func:`summary` to read: a row per method, best first by the first metric, numbers with intervals.

    The first metric is the one that is compared with the reference, in pairs over the same seeds.
    """
    shown = {}
    for method, rows in table.groupby("method", sort=False):
        row = {"learning rate": f"{rows['lr'].iloc[0]:g}"}
        for _, entry in rows.iterrows():
            name = entry["metric"].replace("_", " ") + (", last epoch" if entry["at"] == "last" else "")
            row[name] = f"{_short(entry['mean'])} [{_short(entry['low'])}, {_short(entry['high'])}]"
        first = rows.iloc[0]
        against = f"{first['metric']} against {first['reference']}"
        between = f"[{first['difference_low']:+.3f}, {first['difference_high']:+.3f}]"
        row[against] = f"{first['difference']:+.3f} {between}" if np.isfinite(first["difference"]) else ""
        row["diverged"] = f"{first['diverged']:.0f} of {first['diverged'] + first['seeds']:.0f}"
        shown[method] = row
    lower_is_better = table["metric"].iloc[0] in ("loss", "rmse", "mae")
    best_first = table.drop_duplicates("method").sort_values("mean", ascending=lower_is_better, kind="stable")
    order = best_first["method"]
    return pd.DataFrame.from_dict(shown, orient="index").loc[order].rename_axis("method")


def _short(number: float) -> str:
    return f"{number:.3f}" if abs(number) < 1000 else f"{number:.0e}"


def readable_tuning(outcome: Study) -> pd.DataFrame:
    """The search behind ``outcome``: a row per method, a column per learning rate, a star at the chosen one."""
    rows = outcome.tuning
    text = [f"{loss:.4f}{' *' * chosen}" for loss, chosen in zip(rows["meta_loss"], rows["chosen"], strict=True)]
    return rows.assign(text=text, lr=rows["lr"].map("{:g}".format)).pivot(index="method", columns="lr", values="text")


def spread(outcome: Study, metric: str) -> pd.DataFrame:
    """Mean, standard deviation and maximum over seeds of the main task's test ``metric``, per method.

    At the epoch selected on the meta split. The maximum over seeds is what some papers report; it
    grows with the number of seeds and says little about the next run.
    """
    found = per_seed(outcome, metric).agg(["mean", "std", "max"]).T
    return found.rename(columns={"std": "sd"}).rename_axis("method")


def per_seed(outcome: Study, metric: str) -> pd.DataFrame:
    """The main task's test ``metric`` at the selected epoch: a row per seed, a column per method."""
    columns = {}
    for name, runs in outcome.runs.items():
        final = runs.final("selected")
        chosen = (final["split"] == "test") & (final["task"] == runs.main) & (final["metric"] == metric)
        columns[name] = final[chosen].set_index("seed")["value"]
    return pd.DataFrame(columns)


def noisy_shares(runs: Sequence[Runs]) -> pd.DataFrame:
    """How much of the main task's total weight went to noisy labels: a row per method.

    Returns:
        method, ``noisy_labels`` (their share of the main task's training labels), and
        ``noisy_weight`` with its 95 % interval over seeds, ``low`` and ``high``.
    """
    rows = []
    for run in runs:
        main = run.samples[run.samples["task"] == run.main]
        weight = (
            main["weight"].where(main["noisy"], 0.0).groupby(main["seed"]).sum() / main.groupby("seed")["weight"].sum()
        )
        found = interval(weight)
        rows.append((run.method, main["noisy"].mean(), found["mean"], found["low"], found["high"]))
    return pd.DataFrame(rows, columns=["method", "noisy_labels", "noisy_weight", "low", "high"]).round(4)


def save(table: pd.DataFrame, shown: pd.DataFrame, folder: str | Path | None, name: str) -> None:
    """Write the numbers as ``name.csv`` and what is shown as ``name.md`` into ``folder``; nothing if it is None.

    Numbers are rounded to six significant digits, far above what differs between processors.
    """
    if folder is None:
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    (folder / f"{name}.md").write_text(shown.to_markdown() + "\n", encoding="utf-8")
