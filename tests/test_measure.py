from dataclasses import replace

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import nn
from torch.func import functional_call

from mtlkit.gradients import _aligned_in_reverse, dense, gradient, gramian, mean_losses
from mtlkit.measure import (
    Alignment,
    Gains,
    Given,
    ImplicitAlignment,
    InnerProducts,
    LastNorms,
    LearningRate,
    Lookahead,
    MetaAlignment,
    MetaNorm,
    Problem,
    Signal,
    measure,
    score,
)
from mtlkit.tasks import Task


class Recurrent(nn.Module):
    """Its trunk has no forward-mode derivative."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x):
        return self.lstm(x.reshape(len(x), 2, 3))[0][:, -1]


TRUNKS = {
    "perceptron": lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh()),
    "convolution": lambda: nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 2, 3), nn.Flatten(), nn.LayerNorm(8)),
    "batch norm": lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Tanh()),
    "lstm": Recurrent,
}


def problem_of(trunk, dtype=torch.float64, **options):
    """Two regression tasks on top of a trunk, five samples, three meta samples; squared errors."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"trunk": TRUNKS[trunk](), "head": nn.Linear(8 if trunk == "convolution" else 4, 2)}).to(
        dtype
    )
    model.forward = lambda x: model["head"](model["trunk"](x))
    x, y = torch.randn(5, 6).to(dtype), torch.randn(5, 2).to(dtype)
    x_meta, y_meta = torch.randn(3, 6).to(dtype), torch.randn(3).to(dtype)
    present = torch.tensor([[1, 1], [1, 0], [1, 1], [0, 0], [1, 1]], dtype=torch.bool)

    def losses(own):
        return torch.where(present, (functional_call(model, {**parameters, **own}, (x,)) - y).square(), 0)

    def meta_loss(own):
        return (functional_call(model, {**parameters, **own}, (x_meta,))[:, 0] - y_meta).square().mean()

    parameters = dict(model.named_parameters())
    shared = tuple(name for name in parameters if name.startswith("trunk."))
    return Problem(
        parameters, shared, shared[-2:], losses, meta_loss, lambda own, request: meta_loss(own), lr=0.1, **options
    ), present


def flat(gradients, names):
    return torch.cat([gradients[name].flatten() for name in names])


def slow_alignment(problem):
    """One gradient per sample and task, for parameters as they are in the problem."""
    leaves = [problem.parameters[name] for name in problem.shared]
    found = torch.zeros(5, 2, dtype=torch.float64)
    for b in range(5):
        for t in range(2):
            one = torch.autograd.grad(problem.losses({})[b, t], leaves, materialize_grads=True)
            along = torch.autograd.grad(problem.meta_loss({}), leaves)
            found[b, t] = sum((a * g).sum() for a, g in zip(one, along, strict=True))
    return found


