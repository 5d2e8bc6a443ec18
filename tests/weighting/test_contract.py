"""What every weighting promises, on small random networks and through ``step``."""

import io
import math

import pytest
import torch
from axes import misfits
from methods import METHODS, begin
from networks import Network, at_step, initial
from runs import assert_close, fast_run, flat
from torch.utils._pytree import tree_flatten, tree_unflatten

import mtlkit as mtl
from mtlkit.measure import Signal
from mtlkit.step import step
from mtlkit.weighting import per_sample

EVERY = pytest.mark.parametrize("name", METHODS)
LOOSE = {"CAGrad": 1e-5}  # an interior point solver


def check_promises(method, weights, n_tasks):
    """Sign and total weight, as documented."""
    assert weights.isfinite().all()
    if not method.negative:
        assert (weights >= -1e-9).all()
    total = weights.sum().item()
    close = {"one": [1], "T": [n_tasks], "one or zero": [1, 0], "T or zero": [n_tasks, 0]}.get(method.total)
    if method.total == "at most one":
        assert total <= 1 + 1e-6
    if close:
        assert min(abs(total - c) for c in close) < 1e-5, f"total weight {total}"


@EVERY
@pytest.mark.parametrize("n_tasks", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_shape_dtype_sign_and_total(name, n_tasks, dtype):
    method = METHODS[name]
    network = Network(n_tasks, n_tasks, steps=4, dtype=dtype)
    for k, (taken, gradients, _) in enumerate(fast_run(method(n_tasks), [network], 4, stacked=False)):
        batch = (5,) if name.startswith(("SLGrad", "MetaWeightNet", "NoiseLayer")) else ()
        assert taken.weights.shape == (*batch, n_tasks)
        assert taken.weights.dtype == taken.objective.dtype == dtype
        assert taken.objective.shape == ()
        check_promises(method, taken.weights, n_tasks)
        assert flat(gradients).isfinite().all()
        assert flat(gradients).dtype == dtype
        given = per_sample(taken.weights, taken.signal.present)
        assert (given[~taken.signal.present] == 0).all()
        if k == 0 and n_tasks > 1:  # the last task has no label at all
            assert all((g == 0).all() for n, g in gradients.items() if n.startswith(f"heads.{n_tasks - 1}."))


@EVERY
@pytest.mark.parametrize("seeds", [None, 2])
def test_step_signal_and_state_have_the_shapes_that_they_say(name, seeds):
    networks = [Network(10 + s, 3, steps=3) for s in range(seeds or 1)]
    for taken, _, _ in fast_run(METHODS[name](3), networks, 3, stacked=seeds is not None):
        assert misfits(taken) == []


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.symmetric])
def test_permuting_auxiliaries_permutes_weights(name):
    order = [0, 3, 1, 2]
    network = Network(5, 4, steps=4)
    plain, other = (fast_run(METHODS[name](4), [n], 4) for n in (network, network.reordered(order)))
    for (one, _, _), (two, _, _) in zip(plain, other, strict=True):
        assert_close(two.weights, one.weights[..., order], LOOSE.get(name, 1e-7))


@EVERY
def test_permuting_samples_permutes_sample_weights(name):
    order = [3, 0, 4, 2, 1]
    network = Network(6, 3, steps=4)
    plain, other = (fast_run(METHODS[name](3), [n], 4) for n in (network, network.take(order)))
    for (one, _, _), (two, _, _) in zip(plain, other, strict=True):
        by_sample = one.weights.ndim == 3
        assert_close(two.weights, one.weights[:, order] if by_sample else one.weights, LOOSE.get(name, 1e-7))


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.duplicates])
def test_every_sample_twice_leaves_the_step_as_it_is(name):
    network = Network(7, 3, steps=4)
    plain, twice = (fast_run(METHODS[name](3), [n], 4) for n in (network, network.take([0, 1, 2, 3, 4] * 2)))
    for (one, gradients, _), (two, same, _) in zip(plain, twice, strict=True):
        by_sample = one.weights.ndim == 3
        expected = torch.cat([one.weights] * 2, 1) / 2 if by_sample else one.weights
        assert_close(two.weights, expected, LOOSE.get(name, 1e-7))
        assert_close(flat(same), flat(gradients), LOOSE.get(name, 1e-7))


def test_the_papers_scale_of_logse_counts_the_samples():
    network, weighting = Network(7, 3, steps=4), METHODS["LogSE, paper"](3)
    for k in range(4):
        found = []
        for rows in ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4] * 2):
            problem, given = at_step(weighting, [network.take(rows)], k, stacked=False)
            taken = step(weighting, problem, (), **given)
            leaves = list(problem.parameters.values())
            gradients = torch.autograd.grad(taken.objective, leaves, materialize_grads=True)
            found.append((taken.weights, torch.cat([gradient.flatten() for gradient in gradients])))
        for one, two in zip(*found, strict=True):
            assert (one != 0).any()
            assert_close(two, 2 * one)


