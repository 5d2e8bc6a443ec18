"""Small problems, and the slow loops over plain modules that the merging methods are checked against."""

import copy
from types import SimpleNamespace

import pytest
import torch

import mtlkit as mtl
from mtlkit.datasets import Dataset, Split
from mtlkit.training.branches import Branches

STEPS, BATCH, LR = 4, 8, 0.05


def make(kinds=("regression", "regression", "binary"), *, n=40, n_meta=24, seed=0, scale=1.0, auxiliaries=None):
    """Random inputs; the main task's target is a function of them, and so are the others' unless told otherwise.

    ``auxiliaries``: "copy" or "shuffled" per auxiliary task, both made from the main task's targets.
    """
    g = torch.Generator().manual_seed(seed)
    rows = n + n_meta + 16
    x = torch.randn(rows, 5, generator=g, dtype=torch.float64)
    tasks, y = [], {}
    for t, kind in enumerate(kinds):
        name = f"t{t}"
        if t and auxiliaries:
            order = torch.arange(rows) if auxiliaries[t - 1] == "copy" else torch.randperm(rows, generator=g)
            y[name] = y["t0"][order]
        else:
            value = (x @ torch.randn(5, generator=g, dtype=torch.float64)).tanh()
            value = value + 0.3 * torch.randn(rows, generator=g, dtype=torch.float64)
            y[name] = value if kind == "regression" else (value > 0).double()
        tasks.append(mtl.Task(name, kind))
    x = x * scale
    whole = Split(x, y, torch.arange(rows), torch.zeros(rows, len(tasks), dtype=torch.bool))
    parts = (whole.take(r) for r in torch.arange(rows).split([n, n_meta, 16]))
    return Dataset("small", tuple(tasks), *parts)


def run(data, method, *, hidden=(6,), seeds=1, epochs=1, momentum=0.9, **options):
    settings = {"batch_size": BATCH, "steps_per_epoch": STEPS, "lr": LR, **options}
    return mtl.fit(
        mtl.models.mlp(data, hidden),
        data,
        method,
        seeds=seeds,
        epochs=epochs,
        dtype=torch.float64,
        device="cpu",
        optimizer=lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=momentum),
        **settings,
    )


def initial(data, seed, hidden=(6,)):
    """The model as fit initialises it."""
    model = mtl.models.mlp(data, hidden).double()
    model.load_state_dict(run(data, mtl.Uniform(), hidden=hidden, seeds=[seed], lr=0.0).state_dict(seed, "last"))
    return model


def sgd(model, momentum=0.9):
    return torch.optim.SGD(model.parameters(), lr=LR, momentum=momentum)


def task_loss(data, output, y, t):
    name, kind = data.tasks[t].name, data.tasks[t].kind
    prediction, target = output[name].squeeze(-1), y[name]
    if kind == "regression":
        return ((prediction - target) ** 2).mean()
    return torch.nn.functional.binary_cross_entropy_with_logits(prediction, target)


def train(model, optimizer, data, weights, rows):
    """``rows`` (steps, B); the loss is Σ w_t L_t."""
    for batch in rows:
        optimizer.zero_grad()
        output = model(data.train.x[batch])
        y = {name: target[batch] for name, target in data.train.y.items()}
        sum(float(w) * task_loss(data, output, y, t) for t, w in enumerate(weights)).backward()
        optimizer.step()


def meta_loss(model, data):
    with torch.no_grad():
        return task_loss(data, model(data.meta.x), data.meta.y, 0).item()


def blend(start, branches, coefficients, *, deltas):
    """A module with parameters start + Σ c (branch - start), or Σ c branch."""
    merged = copy.deepcopy(start)
    with torch.no_grad():
        for name, value in merged.named_parameters():
            total = value.clone() if deltas else torch.zeros_like(value)
            for c, branch in zip(coefficients, branches, strict=True):
                moved = branch.get_parameter(name) - (start.get_parameter(name) if deltas else 0)
                total += c * moved
            value.copy_(total)
    return merged


def assert_same(runs, seed, model, tolerance=1e-8):
    found = runs.state_dict(seed, "last")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance)


def values(runs, metric, seed=0, split=None):
    """(epochs, T) of one seed, epochs from 1."""
    frame = runs.frame
    frame = frame[(frame.metric == metric) & (frame.seed == seed) & (frame.epoch > 0)]
    if split:
        frame = frame[frame.split == split]
    return frame.pivot(index="epoch", columns="task", values="value").to_numpy()


@pytest.fixture
def slow():
    return SimpleNamespace(
        make=make,
        run=run,
        initial=initial,
        sgd=sgd,
        train=train,
        task_loss=task_loss,
        meta_loss=meta_loss,
        blend=blend,
        assert_same=assert_same,
        values=values,
        steps=STEPS,
        lr=LR,
    )


@pytest.fixture
def drawn(monkeypatch):
    """The row numbers (K, S, steps, B) of every call to train branches, in order."""
    calls, draw = [], Branches._drawn_rows

    def spy(self, *args):
        calls.append(draw(self, *args))
        return calls[-1]

    monkeypatch.setattr(Branches, "_drawn_rows", spy)
    return calls
