"""However seeds are run, stacked or apart, as they are or compiled, the numbers are the same."""

import functools
import inspect
from dataclasses import replace

import pandas as pd
import pytest
import torch
from test_training import model, small
from torch import nn

import mtlkit as mtl
from mtlkit.tasks import pack, per_sample_losses
from mtlkit.training import loop
from mtlkit.training.descent import check_elementwise
from mtlkit.training.stack import Batches, generator

DOUBLE = {"dtype": torch.float64, "device": "cpu"}
RUN = {"epochs": 2, "batch_size": 8, "meta_batch_size": 6, "seeds": [3, 8, 5], **DOUBLE}
ELEMENTWISE = ["SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "ASGD", "Rprop"]
METHODS = {
    "Uniform": mtl.Uniform(),
    "RandomWeighting": mtl.RandomWeighting(),
    "Uncertainty": mtl.Uncertainty(),
    "DWA": mtl.DWA(),
    "GradNorm": mtl.GradNorm(),
    "OLAux": mtl.OLAux(every=2),
    "MetaTartan": mtl.MetaTartan(),
    "HydaLearn": mtl.HydaLearn(),
    "SLGrad": mtl.SLGrad(),
    "SLGrad, look-ahead": mtl.SLGrad(lookahead=0.05),
    "GradientCosine, meta": mtl.GradientCosine(on="meta"),
    "MetaWeightNet": mtl.MetaWeightNet(hidden=6),
    "AuxiLearn": mtl.AuxiLearn(every=2),
    "AuxiLearn, network": mtl.AuxiLearn(hidden=3, every=2),
    "ARML": mtl.ARML(),
    "NoiseLayer": mtl.NoiseLayer(auxiliaries=True),
    "OrthogonalGradients": mtl.OrthogonalGradients(),
}


def convolutional(data):
    trunk = nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Dropout(0.2), nn.Flatten())
    return mtl.models.MultiTaskModel(trunk, {task.name: nn.Linear(12, task.n_outputs) for task in data.tasks})


