import numpy as np
import pytest
import torch

from mtlkit import Uniform, fit, models
from mtlkit.datasets import load
from mtlkit.datasets.synthetic import N_INPUTS


def test_shapes_and_range():
    data = load("toy_regression", seed=4)
    assert [len(s) for s in data.splits.values()] == [600, 200, 200]
    assert data.train.x.shape == (600, 250)
    assert data.train.x.dtype == torch.float64
    for split in data.splits.values():
        for y in split.y.values():
            assert ((y >= 0) & (y <= 1)).all()
    assert abs(float(data.train.x.std()) - 1) < 0.01


def test_distance_zero_makes_the_tasks_equal():
    data = load("toy_regression", distance=0)
    assert torch.equal(data.test.y["main"], data.test.y["auxiliary"])
    apart = load("toy_regression")
    assert not torch.equal(apart.test.y["main"], apart.test.y["auxiliary"])


@pytest.mark.parametrize("noisy_tasks", ["main", "all"])
@pytest.mark.parametrize("noise", ["constant", "gaussian"])
def test_noise(noise, noisy_tasks):
    clean = load("toy_regression", seed=1)
    noisy = load("toy_regression", seed=1, label_noise=0.3, noise=noise, noisy_tasks=noisy_tasks)
    assert noisy.train.noisy.sum(0).tolist() == [180, 180 if noisy_tasks == "all" else 0]
    for t, task in enumerate(("main", "auxiliary")):
        mark = noisy.train.noisy[:, t]
        assert torch.equal(clean.train.y[task][~mark], noisy.train.y[task][~mark]) or noisy_tasks == "all"
        wrong = noisy.train.y[task][mark]
        if noise == "constant":
            assert (wrong == -0.5).all()
        elif len(wrong):
            assert abs(float(wrong.std()) - 0.2) < 0.04
            assert abs(float(wrong.mean())) < 0.06
    assert not noisy.meta.noisy.any()
    assert not noisy.test.noisy.any()
    assert torch.equal(clean.test.y["main"], noisy.test.y["main"]) or noisy_tasks == "all"


def test_drift_moves_the_auxiliary_to_its_end_and_nothing_else():
    options = {"seed": 3, "label_noise": 0.2, "noisy_tasks": "all"}
    data = load("toy_regression", **options, distance=1.0, drift_to=9.0, drift_epochs=(4, 8))
    end = load("toy_regression", **options, distance=9.0)
    for epoch in (1, 4):
        assert torch.equal(data.train_at(epoch).y["auxiliary"], data.train.y["auxiliary"])
    for epoch in (8, 50):
        assert torch.equal(data.train_at(epoch).y["auxiliary"], end.train.y["auxiliary"])
    between = load("toy_regression", **options, distance=5.0).train.y["auxiliary"]
    torch.testing.assert_close(data.train_at(6).y["auxiliary"], between)
    late = data.train_at(50)
    assert torch.equal(late.y["main"], data.train.y["main"])
    assert torch.equal(late.x, data.train.x)
    assert torch.equal(late.noisy, data.train.noisy)
    assert (late.y["auxiliary"][late.noisy[:, 1]] == -0.5).all()
    assert load("toy_regression").train_at is None
    assert not torch.equal(data.resample(4).train_at(8).y["auxiliary"], late.y["auxiliary"])


def test_drift_changes_relevance_as_documented():
    """The targets' correlation before and after the drift, against a simulation of the stated distribution."""
    start, end = 0.1, 3.0
    before, after = [], []
    for seed in range(20):
        data = load("toy_regression", distance=start, drift_to=end, drift_epochs=(0, 1), n_train=2000, seed=seed)
        for epoch, found in ((0, before), (1, after)):
            found.append(np.corrcoef(*(y.numpy() for y in data.train_at(epoch).y.values()))[0, 1])
    for found, distance in ((before, start), (after, end)):
        assert np.mean(found) == pytest.approx(_simulated(start, distance), abs=0.025)
    assert np.mean(before) > np.mean(after) + 0.05


def _simulated(main: float, auxiliary: float) -> float:
    correlation = 1 / np.sqrt((1 + main) * (1 + auxiliary))
    first, second = np.random.default_rng(0).standard_normal((2, 400_000))
    second = correlation * first + np.sqrt(1 - correlation**2) * second
    scales = np.sqrt(N_INPUTS * (1 + np.array([main, auxiliary])))
    return np.corrcoef(np.abs(np.tanh(scales[0] * first)), np.abs(np.tanh(scales[1] * second)))[0, 1]


def test_training_sees_the_drift():
    """With a learning rate of zero the recorded training loss changes with the targets alone."""
    data = load("toy_regression", distance=0, drift_to=5.0, drift_epochs=(1, 3), n_train=100, n_meta=20, n_test=20)
    model = models.mlp(data, hidden=(4,))
    runs = fit(model, data, Uniform(), epochs=3, batch_size=50, lr=0.0, seeds=[2], dtype=torch.float64)
    frame = runs.frame[(runs.frame["split"] == "train") & (runs.frame["metric"] == "loss")]
    found = frame.pivot_table(index="epoch", columns="task", values="value")
    model = model.double()
    model.load_state_dict(runs.state_dict(2))
    draw = data.resample(2)
    outputs = model(draw.train.x)
    for epoch in range(4):
        targets = draw.train_at(epoch).y
        for task in ("main", "auxiliary"):
            expected = (outputs[task][:, 0] - targets[task]).square().mean().item()
            assert found.loc[epoch, task] == pytest.approx(expected)
    assert found["main"].nunique() == 1
    assert abs(found.loc[3, "auxiliary"] - found.loc[1, "auxiliary"]) > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_noise": -0.1}, "label_noise is -0.1, expected a number from 0 to 1"),
        ({"noise": "flip"}, "noise is 'flip', expected 'constant' or 'gaussian'"),
        ({"noisy_tasks": "both"}, "noisy_tasks is 'both', expected 'main' or 'all'"),
        ({"n_meta": 0}, "splits have 600, 0 and 200 rows, expected at least 1 each"),
        ({"distance": -1.0}, "distance is -1.0, expected a variance of at least 0"),
        ({"drift_to": float("nan")}, "drift_to is nan, expected a variance"),
        ({"drift_to": 1.0, "drift_epochs": (5, 5)}, "drift_epochs is \\(5, 5\\), expected two increasing epochs"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        load("toy_regression", **options)
