import copy
import dataclasses
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch.func import functional_call

import mtlkit as mtl
from mtlkit.merging._alphavil import slope
from mtlkit.merging._base import Merging, moved, one_task_each


@dataclass(frozen=True)
class Spy(Merging):
    """Keeps what fit gives a merging method, with branches trained as αVIL does."""

    seen: list = field(default_factory=list)

    def init(self, n_tasks, like):
        return like.new_ones(n_tasks)

    def epoch(self, epoch, state):
        self.seen.append((epoch, one_task_each(epoch, state, 1.0)[1], state))
        return mtl.AlphaVIL().epoch(epoch, state)


@pytest.fixture
def seen(slow):
    spy = Spy()
    slow.run(slow.make(), spy, seeds=20)
    return spy.seen[0]


def test_one_step_and_alpha_one_is_the_sum_of_single_task_updates(slow):
    data = slow.make()
    start = slow.initial(data, seed=3)
    rows = [torch.arange(len(data.train))]
    branches = []
    for t in range(3):
        branch = copy.deepcopy(start)
        slow.train(branch, slow.sgd(branch), data, torch.eye(3)[t], rows)
        branches.append(branch)
    method = mtl.AlphaVIL(alpha_steps=0, paper_scale=True)
    runs = slow.run(data, method, seeds=[3], batch_size=len(data.train), steps_per_epoch=1)
    slow.assert_same(runs, 3, slow.blend(start, branches, [1, 1, 1], deltas=True), 1e-10)


def test_one_step_and_alpha_one_is_the_uniform_step(slow):
    data = slow.make()
    options = {"seeds": 2, "batch_size": len(data.train), "steps_per_epoch": 1}
    merged = slow.run(data, mtl.AlphaVIL(alpha_steps=0), **options)
    uniform = slow.run(data, mtl.Uniform(), **options)
    for name, value in uniform.states["last"].items():
        torch.testing.assert_close(merged.states["last"][name], value, rtol=0, atol=1e-10)
    np.testing.assert_allclose(merged.samples.weight, 1, atol=1e-12)


def test_slope_equals_finite_differences(seen):
    epoch, deltas, state = seen
    alpha = state + torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    found, h = slope(epoch, alpha, deltas), 1e-5
    for t in range(3):
        shift = h * torch.eye(3, dtype=torch.float64)[t]
        up, down = (epoch.meta_loss(moved(epoch.parameters, alpha + s, deltas)) for s in (shift, -shift))
        torch.testing.assert_close(found[:, t], (up - down) / (2 * h), rtol=0, atol=1e-6)
    assert found.abs().max() > 1e-3


def test_alpha_steps_lower_the_meta_loss_wherever_the_slope_is_not_zero(seen):
    epoch, deltas, ones = seen
    before = epoch.meta_loss(moved(epoch.parameters, ones, deltas))
    can = slope(epoch, ones, deltas).square().sum(-1) > 1e-8
    alpha = ones
    for _ in range(5):
        alpha = alpha - 0.05 * slope(epoch, alpha, deltas)
    after = epoch.meta_loss(moved(epoch.parameters, alpha, deltas))
    assert can.sum() >= 15
    assert (after[can] < before[can]).all()


@pytest.mark.parametrize(("rho", "paper_scale"), [(1.0, False), (0.5, True)])
def test_agrees_with_a_slow_reference(slow, drawn, rho, paper_scale):
    data, seed, epochs, alpha_lr = slow.make(), 5, 3, 2.0
    method = mtl.AlphaVIL(rho=rho, alpha_steps=4, alpha_lr=alpha_lr, paper_scale=paper_scale)
    model = slow.initial(data, seed)
    runs = slow.run(data, method, seeds=[seed], epochs=epochs)
    w = torch.ones(3, dtype=torch.float64)
    for e in range(epochs):
        np.testing.assert_allclose(slow.values(runs, "task_weight", seed)[e], w, atol=1e-8)
        branches = []
        for t in range(3):
            branch = copy.deepcopy(model)
            weights = torch.eye(3)[t] * w / (1 if paper_scale else 3)
            slow.train(branch, slow.sgd(branch), data, weights, drawn[e][t, 0])
            branches.append(branch)
            assert slow.values(runs, "branch_meta_loss", seed)[e, t] == pytest.approx(
                slow.meta_loss(branch, data), abs=1e-8
            )
        alpha = torch.ones(3, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([alpha], lr=alpha_lr)
        for _ in range(4):
            at = {
                name: value.detach()
                + sum(alpha[t] * (b.get_parameter(name) - value).detach() for t, b in enumerate(branches))
                for name, value in model.named_parameters()
            }
            optimizer.zero_grad()
            slow.task_loss(data, functional_call(model, at, (data.meta.x,)), data.meta.y, 0).backward()
            optimizer.step()
        np.testing.assert_allclose(slow.values(runs, "alpha", seed)[e], alpha.detach(), atol=1e-8)
        model = slow.blend(model, branches, alpha.tolist(), deltas=True)
        given = (alpha.detach() * w).numpy()
        np.testing.assert_allclose(slow.values(runs, "weight", seed)[e], given / given.sum(), atol=1e-8)
        w = (w + alpha.detach() - 1).clamp(min=0)
    slow.assert_same(runs, seed, model)
    assert len(drawn[0][0, 0].flatten().unique()) == round(rho * 40) - (8 if rho == 1 else 4)
    assert (slow.values(runs, "branch_steps", seed) == rho * slow.steps).all()


def test_weights_never_fall_below_zero_and_zero_is_final(slow):
    runs = slow.run(slow.make(), mtl.AlphaVIL(alpha_lr=3.0), seeds=3, epochs=40)
    found = [slow.values(runs, "task_weight", seed) for seed in range(3)]
    assert np.min(found) == 0
    for weights in found:
        gone = np.maximum.accumulate(weights == 0, axis=0)
        assert (weights[gone] == 0).all()


def test_a_copy_of_the_target_gets_more_alpha_than_shuffled_labels(slow):
    """While the target is still being learned; a copy of a target that is learned already only overshoots."""

    def draw(seed):
        return slow.make(("binary",) * 3, n=200, n_meta=100, auxiliaries=("copy", "shuffled"), seed=seed)

    data = dataclasses.replace(draw(0), redraw=draw)
    options = {"hidden": (16,), "epochs": 6, "steps_per_epoch": 12, "batch_size": 16}
    runs = slow.run(data, mtl.AlphaVIL(alpha_lr=1.0), seeds=20, **options)
    alpha = np.stack([slow.values(runs, "alpha", seed).mean(0) for seed in range(20)])
    assert (alpha[:, 1] >= alpha[:, 2]).sum() >= 18


@pytest.mark.parametrize("options", [{"rho": 0.0}, {"rho": 1.5}, {"alpha_steps": -1}, {"alpha_lr": -0.1}])
def test_refuses_options_out_of_range(options):
    with pytest.raises(ValueError, match=f"AlphaVIL: .*{next(iter(options))}"):
        mtl.AlphaVIL(**options)
