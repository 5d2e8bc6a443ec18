"""Every architecture: shapes, initial weights, and the transformations that training relies on."""

import pandas as pd
import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch.func import functional_call, stack_module_state

from mtlkit import Task, models
from mtlkit.datasets import Dataset, Split, from_frame, load
from mtlkit.models import base
from mtlkit.models.lenet import MaxPool
from mtlkit.models.mlp import Embed
from mtlkit.models.taps import Added
from mtlkit.tasks import pack, per_sample_losses

SEEDS = 3


SIDES = (Task("left", "multiclass", n_classes=10), Task("right", "multiclass", n_classes=10))


def images(*shape, tasks=SIDES):
    generator = torch.Generator().manual_seed(0)
    y = {t.name: torch.arange(6) % 2 * (1 if t.kind == "multiclass" else 1.0) for t in tasks}
    noisy = torch.zeros(6, len(tasks), dtype=torch.bool)
    split = Split(torch.randn(6, *shape, generator=generator, dtype=torch.float64), y, torch.arange(6), noisy)
    return Dataset("images", tasks, split, split, split)


def table():
    frame = pd.DataFrame({"y": range(50), "a": ["p", "q", "r", None, "q"] * 10, "b": range(50), "c": ["u", "v"] * 25})
    return from_frame(frame, "y", ["c"])


