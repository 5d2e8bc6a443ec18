import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

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


def test_learnable_shapes_and_moments():
    data = load("synthetic", seed=4)
    assert [len(s) for s in data.splits.values()] == [600, 200, 200]
    assert data.train.x.shape == (600, 250)
    assert data.train.x.dtype == torch.float64
    assert [(t.name, t.kind) for t in data.tasks] == [("main", "regression"), ("auxiliary", "regression")]
    many = load("synthetic", seed=4, n_train=40_000, observation_noise=0.5, n_inputs=20).train
    for y in many.y.values():
        assert abs(float(y.mean())) < 0.03
        assert float(y.var()) == pytest.approx(1.25, abs=0.04)


@pytest.mark.parametrize("correlation", [-1.0, -0.3, 0.0, 0.8, 1.0])
def test_the_noiseless_targets_have_the_stated_correlation(correlation):
    """Exactly over all x, from the coefficients; within sampling error in the rows of a draw."""
    for seed in range(3):
        data = load("synthetic", seed=seed, correlation=correlation, observation_noise=0, n_inputs=30, n_train=4000)
        x, targets = data.train.x.numpy(), torch.stack(list(data.train.y.values()), 1).numpy()
        b = np.linalg.lstsq(x, targets, rcond=None)[0]
        np.testing.assert_allclose(x @ b, targets, atol=1e-9)
        np.testing.assert_allclose(b.T @ b, [[1, correlation], [correlation, 1]], atol=1e-9)
        error = 4 * (1 - correlation**2) / np.sqrt(len(x)) + 1e-9
        assert np.corrcoef(targets.T)[0, 1] == pytest.approx(correlation, abs=error)


def test_directions_differ_from_seed_to_seed_and_have_no_preferred_sign():
    first = [
        np.linalg.lstsq(data.train.x.numpy(), data.train.y["main"].numpy(), rcond=None)[0]
        for data in (load("synthetic", seed=s, observation_noise=0, n_inputs=8, n_train=20) for s in range(40))
    ]
    positive = (np.stack(first) > 0).mean(0)
    assert ((positive > 0.2) & (positive < 0.8)).all()


def test_observation_noise_is_in_every_split_and_task():
    clean, observed = (load("synthetic", seed=2, observation_noise=sd, n_test=2000) for sd in (0, 0.1))
    errors = []
    for where, split in clean.splits.items():
        assert torch.equal(split.x, observed.splits[where].x)
        for task, y in split.y.items():
            errors.append(observed.splits[where].y[task] - y)
            assert float(errors[-1].std()) == pytest.approx(0.1, abs=0.02)
    main, auxiliary = torch.cat(errors[::2]), torch.cat(errors[1::2])
    assert abs(np.corrcoef(main, auxiliary)[0, 1]) < 0.08


@pytest.mark.parametrize("noisy_tasks", ["main", "all"])
@pytest.mark.parametrize("noise", ["constant", "gaussian"])
def test_learnable_noise(noise, noisy_tasks):
    clean = load("synthetic", seed=1)
    noisy = load("synthetic", seed=1, label_noise=0.3, noise=noise, noisy_tasks=noisy_tasks)
    assert noisy.train.noisy.sum(0).tolist() == [180, 180 if noisy_tasks == "all" else 0]
    for t, task in enumerate(("main", "auxiliary")):
        mark = noisy.train.noisy[:, t]
        assert torch.equal(clean.train.y[task] != noisy.train.y[task], mark)
        wrong, right = noisy.train.y[task][mark], clean.train.y[task][mark]
        if noise == "constant":
            assert (wrong == -3).all()
        elif len(wrong):
            assert abs(float(wrong.mean())) < 0.3
            assert float(wrong.std()) == pytest.approx(1, abs=0.2)
            assert abs(np.corrcoef(wrong, right)[0, 1]) < 0.3
    for where in ("meta", "test"):
        assert not noisy.splits[where].noisy.any()
        for task in clean.train.y:
            assert torch.equal(clean.splits[where].y[task], noisy.splits[where].y[task])


