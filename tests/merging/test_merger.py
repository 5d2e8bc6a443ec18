import numpy as np
import pytest
import torch
from torch import nn

import mtlkit as mtl
from mtlkit.merging import Merger


def user_loop(slow, data, method, epochs, seed):
    """A plain loop on the whole training split, in place of fit."""
    model = slow.initial(data, seed)
    optimizers, told = {}, []

    def train(branch):
        if not branch.continues:
            optimizers[branch.number] = slow.sgd(model)
        told.append(branch)
        momentum = optimizers[branch.number].state_dict()
        optimizers[branch.number] = slow.sgd(model)
        optimizers[branch.number].load_state_dict(momentum)
        rows = [torch.arange(len(data.train))] * round(branch.share * slow.steps)
        slow.train(model, optimizers[branch.number], data, branch.weights, rows)

    merger = Merger(model, len(data.tasks), method, steps=slow.steps)
    reports = []
    for _ in range(epochs):
        merger.epoch(train, meta_loss=lambda m: slow.task_loss(data, m(data.meta.x), data.meta.y, 0))
        reports.append(merger.report)
    return model, reports, told


@pytest.mark.parametrize(
    "method",
    [mtl.AlphaVIL(), mtl.DIW(metric=None), mtl.ForkMerge(top_k=2)],
    ids=lambda method: type(method).__name__,
)
def test_a_loop_of_ones_own_does_what_fit_does(slow, method):
    data, seed = slow.make(), 6
    model, reports, _ = user_loop(slow, data, method, 3, seed)
    runs = slow.run(data, method, seeds=[seed], epochs=3, batch_size=len(data.train))
    slow.assert_same(runs, seed, model, 1e-10)
    for metric in reports[0]:
        found = np.stack([report[metric] for report in reports])
        np.testing.assert_allclose(found, slow.values(runs, metric, seed), atol=1e-10)


def test_tells_each_branch_what_to_train_on(slow):
    told = user_loop(slow, slow.make(), mtl.AlphaVIL(rho=0.5), 2, 0)[2]
    assert [branch.number for branch in told] == [0, 1, 2] * 2
    assert {branch.share for branch in told} == {0.5}
    assert not any(branch.continues for branch in told)
    np.testing.assert_allclose(torch.stack([branch.weights for branch in told[:3]]), np.eye(3) / 3)


def test_buffers_start_alike_and_end_as_their_mean():
    model = nn.BatchNorm1d(1, affine=True, momentum=0.5).double()
    seen = []

    def train(branch):
        seen.append(model.running_mean.item())
        model(torch.full((4, 1), 4.0 * branch.number, dtype=torch.float64)).sum().backward()

    merger = Merger(model, 2, mtl.AlphaVIL(alpha_steps=0))
    merger.epoch(train, meta_loss=lambda m: m(torch.ones(3, 1, dtype=torch.float64)).mean())
    assert seen == [0.0, 0.0]
    assert model.running_mean.item() == 1.0
    assert model.num_batches_tracked.item() == 1
    assert model.training


def test_a_branch_keeps_its_buffers_until_the_merge():
    model = nn.BatchNorm1d(1, momentum=0.5).double()
    seen = []

    def train(branch):
        seen.append((branch.number, model.running_mean.item(), model.num_batches_tracked.item()))
        model(torch.full((4, 1), 4.0 * branch.number, dtype=torch.float64))

    merger = Merger(model, 2, mtl.ForkMerge(interval=2))
    for _ in range(2):
        merger.epoch(train, meta_loss=lambda m: m(torch.ones(3, 1, dtype=torch.float64)).mean())
    first = [(0, 0.0, 0), (1, 0.0, 0), (0, 0.0, 1), (1, 2.0, 1)]
    assert seen == [*first, (0, 1.5, 2), (1, 1.5, 2), (0, 0.75, 3), (1, 2.75, 3)]
    assert model.running_mean.item() == (0.375 + 3.375) / 2


def test_measuring_leaves_every_layer_in_its_own_mode():
    model = nn.Sequential(nn.Linear(1, 2), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5)), nn.Linear(2, 1))
    model[1][0].eval()
    modes = [module.training for module in model.modules()]
    measured = []

    def loss(m):
        measured.append(any(module.training for module in model.modules()))
        return m(torch.ones(3, 1)).mean()

    def train(branch):
        assert [module.training for module in model.modules()] == modes

    merger = Merger(model, 2, mtl.AlphaVIL(alpha_steps=1))
    for _ in range(2):
        merger.epoch(train, loss)
    assert measured
    assert not any(measured)

    def broken(m):
        raise KeyError("no such column")

    with pytest.raises(KeyError, match="no such column"):
        merger.epoch(train, broken)
    assert [module.training for module in model.modules()] == modes
    assert modes.count(False) == 1


def test_a_metric_of_ones_own_decides(slow):
    data = slow.make()
    model = slow.initial(data, 0)

    def train(branch):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * branch.number)

    merger = Merger(model, 3, mtl.ForkMerge())
    losses = iter([3.0, 1.0, 2.0] + [5.0] * 10)
    merger.epoch(train, lambda m: slow.task_loss(data, m(data.meta.x), data.meta.y, 0), lambda m: next(losses))
    assert merger.report["alpha"].tolist() == [0, 1, 0]


def test_refuses_a_weighting():
    with pytest.raises(TypeError, match=r"expected an instance such as mtlkit\.AlphaVIL"):
        Merger(nn.Linear(1, 1), 2, mtl.Uniform())


@pytest.mark.parametrize(
    "method", [mtl.AlphaVIL(alpha_lr=0.5), mtl.DIW(), mtl.ForkMerge()], ids=lambda m: type(m).__name__
)
def test_goes_on_from_a_state(method):
    x = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]
    targets = torch.cat([2 * x, -x], 1)

    def trained(model, merger, epochs):
        def train(branch):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for _ in range(3):
                optimizer.zero_grad()
                (branch.weights * (model(x) - targets).square().mean(0)).sum().backward()
                optimizer.step()

        for _ in range(epochs):
            merger.epoch(train, meta_loss=lambda m: (m(x)[:, 0] - targets[:, 0]).square().mean())

    whole, part, rest = (torch.nn.Linear(1, 2).double() for _ in range(3))
    part.load_state_dict(whole.state_dict())
    trained(whole, mtl.Merger(whole, 2, method), 4)
    first, second = mtl.Merger(part, 2, method), mtl.Merger(rest, 2, method)
    trained(part, first, 2)
    rest.load_state_dict(part.state_dict())
    second.load_state_dict(first.state_dict())
    trained(rest, second, 2)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True))
