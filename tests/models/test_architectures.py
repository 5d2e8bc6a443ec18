"""What each architecture computes, which parameters each task trains, and how they start and train in fit."""

import copy
from dataclasses import replace

import pytest
import torch
from companion import full
from test_models import images, sequences, tokens
from torch import nn

import mtlkit as mtl
from mtlkit import Task, models, recipes
from mtlkit.datasets import Dataset, Split
from mtlkit.models.base import stage_ends
from mtlkit.models.recurrent import BiGRU
from mtlkit.samples import sample_losses
from mtlkit.tasks import pack, per_sample_losses
from mtlkit.training.stack import Batches, Stack, generator

DOUBLE = {"dtype": torch.float64, "device": "cpu"}
SEEDS = (2, 5)
NAMES = ("main", "near", "far")


def small(seed=0):
    """A binary task and two auxiliaries, drawn anew for every seed."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(60, 5, generator=g, dtype=torch.float64)
    y = {"main": (x[:, 0] > 0).double(), "near": x[:, :2].sum(1), "far": torch.randint(3, (60,), generator=g)}
    tasks = (Task("main", "binary"), Task("near", "regression"), Task("far", "multiclass", 3))
    whole = Split(x, y, torch.arange(60), torch.zeros(60, 3, dtype=torch.bool))
    parts = [whole.take(rows) for rows in torch.arange(60).split([36, 14, 10])]
    return Dataset("small", tasks, *parts, redraw=small)


def mlp(data=None, **options):
    return models.mlp(data or small(), hidden=(7, 6), **options)


def drawn(model, seed=0):
    """The model in float64, initialised from the seed."""
    model = model.double()
    models.initialise(model, torch.Generator().manual_seed(seed))
    return model


def reached(model, x, task):
    """Names of the parameters with a gradient of a task's output that is not zero everywhere."""
    output = model(x)[task].square().sum()
    found = torch.autograd.grad(output, list(model.parameters()), materialize_grads=True)
    return {name for (name, _), g in zip(model.named_parameters(), found, strict=True) if g.any()}


def fitted(model, data=None, weighting=None, epochs=2, **options):
    options = {"steps_per_epoch": 3, "batch_size": 8, "lr": 0.1, "seeds": SEEDS, **DOUBLE, **options}
    return mtl.fit(model, data or small(), weighting or mtl.Uniform(), epochs=epochs, **options)


