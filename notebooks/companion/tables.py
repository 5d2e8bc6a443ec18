"""Tables of a study: to read, to save, and seed by seed for the claims table."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mtlkit.results import IncompleteRuns, Runs, compare
from mtlkit.studies import Study, late, per_seed
from mtlkit.tasks import lower_is_better


def summary(
    outcome: Study, metrics: Sequence[str] = ("loss",), reference: str = "Uniform", overlap: float = 0.0
) -> pd.DataFrame:
    """A row per method and metric of the main task on the test split.

    Args:
        overlap: how much the seeds have in common, see :func:`protocol_table`.

    Returns:
        method, lr, metric, at (epoch ``selected`` on the meta split, or ``last``), mean, low, high
        (95 % interval over seeds), seeds, diverged, and the paired comparison with ``reference``:
        reference, difference, difference_low, difference_high, p. The last epoch has only the loss.
    """
    rows = []
    for name, runs in outcome.runs.items():
        for at, names in (("selected", metrics), ("last", ["loss"])):
            found = runs.summary(at, overlap=overlap).xs(runs.main, level="task").loc[name]
            found = possible(found, found.index)
            for metric in names:
                row = {"method": name, "lr": outcome.lrs[name], "metric": metric, "at": at}
                row |= found.loc[metric, ["mean", "low", "high", "seeds"]].to_dict()
                row["diverged"] = int(runs.frame.groupby("seed")["diverged"].first().sum())
                row["reference"] = reference
                if name != reference:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore", IncompleteRuns)
                        against = compare([outcome.runs[reference], runs], metric, at=at, overlap=overlap).iloc[0]
                    row |= {"difference": against["difference"], "p": against["p"]}
                    row |= {"difference_low": against["low"], "difference_high": against["high"]}
                rows.append(row)
    columns = ["method", "lr", "metric", "at", "mean", "low", "high", "seeds", "diverged", "reference"]
    table = pd.DataFrame(rows, columns=[*columns, "difference", "difference_low", "difference_high", "p"])
    return table.astype({"seeds": int})


SHARES = ("accuracy", "roc_auc", "average_precision")
"""Metrics that lie between 0 and 1."""


def possible(found: pd.DataFrame, metric: str | pd.Index) -> pd.DataFrame:
    """Estimates with the intervals of shares cut at 0 and 1.

    Args:
        metric: of all rows, or of each.
    """
    shares = np.broadcast_to(np.isin(metric, SHARES), len(found))
    return found.assign(**{end: found[end].where(~shares, found[end].clip(0, 1)) for end in ("low", "high")})


def readable_summary(table: pd.DataFrame) -> pd.DataFrame:
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
    ascending = lower_is_better(table["metric"].iloc[0])
    best_first = table.drop_duplicates("method").sort_values("mean", ascending=ascending, kind="stable")
    order = best_first["method"]
    return pd.DataFrame.from_dict(shown, orient="index").loc[order].rename_axis("method")


def _short(number: float) -> str:
    return f"{number:.3f}" if abs(number) < 1000 else f"{number:.0e}"


def spread(outcome: Study, metric: str) -> pd.DataFrame:
    """Mean, standard deviation and maximum over seeds of the main task's test ``metric``, per method.

    At the epoch selected on the meta split. The maximum over seeds is what some papers report; it
    grows with the number of seeds and says little about the next run.
    """
    found = per_seed(outcome, metric).agg(["mean", "std", "max"]).T
    return found.rename(columns={"std": "sd"}).rename_axis("method")


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


def protocol_table(
    outcomes: Mapping[str, Study],
    floors: Mapping[str, Mapping[str, Runs]],
    metrics: Sequence[str],
    overlap: Mapping[str, float],
) -> pd.DataFrame:
    """:func:`per_seed_table` with what a verdict asks for besides (:mod:`companion.claims`).

    Args:
        floors: condition to its :func:`mtlkit.levels.levels`.
        overlap: condition to how much the seeds have in common: n_test / n_train where they split the same rows
            again, 0 where each has rows of its own (:func:`mtlkit.stats.contrast`).

    Returns:
        besides the contenders' test metrics those of the floors; for every contender ``late`` (1 where a seed's
        selected epoch lies in the last tenth of its cap), ``edge`` (1 where the chosen rate is at the edge of those
        that were tried), ``regret`` (by how much the choice's mean test loss over the tuning seeds lies above the
        lowest of those tried), ``steps`` (the cap) and ``loss_at_start``; and ``overlap`` under the method ``data``.
    """
    parts = [per_seed_table(outcomes, metrics)]
    for condition, outcome in outcomes.items():
        for name, runs in floors[condition].items():
            rows = runs.frame[runs.frame["metric"].isin(metrics)]
            parts.append(rows.assign(condition=condition, method=name)[PER_SEED])
        for name, runs in outcome.runs.items():
            choice, frame = outcome.choices.loc[name], runs.frame
            start = frame[(frame["epoch"] == 0) & (frame["split"] == "test") & (frame["task"] == runs.main)]
            found = {
                "late": late(runs, choice["epochs"]).astype(float),
                "edge": pd.Series(float(choice["edge"]), runs.seeds),
                "regret": pd.Series(_regret(outcome, name), runs.seeds),
                "steps": pd.Series(float(choice["steps"]), runs.seeds),
                "loss_at_start": start[start["metric"] == "loss"].set_index("seed")["value"],
            }
            rows = [(condition, name, seed, metric, v) for metric, by in found.items() for seed, v in by.items()]
            parts.append(pd.DataFrame(rows, columns=PER_SEED))
        seeds = next(iter(outcome.runs.values())).seeds
        parts.append(
            pd.DataFrame([(condition, "data", s, "overlap", overlap[condition]) for s in seeds], columns=PER_SEED)
        )
    return pd.concat(parts, ignore_index=True)


def _regret(outcome: Study, name: str) -> float:
    """What the choice of rate and variant cost on the test rows, by the tuning seeds; NaN where nothing was tuned."""
    table = outcome.tuning
    tried = table[(table["method"] == name) & (table["epochs"] == outcome.choices.loc[name, "epochs"])]
    return (tried.loc[tried["chosen"], "test_loss"] - tried["test_loss"].min()).mean()


def floor_means(floors: Mapping[str, Mapping[str, Runs]], metric: str = "loss") -> dict[str, dict[str, float]]:
    """Condition to its floors' mean of a metric over seeds."""
    return {
        condition: {n: run.frame.loc[run.frame["metric"] == metric, "value"].mean() for n, run in found.items()}
        for condition, found in floors.items()
    }


