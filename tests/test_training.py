import copy
import functools
import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

import mtlkit as mtl
from mtlkit.datasets import Dataset, Split
from mtlkit.tasks import pack, per_sample_losses
from mtlkit.training.stack import Batches, generator

DOUBLE = {"dtype": torch.float64, "device": "cpu"}


def small(seed=0, n=(40, 16, 12), missing=0.0):
    """A three-task problem, main task first, drawn anew for every seed."""
    g = torch.Generator().manual_seed(seed)
    tasks = (mtl.Task("main", "binary"), mtl.Task("near", "regression"), mtl.Task("far", "multiclass", 3))
    total = sum(n)
    x = torch.randn(total, 5, generator=g, dtype=torch.float64)
    near = x @ torch.randn(5, generator=g, dtype=torch.float64)
    near[torch.rand(total, generator=g) < missing] = math.nan
    y = {"main": (x[:, 0] > 0).double(), "near": near, "far": torch.randint(3, (total,), generator=g)}
    whole = Split(x, y, torch.arange(total), torch.zeros(total, 3, dtype=torch.bool))
    parts = [whole.take(rows) for rows in torch.arange(total).split(list(n))]
    return Dataset("small", tasks, *parts, redraw=functools.partial(small, n=n, missing=missing))


def model(data):
    return mtl.models.mlp(data, hidden=(7, 6), head=(3,))


def by_hand(data, weighting, seed, *, steps, batch, meta_batch, lr):
    """The same training as a plain loop over samples and tasks, one model, no stacking."""
    data = data.resample(seed)
    net = model(data).double()
    mtl.models.initialise(net, generator(seed, "weights", "cpu"))
    shared = list(net.trunk.parameters())
    descent = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    order = Batches(len(data.train), batch, [generator(seed, "order", "cpu")])
    meta_order = Batches(len(data.meta), meta_batch, [generator(seed, "meta order", "cpu")])
    for _ in range(steps):
        rows, meta = data.train.take(next(order)[0]), data.meta.take(next(meta_order)[0])
        losses = per_sample_losses(data.tasks, net(rows.x), pack(data.tasks, rows.y))
        if isinstance(weighting, mtl.Uniform):
            labels = pack(data.tasks, rows.y)
            count = torch.stack([(~torch.isnan(labels[(t.name,)].double())).sum() for t in data.tasks])
            total = (losses.sum(0) / count.clamp(min=1)).mean()
        else:
            main = per_sample_losses(data.tasks, net(meta.x), pack(data.tasks, meta.y))[:, 0].mean()
            g = torch.autograd.grad(main, shared)
            weights = torch.zeros_like(losses)
            for b in range(batch):
                for t in range(len(data.tasks)):
                    if losses[b, t].item() == 0:
                        continue
                    own = torch.autograd.grad(losses[b, t], shared, retain_graph=True)
                    weights[b, t] = max(0.0, sum((u * v).sum() for u, v in zip(own, g, strict=True)).item())
            total = (weights / weights.sum() * losses).sum()
        descent.zero_grad()
        total.backward()
        descent.step()
    return net.state_dict()


@pytest.mark.parametrize("weighting", [mtl.Uniform(), mtl.SLGrad()])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_fit_equals_a_loop_over_samples_and_tasks(weighting, missing):
    data = small(missing=missing)
    seeds = [4, 11]
    runs = mtl.fit(
        model(data), data, weighting, epochs=2, steps_per_epoch=4, batch_size=9, meta_batch_size=7, lr=0.05,
        seeds=seeds, **DOUBLE,
    )  # fmt: skip
    for seed in seeds:
        expected = by_hand(data, weighting, seed, steps=8, batch=9, meta_batch=7, lr=0.05)
        for name, value in runs.state_dict(seed, "last").items():
            torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighting", [mtl.Uniform(), mtl.RandomWeighting(), mtl.SLGrad()])
def test_a_seed_gives_the_same_alone_and_among_others(weighting):
    data = small()
    options = {"epochs": 3, "batch_size": 8, **DOUBLE}
    together = mtl.fit(model(data), data, weighting, seeds=5, **options)
    alone = mtl.fit(model(data), data, weighting, seeds=[3], **options)
    for name, value in alone.state_dict(3, "last").items():
        torch.testing.assert_close(together.state_dict(3, "last")[name], value, rtol=1e-10, atol=1e-12)
    a, b = (r.frame[r.frame["seed"] == 3].reset_index(drop=True) for r in (together, alone))
    torch.testing.assert_close(torch.tensor(a["value"].values), torch.tensor(b["value"].values), equal_nan=True)
    assert a.drop(columns="value").equals(b.drop(columns="value"))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not():
    data = small()
    options = {"epochs": 2, "batch_size": 8, "seeds": 2, "device": "cpu"}
    first, again = (mtl.fit(model(data), data, mtl.SLGrad(), **options) for _ in "ab")
    assert first.frame.equals(again.frame)
    assert first.samples.equals(again.samples)
    assert all(torch.equal(first.states["last"][name], again.states["last"][name]) for name in first.states["last"])
    assert any(not torch.equal(value[0], value[1]) for value in first.states["last"].values())


