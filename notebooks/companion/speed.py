"""What is timed in notebooks/speed.ipynb: steps, passes, ways to the same alignment, branches; all on noise."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import pandas as pd
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn
from torch.func import functional_call
from torchjd.autogram import Engine

import mtlkit as mtl
from mtlkit.datasets import Dataset, Split
from mtlkit.measure import aligned_losses, gradient
from mtlkit.memory import peak_memory
from mtlkit.tasks import pack, per_sample_losses
from mtlkit.training.branches import Branches
from mtlkit.training.descent import Descent
from mtlkit.training.stack import Stack, generator, stack_splits, take
from mtlkit.weighting import Weighting

Batch: TypeAlias = tuple[Tensor, dict[str, Tensor]]
Build: TypeAlias = Callable[[Dataset], nn.Module]
Call: TypeAlias = Callable[[], object]


def random_data(n_tasks: int, shape: Sequence[int] = (250,), kind: str = "regression", n_train: int = 800) -> Dataset:
    """Noise in the shape of a data set: its numbers do not matter."""
    g = torch.Generator().manual_seed(0)
    rows = torch.arange(n_train + 300)
    classes = {"regression": None, "binary": None, "multiclass": 10}[kind]
    tasks = tuple(mtl.Task(f"task_{t}", kind, classes) for t in range(n_tasks))
    draw = {
        "regression": lambda: torch.randn(len(rows), generator=g),
        "binary": lambda: torch.randint(2, (len(rows),), generator=g).float(),
        "multiclass": lambda: torch.randint(10, (len(rows),), generator=g),
    }[kind]
    x, y = torch.randn(len(rows), *shape, generator=g), {task.name: draw() for task in tasks}
    whole = Split(x, y, rows, torch.zeros(len(rows), n_tasks, dtype=torch.bool))
    return Dataset("random", tasks, *(whole.take(part) for part in rows.split([n_train, 200, 100])))


def images(n_tasks: int, kind: str = "multiclass", n_train: int = 512) -> Dataset:
    """Noise in the shape of CIFAR-10."""
    return random_data(n_tasks, (3, 32, 32), kind, n_train)


def toy(data: Dataset, width: int = 64) -> mtl.models.MultiTaskModel:
    """A perceptron of three layers."""
    return mtl.models.mlp(data, hidden=(width,) * 3)


def small_lenet(data: Dataset) -> mtl.models.MultiTaskModel:
    """A LeNet for pictures of 32x32, with a linear head a task."""
    convolutions = [nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)]
    layers = [nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()]
    heads = {task.name: nn.Linear(84, task.n_outputs) for task in data.tasks}
    return mtl.models.MultiTaskModel(nn.Sequential(*convolutions, *layers), heads)


def seconds(calls: Mapping[str, Call], repeats: int, now: Callable[[], float] = time.process_time) -> dict[str, float]:
    """Median seconds of each call, the calls taking turns."""
    taken = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            start = now()
            call()
            if repeat:
                taken[name].append(now() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def batch_of(split: Split, size: int) -> Batch:
    """The first rows: inputs, and targets by task."""
    return split.x[:size], {name: target[:size] for name, target in split.y.items()}


def plain_step(model: nn.Module, data: Dataset, size: int) -> Call:
    """A step of a loop in PyTorch, with uniform weights."""
    x, y = batch_of(data.train, size)
    of = nn.functional.cross_entropy if data.main.kind == "multiclass" else nn.functional.mse_loss
    if data.main.kind == "binary":
        of = nn.functional.binary_cross_entropy_with_logits
    descent = mtl.training.SGD(model.parameters(), lr=1e-3)

    def call():
        outputs = model(x)
        losses = [of(outputs[name].squeeze(1), y[name]) for name in y]
        descent.zero_grad()
        (sum(losses) / len(losses)).backward()
        descent.step()

    return call


def weighted_step(model: nn.Module, data: Dataset, size: int, weighting: Weighting, meta_size: int) -> Call:
    """The same step with a Weigher."""
    (x, y), meta = batch_of(data.train, size), batch_of(data.train, meta_size)
    weigh = mtl.Weigher(model, data.tasks, weighting, shared=model.trunk, lr=1e-3)
    descent = mtl.training.SGD([*model.parameters(), *weigh.parameters()], lr=1e-3)

    def call():
        loss = weigh(x, y, meta=meta, epoch=0)
        descent.zero_grad()
        loss.backward()
        descent.step()

    return call


def _run_of_fit(weighting: Weighting, n_steps: int, data: Dataset, seeds: int) -> Call:
    options = {"epochs": 1, "batch_size": 16, "meta_batch_size": 16, "device": "cpu"}
    return functools.partial(mtl.fit, toy(data), data, weighting, steps_per_epoch=n_steps, seeds=seeds, **options)


def seconds_per_step(
    weightings: Mapping[str, Weighting], data: Dataset, seeds: int, steps: int, repeats: int
) -> dict[str, float]:
    """Of ``fit``: a long run minus a short one, over the difference in steps: start and evaluation cancel."""
    calls = {(name, n): _run_of_fit(w, n, data, seeds) for name, w in weightings.items() for n in (1, 1 + steps)}
    found = seconds(calls, repeats)
    return {name: (found[name, 1 + steps] - found[name, 1]) / steps for name in weightings}


def passes(model: nn.Module, data: Dataset, size: int, meta_size: int, what: str) -> Call:
    """The passes through the model that a method cannot do without, and nothing else."""
    (x, y), (x_meta, y_meta) = batch_of(data.train, size), batch_of(data.train, meta_size)
    shared = {name: value for name, value in model.named_parameters() if name.startswith("trunk.")}
    parameters, of = list(model.parameters()), nn.functional.cross_entropy
    descent = mtl.training.SGD(parameters, lr=1e-3)

    def losses():
        outputs = model(x)
        return [of(outputs[name], y[name]) for name in y]

    def plain():
        descent.zero_grad()
        (sum(losses()) / len(y)).backward()
        descent.step()

    def hydalearn():
        slopes = [torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in losses()]
        with torch.no_grad():
            for _ in range(len(y) + 1):
                model(x_meta)
        for parameter, *found in zip(parameters, *slopes, strict=True):
            parameter.grad = next(slope for slope in found if slope is not None)
        descent.step()

    def slgrad():
        loss = of(model(x_meta)[data.main.name], y_meta[data.main.name])
        direction = torch.autograd.grad(loss, list(shared.values()))
        with torch.no_grad(), forward_ad.dual_level():
            duals = zip(shared.items(), direction, strict=True)
            functional_call(model, {name: forward_ad.make_dual(value, g) for (name, value), g in duals}, (x,))
        plain()

    return {"plain": plain, "HydaLearn": hydalearn, "SLGrad": slgrad}[what]


def ways_to_align(build: Build, data: Dataset, size: int, loop_losses: int) -> tuple[dict[str, Call], Call, float]:
    """Ways to the alignment of every loss with the meta gradient, which agree to 1e-5.

    Returns:
        name to way, a forward pass of the losses, and how many times the rows of the two loops a batch has.
    """
    model, tasks = build(data), data.tasks
    both, targets = batch_of(data.train, 2 * size), pack(tasks, batch_of(data.train, size)[1])
    x, main = both[0][:size], data.main
    shared = {name: value for name, value in model.named_parameters() if name.startswith("trunk.")}
    fixed = {name: value.detach() for name, value in shared.items()}
    held_out = pack([main], {main.name: both[1][main.name][size:]})
    meta = per_sample_losses([main], model(both[0][size:], (main.name,)), held_out).mean()
    g = gradient(meta, shared)
    n_looped = max(1, loop_losses // len(tasks))

    def losses(own, x=x, targets=targets):
        return per_sample_losses(tasks, functional_call(model, own, (x,)), targets)

    def inner(rows):
        return sum(rows[name].flatten(-g[name].ndim) @ g[name].flatten() for name in g)

    def mtlkit():
        with torch.no_grad():
            return aligned_losses(losses, shared, g)[1]

    def slopes(live):
        return torch.stack([inner(gradient(loss, shared, retain_graph=True)) for loss in live.flatten()]).view_as(live)

    def loop():
        return slopes(losses(shared)[:n_looped])

    def loop_samples():
        one_row = ({names: target[b : b + 1] for names, target in targets.items()} for b in range(n_looped))
        return torch.cat([slopes(losses(shared, x[b : b + 1], y)) for b, y in enumerate(one_row)])

    def of_one(own, x, y):
        return losses(own, x[None], {names: target[None] for names, target in y.items()})[0]

    def vmap():
        return inner(torch.vmap(lambda x, y: torch.func.jacrev(of_one)(fixed, x, y))(x, targets))

    def vmap_tasks():
        of = [torch.func.grad(lambda own, x, y, t=t: of_one(own, x, y)[t]) for t in range(len(tasks))]
        return torch.stack([inner(torch.vmap(lambda x, y, of=of: of(fixed, x, y))(x, targets)) for of in of], 1)

    hooked = build(data)
    hooked.load_state_dict(model.state_dict())
    engine = Engine(hooked.trunk, batch_dim=0)
    joint = pack(tasks, both[1])

    def autogram():
        gramian = engine.compute_gramian(per_sample_losses(tasks, hooked(both[0]), joint))
        return gramian.view(2 * size, len(tasks), 2 * size, len(tasks))[:size, :, size:, 0].mean(-1)

    ways = {
        "mtlkit": mtlkit,
        "loop": loop,
        "loop, sample by sample": loop_samples,
        "vmap": vmap,
        "vmap, task by task": vmap_tasks,
        "autogram": autogram,
    }
    reference = mtlkit()
    for name, way in ways.items():
        found = way().detach()
        error = (found - reference[: len(found)]).abs().max() / reference.abs().max()
        assert error < 1e-5, f"{name} differs from mtlkit by {error:.1e} of the largest value"
    return ways, functools.partial(losses, shared), size / n_looped


def cost_of_ways(build: Build, data: Dataset, size: int, repeats: int, loop_losses: int) -> pd.DataFrame:
    """Time and peak memory of :func:`ways_to_align` over a plain step's; the loops' time is that of all rows."""
    ways, forward, scale = ways_to_align(build, data, size, loop_losses)
    plain = plain_step(build(data), data, size)
    found = seconds({"plain": plain, "forward": forward, **ways}, repeats)
    found["loop"] = found["forward"] + scale * (found["loop"] - found["forward"])
    found["loop, sample by sample"] *= scale
    plain_peak = peak_memory(plain)
    return pd.DataFrame(
        {
            "time": {name: found[name] / found["plain"] for name in ways},
            "memory": {name: peak_memory(way) / plain_peak for name, way in ways.items()},
        }
    ).rename_axis("way")


def on_gpu() -> float:
    """The time when the GPU has done what it was asked for."""
    torch.cuda.synchronize()
    return time.perf_counter()


def steps_of_fit(weighting: Weighting, seeds: int, device: str, steps: int, compile: bool) -> Call:
    """The steps of ``fit`` alone, on one batch."""
    data = random_data(2)
    rows = torch.arange(16, device=device).expand(seeds, -1)
    stack = Stack(toy(data), data.tasks, range(seeds), device, torch.float32)
    train, meta = (
        take(stack_splits([part] * seeds, data.tasks, device, torch.float32), rows) for part in (data.train, data.meta)
    )
    given = {"present": stack.present(train)}
    descend = Descent(stack, weighting, None, mtl.training.SGD, lr=1e-3, compile=compile)

    def call():
        for _ in range(steps):
            descend(train, meta if weighting.uses_meta else None, (), **given)

    return call


def eager_and_compiled(weighting: Weighting, seeds: int, device: str, steps: int, repeats: int) -> dict[str, float]:
    """Seconds per step and seed."""
    calls = {how: steps_of_fit(weighting, seeds, device, steps, how == "compiled") for how in ("eager", "compiled")}
    now = on_gpu if device == "cuda" else time.process_time
    return {how: taken / steps / seeds for how, taken in seconds(calls, repeats, now).items()}


def until_full(weighting: Weighting, steps: int, repeats: int) -> dict[int, dict[str, float]]:
    """Number of seeds to seconds per step and seed, on the GPU."""
    found, count = {}, 1
    while len(found) < 2 or found[count // 4]["eager"] < 0.9 * found[count // 16]["eager"]:
        try:
            found[count] = eager_and_compiled(weighting, count, "cuda", steps, repeats)
        except torch.cuda.OutOfMemoryError:
            break
        count *= 4
    return found


def branch_training(n_tasks: int, stacked: bool, steps: int) -> Call:
    """An epoch of αVIL's branches."""
    data = random_data(n_tasks)
    stack = Stack(toy(data), data.tasks, [0], "cpu", torch.float32)
    splits = {name: stack_splits([part], data.tasks, "cpu", torch.float32) for name, part in data.splits.items()}
    length = {"epochs": 1, "steps_per_epoch": steps, "batch_size": 16, "meta_batch_size": 16}
    how = {"lr": 1e-2, "optimizer": mtl.training.SGD, "dtype": torch.float32, "device": "cpu"}
    order = [generator(0, "branch order", "cpu")]
    branches = Branches(stack, splits, None, mtl.training.Settings(**length, **how), order)
    branches.stacked = stacked
    start = {name: value.detach().expand(n_tasks, *value.shape) for name, value in stack.parameters.items()}
    weights = torch.eye(n_tasks)[:, None] / n_tasks
    epoch = branches.epoch({name: value.detach() for name, value in stack.parameters.items()})
    return lambda: epoch.train(start, weights, 1.0, None)


def plain_loop(n_tasks: int, steps: int) -> Call:
    """The same training by a loop over copies of the model."""
    data = random_data(n_tasks)

    def train():
        for task in data.tasks:
            model = toy(data)
            descent = mtl.training.SGD(model.parameters(), lr=1e-2)
            for _ in range(steps):
                rows = torch.randint(len(data.train), (16,))
                loss = (model(data.train.x[rows])[task.name][:, 0] - data.train.y[task.name][rows]).square().mean()
                descent.zero_grad()
                (loss / n_tasks).backward()
                descent.step()

    return train
