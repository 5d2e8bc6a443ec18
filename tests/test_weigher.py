"""The weigher against plain training, slow references in float64, and every feature of the user's own loop."""

import contextlib
import copy
import dataclasses
import importlib
import io
import itertools
import weakref
from collections import OrderedDict

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchjd.aggregation import PCGradWeighting, UPGradWeighting

import mtlkit as mtl
from mtlkit import measure, memory
from mtlkit.weighting import Weighting

TASKS = (mtl.Task("price", "regression"), mtl.Task("sold", "binary"), mtl.Task("kind", "multiclass", n_classes=3))
ARGUMENTS = {
    mtl.Fixed: [((0.5, 0.3, 0.2),)],
    mtl.Gramian: [(UPGradWeighting(),), (PCGradWeighting(),)],
    mtl.AuxiLearn: [(None, 1), (3, 1)],
    mtl.GradientCosine: [(), (True, False, "meta")],
    mtl.MetaWeightNet: [(5,), (5, 0.1, 0.0)],
    mtl.NoiseLayer: [(0.2, True)],
    mtl.HydaLearn: [(), (None, "batch", lambda output, target: (output[:, 0] - target).abs().mean())],
    mtl.SLGrad: [(), (0.05,)],
}
EXPORTED = [found for name in mtl.__all__ if isinstance(found := getattr(mtl, name), type)]
EVERY = [
    kind(*arguments) for kind in EXPORTED if issubclass(kind, Weighting) for arguments in ARGUMENTS.get(kind, [()])
]
for_every_weighting = pytest.mark.parametrize("weighting", EVERY, ids=lambda w: type(w).__name__)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


class Net(nn.Module):
    """Any module that returns outputs by task name."""

    def __init__(self, *trunk, width=6, tasks=TASKS):
        super().__init__()
        self.trunk = nn.Sequential(*trunk) if trunk else nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, width))
        self.heads = nn.ModuleDict({task.name: nn.Linear(width, task.n_outputs) for task in tasks})
        self.to(torch.float64)

    def forward(self, x):
        features = self.trunk(x)
        return {name: head(features) for name, head in self.heads.items()}


class Recorder(nn.Module):
    """Dropout that notes its masks, or repeats the rows of a given one."""

    def __init__(self):
        super().__init__()
        self.masks, self.fixed = [], None

    def forward(self, x):
        if self.fixed is not None:
            return x * self.fixed
        self.masks.append(torch.bernoulli(torch.full(x.shape, 0.5, dtype=x.dtype)) * 2)
        return x * self.masks[-1]


class Opaque(torch.autograd.Function):
    """The identity, without forward mode (as the float32 kernel of ``nn.LSTM``)."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.lstm, self.drop = nn.BatchNorm1d(4), nn.LSTM(3, 6, batch_first=True), Recorder()

    def forward(self, x):
        return Opaque.apply(self.lstm(self.drop(self.norm(x)))[0][:, -1])


class LastStep(nn.Module):
    def forward(self, x):
        return x[0][:, -1]


class MeanOverTime(nn.Module):
    def forward(self, x):
        return x.mean(1)


def batch(n=8, seed=0, missing=False, dtype=torch.float64, shape=(5,)):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *shape, generator=g, dtype=dtype)
    y = {
        "price": torch.randn(n, generator=g, dtype=dtype),
        "sold": torch.randint(0, 2, (n,), generator=g),
        "kind": torch.randint(0, 3, (n,), generator=g),
    }
    if missing:
        y["price"][0], y["sold"][1], y["kind"][:3] = float("nan"), -1, -1
    return x, y


def build(*trunk, seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(*trunk, **options)


def weigher(model, weighting, tasks=TASKS, **options):
    return mtl.Weigher(model, tasks, weighting, shared=model.trunk, lr=0.1, **options)


def one_loss(task, output, target):
    """The loss of one sample, from the formula; None where the label is missing."""
    if task.kind == "regression":
        return None if target.isnan() else (output.squeeze() - target) ** 2
    if target == -1:
        return None
    if task.kind == "binary":
        p = torch.sigmoid(output.squeeze())
        recorded = (1 - task.flip) * p + task.flip * (1 - p)
        return -torch.log(recorded if target == 1 else 1 - recorded)
    return output.logsumexp(0) - output[target]


def losses_of(model, x, y, tasks=TASKS, jointly=False):
    """{(b, t): loss}, each sample on its own, or all in one batch where they depend on each other."""
    if jointly:
        outputs = model(x)
        rows = [{name: out[b] for name, out in outputs.items()} for b in range(len(x))]
    else:
        rows = [{name: out[0] for name, out in model(x[b : b + 1]).items()} for b in range(len(x))]
    found = {
        (b, t): one_loss(task, row[task.name], y[task.name][b])
        for b, row in enumerate(rows)
        for t, task in enumerate(tasks)
    }
    return {key: loss for key, loss in found.items() if loss is not None}


def inner(gradients, others):
    return sum((a * b).sum() for a, b in zip(gradients, others, strict=True) if a is not None and b is not None)


def slow_slgrad(model, losses, meta_losses, shared):
    """SLGrad's weights (B, T) and gradients by a double loop over samples and tasks."""
    main = [loss for (_, t), loss in meta_losses.items() if t == 0]
    direction = torch.autograd.grad(sum(main) / len(main), shared, allow_unused=True)
    weights = torch.zeros(max(b for b, _ in losses) + 1, max(t for _, t in losses) + 1, dtype=torch.float64)
    for key, loss in losses.items():
        gradient = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
        weights[key] = max(inner(gradient, direction), 0)
    weights = weights / weights.sum()
    total = sum(weights[key] * loss for key, loss in losses.items())
    trainable = [p for p in model.parameters() if p.requires_grad]
    return weights, torch.autograd.grad(total, trainable, allow_unused=True)


def assert_slgrad(model, x, y, meta, reference=None, shared=None, tasks=TASKS, jointly=False):
    """One call of the weigher equals the double loop on ``reference`` (a copy of the model)."""
    reference = reference or copy.deepcopy(model)
    part = shared or (lambda m: m.trunk)
    weigh = mtl.Weigher(model, tasks, mtl.SLGrad(), shared=part(model))
    weigh(x, y, meta=meta).backward()
    chosen = part(reference)
    chosen = [p for p in (chosen.parameters() if isinstance(chosen, nn.Module) else chosen) if p.requires_grad]
    weights, gradients = slow_slgrad(
        reference,
        losses_of(reference, x, y, tasks, jointly),
        losses_of(reference, *meta, [dataclasses.replace(task, flip=0.0) for task in tasks], jointly),
        chosen,
    )
    torch.testing.assert_close(weigh.weights, weights, rtol=1e-8, atol=1e-10)
    trainable = [p for p in model.parameters() if p.requires_grad]
    for own, expected in zip(trainable, gradients, strict=True):
        expected = torch.zeros_like(own) if expected is None else expected
        torch.testing.assert_close(own.grad, expected, rtol=1e-8, atol=1e-10)
    assert (weights > 0).sum() > 2
    return weigh


def fields(weighting):
    return {request.field for request in weighting.reads}


