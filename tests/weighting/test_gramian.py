"""Gramian weightings against TorchJD called on the Jacobian itself, and PCGrad's order of projections."""

import itertools
import sys

import pytest
import torch
from networks import LAST, Network, Slow
from runs import assert_close, fast_run
from torchjd import aggregation

import mtlkit as mtl
from mtlkit.measure import Signal

PAIRS = {
    "MGDA": (aggregation.MGDAWeighting(), aggregation.MGDA()),
    "CAGrad": (aggregation.CAGradWeighting(c=0.5), aggregation.CAGrad(c=0.5)),
    "UPGrad": (aggregation.UPGradWeighting(), aggregation.UPGrad()),
    "IMTL-G": (aggregation.IMTLGWeighting(), aggregation.IMTLG()),
    "Aligned-MTL": (aggregation.AlignedMTLWeighting(), aggregation.AlignedMTL()),
}


def shared_step(gradients, seed=None):
    pick = ... if seed is None else seed
    return torch.cat([g[pick].flatten() for name, g in gradients.items() if name.startswith("trunk.")])


def jacobian(network, parameters=None, step=0):
    at = Slow(network, parameters or network.parameters, step)
    return torch.stack([at.g(t) for t in range(at.T)])


@pytest.mark.parametrize("n_tasks", [2, 3, 5])
@pytest.mark.parametrize("name", PAIRS)
def test_shared_step_is_the_aggregated_jacobian(name, n_tasks):
    weighting, aggregator = PAIRS[name]
    networks = [Network(40 + s, n_tasks, missing=0.1) for s in range(2)]
    _, gradients, _ = next(fast_run(mtl.Gramian(weighting), networks, 1))
    for s, network in enumerate(networks):
        tolerance = 1e-5 if name == "CAGrad" else 1e-8  # interior point solver
        rows = jacobian(network)  # that of the last task is zero: it has no label
        expected = aggregator(rows)
        if name == "CAGrad" and not expected.any():
            expected = rows.mean(0)
        assert_close(shared_step(gradients, s), expected, tolerance)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", PAIRS)
def test_the_step_where_all_tasks_have_gradients(name, seed):
    weighting, aggregator = PAIRS[name]
    rows = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = aggregator(rows)
    assert expected.norm() > 0.1
    assert_close(weights_of(torch.ones(4), rows, weighting) @ rows, expected, 1e-5 if name == "CAGrad" else 1e-8)


def test_cagrad_goes_on_where_one_task_is_learned():
    rows = torch.tensor([[1.0, 0.5, 0.0], [-0.5, 1.0, 0.2], [3e-5, 0.0, -2e-5]], dtype=torch.float64)
    weighting, noise = aggregation.CAGradWeighting(c=0.5), torch.ones(3)
    assert not weighting(rows @ rows.T).any()  # TorchJD stops
    assert_close(weights_of(noise, rows, weighting), torch.full_like(rows[0], 1 / 3), 1e-12)
    rows[2] *= 10_000
    assert weighting(rows @ rows.T).min() > 0.3
    assert_close(weights_of(noise, rows, weighting), weighting(rows @ rows.T), 1e-12)


def pcgrad(rows, orders):
    """Algorithm 1 of arXiv 2001.06782 for given orders: (P,) summed projected gradients."""
    total = torch.zeros_like(rows[0])
    for i, order in enumerate(orders):
        g = rows[i].clone()
        for j in order:
            if g @ rows[j] < 0:
                g = g - (g @ rows[j]) / (rows[j] @ rows[j]) * rows[j]
        total += g
    return total


def all_orders(n):
    return list(itertools.product(*(itertools.permutations([j for j in range(n) if j != i]) for i in range(n))))


CONFLICT = torch.tensor([[1.0, 0.2, 0.0], [-1.0, 1.0, 0.3], [0.1, -1.0, -1.0]], dtype=torch.float64)


def weights_of(noise, rows=CONFLICT, weighting=None, **options):
    n, weighting = len(rows), weighting or aggregation.PCGradWeighting()
    signal = Signal(torch.ones(1, n), torch.ones(1, n, dtype=torch.bool), gramian=rows @ rows.T, noise=noise)
    return mtl.Gramian(weighting, **options).update((), signal)[0]


def test_pcgrad_projects_in_random_order_step_after_step():
    expected = {orders: pcgrad(CONFLICT, orders) for orders in all_orders(3)}
    distinct = torch.stack(list(expected.values())).unique(dim=0)
    assert len(distinct) >= 4  # the order matters for these gradients
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(100):
        noise = torch.randn(3, generator=generator, dtype=torch.float64)
        found = 3 * weights_of(noise) @ CONFLICT
        distances = (distinct - found).norm(dim=1)
        assert distances.min() < 1e-9
        seen.add(distances.argmin().item())
    assert seen == set(range(len(distinct)))


@pytest.mark.parametrize("architecture", LAST)
def test_pcgrad_over_several_steps_of_training(architecture):
    networks = [Network(50 + s, 3, steps=6, missing=0.1, architecture=architecture) for s in range(2)]
    parameters = [network.parameters for network in networks]
    conflicts = 0
    for k, (_, gradients, _) in enumerate(fast_run(mtl.Gramian(aggregation.PCGradWeighting()), networks, 6)):
        for s, network in enumerate(networks):
            rows = jacobian(network, parameters[s], k)
            possible = torch.stack([pcgrad(rows, orders) / 3 for orders in all_orders(3)])
            found = shared_step(gradients, s)
            assert (possible - found).norm(dim=1).min() < 1e-8 * found.norm()
            conflicts += (rows @ rows.T < 0).any().item()
            parameters[s] = {n: p.detach() - 0.1 * gradients[n][s] for n, p in parameters[s].items()}
    assert conflicts > 3


def test_pcgrad_draws_from_the_run_alone():
    noise = torch.tensor([0.3, -1.2, 0.5], dtype=torch.float64)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = weights_of(noise)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(weights_of(noise), first)


def test_pcgrad_own_scale_is_a_sum():
    noise = torch.ones(3)
    assert_close(weights_of(noise, paper_scale=True), 3 * weights_of(noise))
    orthogonal = torch.eye(3, dtype=torch.float64)
    assert weights_of(noise, orthogonal).tolist() == pytest.approx([1 / 3] * 3)


def test_a_diverged_seed_leaves_the_others_alone():
    weights = weights_of(torch.ones(3), torch.full((3, 3), torch.inf))
    assert weights.isnan().all()


def test_construction_names_what_is_wrong(monkeypatch):
    with pytest.raises(TypeError, match=r"expected one of torchjd\.aggregation's"):
        mtl.Gramian(lambda gramian: gramian[0])
    with pytest.raises(TypeError, match="GradVacWeighting, which has a memory"):
        mtl.Gramian(aggregation.GradVacWeighting())
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(ImportError, match=r"pip install mtlkit\[torchjd\]"):
        mtl.Gramian(aggregation.MGDAWeighting())
