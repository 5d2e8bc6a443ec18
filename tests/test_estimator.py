import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import mtlkit as mtl
from mtlkit.datasets import Dataset, Split

QUICK = {"hidden": (8,), "epochs": 10, "lr": 0.1, "random_state": 0}
EXPECTED_FAILURES = {}
"""Of scikit-learn's own checks, all of which fit without auxiliaries: none."""
SKIPPED = {"check_array_api_input"}
"""Runs only where the environment variable SCIPY_ARRAY_API is set."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [mtl.AuxiliaryClassifier, mtl.AuxiliaryRegressor])
def test_scikit_learns_own_checks(kind):
    done = check_estimator(kind(**QUICK), expected_failed_checks=EXPECTED_FAILURES, on_skip=None)
    assert len(done) > 45
    assert {check["check_name"] for check in done if check["status"] != "passed"} <= SKIPPED


def problem(n=120, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(2, 3, size=(n, 4))
    near = X[:, 0] - X[:, 1] + rng.normal(0, 0.3, n)
    y = np.array(["down", "flat", "up"])[np.digitize(near, [-2, 2])]
    auxiliaries = pd.DataFrame({"near": near, "side": np.where(X[:, 0] > 2, "left", "right")})
    auxiliaries.loc[::7, "near"] = np.nan
    return X, y, auxiliaries


def by_hand(X, targets, tasks, mask, seeds, weighting):
    """Predicted outputs of the main task, a list over seeds, from a data set whose columns are scaled here."""
    train = ~mask
    x = torch.from_numpy((X - X[train].mean(0)) / X[train].std(0))
    whole = Split(x, targets, torch.arange(len(x)), torch.zeros(len(x), len(tasks), dtype=torch.bool))
    train, held = (whole.take(torch.from_numpy(np.flatnonzero(rows))) for rows in (train, mask))
    data = Dataset("by hand", tasks, train, held, held)
    options = {"epochs": 10, "lr": 0.1, "batch_size": 64, "dtype": torch.float64}
    runs = mtl.fit(mtl.models.mlp(data, hidden=(8,)), data, weighting, seeds=seeds, **options)
    with torch.no_grad():
        return [runs.model(seed)(x)["y"] for seed in seeds]


@pytest.mark.parametrize("weighting", [None, mtl.SLGrad()])
def test_a_classifier_is_fit_on_these_tasks(weighting):
    X, y, auxiliaries = problem()
    mask = np.arange(120) % 4 == 0
    model = mtl.AuxiliaryClassifier(weighting, seeds=2, **QUICK).fit(X, y, auxiliaries=auxiliaries, meta=mask)
    known = auxiliaries["near"][~mask]
    near = (auxiliaries["near"] - known.mean()) / known.std(ddof=0)
    targets = {
        "y": torch.tensor([["down", "flat", "up"].index(label) for label in y]),
        "near": torch.tensor(near.to_numpy()),
        "side": torch.tensor((auxiliaries["side"] == "right").to_numpy(float)),
    }
    tasks = (mtl.Task("y", "multiclass", 3), mtl.Task("near", "regression"), mtl.Task("side", "binary"))
    outputs = by_hand(X, targets, tasks, mask, model.runs_.seeds, weighting or mtl.Uniform())
    expected = sum(np.exp(o) / np.exp(o).sum(1, keepdims=True) for o in map(np.asarray, outputs)) / 2
    assert len(model.runs_.seeds) == 2
    np.testing.assert_allclose(model.predict_proba(X), expected, rtol=1e-8)
    assert model.predict(X).tolist() == [["down", "flat", "up"][c] for c in expected.argmax(1)]
    assert model.score(X, y) > 0.5


def test_a_regression_is_fit_in_its_own_units():
    X, _, _ = problem()
    y = 1000 + 50 * X[:, 0]
    mask = np.arange(120) % 4 == 0
    side = np.where(X[:, 1] > 0, 1.0, 0.0)
    model = mtl.AuxiliaryRegressor(seeds=2, **QUICK).fit(X, y, auxiliaries=side[:, None], meta=mask)
    mean, sd = y[~mask].mean(), y[~mask].std()
    targets = {"y": torch.from_numpy((y - mean) / sd), "auxiliary 0": torch.from_numpy(side)}
    tasks = (mtl.Task("y", "regression"), mtl.Task("auxiliary 0", "binary"))
    outputs = by_hand(X, targets, tasks, mask, model.runs_.seeds, mtl.Uniform())
    np.testing.assert_allclose(model.predict(X), torch.stack(outputs).mean(0).squeeze(1) * sd + mean, rtol=1e-10)
    assert model.score(X, y) > 0.8


def test_kinds_of_auxiliaries_are_those_of_from_frame():
    X, y, frame = problem()
    frame["colour"] = np.resize(["red", "green", "blue"], 120)
    data = mtl.datasets.from_frame(frame.assign(y=y, x=X[:, 0]), "y", ["near", "side", "colour"])
    expected = [(task.kind, task.n_classes) for task in data.tasks]
    model = mtl.AuxiliaryClassifier(**QUICK)
    for given, names in ((frame, list(frame)), (frame.to_numpy(), [f"auxiliary {i}" for i in range(3)])):
        tasks = model.fit(X, y, auxiliaries=given).runs_.draws[0].tasks
        assert [(task.kind, task.n_classes) for task in tasks] == expected
        assert [task.name for task in tasks] == ["y", *names]


def test_frames_with_text_and_missing_values():
    X, y, auxiliaries = problem()
    frame = pd.DataFrame(X, columns=list("abcd"), index=range(500, 620)).assign(town=np.resize(["Lyon", "Metz"], 120))
    frame.loc[503, "a"] = np.nan
    model = mtl.AuxiliaryClassifier(**QUICK).fit(frame, y, auxiliaries=auxiliaries)
    assert model.feature_names_in_.tolist() == list(frame)
    assert np.isfinite(model.predict_proba(frame)).all()
    with pytest.warns(UserWarning, match="column 'town' holds 'Nice'"):
        model.predict(frame.iloc[:2].assign(town="Nice"))
    with pytest.raises(ValueError, match="The feature names should match"):
        model.predict(frame.drop(columns="town"))
    with pytest.raises(ValueError, match="column 'a' holds text, expected numbers as in training"):
        model.predict(frame.assign(a="many"))


def test_meta_rows_are_a_fifth_of_each_class_or_those_that_are_given():
    X, y, _ = problem()
    y = np.where(np.arange(120) < 20, "rare", y)
    model = mtl.AuxiliaryClassifier(**QUICK).fit(X, y)
    samples = model.runs_.samples
    held = np.setdiff1d(np.arange(120), samples["row"])
    counts = pd.Series(y).value_counts()
    assert pd.Series(y[held]).value_counts().to_dict() == {name: round(0.2 * n) for name, n in counts.items()}
    mask = np.arange(120) % 3 == 0
    samples = model.fit(X, y, meta=mask).runs_.samples
    assert np.array_equal(np.sort(samples["row"]), np.flatnonzero(~mask))
    few = mtl.AuxiliaryClassifier(**QUICK).fit(X[:4], ["a", "a", "b", "b"])
    assert len(few.runs_.samples) == 3


def test_the_random_state_decides():
    X, y, auxiliaries = problem()
    first, again, other = (
        mtl.AuxiliaryClassifier(**{**QUICK, "random_state": state}).fit(X, y, auxiliaries).predict_proba(X)
        for state in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


class Watched(mtl.AuxiliaryClassifier):
    """Keeps what every fit was given."""

    def fit(self, X, y, auxiliaries=None, meta=None):
        SEEN.append((X, auxiliaries, meta))
        return super().fit(X, y, auxiliaries, meta)


SEEN = []


@pytest.mark.parametrize("wrapped", [False, True])
def test_cross_validation_hands_each_fold_its_auxiliaries(wrapped):
    X, y, auxiliaries = problem()
    mask = np.arange(120) % 2 == 0
    folds = KFold(3)
    SEEN.clear()
    with sklearn.config_context(enable_metadata_routing=True):
        model = Watched(**QUICK).set_fit_request(auxiliaries=True, meta=True)
        model = make_pipeline(StandardScaler(), model) if wrapped else model
        scores = cross_val_score(model, X, y, cv=folds, params={"auxiliaries": auxiliaries, "meta": mask})
    assert len(SEEN) == 3
    for score, (train, test), (inputs, given, meta) in zip(scores, folds.split(X), SEEN, strict=True):
        scaler = StandardScaler().fit(X[train])
        change = scaler.transform if wrapped else np.asarray
        np.testing.assert_allclose(inputs, change(X[train]))
        pd.testing.assert_frame_equal(given, auxiliaries.iloc[train])
        assert np.array_equal(meta, mask[train])
        alone = mtl.AuxiliaryClassifier(**QUICK).fit(change(X[train]), y[train], auxiliaries.iloc[train], mask[train])
        assert score == alone.score(change(X[test]), y[test])
    with sklearn.config_context(enable_metadata_routing=True), pytest.raises(ValueError, match="auxiliaries"):
        cross_val_score(mtl.AuxiliaryClassifier(**QUICK), X, y, params={"auxiliaries": auxiliaries})


def test_weightings_are_hyper_parameters():
    X, y, auxiliaries = problem(60)
    weightings = [mtl.Uniform(), mtl.SLGrad()]
    search = GridSearchCV(mtl.AuxiliaryClassifier(**QUICK), {"weighting": weightings}, cv=2)
    search.fit(X, y, auxiliaries=auxiliaries)
    assert search.best_params_["weighting"] in weightings
    assert search.best_estimator_.runs_.method == type(search.best_params_["weighting"]).__name__
    copy = clone(search.best_estimator_)
    assert type(copy.weighting) is type(search.best_params_["weighting"])
    with pytest.raises(NotFittedError):
        copy.predict(X)


def test_what_cannot_be_fit_is_refused():
    X, y, auxiliaries = problem()
    model = mtl.AuxiliaryClassifier(**QUICK)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(X, y, auxiliaries=auxiliaries[:-1])
    with pytest.raises(ValueError, match=r"auxiliaries has columns \['y', 'side'\], expected different names other"):
        model.fit(X, y, auxiliaries=auxiliaries.rename(columns={"near": "y"}))
    with pytest.raises(ValueError, match=r"meta is int64 of shape \(120,\), expected bool of shape \(120,\)"):
        model.fit(X, y, meta=np.ones(120, dtype=int))
    with pytest.raises(ValueError, match="120 samples with 120 meta rows, expected a row at least on either side"):
        model.fit(X, y, meta=np.ones(120, dtype=bool))
    with pytest.raises(ValueError, match=r"y has 1 class \('up'\), expected 2 or more"):
        model.fit(X, ["up"] * 120)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": [1, 2]}, r"seeds is \[1, 2\], expected how many models to train, 1 or more"),
        ({"seeds": 0}, "seeds is 0, expected how many models to train"),
        ({"hidden": 64}, r"hidden is 64, expected the widths of the layers, such as \(64, 64\)"),
        ({"lr": 1e6, "epochs": 3}, "every model diverged with lr=1000000.0, expected a lower one"),
    ],
)
def test_options_that_cannot_be_meant(options, message):
    x = np.random.default_rng(0).normal(size=(60, 3))
    with pytest.raises(ValueError, match=message):
        mtl.AuxiliaryRegressor(**options).fit(x, 1e3 * x[:, 0])
