import pytest
import torch
from companion import published
from torchjd.aggregation import CAGrad, CAGradWeighting

import mtlkit as mtl
from mtlkit.measure import Signal


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


BATCH, TASKS = 6, (mtl.Task("main", "regression"), mtl.Task("aux", "binary"), mtl.Task("other", "regression"))
LABELS = ["main", "aux", "other"]


def draw(seed, missing=0.2):
    """A batch, and a meta batch of the main task."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    x, x_meta = normal(BATCH, 3), normal(9, 3)
    y = {"main": x.sum(1) + normal(BATCH), "aux": (x[:, 0] > 0).double(), "other": normal(BATCH)}
    absent = torch.rand(BATCH, 3, generator=g) < missing
    y = {name: label.masked_fill(absent[:, t], torch.nan) for t, (name, label) in enumerate(y.items())}
    return x, y, x_meta, x_meta.sum(1) + normal(9)


def one_loss(p, x, y, b, t):
    """ℓ_bt, None without a label."""
    label, features = y[LABELS[t]][b], torch.tanh(p[0] @ x[b])
    if label.isnan():
        return None
    output = p[1][t] @ features
    return -torch.log(torch.sigmoid(output if label == 1 else -output)) if t == 1 else (output - label) ** 2


def moved(p, x, y, weights, size):
    """The parameters after a real step on Σ w_bt ℓ_bt / B, one sample and task after the other."""
    total = [torch.zeros_like(v) for v in p]
    for b in range(BATCH):
        for t in range(3):
            if (loss := one_loss(p, x, y, b, t)) is not None:
                for sum_, g in zip(total, torch.autograd.grad(loss, p, materialize_grads=True), strict=True):
                    sum_ += weights[b][t] * g / BATCH
    return [(v - size * g).detach().requires_grad_() for v, g in zip(p, total, strict=True)]


def as_published(p, current, x, y, x_meta, y_meta, size):
    """Both steps of the published code, and the weights that it measures between them."""
    ahead = moved(p, x, y, current, size)
    main = torch.stack(
        [(ahead[1][0] @ torch.tanh(ahead[0] @ row) - label) ** 2 for row, label in zip(x_meta, y_meta, strict=True)]
    )
    direction = torch.autograd.grad(main.mean(), ahead[0])[0]
    gains = [[0.0] * 3 for _ in range(BATCH)]
    for b in range(BATCH):
        for t in range(3):
            if (loss := one_loss(ahead, x, y, b, t)) is not None:
                gains[b][t] = max((torch.autograd.grad(loss, ahead[0])[0] * direction).sum().item(), 0.0)
    total = sum(map(sum, gains))
    weights = [[gain / total if total else 0.0 for gain in row] for row in gains]
    return moved(ahead, x, y, weights, size), weights


class Small(torch.nn.Module):
    def __init__(self, trunk, heads):
        super().__init__()
        self.trunk, self.heads = torch.nn.Parameter(trunk.detach().clone()), torch.nn.Parameter(heads.detach().clone())

    def forward(self, x):
        features = torch.tanh(x @ self.trunk.T)
        return dict(zip(LABELS, (features @ self.heads.T).unbind(1), strict=True))


def start(seed):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 3, generator=g, dtype=torch.float64), torch.randn(3, 4, generator=g, dtype=torch.float64)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_slgrad_as_published_equals_a_slow_loop_at_every_step(seed):
    eta = 0.001
    model = Small(*start(seed))
    weigh = mtl.Weigher(model, TASKS, published.RealLookahead(lookahead=eta, batch_size=BATCH), shared=["trunk"])
    current = [[1 / (3 * BATCH)] * 3 for _ in range(BATCH)]
    descent = torch.optim.SGD(model.parameters(), lr=eta)
    carried = 0.0
    for step_ in range(5):
        x, y, x_meta, y_meta = draw(100 * seed + step_)
        p = [v.detach().clone().requires_grad_() for v in (model.trunk, model.heads)]
        end, weights = as_published(p, current, x, y, x_meta, y_meta, eta)
        present = torch.stack([~y[name].isnan() for name in LABELS], 1)
        kept = torch.tensor(current, dtype=torch.float64) * present
        expected = (kept + torch.tensor(weights, dtype=torch.float64)) / BATCH
        descent.zero_grad()
        weigh(x, y, meta=(x_meta, {"main": y_meta})).backward()
        torch.testing.assert_close(weigh.weights, expected, rtol=1e-9, atol=1e-14)
        descent.step()
        for after, before, slow in zip((model.trunk, model.heads), p, end, strict=True):
            assert (after - slow).abs().max() < 0.05 * (slow - before).abs().max()
        if step_:
            carried += kept.max().item()
        current = weights
    assert carried > 0.1


def test_both_steps_together_agree_with_one_after_the_other_to_second_order():
    x, y, x_meta, y_meta = draw(0)
    current = [[0.6 if (b, t) == (1, 0) else 0.4 / 17 for t in range(3)] for b in range(BATCH)]
    errors = []
    for eta in (0.2, 0.1, 0.05):
        p = [v.requires_grad_() for v in start(0)]
        end, _ = as_published(p, current, x, y, x_meta, y_meta, eta)
        model = Small(*p)
        weigh = mtl.Weigher(model, TASKS, published.RealLookahead(eta, BATCH), shared=["trunk"])
        weigh.load_state_dict(weigh.state_dict() | {"state_weights": torch.tensor(current, dtype=torch.float64)})
        weigh(x, y, meta=(x_meta, {"main": y_meta})).backward()
        found = [v - eta * v.grad for v in (model.trunk, model.heads)]
        errors.append(sum((a - b).square().sum() for a, b in zip(found, end, strict=True)).sqrt().item())
    assert errors[-1] > 1e-9
    assert errors[0] / errors[1] == pytest.approx(4, abs=0.2)
    assert errors[1] / errors[2] == pytest.approx(4, abs=0.1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_slgrad_as_published_runs_stacked_alone_and_compiled_alike():
    data = mtl.datasets.load("digits", main=8, label_noise=0.4)
    method = published.RealLookahead(lookahead=0.1, batch_size=16)
    options = {
        "seeds": 2, "epochs": 1, "steps_per_epoch": 3, "batch_size": 16, "meta_batch_size": 20, "lr": 0.1,
        "dtype": torch.float64, "device": "cpu",
    }  # fmt: skip
    model = mtl.models.mlp(data, hidden=(8,))
    together = mtl.fit(model, data, method, **options)
    for change in ({"chunk": 1}, {"compile": True}):
        other = mtl.fit(model, data, method, **options, **change)
        for name, value in together.states["last"].items():
            torch.testing.assert_close(other.states["last"][name], value, rtol=1e-9, atol=1e-12)
    assert together.weights().query("metric == 'weight'")["value"].sum() > 0


def test_slgrad_as_published_refuses_a_batch_of_another_size():
    x, y, x_meta, y_meta = draw(0)
    weigh = mtl.Weigher(Small(*start(0)), TASKS, published.RealLookahead(batch_size=BATCH + 1), shared=["trunk"])
    with pytest.raises(ValueError, match="weights for 7 samples, found a batch of 6"):
        weigh(x, y, meta=(x_meta, {"main": y_meta}))
    with pytest.raises(ValueError, match="batch_size is 0, expected a finite number of at least 1"):
        published.RealLookahead(batch_size=0)