def reads_meta(weighting):
    of_gradient = {"alignment", "meta_alignment", "meta_norm", "implicit_alignment"} & fields(weighting)
    return bool(of_gradient) or ("gains" in fields(weighting) and weighting.on == "meta")


def gradients_of(model):
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


# What a call returns


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_slgrad_equals_the_double_loop(seed, missing):
    x, y = batch(seed=seed, missing=missing)
    weigh = assert_slgrad(build(seed=seed), x, y, batch(6, seed + 10, missing=missing))
    if missing:
        assert weigh.weights[0, 0] == weigh.weights[1, 1] == 0
        assert (weigh.weights[:3, 2] == 0).all()


def test_known_flips_correct_the_training_batch_and_not_the_meta_batch():
    plain = (TASKS[1], TASKS[0], TASKS[2])
    tasks = (mtl.Task("sold", "binary", flip=0.7), *plain[1:])
    x, y = batch(missing=True)
    weigh = assert_slgrad(build(tasks=tasks), x, y, batch(6, 1), tasks=tasks)
    ignorant = assert_slgrad(build(tasks=tasks), x, y, batch(6, 1), tasks=plain)
    assert (weigh.weights - ignorant.weights).abs().max() > 0.01

    model = build(tasks=tasks)
    for method in (mtl.Uniform(), mtl.GradientCosine()):  # of which the second reads one task's losses after the other
        weigh = weigher(model, method, tasks)
        found = weigh(x, y)
        losses = losses_of(model, x, y, tasks)
        torch.testing.assert_close(found, sum(w * mean_of(losses, t) for t, w in enumerate(weigh.weights)))


def mean_of(losses, t):
    own = [loss for (_, s), loss in losses.items() if s == t]
    return sum(own) / len(own)


@pytest.mark.parametrize("step", [None, 0.02])
@pytest.mark.parametrize("on", ["meta", "batch"])
@pytest.mark.parametrize("metric", [None, lambda output, target: (output[:, 0] - target).abs().mean().item()])
def test_hydalearn_equals_one_fake_step_after_the_other(step, on, metric):
    model = build(seed=4)
    x, y = batch(8, missing=True)
    meta = x[:5], {"price": y["price"][:5]}
    x_score, y_score = meta if on == "meta" else (x, y)
    labelled = ~y_score["price"].isnan()

    def score(own):
        if metric is None:
            return mean_of(losses_of(own, x_score, y_score, TASKS[:1]), 0).item()
        return metric(own(x_score)["price"][labelled], y_score["price"][labelled])

    gains = []
    for t in range(3):
        fake = copy.deepcopy(model)
        mean_of(losses_of(fake, x, y), t).backward()
        torch.optim.SGD(fake.parameters(), lr=step or 0.1).step()
        gains.append(max(score(model) - score(fake), 0))
    weigh = weigher(model, mtl.HydaLearn(step, on, metric))
    weigh(x, y, meta=meta)
    assert sum(gains) > 0
    torch.testing.assert_close(weigh.weights, torch.tensor(gains).double() / sum(gains))


def test_task_gradients_do_not_outlive_the_call(monkeypatch):
    seen = []

    def watched(weights, found):
        seen.extend(weakref.ref(gradient) for gradient in found.values())
        return weighted(weights, found)

    steps = importlib.import_module("mtlkit.step")
    weighted = steps._weighted
    monkeypatch.setattr(steps, "_weighted", watched)
    model = build(nn.Linear(5, 6), nn.Tanh())
    loss = weigher(model, mtl.HydaLearn())(*batch(), meta=batch(seed=1))
    assert len(seen) > len(TASKS)
    assert [ref() for ref in seen] == [None] * len(seen)
    loss.backward()


def test_learned_weights_know_the_kinds_of_the_tasks():
    weigh = weigher(build(), mtl.Uncertainty())
    weigh(*batch()).backward()
    torch.testing.assert_close(weigh.weights, torch.tensor([0.5, 1.0, 1.0]).double() / 3)
    assert weigh.learned.grad.all()


def test_uniform_is_plain_training_to_the_last_bit():
    tasks = TASKS[:2]
    trunk = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 6)
    plain, weighed = build(*copy.deepcopy(trunk), tasks=tasks), build(*copy.deepcopy(trunk), tasks=tasks)
    weighed.load_state_dict(plain.state_dict())
    weigh = weigher(weighed, mtl.Uniform(), tasks)
    descents = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (plain, weighed)]

    def plain_loss(x, y):
        out = plain(x)
        sold = F.binary_cross_entropy_with_logits(out["sold"][:, 0], y["sold"].double())
        return (F.mse_loss(out["price"][:, 0], y["price"]) + sold) / 2

    for objective, descent in zip((plain_loss, weigh), descents, strict=True):
        torch.manual_seed(3)
        for seed in range(5):
            loss = objective(*batch(8, seed))
            descent.zero_grad()
            loss.backward()
            descent.step()
    for (name, a), b in zip(plain.state_dict().items(), weighed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_task_without_labels_contributes_nothing():
    model = build()
    x, y = batch()
    y["kind"][:] = -1
    weigh = weigher(model, mtl.Uniform())
    weigh(x, y).backward()
    found = gradients_of(model.trunk)
    assert not model.heads["kind"].weight.grad.any()
    model.zero_grad()
    rows = losses_of(model, x, y)
    (sum(rows.values()) / 24).backward()
    torch.testing.assert_close(found, gradients_of(model.trunk))


def test_weights_have_the_shape_of_their_level():
    model = build()
    weigh = weigher(model, mtl.Uniform())
    assert weigh.weights is None
    weigh(*batch())
    assert weigh.weights.shape == (3,)
    weigh = weigher(model, mtl.SLGrad())
    assert weigh(*batch(), meta=batch(4, 1)).shape == ()
    assert weigh.weights.shape == (8, 3)
    assert all(p.grad is None for p in model.parameters())


# What a model may be made of


@for_every_weighting
def test_dropout_draws_one_mask_for_measuring_and_training(weighting):
    model = build(nn.Linear(5, 8), Recorder(), nn.Tanh(), nn.Linear(8, 6))
    weigh = weigher(model, weighting)
    for _ in range(2):
        weigh(*batch(8), meta=batch(5, 1), epoch=0).backward()
    tried = "alignment" in fields(weighting)  # one pass to see how large the model's forward pass is
    masks = model.trunk[1].masks[tried:]
    by_call = [list(found) for _, found in itertools.groupby(masks, key=lambda m: len(m))]
    training = [m for m in masks if len(m) == 8]
    half = len(training) // 2
    assert all(torch.equal(m, training[0]) for m in training[:half])
    assert all(torch.equal(m, training[half]) for m in training[half:])
    assert not torch.equal(training[0], training[half])
    held_out = [m for found in by_call for m in found if len(m) == 5]
    half = len(held_out) // 2
    assert all(torch.equal(m, held_out[0]) for m in held_out[:half])


def test_dropout_weights_and_gradients_belong_to_the_same_mask():
    model = build(nn.Linear(5, 8), Recorder(), nn.Tanh(), nn.Linear(8, 6))
    reference = copy.deepcopy(model)
    (x, y), meta = batch(8), batch(5, 1)
    weigh = weigher(model, mtl.SLGrad())
    weigh(x, y, meta=meta).backward()
    masks = {len(mask): mask for mask in model.trunk[1].masks}
    reference.trunk[1].fixed = masks[8]
    losses = losses_of(reference, x, y, jointly=True)
    reference.trunk[1].fixed = masks[5]
    weights, gradients = slow_slgrad(
        reference, losses, losses_of(reference, *meta, jointly=True), list(reference.trunk.parameters())
    )
    torch.testing.assert_close(weigh.weights, weights)
    torch.testing.assert_close(gradients_of(model), list(gradients))


@for_every_weighting
@pytest.mark.parametrize("recurrent", [False, True])
def test_running_statistics_and_random_numbers_advance_once(weighting, recurrent):
    trunk = (Recurrent(),) if recurrent else (nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 6))
    shape = (4, 3) if recurrent else (5,)
    model = build(*trunk)
    plain = copy.deepcopy(model)
    (x, y), (x_meta, y_meta) = batch(8, shape=shape), batch(5, 1, shape=shape)
    torch.manual_seed(0)
    weigher(model, weighting)(x, y, meta=(x_meta, y_meta), epoch=0).backward()
    after = torch.get_rng_state()
    plain(x)
    for (name, own), expected in zip(model.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(own, expected), name
        assert not own.requires_grad
    torch.manual_seed(0)
    plain(x)
    if reads_meta(weighting):
        plain(x_meta)
    assert torch.equal(after, torch.get_rng_state())


def test_batch_norm_in_training_mode():
    model = build(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 6))
    (x, y), meta = batch(8, missing=True), batch(5, 1)
    assert_slgrad(model, x, y, meta, jointly=True)


