"""Models of one architecture and their data, one per seed, stacked so that one program trains them all."""

from __future__ import annotations

import copy
import functools
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from mtlkit.datasets import Split
from mtlkit.gradients import Params, mean_losses
from mtlkit.measure import score
from mtlkit.models import MultiTaskModel, initialise
from mtlkit.tasks import Packed, Task, labelled_by_task, pack, per_sample_losses, separate_losses

EVALUATION_ROWS = {"cpu": 256, "other": 4096}
"""Rows that are evaluated at once, by device: few on a CPU, whose cache has to hold what the layers put out."""


class Stack:
    """S freshly initialised models as one; every tensor has a leading seed axis.

    The training batch runs in training mode: each seed draws its dropout masks from its own stream.
    Held-out batches, and the main task's loss and score on whatever batch, run in evaluation mode.

    Args:
        model: gives the architecture; it is not changed.
        tasks: main task first.
        seeds: each model's initial weights are drawn from its seed.
        autocast: run the models in bfloat16 where torch.autocast finds that safe; parameters, outputs
            and losses keep ``dtype``.
        initial: seed to values that stand in for the drawn ones, by the names of parameters and buffers.

    Attributes:
        parameters: (S, *) each, of those that require a gradient.
        buffers: (S, *) each, and the other parameters.
        shared: names of the trunk's parameters.
        last: names of its last layer's.

    Raises:
        ValueError: a norm layer with running statistics, or an unusual kind of dropout, in the model; an initial
            value of an unknown name or another shape.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tasks: Sequence[Task],
        seeds: Sequence[int],
        device: str | torch.device,
        dtype: torch.dtype,
        autocast: bool = False,
        initial: Callable[[int], Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.template = copy.deepcopy(model).to(dtype=dtype).train()
        check_layers(self.template)
        self.tasks, self.main = tuple(tasks), tasks[0]
        self.dtype, self.autocast = dtype, torch.autocast(torch.device(device).type, torch.bfloat16, autocast, False)
        models = []
        for seed in seeds:
            fresh = copy.deepcopy(self.template).cpu()
            initialise(fresh, generator(seed, "weights", "cpu"))
            if initial is not None:
                _fill(fresh, initial(seed), seed)
            models.append(fresh.to(device))
        self.parameters, self.buffers = torch.func.stack_module_state(models)
        frozen = [name for name, value in self.template.named_parameters() if not value.requires_grad]
        self.buffers |= {name: self.parameters.pop(name) for name in frozen}
        self.masked = _seed_dropout(self.template)
        self.template.to(device)
        self.judge = copy.deepcopy(self.template).eval()
        self.streams = [generator(seed, "dropout", device) for seed in seeds]
        self.shared = tuple(name for name in self.parameters if name.startswith("trunk."))
        self.last = tuple(name for name in self.template.last if name in self.parameters)

    def state(self) -> dict[str, Any]:
        """Parameters, buffers and the streams of dropout, for :meth:`restore`."""
        return {
            "parameters": self.parameters,
            "buffers": self.buffers,
            "streams": [stream.get_state() for stream in self.streams],
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        for own, saved in ((self.parameters, state["parameters"]), (self.buffers, state["buffers"])):
            for name, value in own.items():
                value.copy_(saved[name])
        for stream, saved in zip(self.streams, state["streams"], strict=True):
            stream.set_state(saved)

    def masks(self, *copies: int) -> Params:
        """New keys (S, *copies) for the dropout masks of one batch, by the names that :meth:`losses` knows."""
        if not self.masked:
            return {}
        shape = (*copies, len(self.masked))
        drawn = [torch.randint(2**62, shape, generator=g, device=g.device) for g in self.streams]
        return dict(zip(self.masked, torch.stack(drawn).unbind(-1), strict=True))

    def losses(self, batch: Split, own: Params) -> Tensor:
        """Per-sample training losses (S, B, T) in training mode, with ``own`` in place of the state of those names.

        ``own`` and the batch may be several copies of the stack, one after the other: (K S, ...).
        """

        def one(state: Params, x: Tensor, y: dict) -> Tensor:
            return per_sample_losses(self.tasks, self._call(self.template, state, x), y, training=True)

        return _of_each(one, self._state(batch, own), batch.x, batch.y)

    def columns(self, batch: Split, own: Params) -> list[Tensor]:
        """The same as T separate losses (S, B), so that one task's gradient never visits another's head."""

        def one(state: Params, x: Tensor, y: dict) -> list[Tensor]:
            return separate_losses(self.tasks, self._call(self.template, state, x), y, training=True)

        return _of_each(one, self._state(batch, own), batch.x, batch.y)

    @property
    def penalty(self) -> Callable[[Params], Tensor] | None:
        """From parameters (S, *) to the term (S,) that the models add to the loss, whatever the batch, if they do."""
        one = getattr(self.template, "penalty", None)
        return None if one is None else functools.partial(_of_each, one)

    def _state(self, batch: Split, own: Params) -> Params:
        copies = len(batch.x) // len(next(iter(self.parameters.values())))
        tiled = {name: value.repeat(copies, *[1] * (value.ndim - 1)) for name, value in self.buffers.items()}
        return {**self.parameters, **tiled, **own}

    def main_output(self, batch: Split, own: Params) -> Tensor:
        """Outputs (S, B, ...) of the main task in evaluation mode; no other head runs."""

        def one(state: Params, x: Tensor) -> Tensor:
            return self._call(self.judge, state, x, (self.main.name,))[self.main.name]

        return _of_each(one, {**self.parameters, **self.buffers, **own}, batch.x)

    def main_loss(self, batch: Split, own: Params) -> Tensor:
        """The main task's mean loss (S,) over the batch's labelled samples, in evaluation mode."""

        def one(output: Tensor, target: Tensor) -> Tensor:
            task = (self.main,)
            y: Packed = {(self.main.name,): target.unsqueeze(1)}
            return mean_losses(per_sample_losses(task, {self.main.name: output}, y), labelled_by_task(task, y)).squeeze(
                -1
            )

        return _of_each(one, self.main_output(batch, own), self._main_target(batch))

    def main_score(self, metric: Callable[[Tensor, Tensor], float], batch: Split, own: Params) -> Tensor:
        """A metric of the main task (S,), to be lowered, one seed after the other."""
        pairs = zip(self.main_output(batch, own), self._main_target(batch), strict=True)
        return torch.stack([score(metric, self.main, *pair) for pair in pairs])

    def _main_target(self, batch: Split) -> Tensor:
        names = next(names for names in batch.y if self.main.name in names)
        return batch.y[names][:, :, names.index(self.main.name)]

    def present(self, split: Split) -> Tensor:
        """Which labels are there: (S, N, T) bool."""
        return torch.vmap(lambda y: labelled_by_task(self.tasks, y))(split.y)

    @torch.no_grad()
    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """All outputs for all rows of x (S, N, ...) in evaluation mode, some at a time (:data:`EVALUATION_ROWS`)."""
        state = {**self.parameters, **self.buffers}

        def one(state: Params, rows: Tensor) -> dict[str, Tensor]:
            return self._call(self.judge, state, rows)

        rows = EVALUATION_ROWS["cpu" if x.device.type == "cpu" else "other"]
        parts = [_of_each(one, state, chunk) for chunk in x.split(rows, dim=1)]
        return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}

    def _call(self, model: nn.Module, state: Params, *inputs: object) -> dict[str, Tensor]:
        with self.autocast:
            outputs = functional_call(model, state, inputs)
        return {name: output.to(self.dtype) for name, output in outputs.items()}


def _of_each(function: Callable[..., Any], *stacked: Any) -> Any:
    """``torch.vmap(function)(*stacked)``; a stack of one is not mapped, which is faster and gives the same."""
    if len(tree_leaves(stacked)[0]) > 1:
        return torch.vmap(function)(*stacked)
    return tree_map(lambda t: t.unsqueeze(0), function(*tree_map(lambda t: t.squeeze(0), stacked)))


def stacks_well(model: nn.Module, device: str | torch.device) -> bool:
    """Whether copies of this model train faster side by side: yes, but for convolutions on a CPU."""
    convolves = any(isinstance(module, nn.modules.conv._ConvNd) for module in model.modules())
    return torch.device(device).type != "cpu" or not convolves


@torch.no_grad()
def _fill(model: nn.Module, values: Mapping[str, Tensor], seed: int) -> None:
    """Put these values in the place of the model's own of the same names."""
    own = model.state_dict()
    for name, value in values.items():
        if name not in own:
            raise ValueError(f"initial weights of seed {seed}: the model has no {name!r}, expected names of its state")
        if value.shape != own[name].shape:
            raise ValueError(
                f"initial weights of seed {seed}: {name!r} has shape {tuple(value.shape)}, "
                f"the model's has {tuple(own[name].shape)}"
            )
        own[name].copy_(value)
    lacking = [name for name, _ in model.named_parameters() if name.startswith("trunk.") and name not in values]
    if lacking and any(name.startswith("heads.") for name in values):
        raise ValueError(
            f"initial weights of seed {seed}: heads, but no {lacking[0]!r}, expected those of a model with this trunk"
        )


