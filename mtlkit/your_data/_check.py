"""How far can the audit be trusted? Wrong labels put there on purpose, and who finds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import joblib
import numpy as np
import pandas as pd
import torch

from mtlkit.datasets import Dataset, Split, load
from mtlkit.results import Runs, interval
from mtlkit.samples import audit, detection, sample_losses
from mtlkit.training import fit
from mtlkit.weighting import SLGrad, Uniform
from mtlkit.your_data._answers import model

OPTIONS = {
    "epochs": 18,
    "steps_per_epoch": 15,
    "batch_size": 64,
    "meta_batch_size": 200,
    "lr": 1e-2,
    "optimizer": torch.optim.Adam,
    "dtype": torch.float64,
}
"""The budget of the digits study."""

WEIGHT, LOSS, CLEAN_LOSS = "weight under SLGrad", "loss, single task", "loss, meta rows only"


def audit_check(
    levels: Sequence[float], *, seeds: int, others: Mapping[str, Callable[[Split], np.ndarray]], jobs: int = 2
) -> pd.DataFrame:
    """Flip main labels of the digits' training split and let rankings of the samples look for them.

    Ranked are 1,000 training labels of the task "is it an 8?" by: their mean weight under SLGrad (nine
    auxiliary tasks, 200 clean meta rows; :func:`mtlkit.audit`); their loss after single-task training on
    the noisy rows, the usual way; their loss after single-task training on the 200 clean meta rows
    alone, which SLGrad gets to see as well; and ``others``.

    Args:
        levels: shares of the labels that are flipped, above 0.
        seeds: number of draws of split, flips and initial weights.
        others: name of a further ranking to a function of the noisy training split, whose labels (N,) are the only
            entry of ``y``; it returns a score per row, the lowest being the most suspect.

    Returns:
        a row per level, ranking and seed: label_noise, ranking, seed, and precision and roc_auc as in
        :func:`mtlkit.samples.detection`.
    """
    calls, draws = [], {}
    for level in levels:
        data = draws[level] = load("digits", label_noise=level)
        alone = data.only([data.main.name])
        clean = alone.train_on_meta(1)
        for name, used, weighting in (
            (WEIGHT, data, SLGrad()),
            (LOSS, alone, Uniform()),
            (CLEAN_LOSS, clean, Uniform()),
        ):
            calls.append((level, name, used, weighting))
    done = joblib.Parallel(n_jobs=jobs)(
        joblib.delayed(fit)(model(used), used, weighting, name=name, seeds=seeds, **OPTIONS)
        for _, name, used, weighting in calls
    )
    tables = []
    for (level, name, _, _), runs in zip(calls, done, strict=True):
        tables.append(_found(runs, draws[level], name).assign(label_noise=level, ranking=name))
    for level, data in draws.items():
        alone = data.only([data.main.name])
        for name, score in others.items():
            parts = [_scored(alone.resample(seed), seed, score) for seed in range(seeds)]
            tables.append(detection(pd.concat(parts), "score").assign(label_noise=level, ranking=name))
    return pd.concat(tables)[["label_noise", "ranking", "seed", "precision", "roc_auc"]].reset_index(drop=True)


def _found(runs: Runs, data: Dataset, name: str) -> pd.DataFrame:
    if name == WEIGHT:
        return audit(runs).detection
    alone = data.only([data.main.name])
    return detection(sample_losses(runs, model(alone), alone), "loss", suspect_high=True)


def _scored(data: Dataset, seed: int, score: Callable[[Split], np.ndarray]) -> pd.DataFrame:
    train = data.train
    return pd.DataFrame(
        {"seed": seed, "task": data.main.name, "noisy": train.noisy[:, 0].numpy(), "score": score(train)}
    )


def readable_check(table: pd.DataFrame) -> pd.DataFrame:
    """ROC AUC of :func:`audit_check`, mean and 95 % interval over seeds: a row per ranking, a column per level."""
    found = table.groupby(["ranking", "label_noise"], sort=False)["roc_auc"].apply(interval).unstack()
    text = found.apply(lambda row: f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]", axis=1)
    return text.unstack().rename(columns="{:.0%} flipped".format)