def test_attention_without_dropout():
    layer = nn.TransformerEncoderLayer(6, 2, 12, dropout=0.0, batch_first=True)
    model = build(layer, MeanOverTime())
    assert_slgrad(model, *batch(6, shape=(4, 6)), batch(4, 1, shape=(4, 6)))
    model.eval()
    model.zero_grad()
    assert_slgrad(model, *batch(6, shape=(4, 6)), batch(4, 1, shape=(4, 6)))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers(kind):
    model = build(kind(3, 6, batch_first=True), LastStep())
    assert_slgrad(model, *batch(6, shape=(4, 3), missing=True), batch(4, 1, shape=(4, 3)))


def test_an_lstm_in_float32_has_no_forward_mode_and_is_differentiated_twice():
    exact = build(nn.LSTM(3, 6, batch_first=True), LastStep())
    model = copy.deepcopy(exact).float()
    weigh = weigher(model, mtl.SLGrad())
    single = [batch(n, seed, missing=True, dtype=torch.float32, shape=(4, 3)) for n, seed in ((6, 0), (4, 1))]
    weigh(*single[0], meta=single[1]).backward()
    train, meta = ((x.double(), {k: v.double() if k == "price" else v for k, v in y.items()}) for x, y in single)
    weights, gradients = slow_slgrad(
        exact, losses_of(exact, *train), losses_of(exact, *meta), list(exact.trunk.parameters())
    )
    torch.testing.assert_close(weigh.weights.double(), weights, rtol=1e-3, atol=1e-5)
    for own, expected in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(own.grad.double(), expected, rtol=1e-3, atol=1e-5)


def test_recurrent_layer_with_dropout_uses_one_mask():
    model = build(Recurrent())
    model.trunk[0].norm = nn.Identity()
    reference = copy.deepcopy(model)
    (x, y), meta = batch(6, shape=(4, 3)), batch(4, 1, shape=(4, 3))
    weigh = weigher(model, mtl.SLGrad())
    weigh(x, y, meta=meta).backward()
    masks = {len(mask): mask for mask in model.trunk[0].drop.masks}
    reference.trunk[0].drop.fixed = masks[6]
    losses = losses_of(reference, x, y, jointly=True)
    reference.trunk[0].drop.fixed = masks[4]
    weights, gradients = slow_slgrad(
        reference, losses, losses_of(reference, *meta, jointly=True), list(reference.trunk.parameters())
    )
    torch.testing.assert_close(weigh.weights, weights)
    torch.testing.assert_close(gradients_of(model), list(gradients))


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.on = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6)), True

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=False) if self.on else self.inner(x)


@for_every_weighting
def test_gradient_checkpointing_is_the_same_or_refused(weighting):
    model = build(Checkpointed())
    plain = copy.deepcopy(model)
    plain.trunk[0].on = False
    if "alignment" in fields(weighting):
        with pytest.raises(RuntimeError, match="switch gradient checkpointing off"):
            weigher(model, weighting)(*batch(), meta=batch(6, 1))
        return
    for own in (model, plain):
        weigher(own, weighting)(*batch(), meta=batch(6, 1), epoch=0).backward()
    torch.testing.assert_close(gradients_of(model), gradients_of(plain))


def test_frozen_parameters_are_left_out():
    model = build()
    model.trunk[0].requires_grad_(False)
    model.heads["kind"].bias.requires_grad_(False)
    assert_slgrad(model, *batch(), batch(6, 1))
    assert model.trunk[0].weight.grad is None
    assert model.heads["kind"].bias.grad is None


def test_unfreezing_takes_effect_at_the_next_call():
    model, meta = build(), batch(6, 1)
    model.trunk[0].requires_grad_(False)
    weigh = weigher(model, mtl.SLGrad())
    weigh(*batch(), meta=meta)
    frozen = weigh.weights
    model.trunk[0].requires_grad_(True)
    weigh(*batch(), meta=meta)
    assert not torch.allclose(frozen, weigh.weights)
    assert torch.equal(weigh.weights, assert_slgrad(model, *batch(), meta).weights)


@for_every_weighting
def test_an_all_frozen_trunk_is_an_error_where_its_gradients_are_read(weighting):
    model = build()
    model.trunk.requires_grad_(False)
    weigh = weigher(model, weighting)
    if {"alignment", "meta_alignment", "meta_norm", "gramian", "last_norms"} & fields(weighting):
        with pytest.raises(ValueError, match=f"shared: all its parameters are frozen, but {type(weighting).__name__}"):
            weigh(*batch(), meta=batch(4, 1), epoch=0)
    else:
        weigh(*batch(), meta=batch(4, 1), epoch=0).backward()
        assert model.heads["price"].weight.grad.any()


class Tied(nn.Module):
    """The price head's matrix is the trunk's, and is registered first."""

    def __init__(self):
        super().__init__()
        self.price = nn.Linear(5, 5)
        self.trunk = nn.Sequential(nn.Linear(5, 5), nn.Tanh())
        self.sold = nn.Linear(5, 1)
        self.trunk[0].weight = self.price.weight
        self.double()

    def forward(self, x):
        features = self.trunk(x)
        return {"price": self.price(features).sum(1), "sold": self.sold(features)}


