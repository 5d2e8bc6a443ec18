"""The loop: epochs of steps, an evaluation after each, and what it takes to go on after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from mtlkit.checkpoint import Checkpoint, check_plain, of_method, restored_method
from mtlkit.datasets import Dataset, Split
from mtlkit.merging import Merging
from mtlkit.models import MultiTaskModel
from mtlkit.progress import progress
from mtlkit.results import Runs
from mtlkit.training.branches import Branches
from mtlkit.training.checks import check_draw, check_finite
from mtlkit.training.descent import Descent
from mtlkit.training.recorder import Recorder
from mtlkit.training.settings import Settings
from mtlkit.training.stack import Batches, Stack, generator, stack_splits, take
from mtlkit.weighting import Weighting, per_sample

PURPOSES = ("order", "meta order", "branch order", "noise")
"""Each seed has a random stream of its own for each of these, and for its initial weights and dropout."""


def train_stack(
    begin: Callable[[Sequence[int]], Training],
    seeds: Sequence[int],
    *,
    checkpoint: Checkpoint | None = None,
    watch: Callable[[pd.DataFrame], None] | None = None,
) -> Runs:
    """Train these seeds as one program; see :func:`mtlkit.fit`.

    Args:
        begin: from seeds to a stack of them that is not trained yet.
    """
    run = begin(seeds)
    epochs = run.settings.epochs
    if checkpoint is None or not run.resume(checkpoint):
        run.evaluate()
    if checkpoint is not None:
        check_plain(run.whole())
    recorder = run.recorder
    recorded = recorder.state()
    left = range(run.done + 1, epochs + 1) if run.done == 0 or not recorder.all_finished() else ()
    try:
        for epoch in progress(left, f"{recorder.method} on {run.data.name}"):
            run.enter(epoch)
            run.epoch(epoch)
            run.evaluate()
            run.done, recorded = epoch, recorder.state()
            finished = recorder.all_finished()
            if checkpoint is not None and (finished or epoch == epochs or checkpoint.due()):
                checkpoint.save(epoch, run.whole())
            if watch is not None:
                watch(recorder.weight_rows())
            if finished:
                break
        return recorder.runs()
    except KeyboardInterrupt:
        if not run.done:
            raise
        recorder.restore(recorded)
        return replace(recorder.runs(), interrupted=True)


class Training:
    """A stack of seeds, its data, and how far it has come.

    Attributes:
        splits: stacked over seeds, packed, on the device.
        state: the method's, stacked.
        done: epochs behind it.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        data: Dataset,
        method: Weighting | Merging,
        settings: Settings,
        label: str,
        seeds: Sequence[int],
    ) -> None:
        self.data, self.method, self.settings, self.seeds, self.done = data, method, settings, seeds, 0
        device = settings.device
        self.draws = [data.resample(seed) for seed in seeds]
        for draw in self.draws:
            check_draw(draw, settings.dtype)
        self.splits = {name: self.stacked([draw.splits[name] for draw in self.draws]) for name in data.splits}
        self.stack = Stack(model, data.tasks, seeds, device, settings.dtype, settings.autocast, settings.initial)
        self.streams = {purpose: [generator(seed, purpose, device) for seed in seeds] for purpose in PURPOSES}
        self.train_rows = Batches(len(data.train), settings.batch_size, self.streams["order"])
        self.meta_rows = Batches(len(data.meta), settings.meta_batch_size, self.streams["meta order"])
        self.like = next(iter(self.stack.parameters.values())).detach()
        state = method.init(len(data.tasks), self.like)
        self.start = self.state = tree_map(lambda t: t.expand(len(seeds), *t.shape).clone(), state)
        self.recorder = Recorder(label, seeds, self.draws, self.splits, settings.patience, settings.select_from)
        self.trainer = self.made()

    def made(self) -> Descent | Branches:
        """What moves the parameters."""
        raise NotImplementedError

    def epoch(self, number: int) -> None:
        """Train for one epoch."""
        raise NotImplementedError

    def stacked(self, parts: Sequence[Split]) -> Split:
        """Every seed's split as one, on the device."""
        return stack_splits(parts, self.data.tasks, self.settings.device, self.settings.dtype)

    def enter(self, epoch: int) -> None:
        """Take the training targets of this epoch, where they change."""
        if self.data.train_at is not None:
            parts = [draw.train_at(epoch) for draw in self.draws if draw.train_at is not None]
            for part in parts:
                check_finite(f"{self.data.name}, train split of epoch {epoch}", part, self.settings.dtype)
            self.splits["train"] = self.stacked(parts)

    def evaluate(self) -> None:
        """Record the losses on all splits."""
        outputs = {split: self.stack.outputs(rows.x) for split, rows in self.splits.items()}
        self.recorder.evaluated(outputs, {**self.stack.parameters, **self.stack.buffers})

    def _parts(self) -> dict[str, Stack | Descent | Branches | Batches | Recorder]:
        return {
            "stack": self.stack, "trainer": self.trainer, "train rows": self.train_rows, "meta rows": self.meta_rows,
            "recorder": self.recorder,
        }  # fmt: skip

    def whole(self) -> dict[str, Any]:
        """Everything that the next epoch depends on."""
        noise = [stream.get_state() for stream in self.streams["noise"]]
        return {name: part.state() for name, part in self._parts().items()} | {
            "noise": noise,
            "method": of_method(self.state),
        }

    def resume(self, checkpoint: Checkpoint) -> bool:
        """Go on from a checkpoint; whether there was one."""
        kept = checkpoint.load()
        if kept is None:
            return False
        self.done, saved = kept
        for name, part in self._parts().items():
            part.restore(saved[name])
        for stream, position in zip(self.streams["noise"], saved["noise"], strict=True):
            stream.set_state(position)
        self.state = restored_method(self.method, self.start, saved["method"])
        self.enter(self.done)
        return True


