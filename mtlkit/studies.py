"""Fair comparisons: every method gets the same seeds, splits, budget and choice of learning rate."""

from __future__ import annotations

import numbers
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
    cache: str | Path | None = None,
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
        cache: folder that keeps every finished fit, so that a study that was interrupted goes on where it
            was. A fit is found again by its data, model, method and options, all of which must then be
            picklable; a change of the library's code is not noticed. Nothing is kept when None.
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

    options |= {"jobs": jobs, "cache": cache}

    grid = [(name, lr) for name in candidates for lr in lrs] if len(lrs) > 1 else []
    tried = fits(candidates, grid, "choosing learning rates", seeds=tuning_seeds, epochs=tuning_epochs, **options)
    rows = [(name, lr, _meta_loss(run)) for (name, lr), run in zip(grid, tried, strict=True)]
    tuning = pd.DataFrame(rows, columns=["method", "lr", "meta_loss"])
    best = tuning.loc[tuning.groupby("method")["meta_loss"].idxmin()].set_index("method")["lr"] if grid else {}
    chosen = {name: float(best[name]) if grid else float(lrs[0]) for name in candidates}
    tuning["chosen"] = [lr == chosen[name] for name, lr in grid]
    final = fits(candidates, list(chosen.items()), "training with all seeds", seeds=seeds, epochs=epochs, **options)
    return Study(dict(zip(candidates, final, strict=True)), chosen, tuning)


def fits(
    candidates: Mapping[str, Candidate],
    todo: Sequence[tuple[str, float]],
    label: str,
    *,
    seeds: int | Sequence[int],
    epochs: int,
    jobs: int = 2,
    cache: str | Path | None = None,
    **options,
) -> list[Runs]:
    """Fit candidates side by side, with a progress bar.

    Args:
        candidates: name to contender.
        todo: name of a candidate and learning rate of each fit.
        label: of the progress bar.
        jobs, cache: see :func:`study`.
        seeds, epochs, options: of :func:`mtlkit.training.fit`.

    Returns:
        the runs, in the order of ``todo``.
    """
    one = _fit if cache is None else _Kept(cache)
    options |= {"seeds": seeds, "epochs": epochs}
    calls = (joblib.delayed(one)(candidates[name], name=name, lr=lr, **options) for name, lr in todo)
    done = joblib.Parallel(n_jobs=jobs, return_as="generator")(calls)
    return [run for _, run in zip(progress(todo, label), done, strict=True)]


