"""A training that is stopped, by hand or by force, loses nothing."""

import functools
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from test_training import small
from torch import nn
from torchjd.aggregation import PCGradWeighting

import mtlkit as mtl
from mtlkit import checkpoint, studies
from mtlkit.results import IncompleteRuns
from mtlkit.store import Store

METHODS = {
    "Uniform": mtl.Uniform(),
    "RandomWeighting": mtl.RandomWeighting(),
    "Uncertainty": mtl.Uncertainty(),
    "DWA": mtl.DWA(),
    "SLAW": mtl.SLAW(),
    "GradNorm": mtl.GradNorm(),
    "OLAux": mtl.OLAux(every=2),
    "MetaTartan": mtl.MetaTartan(),
    "HydaLearn": mtl.HydaLearn(),
    "SLGrad": mtl.SLGrad(lookahead=0.05),
    "PCGrad": mtl.Gramian(PCGradWeighting()),
    "AlphaVIL": mtl.AlphaVIL(),
    "DIW": mtl.DIW(),
    "ForkMerge": mtl.ForkMerge(),
    "ForkMerge, ranked": mtl.ForkMerge(top_k=1),
}
OPTIONS = {"epochs": 4, "batch_size": 12, "meta_batch_size": 7, "lr": 0.03, "seeds": [4, 0, 9], "device": "cpu"}


def moving(seed=0):
    """Training targets that change from epoch to epoch, some of them noisy and some missing."""
    data = small(seed, missing=0.2)
    noisy = data.train.noisy.clone()
    noisy[:9, 0] = True
    train = replace(data.train, noisy=noisy)

    def train_at(epoch):
        noisy = train.noisy.clone()
        noisy[: 3 * epoch, 1] = True
        return replace(train, y={**train.y, "near": train.y["near"] * epoch}, noisy=noisy)

    return replace(data, train=train, train_at=train_at, redraw=moving)


def model(data):
    trunk = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.3), nn.LayerNorm(8), nn.Linear(8, 6))
    return mtl.models.MultiTaskModel(trunk, {task.name: nn.Linear(6, task.n_outputs) for task in data.tasks})


def assert_same_bytes(found, expected):
    assert found.frame.equals(expected.frame)
    assert found.samples.equals(expected.samples)
    assert found.states.keys() == expected.states.keys()
    for moment, state in expected.states.items():
        assert found.states[moment].keys() == state.keys()
        for name, value in state.items():
            assert value.numpy().tobytes() == found.states[moment][name].numpy().tobytes()
    assert not found.interrupted


class Stop:
    """Ends a training from outside after so many epochs."""

    def __init__(self, after, error=KeyboardInterrupt):
        self.left, self.error = after, error

    def __call__(self, rows):
        self.left -= 1
        if self.left == 0:
            raise self.error


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("data", [small(missing=0.2), moving()], ids=["fixed", "moving"])
@pytest.mark.parametrize("name", METHODS)
def test_an_interrupted_fit_goes_on_to_the_same_bytes(name, data, tmp_path):
    options = {**OPTIONS, "optimizer": torch.optim.NAdam, "chunk": 2, "patience": 3}
    fit = functools.partial(mtl.fit, model(data), data, METHODS[name], name=name, **options)
    expected = fit()
    path = tmp_path / "here" / "run.ckpt"
    with pytest.raises(OSError, match="out of paper"):
        fit(checkpoint=path, watch=Stop(1, OSError("out of paper")))
    kept = path.read_bytes()
    with pytest.warns(IncompleteRuns, match=r"after epoch 2 of 4, without seeds 9; .*from the checkpoint .*2, 0\)"):
        partial = fit(checkpoint=path, watch=Stop(1))
    assert partial.interrupted
    assert partial.seeds == [4, 0]
    rows = expected.frame[expected.frame["seed"] != 9]
    both = ["loss", "weight", "weight_sd"]
    before = rows[(rows["epoch"] <= 2) & rows["metric"].isin(both)].reset_index(drop=True)
    assert partial.frame[partial.frame["metric"].isin(both)].reset_index(drop=True).equals(before)
    assert path.read_bytes() != kept
    with pytest.warns(IncompleteRuns, match="interrupted after epoch 1 of 4"):
        fit(checkpoint=path, watch=Stop(3))
    assert sorted(p.name for p in path.parent.iterdir()) == ["run.ckpt", "run.ckpt.1"]
    assert_same_bytes(fit(checkpoint=path), expected)
    assert not list(path.parent.iterdir())


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "name", ["Adam", "AdamW", "Adamax", "RAdam", "RMSprop", "Adagrad", "Adadelta", "ASGD", "Rprop"]
)
def test_what_an_optimiser_remembers_is_kept_as_it_is(name, tmp_path):
    data = small()
    options = {**OPTIONS, "optimizer": getattr(torch.optim, name), "dtype": torch.float64, "clip": 0.5}
    fit = functools.partial(mtl.fit, model(data), data, mtl.Uncertainty(), **options)
    with pytest.warns(IncompleteRuns, match="after epoch 2 of 4"):
        fit(checkpoint=tmp_path / "c", watch=Stop(2))
    assert_same_bytes(fit(checkpoint=tmp_path / "c"), fit())


