"""Properties on random signals: any shape, pattern of missing labels and magnitude."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods import METHODS, begin
from test_contract import check_promises
from torch.utils._pytree import tree_leaves

from mtlkit.measure import Signal
from mtlkit.weighting import per_sample

QUICK = settings(derandomize=True, max_examples=12, deadline=None, database=None)


@st.composite
def signals(draw, n_steps=3, decades=12):
    """Consistent signals of a few steps: all fields follow from per-sample losses and gradients.

    Each task's losses and gradients have magnitudes of their own, or are exactly zero.
    """
    n_tasks, batch = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    scales = draw(st.lists(st.integers(-decades, decades), min_size=n_tasks, max_size=n_tasks))
    zero = draw(st.lists(st.booleans(), min_size=n_tasks, max_size=n_tasks))
    missing = draw(st.floats(0, 1))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    scale = torch.tensor([0.0 if z else 10.0**s for s, z in zip(scales, zero, strict=True)], dtype=dtype)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    found = []
    for k in range(n_steps):
        present = torch.rand(batch, n_tasks, generator=generator) >= missing
        losses = torch.where(present, normal(batch, n_tasks).abs() * scale, 0)
        each = torch.where(present.unsqueeze(-1), normal(batch, n_tasks, 7) * scale.unsqueeze(-1), 0)
        mean = each.sum(0) / present.sum(0).clamp(min=1).unsqueeze(-1)
        meta = normal(7) * scale[0]
        found.append(
            Signal(
                losses,
                present,
                epoch=torch.tensor(k),
                lr=torch.tensor(0.1, dtype=dtype),
                regression=torch.arange(n_tasks) % 2 == 0,
                binary=torch.arange(n_tasks) % 2 == 1,
                noise=normal(n_tasks),
                gramian=mean @ mean.T,
                last_norms=mean[:, :3].norm(dim=1),
                alignment=each @ meta,
                meta_alignment=mean @ meta,
                meta_norm=meta.norm(),
                implicit_alignment=mean @ meta,
                gains=normal(n_tasks) * scale,
            )
        )
    return found


def walk(weighting, found):
    """Weights of one step after the other."""
    like = found[0].losses
    state, learned = begin(weighting, like.shape[-1], dtype=like.dtype)
    for signal in found:
        signal = signal._replace(learned=None if learned is None else learned.detach())
        weights, state = weighting.update(state, signal)
        penalty = weighting.penalty(signal)
        yield signal, weights, state, penalty


@pytest.mark.parametrize("name", METHODS)
def test_finite_and_as_documented_whatever_the_magnitude(name):
    @QUICK
    @given(signals())
    def check(found):
        n_tasks = found[0].losses.shape[-1]
        for signal, weights, state, penalty in walk(METHODS[name](n_tasks), found):
            assert weights.dtype == signal.losses.dtype
            check_promises(METHODS[name], weights, n_tasks)
            assert penalty is None or penalty.isfinite()
            known = [leaf for leaf in tree_leaves(state) if not leaf.is_floating_point() or not leaf.isnan().any()]
            assert all(leaf.isfinite().all() for leaf in known)
            given_out = per_sample(weights, signal.present)
            assert (given_out[~signal.present] == 0).all()

    check()


# MGDA picks the first of several zero gradients, and CAGrad's solver is too coarse across magnitudes.
@pytest.mark.parametrize(
    "name", [n for n, method in METHODS.items() if method.symmetric and n not in ("MGDA", "CAGrad")]
)
def test_permuted_auxiliaries_whatever_the_magnitude(name):
    @QUICK
    @given(signals(decades=3), st.randoms(use_true_random=False))
    def check(found, random):
        n_tasks = found[0].losses.shape[-1]
        order = [0, *random.sample(range(1, n_tasks), n_tasks - 1)]
        fields = {"meta_norm", "epoch", "lr"}
        other = [
            signal._replace(
                gramian=signal.gramian[order][:, order],
                **{
                    field: value[..., order]
                    for field, value in signal._asdict().items()
                    if value is not None and field not in fields | {"gramian"}
                },
            )
            for signal in found
        ]
        for (_, one, _, _), (_, two, _, _) in zip(
            walk(METHODS[name](n_tasks), found), walk(METHODS[name](n_tasks), other), strict=True
        ):
            assert (two - one[..., order]).abs().max() <= 2e-3 * one.abs().max()

    check()


@QUICK
@given(signals(n_steps=1), st.integers(-6, 6))
def test_ratios_do_not_depend_on_the_unit_of_the_loss(found, exponent):
    signal, c = found[0], 2.0**exponent
    scaled = signal._replace(
        losses=c * signal.losses,
        gramian=c * c * signal.gramian,
        alignment=c * signal.alignment,
        gains=c * signal.gains,
        meta_alignment=c * signal.meta_alignment,
    )
    of_cosine = ("GradientCosine, weighted", "GradientCosine, meta weighted")
    for name in ("AdaptiveWeights", "LogSE", *of_cosine, "HydaLearn", "SLGrad"):
        n_tasks = signal.losses.shape[-1]
        one, two = (next(walk(METHODS[name](n_tasks), [s]))[1] for s in (signal, scaled))
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-7)