@EVERY
def test_seeds_stacked_equal_seeds_one_by_one(name):
    networks = [Network(20 + s, 3, steps=4) for s in range(3)]
    alone = [fast_run(METHODS[name](3), [network], 4, stacked=False) for network in networks]
    for taken, gradients, _ in fast_run(METHODS[name](3), networks, 4):
        for s, run in enumerate(alone):
            one, own, _ = next(run)
            assert_close(taken.weights[s], one.weights, LOOSE.get(name, 1e-8))
            assert_close(taken.objective[s], one.objective, LOOSE.get(name, 1e-8))
            assert_close(flat({n: g[s] for n, g in gradients.items()}), flat(own), LOOSE.get(name, 1e-8))


@EVERY
def test_state_survives_a_checkpoint_and_update_is_pure(name):
    weighting = METHODS[name](3)
    networks = [Network(30 + s, 3, steps=5) for s in range(2)]
    seen = list(fast_run(weighting, networks, 5))
    before = seen[3][0]
    leaves, structure = tree_flatten(before.state)
    kept = [leaf.clone() for leaf in leaves]
    file = io.BytesIO()
    torch.save(leaves, file)
    file.seek(0)
    state = tree_unflatten(torch.load(file, weights_only=True), structure)
    assert type(state) is type(before.state)
    assert all(isinstance(leaf, torch.Tensor) and not leaf.requires_grad for leaf in leaves)
    parameters = initial(networks)
    _, learned = begin(weighting, 3, 2)
    problem, given = at_step(weighting, networks, 4, parameters, learned, 2)
    found = [step(weighting, problem, s, **given).weights for s in (before.state, state, before.state)]
    assert found[0].equal(found[1])
    assert found[0].equal(found[2])
    for leaf, copy in zip(leaves, kept, strict=True):
        assert torch.equal(leaf.nan_to_num(-1), copy.nan_to_num(-1))
    assert tree_flatten(seen[4][0].state)[1] == structure


GRADIENTS = {  # calls of torch.autograd.grad while measuring, with T tasks
    "GradNorm": lambda n: n,
    "GradientCosine": lambda n: n,
    "OLAux": lambda n: n,
    "MetaTartan": lambda n: n + 1,
    "HydaLearn": lambda n: n,
    "SLGrad": lambda n: 1,
    "SLGrad, look-ahead": lambda n: 2,
    "GradientCosine, meta": lambda n: n + 1,
    "GradientCosine, meta weighted": lambda n: n + 1,
    "MetaWeightNet": lambda n: 3,  # of the look-ahead, the meta loss and φ
    "MetaWeightNet, no look-ahead": lambda n: 2,
    "AuxiLearn": lambda n: 0,  # not due in the first step
    "AuxiLearn, network": lambda n: 2 + 3 + n + 1,  # of the meta loss, the objective, three products, tasks and φ
    "ARML": lambda n: n,
    "OrthogonalGradients": lambda n: n,
    **dict.fromkeys(("MGDA", "PCGrad", "CAGrad", "UPGrad", "IMTL-G", "Aligned-MTL"), lambda n: n),
}


@EVERY
def test_nothing_is_computed_that_is_not_read(name, monkeypatch):
    weighting, calls = METHODS[name](4), {"losses": 0, "meta_loss": 0, "score": 0, "grad": 0}
    problem, given = at_step(weighting, [Network(1, 4), Network(2, 4)], 0)
    state, learned = begin(weighting, 4, 2)

    def counted(what, function):
        def count(*args, **options):
            calls[what] += 1
            return function(*args, **options)

        return count

    for what in ("losses", "meta_loss", "score"):
        object.__setattr__(problem, what, counted(what, getattr(problem, what)))
    monkeypatch.setattr(torch.autograd, "grad", counted("grad", torch.autograd.grad))
    taken = step(weighting, problem, state, **{**given, "learned": learned})
    reads = {request.field for request in weighting.reads}
    ahead = name in ("SLGrad, look-ahead", "MetaWeightNet")
    due = name == "AuxiLearn, network"
    gains = dict.fromkeys(("HydaLearn", "HydaLearn, batch", "HydaLearn, metric"), 1 + 4)
    assert calls["losses"] == 1 + ahead
    assert calls["meta_loss"] == (due or not {"alignment", "meta_alignment", "meta_norm"}.isdisjoint(reads))
    assert calls["score"] == gains.get(name, 0)
    assert calls["grad"] == GRADIENTS.get(name, GRADIENTS.get(name.split(",")[0], lambda n: 0))(4)
    combined = type(taken.objective.grad_fn).__name__ == "_CombineBackward"
    assert combined == (not {"gramian", "gains"}.isdisjoint(reads) and name != "OrthogonalGradients")