def parts(prefix, layers):
    return {f"{prefix}{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}


# low-level supervision


def test_a_low_head_reads_its_layer_and_trains_no_higher_one():
    model, x = drawn(mlp(stages={"near": 1})), small().test.x
    trunk = model.trunk
    first = torch.relu(x @ trunk[0].weight.T + trunk[0].bias)
    second = torch.relu(first @ trunk[2].weight.T + trunk[2].bias)
    for name, features in (("main", second), ("near", first), ("far", second)):
        head = model.heads[NAMES.index(name)]
        torch.testing.assert_close(model(x)[name], features @ head.weight.T + head.bias)
        torch.testing.assert_close(model(x, (name,)), {name: model(x)[name]})
    trained = model.trained()
    assert {name: set(found) for name, found in trained.items()} == {
        "main": parts("trunk.", (0, 2)), "near": parts("trunk.", (0,)), "far": parts("trunk.", (0, 2)),
    }  # fmt: skip
    for t, name in enumerate(NAMES):
        assert reached(model, x, name) == set(trained[name]) | parts("heads.", (t,))
    assert model.last == ("trunk.0.weight", "trunk.0.bias")


def test_higher_layers_do_not_run_for_a_low_task():
    model = mlp(stages={"near": 1}).double()
    ran = []
    model.trunk[2].register_forward_hook(lambda *_: ran.append(1))
    model(small().test.x, ("near",))
    assert ran == []
    model(small().test.x)
    assert ran == [1]


def test_without_stages_a_model_is_what_it_was():
    assert type(mlp()) is type(mlp(stages={})) is models.MultiTaskModel


@pytest.mark.parametrize("build", [models.multi_lenet, models.lenet])
def test_lenet_with_a_low_head(build):
    data = images(*((1, 28, 28) if build is models.multi_lenet else (3, 32, 32)))
    model = drawn(build(data, stages={"right": 1}))
    assert len(stage_ends(model.trunk)) == (3 if build is models.multi_lenet else 2)
    assert reached(model, data.train.x, "right") >= parts("trunk.", (0,))
    assert not any(name.startswith("trunk.3.") for name in reached(model, data.train.x, "right"))
    top = parts("trunk.", [i for i, layer in enumerate(model.trunk) if any(True for _ in layer.parameters())])
    assert reached(model, data.train.x, "left") >= top


def fresh(model, seed):
    """The model with the weights that fit draws for this seed."""
    own = copy.deepcopy(model).double()
    models.initialise(own, generator(seed, "weights", "cpu"))
    return own


def test_a_low_task_under_a_gradient_method_in_fit_with_convolutions():
    """Convolutions train one task's gradient after the other, where a higher layer's is missing rather than zero."""
    data = images(1, 28, 28)
    model = models.multi_lenet(data, stages={"right": 1})
    options = {"epochs": 1, "steps_per_epoch": 3, "batch_size": 6, "lr": 0.05, "seeds": [3], **DOUBLE}
    found = mtl.fit(model, data, mtl.GradientCosine(), **options).state_dict(3, "last")
    own = fresh(model, 3)
    descent = torch.optim.SGD(own.parameters(), lr=0.05, momentum=0.9)
    for _ in range(3):
        losses = per_sample_losses(data.tasks, own(data.train.x), pack(data.tasks, data.train.y)).mean(0)
        slopes = [
            torch.autograd.grad(loss, list(own.trunk.parameters()), retain_graph=True, materialize_grads=True)
            for loss in losses
        ]
        agree = sum((a * b).sum() for a, b in zip(*slopes, strict=True)) >= 0
        descent.zero_grad()
        (losses[0] / 2 + agree * losses[1] / 2).backward()
        descent.step()
    torch.testing.assert_close(found, dict(own.state_dict()))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"near": 3}, r"task 'near' is at stage 3, expected one of the trunk's, 1 to 2"),
        ({"near": 0}, r"task 'near' is at stage 0, expected one of the trunk's, 1 to 2"),
        ({"main": 1}, r"the main task 'main' is at stage 1, expected the top, 2: leave it out"),
        ({"other": 1}, r"stages names a task 'other', expected one of main, near, far"),
    ],
)
def test_stages_that_do_not_exist(stages, message):
    with pytest.raises(ValueError, match=message):
        mlp(stages=stages)


def test_every_task_of_a_trunk_of_ones_own_needs_a_stage():
    trunk = nn.Sequential(nn.Linear(5, 4), nn.ReLU())
    with pytest.raises(ValueError, match="stages lacks task 'b', expected one for each of a, b"):
        models.LowLevel(trunk, {"a": nn.Linear(4, 1), "b": nn.Linear(4, 1)}, {"a": 1})


# the recurrent encoder


@pytest.mark.parametrize("length", [1, 6])
def test_bigru_equals_torchs_own(length):
    ours, theirs = BiGRU(3, 4).double(), nn.GRU(3, 4, bidirectional=True, batch_first=True).double()
    with torch.no_grad():
        for way, suffix in enumerate(("", "_reverse")):
            for kind, short in (("weight", "ih"), ("weight", "hh"), ("bias", "ih"), ("bias", "hh")):
                value = getattr(ours, f"{kind}_{'x' if short == 'ih' else 'h'}")[way]
                getattr(theirs, f"{kind}_{short}_l0{suffix}").copy_(value)
    x = torch.randn(2, length, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x)[0])


