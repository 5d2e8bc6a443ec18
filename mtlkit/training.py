"""Train: one visible loop, all seeds of a run stacked into one program."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils._pytree import tree_map

from mtlkit.datasets import Dataset, Split
from mtlkit.merging import Branches, Merging, stacks_well
from mtlkit.models import MultiTaskModel, initialise
from mtlkit.progress import progress
from mtlkit.results import Recorder, Runs
from mtlkit.signals import Problem, mean_losses, score
from mtlkit.tasks import Task, pack, per_sample_losses, presence
from mtlkit.weighting import Weighting, per_sample, step

EVALUATION_ROWS = 4096


def fit(
    model: MultiTaskModel,
    data: Dataset,
    weighting: Weighting | Merging,
    *,
    epochs: int = 50,
    batch_size: int = 64,
    meta_batch_size: int | None = None,
    steps_per_epoch: int | None = None,
    lr: float = 1e-2,
    optimizer: Callable[..., torch.optim.Optimizer] = functools.partial(torch.optim.SGD, momentum=0.9),
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
        ValueError: a batch larger than its split, no epochs, no seeds, tasks the model has no head for.
        TypeError: ``weighting`` is neither a Weighting nor a Merging.
    """
    if not isinstance(weighting, Weighting | Merging):
        raise TypeError(f"weighting is {weighting!r}, expected an instance such as mtlkit.Uniform()")
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds are {seeds}, expected at least one, all different")
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}, expected at least 1")
    if set(model.names) != {task.name for task in data.tasks}:
        raise ValueError(f"the model has heads {list(model.names)}, expected {[t.name for t in data.tasks]}")
    if meta_batch_size is None:
        meta_batch_size = min(4 * batch_size, len(data.meta))
    for what, size, split in (("batch_size", batch_size, "train"), ("meta_batch_size", meta_batch_size, "meta")):
        rows = len(data.splits[split])
        if not 1 <= size <= rows:
            raise ValueError(f"{what} is {size}, expected 1 to {rows} (rows of the {split} split)")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    steps_per_epoch = steps_per_epoch or len(data.train) // batch_size
    label = name or type(weighting).__name__

    draws = [data.resample(seed) for seed in seeds]
    splits = {split: _stack([draw.splits[split] for draw in draws], data.tasks, device, dtype) for split in data.splits}
    template = copy.deepcopy(model).to(device=device, dtype=dtype)
    parameters, buffers = _initial_state(template, seeds)
    shared = tuple(name for name in parameters if name.startswith("trunk."))
    last = tuple(name for name in shared if name.rpartition(".")[0] == shared[-1].rpartition(".")[0])
    like = next(iter(parameters.values())).detach()
    learned = weighting.learn(len(data.tasks), like) if isinstance(weighting, Weighting) else None
    learned = None if learned is None else learned.expand(len(seeds), -1).clone().requires_grad_()
    descent = optimizer([*parameters.values(), *([] if learned is None else [learned])], lr=lr)
    one = weighting.init(len(data.tasks), like)
    state = tree_map(lambda t: t.expand(len(seeds), *t.shape).clone(), one)
    regression = torch.tensor([task.kind == "regression" for task in data.tasks], device=device)
    train_rows = _Batches(len(data.train), batch_size, [_generator(seed, "order", device) for seed in seeds])
    meta_rows = _Batches(len(data.meta), meta_batch_size, [_generator(seed, "meta order", device) for seed in seeds])
    noise = [_generator(seed, "noise", device) for seed in seeds]
    recorder = Recorder(label, seeds, draws, splits)

    def outputs(x: Tensor) -> dict[str, Tensor]:
        return torch.vmap(lambda p, b, x: functional_call(template, (p, b), (x,)))(parameters, buffers, x)

    def losses(batch: Split, own: dict[str, Tensor]) -> Tensor:
        def one(p: dict[str, Tensor], b: dict[str, Tensor], x: Tensor, y: dict[str, Tensor]) -> Tensor:
            return per_sample_losses(data.tasks, functional_call(template, (p, b), (x,)), y)

        copies = len(batch.x) // len(seeds)
        tiled = {name: value.repeat(copies, *[1] * (value.ndim - 1)) for name, value in buffers.items()}
        return torch.vmap(one)({**parameters, **own}, tiled if copies > 1 else buffers, batch.x, batch.y)

    def main_output(batch: Split, own: dict[str, Tensor]) -> Tensor:
        def one(p: dict[str, Tensor], b: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(template, (p, b), (x, (data.main.name,)))[data.main.name]

        return torch.vmap(one)({**parameters, **own}, buffers, batch.x)

    def main_loss(batch: Split, own: dict[str, Tensor]) -> Tensor:
        def one(output: Tensor, target: Tensor) -> Tensor:
            y = {(data.main.name,): target.unsqueeze(1)}
            task = (data.main,)
            return mean_losses(per_sample_losses(task, {data.main.name: output}, y), presence(task, y)).squeeze(-1)

        return torch.vmap(one)(main_output(batch, own), _target(batch, data.main))

    def main_score(batch: Split, own: dict[str, Tensor]) -> Tensor:
        if weighting.metric is None:
            return main_loss(batch, own)
        pairs = zip(main_output(batch, own), _target(batch, data.main), strict=True)
        return torch.stack([score(weighting.metric, data.main, *pair) for pair in pairs])

    def present(batch: Split) -> Tensor:
        return torch.vmap(lambda y: presence(data.tasks, y))(batch.y)

    def evaluate() -> None:
        recorder.evaluated({split: _in_chunks(outputs, rows.x) for split, rows in splits.items()})

    if isinstance(weighting, Merging):
        order = [_generator(seed, "branch order", device) for seed in seeds]
        branches = Branches(
            losses,
            main_loss,
            None if weighting.metric is None else main_score,
            _take,
            splits,
            data.tasks,
            steps_per_epoch,
            batch_size,
            functools.partial(optimizer, lr=lr),
            order,
            stacked=stacks_well(template, device),
        )
        every_row = torch.arange(len(data.train), device=device).expand(len(seeds), -1)

    evaluate()
    for epoch in progress(range(1, epochs + 1), f"{label} on {data.name}"):
        if data.train_at is not None:
            splits["train"] = _stack([draw.train_at(epoch) for draw in draws], data.tasks, device, dtype)
            if isinstance(weighting, Merging):
                branches.data = splits["train"]
        if isinstance(weighting, Merging):
            merged = weighting.epoch(branches.epoch(parameters), state)
            state = merged.state
            with torch.no_grad():
                for name, value in parameters.items():
                    value.copy_(merged.parameters[name])
            recorder.weighed(every_row, per_sample(merged.weights, recorder.labels["train"]))
            recorder.reported(merged.report)
        else:
            for _ in range(steps_per_epoch):
                rows = next(train_rows)
                batch, meta = _take(splits["train"], rows), _take(splits["meta"], next(meta_rows))
                problem = Problem(
                    parameters,
                    shared,
                    last,
                    losses=functools.partial(losses, batch),
                    meta_loss=functools.partial(main_loss, meta),
                    score=functools.partial(main_score, batch if weighting.on == "batch" else meta),
                    lr=lr,
                    stacked_score=weighting.metric is None,
                )
                taken = step(
                    weighting,
                    problem,
                    state,
                    present=present(batch),
                    noise=torch.stack(
                        [torch.randn(len(data.tasks), generator=g, dtype=dtype, device=device) for g in noise]
                    ),
                    epoch=torch.full((len(seeds),), epoch - 1, device=device),
                    regression=regression.expand(len(seeds), -1),
                    learned=learned,
                )
                state = taken.state
                descent.zero_grad()
                taken.objective.sum().backward()
                descent.step()
                recorder.weighed(rows, per_sample(taken.weights, taken.signal.present))
        evaluate()
        if recorder.all_diverged():
            break
    return recorder.runs({**parameters, **buffers})


class _Batches:
    """Row numbers (S, batch) without end: shuffled passes over ``n`` rows, one generator per seed."""

    def __init__(self, n: int, batch: int, generators: Sequence[torch.Generator]) -> None:
        self.n, self.batch, self.generators = n, batch, generators
        self.left = torch.empty(len(generators), 0, dtype=torch.long, device=generators[0].device)

    def __next__(self) -> Tensor:
        if self.batch == self.n:
            return torch.arange(self.n, device=self.left.device).expand(len(self.generators), -1)
        if self.left.shape[1] < self.batch:
            order = [torch.randperm(self.n, generator=g, device=self.left.device) for g in self.generators]
            self.left = torch.cat([self.left, torch.stack(order)], 1)
        rows, self.left = self.left[:, : self.batch], self.left[:, self.batch :]
        return rows


def _generator(seed: int, purpose: str, device: str | torch.device) -> torch.Generator:
    """The seed's own stream for one purpose, independent of all others."""
    state = np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))