def test_a_field_that_is_not_given_is_named():
    weighting = METHODS["Uncertainty"](2)
    problem, given = at_step(weighting, [Network(1, 2)], 0, stacked=False)
    with pytest.raises(ValueError, match="'regression'"):
        step(weighting, problem, (), present=given["present"], learned=torch.zeros(2))


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (mtl.DWA, {"temperature": 0}),
        (mtl.SLAW, {"beta": 1.5}),
        (mtl.SLAW, {"eps": 0}),
        (mtl.GradNorm, {"alpha": -1}),
        (mtl.GradNorm, {"lr": -0.1}),
        (mtl.OLAux, {"every": 0}),
        (mtl.OLAux, {"beta": -1}),
        (mtl.MetaTartan, {"beta": float("inf")}),
        (mtl.HydaLearn, {"step": -1}),
        (mtl.HydaLearn, {"on": "test"}),
        (mtl.SLGrad, {"lookahead": float("nan")}),
        (mtl.GradientCosine, {"on": "test"}),
        (mtl.MetaWeightNet, {"hidden": 0}),
        (mtl.MetaWeightNet, {"lr": -1}),
        (mtl.MetaWeightNet, {"lookahead": -0.1}),
        (mtl.AuxiLearn, {"hidden": 0}),
        (mtl.AuxiLearn, {"every": 0}),
        (mtl.AuxiLearn, {"lr": float("inf")}),
        (mtl.AuxiLearn, {"alpha": -1}),
        (mtl.AuxiLearn, {"terms": -1}),
        (mtl.ARML, {"lr": -1}),
        (mtl.NoiseLayer, {"flip": 0.5}),
        (mtl.NoiseLayer, {"flip": 1}),
        (mtl.OrthogonalGradients, {"strength": -1}),
        (mtl.Fixed, {"weights": (1, -1)}),
    ],
)
def test_hyper_parameters_out_of_range_are_named(make, options):
    (field,) = options
    with pytest.raises(ValueError, match=rf"^{field}.* is .*, expected"):
        make(**options)


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([1.0, math.nan, 0.5], [2 / 3, 0, 1 / 3]),
        ([1.0, -math.inf, 0.5], [2 / 3, 0, 1 / 3]),
        ([1.0, math.inf, 0.5], [2 / 3, 0, 1 / 3]),
        ([math.nan, math.nan, 0.5], [0, 0, 1]),
        ([math.nan, math.nan, -1.0], [1, 0, 0]),
        ([math.nan, math.nan, math.nan], [1, 0, 0]),
    ],
)
def test_a_gain_that_is_not_finite_counts_as_none(gains, expected):
    signal = Signal(torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool), gains=torch.tensor(gains))
    weights, _ = mtl.HydaLearn().update((), signal)
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32))


def test_a_metric_must_be_a_function():
    with pytest.raises(TypeError, match="metric is 'accuracy'"):
        mtl.HydaLearn(metric="accuracy")


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method(2).stacks])
def test_stays_on_its_device_and_never_branches_on_a_value(name):
    weighting = METHODS[name](3)

    def on_meta(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device="meta")  # a device whose tensors have no values

    like = on_meta()
    state, learned = weighting.init(3, like), weighting.learn(3, like)
    per_task = ("noise", "last_norms", "meta_alignment", "implicit_alignment", "gains")
    signal = Signal(
        on_meta(5, 3),
        on_meta(5, 3, dtype=torch.bool),
        epoch=on_meta(dtype=torch.long),
        lr=on_meta(),
        regression=on_meta(3, dtype=torch.bool),
        binary=on_meta(3, dtype=torch.bool),
        learned=learned,
        gramian=on_meta(3, 3),
        alignment=on_meta(5, 3),
        meta_norm=on_meta(),
        **{field: on_meta(3) for field in per_task},
    )
    for _ in range(2):
        weights, state = weighting.update(state, signal)
        assert all(leaf.device.type == "meta" for leaf in (weights, *tree_flatten(state)[0]))
    penalty = weighting.penalty(signal)
    assert penalty is None or penalty.device.type == "meta"


def test_fixed_weights_must_fit_the_tasks():
    with pytest.raises(ValueError, match=r"2 weights, expected 3"):
        METHODS["Fixed"](2).init(3, torch.zeros(()))