@pytest.mark.usefixtures("at_once")
def test_chunks_go_on_in_several_processes(tmp_path):
    data = small()
    fit = functools.partial(mtl.fit, model(data), data, mtl.SLGrad(), **{**OPTIONS, "epochs": 3, "chunk": 1})
    with pytest.warns(IncompleteRuns, match="after epoch 2 of 3, without seeds 9"):
        fit(checkpoint=tmp_path / "c", watch=Stop(5))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "c.1"]
    assert_same_bytes(fit(checkpoint=tmp_path / "c", jobs=2), fit())
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_written_when_it_is_time_and_at_the_end(tmp_path, monkeypatch):
    data, saved = small(), []
    monkeypatch.setattr(checkpoint.Checkpoint, "save", lambda self, epoch, state: saved.append(epoch))
    now = iter(range(0, 1000, 50))
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: next(now))
    file = checkpoint.Checkpoint(tmp_path / "c", {})
    assert [file.due() for _ in range(4)] == [False, False, True, True]
    monkeypatch.undo()
    monkeypatch.setattr(checkpoint.Checkpoint, "save", lambda self, epoch, state: saved.append(epoch))
    mtl.fit(model(data), data, mtl.Uniform(), checkpoint=tmp_path / "c", **{**OPTIONS, "epochs": 3})
    assert saved == [3]


def test_without_a_single_epoch_the_interrupt_goes_through(monkeypatch):
    data = small()

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mtlkit.training.descent.Descent.__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        mtl.fit(model(data), data, mtl.Uniform(), **OPTIONS)


def test_half_an_epoch_leaves_no_trace(monkeypatch):
    data = small()
    options = {**OPTIONS, "steps_per_epoch": 3}
    from mtlkit.training.descent import Descent

    real, steps = Descent.__call__, []

    def step(self, *given, **more):
        steps.append(0)
        if len(steps) == 3 * 2 + 2:
            raise KeyboardInterrupt
        return real(self, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Descent, "__call__", step)
        with pytest.warns(IncompleteRuns, match="after epoch 2 of 4; give fit a checkpoint=FILE"):
            found = mtl.fit(model(data), data, mtl.SLGrad(), **options)
    assert found.interrupted
    assert_same_bytes(
        replace(found, interrupted=False), mtl.fit(model(data), data, mtl.SLGrad(), **{**options, "epochs": 2})
    )


OTHERS = {
    "lr": {"lr": 0.2},
    "epochs": {"epochs": 5},
    "seeds": {"seeds": [4, 0, 8]},
    "chunk": {"chunk": 1},
    "weighting": {"weighting": mtl.SLGrad(lookahead=0.1)},
    "optimizer": {"optimizer": torch.optim.Adam},
    "clip": {"clip": 1.0},
    "dtype": {"dtype": torch.float64},
    "data": {"data": small(seed=1)},
    "model": {"model": mtl.models.mlp(small(), hidden=(9, 6))},
    "label": {"name": "another"},
    "batch_size": {"batch_size": np.int64(13)},
}


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("what", OTHERS)
def test_a_checkpoint_of_another_training_is_refused_and_left_alone(what, tmp_path):
    path = tmp_path / "c"
    given = {"model": model(small()), "data": small(), "weighting": mtl.SLGrad(), "checkpoint": path, **OPTIONS}
    given |= {"batch_size": np.int64(12), "device": torch.device("cpu"), "lr": np.float32(0.5)}
    with pytest.warns(IncompleteRuns, match="interrupted"):
        mtl.fit(**given, watch=Stop(1))
    kept = path.read_bytes()
    with pytest.raises(ValueError, match=rf"of another training, expected one of the same:.* ?{what} is"):
        mtl.fit(**{**given, **OTHERS[what]})
    assert path.read_bytes() == kept
    assert mtl.fit(**{**given, "jobs": 2}).seeds == [4, 0, 9]