class PerStep(Training):
    """Under a weighting: one step after the other."""

    method: Weighting
    trainer: Descent

    def made(self) -> Descent:
        """The optimiser's steps."""
        learned = self.method.learn(len(self.data.tasks), self.like)
        learned = None if learned is None else learned.expand(len(self.seeds), -1).clone()
        s = self.settings
        return Descent(self.stack, self.method, learned, s.optimizer, s.lr, clip=s.clip, compile=s.compile)

    def epoch(self, number: int) -> None:
        """Batch in, weights measured, weighted step taken, weights recorded; again."""
        train, meta_rows = self.splits["train"], self.splits["meta"]
        labelled = self.stack.present(train)
        for _ in range(self.settings.steps_per_epoch):
            rows = next(self.train_rows)
            batch, present = take(train, rows), labelled[self.recorder.seed_axis, rows]
            meta = take(meta_rows, next(self.meta_rows)) if self.method.uses_meta else None
            given = {"present": present, **self.given(number)}
            weights, self.state = self.trainer(batch, meta, self.state, **given)
            self.recorder.weighed(rows, per_sample(weights, present), present)

    def given(self, epoch: int) -> Mapping[str, Tensor]:
        """What the weighting reads and nobody has to measure."""
        tasks, seeds, streams = self.data.tasks, len(self.seeds), self.streams["noise"]
        device = self.settings.device

        def kind(name: str) -> Tensor:
            return torch.tensor([task.kind == name for task in tasks], device=device).expand(seeds, -1)

        fields = {
            "noise": lambda: torch.stack(
                [torch.randn(len(tasks), generator=g, dtype=self.settings.dtype, device=device) for g in streams]
            ),
            "epoch": lambda: torch.full((seeds,), epoch - 1, device=device),
            "regression": lambda: kind("regression"),
            "binary": lambda: kind("binary"),
        }
        return {request.field: fields[request.field]() for request in self.method.reads if request.field in fields}


class PerEpoch(Training):
    """Under a merging: branches fork, train and merge once an epoch."""

    method: Merging
    trainer: Branches

    def made(self) -> Branches:
        """The branches' steps."""
        return Branches(self.stack, self.splits, self.method.metric, self.settings, self.streams["branch order"])

    def epoch(self, number: int) -> None:
        """Fork, train, merge; record what each task weighed, for every row alike."""
        train, stack = self.splits["train"], self.stack
        self.trainer.data = train
        merged = self.method.epoch(self.trainer.epoch(stack.parameters), self.state)
        self.state = merged.state
        with torch.no_grad():
            for name, value in stack.parameters.items():
                value.copy_(merged.parameters[name])
        every_row = torch.arange(train.rows.shape[1], device=train.rows.device).expand(train.rows.shape)
        present = stack.present(train)
        self.recorder.weighed(every_row, per_sample(merged.weights, present), present)
        self.recorder.reported(merged.report)