def assert_same(runs, others, tolerance=1e-10):
    pd.testing.assert_frame_equal(runs.frame, others.frame, rtol=tolerance, atol=tolerance)
    pd.testing.assert_frame_equal(runs.samples, others.samples, rtol=tolerance, atol=tolerance)
    assert runs.states["last"].keys() == others.states["last"].keys()
    for name, value in runs.states["last"].items():
        torch.testing.assert_close(value, others.states["last"][name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("network", [model, convolutional])
@pytest.mark.parametrize("method", [*METHODS.values(), mtl.AlphaVIL(rho=0.5)], ids=[*METHODS, "AlphaVIL"])
def test_stacked_and_one_after_the_other_give_the_same(method, network):
    data = small()
    together = mtl.fit(network(data), data, method, chunk=3, **RUN)
    assert_same(mtl.fit(network(data), data, method, chunk=1, **RUN), together)
    assert_same(mtl.fit(network(data), data, method, chunk=2, **RUN), together)


def test_processes_give_the_same():
    data = mtl.datasets.load("digits", main=8, label_noise=0.4)
    options = {**RUN, "steps_per_epoch": 3}
    net = mtl.models.mlp(data)
    together = mtl.fit(net, data, mtl.SLGrad(), chunk=3, **options)
    assert_same(mtl.fit(net, data, mtl.SLGrad(), chunk=2, jobs=2, **options), together)


def test_single_precision_runs_differ_by_rounding_only():
    data = small()
    options = {**RUN, "dtype": torch.float32}
    together, apart = (mtl.fit(model(data), data, mtl.SLGrad(), chunk=chunk, **options) for chunk in (3, 1))
    assert_same(apart, together, tolerance=1e-4)


def test_a_seed_that_diverges_stops_at_the_same_epoch_however_it_runs():
    def spoilt(seed):
        draw = small(seed)
        if seed == 8:
            draw = replace(draw, train=replace(draw.train, y={**draw.train.y, "near": draw.train.y["near"] * 1e200}))
        return draw

    data = replace(small(), redraw=spoilt)
    together, apart = (mtl.fit(model(data), data, mtl.Uniform(), chunk=chunk, **RUN) for chunk in (3, 1))
    assert together.frame.groupby("seed")["diverged"].first().to_dict() == {3: False, 5: False, 8: True}
    assert together.frame.groupby("seed")["epoch"].max().to_dict() == {3: 2, 5: 2, 8: 0}
    pd.testing.assert_frame_equal(together.frame, apart.frame, rtol=1e-10, atol=1e-10)


def test_convolutions_run_one_seed_at_a_time_on_a_cpu(monkeypatch):
    sizes, train = [], loop.train_stack

    def spy(*given, **options):
        sizes.append(len(given[-1]))
        return train(*given, **options)

    monkeypatch.setattr(loop, "train_stack", spy)
    data = small()
    mtl.fit(convolutional(data), data, mtl.Uniform(), **RUN)
    mtl.fit(model(data), data, mtl.Uniform(), **RUN)
    mtl.fit(model(data), data, mtl.Uniform(), chunk=2, **RUN)
    assert sizes == [1, 1, 1, 3, 2, 1]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_an_elementwise_optimiser_is_taken_and_keeps_seeds_apart(name):
    optimizer = getattr(torch.optim, name)
    data = small()
    options = {**RUN, "lr": 0.01, "optimizer": optimizer}
    assert_same(
        mtl.fit(model(data), data, mtl.SLGrad(), chunk=1, **options),
        mtl.fit(model(data), data, mtl.SLGrad(), chunk=3, **options),
    )


REFUSED = ["LBFGS", "Adafactor", "SparseAdam", "Muon"]


def test_every_optimiser_of_torch_is_either_elementwise_or_refused():
    classes = inspect.getmembers(torch.optim, lambda x: inspect.isclass(x) and issubclass(x, torch.optim.Optimizer))
    assert {name for name, _ in classes} <= {"Optimizer", *ELEMENTWISE, *REFUSED}


@pytest.mark.parametrize("name", [name for name in REFUSED if hasattr(torch.optim, name)])
def test_another_optimiser_is_refused_with_a_reason(name):
    data = small()
    with pytest.raises(ValueError, match=rf"optimizer {name} .*expected an elementwise one such as torch\.optim\.SGD"):
        mtl.fit(model(data), data, mtl.Uniform(), optimizer=getattr(torch.optim, name), batch_size=8, epochs=1)


def test_an_optimiser_with_a_norm_in_it_is_refused():
    class Normalised(torch.optim.SGD):
        def step(self):
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad = p.grad / p.grad.norm()
            super().step()

    with pytest.raises(ValueError, match="seeds would influence each other"):
        check_elementwise(functools.partial(Normalised, lr=0.1))


def test_an_invalid_learning_rate_is_not_blamed_on_the_stack():
    data = small()
    with pytest.raises(ValueError, match=r"lr is -1\.0, expected a positive number"):
        mtl.fit(model(data), data, mtl.Uniform(), lr=-1.0, batch_size=8, epochs=1)


@pytest.mark.parametrize("clip", [0.05, 1e6])
def test_gradients_are_clipped_as_in_a_plain_loop(clip):
    data = small()
    runs = mtl.fit(
        model(data), data, mtl.Uniform(), epochs=1, steps_per_epoch=5, batch_size=8, lr=0.1, clip=clip, seeds=[2, 7],
        **DOUBLE,
    )  # fmt: skip
    for seed in (2, 7):
        draw = data.resample(seed)
        net = model(draw).double()
        mtl.models.initialise(net, generator(seed, "weights", "cpu"))
        descent = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        order = Batches(len(draw.train), 8, [generator(seed, "order", "cpu")])
        for _ in range(5):
            rows = draw.train.take(next(order)[0])
            descent.zero_grad()
            per_sample_losses(data.tasks, net(rows.x), pack(data.tasks, rows.y)).mean().backward()
            nn.utils.clip_grad_norm_(net.parameters(), clip)
            descent.step()
        for name, value in net.state_dict().items():
            torch.testing.assert_close(runs.state_dict(seed, "last")[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("seeds", [[3], [3, 8]])
def test_the_traced_step_gives_the_same_as_the_step_itself(method, seeds, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda traced, **_: traced)
    data = small(missing=0.2)
    options = {**RUN, "seeds": seeds}
    traced, plain = (mtl.fit(model(data), data, method, compile=compile, **options) for compile in (True, False))
    assert_same(traced, plain)


def test_a_traced_step_draws_new_dropout_masks_every_time(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda traced, **_: traced)
    data = small()
    traced, plain = (
        mtl.fit(convolutional(data), data, mtl.SLGrad(), compile=compile, **RUN) for compile in (True, False)
    )
    assert_same(traced, plain)


@pytest.mark.parametrize(
    ("method", "traced"),
    [
        (mtl.HydaLearn(), True),
        (mtl.HydaLearn(metric=lambda output, target: (output - target).abs().mean().item()), False),
        (mtl.AuxiLearn(every=2), False),
    ],
    ids=["own loss", "a user's metric", "more in some steps"],
)
def test_only_what_is_torchs_own_and_always_the_same_is_traced(monkeypatch, method, traced):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda found, **_: calls.append(1) or found)
    data = small()
    mtl.fit(model(data), data, method, compile=True, **RUN)
    assert bool(calls) == traced


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_compiled_step_gives_the_same():
    data = small()
    options = {**RUN, "seeds": 2}
    compiled, plain = (
        mtl.fit(model(data), data, mtl.SLGrad(), compile=compile, **options) for compile in (True, False)
    )
    assert_same(compiled, plain)


def test_what_cannot_be_traced_runs_as_it_is():
    torchjd = pytest.importorskip("torchjd.aggregation")
    data = small()
    method = mtl.Gramian(torchjd.UPGradWeighting())
    compiled, plain = (mtl.fit(model(data), data, method, compile=compile, **RUN) for compile in (True, False))
    assert_same(compiled, plain)


@pytest.mark.parametrize("method", [mtl.SLGrad(), mtl.SLGrad(lookahead=0.05)], ids=["plain", "look-ahead"])
@pytest.mark.parametrize("network", [model, convolutional])
def test_one_pass_and_two_give_the_same(method, network, monkeypatch):
    data = small()
    fused = mtl.fit(network(data), data, method, **RUN)
    monkeypatch.setattr("mtlkit.memory.FUSED_BYTES", 0)
    assert_same(mtl.fit(network(data), data, method, **RUN), fused)


@pytest.mark.parametrize("network", [model, convolutional])
@pytest.mark.parametrize("method", [mtl.Uniform(), mtl.SLGrad(), mtl.HydaLearn(), mtl.AlphaVIL()])
def test_half_precision_is_near_and_keeps_parameters_whole(network, method):
    data = small()
    options = {"epochs": 2, "batch_size": 8, "seeds": 2, "device": "cpu"}
    half, whole = (mtl.fit(network(data), data, method, autocast=autocast, **options) for autocast in (True, False))
    assert all(value.dtype == torch.float32 for value in half.states["last"].values())
    assert not half.frame["diverged"].any()
    a, b = (runs.frame.query("metric == 'loss'")["value"].to_numpy() for runs in (half, whole))
    assert (a != b).any()
    assert abs(a / b - 1).max() < 0.15


@pytest.mark.parametrize("chunk", [1, 3])
def test_watch_sees_the_weights_after_every_epoch(chunk):
    data, seen = small(), []
    runs = mtl.fit(model(data), data, mtl.SLGrad(), chunk=chunk, watch=seen.append, **RUN)
    assert len(seen) == 2 * (3 // chunk)
    columns = ["seed", "epoch", "split", "task", "metric", "value"]
    assert all(list(frame.columns) == columns for frame in seen)
    whole = runs.frame[runs.frame["metric"] == "weight"][columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(seen[-1].reset_index(drop=True), whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunk": 0}, "chunk is 0, expected at least 1"),
        ({"jobs": 0}, "jobs is 0, expected at least 1"),
        ({"jobs": 2, "watch": print}, "jobs is 2, but watch sees one process only"),
        ({"weighting": mtl.AlphaVIL(), "clip": 1.0}, "clip and compile are for per-step methods, AlphaVIL merges"),
        ({"weighting": mtl.AlphaVIL(), "compile": True}, "clip and compile are for per-step methods"),
    ],
)
def test_bad_arguments_are_named(change, message):
    data = small()
    with pytest.raises(ValueError, match=message):
        mtl.fit(model(data), data, **{"weighting": mtl.Uniform(), "batch_size": 8, "epochs": 1} | change)