def check_layers(model: nn.Module) -> None:
    """Raise ValueError for a norm layer with running statistics or an unusual kind of dropout."""
    for name, module in model.named_modules():
        found = f"module {name!r} is a {type(module).__name__} with"
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            raise ValueError(
                f"{found} running statistics, which fit does not update; expected GroupNorm, LayerNorm or "
                "track_running_stats=False (a loop of your own with mtlkit.Weigher takes running statistics)"
            )
        inner = getattr(module, "dropout", 0)
        rate = module.p if isinstance(module, (nn.AlphaDropout, nn.FeatureAlphaDropout)) else inner
        if isinstance(rate, numbers.Real) and float(rate) > 0:
            raise ValueError(
                f"{found} dropout of {rate:g}, for which fit has no random stream; expected Dropout, Dropout1d, "
                "Dropout2d or Dropout3d (a loop of your own with mtlkit.Weigher takes any)"
            )


class SeededDropout(nn.Module):
    """Dropout whose mask follows from a key, so that it is one seed's own however seeds are stacked.

    torch's own dropout draws from one stream for a whole stack, which a seed alone would not see. Element
    i is kept or not by a hash of the key and i (the finaliser of SplitMix64: Steele, Lea, Flood,
    *Fast splittable pseudorandom number generators*, OOPSLA 2014).

    Args:
        p: the chance that an element is set to zero; the others are divided by 1 - p.
        channels: drop whole channels of (B, C, ...) inputs, as ``nn.Dropout2d`` does.

    Attributes:
        key: () int64.
    """

    key: Tensor

    def __init__(self, p: float, channels: bool) -> None:
        super().__init__()
        self.p, self.channels = p, channels
        self.register_buffer("key", torch.zeros((), dtype=torch.long), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) to the same shape."""
        if not self.training:
            return x
        shape = (*x.shape[:2], *[1] * (x.ndim - 2)) if self.channels else x.shape
        place = torch.arange(1, math.prod(shape) + 1, device=x.device).view(shape)
        hashed = self.key + place * -0x61C8864680B583EB
        hashed = (hashed ^ _shifted(hashed, 30)) * -0x40A7B892E31B1A47
        hashed = (hashed ^ _shifted(hashed, 27)) * -0x6B2FB644ECCEEE15
        uniform = _shifted(hashed ^ _shifted(hashed, 31), 11).double() * 2.0**-53
        return torch.where(uniform < self.p, 0, x / max(1 - self.p, 1e-12))


def _shifted(value: Tensor, by: int) -> Tensor:
    """Logical shift of int64 to the right."""
    return (value >> by) & ((1 << (64 - by)) - 1)


def _seed_dropout(model: nn.Module) -> list[str]:
    """Replace the model's dropout layers by :class:`SeededDropout`; the names of their keys."""
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0]
    for name, module in found:
        model.set_submodule(name, SeededDropout(module.p, channels=not isinstance(module, nn.Dropout)))
    return [f"{name}.key" for name, _ in found]


