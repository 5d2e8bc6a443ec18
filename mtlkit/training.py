"""Train: one visible loop, all seeds of a run stacked into one program."""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from mtlkit.datasets import Dataset, Split
from mtlkit.merging import Branches, Merging, stacks_well
from mtlkit.models import MultiTaskModel
from mtlkit.progress import progress
from mtlkit.results import Recorder, Runs
from mtlkit.signals import Params, Problem
from mtlkit.stack import Batches, Stack, generator, stack_splits, take
from mtlkit.weighting import Weighting, per_sample, step

PURPOSES = ("order", "meta order", "branch order", "noise")
"""Each seed has a random stream of its own for each of these, and for its initial weights."""

BATCH_SIZE = 64
SGD = functools.partial(torch.optim.SGD, momentum=0.9)


def fit(
    model: MultiTaskModel,
    data: Dataset,
    weighting: Weighting | Merging,
    *,
    epochs: int = 50,
    batch_size: int = BATCH_SIZE,
    meta_batch_size: int | None = None,
    steps_per_epoch: int | None = None,
    lr: float = 1e-2,
    optimizer: Callable[..., torch.optim.Optimizer] = SGD,
    seeds: int | Sequence[int] = 1,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "auto",
    name: str | None = None,
) -> Runs:
    """Train ``model`` on ``data`` under ``weighting``, once per seed.

    Every seed has its own draw of the data (``data.resample(seed)``), initial weights and data
    order; those are the same for every method, so runs can be compared in pairs.

    Args:
        model: gives the architecture; it is not changed.
        epochs: number of evaluations; an epoch has ``steps_per_epoch`` steps.
        batch_size: rows per step, drawn from shuffled passes over the training split (a batch may
            span two passes, so that all batches have this size).
        meta_batch_size: rows of the meta split per step, for methods that look at it; four
            batches, or the whole split if that is smaller, when None.
        steps_per_epoch: one pass over the training split, rounded down, when None. For a per-epoch
            method these are the steps of one of its branches that trains on all of its data once
            (see :class:`mtlkit.merging.Merging` for a comparison at equal cost).
        lr: learning rate, handed to ``optimizer``.
        optimizer: called with the stacked parameters and ``lr``; an elementwise optimiser of
            ``torch.optim``.
        seeds: a number of seeds, 0 to seeds - 1, or the seeds themselves.
        dtype: of parameters and inputs.
        device: ``"auto"`` is the GPU if there is one.
        name: what the frame calls this method; the weighting's class name when None.

    Raises:
        ValueError: a batch larger than its split, no epochs, no steps, no seeds, tasks the model has no
            head for, a layer that cannot be stacked (:class:`mtlkit.stack.Stack`).
        TypeError: ``weighting`` is neither a Weighting nor a Merging.
    """
    if not isinstance(weighting, Weighting | Merging):
        raise TypeError(f"weighting is {weighting!r}, expected an instance such as mtlkit.Uniform()")
    seeds = list(range(seeds)) if isinstance(seeds, numbers.Integral) else list(seeds)
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds are {seeds}, expected at least one, all different")
    if set(model.names) != {task.name for task in data.tasks}:
        raise ValueError(f"the model has heads {list(model.names)}, expected {[t.name for t in data.tasks]}")
    if meta_batch_size is None:
        meta_batch_size = min(4 * batch_size, len(data.meta))
    for what, size, split in (("batch_size", batch_size, "train"), ("meta_batch_size", meta_batch_size, "meta")):
        rows = len(data.splits[split])
        if not 1 <= size <= rows:
            raise ValueError(f"{what} is {size}, expected 1 to {rows} (rows of the {split} split)")
    steps_per_epoch = len(data.train) // batch_size if steps_per_epoch is None else steps_per_epoch
    for what, number in (("epochs", epochs), ("steps_per_epoch", steps_per_epoch)):
        if number < 1:
            raise ValueError(f"{what} is {number}, expected at least 1")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    label = name or type(weighting).__name__

    draws = [data.resample(seed) for seed in seeds]

    def stacked(split: str, epoch: int = 0) -> Split:
        parts = [draw.train_at(epoch) if epoch else draw.splits[split] for draw in draws]
        return stack_splits(parts, data.tasks, device, dtype)

    splits = {split: stacked(split) for split in data.splits}
    stack = Stack(model, data.tasks, seeds, device, dtype)
    streams = {purpose: [generator(seed, purpose, device) for seed in seeds] for purpose in PURPOSES}
    train_rows = Batches(len(data.train), batch_size, streams["order"])
    meta_rows = Batches(len(data.meta), meta_batch_size, streams["meta order"])
    like = next(iter(stack.parameters.values())).detach()
    state = tree_map(lambda t: t.expand(len(seeds), *t.shape).clone(), weighting.init(len(data.tasks), like))
    recorder = Recorder(label, seeds, draws, splits)
    if isinstance(weighting, Merging):
        branches = Branches(
            stack.losses,
            stack.main_loss,
            None if weighting.metric is None else functools.partial(stack.main_score, weighting.metric),
            take,
            splits,
            data.tasks,
            steps_per_epoch,
            batch_size,
            functools.partial(optimizer, lr=lr),
            streams["branch order"],
            stacked=stacks_well(stack.template, device),
        )
    else:
        learned = weighting.learn(len(data.tasks), like)
        learned = None if learned is None else learned.expand(len(seeds), -1).clone().requires_grad_()
        descent = optimizer([*stack.parameters.values(), *([] if learned is None else [learned])], lr=lr)

    def problem(batch: Split) -> Problem:
        meta = functools.cache(lambda: take(splits["meta"], next(meta_rows)))

        def meta_loss(own: Params) -> Tensor:
            return stack.main_loss(meta(), own)

        def main_metric(own: Params) -> Tensor:
            scored = batch if weighting.on == "batch" else meta()
            if weighting.metric is None:
                return stack.main_loss(scored, own)
            return stack.main_score(weighting.metric, scored, own)

        losses = functools.partial(stack.losses, batch)
        return Problem(
            stack.parameters,
            stack.shared,
            stack.last,
            losses,
            meta_loss,
            main_metric,
            lr=lr,
            stacked_score=weighting.metric is None,
            stacked_tasks=stacks_well(stack.template, device),
        )

    def given(batch: Split, epoch: int) -> dict[str, Tensor | None]:
        regression = torch.tensor([task.kind == "regression" for task in data.tasks], device=device)
        fields = {
            "present": lambda: stack.present(batch),
            "noise": lambda: torch.stack([torch.randn(len(data.tasks), generator=g, **on) for g in streams["noise"]]),
            "epoch": lambda: torch.full((len(seeds),), epoch - 1, device=device),
            "regression": lambda: regression.expand(len(seeds), -1),
            "learned": lambda: learned,
        }
        return {name: field() for name, field in fields.items() if name == "present" or name in weighting.reads}

    def evaluate() -> None:
        recorder.evaluated({split: stack.outputs(rows.x) for split, rows in splits.items()})

    on = {"dtype": dtype, "device": device}
    evaluate()
    for epoch in progress(range(1, epochs + 1), f"{label} on {data.name}"):
        if data.train_at is not None:
            splits["train"] = stacked("train", epoch)
        if isinstance(weighting, Merging):
            branches.data = splits["train"]
            merged = weighting.epoch(branches.epoch(stack.parameters), state)
            state = merged.state
            with torch.no_grad():
                for name, value in stack.parameters.items():
                    value.copy_(merged.parameters[name])
            every_row = torch.arange(len(data.train), device=device).expand(len(seeds), -1)
            recorder.weighed(every_row, per_sample(merged.weights, stack.present(splits["train"])))
            recorder.reported(merged.report)
        else:
            for _ in range(steps_per_epoch):
                rows = next(train_rows)
                batch = take(splits["train"], rows)
                taken = step(weighting, problem(batch), state, **given(batch, epoch))
                state = taken.state
                descent.zero_grad()
                taken.objective.sum().backward()
                descent.step()
                recorder.weighed(rows, per_sample(taken.weights, taken.signal.present))
        evaluate()
        if recorder.all_diverged():
            break
    return recorder.runs({**stack.parameters, **stack.buffers})
