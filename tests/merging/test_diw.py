import copy

import numpy as np
import pytest
import torch

import mtlkit as mtl
from mtlkit.merging import error_rate


def error(model, data):
    with torch.no_grad():
        guess = model(data.meta.x)["t0"].squeeze(-1) > 0
    return (guess != data.meta.y["t0"].bool()).double().mean().item()


@pytest.mark.parametrize(
    ("kinds", "method", "share"),
    [
        (("binary", "regression", "binary"), mtl.DIW(), 1.0),
        (("regression", "regression", "binary"), mtl.DIW(rho=0.5, metric=None, paper_scale=True), 0.5),
    ],
)
def test_agrees_with_a_slow_reference(slow, drawn, kinds, method, share):
    data, seed, epochs = slow.make(kinds), 4, 4
    measured = slow.meta_loss if method.metric is None else error
    model = slow.initial(data, seed)
    runs = slow.run(data, method, seeds=[seed], epochs=epochs)
    w = np.ones(3)
    for e in range(epochs):
        np.testing.assert_allclose(slow.values(runs, "task_weight", seed)[e], w, atol=1e-8)
        branches = []
        for t in range(3):
            branch = copy.deepcopy(model)
            weights = np.eye(3)[t] * w / (1 if method.paper_scale else 3)
            slow.train(branch, slow.sgd(branch), data, weights, drawn[e][t, 0])
            branches.append(branch)
        merged = slow.blend(model, branches, [1, 1, 1], deltas=True)
        gain = np.array(
            [
                measured(slow.blend(model, branches, 1 - np.eye(3)[t], deltas=True), data) - measured(merged, data)
                for t in range(3)
            ]
        )
        np.testing.assert_allclose(slow.values(runs, "meta_gain", seed)[e], gain, atol=1e-8)
        w, model = np.maximum(w + gain, 0), merged
    assert np.abs(slow.values(runs, "meta_gain", seed)).max() > 0
    slow.assert_same(runs, seed, model)
    assert (slow.values(runs, "branch_steps", seed) == share * slow.steps).all()


def test_weights_never_fall_below_zero_and_zero_is_final(slow):
    method = mtl.DIW(metric=lambda output, target: 100 * (output.squeeze(-1) - target).square().mean())
    weights = slow.values(slow.run(slow.make(), method, epochs=12), "task_weight")
    gone = np.maximum.accumulate(weights == 0, axis=0)
    assert gone.any()
    assert (weights >= 0).all()
    assert (weights[gone] == 0).all()


def test_an_error_rate_of_a_regression_is_refused(slow):
    with pytest.raises(ValueError, match="error rate needs classes"):
        slow.run(slow.make(), mtl.DIW())


def test_error_rate_leaves_out_elements_without_a_label():
    target = torch.tensor([[0, 1], [-1, 2]])
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 2], [1, 2]]), 3).movedim(-1, 1).double()
    assert error_rate(logits, target) == pytest.approx(1 / 3)
    nan = torch.tensor([1.0, torch.nan, 0.0])
    assert error_rate(torch.tensor([2.0, 2.0, 2.0]), nan) == 0.5


@pytest.mark.parametrize(("options", "kind"), [({"rho": 0.0}, ValueError), ({"metric": "error"}, TypeError)])
def test_refuses_options_out_of_range(options, kind):
    with pytest.raises(kind, match=f"DIW: {next(iter(options))}"):
        mtl.DIW(**options)