@pytest.mark.parametrize("trunk", TRUNKS)
def test_alignment_equals_a_loop_over_samples(trunk):
    problem, present = problem_of(trunk)
    found = measure(problem, (Alignment(),), present=present)
    torch.testing.assert_close(found.signal.alignment, slow_alignment(problem), rtol=1e-10, atol=1e-12)
    assert not found.signal.alignment.requires_grad
    assert (found.signal.alignment[~present] == 0).all()
    # the same pass gives losses to differentiate
    weights = torch.rand(5, 2).double()
    leaves = list(problem.parameters.values())
    by_tape = torch.autograd.grad((weights * found.losses).sum(), leaves)
    plain = torch.autograd.grad((weights * problem.losses({})).sum(), leaves)
    torch.testing.assert_close(by_tape, plain, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_lookahead_measures_after_a_virtual_step_and_leaves_the_model_alone(trunk):
    problem, present = problem_of(trunk)
    before = {name: value.detach().clone() for name, value in problem.parameters.items()}
    task_weights = torch.tensor([0.3, 0.7]).double()
    found = measure(problem, (Alignment(Lookahead(0.5, lambda *_: task_weights)),), present=present)
    for name, value in problem.parameters.items():
        assert value.equal(before[name])
        assert value.grad is None
    torch.testing.assert_close(found.losses, problem.losses({}))

    leaves = list(problem.parameters.values())
    moved = torch.autograd.grad((task_weights * problem.losses({}).sum(0) / present.sum(0)).sum(), leaves)
    ahead, _ = problem_of(trunk)
    with torch.no_grad():
        for value, step in zip(ahead.parameters.values(), moved, strict=True):
            value -= 0.5 * step
    torch.testing.assert_close(found.signal.alignment, slow_alignment(ahead), rtol=1e-9, atol=1e-12)
    assert (found.signal.alignment - slow_alignment(problem)).abs().max() > 1e-3


@pytest.mark.parametrize("trunk", TRUNKS)
def test_reverse_over_reverse_equals_a_loop_over_samples(trunk):
    problem, _ = problem_of(trunk)
    shared = {name: problem.parameters[name] for name in problem.shared}
    direction = gradient(problem.meta_loss({}), shared)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            losses, found = _aligned_in_reverse(problem.losses, shared, direction, problem.summed)
        torch.testing.assert_close(found, slow_alignment(problem), rtol=1e-10, atol=1e-12)
        assert not found.requires_grad
    assert losses.requires_grad


def test_a_model_without_forward_mode_is_differentiated_in_reverse():
    problem, present = problem_of("lstm", dtype=torch.float32)  # PyTorch's kernel for it is in float32 only
    shared = {name: problem.parameters[name] for name in problem.shared}
    with forward_ad.dual_level(), pytest.raises(NotImplementedError):
        problem.losses({name: forward_ad.make_dual(p, torch.ones_like(p)) for name, p in shared.items()})
    found = measure(problem, (Alignment(),), present=present).signal.alignment
    torch.testing.assert_close(found, slow_alignment(problem).float(), rtol=1e-4, atol=1e-6)
    ahead = measure(problem, (Alignment(Lookahead(0.0, lambda *_: torch.ones(2))),), present=present).signal.alignment
    torch.testing.assert_close(ahead, found)


def test_task_level_fields_equal_plain_gradients():
    problem, present = problem_of("perceptron")
    reads = (InnerProducts(), LastNorms(), MetaAlignment(), MetaNorm(), Gains(0.3), LearningRate())
    found = measure(problem, reads, present=present)
    names, leaves = list(problem.parameters), list(problem.parameters.values())
    rows, after = [], []
    for t in range(2):
        mean = problem.losses({})[present[:, t], t].mean()
        rows.append(dict(zip(names, torch.autograd.grad(mean, leaves), strict=True)))
        after.append(problem.meta_loss({name: p - 0.3 * rows[t][name] for name, p in problem.parameters.items()}))
    jacobian = torch.stack([flat(row, problem.shared) for row in rows])
    direction = flat(gradient(problem.meta_loss({}), problem.parameters), problem.shared)
    expected = {
        "gramian": jacobian @ jacobian.T,
        "last_norms": torch.stack([flat(row, ["trunk.2.weight", "trunk.2.bias"]).norm() for row in rows]),
        "meta_alignment": jacobian @ direction,
        "meta_norm": direction.norm(),
        "gains": problem.meta_loss({}) - torch.stack(after),
        "lr": torch.tensor(0.1, dtype=torch.float64),
    }
    for field, value in expected.items():
        torch.testing.assert_close(getattr(found.signal, field), value.detach(), rtol=1e-10, atol=1e-13)
    assert found.signal.alignment is None
    gradients = dense(found.task_gradients, problem.parameters, present.shape[-1])
    for name, found_rows in zip(names, gradients, strict=True):
        torch.testing.assert_close(found_rows, torch.stack([row[name] for row in rows]))


@pytest.mark.parametrize("differentiable", [False, True])
def test_task_gradients_in_one_pass_equal_one_pass_each(differentiable):
    reads = (InnerProducts(differentiable), MetaAlignment(), LastNorms())
    problem, present = problem_of("perceptron")
    found = [measure(replace(problem, stacked=s), reads, present=present).signal for s in (False, True)]
    for one, other in zip(*found, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    if differentiable:
        own = problem.parameters
        one, other = (gradient(signal.gramian.square().sum(), own) for signal in found)
        for name in own:
            torch.testing.assert_close(one[name], other[name], rtol=1e-10, atol=1e-12)
        assert sum(slope.abs().sum() for slope in one.values()) > 0


def test_gains_one_by_one_equal_gains_together():
    problem, present = problem_of("perceptron", stacked=True)
    one_by_one, _ = problem_of("perceptron", stacked=False)
    found, other = (measure(p, (Gains(0.2),), present=present).signal.gains for p in (problem, one_by_one))
    torch.testing.assert_close(found, other)
    present[:, 1] = False
    assert measure(problem, (Gains(0.1),), present=present).signal.gains[1] == 0


def convex(weights):
    """Two tasks whose losses bend upwards (a ridge in each), at the minimum of Σ w_t L_t; and all as a flat vector."""
    problem, present = problem_of("perceptron")
    plain = problem.losses

    def losses(own):
        ridge = sum(value.square().sum() for value in {**problem.parameters, **own}.values())
        return torch.where(present, plain(own) + 0.1 * ridge, 0)

    shapes = [value.shape for value in problem.parameters.values()]
    names, sizes = list(problem.parameters), [shape.numel() for shape in shapes]

    def unflat(theta):
        return {n: part.view(s) for n, s, part in zip(names, shapes, theta.split(sizes), strict=True)}

    def objective(theta, weights=weights):
        return weights @ mean_losses(losses(unflat(theta)), present)

    theta = torch.cat([value.detach().flatten() for value in problem.parameters.values()])
    theta.requires_grad_()
    descent = torch.optim.LBFGS([theta], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure():
        theta.grad = None
        loss = objective(theta)
        loss.backward()
        return loss

    descent.step(closure)
    theta = theta.detach()
    for _ in range(4):  # Newton's method
        bend = torch.func.hessian(objective)(theta)
        theta = theta - torch.linalg.solve(bend, torch.func.grad(objective)(theta))
    assert torch.func.grad(objective)(theta).norm() < 1e-12
    assert torch.linalg.eigvalsh(torch.func.hessian(objective)(theta))[0] > 0.01
    parameters = {name: value.detach().requires_grad_() for name, value in unflat(theta).items()}
    replaced = replace(
        problem,
        parameters=parameters,
        losses=lambda own: losses({**parameters, **own}),
        meta_loss=lambda own: problem.meta_loss({**parameters, **own}),
    )
    return replaced, present, theta, unflat, objective


def test_implicit_alignment_is_the_exact_inverse_in_the_limit():
    weights = torch.tensor([1.0, 0.4]).double()
    problem, present, theta, unflat, objective = convex(weights)
    bend = torch.func.hessian(objective)(theta)
    top = torch.linalg.eigvalsh(bend)[-1].item()
    direction = torch.func.grad(lambda theta: problem.meta_loss(unflat(theta)))(theta)
    rows = torch.func.jacrev(lambda theta: mean_losses(problem.losses(unflat(theta)), present))(theta)
    exact = rows @ torch.linalg.solve(bend, direction)

    def found_with(step, terms):
        request = ImplicitAlignment(lambda state, means: means @ weights, step, terms, due=lambda state: True)
        return measure(problem, (request,), present=present).signal.implicit_alignment

    errors = []
    for terms in (0, 3, 30, 3000):
        found = found_with(1 / top, terms)
        errors.append(((found - exact).norm() / exact.norm()).item())
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1
    assert errors[-1] < 1e-9
    torch.testing.assert_close(found_with(0.2, 0), 0.2 * rows @ direction)


def test_implicit_alignment_says_how_the_minimum_answers_to_a_weight():
    weights = torch.tensor([1.0, 0.4]).double()
    problem, present, *_ = convex(weights)
    request = ImplicitAlignment(lambda state, means: means @ weights, 0.3, 1500, due=lambda state: True)
    found = measure(problem, (request,), present=present).signal.implicit_alignment
    for t in range(2):
        ends = []
        for step in (1e-4, -1e-4):
            moved = weights.clone()
            moved[t] += step
            ends.append(convex(moved)[0].meta_loss({}).item())
        assert abs((ends[0] - ends[1]) / 2e-4 + found[t].item()) < 1e-5 * found.abs().max()


def test_lookahead_of_the_meta_gradient_alone():
    problem, present = problem_of("perceptron")
    by_sample = torch.rand(5, 2).double()
    seen = []

    def weights(state, losses, labels):
        seen.append((losses, labels))
        return by_sample

    found = measure(problem, (Alignment(Lookahead(None, weights, losses_too=False)),), present=present)
    leaves = list(problem.parameters.values())
    torch.testing.assert_close(seen[0][0], problem.losses({}).detach())
    assert not seen[0][0].requires_grad
    assert seen[0][1].equal(present)
    moved = torch.autograd.grad((torch.where(present, by_sample, 0) * problem.losses({})).sum(), leaves)
    ahead = {n: v - 0.1 * g for (n, v), g in zip(problem.parameters.items(), moved, strict=True)}
    direction = torch.autograd.grad(problem.meta_loss(ahead), [ahead[name] for name in problem.shared])
    own = [problem.parameters[name] for name in problem.shared]
    for b in range(5):
        for t in range(2):
            one = torch.autograd.grad(problem.losses({})[b, t], own, materialize_grads=True)
            expected = sum((a * g).sum() for a, g in zip(one, direction, strict=True))
            torch.testing.assert_close(found.signal.alignment[b, t], expected.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.losses, problem.losses({}))


def test_missing_fields_are_named():
    problem, present = problem_of("perceptron")
    with pytest.raises(ValueError, match="'noise'"):
        measure(problem, (Given("noise"),), present=present)


def test_means_and_presence_per_task():
    present = torch.tensor([[True, False], [True, False]])
    signal = Signal(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), present)
    assert signal.means.tolist() == [2.0, 0.0]
    assert signal.labelled.tolist() == [True, False]
    stacked = mean_losses(signal.losses.expand(4, 2, 2), present.expand(4, 2, 2))
    assert stacked.tolist() == [[2.0, 0.0]] * 4


def test_gramian_of_stacked_seeds_and_of_a_scalar_parameter():
    generator = torch.Generator().manual_seed(0)
    rows = {
        "w": torch.randn(3, 4, 2, 5, generator=generator),
        "scale": torch.randn(3, 4, generator=generator),
    }
    found = gramian(rows.values(), seeds=1)
    assert found.shape == (4, 3, 3)
    for s in range(4):
        whole = torch.cat([rows["w"][:, s].flatten(1), rows["scale"][:, s, None]], 1)
        torch.testing.assert_close(found[s], whole @ whole.T)


def test_gradient_is_zero_where_nothing_depends():
    p = {"used": torch.ones(2, requires_grad=True), "unused": torch.ones(3, requires_grad=True)}
    assert gradient(p["used"].sum(), p)["unused"].tolist() == [0, 0, 0]
    assert gradient(torch.ones(()), p)["used"].tolist() == [0, 0]


def test_score_sees_labelled_samples_only():
    seen = []

    def metric(output, target):
        seen.append((output, target))
        return 0.25

    output = torch.arange(6.0).reshape(3, 2)
    task = Task("kind", "multiclass", n_classes=2)
    value = score(metric, task, output, torch.tensor([1, -1, 0]))
    assert value.item() == 0.25
    assert value.shape == ()
    ((given, target),) = seen
    assert given.tolist() == [[0, 1], [4, 5]]
    assert target.tolist() == [1, 0]
    assert score(metric, task, output, torch.tensor([-1, -1, -1])).item() == 0
    assert score(metric, task, torch.full((3, 2), torch.inf), torch.tensor([1, -1, 0])).isnan()
    assert len(seen) == 1
    with pytest.raises(ValueError, match=r"task 'kind': the metric returned shape \(2,\)"):
        score(lambda o, t: o[:, 0], task, output, torch.tensor([1, -1, 0]))