def test_recurrent_heads_read_the_mean_or_every_position_of_their_layer():
    data = tokens()
    model, x = drawn(models.recurrent(data, (4, 3), 9, 5, {"tags": 1})), data.train.x
    embedding, first, second = model.trunk
    low = first(embedding(x))
    top = second(low)
    topic, tags, large = (head[1] if i == 0 else head[0] for i, head in enumerate(model.heads))
    outputs = model(x)
    torch.testing.assert_close(outputs["topic"], top.mean(1) @ topic.weight.T + topic.bias)
    for i in range(x.shape[1]):
        torch.testing.assert_close(outputs["tags"][:, :, i], low[:, i] @ tags.weight.T + tags.bias)
        torch.testing.assert_close(outputs["large"][:, :, i], top[:, i] @ large.weight.T + large.bias)
    assert not any(name.startswith("trunk.2.") for name in reached(model, x, "tags"))
    assert model.last == tuple(f"trunk.1.{name}" for name, _ in first.named_parameters())


@pytest.mark.parametrize("weighting", [mtl.SLGrad(), mtl.OrthogonalGradients(0.1), mtl.HydaLearn(), mtl.ForkMerge()])
def test_recurrent_seeds_stacked_equal_seeds_alone(weighting):
    data = tokens()
    model = models.recurrent(data, (4, 3), 9, 5, {"tags": 1})
    options = {"epochs": 1, "steps_per_epoch": 2, "batch_size": 6, **DOUBLE}
    together = mtl.fit(model, data, weighting, seeds=SEEDS, **options)
    alone = mtl.fit(model, data, weighting, seeds=SEEDS, chunk=1, **options)
    for seed in SEEDS:
        torch.testing.assert_close(together.state_dict(seed, "last"), alone.state_dict(seed, "last"))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.recurrent(tokens()), r"have shape \(12, 5\), recurrent takes \(N, L, features\) without a"),
        (lambda: models.recurrent(sequences(), vocabulary=4), r"have shape \(12, 5, 3\), recurrent takes token ids"),
        (lambda: models.recurrent(tokens(), vocabulary=8), r"tokens: inputs are not all token ids, .* whole numbers 0"),
        (lambda: models.recurrent(small(), vocabulary=8), r"small: inputs are not all token ids, .* whole numbers 0"),
        (lambda: models.recurrent(sequences(), ()), r"hidden is empty"),
        (lambda: models.recurrent(sequences(), stages={"sign": 3}), r"task 'sign' is at stage 3, expected .* 1 to 2"),
        (
            lambda: models.recurrent(retargeted(sequences(), "sum", lambda y: y.repeat(2, 1).T)),
            r"task 'sum': targets have shape \(12, 2\), expected \(N,\) or \(N, L\)",
        ),
    ],
)
def test_wrong_inputs_of_the_recurrent_encoder(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def retargeted(data, name, change):
    split = replace(data.train, y={**data.train.y, name: change(data.train.y[name])})
    return replace(data, train=split, meta=split, test=split)


# task routing


def test_every_route_keeps_its_share_of_units_of_every_layer():
    for share, expected in ((0.5, (4, 3)), (0.3, (2, 2)), (0.01, (1, 1)), (1, (7, 6))):
        model = drawn(models.routed(mlp(), share))
        for route, n_units, kept in zip(model.routes, (7, 6), expected, strict=True):
            assert route.mask.shape == (3, n_units)
            assert route.mask.sum(1).tolist() == [kept] * 3
    assert len({tuple(row) for route in drawn(models.routed(mlp())).routes[:1] for row in route.mask.tolist()}) > 1


def test_a_routed_task_sees_its_units_alone():
    model, x = drawn(models.routed(mlp(), 0.4)), small().test.x
    first, second = model.trunk[0], model.trunk[2]
    for t, name in enumerate(NAMES):
        mask = [route.mask[t].double() for route in model.routes]
        h = torch.relu(x @ first.weight.T + first.bias) * mask[0]
        h = torch.relu(h @ second.weight.T + second.bias) * mask[1]
        expected = h @ model.heads[t].weight.T + model.heads[t].bias
        torch.testing.assert_close(model(x, (name,)), {name: expected})
        slope = torch.autograd.grad(model(x)[name].sum(), [first.weight, second.weight])
        assert not slope[0][mask[0] == 0].any()
        assert not slope[1][mask[1] == 0].any()
        assert not slope[1][:, mask[0] == 0].any()


def test_masks_of_convolutions_keep_whole_channels():
    data = images(1, 28, 28)
    model = drawn(models.routed(models.multi_lenet(data), 0.5))
    assert [tuple(route.mask.shape) for route in model.routes] == [(2, 10), (2, 20), (2, 50)]
    seen = []
    model.routes[1].register_forward_hook(lambda _, given, out: seen.append((given[1], out)))
    model(data.train.x)
    for task, out in seen:
        kept = model.routes[1].mask[task]
        assert out[:, kept].any()
        assert not out[:, ~kept].any()


@pytest.mark.parametrize("weighting", [mtl.Uniform(), mtl.SLGrad(), mtl.ForkMerge()])
def test_a_share_of_one_is_hard_sharing(weighting):
    plain, routed = fitted(mlp(), weighting=weighting), fitted(models.routed(mlp(), 1), weighting=weighting)
    for seed in SEEDS:
        found = routed.state_dict(seed, "last")
        assert all(found.pop(f"routes.{k}.mask").all() for k in range(2))
        torch.testing.assert_close(found, plain.state_dict(seed, "last"))
    torch.testing.assert_close(torch.tensor(routed.frame["value"]), torch.tensor(plain.frame["value"]), equal_nan=True)


def test_each_seed_has_masks_of_its_own_and_the_weights_of_the_plain_model():
    model = models.routed(mlp(), 0.5)
    routed, plain = Stack(model, small().tasks, SEEDS, **DOUBLE), Stack(mlp(), small().tasks, SEEDS, **DOUBLE)
    assert all(value.equal(plain.parameters[name]) for name, value in routed.parameters.items())
    masks = routed.buffers["routes.0.mask"]
    assert masks.shape == (2, 3, 7)
    assert not masks[0].equal(masks[1])
    assert Stack(model, small().tasks, SEEDS[1:], **DOUBLE).buffers["routes.0.mask"].equal(masks[1:])
    state = fitted(model).state_dict(5)
    assert state["routes.0.mask"].equal(masks[1])
    model.double().load_state_dict(state)


@pytest.mark.parametrize("share", [0, -0.5, 1.5, float("nan")])
def test_a_share_outside_its_range(share):
    with pytest.raises(ValueError, match=rf"share is {share}, expected a number above 0 and at most 1"):
        models.routed(mlp(), share)


# parallel trunks


@pytest.mark.parametrize("head", [(), (4,)])
def test_every_head_reads_the_features_of_all_trunks(head):
    model, x = drawn(models.multi_backbone(mlp(head=head), 3)), small().test.x
    features = torch.cat([trunk(x) for trunk in model.trunk], 1)
    assert features.shape == (10, 18)
    for t, name in enumerate(NAMES):
        torch.testing.assert_close(model(x)[name], model.heads[t](features))
    count = [sum(p.numel() for p in module.parameters()) for module in (model.trunk, mlp().trunk)]
    assert count[0] == 3 * count[1]
    assert model.last == tuple(f"trunk.{k}.2.{kind}" for k in range(3) for kind in ("weight", "bias"))


def test_backbones_of_convolutions_join_their_channels():
    data = images(3, 32, 32)
    model = drawn(models.multi_backbone(models.lenet(data), 2))
    assert model.trunk(data.train.x).shape == (6, 32, 6, 6)
    assert model.heads[0][0].weight.shape == (128, 32, 5, 5)


def test_a_warm_start_gives_each_seed_the_trunks_of_its_own_single_task_runs():
    data = small()
    alone = [fitted(mlp(data.only([name])), data.only([name])) for name in NAMES[:2]]
    model = models.multi_backbone(mlp(), 3)
    drawn_alone = Stack(model, data.tasks, SEEDS, **DOUBLE)
    warm = Stack(model, data.tasks, SEEDS, **DOUBLE, initial=models.warm_start(alone))
    for name, value in warm.parameters.items():
        head, k, rest = name.split(".", 2)
        for s, seed in enumerate(SEEDS):
            started = head == "trunk" and k in "01"
            expected = alone[int(k)].state_dict(seed)[f"trunk.{rest}"] if started else drawn_alone.parameters[name][s]
            assert value[s].equal(expected)
    assert fitted(model, initial=models.warm_start(alone)).seeds == list(SEEDS)
    with pytest.raises(ValueError, match="no run with seed 9"):
        fitted(model, initial=models.warm_start(alone), seeds=[9])


def test_too_few_backbones_and_heads_that_cannot_grow():
    with pytest.raises(ValueError, match="backbones is 0, expected at least 1"):
        models.multi_backbone(mlp(), 0)
    own = models.MultiTaskModel(nn.Sequential(nn.Linear(5, 4)), {"main": nn.Identity()})
    with pytest.raises(TypeError, match="the head of task 'main' is a Identity, expected its first layer to be Linear"):
        models.multi_backbone(own)


# task-adaptive parameter sharing


def set_apart(model, seed=0):
    """Away from its start: changes at random, scores on both sides of the threshold."""
    g = torch.Generator().manual_seed(seed)
    for name, value in model.changes.named_parameters():
        scale = 0.3 if name.endswith("score") else 1
        value.data = scale * torch.randn(value.shape, generator=g, dtype=value.dtype)
    return model


def test_taps_starts_as_the_shared_trunk_with_every_layer_switched_on():
    model, plain, x = drawn(models.taps(mlp())), drawn(mlp()), small().test.x
    torch.testing.assert_close(model(x), plain(x))
    assert model.switches().shape == (3, 2)
    assert model.task_share() == 1
    assert model.layers == ("0", "2")


def test_taps_changes_the_layers_that_are_switched_on():
    model, x = set_apart(drawn(models.taps(mlp()))), small().test.x
    share = []
    for t, name in enumerate(NAMES):
        h, count = x, 0
        for layer, change in zip((model.trunk[0], model.trunk[2]), model.changes[t], strict=True):
            on = change.score.item() >= 0.1
            weight, bias = (getattr(layer, k) + (getattr(change, k) if on else 0) for k in ("weight", "bias"))
            h = torch.relu(h @ weight.T + bias)
            count += on * (weight.numel() + bias.numel())
            share.append(on)
        torch.testing.assert_close(model(x)[name], h @ model.heads[t].weight.T + model.heads[t].bias)
        assert model.task_parameters()[name] == count
    assert 0 < sum(share) < 6
    assert model.task_share() == sum(share) / 6
    assert model.switches().flatten().tolist() == share


def test_the_indicator_is_straight_through_on_and_off():
    model, x = set_apart(drawn(models.taps(mlp()))), small().test.x
    for t, name in enumerate(NAMES):
        base, change = model.trunk[2], model.changes[t][1]
        of = [base.weight, base.bias, change.weight, change.score]
        weight, bias, delta, score = torch.autograd.grad(model(x)[name].square().sum(), of)
        torch.testing.assert_close(delta, change.on * weight)
        torch.testing.assert_close(score.squeeze(), (weight * change.weight).sum() + (bias * change.bias).sum())
        others = {f"changes.{u}.{i}.{k}" for u in range(3) if u != t for i in range(2) for k in ("weight", "score")}
        assert others.isdisjoint(reached(model, x, name))


def test_the_penalty_reaches_the_loss_in_fit_as_in_a_plain_loop():
    data, model = small(), models.taps(mlp(), strength=0.3)
    runs = fitted(model, weighting=mtl.Uniform(), epochs=1, steps_per_epoch=5)
    for seed in SEEDS:
        own, train = fresh(model, seed), data.resample(seed).train
        order = Batches(len(train), 8, [generator(seed, "order", "cpu")])
        descent = torch.optim.SGD(own.parameters(), lr=0.1, momentum=0.9)
        for _ in range(5):
            rows = train.take(next(order)[0])
            loss = per_sample_losses(data.tasks, own(rows.x), pack(data.tasks, rows.y)).mean(0).mean()
            scores = [value for name, value in own.named_parameters() if name.endswith("score")]
            descent.zero_grad()
            (loss + 0.3 * torch.cat(scores).abs().sum()).backward()
            descent.step()
        torch.testing.assert_close(runs.state_dict(seed, "last"), dict(own.state_dict()))
        assert own.task_share() < 1


@pytest.mark.parametrize("weighting", [mtl.Uniform(), mtl.SLGrad(), mtl.HydaLearn(), mtl.GradientCosine()])
def test_the_penalty_reaches_the_loss_of_the_weigher_and_no_weight(weighting):
    data, found = small(), []
    for strength in (0.0, 0.7):
        model = set_apart(drawn(models.taps(mlp(), strength=strength)))
        weigh = mtl.Weigher(model, data.tasks, weighting, shared=model.trunk, last=model.last, lr=0.1)
        loss = weigh(data.train.x, data.train.y, meta=(data.meta.x, data.meta.y))
        loss.backward()
        slopes = {name: value.grad for name, value in model.named_parameters()}
        found.append((loss, weigh.weights, slopes))
    (plain, weights, slopes), (loss, same, more) = found
    scores = {name: value for name, value in model.named_parameters() if name.endswith("score")}
    torch.testing.assert_close(loss, plain + 0.7 * sum(value.abs().sum() for value in scores.values()))
    torch.testing.assert_close(same, weights)
    for name, slope in more.items():
        expected = slopes[name] + (0.7 * scores[name].detach().sign() if name in scores else 0)
        torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("weighting", [mtl.ForkMerge(), mtl.AlphaVIL(alpha_steps=0)], ids=["mean", "sum"])
def test_the_penalty_reaches_the_branches_of_a_merge(chunk, weighting):
    """A very strong penalty moves every score down by lr λ in a step, whether branches are averaged or summed."""
    model = models.taps(mlp(), strength=1e4)
    sgd = torch.optim.SGD
    runs = fitted(model, weighting=weighting, epochs=1, steps_per_epoch=1, lr=1e-6, optimizer=sgd, chunk=chunk)
    for seed in SEEDS:
        state = runs.state_dict(seed, "last")
        scores = torch.cat([value for name, value in state.items() if name.endswith("score")])
        torch.testing.assert_close(scores, torch.full((6,), 0.2 - 0.01, dtype=torch.float64), atol=1e-5, rtol=0)


def test_taps_starts_from_trained_models_and_can_leave_them_as_they_are():
    base = fitted(mlp())
    given, joint = (fitted(models.taps(mlp(), joint=joint), initial=base.state_dict) for joint in (False, True))
    for seed in SEEDS:
        start, found, moved = base.state_dict(seed), given.state_dict(seed, "last"), joint.state_dict(seed, "last")
        assert all(found[name].equal(value) for name, value in start.items() if name.startswith("trunk."))
        assert not any(found[name].equal(value) for name, value in start.items() if name.startswith("heads."))
        assert not any(moved[name].equal(value) for name, value in start.items())
        assert found["changes.0.0.weight"].any()
    first = {"epoch": 0, "split": "test", "metric": "loss"}
    for seed in SEEDS:
        chosen = base.selected().loc[seed]
        pick = {"seed": seed, **first}
        expected = rows(base, pick | {"epoch": chosen})
        torch.testing.assert_close(rows(joint, pick), expected)
        torch.testing.assert_close(rows(given, pick), expected)


def rows(runs, where):
    frame = runs.frame
    for column, value in where.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 3
    return torch.tensor(frame["value"].to_numpy())


@pytest.mark.parametrize("weighting", [mtl.SLGrad(), mtl.GradNorm(), mtl.MetaTartan(), mtl.OrthogonalGradients()])
def test_a_frozen_trunk_has_no_gradients_to_read(weighting):
    with pytest.raises(ValueError, match=f"no parameter of the trunk is trained, but {type(weighting).__name__} reads"):
        fitted(models.taps(mlp(), joint=False), weighting=weighting)


@pytest.mark.parametrize("method", [mtl.Uniform(), mtl.HydaLearn(), mtl.ForkMerge()])
def test_other_methods_train_around_a_frozen_trunk(method):
    runs = fitted(models.taps(mlp(), joint=False), weighting=method)
    alone = fitted(models.taps(mlp(), joint=False), weighting=method, chunk=1)
    for seed in SEEDS:
        start = fresh(mlp(), seed)
        state = runs.state_dict(seed, "last")
        assert all(state[f"trunk.{name}"].equal(value) for name, value in start.trunk.named_parameters())
        torch.testing.assert_close(state, alone.state_dict(seed, "last"))


def test_options_of_taps_out_of_range():
    with pytest.raises(ValueError, match="threshold is 0, expected a positive number"):
        models.taps(mlp(), threshold=0)
    with pytest.raises(ValueError, match="strength is -1, expected at least 0"):
        models.taps(mlp(), strength=-1)


# all of them

WRAPPED = {
    "low level": lambda: mlp(stages={"near": 1}),
    "routed": lambda: models.routed(mlp(), 0.5),
    "multi-backbone": lambda: models.multi_backbone(mlp(), 2),
    "taps": lambda: models.taps(mlp()),
}
PER_STEP = [
    mtl.Uniform(),
    mtl.SLGrad(),
    mtl.HydaLearn(),
    mtl.GradNorm(),
    mtl.OrthogonalGradients(0.1),
    mtl.GradientCosine(on="meta"),
    mtl.MetaWeightNet(hidden=5),
    mtl.AuxiLearn(every=1),
    mtl.ARML(),
    mtl.NoiseLayer(),
]
METHODS = [*PER_STEP, mtl.AlphaVIL(), mtl.DIW(), mtl.ForkMerge()]


@pytest.mark.parametrize("weighting", METHODS, ids=lambda w: type(w).__name__)
@pytest.mark.parametrize("name", WRAPPED)
def test_seeds_stacked_equal_seeds_alone(name, weighting):
    together = fitted(WRAPPED[name](), weighting=weighting)
    alone = fitted(WRAPPED[name](), weighting=weighting, chunk=1)
    for seed in SEEDS:
        torch.testing.assert_close(together.state_dict(seed, "last"), alone.state_dict(seed, "last"))
    assert not together.frame["diverged"].any()


@pytest.mark.parametrize("weighting", PER_STEP, ids=lambda w: type(w).__name__)
@pytest.mark.parametrize("name", WRAPPED)
def test_the_weigher_takes_the_step_of_fit(name, weighting):
    data, model = small().resample(2), fresh(WRAPPED[name](), 2)
    options = {"seeds": [2], "epochs": 1, "steps_per_epoch": 1, "batch_size": 36, "meta_batch_size": 14}
    runs = fitted(WRAPPED[name](), weighting=weighting, optimizer=torch.optim.SGD, **options)
    weigh = mtl.Weigher(model, data.tasks, weighting, shared=model.trunk, last=model.last, lr=0.1)
    descent = torch.optim.SGD(model.parameters(), lr=0.1)
    weigh(data.train.x, data.train.y, meta=(data.meta.x, data.meta.y), epoch=0).backward()
    descent.step()
    torch.testing.assert_close(runs.state_dict(2, "last"), dict(model.state_dict()))


@pytest.mark.parametrize("name", WRAPPED)
def test_a_state_scores_the_samples_of_its_run(name):
    model = WRAPPED[name]()
    runs = fitted(model)
    assert sample_losses(runs, small())["loss"].notna().all()


@pytest.mark.parametrize(
    ("build", "recipe"),
    [
        (lambda data: models.mlp(data, stages={"near": 1}), "mlp(data, stages={'near': 1})"),
        (lambda data: models.routed(models.mlp(data), 0.3), "routed(mlp(data), share=0.3)"),
        (lambda data: models.routed(models.mlp(data, hidden=(4,))), "routed(mlp(data, hidden=(4,)))"),
        (lambda data: models.multi_backbone(models.mlp(data), 3), "multi_backbone(mlp(data), backbones=3)"),
        (lambda data: models.taps(models.mlp(data), joint=False), "taps(mlp(data), joint=False)"),
    ],
)
def test_a_recipe_makes_the_same_model_again(build, recipe):
    data = small()
    model = build(data)
    assert model.recipe == recipe
    again = recipes.make(recipe, {**full.known(), "data": data})
    assert str(again) == str(model)
    assert again.recipe == recipe
    torch.testing.assert_close(drawn(again)(data.test.x), drawn(model)(data.test.x))


def test_a_model_without_a_recipe_gives_none_to_what_is_built_around_it():
    own = models.MultiTaskModel(nn.Sequential(nn.Linear(5, 4), nn.ReLU()), {"main": nn.Linear(4, 1)})
    assert models.routed(own).recipe == ""


@pytest.mark.parametrize("build", [models.routed, models.multi_backbone, models.taps])
def test_only_a_plain_model_is_built_around(build):
    for model, found in ((mlp(stages={"near": 1}), "LowLevel"), (nn.Linear(2, 2), "Linear")):
        with pytest.raises(TypeError, match=rf"{build.__name__} takes a MultiTaskModel .*, found a {found}"):
            build(model)


@pytest.mark.parametrize("build", [models.routed, models.multi_backbone, models.taps])
def test_the_model_itself_is_not_changed(build):
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    options = {"joint": False} if build is models.taps else {}
    drawn(build(model, **options), 5)
    torch.testing.assert_close(model.state_dict(), before)
    assert all(value.requires_grad for value in model.parameters())


# initial weights


def test_initial_weights_stand_in_for_the_drawn_ones():
    data = small()
    values = {seed: {"trunk.0.bias": torch.full((7,), float(seed))} for seed in SEEDS}
    stack = Stack(mlp(), data.tasks, SEEDS, **DOUBLE, initial=values.get)
    plain = Stack(mlp(), data.tasks, SEEDS, **DOUBLE)
    for name, value in stack.parameters.items():
        expected = (
            torch.tensor(SEEDS).double()[:, None].expand(2, 7) if name == "trunk.0.bias" else plain.parameters[name]
        )
        assert value.equal(expected)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: models.mlp(small(), hidden=(8, 6)),
            r"seed 2: 'trunk.0.weight' has shape \(7, 5\), the model's has \(8, 5\)",
        ),
        (lambda: models.mlp(small(), hidden=(7,)), r"seed 2: the model has no 'trunk.2.weight', expected names"),
        (lambda: models.taps(models.mlp(small(), hidden=(8, 6))), r"seed 2: 'trunk.0.weight' has shape \(7, 5\), the"),
        (lambda: models.mlp(small(), hidden=(7, 6, 6)), "seed 2: heads, but no 'trunk.4.weight', expected those of a"),
        (lambda: models.taps(models.mlp(small(), hidden=(7, 6, 6))), "seed 2: heads, but no 'trunk.4.weight', expec"),
    ],
)
def test_initial_weights_of_another_shape(build, message):
    with pytest.raises(ValueError, match=f"initial weights of {message}"):
        fitted(build(), initial=fitted(mlp()).state_dict)


def test_initial_weights_have_no_recipe():
    data = mtl.datasets.load("digits", main=8)
    candidate = mtl.studies.Candidate(models.mlp(data), data, mtl.Uniform(), {"initial": dict})
    with pytest.raises(ValueError, match="initial weights cannot be written down"):
        mtl.studies._settings(candidate, 0.1, {})


def test_parameters_without_gradient_stay_as_they_are():
    model = mlp()
    model.trunk[0].requires_grad_(False)
    runs = fitted(model, weighting=mtl.SLGrad())
    for seed in SEEDS:
        state, start = runs.state_dict(seed, "last"), fresh(mlp(), seed).state_dict()
        kept = {name for name in start if state[name].equal(start[name])}
        assert kept == parts("trunk.", (0,))