def stack_splits(
    draws: Sequence[Split], tasks: Sequence[Task], device: str | torch.device, dtype: torch.dtype
) -> Split:
    """The same split of every seed as one, (S, N, ...), targets packed; floating-point tensors as ``dtype``."""

    def stack(*tensors: Tensor) -> Tensor:
        kind = dtype if tensors[0].is_floating_point() else tensors[0].dtype
        if all(t is tensors[0] for t in tensors):
            return tensors[0].to(device, kind).expand(len(tensors), *tensors[0].shape)
        return torch.stack(tensors).to(device, kind)

    return tree_map(stack, *(replace(split, y=pack(tasks, split.y)) for split in draws))


def take(split: Split, rows: Tensor) -> Split:
    """Rows (S, B) of a stacked split, or rows (K S, B) that go through its seeds K times."""
    seed = torch.arange(len(rows), device=rows.device)[:, None] % len(split.rows)
    return tree_map(lambda tensor: tensor[seed, rows], split)


class Batches:
    """Row numbers (S, batch) without end: shuffled passes over ``n`` rows, one generator per seed."""

    def __init__(self, n: int, batch: int, generators: Sequence[torch.Generator]) -> None:
        self.n, self.batch, self.generators = n, batch, generators
        self.left = torch.empty(len(generators), 0, dtype=torch.long, device=generators[0].device)

    def state(self) -> dict[str, Any]:
        """The rows left of the passes begun, and the streams, for :meth:`restore`."""
        return {"left": self.left.clone(), "streams": [stream.get_state() for stream in self.generators]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.left = state["left"]
        for stream, saved in zip(self.generators, state["streams"], strict=True):
            stream.set_state(saved)

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