def _initial_state(template: MultiTaskModel, seeds: Sequence[int]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters (leaves) and buffers of freshly initialised models, stacked (S, ...)."""
    models = []
    for seed in seeds:
        fresh = copy.deepcopy(template)
        on_cpu = fresh.cpu()
        initialise(on_cpu, _generator(seed, "weights", "cpu"))
        models.append(on_cpu.to(next(template.parameters()).device))
    return torch.func.stack_module_state(models)


def _stack(draws: Sequence[Split], tasks: Sequence[Task], device: str | torch.device, dtype: torch.dtype) -> Split:
    """The same split of every seed as one, (S, N, ...), targets packed; floating-point tensors as ``dtype``."""

    def stack(*tensors: Tensor) -> Tensor:
        kind = dtype if tensors[0].is_floating_point() else tensors[0].dtype
        if all(t is tensors[0] for t in tensors):
            return tensors[0].to(device, kind).expand(len(tensors), *tensors[0].shape)
        return torch.stack(tensors).to(device, kind)

    return _map(stack, *(replace(split, y=pack(tasks, split.y)) for split in draws))


def _target(split: Split, task: Task) -> Tensor:
    """One task's targets (S, N, ...) of a stacked split."""
    names = next(names for names in split.y if task.name in names)
    return split.y[names][:, :, names.index(task.name)]


def _take(split: Split, rows: Tensor) -> Split:
    """Rows (S, B) of a stacked split, or rows (K S, B) that go through its seeds K times."""
    seed = torch.arange(len(rows), device=rows.device)[:, None] % len(split.rows)
    return _map(lambda tensor: tensor[seed, rows], split)


def _map(change: Callable[..., Tensor], *splits: Split) -> Split:
    return Split(
        change(*(s.x for s in splits)),
        {name: change(*(s.y[name] for s in splits)) for name in splits[0].y},
        change(*(s.rows for s in splits)),
        change(*(s.noisy for s in splits)),
    )


@torch.no_grad()
def _in_chunks(outputs: Callable[[Tensor], dict[str, Tensor]], x: Tensor) -> dict[str, Tensor]:
    """Outputs for all rows of x (S, N, ...), a few thousand at a time."""
    parts = [outputs(chunk) for chunk in x.split(EVALUATION_ROWS, dim=1)]
    return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}