def test_the_library_leaves_global_random_state_and_the_model_alone():
    data = small()
    net = model(data)
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    mtl.fit(net, data, mtl.RandomWeighting(), epochs=1, batch_size=8, device="cpu")
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_methods_share_seeds_so_that_they_can_be_compared_in_pairs():
    data = small()
    options = {"epochs": 1, "batch_size": 8, "seeds": 2, **DOUBLE}
    runs = [mtl.fit(model(data), data, w, **options) for w in (mtl.Uniform(), mtl.SLGrad())]
    keys = ["seed", "split", "task"]
    start = [r.frame.query("epoch == 0 and metric == 'loss'").set_index(keys)["value"] for r in runs]
    assert len(start[0]) == 2 * 3 * 3
    pd.testing.assert_series_equal(*start, check_exact=True)


def test_a_diverging_seed_is_marked_and_leaves_the_others_alone():
    data = small()

    def spoilt(seed):
        draw = small(seed)
        if seed == 1:
            draw = replace(draw, train=replace(draw.train, y={**draw.train.y, "near": draw.train.y["near"] * 1e200}))
        return draw

    options = {"epochs": 2, "batch_size": 8, "seeds": 3, **DOUBLE}
    runs = mtl.fit(model(data), replace(data, redraw=spoilt), mtl.Uniform(), **options)
    sound = mtl.fit(model(data), data, mtl.Uniform(), **options)
    assert runs.frame.groupby("seed")["diverged"].first().tolist() == [False, True, False]
    for seed in (0, 2):
        for name, value in sound.state_dict(seed, "last").items():
            assert torch.equal(runs.state_dict(seed, "last")[name], value)
    table = runs.summary("last").loc["Uniform", "main", "loss"]
    assert table["seeds"] == 2
    assert table["missing"] == 1


def test_batches_are_passes_over_all_rows():
    rows = Batches(10, 4, [generator(s, "order", "cpu") for s in (0, 1)])
    drawn = torch.cat([next(rows) for _ in range(5)], 1)
    assert drawn.shape == (2, 20)
    for seed in drawn:
        assert sorted(seed[:10].tolist()) == sorted(seed[10:].tolist()) == list(range(10))
    assert not torch.equal(drawn[0], drawn[1])


def test_a_learnable_problem_is_learned():
    data = small(n=(200, 50, 100))
    net = mtl.models.mlp(data, hidden=(16,))
    runs = mtl.fit(net, data, mtl.SLGrad(), epochs=30, batch_size=20, lr=0.01, seeds=2, device="cpu")
    found = runs.summary("last").loc["SLGrad", "main"]["mean"]
    assert found["loss"] < 0.2
    assert found["roc_auc"] > 0.97
    net.load_state_dict(runs.state_dict(1, "last"))
    test = data.resample(1).test
    auc = data.main.metrics(net(test.x.float())["main"], test.y["main"])["roc_auc"]
    rows = runs.final("last")
    reported = rows[(rows.seed == 1) & (rows.split == "test") & (rows.metric == "roc_auc")]["value"].item()
    assert auc == pytest.approx(reported)


PATIENT = {"epochs": 25, "patience": 2, "batch_size": 8, "steps_per_epoch": 3, "lr": 0.3, **DOUBLE}


def ends(runs):
    return runs.frame.groupby("seed")["epoch"].max().to_dict()


@pytest.mark.parametrize("method", [mtl.SLGrad(), mtl.AlphaVIL()], ids=["step", "epoch"])
def test_a_seed_that_has_run_out_of_patience_is_finished_whatever_its_neighbours_do(method):
    data = small(n=(40, 16, 12))
    together = mtl.fit(model(data), data, method, seeds=4, **PATIENT)
    found = ends(together)
    assert len(set(found.values())) > 1
    assert min(found.values()) < 25
    for seed, end in found.items():
        alone = mtl.fit(model(data), data, method, seeds=[seed], **PATIENT)
        assert ends(alone) == {seed: end}
        own = together.frame[together.frame["seed"] == seed].reset_index(drop=True)
        columns = ["epoch", "split", "task", "metric", "diverged"]
        assert own[columns].equals(alone.frame[columns])
        torch.testing.assert_close(
            torch.tensor(own["value"]), torch.tensor(alone.frame["value"]), rtol=1e-6, atol=1e-9, equal_nan=True
        )
        for at in ("selected", "last"):
            for name, value in alone.state_dict(seed, at).items():
                torch.testing.assert_close(together.state_dict(seed, at)[name], value, rtol=1e-6, atol=1e-9)
        samples = together.samples[together.samples["seed"] == seed]["weight"]
        torch.testing.assert_close(
            torch.tensor(samples.to_numpy()), torch.tensor(alone.samples["weight"].to_numpy()),
            rtol=1e-6, atol=1e-9, equal_nan=True,
        )  # fmt: skip
        meta = own[(own["split"] == "meta") & (own["task"] == "main") & (own["metric"] == "loss")]
        curve = meta.set_index("epoch")["value"].drop(0)
        best = curve.idxmin()
        assert together.selected()[seed] == best
        assert end == min(25, best + 2)


