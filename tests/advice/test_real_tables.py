"""Advice on real tables, and on two whose truth is known, against an analysis by hand with scikit-learn."""

import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import datasets as shipped
from sklearn.compose import make_column_transformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import accuracy_score, roc_auc_score, root_mean_squared_error
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, StratifiedKFold
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import mtlkit as mtl
from mtlkit.datasets.uci import _ADULT


def in_folder(*parts):
    folder = os.environ.get("MTLKIT_DATA")
    if not folder:
        pytest.skip("MTLKIT_DATA is not set: not run on the real files")
    return Path(folder, *parts)


def adult():
    frame = pd.read_csv(in_folder("adult", "adult.data"), names=_ADULT, skipinitialspace=True, na_values="?")
    return frame.drop(columns=["fnlwgt", "education"])[:5000]


def parkinsons():
    return pd.read_csv(in_folder("parkinsons-telemonitoring", "parkinsons_updrs.data")).rename(
        columns=lambda n: n.strip()
    )


def digits():
    frame = shipped.load_digits(as_frame=True).frame
    digit = frame.pop("target")
    return frame.assign(is_8=(digit == 8).astype(int), is_3=(digit == 3).astype(int))


def made(helpful, seed=0):
    """Few labels of the main task; the auxiliary is what lies behind them, or a puzzle that takes the whole network."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4000 if helpful else 2000, 10))
    plane = np.linalg.qr(rng.normal(size=(10, 2)))[0]
    behind = (x @ plane).prod(1)
    puzzle = rng.normal(size=(10, 50))
    puzzle -= plane @ (plane.T @ puzzle)
    frame = pd.DataFrame(x).add_prefix("x")
    main = behind + rng.normal(0, 0.2, len(x))
    frame["main"] = np.where(np.arange(len(x)) % 4 == 0, main, np.nan) if helpful else main
    frame["other"] = behind + rng.normal(0, 0.1, len(x)) if helpful else [f"k{k}" for k in (x @ puzzle).argmax(1)]
    return frame


WORST = ["worst radius", "worst concave points"]
TABLES = {
    "breast cancer": (lambda: shipped.load_breast_cancer(as_frame=True).frame, "target", WORST, {}),
    "diabetes": (lambda: shipped.load_diabetes(as_frame=True, scaled=False).frame, "target", ["s5", "s6"], {}),
    "wine": (lambda: shipped.load_wine(as_frame=True).frame, "target", ["proline", "hue"], {}),
    "iris": (lambda: shipped.load_iris(as_frame=True).frame, "target", ["petal width (cm)"], {}),
    "digits": (digits, "is_8", ["is_3"], {}),
    "adult, income": (adult, "income", ["marital-status", "education-num"], {}),
    "adult, hours": (adult, "hours-per-week", ["income"], {}),
    "parkinsons": (parkinsons, "motor_UPDRS", ["total_UPDRS"], {"groups": "subject#"}),
    "helpful": (lambda: made(True), "main", ["other"], {}),
    "harmful": (lambda: made(False), "main", ["other"], {}),
}
RANK = {"constant": 0, "linear": 1, "trees": 2}


@pytest.fixture(scope="module", params=TABLES)
def advised(request):
    """The advice on three quarters of the rows, and the last quarter."""
    load, main, auxiliaries, options = TABLES[request.param]
    frame = load()
    labelled = frame[main].notna()
    if "groups" in options:
        names = frame[options["groups"]].unique()
        held = frame[options["groups"]].isin(np.random.default_rng(1).permutation(names)[: len(names) // 4])
    else:
        held = labelled & (np.random.default_rng(1).random(len(frame)) < 0.25)
    effort = "default" if request.config.getoption("--thorough") else "quick"
    advice = mtl.advise(frame[~held], main, auxiliaries, **options, effort=effort, jobs=1)
    return request.param, advice, frame[~held], frame[held], main, auxiliaries, options


def by_hand(frame, main, auxiliaries, groups=None):
    """Scores of the levels in five folds, as one would write it; and of a perceptron with and without auxiliaries."""
    known = frame[frame[main].notna()].reset_index(drop=True)
    y, x = known[main], known.drop(columns=[main, *auxiliaries, *([groups] if groups else [])])
    regression = y.nunique() > 10
    text = x.select_dtypes(exclude="number").columns
    numbers = x.columns.drop(text)
    coded = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), numbers),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), text),
    )
    logistic = GridSearchCV(LogisticRegression(max_iter=3000), {"C": [0.01, 0.1, 1, 10]}, cv=3, scoring="neg_log_loss")
    grown = HistGradientBoostingRegressor if regression else HistGradientBoostingClassifier
    models = {
        "constant": DummyRegressor() if regression else DummyClassifier(strategy="prior"),
        "linear": RidgeCV(np.logspace(-2, 3, 6)) if regression else logistic,
        "trees": grown(max_iter=80, max_leaf_nodes=8, random_state=0),
    }
    splitter = GroupKFold(5) if groups else (KFold if regression else StratifiedKFold)(5, shuffle=True, random_state=7)
    scores = []
    for train, test in splitter.split(x, y if not regression else None, known[groups] if groups else None):
        row = {}
        inputs, new = coded.fit_transform(x.iloc[train]), coded.transform(x.iloc[test])
        for name, model in models.items():
            model.fit(inputs, y.iloc[train])
            row[name] = score(model, new, y.iloc[test], regression)
        scores.append(row)
    return pd.DataFrame(scores), regression


def score(model, x, y, regression):
    if regression:
        return -root_mean_squared_error(y, model.predict(x))
    if y.nunique() > 2:
        return accuracy_score(y, model.predict(x))
    return roc_auc_score(y == model.classes_[1], model.predict_proba(x)[:, 1])


def surely_behind(values, best):
    d = values - best
    sd = d.std(ddof=1)
    if sd == 0:
        return d.mean() < 0
    return d.mean() < 0 and 2 * stats.t.sf(abs(d.mean()) / (sd * np.sqrt(1 / len(d) + 0.25)), len(d) - 1) < 0.05 / 2


def test_the_winner_is_that_of_an_analysis_by_hand(advised):
    _, advice, frame, _, main, auxiliaries, options = advised
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores, regression = by_hand(frame, main, auxiliaries, options.get("groups"))
    best = scores.mean().idxmax()
    equal = [level for level in scores if level == best or not surely_behind(scores[level], scores[best])]
    level = advice.model.level
    found = next((family for family in RANK if family in level), "network")
    sign = -1 if regression else 1
    if found == "network":
        assert sign * advice.levels.loc[level, "mean"] > scores.mean().max()
    else:
        assert found in equal, (scores.mean(), advice.levels)
        assert RANK[found] <= max(map(RANK.get, equal))
    for family, ours in (("linear", "linear model"), ("trees", "boosted trees")):
        theirs = scores[family]
        tolerance = 3 * theirs.std(ddof=1) / np.sqrt(5) + 0.02 * abs(theirs.mean())
        assert sign * advice.levels.loc[ours, "mean"] == pytest.approx(theirs.mean(), abs=tolerance)


@pytest.mark.filterwarnings("ignore:column .* expected categories of the training rows")
def test_new_rows_reach_what_was_promised(advised):
    _, advice, _, held, main, _, _ = advised
    said, truth = advice.model.predict(held), held[main]
    low, high = advice.levels.loc[advice.model.level, ["low", "high"]]
    if isinstance(said, pd.Series):
        reached = root_mean_squared_error(truth, said)
    elif said.shape[1] == 2:
        reached = roc_auc_score(truth.astype(str) == said.columns[1], said.iloc[:, 1])
    else:
        reached = accuracy_score(truth.astype(str), said.idxmax(axis=1))
    assert low <= reached <= high


def test_whether_the_auxiliaries_help(advised):
    name, advice, *_ = advised
    verdicts = set(advice.helps["verdict"])
    if name == "helpful":
        assert "better" in verdicts
        assert advice.which["verdict"].tolist() == ["helps"]
    elif name == "harmful":
        assert "better" not in verdicts
        assert advice.which["verdict"].tolist() == ["hurts"]


@pytest.mark.parametrize("name", ["diabetes", "parkinsons"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_perceptrons_of_scikit_learn_do_not_contradict(name):
    """Multi-output regression against one output, in the folds of the hand analysis."""
    load, main, auxiliaries, options = TABLES[name]
    frame = load()
    targets = frame[[main, *auxiliaries]].to_numpy(float)
    x = frame.drop(columns=[main, *auxiliaries, *options.values()]).to_numpy(float)
    groups = frame[options["groups"]] if options else None
    d = []
    for train, test in (GroupKFold(5) if options else KFold(5, shuffle=True, random_state=7)).split(x, groups=groups):
        scaler, of = StandardScaler().fit(x[train]), StandardScaler().fit(targets[train])
        y = of.transform(targets[train])
        errors = []
        for columns in ([0], list(range(y.shape[1]))):
            model = MLPRegressor(hidden_layer_sizes=(32, 32), early_stopping=True, max_iter=200, random_state=0)
            model.fit(scaler.transform(x[train]), y[:, columns].squeeze())
            said = model.predict(scaler.transform(x[test])).reshape(len(test), -1)[:, 0]
            errors.append(root_mean_squared_error(of.transform(targets[test])[:, 0], said))
        d.append(errors[1] - errors[0])
    error = np.std(d, ddof=1) * np.sqrt(1 / 5 + 0.25)
    assert abs(np.mean(d)) / error < stats.t.ppf(0.995, 4)


def test_twenty_rows_are_refused():
    frame = shipped.load_linnerud(as_frame=True).frame
    with pytest.raises(mtl.advice.Refused, match="20 rows have a label for 'Weight', expected at least 50"):
        mtl.advise(frame, "Weight", ["Waist"])