def sequences(n=12, length=5):
    """Three numbers a position, one label a sequence."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(n, length, 3, generator=g, dtype=torch.float64)
    y = {"sum": x.sum((1, 2)), "sign": (x[:, 0, 0] > 0).double()}
    split = Split(x, y, torch.arange(n), torch.zeros(n, 2, dtype=torch.bool))
    return Dataset("sequences", (Task("sum", "regression"), Task("sign", "binary")), split, split, split)


def tokens(n=12, length=5):
    """Token ids 0 to 8; a label a sequence, and two labels a position, the last one missing in the first."""
    x = torch.randint(9, (n, length), generator=torch.Generator().manual_seed(4)).double()
    tags = (x.long() % 3).index_fill(1, torch.tensor([length - 1]), -1)
    y = {"topic": (x[:, 0] > 4).double(), "tags": tags, "large": (x > 4).double()}
    tasks = (Task("topic", "binary"), Task("tags", "multiclass", n_classes=3), Task("large", "binary"))
    split = Split(x, y, torch.arange(n), torch.zeros(n, 3, dtype=torch.bool))
    return Dataset("tokens", tasks, split, split, split)


BUILT = {
    "multi_lenet": lambda: (images(1, 28, 28), models.multi_lenet),
    "lenet": lambda: (images(3, 32, 32, tasks=tuple(Task(f"t{i}", "binary") for i in range(3))), models.lenet),
    "resnet18": lambda: (images(3, 32, 32), lambda data: models.resnet18(data, width=4)),
    "mlp": lambda: (load("toy_regression"), models.mlp),
    "mlp with heads": lambda: (load("multi_digits"), lambda data: models.mlp(data, hidden=(8,), head=(5,))),
    "mlp with embeddings": lambda: (table(), models.mlp),
    "mlp, low level": lambda: (load("multi_digits"), lambda data: models.mlp(data, (8, 6), (5,), stages={"right": 1})),
    "multi_lenet, low level": lambda: (images(1, 28, 28), lambda data: models.multi_lenet(data, {"right": 1})),
    "lenet, low level": lambda: (images(3, 32, 32), lambda data: models.lenet(data, {"right": 1})),
    "recurrent": lambda: (sequences(), lambda data: models.recurrent(data, (4, 3))),
    "recurrent, low level": lambda: (tokens(), lambda data: models.recurrent(data, (4, 3), 9, 5, {"tags": 1})),
    "routed mlp": lambda: (table(), lambda data: models.routed(models.mlp(data), 0.3)),
    "routed lenet": lambda: (images(1, 28, 28), lambda data: models.routed(models.multi_lenet(data))),
    "routed resnet18": lambda: (images(3, 32, 32), lambda data: models.routed(models.resnet18(data, width=4))),
    "multi-backbone mlp": lambda: (load("multi_digits"), lambda data: models.multi_backbone(models.mlp(data))),
    "multi-backbone lenet": lambda: (images(3, 32, 32), lambda data: models.multi_backbone(models.lenet(data), 3)),
    "multi-backbone recurrent": lambda: (tokens(), lambda data: models.multi_backbone(models.recurrent(data, (4,), 9))),
    "taps mlp": lambda: (table(), lambda data: models.taps(models.mlp(data))),
    "taps lenet": lambda: (images(1, 28, 28), lambda data: models.taps(models.multi_lenet(data))),
    "taps recurrent": lambda: (tokens(), lambda data: models.taps(models.recurrent(data, (4,), 9))),
}


@pytest.fixture(params=BUILT)
def built(request):
    """A data set, its model in float64, and six rows."""
    data, build = BUILT[request.param]()
    return data, build(data).double(), data.train.take(torch.arange(6))


def stacked(model):
    fresh = []
    for seed in range(SEEDS):
        models.initialise(model, torch.Generator().manual_seed(seed))
        fresh.append({name: value.detach().clone() for name, value in model.named_parameters()})
    return {name: torch.stack([own[name] for own in fresh]) for name in fresh[0]}


def test_output_shapes(built):
    data, model, rows = built
    outputs = model(rows.x)
    assert {name: tuple(out.shape) for name, out in outputs.items()} == {
        t.name: (6, t.n_outputs, *rows.y[t.name].shape[1:]) for t in data.tasks
    }
    assert next(iter(outputs)) == data.main.name


def test_seeds_side_by_side_equal_one_after_the_other(built):
    data, model, rows = built
    parameters = stacked(model)
    x = torch.stack([rows.x.roll(seed, 0) for seed in range(SEEDS)])
    together = torch.vmap(lambda p, x: functional_call(model, p, (x,)))(parameters, x)
    for seed in range(SEEDS):
        alone = functional_call(model, {name: value[seed] for name, value in parameters.items()}, (x[seed],))
        for name in alone:
            torch.testing.assert_close(together[name][seed], alone[name])
    assert not torch.allclose(together[data.main.name][0], together[data.main.name][1])


def test_forward_mode_agrees_with_reverse_mode(built):
    """Stacked over seeds: ⟨∇ℓ, v⟩ of every loss, by one forward product and by a backward pass each."""
    data, model, rows = built
    parameters = stacked(model)
    targets = pack(data.tasks, rows.y)
    generator = torch.Generator().manual_seed(9)
    direction = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in parameters.items()}

    def losses(p):
        return torch.vmap(lambda p: per_sample_losses(data.tasks, functional_call(model, p, (rows.x,)), targets))(p)

    _, forward = torch.func.jvp(losses, (parameters,), (direction,))
    live = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    found = losses(live)
    for seed, b, t in ((0, 0, 0), (SEEDS - 1, 3, len(data.tasks) - 1), (1, 5, 0)):
        gradient = torch.autograd.grad(
            found[seed, b, t], list(live.values()), retain_graph=True, materialize_grads=True
        )
        expected = sum((g * direction[n]).sum() for g, n in zip(gradient, live, strict=True))
        torch.testing.assert_close(forward[seed, b, t], expected)


def test_weights_come_from_the_generator_alone(built):
    _, model, _ = built
    first = stacked(model)
    torch.rand(3)
    second = stacked(model)
    not_drawn = (torch.nn.GroupNorm, Added)
    norms = tuple(name for name, module in model.named_modules() if isinstance(module, not_drawn))
    for name in first:
        assert torch.equal(first[name], second[name])
        assert torch.equal(first[name][0], first[name][1]) == (name.rpartition(".")[0] in norms)


def test_stacks_as_modules_do(built):
    data, model, _ = built
    parameters, buffers = stack_module_state([model, model])
    assert all(name.startswith("routes.") for name in buffers)
    assert all(name.startswith(("trunk.", "heads.", "changes.")) for name in parameters)
    assert all(name.startswith("trunk.") for name in model.last)
    assert len(model.heads) == len(data.tasks)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def ten_heads(**options):
    """LeNet with as many heads as CIFAR-10 has classes, in float64, and six images."""
    tasks = tuple(Task(f"t{i}", "binary") for i in range(10))
    data = images(3, 32, 32, tasks=tasks)
    model = models.lenet(data).double()
    models.initialise(model, torch.Generator().manual_seed(5))
    for name, change in options.items():
        model.heads[int(name.removeprefix("head_"))] = change
    return model, data.train.x


def one_by_one(model, x, names=None):
    """The same outputs, one head after the other."""
    features = model.trunk(x)
    return {n: head(features) for n, head in zip(model.names, model.heads, strict=True) if names is None or n in names}


class OneByOne(torch.nn.Module):
    """A model with the same parameters, whose heads run one after the other."""

    def __init__(self, model):
        super().__init__()
        self.trunk, self.heads, self.names = model.trunk, model.heads, model.names

    def forward(self, x, names=None):
        return one_by_one(self, x, names)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def slopes(model, call, x, names=None):
    """The outputs, and the gradient of their squares, each with a factor of its own, for every parameter reached."""
    outputs = call(x, names)
    total = sum((i + 1) * output.square().sum() for i, output in enumerate(outputs.values()))
    found = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
    return outputs, {name: g for (name, _), g in zip(model.named_parameters(), found, strict=True) if g is not None}


@pytest.fixture
def convolved(monkeypatch):
    """The channels of the convolutions that have run as such."""
    ran = []
    plain = torch.nn.Conv2d.forward

    def forward(self, x):
        ran.append(self.out_channels)
        return plain(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", forward)
    return ran


@pytest.mark.parametrize("names", [None, ("t7", "t1", "t2", "t8"), ("t0",)])
def test_heads_together_equal_one_by_one(names):
    model, x = ten_heads()
    outputs, gradients = slopes(model, model, x, names)
    expected, expected_gradients = slopes(model, OneByOne(model), x, names)
    assert list(outputs) == [name for name in model.names if names is None or name in names]
    close(outputs, expected)
    close(gradients, expected_gradients)
    reached = {name.split(".")[1] for name in gradients if name.startswith("heads.")}
    assert reached == {name[1:] for name in names or model.names}


def test_patches_are_cut_once_for_enough_heads(convolved):
    """400 numbers a patch: as many as four convolutions to 128 channels make of it, no fewer."""
    model, x = ten_heads()
    for names, expected in ((None, []), (("t0", "t1", "t2", "t3"), []), (("t0", "t1", "t2"), [128] * 3)):
        convolved.clear()
        model(x, names)
        assert convolved == [6, 16, *expected]


def test_heads_of_other_shapes_and_sizes_share_patches(convolved):
    """Heads with other channels, without bias, with another activation or one more convolution."""
    nn = torch.nn
    torch.manual_seed(0)
    heads = {
        "linear after it": nn.Sequential(nn.Conv2d(2, 9, (3, 2)), nn.ReLU(), nn.Flatten(), nn.Linear(9 * 3 * 5, 4)),
        "no bias": nn.Sequential(nn.Conv2d(2, 3, (3, 2), bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(45, 1)),
        "convolution after it": nn.Sequential(nn.Conv2d(2, 5, (3, 2)), nn.Conv2d(5, 1, 3), nn.Flatten()),
        "linear over rows": nn.Sequential(nn.Conv2d(2, 9, (3, 2)), nn.Linear(5, 1), nn.Flatten()),
    }
    model = models.MultiTaskModel(nn.Conv2d(1, 2, 1), heads).double()
    x = torch.randn(4, 1, 5, 6, dtype=torch.float64)
    outputs, gradients = slopes(model, model, x)
    assert convolved == [2, 1]
    expected, expected_gradients = slopes(model, OneByOne(model), x)
    close(outputs, expected)
    close(gradients, expected_gradients)
    assert len(gradients) == len(list(model.parameters()))
    direction = torch.ones_like(x)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, direction)
        for name, output in model(dual).items():
            close(forward_ad.unpack_dual(output), forward_ad.unpack_dual(one_by_one(model, dual)[name]))


@pytest.mark.parametrize(
    "options", [{"stride": 2}, {"padding": 1}, {"dilation": 2}, {"groups": 2}, {"kernel_size": 2}, {"padding": "same"}]
)
def test_other_convolutions_run_as_they_are(convolved, options):
    def head(**options):
        options = {"kernel_size": 3, **options}
        return torch.nn.Sequential(torch.nn.Conv2d(2, 40, **options), torch.nn.Flatten(), torch.nn.LazyLinear(1))

    model = models.MultiTaskModel(torch.nn.Identity(), {"a": head(), "b": head(**options)})
    x = torch.randn(3, 2, 7, 7)
    model(x)
    assert convolved == [40, 40]
    assert torch.equal(model(x)["b"], one_by_one(model, x)["b"])


def test_gradient_of_one_task_leaves_other_heads_alone():
    model, x = ten_heads()
    output = model(x)["t4"].sum()
    found = torch.autograd.grad(output, list(model.parameters()), allow_unused=True)
    reached = {name for (name, _), g in zip(model.named_parameters(), found, strict=True) if g is not None}
    assert reached == {name for name, _ in model.named_parameters() if name.startswith(("trunk.", "heads.4."))}


def test_heads_together_under_batched_gradients_and_twice_differentiated():
    model, x = ten_heads()
    trunk = list(model.trunk.parameters())
    found = []
    for call in (model, OneByOne(model)):
        means = torch.stack([output.square().mean() for output in call(x).values()])
        rows = torch.autograd.grad(means, trunk, torch.eye(10).double(), is_grads_batched=True, create_graph=True)
        norms = sum(row.square().sum() for row in rows)
        found.append((rows, torch.autograd.grad(norms, list(model.parameters()), allow_unused=True)))
    (rows, second), (expected, expected_second) = found
    close(rows, expected)
    close([g for g in second if g is not None], [g for g in expected_second if g is not None])
    assert [g is None for g in second] == [g is None for g in expected_second]


def test_stacked_heads_together_equal_one_by_one():
    model, x = ten_heads()
    inputs = torch.stack([x.roll(seed, 0) for seed in range(SEEDS)])
    found = []
    for own in (model, OneByOne(model)):
        parameters = {name: value.requires_grad_() for name, value in stacked(model).items()}
        outputs = torch.vmap(lambda p, x, own=own: functional_call(own, p, (x,)))(parameters, inputs)
        total = sum((i + 1) * output.square().sum() for i, output in enumerate(outputs.values()))
        found.append((outputs, torch.autograd.grad(total, list(parameters.values()))))
    close(*found)


@pytest.mark.parametrize("with_heads", [False, True])
@pytest.mark.parametrize("runs", [1, SEEDS])
def test_forward_mode_product_of_heads_together(monkeypatch, with_heads, runs):
    """Outputs, their derivative along a direction, and the tape of the outputs, for a model and for a stack."""
    model, x = ten_heads()
    parameters = stacked(model) if runs > 1 else {n: p.detach().clone() for n, p in model.named_parameters()}
    moved = [name for name in parameters if with_heads or name.startswith("trunk.")]
    generator = torch.Generator().manual_seed(1)
    direction = {n: torch.randn(parameters[n].shape, generator=generator, dtype=x.dtype) for n in moved}
    layers = []
    linear = base._linear
    monkeypatch.setattr(base, "_linear", lambda *inputs: layers.append(len(inputs[0])) or linear(*inputs))
    found = []
    for own in (model, OneByOne(model)):
        live = {name: value.clone().requires_grad_() for name, value in parameters.items()}

        def call(p, own=own):
            return torch.stack(list(functional_call(own, p, (x,)).values()))

        with forward_ad.dual_level():
            dual = live | {name: forward_ad.make_dual(live[name], direction[name]) for name in moved}
            outputs, tangent = forward_ad.unpack_dual(torch.vmap(call)(dual) if runs > 1 else call(dual))
            assert tangent.abs().min() > 0
        found.append((outputs, tangent, torch.autograd.grad(outputs.square().sum(), list(live.values()))))
    close(*found)
    assert layers == ([10] * 4 if runs == 1 else [])


def test_no_rows_give_no_outputs():
    model, x = ten_heads()
    assert {tuple(output.shape) for output in model(x[:0]).values()} == {(0, 1)}


def test_multi_lenet_is_the_published_one():
    model = models.multi_lenet(images(1, 28, 28))
    assert count(model.trunk) == (25 * 10 + 10) + (250 * 20 + 20) + (320 * 50 + 50)
    assert [count(head) for head in model.heads] == [(50 * 50 + 50) + (50 * 10 + 10)] * 2


@pytest.mark.parametrize("size", [(8, 8), (17, 13), (2, 3)])
def test_pooling_without_gradients_is_torchs_to_the_bit(size):
    x = torch.randn(3, 4, *size, generator=torch.Generator().manual_seed(1)).relu()
    x[0, 0, 0, 0], x[1, 1, 1, 1] = torch.nan, torch.inf
    with torch.no_grad():
        pooled = MaxPool()(x)
    assert torch.equal(pooled.nan_to_num(nan=-1.0), torch.nn.functional.max_pool2d(x, 2).nan_to_num(nan=-1.0))
    assert pooled.isnan().sum() == 1


def test_lenet_is_the_published_one():
    model = models.lenet(images(3, 32, 32, tasks=(Task("a", "binary"), Task("b", "binary"))))
    assert count(model.trunk) == (27 * 6 + 6) + (6 * 25 * 16 + 16)
    head = (16 * 25 * 128 + 128) + (512 * 84 + 84) + (84 * 84 + 84) + (84 + 1)
    assert [count(h) for h in model.heads] == [head] * 2


def test_resnet18_is_the_published_one():
    model = models.resnet18(images(3, 32, 32, tasks=(Task("a", "binary"), Task("b", "multiclass", n_classes=10))))
    convolutions = 3 * 64 * 9 + 4 * 64 * 64 * 9
    for n in (64, 128, 256):
        convolutions += n * 2 * n * (9 + 1) + 3 * (2 * n) ** 2 * 9
    norms = 2 * (5 * 64 + 5 * (128 + 256 + 512))
    assert count(model.trunk) == convolutions + norms == 11_168_832
    assert [count(head) for head in model.heads] == [512 + 1, 512 * 10 + 10]
    layers = [m for m in model.trunk.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(layers) + 1 == 18
    assert {m.num_groups for m in model.trunk.modules() if isinstance(m, torch.nn.GroupNorm)} == {32}


def test_resnet18_halves_the_pixels_three_times():
    model = models.resnet18(images(3, 32, 32), width=4)
    x, sides = images(3, 32, 32).train.x.float(), []
    for layer in model.trunk[3:11]:
        layer.register_forward_hook(lambda _, __, out: sides.append(tuple(out.shape[1:])))
    model(x)
    assert sides == [(c, s, s) for c, s in ((4, 32), (8, 16), (16, 8), (32, 4)) for _ in range(2)]


def test_resnet18_keeps_samples_apart():
    model, x = models.resnet18(images(3, 32, 32), width=4).double(), images(3, 32, 32).train.x
    together = model(x)["left"]
    for row in range(len(x)):
        torch.testing.assert_close(model(x[row : row + 1])["left"][0], together[row])


@pytest.mark.parametrize(
    ("build", "shape", "message"),
    [
        (models.multi_lenet, (3, 32, 32), r"images: inputs have shape \(N, 3, 32, 32\), multi_lenet takes \(1, 28, 28"),
        (models.lenet, (1, 28, 28), r"images: inputs have shape \(N, 1, 28, 28\), lenet takes \(3, 32, 32\)"),
        (models.resnet18, (3, 28, 28), r"images: inputs have shape \(N, 3, 28, 28\), resnet18 takes \(3, 32, 32\)"),
        (models.mlp, (1, 28, 28), r"images: inputs have shape \(6, 1, 28, 28\), an mlp expects \(N, features\)"),
    ],
)
def test_wrong_inputs(build, shape, message):
    with pytest.raises(ValueError, match=message):
        build(images(*shape))


def test_mlp_needs_a_shared_layer():
    with pytest.raises(ValueError, match="hidden is empty"):
        models.mlp(load("digits"), hidden=())


def test_embed_looks_vectors_up():
    embed = Embed(4, {1: 3, 3: 2}, width=2)
    x = torch.tensor([[0.5, 2, -1.0, 0], [7, 0, 8, 1]])
    found = embed(x)
    first, second = (table.weight.tolist() for table in embed.tables)
    expected = [[0.5, -1.0, *first[2], *second[0]], [7, 8, *first[0], *second[1]]]
    torch.testing.assert_close(found.detach(), torch.tensor(expected))
    assert embed.n_outputs == 6


def test_embedding_widths():
    assert [t.embedding_dim for t in Embed(3, {0: 2, 1: 9, 2: 300}).tables] == [1, 5, 50]
    trunk = models.mlp(table(), hidden=(7,), embedding=3).trunk
    assert [t.embedding_dim for t in trunk[0].tables] == [3]
    assert (trunk[1].in_features, trunk[1].out_features) == (4, 7)


def test_initialise_needs_a_rule():
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(2))

    with pytest.raises(TypeError, match=r"module '0' is a Own: no rule .* give it a method initialise\(generator\)"):
        models.initialise(torch.nn.Sequential(Own()), torch.Generator())
    Own.initialise = lambda self, generator: self.weight.data.uniform_(1, 2, generator=generator)
    own = torch.nn.Sequential(Own())
    models.initialise(own, torch.Generator().manual_seed(0))
    assert (own[0].weight >= 1).all()


def test_initial_distributions():
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 64, 5), torch.nn.Linear(100, 200), torch.nn.Embedding(50, 40))
    models.initialise(model, torch.Generator().manual_seed(0))
    for module, bound in ((model[0], 0.1), (model[1], 0.1)):
        for parameter in (module.weight, module.bias):
            assert parameter.abs().max() <= bound
            assert parameter.abs().max() > 0.9 * bound
    assert abs(float(model[2].weight.detach().std()) - 1) < 0.05
