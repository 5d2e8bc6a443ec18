import json
import math
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.export import Dim, export

import mtlkit as mtl
from mtlkit.datasets import Dataset, Split, from_frame
from mtlkit.models import MultiTaskModel
from mtlkit.tasks import pack, per_sample_losses

FAST = {"epochs": 3, "batch_size": 16, "lr": 0.05, "seeds": [0, 3], "dtype": torch.float64, "device": "cpu"}
CITIES = ["Athens", "Berlin", "Cairo"]


def table(n=120, seed=0):
    rng = np.random.default_rng(seed)
    city = rng.choice(CITIES, n)
    age = rng.normal(40, 10, n)
    rent = 500 + 20 * age + 300 * (city == "Berlin") + rng.normal(0, 50, n)
    return pd.DataFrame(
        {
            "age": age,
            "rooms": np.where(rng.random(n) < 0.2, np.nan, rng.integers(1, 6, n)),
            "city": city,
            "owner": rng.random(n) < 0.5,
            "zone": rng.integers(1, 4, n),
            "rent": rent,
            "happy": np.where(rent > 1400, "yes", "no"),
            "mood": rng.choice(["bad", "fair", "good"], n),
        },
        index=[f"row {i}" for i in range(n)],
    )


TARGETS = ["rent", "happy", "mood"]


@pytest.fixture(scope="module")
def rented():
    """Data and runs for each main task."""
    found = {}
    for main in TARGETS:
        others = [target for target in TARGETS if target != main]
        data = from_frame(table(), main, others, categorical=["zone"], name="flats")
        found[main] = data, mtl.fit(mtl.models.mlp(data, hidden=(8,)), data, mtl.Uniform(), **FAST)
    return found


def encoded_by_hand(data, seed, rows):
    """Inputs of rows of the table, column by column from the training rows of this seed's split."""
    whole = table()
    train = whole.iloc[data.resample(seed).train.rows.numpy()]
    columns = []
    for name in ("age", "rooms", "owner"):
        known = train[name].astype(float).dropna()
        z = (rows[name].astype(float) - known.mean()) / known.std(ddof=0)
        columns.append(z.fillna(0))
    columns.append(rows["rooms"].isna().astype(float))
    columns.append(rows["city"].map({city: i + 1 for i, city in enumerate(CITIES)}).fillna(0))
    columns.append(rows["zone"].astype(float))
    return torch.tensor(np.stack([c.to_numpy(float) for c in columns], 1)), train


@pytest.mark.parametrize("main", TARGETS)
@pytest.mark.parametrize("task", [None, *TARGETS])
def test_predictions_are_means_over_seeds_in_the_words_of_the_table(rented, main, task):
    data, runs = rented[main]
    new = table(seed=7).drop(columns=TARGETS).iloc[::-1, ::-1]
    name = task or main
    total = 0
    for seed in FAST["seeds"]:
        x, train = encoded_by_hand(data, seed, new)
        net = mtl.models.mlp(data, hidden=(8,)).double()
        net.load_state_dict(runs.state_dict(seed))
        with torch.no_grad():
            output = net(x)[name].numpy()
        if name == "rent":
            total = total + output[:, 0] * train["rent"].std(ddof=0) + train["rent"].mean()
        elif name == "happy":
            p = 1 / (1 + np.exp(-output[:, 0]))
            total = total + np.stack([1 - p, p], 1)
        else:
            total = total + np.exp(output) / np.exp(output).sum(1, keepdims=True)
    found = runs.predict(new, task=task)
    assert found.index.tolist() == new.index.tolist()
    np.testing.assert_allclose(found, total / 2, rtol=1e-10)
    if name == "rent":
        assert found.name == "rent"
    else:
        assert found.columns.tolist() == {"happy": ["no", "yes"], "mood": ["bad", "fair", "good"]}[name]


def test_predictions_of_chosen_seeds_and_of_tensors(rented):
    data, runs = rented["mood"]
    new = table(seed=7)
    both = runs.predict(new)
    alone = [runs.predict(new, seeds=[seed]) for seed in (0, 3)]
    assert not np.allclose(*alone)
    np.testing.assert_allclose(both, (alone[0] + alone[1]) / 2, rtol=1e-12)
    x = data.resample(3).encoder(new)
    pd.testing.assert_frame_equal(runs.predict(x, seeds=[3]), alone[1].reset_index(drop=True), rtol=1e-14)