@pytest.mark.usefixtures("at_once")
def test_a_damaged_checkpoint_is_refused_and_left_alone(tmp_path):
    path, data = tmp_path / "c", small()
    fit = functools.partial(mtl.fit, model(data), data, mtl.SLGrad(), checkpoint=path, **OPTIONS)
    with pytest.warns(IncompleteRuns, match="interrupted"):
        fit(watch=Stop(1))
    whole = path.read_bytes()
    parameters = torch.load(path, weights_only=True)["state"]["stack"]["parameters"]
    place = whole.index(next(iter(parameters.values())).detach().numpy().tobytes())
    flipped = bytearray(whole)
    flipped[place] ^= 1
    torch.save({"format": "another"}, tmp_path / "other")
    torch.save([model(data)], tmp_path / "pickled")
    others = [(tmp_path / name).read_bytes() for name in ("other", "pickled")]
    for content in (whole[: len(whole) // 2], bytes(flipped), b"", b"hello", *others):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"c is damaged or no checkpoint; expected one to go on from"):
            fit()
        assert path.read_bytes() == content
    path.write_bytes(whole)
    fit()


SCRIPT = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
import mtlkit as mtl
from mtlkit import checkpoint, studies
from mtlkit.store import Store
checkpoint.INTERVAL = 0.0
folder = Path({folder!r})
data = mtl.datasets.load("toy_regression")
model = mtl.models.mlp(data, hidden=(8,))
print("begun", flush=True)
{body}
print("ended", flush=True)
"""
FIT = """
runs = mtl.fit(model, data, {method}, epochs=12, batch_size=50, steps_per_epoch={steps}, lr=0.01, seeds=4, chunk=2,
               jobs={jobs}, device="cpu", checkpoint=folder / "c")
runs.frame.to_parquet(folder / "frame")
runs.samples.to_parquet(folder / "samples")
torch.save(runs.states, folder / "states")
"""
STUDY = """
one = {{w: studies.Candidate(model, data, getattr(mtl, w)()) for w in ("Uniform", "SLAW", "LogSE")}}
studies.study(one, lrs=[0.01, 0.03], tuning_seeds=2, seeds=3, epochs=6, batch_size=50, steps_per_epoch={steps},
              jobs={jobs}, store=folder / "store.parquet", device="cpu")
table = Store(folder / "store.parquet").table.drop(columns="date")
table.to_parquet(folder / "table")
"""


def start(folder, body):
    folder.mkdir(exist_ok=True)
    code = SCRIPT.format(folder=str(folder), tests=str(Path(__file__).parent), body=body)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    return process


def finished(process):
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0
    return output


@pytest.mark.parametrize(
    ("body", "made"),
    [
        (FIT.format(method="mtl.HydaLearn()", steps=10, jobs=1), ["frame", "samples", "states"]),
        (STUDY.format(steps=10, jobs=1), ["table"]),
    ],
    ids=["fit", "study"],
)
def test_what_is_killed_at_any_moment_ends_with_the_same_bytes(body, made, tmp_path):
    process = start(tmp_path / "whole", body)
    ready = time.monotonic()
    finished(process)
    duration = time.monotonic() - ready
    moments = random.Random(0)
    killed = 0
    for _ in range(10):
        process = start(tmp_path / "killed", body)
        try:
            process.wait(timeout=moments.uniform(0.1, 0.4) * duration)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate()
    assert killed
    finished(start(tmp_path / "killed", body))
    for name in made:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "killed").glob("c*"))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("body", [FIT, STUDY], ids=["fit", "study"])
def test_workers_end_with_their_parent(body, how, tmp_path):
    process = start(tmp_path / "here", body.format(method="mtl.HydaLearn()", steps=100_000, jobs=2))
    parent = psutil.Process(process.pid)
    until = time.monotonic() + 90
    while sum(child.cpu_times().user > 0.5 for child in parent.children(recursive=True)) < 2:
        assert time.monotonic() < until, "no workers"
        time.sleep(0.2)
    children = parent.children(recursive=True)
    process.send_signal(how)
    process.communicate()
    gone, alive = psutil.wait_procs(children, timeout=15)
    for child in alive:
        child.kill()
    assert len(gone) >= 2
    assert not alive


class Failing(mtl.Uniform):
    """Fails in its first step."""

    def update(self, state, signal):
        raise ArithmeticError("no weight is good enough")


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_fit_that_fails_is_told_of_after_the_others_are_done(jobs, tmp_path, capsys):
    data = mtl.datasets.load("toy_regression")
    net = mtl.models.mlp(data, hidden=(4,))
    given = {"bad": Failing(), "good": mtl.Uniform(), "also bad": Failing()}
    few = {name: studies.Candidate(net, data, weighting) for name, weighting in given.items()}
    options = {"seeds": 2, "epochs": 1, "batch_size": 100, "jobs": jobs, "device": "cpu"}
    todo = [(name, 0.01) for name in few]
    with pytest.raises(studies.FailedFits, match=r"2 fits failed, the others are finished:") as raised:
        studies.fits(few, todo, "training", **options)
    text = str(raised.value)
    for part in ("bad on load('toy_regression'), Failing() with lr=0.01, seeds=[0, 1]", "epochs=1", "batch_size=100",
                 "also bad on", "ArithmeticError: no weight is good enough", "in update"):  # fmt: skip
        assert part in text
    assert "no weight is good enough" in capsys.readouterr().err
    alone = mtl.fit(net, data, mtl.Uniform(), lr=0.01, name="good", **{**options, "jobs": 1})
    assert list(raised.value.done) == [("good", 0.01)]
    assert raised.value.done["good", 0.01].frame.equals(alone.frame)
    path = tmp_path / "store.parquet"
    with pytest.raises(studies.FailedFits):
        studies.fits(few, todo, "training", store=path, **options)
    assert Store(path).table["method"].unique().tolist() == ["good"]


def test_an_interrupt_stops_a_study_and_what_is_half_done_is_not_kept(tmp_path, monkeypatch):
    data = mtl.datasets.load("toy_regression")
    net = mtl.models.mlp(data, hidden=(4,))
    few = {name: studies.Candidate(net, data, getattr(mtl, name)()) for name in ("Uniform", "SLAW")}
    real, fitted = mtl.fit, []

    def fit(*given, **options):
        fitted.append(options["name"])
        return real(*given, **options, watch=Stop(1 if len(fitted) == 2 else 9))

    monkeypatch.setattr(studies, "fit", fit)
    path = tmp_path / "store.parquet"
    options = {"seeds": 1, "epochs": 3, "batch_size": 100, "jobs": 1, "device": "cpu", "store": path}
    with pytest.raises(KeyboardInterrupt):
        studies.fits(few, [(name, 0.01) for name in few], "training", **options)
    assert fitted == ["Uniform", "SLAW"]
    assert Store(path).table["method"].unique().tolist() == ["Uniform"]


def test_a_cluster_gives_what_this_machine_gives_though_a_worker_is_killed(tmp_path):
    from distributed import LocalCluster

    data = mtl.datasets.load("toy_regression")
    net = mtl.models.mlp(data, hidden=(8,))
    few = {name: studies.Candidate(net, data, getattr(mtl, name)()) for name in ("Uniform", "SLAW", "LogSE", "DWA")}
    todo = [(name, lr) for name in few for lr in (0.01, 0.03)]
    options = {"seeds": 2, "epochs": 6, "batch_size": 50, "device": "cpu"}
    here = studies.fits(few, todo, "here", jobs=1, **options)
    path, killed = tmp_path / "store.parquet", []
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        real = Store.add

        def add(store, *given):
            if not killed:
                killed.append(next(iter(cluster.workers.values())).pid)
                psutil.Process(killed[0]).kill()
            real(store, *given)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Store, "add", add)
            studies.fits(few, todo, "there", scheduler=cluster.scheduler_address, store=path, **options)
        there = studies.fits(few, todo, "there", scheduler=cluster.scheduler_address, **options)
    assert killed
    assert list(there) == todo
    for key, runs in here.items():
        assert_same_bytes(there[key], runs)
    local = tmp_path / "local.parquet"
    studies.fits(few, todo, "here", jobs=1, store=local, **options)
    tables = [Store(p).table.drop(columns="date") for p in (path, local)]
    assert tables[0].equals(tables[1])
