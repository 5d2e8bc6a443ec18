"""What single samples did: the weights they earned, and whether wrong labels are among the lowest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from mtlkit.datasets import Dataset
from mtlkit.results import Runs
from mtlkit.stats import estimate
from mtlkit.tasks import labelled_by_task, pack, per_sample_losses

ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Audit:
    """The training samples of a run, those that earned least first.

    Attributes:
        samples: one row per training sample and task with a label: ``row`` (its number in the source),
            ``task``, ``weight`` (mean over the seeds that trained on it; uniform weights are 1), ``low``
            and ``high`` (95 % t interval over these seeds, NaN below two), ``seeds`` (how many there
            were) and ``noisy`` (in how many of them label noise had replaced the label).
        detection: how well a low weight finds replaced labels, see :func:`detection`; without rows
            where no label was replaced.
    """

    samples: pd.DataFrame
    detection: pd.DataFrame


def audit(runs: Runs) -> Audit:
    """Which samples earned little weight, over all seeds of a run.

    A sample-level method such as :class:`mtlkit.SLGrad` gives little weight to a sample whose gradient does not point
    where the main task's meta gradient points: a wrong label, or one that is learned already and has no gradient left.
    Its loss after that training tells the two apart (:func:`sample_losses`). Where the meta rows are no cleaner than
    the others the weight says little. Under a task-level method every sample of a task earns about the same.

    >>> import mtlkit as mtl
    >>> data = mtl.datasets.load("digits", label_noise=0.4)
    >>> runs = mtl.fit(mtl.models.mlp(data), data, mtl.SLGrad(), epochs=2, lr=0.1, seeds=2)
    >>> found = mtl.audit(runs)
    >>> found.samples["weight"].is_monotonic_increasing
    True
    >>> found.detection[["task", "seed", "flipped"]].values.tolist()
    [['is_8', 0, 400], ['is_8', 1, 400]]
    """
    labelled = runs.samples.dropna(subset="weight")
    by = labelled.groupby(["row", "task"], observed=True)
    table = estimate(by["weight"]).drop(columns="missing").rename(columns={"mean": "weight"})
    table["noisy"] = by["noisy"].sum()
    order = table.reset_index().sort_values("weight", kind="stable", ignore_index=True)
    return Audit(order, detection(labelled, "weight"))


def detection(samples: pd.DataFrame, score: str, *, suspect_high: bool = False) -> pd.DataFrame:
    """How well a score finds the labels that label noise replaced.

    Args:
        samples: columns ``seed``, ``task``, ``noisy`` and the score, as in :attr:`mtlkit.Runs.samples`.
        score: the column to rank by, the lowest being the most suspect.
        suspect_high: the highest is the most suspect, as for a loss.

    Returns:
        a row per task and seed with replaced labels: ``flipped`` (their number k), ``labels`` (of how many),
        ``precision`` (share of replaced labels among the k most suspect; ties count by their expectation)
        and ``roc_auc`` (chance that a replaced label is more suspect than a kept one; 0.5 is guessing).
    """
    rows = []
    for (task, seed), group in samples.dropna(subset=score).groupby(["task", "seed"], observed=True):
        noisy = group["noisy"].to_numpy(bool)
        if 0 < noisy.sum() < len(noisy):
            suspicion = group[score].to_numpy(float) * (1 if suspect_high else -1)
            found = _precision(suspicion, noisy), roc_auc_score(noisy, suspicion)
            rows.append((task, seed, noisy.sum(), len(noisy), *found))
    return pd.DataFrame(rows, columns=["task", "seed", "flipped", "labels", "precision", "roc_auc"])


def _precision(suspicion: np.ndarray, noisy: np.ndarray) -> float:
    """Expected share of noisy samples among the k most suspect, k the number of noisy ones, ties in any order."""
    k = noisy.sum()
    edge = np.sort(suspicion)[-k]
    above, tied = suspicion > edge, suspicion == edge
    return float((noisy[above].sum() + noisy[tied].mean() * (k - above.sum())) / k)


def sample_losses(runs: Runs, data: Dataset) -> pd.DataFrame:
    """The loss of every training sample of ``data`` under the trained model of each seed.

    Ranking samples by their loss is the usual way to look for wrong labels.

    Args:
        runs: of any method; each seed's model is that of its selected epoch, in evaluation mode.
        data: whose training samples to score; ``data.resample(seed)`` for every seed. The runs may have
            been trained on other rows or on fewer tasks.

    Returns:
        a row per seed, training sample and task of ``data`` that the model has an output for: ``seed``,
        ``row``, ``task``, ``noisy``, ``loss`` (NaN where the label is missing).

    Raises:
        ValueError: no task in common.
        LookupError: runs without a model.
    """
    tables = []
    for seed in runs.seeds:
        model, split = runs.model(seed), data.resample(seed).train
        x = split.x.to(next(model.parameters()).dtype)
        with torch.no_grad():
            parts = [model(chunk) for chunk in x.split(ROWS_AT_ONCE)]
        positions = [t for t, task in enumerate(data.tasks) if task.name in parts[0]]
        if not positions:
            raise ValueError(f"{data.name} has none of the tasks {', '.join(parts[0])} of the runs, expected one")
        tasks = [data.tasks[t] for t in positions]
        outputs = {task.name: torch.cat([part[task.name] for part in parts]) for task in tasks}
        targets = pack(tasks, {task.name: split.y[task.name] for task in tasks})
        losses = per_sample_losses(tasks, outputs, targets)
        losses = torch.where(labelled_by_task(tasks, targets), losses, torch.nan)
        tables.append(
            pd.DataFrame(
                {
                    "seed": seed,
                    "row": np.repeat(split.rows.numpy(), len(tasks)),
                    "task": np.tile([task.name for task in tasks], len(split)),
                    "noisy": split.noisy[:, positions].flatten().numpy(),
                    "loss": losses.flatten().double().numpy(),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)