@pytest.mark.parametrize("shared", [lambda m: m.trunk, lambda m: [m.trunk[0].weight, m.trunk[0].bias]])
def test_tied_weights(shared):
    torch.manual_seed(0)
    model = Tied()
    assert_slgrad(model, *batch(), batch(6, 1), shared=shared, tasks=TASKS[:2])
    assert model.trunk[0].weight.grad is model.price.weight.grad
    found = []
    for part in (model.trunk, ["trunk.0.weight", "trunk.0.bias"], ["price.weight", "trunk.0.bias"], ["trunk.0.bias"]):
        weigh = mtl.Weigher(model, TASKS[:2], mtl.SLGrad(), shared=part)
        weigh(*batch(), meta=batch(6, 1))
        found.append(weigh.weights)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert not torch.allclose(found[0], found[3])


class Loose(nn.Module):
    """Outputs without a trailing axis, a target per pixel, and a task whose head is not always there."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Conv2d(1, 4, 3, padding=1)
        self.price, self.depth = nn.Linear(4, 1), nn.Conv2d(4, 1, 1)

    def forward(self, x):
        features = self.trunk(x).relu()
        return {"price": self.price(features.mean((2, 3)))[:, 0], "depth": self.depth(features), "extra": None}


def test_outputs_may_have_pixels_and_extras():
    torch.manual_seed(0)
    model, tasks = Loose().double(), (mtl.Task("price", "regression"), mtl.Task("depth", "regression"))
    x, y = torch.randn(3, 1, 4, 4).double(), {"price": torch.randn(3).double(), "depth": torch.randn(3, 4, 4).double()}
    y["depth"][0, 0, 0] = float("nan")
    weigh = mtl.Weigher(model, tasks, mtl.Uniform(), shared=["trunk"])
    loss = weigh(x, y | {"unused": torch.zeros(1)})
    out = model(x)
    squares = (out["depth"][:, 0] - y["depth"]).square()
    pixels = torch.stack([squares[0].flatten()[1:].mean(), squares[1].mean(), squares[2].mean()]).mean()
    torch.testing.assert_close(loss, (F.mse_loss(out["price"], y["price"]) + pixels) / 2)


class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.price = nn.Linear(5, 4), nn.Linear(4, 1)

    def forward(self, left, right=None, *, scale=1.0):
        return {"price": self.price(self.trunk(left if right is None else left + right).tanh() * scale)}


class Pair:
    def __init__(self, left, right):
        self.left, self.right = left, right

    def __add__(self, other):
        return NotImplemented


def test_inputs_are_a_tensor_a_tuple_or_keywords():
    torch.manual_seed(0)
    model, tasks = Keywords().double(), TASKS[:1]
    (x, y), (more, _) = batch(6), batch(6, 1)
    weigh = mtl.Weigher(model, tasks, mtl.SLGrad(), shared=model.trunk)

    def weights(form, meta=None):
        weigh(form, y, meta=(form if meta is None else meta, y)).backward()
        return weigh.weights

    assert torch.equal(weights((x,)), weights(x))
    both = weights(x + more)
    for form in ((x, more), [x, more], {"left": x, "right": more}, OrderedDict(right=more, left=x)):
        assert torch.equal(weights(form), both)
    assert not torch.allclose(weights({"left": x, "scale": 2.0}), weights(x))
    packed = nn.utils.rnn.pack_padded_sequence(torch.ones(2, 3, 1), [3, 2], batch_first=True)

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = nn.GRU(1, 1, batch_first=True)

        def forward(self, sequence):
            return {"price": self.trunk(sequence)[1][0]}

    whole = Whole()
    loss = mtl.Weigher(whole, tasks, mtl.Uniform(), shared=whole.trunk)(packed, {"price": torch.ones(2)})
    assert loss.isfinite()


def test_shared_is_a_module_parameters_or_names():
    model, meta = build(), batch(6, 1)
    forms = [
        model.trunk,
        list(model.trunk.parameters()),
        model.trunk.parameters(),
        ["trunk"],
        ["trunk.0", "trunk.2.weight", "trunk.2.bias"],
    ]
    found = []
    for shared in forms:
        weigh = mtl.Weigher(model, TASKS, mtl.SLGrad(), shared=shared)
        weigh(*batch(), meta=meta)
        found.append(weigh.weights)
    assert all(torch.equal(weights, found[0]) for weights in found)
    weigh = mtl.Weigher(model, TASKS, mtl.SLGrad(), shared=["trunk.0"])
    weigh(*batch(), meta=meta)
    assert not torch.allclose(weigh.weights, found[0])


@dataclasses.dataclass(frozen=True)
class LastNorms(Weighting):
    """The norms themselves as weights."""

    reads = (measure.LastNorms(),)

    def update(self, state, signal):
        return signal.last_norms, state


@pytest.mark.parametrize(
    ("last", "names"),
    [
        (None, ["2.weight", "2.bias"]),
        (["trunk.0"], ["0.weight", "0.bias"]),
        (["trunk.2.weight"], ["2.weight"]),
    ],
)
def test_the_last_shared_layer(last, names):
    model = build(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.ReLU())
    x, y = batch(missing=True)
    weigh = weigher(model, LastNorms(), last=last)
    weigh(x, y)
    rows = losses_of(model, x, y)
    for t in range(3):
        own = [loss for (_, s), loss in rows.items() if s == t]
        layer = [model.trunk.get_parameter(name) for name in names]
        gradient = torch.autograd.grad(sum(own) / len(own), layer, retain_graph=True)
        torch.testing.assert_close(weigh.weights[t], inner(gradient, gradient).sqrt())


def test_the_last_shared_layer_skips_frozen_modules():
    model = build()
    model.trunk[2].requires_grad_(False)
    default, explicit = (weigher(model, LastNorms(), last=last) for last in (None, model.trunk[0]))
    default(*batch())
    explicit(*batch())
    assert torch.equal(default.weights, explicit.weights)
    with pytest.raises(ValueError, match="last: all its parameters are frozen, but LastNorms"):
        weigher(model, LastNorms(), last=model.trunk[2])(*batch())


# What a loop may do


class Sees(nn.Module):
    """Notes the precision in which its input arrives."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def forward(self, x):
        self.dtypes.add(x.dtype)
        return x


@for_every_weighting
def test_autocast(weighting):
    model = build(nn.Linear(5, 16), Sees(), nn.Tanh(), nn.Linear(16, 6)).float()
    models = [model, copy.deepcopy(model)]
    (x, y), meta = batch(16, dtype=torch.float32), batch(16, 1, dtype=torch.float32)
    weights, losses = [], []
    for model, enabled in zip(models, (False, True), strict=True):
        weigh = weigher(model, weighting)
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                loss = weigh(x, y, meta=meta, epoch=0)
            loss.backward()
        assert loss.dtype == weigh.weights.dtype == torch.float32
        weights.append(weigh.weights)
        losses.append(loss.detach())
    assert models[0].trunk[1].dtypes == {torch.float32}
    assert models[1].trunk[1].dtypes == {torch.bfloat16}
    scale = weights[0].abs().max()
    torch.testing.assert_close(weights[1] / scale, weights[0] / scale, rtol=0.0, atol=0.05)
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0.02)
    exact, rounded = (torch.cat([p.grad.flatten() for p in m.parameters()]) for m in models)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() < 0.05 * exact.norm()
    assert not torch.equal(rounded, exact)


