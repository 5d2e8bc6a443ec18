"""Models as numbers: what scikit-learn says, kept in a file of tensors and text."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

import mtlkit as mtl
from mtlkit.advice import Refused
from mtlkit.advice._levels import Effort, Found, network
from mtlkit.advice._levels import fit_on_all as fitted_whole
from mtlkit.advice._models import Linear, Trees, boosted, flat
from mtlkit.advice._prepare import Roles, prepare
from mtlkit.results import predictions
from mtlkit.studies import Candidate, fits
from mtlkit.weighting import Uniform


def table(kind, n=300):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3))
    city = rng.choice(["Ghent", "Leuven", "Mons"], n)
    y = x[:, 0] + (city == "Mons") + rng.normal(0, 0.3, n)
    frame = pd.DataFrame(x, columns=["a", "b", "price"]).assign(city=city, other=rng.normal(size=n))
    frame["price"] = [f"{value:,.2f} €" for value in 2000 + 900 * frame["price"]]
    frame.loc[::7, "a"] = np.nan
    frame["y"] = {
        "regression": y,
        "binary": np.where(y > 0, "yes", "no"),
        "multiclass": pd.cut(y, 4, labels=list("wxyz")),
    }[kind]
    return frame


@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_they_say_what_scikit_learn_says(kind):
    data = prepare(table(kind), Roles("y")).data
    x, y, new = data.train.x, data.train.y["y"].numpy(), data.test.x
    trees = boosted(kind, 20, 31).fit(x.numpy(), y)
    own = Trees.of(trees, data.main.n_classes or 1)(new)
    rows = flat(x, data.categories)
    if kind == "regression":
        linear = Ridge(2.0).fit(rows, y)
        assert own[:, 0].numpy() == pytest.approx(trees.predict(new.numpy()), abs=1e-9)
        assert Linear.fit(data, x, y, 0.5)(new)[:, 0].numpy() == pytest.approx(
            linear.predict(flat(new, data.categories))
        )
        assert Linear.constant(data, y)(new).unique().item() == pytest.approx(y.mean())
    else:
        linear = LogisticRegression(C=0.5, max_iter=5000, tol=1e-8).fit(rows, y)
        said = predictions(data.main, Linear.fit(data, x, y, 0.5)(new)).numpy()
        assert said == pytest.approx(linear.predict_proba(flat(new, data.categories)), abs=1e-3)
        assert predictions(data.main, own).numpy() == pytest.approx(trees.predict_proba(new.numpy()), abs=1e-9)
        shares = predictions(data.main, Linear.constant(data, y)(new))[0].numpy()
        assert shares == pytest.approx(np.bincount(y.astype(int)) / len(y), abs=0.01)


def test_trees_where_training_shows_two_of_three_classes():
    data = prepare(table("multiclass"), Roles("y")).data
    x, y = data.train.x.numpy(), data.train.y["y"].numpy()
    few = np.isin(y, [1, 3])
    model = boosted("multiclass", 5, 4).fit(x[few], y[few])
    said = predictions(data.main, Trees.of(model, 4)(data.test.x)).numpy()
    assert said[:, [1, 3]] == pytest.approx(model.predict_proba(data.test.x.numpy()), abs=1e-6)
    assert said[:, [0, 2]].max() < 1e-9


@pytest.mark.parametrize("level", ["constant", "linear model", "boosted trees", "network, main task alone"])
@pytest.mark.parametrize("kind", ["regression", "binary", "multiclass"])
def test_a_kept_model_says_the_same_of_rows_as_they_come(level, kind, tmp_path):
    frame = table(kind)
    prepared = prepare(frame, Roles("y", ["other"]))
    effort = Effort(1, 5, 64, 8)
    settings = {"linear model": 1.0, "boosted trees": (10, 31), "network, main task alone": 0.01}
    runs = {level: None} if level.startswith("network") else {}
    model = fitted_whole(prepared, level, Found({}, settings, runs, 1, []), effort)
    path = tmp_path / "model.pt"
    model.save(path)
    torch.load(path, weights_only=True)
    again = mtl.load_advised(path)
    new = frame.drop(columns=["y", "other"]).iloc[5:50]
    said = again.predict(new)
    assert said.index.tolist() == new.index.tolist()
    assert np.array_equal(said.to_numpy(), model.predict(new).to_numpy())
    if kind == "regression":
        assert said.name == "y"
        mean = frame["y"].mean()
        assert said.mean() == pytest.approx(mean, abs=frame["y"].std())
    else:
        assert said.columns.tolist() == sorted(frame["y"].unique())
        assert said.sum(axis=1).to_numpy() == pytest.approx(np.ones(45))
    if level in ("linear model", "boosted trees") and kind == "binary":
        truth = frame["y"].iloc[5:50] == "yes"
        assert ((said["yes"] > 0.5) == truth).mean() > 0.8
    with pytest.raises(Refused, match="no column 'price', expected the inputs of the training table"):
        again.predict(new.drop(columns="price"))


def test_other_files_are_no_models(tmp_path):
    prepared = prepare(table("binary"), Roles("y"))
    data = prepared.data
    effort = Effort(1, 2, 64, 8)
    todo = Candidate(network(data.only(["y"]), effort), data.only(["y"]), Uniform())
    runs = fits({"a": todo}, [("a", 0.1)], "", seeds=1, epochs=1, steps_per_epoch=1, jobs=1)["a", 0.1]
    runs.save(tmp_path / "runs.pt")
    with pytest.raises(ValueError, match=r"holds runs, expected a model that Advice\.model\.save wrote"):
        mtl.load_advised(tmp_path / "runs.pt")
    fitted_whole(prepared, "constant", Found({}, {}, {}, 1, []), effort).save(tmp_path / "model.pt")
    with pytest.raises(ValueError, match="holds 'mtlkit advice', expected 'mtlkit runs'"):
        mtl.load_runs(tmp_path / "model.pt")
    with pytest.raises(FileNotFoundError):
        mtl.load_advised(tmp_path / "none.pt")