def test_the_constant_lies_below_nearly_all_clean_targets():
    targets = torch.cat([load("synthetic", seed=seed, n_train=5000).train.y["main"] for seed in range(10)])
    assert float((targets > -3).double().mean()) == pytest.approx(0.9986, abs=0.0008)


def test_the_auxiliary_s_relevance_drifts():
    options = {"seed": 3, "label_noise": 0.2, "noisy_tasks": "all"}
    data = load("synthetic", **options, correlation=0.9, correlation_after=-0.1, drift_epochs=(4, 8))
    end, between = (load("synthetic", **options, correlation=c).train.y["auxiliary"] for c in (-0.1, 0.4))
    for epoch in (1, 4):
        assert torch.equal(data.train_at(epoch).y["auxiliary"], data.train.y["auxiliary"])
    for epoch in (8, 50):
        assert torch.equal(data.train_at(epoch).y["auxiliary"], end)
    torch.testing.assert_close(data.train_at(6).y["auxiliary"], between)
    late = data.train_at(50)
    assert torch.equal(late.y["main"], data.train.y["main"])
    assert torch.equal(late.x, data.train.x)
    assert (late.y["auxiliary"][late.noisy[:, 1]] == -3).all()
    for epoch, correlation in ((0, 0.9), (6, 0.4), (8, -0.1)):
        clean = ~(data.train.noisy.any(1))
        pair = [y[clean].numpy() for y in data.train_at(epoch).y.values()]
        assert np.corrcoef(*pair)[0, 1] == pytest.approx(correlation, abs=0.15)
    same = load("synthetic", **options, correlation=0.9)
    for where in ("meta", "test"):
        for task, y in same.splits[where].y.items():
            assert torch.equal(y, data.splits[where].y[task])
    assert same.train_at is None
    assert not torch.equal(data.resample(4).train_at(8).y["auxiliary"], late.y["auxiliary"])


def test_a_linear_model_learns_where_wrong_labels_are_left_out():
    """What the published toy does not allow: a long way from the best constant to the floor."""
    for seed in range(3):
        data = load("synthetic", seed=seed, label_noise=0.3, n_test=1000)
        test, right = data.test, ~data.train.noisy[:, 0]
        variance = float(test.y["main"].var())
        assert variance == pytest.approx(1.01, abs=0.15)
        assert _ridge_error(data.train.take(right), "main", test) < 0.05
        assert _ridge_error(data.train, "main", test) > 1
        assert _ridge_error(data.train, "auxiliary", test) == pytest.approx(2 * (1 - 0.8), abs=0.1)


def _ridge_error(split, task, test):
    fitted = Ridge(alpha=1.0).fit(split.x.numpy(), split.y[task].numpy())
    return np.square(fitted.predict(test.x.numpy()) - test.y["main"].numpy()).mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_noise": 1.1}, "label_noise is 1.1, expected a number from 0 to 1"),
        ({"noise": "flip"}, "noise is 'flip', expected 'constant' or 'gaussian'"),
        ({"noisy_tasks": "both"}, "noisy_tasks is 'both', expected 'main' or 'all'"),
        ({"n_test": 0}, "splits have 600, 200 and 0 rows, expected at least 1 each"),
        ({"n_inputs": 1}, "n_inputs is 1, expected at least 2"),
        ({"correlation": 1.2}, "correlation is 1.2, expected a number from -1 to 1"),
        ({"correlation_after": float("nan")}, "correlation_after is nan, expected a number from -1 to 1"),
        ({"observation_noise": -0.1}, "observation_noise is -0.1, expected a standard deviation of at least 0"),
        ({"drift_epochs": (-1, 5)}, "drift_epochs is \\(-1, 5\\), expected two increasing epochs"),
    ],
)
def test_learnable_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        load("synthetic", **options)
