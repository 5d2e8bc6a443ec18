"""Record what training measures, and read it back once, at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mtlkit.datasets import Dataset, Split
from mtlkit.results import MOMENTS, Runs
from mtlkit.tasks import labelled_by_task, per_sample_losses


class Recorder:
    """Collects what training measures, on its device, and reads it back once, at the end.

    Nothing is recorded of a seed that is finished: one that has diverged, or has run out of patience.

    Args:
        draws: each seed's data.
        splits: the same stacked over seeds, packed and on the device: every tensor is (S, N, ...).
        patience: epochs without a lower main-task loss on the meta split after which a seed is finished.
        select_from: first epoch that may be selected.
    """

    def __init__(
        self,
        method: str,
        seeds: Sequence[int],
        draws: Sequence[Dataset],
        splits: Mapping[str, Split],
        patience: int | None = None,
        select_from: int = 1,
    ) -> None:
        self.method, self.seeds, self.draws, self.splits = method, seeds, draws, splits
        self.patience, self.select_from = patience, select_from
        self.tasks = tasks = draws[0].tasks
        train = splits["train"]
        device = train.x.device
        shape, kind = (*train.rows.shape, len(tasks)), torch.promote_types(train.x.dtype, torch.float32)
        self.seed_axis = torch.arange(len(seeds), device=device)[:, None]
        self.given = torch.zeros(shape, dtype=kind, device=device)
        self.given_before = self.given.clone()
        self.visits = self.given.clone()
        self.labels = {
            split: torch.vmap(lambda y: labelled_by_task(tasks, y))(rows.y) for split, rows in splits.items()
        }
        self.curves: dict[tuple[str, str], list[Tensor]] = {("loss", split): [] for split in splits}
        self.curves |= {("weight", "train"): [], ("weight_sd", "train"): []}
        self.noisy_weights: list[Tensor] = []
        self.steps: list[Tensor] = []
        self.diverged = torch.zeros(len(seeds), dtype=torch.bool, device=device)
        self.running = ~self.diverged
        self.ends = torch.zeros(len(seeds), dtype=torch.long, device=device)
        self.lowest = torch.full((len(seeds),), torch.inf, dtype=kind, device=device)
        self.best = torch.full_like(self.ends, select_from)
        self.outputs: dict[str, dict[str, Tensor]] = {moment: {} for moment in MOMENTS}
        self.states: dict[str, dict[str, Tensor]] = {moment: {} for moment in MOMENTS}

    def weighed(self, rows: Tensor, weights: Tensor, present: Tensor) -> None:
        """One step's weights (S, B, T) for the training rows (S, B), and which of them have a label (S, B, T)."""
        running = self.running[:, None, None]
        scaled = weights.detach().to(self.given.dtype) * weights.shape[-1] * weights.shape[-2]
        scaled = torch.where(running, scaled, 0)
        by_task = scaled.sum(1)
        self.steps.append(by_task / by_task.sum(1, keepdim=True))
        at = rows.unsqueeze(-1).expand_as(scaled)
        self.given.scatter_add_(1, at, scaled)
        self.visits.scatter_add_(1, at, (running & present).to(scaled.dtype))

    def reported(self, report: Mapping[str, tuple[str, Tensor]]) -> None:
        """What a per-epoch method says of an epoch: metric to its split and its values (S, T)."""
        for metric, (split, values) in report.items():
            self.curves.setdefault((metric, split), []).append(values.detach())

    @torch.no_grad()
    def evaluated(self, outputs: dict[str, dict[str, Tensor]], state: Mapping[str, Tensor]) -> None:
        """The end of an epoch, or the state before the first.

        Args:
            outputs: per split and task, (S, N, ...).
            state: the stacked parameters and buffers, (S, ...).
        """
        epoch = len(self.curves["loss", "train"])
        for split, found in outputs.items():
            losses = torch.vmap(lambda o, y: per_sample_losses(self.tasks, o, y))(found, self.splits[split].y)
            self.curves["loss", split].append(losses.sum(1) / self.labels[split].sum(1))
            if split == "train":
                finite = torch.isfinite(losses.sum(1)).all(1)
        if epoch:
            now = self.given - self.given_before
            total = now.sum((1, 2))
            self.curves["weight", "train"].append(now.sum(1) / total[:, None])
            noisy = self.splits["train"].noisy
            self.noisy_weights.append((now * noisy).sum(1) / now.sum(1))
            self.given_before = self.given.clone()
            self.curves["weight_sd", "train"].append(torch.stack(self.steps).std(0, correction=0))
            self.steps = []
        meta = self.curves["loss", "meta"][-1][:, 0]
        better = self.running & (meta < self.lowest) & (epoch >= self.select_from)
        self.lowest = torch.where(better, meta, self.lowest)
        self.best = torch.where(better, epoch, self.best)
        name = self.tasks[0].name
        shown = {split: outputs[split][name] for split in ("meta", "test")}
        for moment, chosen in (("selected", better), ("last", self.running)):
            self.outputs[moment] = _replaced(self.outputs[moment], shown, chosen)
            self.states[moment] = _replaced(self.states[moment], state, chosen)
        self.ends = torch.where(self.running, epoch, self.ends)
        self.diverged = self.diverged | (self.running & ~finite)
        self.running = self.running & finite
        if self.patience is not None:
            self.running = self.running & (epoch - self.best < self.patience)

    def state(self) -> dict[str, Any]:
        """What was recorded up to the end of an epoch, for :meth:`restore`; later records leave it as it is."""
        return {name: _containers(getattr(self, name)) for name in RECORDED} | {"visits": self.visits.clone()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Forget what was recorded after, or go on from, a state."""
        for name, value in state.items():
            setattr(self, name, _containers(value))
        self.given, self.steps = self.given_before.clone(), []

    def all_finished(self) -> bool:
        """Whether no seed goes on."""
        return not self.running.any()

    def weight_rows(self) -> pd.DataFrame:
        """The frame's rows of metric ``weight`` so far: seed, epoch, split, task, metric, value."""
        return self._tidy(self.curves["weight", "train"], "weight", "train")

    def runs(self) -> Runs:
        """Everything recorded, as tidy frames."""
        curves = [self._tidy(values, *of) for of, values in self.curves.items()]
        noisy = self.splits["train"].noisy
        if noisy.any():
            labels = noisy.sum(1) / self.labels["train"].sum(1)
            shares = [
                self._tidy(self.noisy_weights, "noisy_weight", "train"),
                self._tidy([labels], "noisy_labels", "train"),
            ]
            names = [task.name for task, some in zip(self.tasks, noisy.any(1).any(0).tolist(), strict=True) if some]
            curves += [rows[rows["task"].isin(names)] for rows in shares]
        frame = pd.concat([*curves, self._metrics()], ignore_index=True)
        frame = frame.sort_values("seed", kind="stable", key=lambda s: s.map(self.seeds.index), ignore_index=True)
        frame["diverged"] = frame["seed"].map(dict(zip(self.seeds, self.diverged.tolist(), strict=True)))
        ends = dict(zip(self.seeds, self.ends.tolist(), strict=True))
        frame = frame[frame["epoch"] <= frame["seed"].map(ends)].reset_index(drop=True)
        frame.insert(0, "method", self.method)
        frame.insert(0, "dataset", self.draws[0].name)
        states = {at: {k: v.detach().cpu() for k, v in state.items()} for at, state in self.states.items()}
        draws = tuple(draw.outline() for draw in self.draws)
        return Runs(frame, self._samples(), self.tasks[0].name, states, self.select_from, draws)

    def _tidy(self, values: Sequence[Tensor], metric: str, split: str) -> pd.DataFrame:
        """(S, T) of each epoch to rows."""
        first_epoch = 0 if metric in ("loss", "noisy_labels") else 1
        epochs = range(first_epoch, first_epoch + len(values))
        names = [task.name for task in self.tasks]
        index = pd.MultiIndex.from_product([self.seeds, epochs, names], names=["seed", "epoch", "task"])
        flat = torch.stack(list(values), 1).double().cpu().flatten().numpy()
        rows = pd.Series(flat, index, name="value").reset_index()
        return rows.assign(split=split, metric=metric)[["seed", "epoch", "split", "task", "metric", "value"]]

    def _metrics(self) -> pd.DataFrame:
        """The main task's metrics at the selected epoch and at the last."""
        main, rows = self.tasks[0], []
        found = torch.isfinite(self.lowest)
        best = torch.where(found, self.best, self.ends).tolist()
        for s, (seed, selected, end) in enumerate(zip(self.seeds, best, self.ends.tolist(), strict=True)):
            for epoch, moment in {selected: "selected", end: "last"}.items():
                for split, outputs in self.outputs[moment].items():
                    target = self.draws[s].splits[split].y[main.name]
                    for metric, value in main.metrics(outputs[s].cpu(), target).items():
                        rows.append((seed, epoch, split, main.name, metric, value))
        return pd.DataFrame(rows, columns=["seed", "epoch", "split", "task", "metric", "value"])

    def _samples(self) -> pd.DataFrame:
        train = self.splits["train"]
        names = [task.name for task in self.tasks]
        n_seeds, n_rows, n_tasks = self.given.shape
        weight = self.given / self.visits
        return pd.DataFrame(
            {
                "dataset": self.draws[0].name,
                "method": self.method,
                "seed": np.repeat(self.seeds, n_rows * n_tasks),
                "row": train.rows.cpu().flatten().repeat_interleave(n_tasks).numpy(),
                "task": pd.Categorical(np.tile(names, n_seeds * n_rows), categories=names),
                "noisy": train.noisy.cpu().flatten().numpy(),
                "weight": weight.double().cpu().flatten().numpy(),
            }
        )


RECORDED = (
    "given_before", "visits", "curves", "noisy_weights", "diverged", "running", "ends", "lowest", "best", "outputs",
    "states",
)  # fmt: skip
"""What a :class:`Recorder` remembers from one epoch to the next."""


def _containers(value: Any) -> Any:
    """Dicts and lists anew, with the same tensors in them."""
    if isinstance(value, dict):
        return {name: _containers(inner) for name, inner in value.items()}
    return list(value) if isinstance(value, list) else value


def _replaced(before: Mapping[str, Tensor], now: Mapping[str, Tensor], chosen: Tensor) -> dict[str, Tensor]:
    """The tensors (S, ...) of ``now`` for the chosen seeds (S,), those of ``before``, if any, for the others."""
    if not before:
        return {name: value.detach().clone() for name, value in now.items()}
    return {
        name: torch.where(chosen.view(-1, *[1] * (value.ndim - 1)), value.detach(), before[name])
        for name, value in now.items()
    }