def _fit(candidate: Candidate, **options) -> Runs:
    """One fit on one thread, so that its sums have one order wherever it runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return fit(candidate.model, candidate.data, candidate.weighting, **{**options, **candidate.options})
    finally:
        torch.set_num_threads(threads)


class _Kept:
    """:func:`_fit` that looks into a folder first, and leaves its result there."""

    def __init__(self, folder: str | Path) -> None:
        self.stored = joblib.Memory(folder, verbose=0).cache(_fit_under, ignore=["candidate", "options"])

    def __call__(self, candidate: Candidate, **options) -> Runs:
        return self.stored(_fingerprint(candidate, options), candidate, options)


def _fit_under(key: str, candidate: Candidate, options: Mapping[str, object]) -> Runs:
    return _fit(candidate, **options)


def _fingerprint(candidate: Candidate, options: Mapping[str, object]) -> str:
    """A hash of all that a fit depends on: the rows of every seed, the architecture, the method and the options."""
    options = {**options, **candidate.options}
    seeds = options["seeds"]
    draws = [candidate.data.resample(s) for s in (range(seeds) if isinstance(seeds, numbers.Integral) else seeds)]
    rows = []
    for draw in draws:
        moving = [] if draw.train_at is None else [draw.train_at(e) for e in range(1, options["epochs"] + 1)]
        for split in (*draw.splits.values(), *moving):
            rows.append(joblib.hash([t.numpy() for t in (split.x, *split.y.values(), split.rows, split.noisy)]))
    layers = [
        (name, type(module), {k: v for k, v in vars(module).items() if not k.startswith("_")})
        for name, module in candidate.model.named_modules()
    ]
    shapes = [(name, tuple(p.shape)) for name, p in candidate.model.named_parameters()]
    return joblib.hash((rows, draws[0].name, draws[0].tasks, layers, shapes, candidate.weighting, options))


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


PER_SEED = ["condition", "method", "seed", "metric", "value"]
"""Columns of the table that a study leaves for others to read, ``<study>_per_seed.csv``."""


def per_seed_table(outcomes: Mapping[str, Study], metrics: Sequence[str]) -> pd.DataFrame:
    """What every seed of every method reached: the main task's test metrics at the selected epoch.

    Args:
        outcomes: condition (such as ``60% label noise``) to the study under it.

    Returns:
        a row per condition, method, seed and metric: the columns :data:`PER_SEED`; NaN where a seed diverged.
    """
    tables = {
        (condition, metric): per_seed(outcome, metric).rename_axis(columns="method").unstack()
        for condition, outcome in outcomes.items()
        for metric in metrics
    }
    joined = pd.concat(tables, names=["condition", "metric"]).rename("value").reset_index()
    return joined[PER_SEED]


def readable_gains(table: pd.DataFrame, columns: str = "condition") -> pd.DataFrame:
    """:func:`mtlkit.paired.gains` to read: a row per method, a column per condition, each gain with its interval.

    Args:
        columns: which column of ``table`` tells the conditions apart.
    """
    numbers = zip(table["gain"], table["low"], table["high"], strict=True)
    text = [f"{gain:+.3f} [{low:+.3f}, {high:+.3f}]" for gain, low, high in numbers]
    shown = table.assign(text=text).pivot(index="method", columns=columns, values="text")
    return shown.loc[table["method"].unique(), table[columns].unique()].fillna("not run")


def share_table(outcomes: Mapping[str, Study], methods: Sequence[str]) -> pd.DataFrame:
    """Where the weight of every seed went, in the form of :func:`per_seed_table`.

    Returns:
        ``auxiliary_share_first`` and ``auxiliary_share_last`` (the auxiliary tasks' share of the total
        weight in the first and in the last epoch); for a condition with label noise also ``noisy_labels``
        (their share of the main task's training labels) and ``noisy_weight`` (the share of the main
        task's weight, over the whole training, that went to them). NaN where a seed diverged or gave
        no weight at all.
    """
    rows = []
    for condition, outcome in outcomes.items():
        for method in methods:
            run = outcome.runs[method]
            frame = run.frame[(run.frame["metric"] == "weight") & (run.frame["split"] == "train")]
            main = frame[frame["task"] == run.main].pivot(index="seed", columns="epoch", values="value")
            found = {"auxiliary_share_first": 1 - main.iloc[:, 0], "auxiliary_share_last": 1 - main.iloc[:, -1]}
            labels, weight = _noisy_shares(run)
            if labels.any():
                found |= {"noisy_labels": labels, "noisy_weight": weight}
            diverged = run.frame.groupby("seed")["diverged"].first()
            for metric, values in found.items():
                usable = values.where(~diverged)
                rows += [(condition, method, seed, metric, value) for seed, value in usable.items()]
    return pd.DataFrame(rows, columns=PER_SEED)


def noisy_shares(runs: Sequence[Runs]) -> pd.DataFrame:
    """How much of the main task's total weight went to noisy labels: a row per method.

    Returns:
        method, ``noisy_labels`` (their share of the main task's training labels), and
        ``noisy_weight`` with its 95 % interval over seeds, ``low`` and ``high``.
    """
    rows = []
    for run in runs:
        labels, weight = _noisy_shares(run)
        found = interval(weight)
        rows.append((run.method, labels.mean(), found["mean"], found["low"], found["high"]))
    return pd.DataFrame(rows, columns=["method", "noisy_labels", "noisy_weight", "low", "high"]).round(4)


def _noisy_shares(run: Runs) -> tuple[pd.Series, pd.Series]:
    """Per seed: the noisy labels' share of the main task's training labels, and of its weight."""
    main = run.samples[run.samples["task"] == run.main]
    seed = main["seed"]
    weight = main["weight"].where(main["noisy"], 0.0).groupby(seed).sum() / main.groupby("seed")["weight"].sum()
    return main["noisy"].groupby(seed).mean(), weight


def save(table: pd.DataFrame, shown: pd.DataFrame | None, folder: str | Path | None, name: str) -> None:
    """Write the numbers as ``name.csv`` and what is shown, if anything, as ``name.md`` into ``folder``.

    Nothing is written if ``folder`` is None. Numbers are rounded to six significant digits, far above
    what differs between processors.
    """
    if folder is None:
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    if shown is not None:
        (folder / f"{name}.md").write_text(shown.to_markdown() + "\n", encoding="utf-8")


def reference(name: str, folder: str | Path = "../data/reference") -> pd.DataFrame | None:
    """The results of a study at paper scale, if there are any: a tidy table with a row per seed and number.

    Args:
        name: of the table, such as ``"toy_regression"``.
        folder: where the tables are, by default as seen from ``notebooks/``.

    Returns:
        condition, method, seed, metric, value, device, date, commit, versions; None if the table is not there.
    """
    path = Path(folder) / f"{name}.csv"
    return pd.read_csv(path) if path.exists() else None
