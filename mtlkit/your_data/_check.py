"""How far can the audit be trusted? Wrong labels put there on purpose, and who finds them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace

import joblib
import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import KFold, cross_val_predict
from torch import Tensor

from mtlkit.datasets import Dataset, Split
from mtlkit.datasets.base import choose
from mtlkit.datasets.noise import flip_labels, other_class
from mtlkit.samples import audit, detection, sample_losses
from mtlkit.stats import estimate
from mtlkit.studies import Candidate, fits
from mtlkit.tasks import Task, labelled
from mtlkit.weighting import SLGrad, Uniform
from mtlkit.workers import in_order
from mtlkit.your_data._answers import SINGLE, SLGRAD_LOSS, WEIGHT, model
from mtlkit.your_data._levels import linear_model

OPTIONS = {
    "epochs": 18,
    "steps_per_epoch": 15,
    "batch_size": 64,
    "meta_batch_size": 200,
    "optimizer": torch.optim.Adam,
    "dtype": torch.float64,
}
"""The budget of the digits study."""

LR = 1e-2
LOSS, EQUAL_LOSS, CLEAN_LOSS = "loss, single task", "loss, equal weights", "loss, meta rows only"

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Classes (n,) and their held-out probabilities (n, K) to a score per row, the lowest being the most suspect."""


def mislabelled(data: Dataset, share: float) -> Dataset:
    """The data set with a share of the main labels wrong in the training *and* the meta split: no row to trust.

    A binary label is flipped, a class becomes another one, a number that of another row of the split. Every seed
    has its own wrong labels. The test split stays as it is.

    Args:
        share: of the known labels of each of the two splits, exactly (rounded). A number may be replaced by an equal
            one, which does not count as wrong.
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
    noisy[chosen, 0] = wrong[chosen] != labels[chosen]
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
    lrs: Mapping[str, float] | None = None,
    others: Mapping[str, Score] | None = None,
    jobs: int = 2,
    **options,
) -> pd.DataFrame:
    """Main labels of the training split are wrong on purpose: which ranking of the samples finds them?

    Ranked are the training labels of the main task by: their mean weight under SLGrad with all auxiliaries
    (:func:`mtlkit.audit`), and their loss after that training; their loss after training on the same rows with equal
    weights, and after single-task training, the usual way; their loss after single-task training on the meta rows
    alone, which SLGrad gets to see as well; and ``others``.

    Args:
        draws: share of wrong labels to the data set that has it.
        seeds: number of draws of split, wrong labels and initial weights.
        lrs: learning rates of ``SLGrad``, ``Uniform`` and ``single task``; 0.01 each if None.
        others: name of a further ranking to its score, from five-fold cross-validated logistic regression; left out
            for a regression.
        jobs: processes side by side.
        options: of :func:`mtlkit.fit`, in place of those in :data:`OPTIONS`.

    Returns:
        a row per share, ranking and seed: label_noise, ranking, seed, and precision and roc_auc as in
        :func:`mtlkit.samples.detection`.
    """
    options = OPTIONS | options
    candidates, todo, found = {}, [], []
    for level, data in draws.items():
        alone = data.only([data.main.name])
        clean = alone.train_on_meta(1)
        for ranking, used, contender, weighting in (
            (SLGRAD_LOSS, data, "SLGrad", SLGrad()),
            (EQUAL_LOSS, data, "Uniform", Uniform()),
            (LOSS, alone, SINGLE, Uniform()),
            (CLEAN_LOSS, clean, SINGLE, Uniform()),
        ):
            name = f"{ranking}, {level:g} wrong"
            fitting = {"batch_size": min(options["batch_size"], len(used.train))}
            candidates[name] = Candidate(model(used), used, weighting, fitting)
            todo.append((name, LR if lrs is None else lrs[contender]))
            found.append((level, ranking))
    done = fits(candidates, todo, "looking for wrong labels", seeds=seeds, jobs=jobs, **options)
    tables = []
    for (level, ranking), runs in zip(found, done.values(), strict=True):
        data = draws[level]
        if ranking == SLGRAD_LOSS:
            tables.append(audit(runs).detection.assign(label_noise=level, ranking=WEIGHT))
        losses = sample_losses(runs, candidates[runs.method].model, data)
        losses = losses[losses["task"] == data.main.name]
        tables.append(detection(losses, "loss", suspect_high=True).assign(label_noise=level, ranking=ranking))
    for level, data in draws.items():
        if others and data.main.kind != "regression":
            calls = (joblib.delayed(_scored)(data.resample(seed), seed, others) for seed in range(seeds))
            scores = pd.concat(in_order(calls, jobs))
            tables += [detection(scores, name).assign(label_noise=level, ranking=name) for name in others]
    return pd.concat(tables)[["label_noise", "ranking", "seed", "precision", "roc_auc"]].reset_index(drop=True)


def _scored(data: Dataset, seed: int, scores: Mapping[str, Score]) -> pd.DataFrame:
    train, main = data.train, data.main.name
    known = labelled(train.y[main]).numpy()
    _, classes = np.unique(train.y[main].numpy()[known], return_inverse=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Number of classes in training fold")  # a rare class, then impossible
        folds = KFold(5, shuffle=True, random_state=0)
        held_out = cross_val_predict(
            linear_model(data), train.x.numpy()[known], classes, cv=folds, method="predict_proba"
        )
    table = pd.DataFrame({"seed": seed, "task": main, "noisy": train.noisy[:, 0].numpy()[known]})
    return table.assign(**{name: score(classes, held_out) for name, score in scores.items()})


def readable_check(table: pd.DataFrame) -> pd.DataFrame:
    """ROC AUC of :func:`audit_check`, mean and 95 % interval over seeds: a row per ranking, a column per level."""
    found = table.groupby(["ranking", "label_noise"], sort=False)["roc_auc"].apply(estimate).unstack()
    text = found.apply(lambda row: f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]", axis=1)
    return text.unstack().rename(columns="{:.0%} wrong".format)
