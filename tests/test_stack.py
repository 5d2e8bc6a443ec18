"""Which layers a stack takes, and that a stacked model computes what its models do one by one."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

import mtlkit as mtl
from mtlkit.datasets import Dataset, Split
from mtlkit.tasks import pack, per_sample_losses
from mtlkit.training.stack import Batches, SeededDropout, Stack, generator, stack_splits

TASKS = (mtl.Task("main", "binary"), mtl.Task("other", "regression"))
SEEDS = (3, 8)
DOUBLE = {"dtype": torch.float64, "device": "cpu"}


def data():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 4, generator=g, dtype=torch.float64)
    y = {"main": (x[:, 0] > 0).double(), "other": x.sum(1)}
    whole = Split(x, y, torch.arange(40), torch.zeros(40, 2, dtype=torch.bool))
    return Dataset("small", TASKS, *(whole.take(rows) for rows in torch.arange(40).split([24, 8, 8])))


def model(layer):
    heads = {task.name: nn.Linear(6, task.n_outputs) for task in TASKS}
    return mtl.models.MultiTaskModel(nn.Sequential(nn.Linear(4, 6), layer, nn.Tanh()), heads)


REFUSED = {
    "BatchNorm1d with running statistics": nn.BatchNorm1d(6),
    "InstanceNorm1d with running statistics": nn.InstanceNorm1d(6, affine=True, track_running_stats=True),
    "AlphaDropout with dropout of 0.1": nn.AlphaDropout(0.1),
    "GRU with dropout of 0.2": nn.GRU(6, 6, num_layers=2, dropout=0.2),
}
TAKEN = {
    "batch": lambda: nn.BatchNorm1d(6, track_running_stats=False),
    "group": lambda: nn.GroupNorm(2, 6),
    "layer": lambda: nn.LayerNorm(6),
    "dropout of nothing": lambda: nn.Dropout(0.0),
}
TRAINED = TAKEN | {"dropout": lambda: nn.Dropout(0.4)}
EVERY_TAKEN = pytest.mark.parametrize("name", TAKEN)


@pytest.mark.parametrize("method", [mtl.Uniform(), mtl.ForkMerge()], ids=["weighting", "merging"])
@pytest.mark.parametrize("found", REFUSED)
def test_refuses_layers_that_it_cannot_train(found, method):
    with pytest.raises(ValueError, match=rf"module 'trunk\.1' is a {found}.*expected .*mtlkit\.Weigher"):
        mtl.fit(model(REFUSED[found]), data(), method, epochs=1, batch_size=8, device="cpu")


@EVERY_TAKEN
def test_losses_are_those_of_each_model(name):
    stack = Stack(model(TAKEN[name]()), TASKS, SEEDS, **DOUBLE)
    batch = stack_splits([data().train.take(torch.arange(s, s + 8)) for s in SEEDS], TASKS, "cpu", torch.float64)
    losses, main = stack.losses(batch, {}), stack.main_loss(batch, {})
    for s in range(len(SEEDS)):
        alone = model(TAKEN[name]()).double()
        alone.load_state_dict({n: value[s] for n, value in {**stack.parameters, **stack.buffers}.items()})
        y = {names: target[s] for names, target in batch.y.items()}
        expected = per_sample_losses(TASKS, alone(batch.x[s]), y)
        torch.testing.assert_close(losses[s], expected)
        torch.testing.assert_close(main[s], expected[:, 0].mean())


@EVERY_TAKEN
def test_fit_trains_them_as_a_plain_loop_does(name):
    options = {"epochs": 2, "batch_size": 8, "lr": 0.1, **DOUBLE}
    runs = mtl.fit(model(TAKEN[name]()), data(), mtl.Uniform(), seeds=SEEDS, **options)
    for seed in SEEDS:
        net, train = model(TAKEN[name]()).double(), data().train
        mtl.models.initialise(net, generator(seed, "weights", "cpu"))
        descent = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        order = Batches(len(train), 8, [generator(seed, "order", "cpu")])
        for _ in range(6):
            rows = train.take(next(order)[0])
            descent.zero_grad()
            per_sample_losses(TASKS, net(rows.x), pack(TASKS, rows.y)).mean().backward()
            descent.step()
        assert set(runs.state_dict(seed, "last")) == set(net.state_dict())
        for n, value in net.state_dict().items():
            torch.testing.assert_close(runs.state_dict(seed, "last")[n], value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("method", [mtl.SLGrad(), mtl.HydaLearn(), mtl.AlphaVIL(), mtl.ForkMerge(interval=2)])
def test_a_seed_is_the_same_alone_under_every_kind_of_method(name, method):
    options = {"epochs": 2, "batch_size": 8, **DOUBLE}
    together = mtl.fit(model(TRAINED[name]()), data(), method, seeds=SEEDS, **options)
    alone = mtl.fit(model(TRAINED[name]()), data(), method, seeds=SEEDS[1:], **options)
    for n, value in alone.state_dict(SEEDS[1], "last").items():
        torch.testing.assert_close(together.state_dict(SEEDS[1], "last")[n], value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("layer", "shape"), [(nn.Dropout(0.3), (500, 40)), (nn.Dropout2d(0.3), (500, 40, 3, 2))])
def test_seeded_dropout_drops_its_share_of_elements_or_channels_and_scales_the_rest(layer, shape):
    seeded = SeededDropout(layer.p, channels=isinstance(layer, nn.Dropout2d))
    kept = []
    for key in (1, 2, 2**61):
        seeded.key.fill_(key)
        found = seeded(torch.ones(shape))
        assert torch.equal(found, seeded(torch.ones(shape)))
        assert found.unique().tolist() == pytest.approx([0, 1 / 0.7])
        if layer.p and found.ndim == 4:
            assert torch.equal(found, found[:, :, :1, :1].expand_as(found))
            found = found[:, :, 0, 0]
        kept.append(found > 0)
    drawn = torch.stack(kept).double()
    n = drawn.numel()
    assert drawn.mean().item() == pytest.approx(0.7, abs=4 * (0.21 / n) ** 0.5)
    for other in (drawn.roll(1, 0), drawn.roll(1, 1), drawn.roll(1, 2)):
        assert ((drawn - 0.7) * (other - 0.7)).mean().item() == pytest.approx(0, abs=4 * 0.21 / n**0.5)
    assert torch.equal(seeded.eval()(torch.ones(shape)), torch.ones(shape))


def test_dropout_is_off_where_models_are_judged_and_on_where_they_learn():
    stack = Stack(model(nn.Dropout(0.5)), TASKS, SEEDS, **DOUBLE)
    batch = stack_splits([data().train.take(torch.arange(s, s + 8)) for s in SEEDS], TASKS, "cpu", torch.float64)
    plain = Stack(model(nn.Identity()), TASKS, SEEDS, **DOUBLE)
    torch.testing.assert_close(stack.main_loss(batch, {}), plain.main_loss(batch, {}))
    torch.testing.assert_close(stack.outputs(batch.x), plain.outputs(batch.x))
    first, again = stack.masks(), stack.masks()
    assert set(first) == {"trunk.1.key"}
    assert torch.equal(stack.losses(batch, first), stack.losses(batch, first))
    assert not torch.allclose(stack.losses(batch, first), stack.losses(batch, again))
    assert "trunk.1.key" not in stack.buffers


FLIPPED = (mtl.Task("main", "binary", flip=0.6), TASKS[1])


def test_only_the_training_batch_knows_of_flipped_labels():
    split = [data().train.take(torch.arange(s, s + 8)) for s in SEEDS]
    plain, known = (Stack(model(nn.Identity()), tasks, SEEDS, **DOUBLE) for tasks in (TASKS, FLIPPED))
    batch = stack_splits(split, FLIPPED, "cpu", torch.float64)
    found = known.losses(batch, {})
    for s in range(len(SEEDS)):
        y = {names: target[s] for names, target in batch.y.items()}
        outputs = {name: output[s] for name, output in known.outputs(batch.x).items()}
        torch.testing.assert_close(found[s], per_sample_losses(FLIPPED, outputs, y, training=True))
    assert (found[..., 0] - plain.losses(batch, {})[..., 0]).abs().max() > 0.1
    torch.testing.assert_close(torch.stack(known.columns(batch, {}), -1), found)
    assert torch.equal(known.main_loss(batch, {}), plain.main_loss(batch, {}))


@pytest.mark.parametrize("method", [mtl.Uniform(), mtl.AlphaVIL()], ids=["weighting", "merging"])
def test_fit_learns_the_right_answer_from_labels_of_which_most_are_flipped(method):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(1500, 4, generator=g, dtype=torch.float64)
    truth = (x[:, 0] + 0.5 * x[:, 1] > 0).double()
    wrong = torch.rand(1500, generator=g) < 0.6
    whole = Split(x, {"main": truth, "other": x.sum(1)}, torch.arange(1500), torch.zeros(1500, 2, dtype=torch.bool))
    train, meta, test = (whole.take(rows) for rows in torch.arange(1500).split([1200, 100, 200]))
    train = replace(train, y={**train.y, "main": torch.where(wrong[:1200], 1 - train.y["main"], train.y["main"])})
    areas, first = {}, {}
    for tasks in (TASKS, FLIPPED):
        told = Dataset("flipped", tasks, train, meta, test)
        runs = mtl.fit(model(nn.Identity()), told, method, seeds=2, epochs=8, batch_size=60, lr=0.1, **DOUBLE)
        rows = runs.frame.query("task == 'main' and split == 'test'")
        last = rows[(rows["epoch"] == 8) & (rows["metric"] == "roc_auc")]
        areas[tasks[0].flip] = last["value"].to_list()
        first[tasks[0].flip] = runs.frame.query("epoch == 0 and metric == 'loss'").reset_index(drop=True)
    if isinstance(method, mtl.Uniform):  # coefficients chosen on clean meta rows may turn a branch round
        assert max(areas[0.0]) < 0.3
    assert min(areas[0.6]) > 0.8
    pd.testing.assert_frame_equal(first[0.0], first[0.6])