def test_a_diverged_seed_is_left_out(rented):
    _, runs = rented["rent"]
    frame = runs.frame.assign(diverged=runs.frame["seed"] == 0)
    some = mtl.Runs(frame, runs.samples, runs.main, runs.states, 1, runs.draws, runs.architecture)
    pd.testing.assert_series_equal(some.predict(table()), runs.predict(table(), seeds=[3]))
    none = mtl.Runs(frame.assign(diverged=True), runs.samples, runs.main, runs.states, 1, runs.draws, runs.architecture)
    with pytest.raises(ValueError, match=r"Uniform: of the seeds \[0, 3\] none is given or all diverged, expected one"):
        none.predict(table())


@pytest.mark.parametrize("seed", [0, 3])
def test_the_encoder_makes_of_the_table_what_from_frame_made(rented, seed):
    draw = rented["rent"][0].resample(seed)
    for split in draw.splits.values():
        assert torch.equal(draw.encoder(table().iloc[split.rows.numpy()]), split.x)


def test_new_rows_keep_the_codes_of_training_where_from_frame_would_shift_them(rented):
    data, runs = rented["rent"]
    whole = table()
    new = whole[whole["city"] != "Athens"]
    again = from_frame(new, "rent", ["happy", "mood"], categorical=["zone"], name="flats")
    draw = data.resample(0)
    city = next(iter(draw.categories))
    codes = dict(zip(whole["city"].iloc[draw.train.rows.numpy()], draw.train.x[:, city].tolist(), strict=True))
    shifted = dict(zip(new["city"].iloc[again.train.rows.numpy()], again.train.x[:, city].tolist(), strict=True))
    assert codes == {"Athens": 1, "Berlin": 2, "Cairo": 3}
    assert shifted == {"Berlin": 1, "Cairo": 2}
    assert set(draw.encoder(new)[:, city].tolist()) == {2, 3}
    pd.testing.assert_series_equal(runs.predict(new), runs.predict(whole)[new.index], rtol=1e-12)
    one = new[new["city"] == "Berlin"].iloc[:1]
    np.testing.assert_allclose(runs.predict(one), runs.predict(whole)[one.index], rtol=1e-12)


def test_columns_that_are_not_what_they_were_are_refused(rented):
    _, runs = rented["rent"]
    new = table()
    with pytest.raises(
        ValueError, match=r"column 'city' is there 0 times in age, .*, expected each of age, rooms, city"
    ):
        runs.predict(new.drop(columns="city"))
    with pytest.raises(ValueError, match="column 'age' is there 2 times"):
        runs.predict(pd.concat([new, new[["age"]]], axis=1))
    for column, values, found, expected in [
        ("age", "old", "text", "numbers"),
        ("age", pd.Timestamp("2020-01-01"), "datetime64.*", "numbers"),
        ("city", 3, "numbers", "text"),
        ("city", pd.Timestamp("2020-01-01"), "datetime64.*", "text"),
        ("zone", "1", "text", "numbers"),
        ("owner", "yes", "text", "numbers"),
    ]:
        with pytest.raises(ValueError, match=f"column '{column}' holds {found}, expected {expected} as in training"):
            runs.predict(new.assign(**{column: values}))
    with pytest.raises(ValueError, match="column 'age' holds an infinite value"):
        runs.predict(new.assign(age=np.inf))
    with pytest.raises(TypeError, match=r"the rows are a list, expected a pandas.DataFrame or a torch.Tensor"):
        runs.predict([1, 2])
    with pytest.raises(ValueError, match=r"the rows have shape \(2, 3\), expected \(N, 6\)"):
        runs.predict(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="no task 'wage', expected one of rent, happy, mood"):
        runs.predict(new, task="wage")
    with pytest.raises(ValueError, match=r"no run with seed 9, expected one of \[0, 3\]"):
        runs.predict(new, seeds=[9])