def floors_in_words(levels: Mapping[str, float]) -> str:
    """Names and numbers as a list in a sentence."""
    return ", ".join(f"{name} {level:.3f}" for name, level in levels.items())


def readable_gains(table: pd.DataFrame, columns: str = "condition") -> pd.DataFrame:
    """Gains (:mod:`companion.paired`) to read: a row per method, a column per condition, each gain with its interval.

    Args:
        columns: which column of ``table`` tells the conditions apart.
    """
    numbers = zip(table["gain"], table["low"], table["high"], strict=True)
    text = [f"{gain:+.3f} [{low:+.3f}, {high:+.3f}]" for gain, low, high in numbers]
    shown = table.assign(text=text).pivot(index="method", columns=columns, values="text")
    return shown.loc[table["method"].unique(), table[columns].unique()].fillna("not run")


def starred_gains(table: pd.DataFrame, index: str, columns: str, digits: int) -> pd.DataFrame:
    """Gains (:mod:`companion.paired`) in short, with a star where the 95 % interval leaves out zero."""
    clear = (table["low"] > 0) | (table["high"] < 0)
    text = table["gain"].map(f"{{:+.{digits}f}}".format) + clear.map({True: " *", False: ""})
    shown = table.assign(text=text).pivot(index=index, columns=columns, values="text")
    return shown.loc[table[index].unique(), table[columns].unique()].fillna("")


