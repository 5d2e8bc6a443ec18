"""The noise layer on a binary main task: what a known flip rate gives, and what is learned of an unknown one."""

import pytest
import torch
from torch import nn

import mtlkit as mtl
from mtlkit.datasets import Dataset, Split


def weigher(task, weighting, *others):
    torch.manual_seed(0)
    names = [task.name, *(other.name for other in others)]
    model = nn.ModuleDict({"trunk": nn.Linear(4, 3), **{name: nn.Linear(3, 1) for name in names}}).double()
    model.forward = lambda x: {name: model[name](torch.tanh(model["trunk"](x))) for name in names}
    return model, mtl.Weigher(model, [task, *others], weighting, shared=model["trunk"])


@pytest.mark.parametrize("flip", [0.1, 0.4, 0.7])
def test_a_rate_at_its_start_is_a_known_rate(flip):
    x, y = torch.randn(6, 4).double(), torch.tensor([1.0, 0, 1, 1, 0, torch.nan]).double()
    found = []
    for task, weighting in (
        (mtl.Task("a", "binary"), mtl.NoiseLayer(flip=flip)),
        (mtl.Task("a", "binary", flip=flip), mtl.Uniform()),
    ):
        model, weigh = weigher(task, weighting, mtl.Task("b", "binary"))
        loss = weigh(x, {"a": y, "b": y.nan_to_num(0)})
        loss.backward()
        found.append((loss, torch.cat([p.grad.flatten() for p in model.parameters()])))
    for learned, known in zip(*found, strict=True):
        torch.testing.assert_close(learned, known, rtol=1e-9, atol=1e-12)


def test_the_rate_of_a_sure_label_is_not_infinite():
    model, weigh = weigher(mtl.Task("a", "binary"), mtl.NoiseLayer())
    with torch.no_grad():
        model["a"].weight.mul_(1e6)
    weigh(torch.randn(6, 4).double(), {"a": torch.tensor([1.0, 0, 1, 1, 0, 0])}).backward()
    (rate,) = weigh.parameters()
    assert all(p.grad.isfinite().all() for p in [*model.parameters(), rate])


def flipped(share, n=4000):
    """Binary labels that a linear model knows, of which a share is flipped; twice the same task."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 5, generator=g)
    y = (x[:, 0] > 0).float()
    wrong = torch.rand(n, generator=g) < share
    noisy = torch.stack([wrong, torch.zeros_like(wrong)], 1)

    def split(rows, labels, noisy):
        return Split(x[rows], {"main": labels[rows], "other": y[rows]}, torch.arange(n)[rows], noisy[rows])

    clean = torch.zeros(n, 2, dtype=torch.bool)
    return Dataset(
        "flipped",
        (mtl.Task("main", "binary"), mtl.Task("other", "binary")),
        split(slice(0, 3000), torch.where(wrong, 1 - y, y), noisy),
        split(slice(3000, 3500), y, clean),
        split(slice(3500, n), y, clean),
    )


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_finds_the_rate_and_the_clean_labels(share):
    data = flipped(share)
    torch.manual_seed(0)
    model = nn.ModuleDict({"trunk": nn.Linear(5, 1), "main": nn.Linear(1, 1)})
    model.forward = lambda x: {"main": model["main"](model["trunk"](x))}
    weigh = mtl.Weigher(model, data.tasks[:1], mtl.NoiseLayer(), shared=model["trunk"])
    descent = torch.optim.Adam([*model.parameters(), *weigh.parameters()], lr=0.05)
    for _ in range(250):
        descent.zero_grad()
        weigh(data.train.x, {"main": data.train.y["main"]}).backward()
        descent.step()
    (logit,) = weigh.parameters()
    exact = data.train.noisy[:, 0].float().mean()
    assert abs(logit.sigmoid().item() - exact) < 0.02


def test_beats_plain_training_on_flipped_labels_in_fit():
    data = flipped(0.3)
    options = {"epochs": 3, "batch_size": 100, "lr": 0.02, "optimizer": torch.optim.Adam, "seeds": 2, "device": "cpu"}
    final = {}
    for weighting in (mtl.Uniform(), mtl.NoiseLayer()):
        frame = mtl.fit(mtl.models.mlp(data, hidden=(8,)), data, weighting, **options).frame
        rows = frame.query("split == 'test' and metric == 'loss' and task == 'main' and epoch == 3")
        assert len(rows) == 2
        final[type(weighting)] = rows["value"].max()
    assert final[mtl.NoiseLayer] < 0.6 * final[mtl.Uniform]