@pytest.mark.parametrize(
    "change",
    [
        {"city": lambda c: c.astype("category")},
        {"city": lambda c: c.astype(object)},
        {"zone": lambda c: c.astype("Int64"), "owner": lambda c: c.astype("boolean")},
        {"age": lambda c: c.astype(object), "zone": lambda c: c.astype(object)},
        {"age": lambda c: c.astype("category")},
    ],
)
def test_another_way_to_store_the_same_values_changes_nothing(rented, change):
    _, runs = rented["rent"]
    new = table(seed=5)
    other = new.assign(**{name: convert(new[name]) for name, convert in change.items()})
    pd.testing.assert_series_equal(runs.predict(other), runs.predict(new))


def test_missing_values_are_read_as_in_training(rented):
    data, _ = rented["rent"]
    draw = data.resample(0)
    gone = pd.DataFrame({name: [None] for name in ("age", "rooms", "city", "owner", "zone")})
    assert draw.encoder(gone).tolist() == [[0, 0, 0, 1, 0, 0]]


def test_unseen_categories_are_flagged_and_read_as_missing(rented):
    data, runs = rented["rent"]
    new = table().iloc[:3].assign(city=["Delhi", "Berlin", "Essen"], zone=[1, 9, 2])
    with pytest.warns(UserWarning, match="column") as found:
        predicted = runs.predict(new, seeds=[0])
    assert [str(w.message) for w in found] == [
        "column 'city' holds 'Delhi', 'Essen', expected categories of the training rows: read as missing",
        "column 'zone' holds 9, expected categories of the training rows: read as missing",
    ]
    missing = new.assign(city=[None, "Berlin", None], zone=[1, np.nan, 2])
    pd.testing.assert_series_equal(predicted, runs.predict(missing, seeds=[0]))
    many = pd.concat([new] * 3).assign(city=[f"town {i}" for i in range(9)], zone=1)
    with pytest.warns(UserWarning, match="'town 0', .*, 'town 4' and 4 more, expected"):
        data.resample(0).encoder(many)


def test_a_category_that_only_held_out_rows_show_is_unseen():
    frame = pd.DataFrame({"kind": ["a", "b"] * 20, "y": np.arange(40.0)})
    rows = from_frame(frame, "y").test.rows.numpy()
    frame.loc[rows[0], "kind"] = "rare"
    draw = from_frame(frame, "y")
    with pytest.warns(UserWarning, match="column 'kind' holds 'rare'"):
        assert draw.encoder(pd.DataFrame({"kind": ["rare", "a", "b"]})).tolist() == [[0], [1], [2]]


def test_data_that_are_no_table_take_tensors():
    data = mtl.datasets.load("digits", main=8)
    runs = mtl.fit(mtl.models.mlp(data, hidden=(4,)), data, mtl.Uniform(), epochs=1, batch_size=256, seeds=2)
    found = runs.predict(data.test.x)
    assert found.columns.tolist() == list(data.classes.get("is_8", [0, 1]))
    outputs = [runs.model(seed)(data.test.x.float())["is_8"].squeeze(1).sigmoid() for seed in (0, 1)]
    np.testing.assert_allclose(found.iloc[:, 1], torch.stack(outputs).mean(0).detach(), rtol=1e-5)
    with pytest.raises(ValueError, match="the rows are a frame, but digits is not made from one: expected a tensor"):
        runs.predict(pd.DataFrame({"a": [1]}))