def readable_intervals(table: pd.DataFrame, index: str | list[str], columns: str) -> pd.DataFrame:
    """Means with their intervals to read, two digits each, laid out as a pivot of a long table."""
    text = [
        f"{m:.2f} [{low:.2f}, {high:.2f}]" for m, low, high in table[["mean", "low", "high"]].itertuples(index=False)
    ]
    order = table[index].drop_duplicates()
    rows = order.tolist() if isinstance(index, str) else list(order.itertuples(index=False, name=None))
    shown = table.assign(text=text).pivot(index=index, columns=columns, values="text")
    return shown.loc[rows, table[columns].unique()]


def by_rate(tuning: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The test loss that each rate led to, under the cap of the final runs, with a star at the chosen one.

    Args:
        tuning: condition to a study's table of that name.

    Returns:
        a row per condition, contender and variant, a column per rate; empty where a rate was not tried.
    """
    table = pd.concat(tuning, names=["condition"]).reset_index("condition")
    by = ["condition", "method"]
    final = table[table["chosen"]].set_index(by)["epochs"]
    table = table[table["epochs"] == final.reindex(pd.MultiIndex.from_frame(table[by])).to_numpy()]
    text = [f"{loss:.3f}{'*' * chosen}" for loss, chosen in zip(table["test_loss"], table["chosen"], strict=True)]
    index = [*by, "variant"]
    order = pd.MultiIndex.from_frame(table[index].drop_duplicates())
    return table.assign(text=text).pivot(index=index, columns="lr", values="text").loc[order].fillna("")


def stuck(run: Runs) -> pd.Series:
    """Per seed, whether the main task's training loss never left its start, by what is stored of it."""
    rows = run.frame[
        (run.frame["task"] == run.main) & (run.frame["split"] == "train") & (run.frame["metric"] == "loss")
    ]
    return rows.groupby("seed")["value"].nunique() == 1


def share_table(outcomes: Mapping[str, Study], methods: Sequence[str]) -> pd.DataFrame:
    """Where the weight of every seed went, in the form of :func:`per_seed_table`.

    Returns:
        ``auxiliary_share_first`` and ``auxiliary_share_last`` (the auxiliary tasks' share of the total
        weight in the first and in each seed's last epoch); for a condition with label noise also ``noisy_labels``
        (their share of the main task's training labels) and ``noisy_weight`` (the share of the main
        task's weight, over the whole training, that went to them). NaN where a seed diverged or gave
        no weight at all.
    """
    rows = []
    for condition, outcome in outcomes.items():
        for method in [m for m in methods if m in outcome.runs]:
            run = outcome.runs[method]
            frame = run.frame[(run.frame["metric"] == "weight") & (run.frame["split"] == "train")]
            main = frame[frame["task"] == run.main].pivot(index="seed", columns="epoch", values="value")
            last = main.ffill(axis=1).iloc[:, -1]
            found = {"auxiliary_share_first": 1 - main.iloc[:, 0], "auxiliary_share_last": 1 - last}
            labels, weight = _noisy_shares(run)
            if labels.any():
                found |= {"noisy_labels": labels, "noisy_weight": weight}
            diverged = run.frame.groupby("seed")["diverged"].first()
            for metric, values in found.items():
                usable = values.where(~diverged)
                rows += [(condition, method, seed, metric, value) for seed, value in usable.items()]
    return pd.DataFrame(rows, columns=PER_SEED)


def _noisy_shares(run: Runs) -> tuple[pd.Series, pd.Series]:
    """Per seed: the noisy labels' share of the main task's labels, and of its weight up to the selected epoch."""
    main = run.frame[(run.frame["task"] == run.main) & (run.frame["split"] == "train")]
    labels = main[main["metric"] == "noisy_labels"].set_index("seed")["value"]
    weight = main[(main["metric"] == "noisy_weight") & (main["epoch"] <= main["seed"].map(run.selected()))]
    return labels, weight.groupby("seed")["value"].mean()


def save_table(table: pd.DataFrame, shown: pd.DataFrame | None, folder: str | Path | None, name: str) -> None:
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