@for_every_weighting
def test_weights_of_a_model_in_half_precision(weighting):
    exact = build(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 6)).float()
    models = [exact, copy.deepcopy(exact).bfloat16()]
    weights = []
    for model in models:
        (x, y), (x_meta, y_meta) = batch(16, dtype=torch.float32), batch(16, 1, dtype=torch.float32)
        kind = model.trunk[0].weight.dtype
        weigh = weigher(model, weighting)
        for _ in range(2):
            loss = weigh(x.to(kind), y, meta=(x_meta.to(kind), y_meta), epoch=0)
            loss.backward()
        weights.append(weigh.weights)
    assert weights[1].dtype == torch.float32
    scale = weights[0].abs().max()
    torch.testing.assert_close(weights[1] / scale, weights[0] / scale, rtol=0.0, atol=0.05)


def test_losses_are_computed_in_float32_from_half_precision_outputs():
    model = build().float()
    x, y = batch(16, dtype=torch.float32)
    y["price"] += 100.0
    with torch.autocast("cpu", torch.bfloat16):
        loss = weigher(model, mtl.Fixed((1, 0, 0)))(x, y)
        output = model(x)["price"]
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(loss, (output.float()[:, 0] - y["price"]).square().mean(), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("weighting", [mtl.Uniform(), mtl.SLGrad()], ids=["Uniform", "SLGrad"])
def test_one_autocast_around_a_whole_loop_sees_every_update(weighting):
    found = []
    model = build().float()
    for around in (True, False):
        own = copy.deepcopy(model)
        weigh, descent = weigher(own, weighting), torch.optim.SGD(own.parameters(), lr=0.5)
        with torch.autocast("cpu", torch.bfloat16) if around else contextlib.nullcontext():
            for i in range(3):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = weigh(*batch(8, i, dtype=torch.float32), meta=batch(6, 9, dtype=torch.float32))
                descent.zero_grad()
                loss.backward()
                descent.step()
        found.append(gradients_of(own))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_model_in_half_precision():
    model = build().to(torch.bfloat16)
    (x, y), meta = batch(dtype=torch.bfloat16), batch(6, 1, dtype=torch.bfloat16)
    weigh = weigher(model, mtl.SLGrad())
    loss = weigh(x, y, meta=meta)
    loss.backward()
    assert loss.dtype == weigh.weights.dtype == torch.float32
    assert model.trunk[0].weight.grad.dtype == torch.bfloat16


@for_every_weighting
def test_gradients_accumulate_and_scale(weighting):
    parts, total = build(), build()
    first, second = weigher(parts, weighting), weigher(total, weighting)
    sums = [torch.zeros_like(p) for p in parts.parameters()]
    for i, factor in enumerate((1.0, 2.0, 1024.0)):
        meta = batch(6, 10 + i)
        parts.zero_grad()
        first(*batch(8, i), meta=meta, epoch=0).backward()
        sums = [s + factor * g for s, g in zip(sums, gradients_of(parts), strict=True)]
        (factor * second(*batch(8, i), meta=meta, epoch=0)).backward()
    torch.testing.assert_close(gradients_of(total), sums)


@for_every_weighting
def test_two_losses_may_be_added_before_one_backward(weighting):
    apart, together = build(), build()
    first, second = weigher(apart, weighting), weigher(together, weighting)
    for i in range(2):
        first(*batch(8, i), meta=batch(6, 9), epoch=0).backward()
    sum(second(*batch(8, i), meta=batch(6, 9), epoch=0) for i in range(2)).backward()
    torch.testing.assert_close(gradients_of(together), gradients_of(apart))


def train(model, weigh, descent, steps):
    for i in steps:
        loss = weigh(*batch(8, i), meta=batch(6, 100 + i), epoch=i // 2)
        descent.zero_grad()
        loss.backward()
        descent.step()
    return loss.detach()


def adam(model, weigh):
    return torch.optim.Adam([*model.parameters(), *weigh.parameters()], lr=0.05)


@for_every_weighting
def test_state_round_trip_continues_with_the_same_bytes(weighting):
    model = build()
    weigh = weigher(model, weighting, seed=1)
    descent = adam(model, weigh)
    train(model, weigh, descent, range(5))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "weigh": weigh.state_dict(), "descent": descent.state_dict()}, file)
    loss = train(model, weigh, descent, range(5, 7))
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = build(seed=9)
    resumed = weigher(other, weighting, seed=2)
    descent = adam(other, resumed)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["weigh"])
    descent.load_state_dict(saved["descent"])
    assert torch.equal(train(other, resumed, descent, range(5, 7)), loss)
    assert torch.equal(resumed.weights, weigh.weights)
    for a, b in zip(
        [*model.parameters(), *weigh.parameters()], [*other.parameters(), *resumed.parameters()], strict=True
    ):
        assert torch.equal(a, b)


def test_a_state_of_another_weighting_is_refused():
    model = build()
    state = weigher(model, mtl.Uniform()).state_dict()
    with pytest.raises(ValueError, match=r"the state is of Uniform .* expected one of RandomWeighting"):
        weigher(model, mtl.RandomWeighting()).load_state_dict(state)


@dataclasses.dataclass(frozen=True)
class Counts(Weighting):
    """The number of the call as weights."""

    def init(self, n_tasks, like):
        return like.new_zeros(n_tasks)

    def update(self, state, signal):
        return state, state + 1


def test_the_state_moves_on_with_every_call_and_starts_afresh_in_a_new_weigher():
    model = build()
    for _ in range(2):
        weigh = weigher(model, Counts())
        for count in range(3):
            weigh(*batch())
            assert weigh.weights.tolist() == [count] * 3


def test_random_weights_follow_the_seed_alone():
    model, found = build(), []
    for seed, global_seed in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(global_seed)
        weigh = weigher(model, mtl.RandomWeighting(), seed=seed)
        weigh(*batch())
        found.append(weigh.weights)
        assert weigh.weights.dtype == torch.float64
        weigh(*batch())
        assert not torch.equal(weigh.weights, found[-1])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@for_every_weighting
def test_every_weighting_trains(weighting):
    model = build()
    weigh = weigher(model, weighting)
    descent = adam(model, weigh)
    x, y = batch(32)

    def main_loss():
        return F.mse_loss(model(x)["price"][:, 0], y["price"]).item()

    before = main_loss()
    for i in range(40):
        loss = weigh(x, y, meta=(x, y), epoch=i)
        descent.zero_grad()
        loss.backward()
        descent.step()
    assert main_loss() < 0.8 * before


