import pytest
import torch
from torchjd.aggregation import CAGrad, CAGradWeighting

import mtlkit as mtl
from mtlkit import published
from mtlkit.signals import Problem, Signal
from mtlkit.weighting import step


@pytest.fixture
def gradients():
    rows = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    rows[1] -= 2 * rows[0]
    return rows


def signal_of(gradients):
    present = torch.ones(2, len(gradients), dtype=torch.bool)
    losses = torch.ones(2, len(gradients), dtype=gradients.dtype)
    return Signal(losses, present, gramian=gradients @ gradients.T, noise=losses[0])


def rows_of(gradients):
    total, rows = torch.zeros_like(gradients[0]), []
    for g in gradients:
        total = total + g
        rows.append(total)
    return rows


def test_pcgrad_projects_each_accumulated_row_along_itself(gradients):
    rows = rows_of(gradients)
    conflicts, expected = 0, torch.zeros_like(rows[0])
    for t, h in enumerate(rows):
        moved = h.clone()
        for u, other in enumerate(rows):
            if u != t and moved @ other < 0:
                conflicts += 1
                moved = moved - (moved @ other) / (moved @ moved) * moved
        expected += moved
    assert conflicts > 0
    w, _ = published.AccumulatedPCGrad().update((), signal_of(gradients))
    torch.testing.assert_close(w @ gradients, expected / len(gradients))


def test_cagrad_sees_accumulated_rows(gradients):
    inner = mtl.Gramian(CAGradWeighting(c=0.5))
    variant = published.Accumulated(inner)
    assert variant.reads == inner.reads
    w, _ = variant.update(variant.init(4, gradients), signal_of(gradients))
    torch.testing.assert_close(w @ gradients, CAGrad(c=0.5)(torch.stack(rows_of(gradients))), rtol=1e-5, atol=1e-5)


def test_ol_aux_and_gradnorm_as_published_are_uniform_weighting(gradients):
    signal = signal_of(gradients)._replace(
        lr=torch.tensor(0.1), last_norms=gradients.norm(dim=1), losses=torch.rand(2, 4, dtype=torch.float64) + 0.1
    )
    for method in (mtl.OLAux(every=1, beta=0), mtl.GradNorm(lr=0)):
        state = method.init(4, gradients)
        for _ in range(3):
            w, state = method.update(state, signal)
        torch.testing.assert_close(w, torch.full((4,), 0.25, dtype=torch.float64))


@pytest.mark.parametrize(("eta", "divided"), [(1e-3, True), (1e-4, True), (1e-3, False)])
def test_slgrad_goes_on_from_its_look_ahead_step(eta, divided):
    make = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=make)

    x, y, x_meta, y_meta, start = draw(5, 3), draw(5, 2), draw(6, 3), draw(6), draw(3, 2)

    def losses(w):
        return ((x @ w).tanh() - y).square()

    def meta_loss(w):
        return ((x_meta @ w)[:, 0].tanh() - y_meta).square().mean()

    def slope(loss, at):
        at = at.detach().requires_grad_()
        return torch.autograd.grad(loss(at), at)[0]

    ahead = start - eta * slope(lambda w: losses(w).mean(0).mean(), start)
    g = slope(meta_loss, ahead)
    weights = torch.zeros(5, 2, dtype=torch.float64)
    for b in range(5):
        for t in range(2):
            weights[b, t] = max((slope(lambda w, b=b, t=t: losses(w)[b, t], ahead) * g).sum().item(), 0)
    weights /= weights.sum()
    end = ahead - eta / (5 if divided else 1) * slope(lambda w: (weights * losses(w)).sum(), ahead)

    own = {"w": start.clone().requires_grad_()}
    problem = Problem(own, ("w",), ("w",), lambda p: losses(p["w"]), lambda p: meta_loss(p["w"]), None)
    method = published.RealLookahead(lookahead=eta, divided=divided)
    taken = step(method, problem, method.init(2, start), present=torch.ones(5, 2, dtype=torch.bool))
    taken.objective.backward()
    found = start - eta * own["w"].grad
    torch.testing.assert_close(found - start, end - start, rtol=0, atol=2 * eta**2)
    assert (found - ahead).abs().max() > 0.05 * eta
    torch.testing.assert_close(taken.state.weights, weights.sum(0))