def dense():
    """Pixels as targets: two regression outputs a row."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=g, dtype=torch.float64)
    whole = mtl.datasets.Split(x, {"map": x[:, :2]}, torch.arange(40), torch.zeros(40, 1, dtype=torch.bool))
    parts = [whole.take(rows) for rows in torch.arange(40).split([20, 10, 10])]
    return mtl.datasets.Dataset("dense", (mtl.Task("map", "regression"),), *parts)


def test_a_task_of_many_outputs_is_not_predicted():
    data = dense()
    runs = mtl.fit(MultiTaskModel(nn.Linear(3, 4), {"map": nn.Linear(4, 2)}), data, mtl.Uniform(), **FAST)
    with pytest.raises(ValueError, match=r"task 'map' has outputs of \(2,\) for each row, expected 1"):
        runs.predict(data.test.x)
    assert runs.model(3)(data.test.x)["map"].shape == (10, 2)


class Plain(nn.Module):
    """A trunk with a buffer that no state dict holds."""

    def __init__(self, n_inputs):
        super().__init__()
        self.layer, self.drop = nn.Linear(n_inputs, 6), nn.Dropout(0.5)
        self.register_buffer("shift", torch.full((6,), 0.3), persistent=False)

    def forward(self, x):
        return self.drop(torch.tanh(self.layer(x)) + self.shift)


def own_model(data):
    n_inputs = data.train.x.shape[1]
    return MultiTaskModel(Plain(n_inputs), {task.name: nn.Linear(6, task.n_outputs) for task in data.tasks})


@pytest.mark.parametrize("patience", [None, 2])
@pytest.mark.parametrize("build", [mtl.models.mlp, own_model])
@pytest.mark.parametrize(("weighting", "lr"), [(mtl.Uniform(), 0.3), (mtl.SLGrad(), 0.02), (mtl.AlphaVIL(), 0.3)])
def test_the_model_has_the_loss_that_the_frame_says(patience, build, weighting, lr):
    data = from_frame(table(), "happy", ["rent", "mood"])
    options = {**FAST, "epochs": 25, "lr": lr, "seeds": [0, 1], "patience": patience, "batch_size": 24}
    runs = mtl.fit(build(data), data, weighting, **options)
    ends = runs.frame.groupby("seed")["epoch"].max()
    if patience:
        assert (ends < 25).any()
        assert (runs.selected() < ends).any()
    rows = runs.final().query("metric == 'loss'").set_index(["seed", "split", "task"])["value"]
    for seed in runs.seeds:
        model, draw = runs.model(seed), data.resample(seed)
        assert not any(module.training for module in model.modules())
        for where, split in draw.splits.items():
            with torch.no_grad():
                losses = per_sample_losses(draw.tasks, model(split.x), pack(draw.tasks, split.y)).mean(0)
            for task, loss in zip(draw.tasks, losses.tolist(), strict=True):
                assert rows[seed, where, task.name] == pytest.approx(loss, abs=1e-12)


def test_the_model_that_was_given_is_neither_changed_nor_kept(rented):
    data, _ = rented["happy"]
    model = own_model(data)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    runs = mtl.fit(model, data, mtl.Uniform(), **FAST)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    first = runs.model(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        first.heads[0].weight.zero_()
    model.trunk = nn.Identity()
    assert runs.model(0).heads[0].weight.abs().sum() > 0
    assert first.heads[0].weight.abs().sum() == 0
    assert any(not torch.equal(before[name], value) for name, value in runs.model(0).state_dict().items())
    assert runs.model(0).trunk.shift.dtype == torch.float64
    assert runs.model(0).trunk.shift.tolist() == pytest.approx([0.3] * 6)


def test_chunks_and_processes_keep_each_seeds_own_encoder():
    data = from_frame(table(), "rent", ["happy"])
    model = mtl.models.mlp(data, hidden=(4,))
    whole = mtl.fit(model, data, mtl.Uniform(), **FAST)
    for options in ({"chunk": 1}, {"chunk": 1, "jobs": 2}):
        parts = mtl.fit(model, data, mtl.Uniform(), **FAST, **options)
        assert [draw.scale for draw in parts.draws] == [draw.scale for draw in whole.draws]
        assert whole.draws[0].scale != whole.draws[1].scale
        pd.testing.assert_series_equal(parts.predict(table()), whole.predict(table()), rtol=1e-9)
        assert parts.recipe == whole.recipe


def test_the_recipe_is_the_call(rented):
    data = mtl.datasets.load("digits", main=3)
    runs = mtl.fit(mtl.models.mlp(data, hidden=(4,)), data, mtl.SLGrad(), epochs=1, batch_size=300, lr=0.1, patience=2)
    expected = (
        "fit(mlp(data, hidden=(4,)), load('digits', main=3), SLGrad(), batch_size=300, epochs=1, lr=0.1, patience=2)"
    )
    assert runs.recipe == expected
    data, runs = rented["rent"]
    assert runs.recipe.startswith("fit(mlp(data, hidden=(8,)), data, Uniform(), ")
    plain = mtl.fit(
        own_model(data), data, mtl.Uniform(), **{**FAST, "epochs": 1}, optimizer=lambda p, lr: torch.optim.SGD(p, lr)
    )
    assert plain.recipe == ""


def check_same(found, runs):
    pd.testing.assert_frame_equal(found.frame, runs.frame)
    pd.testing.assert_frame_equal(found.samples, runs.samples)
    assert (found.main, found.select_from, found.recipe) == (runs.main, runs.select_from, runs.recipe)
    for at, state in runs.states.items():
        assert state.keys() == found.states[at].keys()
        assert all(torch.equal(value, found.states[at][name]) for name, value in state.items())
    for one, other in zip(found.draws, runs.draws, strict=True):
        for name in ("name", "tasks", "categories", "classes", "scale", "source", "licence", "recipe"):
            assert getattr(one, name) == getattr(other, name)


@pytest.mark.parametrize("main", TARGETS)
def test_runs_come_back_from_their_file(rented, main, tmp_path):
    _, runs = rented[main]
    runs.save(tmp_path / "runs.pt")
    found = mtl.load_runs(tmp_path / "runs.pt")
    check_same(found, runs)
    new = table(seed=3)
    assert np.array_equal(found.predict(new), runs.predict(new))
    pd.testing.assert_frame_equal(found.summary(), runs.summary())
    found.save(tmp_path / "again.pt")
    check_same(mtl.load_runs(tmp_path / "again.pt"), runs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.pt", "runs.pt"]


def test_a_new_process_predicts_the_same(rented, tmp_path):
    _, runs = rented["mood"]
    runs.save(tmp_path / "runs.pt")
    new = table(seed=3)
    files = [tmp_path / "new.json", tmp_path / "runs.pt"]
    new.to_json(files[0], orient="split", double_precision=15)
    code = (
        "import sys, pandas as pd, mtlkit as mtl\n"
        "new = pd.read_json(sys.argv[1], orient='split', precise_float=True)\n"
        "found = mtl.load_runs(sys.argv[2]).predict(new)\n"
        "print(found.to_json(orient='split', double_precision=15))"
    )
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["columns"] == ["bad", "fair", "good"]
    np.testing.assert_allclose(found["data"], runs.predict(new), rtol=1e-9)


def plain(thing):
    """Whether this is made of tensors, numbers and text alone."""
    if isinstance(thing, dict):
        return all(map(plain, thing.values()))
    if isinstance(thing, list):
        return all(map(plain, thing))
    return isinstance(thing, torch.Tensor | str | int | float)


def test_the_file_needs_torch_alone(rented, tmp_path):
    _, runs = rented["rent"]
    runs.save(tmp_path / "runs.pt")
    content = torch.load(tmp_path / "runs.pt", weights_only=True)
    assert plain(content)
    assert content["versions"].startswith(f"mtlkit {mtl.__version__} torch {torch.__version__} python 3.")
    assert content["frame"]["value"].tolist() == pytest.approx(runs.frame["value"].tolist(), nan_ok=True, rel=0, abs=0)
    assert [draw["name"] for draw in json.loads(content["draws"])] == ["flats", "flats"]


def test_a_model_of_the_users_own_is_given_again(rented, tmp_path):
    data, _ = rented["rent"]
    runs = mtl.fit(own_model(data), data, mtl.Uniform(), **FAST)
    runs.save(tmp_path / "runs.pt")
    without = mtl.load_runs(tmp_path / "runs.pt")
    check_same(without, runs)
    with pytest.raises(LookupError, match=r"no model to put them in, expected mtlkit.load_runs\(path, model=...\)"):
        without.model(0)
    found = mtl.load_runs(tmp_path / "runs.pt", model=own_model(data))
    assert np.array_equal(found.predict(table()), runs.predict(table()))
    with pytest.raises(ValueError, match=r"the model has heads.0.weight of shape \(1, 5\), expected \(1, 6\)"):
        mtl.load_runs(tmp_path / "runs.pt", model=mtl.models.mlp(data, hidden=(5,)))


def test_stored_numbers_without_models_can_be_saved(tmp_path):
    columns = ["dataset", "method", "seed", "epoch", "split", "task", "metric", "value", "diverged"]
    frame = pd.DataFrame([("d", "m", 0, 1, "meta", "main", "loss", math.nan, False)], columns=columns)
    mtl.Runs(frame, pd.DataFrame(), "main", {}).save(tmp_path / "runs.pt")
    found = mtl.load_runs(tmp_path / "runs.pt")
    pd.testing.assert_frame_equal(found.frame, frame)
    with pytest.raises(LookupError, match="read from a store, which keeps numbers but no models"):
        found.model(0)


def test_a_damaged_file_says_so(rented, tmp_path):
    _, runs = rented["rent"]
    path = tmp_path / "runs.pt"
    runs.save(path)
    whole = path.read_bytes()
    sentence = "runs.pt is damaged or something else, expected a file that Runs.save wrote"
    weight = runs.states["last"]["heads.0.weight"].numpy().tobytes()
    assert whole.count(weight) >= 1
    at = whole.index(weight)
    flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    for broken in (b"", b"text", whole[:-100], whole[: len(whole) // 2], flipped):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=sentence):
            mtl.load_runs(path)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=sentence):
        mtl.load_runs(path)
    torch.save(runs, path)
    with pytest.raises(ValueError, match=sentence):
        mtl.load_runs(path)
    with pytest.raises(FileNotFoundError):
        mtl.load_runs(tmp_path / "none.pt")


def test_another_version_says_so(rented, tmp_path):
    path = tmp_path / "runs.pt"
    rented["rent"][1].save(path)
    content = torch.load(path, weights_only=True)
    torch.save({**content, "version": 2, "versions": "mtlkit 9.0"}, path)
    with pytest.raises(ValueError, match=r"runs.pt is of version 2 \(written by mtlkit 9.0\), expected 1"):
        mtl.load_runs(path)
    torch.save({**content, "format": "cake"}, path)
    with pytest.raises(ValueError, match=r"runs.pt holds 'cake', expected 'mtlkit runs'"):
        mtl.load_runs(path)


def test_a_save_that_fails_leaves_the_old_file(rented, tmp_path, monkeypatch):
    path = tmp_path / "runs.pt"
    rented["rent"][1].save(path)
    before = path.read_bytes()

    def broken(content, part):
        part.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        rented["mood"][1].save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["runs.pt"]


def test_categories_that_no_file_can_hold_are_refused(tmp_path):
    frame = table()[["age", "rent"]]
    frame["age"] = pd.cut(frame["age"], 3)
    data = from_frame(frame, "rent")
    runs = mtl.fit(mtl.models.mlp(data, hidden=(4,)), data, mtl.Uniform(), **FAST)
    assert np.isfinite(runs.predict(frame)).all()
    with pytest.raises(ValueError, match=r"column 'age' has Interval\(.*\) \(Interval\), expected text or numbers"):
        runs.save(tmp_path / "runs.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("main", TARGETS)
def test_the_model_can_be_exported(rented, main):
    data, runs = rented[main]
    x = data.resample(3).test.x
    program = export(runs.model(3), (x[:5],), dynamic_shapes={"x": {0: Dim("rows")}})
    found, expected = program.module()(x), runs.model(3)(x)
    assert found.keys() == expected.keys() == set(TARGETS)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12)


def test_no_warning_where_all_is_known(rented):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        rented["rent"][1].predict(table())
    assert not found


def test_targets_of_several_positions_are_saved_and_token_ids_need_no_conversion(tmp_path):
    ids = torch.randint(0, 9, (40, 5), generator=torch.Generator().manual_seed(0))
    y = {"any": (ids == 3).any(1).double(), "each": (ids > 4).double()}
    split = Split(ids, y, torch.arange(40), torch.zeros(40, 2, dtype=torch.bool))
    data = Dataset("ids", (mtl.Task("any", "binary"), mtl.Task("each", "binary")), split, split, split)
    model = mtl.models.recurrent(data, vocabulary=9)
    runs = mtl.fit(model, data, mtl.Uniform(), **{**FAST, "dtype": torch.float32})
    runs.save(tmp_path / "runs.pt")
    again = mtl.load_runs(tmp_path / "runs.pt").model(0)
    for name, output in runs.model(0)(ids).items():
        torch.testing.assert_close(again(ids)[name], output)