def test_a_plain_training_loop():
    data = mtl.datasets.load("digits", main=8, label_noise=0.6, seed=0)
    model = mtl.models.mlp(data).double()
    mtl.models.initialise(model, torch.Generator().manual_seed(0))
    weigh = mtl.Weigher(model, data.tasks, mtl.SLGrad(), shared=model.trunk)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    rows, meta_rows = data.train, data.meta
    order = torch.Generator().manual_seed(0)
    clean = noisy = 0.0
    for _ in range(200):
        take, take_meta = (torch.randperm(len(part), generator=order)[:64] for part in (rows, meta_rows))
        batch, meta = rows.take(take), meta_rows.take(take_meta)
        loss = weigh(batch.x, batch.y, meta=(meta.x, meta.y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        noisy += weigh.weights[batch.noisy].sum() / batch.noisy.sum()
        clean += weigh.weights[~batch.noisy].sum() / (~batch.noisy).sum()
    with torch.no_grad():
        test_loss = F.binary_cross_entropy_with_logits(model(data.test.x)["is_8"][:, 0], data.test.y["is_8"].double())
    assert noisy < 0.5 * clean
    assert test_loss < 0.5


class Output(OrderedDict):
    """What a transformer library returns: items by key and by attribute, of whatever was asked for."""

    def __getattr__(self, name):
        return self[name]


class Encoder(nn.Module):
    def __init__(self, vocabulary=20, width=16):
        super().__init__()
        self.embeddings = nn.Embedding(vocabulary, width)
        self.register_buffer("position_ids", torch.arange(12)[None])
        self.positions = nn.Embedding(12, width)
        layer = nn.TransformerEncoderLayer(width, 2, 32, dropout=0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, input_ids, attention_mask):
        states = self.embeddings(input_ids) + self.positions(self.position_ids[:, : input_ids.shape[1]])
        return self.layers(states, src_key_padding_mask=attention_mask == 0)


class SeveralHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.entailment, self.paraphrase, self.score = nn.Linear(16, 3), nn.Linear(16, 1), nn.Linear(16, 1)

    def forward(self, input_ids=None, attention_mask=None, return_states=True):
        states = self.encoder(input_ids, attention_mask)
        first = states[:, 0]
        output = Output(
            entailment=self.entailment(first), paraphrase=self.paraphrase(first), score=self.score(first).squeeze(-1)
        )
        if return_states:
            output["hidden_states"] = (states,)
        return output


@pytest.mark.parametrize("weighting", [mtl.Uniform(), mtl.SLGrad()], ids=["Uniform", "SLGrad"])
def test_a_transformer_with_several_heads_and_keyword_inputs(weighting):
    torch.manual_seed(0)
    model = SeveralHeads()
    model.encoder.embeddings.requires_grad_(False)
    tasks = [mtl.Task("entailment", "multiclass", 3), mtl.Task("paraphrase", "binary"), mtl.Task("score", "regression")]
    ids = torch.randint(0, 20, (32, 10))
    y = {"entailment": ids[:, 0] % 3, "paraphrase": (ids[:, 0] > 9).long(), "score": ids[:, 0] / 20}
    y["paraphrase"][:8] = -1
    x = {"input_ids": ids, "attention_mask": (torch.arange(10) < 7).long().expand(32, -1)}
    weigh = mtl.Weigher(model, tasks, weighting, shared=["encoder"])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(40):
        loss = weigh(x, y, meta=({k: v[:16] for k, v in x.items()}, {k: v[:16] for k, v in y.items()}))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            losses.append(F.cross_entropy(model(**x)["entailment"], y["entailment"]).item())
    assert losses[-1] < 0.5 * losses[0]
    assert model.encoder.embeddings.weight.grad is None


# The Weigher as a module


class Parent(nn.Module):
    """A model and its Weigher as parts of one module, as in a framework."""

    def __init__(self, weighting, first="model"):
        super().__init__()
        model = build()
        weigh = weigher(model, weighting)
        for name, part in sorted({"model": model, "weigh": weigh}.items(), reverse=first == "weigh"):
            setattr(self, name, part)


@for_every_weighting
@pytest.mark.parametrize("first", ["model", "weigh"])
def test_a_parent_holds_every_parameter_once(weighting, first):
    parent = Parent(weighting, first)
    own = [f"weigh.{name}" for name in parent.weigh.state_dict()]
    assert sorted(parent.state_dict()) == sorted([*(f"model.{name}" for name in parent.model.state_dict()), *own])
    learned = ["weigh.learned"] if parent.weigh.learned is not None else []
    with_duplicates = [name for name, _ in parent.named_parameters(remove_duplicate=False)]
    assert sorted(with_duplicates) == sorted([f"model.{name}" for name, _ in parent.model.named_parameters()] + learned)
    assert bool(learned) == (weighting.learn(2, torch.zeros(())) is not None)
    assert not [name for name in own if "trunk" in name or "heads" in name]
    assert all(isinstance(value, torch.Tensor) for value in parent.state_dict().values())


@for_every_weighting
def test_a_parents_state_carries_the_weigher(weighting):
    parent = Parent(weighting)
    descent = torch.optim.Adam(parent.parameters(), lr=0.05)
    train(parent.model, parent.weigh, descent, range(5))
    saved = copy.deepcopy((parent.state_dict(), descent.state_dict()))
    other = Parent(weighting)
    other.weigh._generator.manual_seed(9)
    resumed = torch.optim.Adam(other.parameters(), lr=0.05)
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    found = [train(p.model, p.weigh, d, range(5, 8)) for p, d in ((parent, descent), (other, resumed))]
    assert torch.equal(*found)
    assert torch.equal(parent.weigh.weights, other.weigh.weights)
    torch.testing.assert_close(parent.state_dict(), other.state_dict(), rtol=0, atol=0, equal_nan=True)


@for_every_weighting
def test_a_copy_goes_on_alone(weighting):
    parent = Parent(weighting)
    train(parent.model, parent.weigh, adam(parent.model, parent.weigh), range(2))
    other = copy.deepcopy(parent)
    assert other.weigh.model is other.model
    before = copy.deepcopy(parent.state_dict())
    train(other.model, other.weigh, adam(other.model, other.weigh), range(2, 4))
    torch.testing.assert_close(parent.state_dict(), before, rtol=0, atol=0, equal_nan=True)


@for_every_weighting
@pytest.mark.parametrize("together", [True, False])
def test_it_follows_the_model_to_another_precision(weighting, together):
    torch.manual_seed(0)
    early = Parent(weighting)
    early.float()
    state = copy.deepcopy(early.state_dict())
    (early if together else early.model).double()
    late = Parent(weighting)
    late.load_state_dict(state)
    found = []
    for parent in (early, late):
        descent = torch.optim.SGD(parent.parameters(), lr=0.05)
        found.append(train(parent.model, parent.weigh, descent, range(3)))
    assert torch.equal(*found)
    for value in (*early.weigh.parameters(), *early.weigh.buffers(), early.weigh.weights):
        assert value.dtype == torch.float64 or not value.is_floating_point()


@for_every_weighting
def test_it_follows_the_model_to_another_device(weighting):
    model = build()
    weigh = weigher(model, weighting)
    weigh._follow(next(model.to("meta").parameters()))
    own = [*weigh.parameters(), *weigh.buffers()]
    assert {value.device.type for value in own} == {"meta"}
    assert weigh.get_extra_state().device.type == "cpu"


def test_states_that_share_memory_are_loaded_apart():
    weigh = weigher(build(), mtl.SLAW())
    state = weigh.state_dict() | {"state_mean": torch.ones(3), "state_variance": torch.full((3,), 2.0)}
    weigh.load_state_dict(state)
    assert weigh.state_mean.tolist() == [1.0] * 3
    assert weigh.state_variance.tolist() == [2.0] * 3


def test_a_state_without_the_weigher_is_nns_own_error():
    parent = Parent(mtl.SLAW())
    state = {f"model.{name}": value for name, value in parent.model.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"Missing key.*weigh\.state_mean"):
        parent.load_state_dict(state)
    parent.load_state_dict(state, strict=False)


def test_a_state_for_another_number_of_tasks_is_refused():
    state = weigher(build(tasks=TASKS[:2]), mtl.SLAW(), TASKS[:2]).state_dict()
    weigh = weigher(build(), mtl.SLAW())
    with pytest.raises(ValueError, match=r"of SLAW with tensors of shapes \[\(2,\).* expected one of SLAW .*\[\(3,\)"):
        weigh.load_state_dict(state)


# Where gradients are off, and compiled models


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_without_gradients_it_says_what_to_do(off):
    weigh = weigher(build(), mtl.SLGrad())
    message = r"in validation, compute the main task's loss from model\(x\)\['price'\] directly"
    with off(), pytest.raises(RuntimeError, match=message):
        weigh(*batch(), meta=batch(4, 1))
    assert weigh.weights is None


def compiled_whole(model):
    return torch.compile(model, backend="aot_eager")


def compiled_in_place(model):
    model.compile(backend="aot_eager")
    return model


def compiled_part(model):
    model.trunk.compile(backend="aot_eager")
    return model


@for_every_weighting
@pytest.mark.parametrize("compiled", [compiled_whole, compiled_in_place, compiled_part])
def test_a_compiled_model_gives_the_same(weighting, compiled):
    plain = build(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 6))
    model = copy.deepcopy(plain)
    found = []
    for own in (plain, compiled(model)):
        weigh = mtl.Weigher(own, TASKS, weighting, shared=own.trunk, lr=0.1)
        torch.manual_seed(0)
        for i in range(2):
            weigh(*batch(8, i), meta=batch(6, 9), epoch=i).backward()
        found.append(weigh.weights)
    torch.testing.assert_close(*found)
    torch.testing.assert_close(gradients_of(model), gradients_of(plain))
    torch.testing.assert_close(list(model.buffers()), list(plain.buffers()))


def test_methods_that_look_at_nothing_keep_the_compiled_model():
    seen = []

    def backend(graph, inputs):
        seen.append(graph)
        return graph.forward

    model = torch.compile(build(), backend=backend)
    for weighting, graphs in ((mtl.SLGrad(), 0), (mtl.GradientCosine(), 0), (mtl.SLAW(), 1)):
        mtl.Weigher(model, TASKS, weighting, shared=model.trunk)(*batch(), meta=batch(6, 1)).backward()
        assert len(seen) == graphs


def test_a_compiled_step_leaves_the_weigher_out():
    model, plain = build(), build()
    (x, y), meta = batch(), batch(6, 1)
    weigh = weigher(model, mtl.SLGrad())
    torch.compile(lambda x: weigh(x, y, meta=meta), backend="aot_eager")(x).backward()
    weigher(plain, mtl.SLGrad())(x, y, meta=meta).backward()
    torch.testing.assert_close(gradients_of(model), gradients_of(plain))


# What is refused


def with_target(name, change):
    def call(weigh):
        x, y = batch()
        y[name] = change(y[name])
        weigh(x, y, meta=batch(4, 1))

    return call


def table():
    return pd.DataFrame({"a": [0.0] * 8, "b": [1.0] * 8})


def without(name):
    def call(weigh):
        x, y = batch()
        del y[name]
        weigh(x, y, meta=batch(4, 1))

    return call


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (with_target("price", lambda t: t[:, None]), ValueError, r"y: task 'price': target has shape \(8, 1\)"),
        (with_target("sold", lambda t: t[:7]), ValueError, r"y: task 'sold': target has shape \(7,\), expected 8 rows"),
        (with_target("sold", lambda t: t + 1), ValueError, "y: task 'sold': target holds 2, expected .* 0 to 1"),
        (with_target("kind", lambda t: t * 0 + 3), ValueError, "y: task 'kind': target holds 3, expected .* 0 to 2"),
        (with_target("kind", lambda t: t.double()), TypeError, "y: task 'kind': target is torch.float64"),
        (with_target("price", lambda t: t / 0), ValueError, "y: task 'price': target holds an infinite value"),
        (with_target("price", lambda t: t.tolist()), TypeError, "y: task 'price': target is a list"),
        (without("sold"), ValueError, "y: task 'sold': no target of that name, found 'price', 'kind'"),
        (lambda w: w(batch()[0], batch()[0], meta=batch(4)), TypeError, "y: the targets are a Tensor"),
        (lambda w: w(batch(7)[0], batch(8)[1], meta=batch(4)), ValueError, r"task 'price': output has shape \(7,\)"),
        (lambda w: w(*batch()), ValueError, r"meta is None, but SLGrad .* pass meta=\(x, y\)"),
        (lambda w: w(*batch(), meta=(*batch(), 1)), ValueError, r"meta has 3 parts, expected a pair \(x, y\)"),
        (lambda w: w(*batch(), meta=(batch()[0], {})), ValueError, "meta: task 'price': no target of that name"),
        (lambda w: w(*batch(), meta=batch(0)), ValueError, "meta: task 'price' has no label in a batch of 0 rows"),
        (
            lambda w: w(*batch(), meta=(batch()[0], {"price": torch.full((8,), torch.nan)})),
            ValueError,
            "meta: task 'price' has no label in a batch of 8 rows, but SLGrad looks at its loss there",
        ),
        (
            lambda w: w(table(), batch()[1], meta=batch(4)),
            TypeError,
            r"x: the inputs are a DataFrame, .*\.to_numpy\(\)",
        ),
        (lambda w: w((table(),), batch()[1], meta=batch(4)), TypeError, "x: the inputs are a DataFrame"),
        (lambda w: w(*batch(), meta=(table(), batch()[1])), TypeError, "meta: the inputs are a DataFrame"),
        (lambda w: w(batch()[0], table(), meta=batch(4)), TypeError, "y: the targets are a DataFrame, expected a dict"),
        (
            lambda w: w(batch()[0], {name: table()["a"] for name in batch()[1]}, meta=batch(4)),
            TypeError,
            "y: task 'price': target is a Series, expected a torch.Tensor",
        ),
    ],
)
def test_a_wrong_batch_is_refused_and_leaves_no_trace(call, error, message):
    model = build(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 6))
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    weigh = weigher(model, mtl.SLGrad())
    with pytest.raises(error, match=message):
        call(weigh)
    if "output" not in message:
        assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert weigh.weights is None


