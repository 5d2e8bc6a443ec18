"""Every architecture: shapes, initial weights, and the transformations that training relies on."""

import pandas as pd
import pytest
import torch
from torch.func import functional_call, stack_module_state

from mtlkit import Task, models
from mtlkit.datasets import Dataset, Split, from_frame, load
from mtlkit.models.mlp import Embed
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


BUILT = {
    "multi_lenet": lambda: (images(1, 28, 28), models.multi_lenet),
    "lenet": lambda: (images(3, 32, 32, tasks=tuple(Task(f"t{i}", "binary") for i in range(3))), models.lenet),
    "resnet18": lambda: (images(3, 32, 32), lambda data: models.resnet18(data, width=4)),
    "mlp": lambda: (load("toy_regression"), models.mlp),
    "mlp with heads": lambda: (load("multi_digits"), lambda data: models.mlp(data, hidden=(8,), head=(5,))),
    "mlp with embeddings": lambda: (table(), models.mlp),
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
    assert {name: tuple(out.shape) for name, out in outputs.items()} == {t.name: (6, t.n_outputs) for t in data.tasks}
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
    norms = tuple(name for name, module in model.named_modules() if isinstance(module, torch.nn.GroupNorm))
    for name in first:
        assert torch.equal(first[name], second[name])
        assert torch.equal(first[name][0], first[name][1]) == (name.rpartition(".")[0] in norms)


def test_stacks_as_modules_do(built):
    data, model, _ = built
    parameters, buffers = stack_module_state([model, model])
    assert buffers == {}
    assert all(name.startswith(("trunk.", "heads.")) for name in parameters)
    assert len(model.heads) == len(data.tasks)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_multi_lenet_is_the_published_one():
    model = models.multi_lenet(images(1, 28, 28))
    assert count(model.trunk) == (25 * 10 + 10) + (250 * 20 + 20) + (320 * 50 + 50)
    assert [count(head) for head in model.heads] == [(50 * 50 + 50) + (50 * 10 + 10)] * 2


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