def turned(split):
    return replace(split, y={**split.y, "main": 1 - split.y["main"]})


def test_the_state_before_training_is_never_selected_and_others_only_from_a_given_epoch_on():
    data = small().variant(lambda d: replace(d, train=turned(d.train)), lambda line: line)
    options = {"epochs": 6, "batch_size": 8, "lr": 0.05, "seeds": 3, **DOUBLE}
    away = mtl.Fixed([1.0, 0.0, 0.0])
    worse = mtl.fit(model(data), data, away, **options)
    meta = worse.frame[(worse.frame.split == "meta") & (worse.frame.task == "main") & (worse.frame.metric == "loss")]
    wide = meta.pivot(index="seed", columns="epoch", values="value")
    assert (wide.idxmin(axis=1) == 0).any()
    assert worse.selected().to_dict() == wide.drop(columns=0).idxmin(axis=1).to_dict()
    late = mtl.fit(model(data), data, away, select_from=5, **options)
    assert late.selected().to_dict() == wide[[5, 6]].idxmin(axis=1).to_dict()
    rows = late.final("selected")
    assert set(rows.loc[rows["metric"] == "roc_auc", "epoch"]) <= {5, 6}
    patient = mtl.fit(model(data), data, away, select_from=4, patience=1, **{**options, "epochs": 20})
    assert min(ends(patient).values()) >= 5


def test_the_selected_model_has_the_numbers_that_are_reported():
    data = small(n=(200, 50, 100)).only(["main"])
    net = mtl.models.mlp(data, hidden=(16,))
    options = {"epochs": 12, "batch_size": 20, "lr": 0.7, "seeds": 3, **DOUBLE}
    runs = mtl.fit(net, data, mtl.Uniform(), **options)
    assert (runs.selected() < 12).any()
    net.double()
    for seed in runs.seeds:
        net.load_state_dict(runs.state_dict(seed))
        test = data.resample(seed).test
        rows = runs.final("selected")
        rows = rows[(rows.seed == seed) & (rows.split == "test") & (rows.task == "main")].set_index("metric")["value"]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net(test.x)["main"].squeeze(1), test.y["main"])
        assert loss.item() == pytest.approx(rows["loss"])
        assert data.main.metrics(net(test.x)["main"], test.y["main"])["roc_auc"] == pytest.approx(rows["roc_auc"])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"patience": 0}, ValueError, "patience is 0, expected at least 1"),
        ({"select_from": 0}, ValueError, "select_from is 0, expected an epoch from 1 to 1"),
        ({"select_from": 2}, ValueError, "select_from is 2, expected an epoch from 1 to 1"),
        ({"batch_size": 41}, ValueError, r"batch_size is 41, expected 1 to 40 \(rows of the train split\)"),
        ({"meta_batch_size": 17}, ValueError, r"meta_batch_size is 17, expected 1 to 16 \(rows of the meta split\)"),
        ({"epochs": 0}, ValueError, "epochs is 0"),
        ({"steps_per_epoch": 0}, ValueError, "steps_per_epoch is 0, expected at least 1"),
        ({"batch_size": 0}, ValueError, "batch_size is 0, expected 1 to 40"),
        ({"seeds": []}, ValueError, "at least one, all different"),
        ({"seeds": [1, 1]}, ValueError, "at least one, all different"),
        ({"weighting": "slgrad"}, TypeError, r"expected an instance such as mtlkit\.Uniform"),
        ({"weighting": mtl.SLGrad}, TypeError, "expected an instance"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    data = small()
    arguments = {"weighting": mtl.Uniform(), "batch_size": 8, "epochs": 1} | change
    with pytest.raises(error, match=message):
        mtl.fit(model(data), data, **arguments)


def test_the_model_must_have_a_head_per_task():
    data = small()
    with pytest.raises(ValueError, match=r"the model has heads \['main'\]"):
        mtl.fit(mtl.models.mlp(data.only(["main"])), data, mtl.Uniform())