def test_targets_may_be_boolean():
    model, found = build(), []
    x, y = batch()
    for target in (y["sold"], y["sold"].bool(), y["sold"].double()):
        found.append(weigher(model, mtl.Uniform())(x, y | {"sold": target}))
    assert found[0] == found[1] == found[2]


def test_values_of_targets_elsewhere_than_on_the_cpu_are_not_read():
    for task, target in zip(TASKS, batch()[1].values(), strict=True):
        task.check(target.to("meta"), 8, values=False)
        with pytest.raises(ValueError, match="expected 7 rows"):
            task.check(target.to("meta"), 7, values=False)


class Returns(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output, self.scale = output, nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.output


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (torch.zeros(8, 1), TypeError, "the model returned a Tensor, expected outputs by task name, such as {'price':"),
        ((torch.zeros(8, 1),), TypeError, "the model returned a tuple, expected outputs by task name"),
        ({"price": torch.zeros(8, 1)}, ValueError, "task 'sold': no output of that name, found 'price'"),
        (
            {"price": torch.zeros(8, 1), "sold": torch.zeros(8, 2), "kind": torch.zeros(8, 3)},
            ValueError,
            r"task 'sold': output has shape \(8, 2\), expected \(8,\)",
        ),
        (
            {"price": torch.zeros(8, 1), "sold": None, "kind": torch.zeros(8, 3)},
            TypeError,
            "task 'sold': output is a NoneType, expected a torch.Tensor",
        ),
    ],
)
def test_a_wrong_output_is_refused(output, error, message):
    model = Returns(output)
    with pytest.raises(error, match=message):
        mtl.Weigher(model, TASKS, mtl.Uniform(), shared=model)(*batch())


