"""How far can the audit be trusted? Wrong labels put there on purpose, and who finds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mtlkit.datasets import Dataset, Split
from mtlkit.datasets.base import choose
from mtlkit.datasets.noise import flip_labels, other_class
from mtlkit.results import interval
from mtlkit.samples import audit, detection, sample_losses
from mtlkit.studies import Candidate, fits
from mtlkit.tasks import Task
from mtlkit.weighting import SLGrad, Uniform
from mtlkit.your_data._answers import SLGRAD_LOSS, WEIGHT, model
from mtlkit.your_data._table import labelled

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

LOSS, CLEAN_LOSS = "loss, single task", "loss, meta rows only"


def mislabelled(data: Dataset, share: float) -> Dataset:
    """The data set with a share of the main labels wrong in the training *and* the meta split: no row to trust.

    A binary label is flipped, a class becomes another one, a number that of another row of the split. Every seed
    has its own wrong labels. The test split stays as it is.

    Args:
        share: of the known labels of each of the two splits, exactly (rounded).
    """

    def spoil(draw: Dataset, seed: int) -> Dataset:
        generator = torch.Generator().manual_seed(seed)
        train, meta = (_spoilt(draw, split, share, generator) for split in (draw.train, draw.meta))
        return replace(draw, train=train, meta=meta)

    return replace(spoil(data, 0), redraw=lambda seed: spoil(data.resample(seed), seed))


def _spoilt(data: Dataset, split: Split, share: float, generator: torch.Generator) -> Split:
    main = data.main
    labels = split.y[main.name]
    known = labelled(labels).nonzero()[:, 0]
    chosen = known[choose(len(known), share, generator)]
    wrong = labels.clone()
    wrong[chosen] = _wrong(main, labels[chosen], labels[known], generator)
    noisy = split.noisy.clone()
    noisy[chosen, 0] = True
    return replace(split, y={**split.y, main.name: wrong}, noisy=noisy)


def _wrong(task: Task, labels: Tensor, known: Tensor, generator: torch.Generator) -> Tensor:
    everyone = torch.ones(len(labels), dtype=torch.bool)
    if task.kind == "binary":
        return flip_labels(labels, everyone, "flip")
    if task.kind == "multiclass":
        return other_class(labels, everyone, task.n_classes, generator)
    return known[torch.randint(len(known), (len(labels),), generator=generator)]


def audit_check(
    draws: Mapping[float, Dataset],
    *,
    seeds: int,
    others: Mapping[str, Callable[[Split], np.ndarray]] | None = None,
    jobs: int = 2,
    **options,
) -> pd.DataFrame:
    """Main labels of the training split are wrong on purpose: which ranking of the samples finds them?

    Ranked are the training labels of the main task by: their mean weight under SLGrad with all auxiliaries
    (:func:`mtlkit.audit`), and their loss after that training; their loss after single-task training on the noisy
    rows, the usual way; their loss after single-task training on the meta rows alone, which SLGrad gets to see as
    well; and ``others``.

    Args:
        draws: share of wrong labels to the data set that has it.
        seeds: number of draws of split, wrong labels and initial weights.
        others: name of a further ranking to a function of the noisy training split, whose main labels (N,) are the
            only entry of ``y``; it returns a score per row, the lowest being the most suspect.
        jobs: processes side by side.
        options: of :func:`mtlkit.fit`, in place of those in :data:`OPTIONS`.

    Returns:
        a row per share, ranking and seed: label_noise, ranking, seed, and precision and roc_auc as in
        :func:`mtlkit.samples.detection`.
    """
    candidates, found = {}, []
    for level, data in draws.items():
        alone = data.only([data.main.name])
        clean = alone.train_on_meta(1)
        for ranking, used, weighting in (
            (SLGRAD_LOSS, data, SLGrad()),
            (LOSS, alone, Uniform()),
            (CLEAN_LOSS, clean, Uniform()),
        ):
            candidates[f"{ranking}, {level:g} wrong"] = Candidate(model(used), used, weighting)
            found.append((level, ranking))
    options = OPTIONS | options
    lr = options.pop("lr")
    todo = [(name, lr) for name in candidates]
    done = fits(candidates, todo, "looking for wrong labels", seeds=seeds, jobs=jobs, **options)
    tables = []
    for (level, ranking), runs in zip(found, done, strict=True):
        data = draws[level]
        if ranking == SLGRAD_LOSS:
            tables.append(audit(runs).detection.assign(label_noise=level, ranking=WEIGHT))
        losses = sample_losses(runs, candidates[runs.method].model, data)
        losses = losses[losses["task"] == data.main.name]
        tables.append(detection(losses, "loss", suspect_high=True).assign(label_noise=level, ranking=ranking))
    for level, data in draws.items():
        alone = data.only([data.main.name])
        for name, score in (others or {}).items():
            parts = [_scored(alone.resample(seed), seed, score) for seed in range(seeds)]
            tables.append(detection(pd.concat(parts), "score").assign(label_noise=level, ranking=name))
    return pd.concat(tables)[["label_noise", "ranking", "seed", "precision", "roc_auc"]].reset_index(drop=True)


def _scored(data: Dataset, seed: int, score: Callable[[Split], np.ndarray]) -> pd.DataFrame:
    train = data.train
    return pd.DataFrame(
        {"seed": seed, "task": data.main.name, "noisy": train.noisy[:, 0].numpy(), "score": score(train)}
    )


def readable_check(table: pd.DataFrame) -> pd.DataFrame:
    """ROC AUC of :func:`audit_check`, mean and 95 % interval over seeds: a row per ranking, a column per level."""
    found = table.groupby(["ranking", "label_noise"], sort=False)["roc_auc"].apply(interval).unstack()
    text = found.apply(lambda row: f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]", axis=1)
    return text.unstack().rename(columns="{:.0%} wrong".format)
