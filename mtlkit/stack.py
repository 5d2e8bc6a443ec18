"""Models of one architecture and their data, one per seed, stacked so that one program trains them all."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from mtlkit.datasets import Split
from mtlkit.models import MultiTaskModel, initialise
from mtlkit.signals import Params, mean_losses, score
from mtlkit.tasks import Task, pack, per_sample_losses, presence

EVALUATION_ROWS = 4096


class Stack:
    """S freshly initialised models as one; every tensor has a leading seed axis.

    Args:
        model: gives the architecture; it is not changed.
        tasks: main task first.
        seeds: each model's initial weights are drawn from its seed.

    Attributes:
        parameters: (S, *) each, leaves of the graph.
        buffers: (S, *) each.
        shared: names of the trunk's parameters.
        last: names of its last layer's.

    Raises:
        ValueError: a norm layer with running statistics, or dropout, in the model.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tasks: Sequence[Task],
        seeds: Sequence[int],
        device: str | torch.device,
        dtype: torch.dtype,
    ) -> None:
        _check_layers(model)
        self.template = copy.deepcopy(model).to(dtype=dtype)
        self.tasks, self.main = tuple(tasks), tasks[0]
        models = []
        for seed in seeds:
            fresh = copy.deepcopy(self.template).cpu()
            initialise(fresh, generator(seed, "weights", "cpu"))
            models.append(fresh.to(device))
        self.parameters, self.buffers = torch.func.stack_module_state(models)
        self.template.to(device)
        self.shared = tuple(name for name in self.parameters if name.startswith("trunk."))
        self.last = tuple(n for n in self.shared if n.rpartition(".")[0] == self.shared[-1].rpartition(".")[0])

    def losses(self, batch: Split, own: Params) -> Tensor:
        """Per-sample losses (S, B, T) with ``own`` in place of the parameters of those names.

        ``own`` and the batch may be several copies of the stack, one after the other: (K S, ...).
        """

        def one(p: Params, b: Params, x: Tensor, y: dict) -> Tensor:
            return per_sample_losses(self.tasks, functional_call(self.template, (p, b), (x,)), y)

        size = len(next(iter(self.parameters.values())))
        copies = len(batch.x) // size
        tiled = {name: value.repeat(copies, *[1] * (value.ndim - 1)) for name, value in self.buffers.items()}
        return torch.vmap(one)({**self.parameters, **own}, tiled, batch.x, batch.y)

    def main_output(self, batch: Split, own: Params) -> Tensor:
        """Outputs (S, B, ...) of the main task; no other head runs."""

        def one(p: Params, b: Params, x: Tensor) -> Tensor:
            return functional_call(self.template, (p, b), (x, (self.main.name,)))[self.main.name]

        return torch.vmap(one)({**self.parameters, **own}, self.buffers, batch.x)

    def main_loss(self, batch: Split, own: Params) -> Tensor:
        """The main task's mean loss (S,) over the batch's labelled samples."""

        def one(output: Tensor, target: Tensor) -> Tensor:
            task, y = (self.main,), {(self.main.name,): target.unsqueeze(1)}
            return mean_losses(per_sample_losses(task, {self.main.name: output}, y), presence(task, y)).squeeze(-1)

        return torch.vmap(one)(self.main_output(batch, own), self._main_target(batch))

    def main_score(self, metric: Callable[[Tensor, Tensor], float], batch: Split, own: Params) -> Tensor:
        """A metric of the main task (S,), to be lowered, one seed after the other."""
        pairs = zip(self.main_output(batch, own), self._main_target(batch), strict=True)
        return torch.stack([score(metric, self.main, *pair) for pair in pairs])

    def _main_target(self, batch: Split) -> Tensor:
        names = next(names for names in batch.y if self.main.name in names)
        return batch.y[names][:, :, names.index(self.main.name)]

    def present(self, batch: Split) -> Tensor:
        """Which labels are there: (S, B, T) bool."""
        return torch.vmap(lambda y: presence(self.tasks, y))(batch.y)

    @torch.no_grad()
    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """All outputs for all rows of x (S, N, ...), a few thousand at a time."""
        run = torch.vmap(lambda p, b, rows: functional_call(self.template, (p, b), (rows,)))
        parts = [run(self.parameters, self.buffers, chunk) for chunk in x.split(EVALUATION_ROWS, dim=1)]
        return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}


def _check_layers(model: nn.Module) -> None:
    for name, module in model.named_modules():
        found = f"module {name!r} is a {type(module).__name__} with"
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            raise ValueError(
                f"{found} running statistics, which fit does not update; expected GroupNorm, LayerNorm or "
                "track_running_stats=False (a loop of your own with mtlkit.Weigher takes running statistics)"
            )
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise ValueError(
                f"{found} p = {module.p:g}, and fit has no random stream for dropout; expected a model without it "
                "(a loop of your own with mtlkit.Weigher takes dropout)"
            )


def stack_splits(
    draws: Sequence[Split], tasks: Sequence[Task], device: str | torch.device, dtype: torch.dtype
) -> Split:
    """The same split of every seed as one, (S, N, ...), targets packed; floating-point tensors as ``dtype``."""

    def stack(*tensors: Tensor) -> Tensor:
        kind = dtype if tensors[0].is_floating_point() else tensors[0].dtype
        if all(t is tensors[0] for t in tensors):
            return tensors[0].to(device, kind).expand(len(tensors), *tensors[0].shape)
        return torch.stack(tensors).to(device, kind)

    return _map(stack, *(replace(split, y=pack(tasks, split.y)) for split in draws))


def take(split: Split, rows: Tensor) -> Split:
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


class Batches:
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


def generator(seed: int, purpose: str, device: str | torch.device) -> torch.Generator:
    """The seed's own stream of random numbers for one purpose, independent of all others."""
    state = np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))
