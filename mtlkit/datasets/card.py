"""The data card: what is in a data set, on one page."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from mtlkit.tasks import Task, labelled

if TYPE_CHECKING:
    from mtlkit.datasets.base import Dataset


@dataclass(frozen=True)
class Card:
    """Facts about a data set; prints as text and shows as a table in a notebook.

    Attributes:
        facts: name, main task, inputs, share of texts that were cut, units of standardised targets, source, licence.
        frame: one row per task and split, indexed by both, the main task first: ``kind``, ``rows``, ``labelled`` (rows
            with a label), ``missing`` (share without one), ``noisy`` (share of the labels that label noise replaced)
            and ``labels``: the share of positives, the range of class shares, or mean ± standard deviation, over the
            labelled rows. Pixel-wise targets count a row as labelled when any of its pixels is.
        classes: one row per task and class of the training split: ``name``, ``labels``, ``share``.
    """

    facts: dict[str, str]
    frame: pd.DataFrame
    classes: pd.DataFrame

    @classmethod
    def of(cls, data: Dataset) -> Card:
        """The card of ``data``."""
        x = data.train.x
        kinds = f"{tuple(x.shape[1:])} {str(x.dtype).removeprefix('torch.')}"
        if data.categories:
            kinds += f", {len(data.categories)} of them categorical"
        if data.text is not None:
            kinds += f", ids of a vocabulary of {data.text.entries}"
        facts = {
            "name": data.name,
            "main task": data.main.name,
            "inputs": kinds,
            **_cut(data),
            **{f"unit of {name}": f"{sd:.4g} (mean {mean:.4g} taken out)" for name, (mean, sd) in data.scale.items()},
            "source": data.source or "not stated",
            "licence": data.licence or "not stated",
        }
        rows = []
        for t, task in enumerate(data.tasks):
            for where, split in data.splits.items():
                known = labelled(split.y[task.name])
                count = int(known.flatten(1).any(1).sum()) if known.ndim > 1 else int(known.sum())
                rows.append(
                    {
                        "task": task.name,
                        "split": where,
                        "kind": task.kind,
                        "rows": len(split),
                        "labelled": count,
                        "missing": 1 - count / len(split),
                        "noisy": float(split.noisy[:, t].sum()) / max(count, 1),
                        "labels": _labels(task, split.y[task.name][known]),
                    }
                )
        return cls(facts, pd.DataFrame(rows).set_index(["task", "split"]), _classes(data))

    def __str__(self) -> str:
        facts = "\n".join(f"{name}: {value}" for name, value in self.facts.items())
        return f"{facts}\n\n{self._shown().to_string()}"

    def _repr_html_(self) -> str:
        facts = "".join(f"<li>{html.escape(name)}: {html.escape(value)}</li>" for name, value in self.facts.items())
        return f"<ul>{facts}</ul>{self._shown().to_html()}"

    def _shown(self) -> pd.DataFrame:
        percent = {name: self.frame[name].map("{:.1%}".format) for name in ("missing", "noisy")}
        return self.frame.assign(**percent)


def _cut(data: Dataset) -> dict[str, str]:
    if data.text is None:
        return {}
    shares = {task.name: data.text.cut[task.name] for task in data.tasks}
    return {"texts that were cut": ", ".join(f"{share:.0%} of {name}" for name, share in shares.items())}


def _labels(task: Task, known: Tensor) -> str:
    if known.numel() == 0:
        return "none"
    if task.kind == "regression":
        values = known.double()
        mean, sd = values.mean(), values.std(correction=0)
        return f"{torch.where(mean.abs() < 1e-12 * sd, 0, mean):.3g} ± {sd:.3g}"
    if task.kind == "binary":
        return f"{known.double().mean():.1%} positive"
    shares = torch.bincount(known.long(), minlength=task.n_outputs) / known.numel()
    return f"{task.n_classes} classes, {shares.min():.1%} to {shares.max():.1%}"


def _classes(data: Dataset) -> pd.DataFrame:
    rows = []
    for task in data.tasks:
        if task.kind == "regression":
            continue
        known = data.train.y[task.name]
        known = known[labelled(known)].long()
        counts = torch.bincount(known, minlength=task.n_classes or 2).tolist()
        names = data.classes.get(task.name, tuple(map(str, range(len(counts)))))
        rows += [
            {"task": task.name, "class": c, "name": name, "labels": count, "share": count / max(len(known), 1)}
            for c, (name, count) in enumerate(zip(names, counts, strict=True))
        ]
    return pd.DataFrame(rows, columns=["task", "class", "name", "labels", "share"]).set_index(["task", "class"])
