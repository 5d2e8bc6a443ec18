"""Odd arguments, drawn at random, end in a result or in a documented error."""

import functools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_training import model, small
from torch import nn

import mtlkit as mtl
from mtlkit.datasets import Dataset

DOCUMENTED = (ValueError, TypeError, FileNotFoundError, LookupError)
ODD = [None, True, False, 0, -1, 1, 2, 3, 1.5, math.nan, math.inf, -math.inf, 1e300, "", "a", b"a", [], [1], {}, ()]


def drawn(examples):
    return settings(
        max_examples=examples, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def a_few(sound, odd, most=3):
    """Sound options of which up to ``most`` are replaced by odd ones."""

    def change(names):
        return st.fixed_dictionaries({name: st.sampled_from(odd[name]) for name in names})

    chosen = st.lists(st.sampled_from(sorted(odd)), unique=True, max_size=most)
    return chosen.flatmap(change).map(lambda changed: {**sound, **changed})


def told(error):
    """Whether an error says something."""
    assert str(error).strip()


def one_of_each():
    return small(n=(6, 4, 4))


def with_target(name, value):
    data = one_of_each()
    splits = {where: replace(s, y={**s.y, name: torch.full_like(s.y[name], value)}) for where, s in data.splits.items()}
    return functools.partial(replace, data, redraw=None, **splits)


def shaped(*shape):
    data = one_of_each()
    splits = {where: replace(s, x=s.x[:, :4].reshape(-1, *shape)) for where, s in data.splits.items()}
    return functools.partial(replace, data, redraw=None, **splits)


def whole_numbers():
    data = one_of_each()
    return replace(data, redraw=None, **{where: replace(s, x=s.x.long()) for where, s in data.splits.items()})


DATA = [
    one_of_each, lambda: one_of_each().only(["main"]), lambda: one_of_each().only(["far", "near"]),
    lambda: small(n=(1, 1, 1)), lambda: small(n=(2, 1, 1)), with_target("main", math.nan), with_target("main", 1.0),
    with_target("main", 7.0), with_target("near", math.nan), with_target("near", 0.0), with_target("near", 1e200),
    with_target("far", -1), with_target("far", 3), shaped(4), shaped(1, 2, 2), shaped(2, 2), whole_numbers,
    lambda: one_of_each().train_on_meta(0.5), lambda: None, lambda: "digits", lambda: pd.DataFrame({"a": [1]}),
]  # fmt: skip
MODELS = [
    model, lambda data: mtl.models.mlp(data, hidden=()), lambda data: mtl.models.mlp(one_of_each()),
    lambda data: nn.Linear(5, 1), lambda data: None, lambda data: mtl.models.mlp,
    lambda data: mtl.models.MultiTaskModel(nn.Identity(), {task.name: nn.Linear(5, 1) for task in data.tasks}),
    lambda data: mtl.models.MultiTaskModel(nn.Linear(5, 0), {task.name: nn.Linear(0, 1) for task in data.tasks}),
    lambda data: mtl.models.MultiTaskModel(nn.BatchNorm1d(5), {task.name: nn.Linear(5, 1) for task in data.tasks}),
    lambda data: mtl.models.MultiTaskModel(nn.Linear(5, 2), {}),
]  # fmt: skip
METHODS = [
    mtl.Uniform(), mtl.SLGrad(), mtl.HydaLearn(), mtl.GradNorm(), mtl.Uncertainty(), mtl.DWA(), mtl.Fixed([1.0]),
    mtl.Fixed([1.0, 2.0, 3.0]), mtl.OrthogonalGradients(), mtl.AlphaVIL(), mtl.DIW(), mtl.ForkMerge(),
    mtl.ForkMerge(top_k=2), mtl.SLGrad, None, "SLGrad",
]  # fmt: skip
COUNTS = [*ODD, 4, 6, 7, 1000]
FIT = {
    "epochs": ODD,
    "batch_size": COUNTS,
    "meta_batch_size": COUNTS,
    "steps_per_epoch": ODD,
    "patience": ODD,
    "select_from": ODD,
    "lr": [*ODD, -0.1, 1e-300, 100.0, np.float32(0.1), torch.tensor(0.1)],
    "optimizer": [
        torch.optim.Adam, torch.optim.LBFGS, torch.optim.SparseAdam, torch.optim.Rprop,
        functools.partial(torch.optim.SGD), functools.partial(torch.optim.SGD, momentum=-1),
        lambda parameters, lr: None, None, "SGD", torch.optim,
    ],
    "clip": [*ODD, 1e-300],
    "seeds": [*ODD, [0, 0], [2**70], [-1], "01", range(2), (5, 3), np.arange(2), torch.arange(2), [[0]], {1: 2}],
    "chunk": ODD,
    "jobs": [x for x in ODD if x not in (2, 3)],
    "dtype": [*ODD, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.complex64, "float32"],
    "autocast": [True, False, None],
    "device": [*ODD, "cpu", "cuda:77", "meta", torch.device("cpu")],
    "name": [*ODD, "x" * 500],
    "watch": [*ODD, lambda rows: None, lambda: None],
    "weighting": METHODS,
    "data": DATA,
    "model": MODELS,
}  # fmt: skip
SOUND = {
    "epochs": 1, "batch_size": 4, "meta_batch_size": 3, "steps_per_epoch": 1, "lr": 0.01, "seeds": 1, "device": "cpu",
    "weighting": mtl.SLGrad(), "data": DATA[0], "model": MODELS[0],
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors", "ignore:.*at least two classes")
@drawn(300)
@given(a_few(SOUND, FIT))
def test_fit(options):
    options = dict(options)
    try:
        data = options.pop("data")()
        net = options.pop("model")(data if isinstance(data, Dataset) else one_of_each())
        runs = mtl.fit(net, data, options.pop("weighting"), **options)
    except DOCUMENTED as error:
        told(error)
    else:
        assert set(runs.frame.loc[runs.frame["metric"] == "loss", "epoch"]) <= {0, 1, 2, 3}
        assert len(runs.seeds) >= 1
        runs.summary("last")


def batch_of(change):
    rows = one_of_each().train
    return change(rows.x.float()), {name: y.clone() for name, y in rows.y.items()}


def without(*names):
    x, y = batch_of(lambda x: x)
    return x, {name: target for name, target in y.items() if name not in names}


X, NO_ROWS = batch_of(lambda x: x)[0], {name: y[:0] for name, y in one_of_each().train.y.items()}
BATCHES = [  # inputs that the model itself refuses end in its own error
    batch_of(lambda x: x), batch_of(lambda x: x[:1]), batch_of(lambda x: x * math.nan), (X, None), (X, {}),
    batch_of(lambda x: pd.DataFrame(x.numpy())), without("main"), without("near", "far"), (X[:0], NO_ROWS),
]  # fmt: skip
WEIGHER = {
    "weighting": METHODS,
    "model": MODELS,
    "tasks": [*ODD, one_of_each().tasks[:1], one_of_each().tasks[::-1], ["main", "near"], [*one_of_each().tasks] * 2],
    "shared": [*ODD, "trunk", ["trunk"], "heads", ["nothing"], nn.Linear(2, 2)],
    "last": [*ODD, ["trunk"], ["heads"]],
    "lr": ODD,
    "seed": [x for x in ODD if x not in (-1,)],
    "batch": BATCHES,
    "meta": [*BATCHES, None, 3, (1, 2, 3)],
    "epoch": ODD,
}  # fmt: skip
WEIGHED = {
    "weighting": mtl.SLGrad(), "model": MODELS[0], "tasks": one_of_each().tasks, "shared": ["trunk"], "last": None,
    "lr": 0.1, "seed": 0, "batch": BATCHES[0], "meta": BATCHES[0], "epoch": 0,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors", "ignore:.*NaN in the inputs")
@drawn(250)
@given(a_few(WEIGHED, WEIGHER))
def test_weigher(options):
    o = options
    try:
        net = o["model"](one_of_each())
        shared, last, lr, seed = (o[name] for name in ("shared", "last", "lr", "seed"))
        weigh = mtl.Weigher(net, o["tasks"], o["weighting"], shared=shared, last=last, lr=lr, seed=seed)
        loss = weigh(*o["batch"], meta=o["meta"], epoch=o["epoch"])
    except DOCUMENTED as error:
        told(error)
    else:
        assert loss.shape == ()
        loss.backward()


TASK = {
    "name": ODD,
    "kind": [*ODD, "regression", "binary", "multiclass", "Binary"],
    "n_classes": [*ODD, 3.0, np.int64(3), torch.tensor(3), 2**80],
    "flip": [*ODD, 0.5, np.float32(0.5), torch.tensor(0.5)],
}


@drawn(200)
@given(a_few({"name": "a", "kind": "binary"}, TASK))
def test_task(options):
    try:
        task = mtl.Task(**options)
    except DOCUMENTED as error:
        told(error)
    else:
        assert task.n_outputs >= 1


COLUMNS = {
    "numbers": np.linspace(-1, 1, 24),
    "yes": np.arange(24) % 2,
    "text": np.array(list("abcabcabcabcabcabcabcabc"), object),
    "gaps": np.where(np.arange(24) % 5, np.arange(24.0), math.nan),
    "constant": np.ones(24),
    "nothing": np.full(24, math.nan),
    "infinite": np.where(np.arange(24) % 7, 1.0, math.inf),
    "mixed": np.array([1, "a", None, 2.5] * 6, object),
    "lists": np.array([[1], [2]] * 12 + [None], object)[:24],
    "dates": pd.date_range("2024-01-01", periods=24),
    "complex": np.arange(24) * 1j,
    "big": np.full(24, 1e308) * (np.arange(24) % 3 - 1),
    "category": pd.Categorical(["u", "v", None] * 8),
    "truth": np.arange(24) % 3 == 0,
    7: np.arange(24),
}
NAMES = [*COLUMNS, "missing", None, "", 3.5]
FRAME = {
    "columns": [["numbers", "yes"], ["yes"], [], list(COLUMNS), ["text", "category", "truth"], ["big", "gaps"]],
    "rows": [0, 1, 2, 3, 24],
    "main": NAMES,
    "auxiliaries": [(), ["numbers"], ["yes", "yes"], "numbers", ["gaps", "text"], ["constant"], [7], None, ["nothing"]],
    "kinds": [None, {}, {"yes": "regression"}, {"yes": "multiclass"}, {"text": "binary"}, {"yes": "odd"}, {"z": "odd"}],
    "categorical": [(), ["yes"], "yes", ["numbers"], ["missing"], ["lists"], None],
    "drop": [(), ["text"], ["text", "text"], "text", ["missing"], list(COLUMNS)],
    "groups": NAMES,
    "time": NAMES,
    "stratify": [True, False, None, "a"],
    "meta": [*ODD, 0.3, 0.99, 1e-9],
    "test": [*ODD, 0.3, 0.99, 1e-9],
    "seed": [*ODD, 2**70],
}  # fmt: skip


@drawn(250)
@given(a_few({"columns": ["numbers", "yes", "gaps", "text"], "rows": 24, "main": "yes"}, FRAME))
def test_from_frame(options):
    options = dict(options)
    frame = pd.DataFrame({name: COLUMNS[name] for name in options.pop("columns")})[: options.pop("rows")]
    try:
        data = mtl.datasets.from_frame(frame, options.pop("main"), **options)
    except DOCUMENTED as error:
        told(error)
    else:
        assert all(len(split) and torch.isfinite(split.x).all() for split in data.splits.values())


LOAD = {
    "name": ["digits", "synthetic", "toy_regression", "nothing", None, 3, "Digits"],
    "seed": [*ODD, 2**70],
    "main": [*ODD, 8, 10, "is_3"],
    "label_noise": [*ODD, 0.5],
    "noise": [*ODD, "flip", "constant", "gaussian"],
    "noisy_tasks": [*ODD, "all"],
    "n_meta": [*ODD, 100, 5000],
    "n_train": [*ODD, 100, 5000],
    "n_test": [*ODD, 100],
    "n_inputs": ODD,
    "distance": ODD,
    "drift_to": ODD,
    "drift_epochs": [*ODD, (1, 2), (2, 1), (1, 2, 3), ("a", "b")],
    "correlation": [*ODD, 0.5],
    "observation_noise": ODD,
    "unknown": [1],
}
OPTIONS = {
    "digits": {"main", "label_noise", "noise", "n_meta", "n_test"},
    "synthetic": {
        "label_noise", "noise", "noisy_tasks", "n_meta", "n_train", "n_test", "n_inputs", "drift_epochs", "correlation",
        "observation_noise",
    },
    "toy_regression": {
        "label_noise", "noise", "noisy_tasks", "n_meta", "n_train", "n_test", "distance", "drift_to", "drift_epochs",
    },
}  # fmt: skip


@drawn(300)
@given(a_few({"name": "toy_regression"}, LOAD))
def test_load(options):
    options = dict(options)
    name = options.pop("name")
    known = OPTIONS.get(name, set()) | {"seed", "unknown"}
    try:
        data = mtl.datasets.load(name, **{option: value for option, value in options.items() if option in known})
    except DOCUMENTED as error:
        told(error)
    else:
        assert len(data.train) >= 1