@pytest.mark.parametrize(
    ("shared", "error", "message"),
    [
        (["trunck"], ValueError, "shared: the model has no parameter or part with parameters named 'trunck'"),
        (["trunk.1"], ValueError, "no parameter or part with parameters named 'trunk.1'"),
        ("trunk", TypeError, "shared is a str, expected a module of the model"),
        (3, TypeError, "shared is a int"),
        ([3], TypeError, "shared holds a int"),
        ([], ValueError, "shared holds no parameters"),
        (nn.Tanh(), ValueError, "shared holds no parameters"),
        (nn.Linear(2, 2), ValueError, "shared holds parameters that are not the model's"),
    ],
)
def test_a_wrong_shared_part_is_refused(shared, error, message):
    with pytest.raises(error, match=message):
        mtl.Weigher(build(), TASKS, mtl.Uniform(), shared=shared)


def test_wrong_arguments_are_refused():
    model = build()
    with pytest.raises(TypeError, match=r"expected an instance such as mtlkit.Uniform\(\)"):
        mtl.Weigher(model, TASKS, mtl.Uniform, shared=model.trunk)
    with pytest.raises(ValueError, match="expected at least one, each with its own name"):
        mtl.Weigher(model, TASKS * 2, mtl.Uniform(), shared=model.trunk)
    with pytest.raises(TypeError, match=r"tasks holds 'price', expected a list such as \[mtlkit.Task\('price', 'regr"):
        mtl.Weigher(model, ["price", "sold"], mtl.Uniform(), shared=model.trunk)
    with pytest.raises(TypeError, match="tasks is 'price', expected a list"):
        mtl.Weigher(model, "price", mtl.Uniform(), shared=model.trunk)
    with pytest.raises(TypeError, match=r"tasks is Task.*, expected a list"):
        mtl.Weigher(model, TASKS[0], mtl.Uniform(), shared=model.trunk)
    with pytest.raises(ValueError, match="the model has no parameters"):
        mtl.Weigher(nn.Tanh(), TASKS, mtl.Uniform(), shared=["trunk"])
    with pytest.raises(ValueError, match="last: the model has no parameter or part with parameters named 'top'"):
        weigher(model, mtl.Uniform(), last=["top"])
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="the model has no trainable parameters"):
        weigher(model, mtl.Uniform())(*batch())


@for_every_weighting
def test_what_a_method_needs_is_asked_for(weighting):
    model, reads = build(), fields(weighting)
    bare = mtl.Weigher(model, TASKS, weighting, shared=model.trunk)
    name = type(weighting).__name__
    reads_lr = (
        "lr" in reads or ("gains" in reads and weighting.step is None) or getattr(weighting, "lookahead", 0.0) is None
    )
    for needed, given, message in (
        (reads_meta(weighting), {"epoch": 0}, f"meta is None, but {name}"),
        ("epoch" in reads, {"meta": batch(4)}, f"epoch is None, but {name}"),
        (reads_lr, {"meta": batch(4), "epoch": 0}, f"lr is None, but {name}"),
    ):
        if needed:
            with pytest.raises(ValueError, match=message):
                bare(*batch(), **given)
    enough = mtl.Weigher(model, TASKS, weighting, shared=model.trunk, lr=0.1 if reads_lr else None)
    enough(*batch(), meta=batch(4) if reads_meta(weighting) else None, epoch=0 if "epoch" in reads else None).backward()


def test_one_pass_and_two_give_the_same_with_dropout_and_running_statistics(monkeypatch):
    def losses(limit):
        monkeypatch.setattr(memory, "FUSED_BYTES", limit)
        torch.manual_seed(0)
        trunk = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.4), nn.Tanh()).double()
        heads = {"a": nn.Linear(8, 1).double(), "b": nn.Linear(8, 1).double()}
        model = mtl.models.MultiTaskModel(trunk, heads)
        tasks = [mtl.Task("a", "regression"), mtl.Task("b", "binary")]
        weigh = mtl.Weigher(model, tasks, mtl.SLGrad(), shared=model.trunk)
        descent = torch.optim.SGD(model.parameters(), lr=0.1)
        found = []
        for _ in range(4):
            x = torch.randn(9, 3, dtype=torch.float64)
            y = {"a": x.sum(1), "b": (x[:, 0] > 0).double()}
            meta = torch.randn(5, 3, dtype=torch.float64)
            loss = weigh(x, y, meta=(meta, {"a": meta.sum(1)}))
            descent.zero_grad()
            loss.backward()
            descent.step()
            found.append(loss.item())
        return found, model.state_dict()

    (fused, state), (apart, other) = losses(10**9), losses(0)
    assert fused == pytest.approx(apart, rel=1e-10)
    for name, value in state.items():
        torch.testing.assert_close(value, other[name], rtol=1e-10, atol=1e-12)


def test_nan_in_the_inputs_is_warned_of_with_its_first_row():
    (x, y), (x_meta, y_meta) = batch(), batch(6, 1)
    x[5, 1] = x[3, 4] = x_meta[2, 0] = torch.nan
    weigh = weigher(build(), mtl.SLGrad())
    with pytest.warns(UserWarning, match="NaN in the inputs") as seen:
        weigh(x, y, meta=(x_meta, y_meta))
    assert [str(warning.message) for warning in seen] == [
        "x: NaN in the inputs, first in row 3 of the batch",
        "meta: NaN in the inputs, first in row 2 of the batch",
    ]
    model = Keywords().double()
    with pytest.warns(UserWarning, match="x: NaN in the inputs, first in row 3 of the batch"):
        mtl.Weigher(model, TASKS[:1], mtl.Uniform(), shared=model.trunk)({"left": batch()[0], "right": x}, y)
    mask = torch.zeros(8, 5, dtype=torch.float64).index_fill(1, torch.tensor([2]), -torch.inf)
    weigh(mask, y, meta=batch(6, 1))  # which is no fault of a mask
