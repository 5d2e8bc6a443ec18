import datetime

import numpy as np
import pandas as pd
import pytest
import torch

from mtlkit.datasets import files, from_frame, load
from mtlkit.datasets.tabular import grouped_rows

ADULT, PARKINSONS = files.needed("adult"), files.needed("parkinsons-telemonitoring")


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    n = 100
    return pd.DataFrame(
        {
            "height": rng.normal(170, 10, n),
            "weight": np.where(rng.random(n) < 0.1, np.nan, rng.normal(70, 12, n)),
            "smoker": rng.random(n) < 0.3,
            "city": rng.choice(["Ghent", "Leuven", "Liège", None], n),
            "size": pd.Categorical(rng.choice(["S", "M", "L"], n), categories=["S", "M", "L", "XL"]),
            "code": rng.integers(0, 4, n),
            "sick": rng.choice(["no", "yes"], n),
            "grade": rng.choice(["a", "b", "c"], n),
            "pressure": rng.normal(120, 15, n),
            "person": np.repeat(np.arange(20), [1, 9] * 10),
        }
    )


def test_kinds_are_inferred(frame):
    data = from_frame(frame, "sick", ["grade", "pressure", "smoker", "size", "code"])
    kinds = {task.name: (task.kind, task.n_classes) for task in data.tasks}
    assert kinds == {
        "sick": ("binary", None),
        "grade": ("multiclass", 3),
        "pressure": ("regression", None),
        "smoker": ("binary", None),
        "size": ("multiclass", 3),
        "code": ("regression", None),
    }
    assert data.classes == {
        "sick": ("no", "yes"),
        "grade": ("a", "b", "c"),
        "smoker": ("False", "True"),
        "size": ("S", "M", "L"),
    }
    for split in data.splits.values():
        rows = frame.iloc[split.rows.numpy()]
        np.testing.assert_array_equal(split.y["sick"], rows["sick"] == "yes")
        np.testing.assert_array_equal(split.y["grade"], rows["grade"].map({"a": 0, "b": 1, "c": 2}))
        np.testing.assert_array_equal(split.y["size"], rows["size"].map({"S": 0, "M": 1, "L": 2}).astype(int))
        mean, sd = data.scale["pressure"]
        np.testing.assert_allclose(split.y["pressure"] * sd + mean, rows["pressure"])


def test_kinds_can_be_given(frame):
    data = from_frame(frame, "code", ["smoker"], kinds={"code": "multiclass", "smoker": "regression"})
    assert [t.kind for t in data.tasks] == ["multiclass", "regression"]
    np.testing.assert_array_equal(data.test.y["code"], frame["code"].iloc[data.test.rows.numpy()])


def test_inputs_are_fitted_to_the_training_split(frame):
    data = from_frame(frame, "sick", drop=["grade", "person", "pressure"], categorical=["code"])
    train = frame.iloc[data.train.rows.numpy()]
    assert data.categories == {4: 4, 5: 4, 6: 5}
    for split in data.splits.values():
        rows = frame.iloc[split.rows.numpy()]
        height = (rows["height"] - train["height"].mean()) / train["height"].std(ddof=0)
        np.testing.assert_allclose(split.x[:, 0], height)
        weight = (rows["weight"] - train["weight"].mean()) / train["weight"].std(ddof=0)
        np.testing.assert_allclose(split.x[:, 1], weight.fillna(0))
        smoker = (rows["smoker"] - train["smoker"].mean()) / train["smoker"].std(ddof=0)
        np.testing.assert_allclose(split.x[:, 2], smoker.astype(float))
        np.testing.assert_array_equal(split.x[:, 3], rows["weight"].isna())
        np.testing.assert_array_equal(split.x[:, 4], rows["city"].map({"Ghent": 1, "Leuven": 2, "Liège": 3}).fillna(0))
        np.testing.assert_array_equal(split.x[:, 5], rows["size"].map({"S": 1, "M": 2, "L": 3}).astype(int))
        np.testing.assert_array_equal(split.x[:, 6], rows["code"] + 1)
    assert [len(s) for s in data.splits.values()] == [60, 20, 20]


def test_test_rows_do_not_move_the_fit(frame):
    """Standardisation and imputation with absurd values outside the training split stay as they were."""
    before = from_frame(frame, "pressure", drop=["person"], seed=3)
    outside = torch.cat([before.meta.rows, before.test.rows]).numpy()
    changed = frame.copy()
    changed.loc[outside, ["height", "weight", "pressure"]] = 1e6
    after = from_frame(changed, "pressure", drop=["person"], seed=3)
    assert torch.equal(before.train.x, after.train.x)
    assert torch.equal(before.train.y["pressure"], after.train.y["pressure"])
    assert before.scale == after.scale


def test_a_category_unknown_to_training_counts_as_missing():
    frame = pd.DataFrame({"kind": ["a", "b"] * 20, "y": np.arange(40.0)})
    for seed in range(20):
        frame["kind"] = ["a", "b"] * 20
        rows = from_frame(frame, "y", seed=seed).test.rows.numpy()
        frame.loc[rows[0], "kind"] = "rare"
        data = from_frame(frame, "y", seed=seed)
        assert data.categories == {0: 4}
        assert data.test.x[0].tolist() == [0]
        assert set(data.train.x[:, 0].tolist()) == {1, 2}


def test_missing_labels(frame):
    frame["sick"] = frame["sick"].where(frame.index % 3 > 0)
    frame["grade"] = frame["grade"].where(frame.index % 4 > 0)
    frame["pressure"] = frame["pressure"].where(frame.index % 5 > 0)
    data = from_frame(frame, "sick", ["grade", "pressure"])
    for split in data.splits.values():
        np.testing.assert_array_equal(torch.isnan(split.y["sick"]), split.rows % 3 == 0)
        np.testing.assert_array_equal(split.y["grade"] == -1, split.rows % 4 == 0)
        np.testing.assert_array_equal(torch.isnan(split.y["pressure"]), split.rows % 5 == 0)
    known = frame["pressure"].iloc[data.train.rows.numpy()]
    assert data.scale["pressure"] == pytest.approx((known.mean(), known.std(ddof=0)))
    assert 0.2 < data.card.frame.loc[("sick", "train"), "missing"] < 0.45


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "boolean", "category", "object", "string"])
def test_pandas_types(dtype):
    values = pd.array([0, 1] * 25, dtype="Int64") if dtype != "string" else ["0", "1"] * 25
    column = pd.Series(values).astype(dtype)
    column[4] = pd.NA if dtype not in ("category", "object") else None
    frame = pd.DataFrame({"y": column, "x": column, "z": np.arange(50.0)})
    data = from_frame(frame, "y")
    whole = {int(r): float(v) for s in data.splits.values() for r, v in zip(s.rows, s.y["y"], strict=True)}
    assert np.isnan(whole.pop(4))
    assert whole == {row: row % 2 for row in range(50) if row != 4}
    assert data.main.kind == "binary"


def test_constant_column_is_harmless():
    frame = pd.DataFrame({"same": [0.1] * 30, "x": np.arange(30.0), "y": np.arange(30.0)})
    data = from_frame(frame, "y")
    assert all(torch.all(split.x[:, 0].abs() < 1e-9) for split in data.splits.values())


def test_groups_stay_together_and_sizes_stay_equal(frame):
    draws = [from_frame(frame, "sick", drop=["grade"], groups="person", meta=0.25, test=0.25, seed=s) for s in range(8)]
    assert {tuple(len(s) for s in data.splits.values()) for data in draws} == {(10, 5, 5)}
    for data in draws:
        people = [set(frame["person"].iloc[s.rows.numpy()]) for s in data.splits.values()]
        assert len(set.union(*people)) == sum(map(len, people))
    with_person = from_frame(frame, "sick", drop=["grade"])
    assert with_person.train.x.shape[1] == data.train.x.shape[1] + 1


def test_grouped_rows_are_random_and_complete():
    groups = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3, 3, 3])
    seen = torch.zeros(10, 3)
    for seed in range(200):
        parts = grouped_rows(groups, 1, 1, torch.Generator().manual_seed(seed))
        assert [len(p) for p in parts] == [4, 2, 2]
        assert len(set(torch.cat(parts).tolist())) == 8
        for s, part in enumerate(parts):
            seen[part, s] += 1
    assert (seen > 10).all()


def test_redraws(frame):
    data = from_frame(frame, "sick", seed=0)
    again = data.resample(0)
    assert torch.equal(again.train.x, data.train.x)
    other = data.resample(1)
    assert not torch.equal(other.train.rows, data.train.rows)
    frame["height"] = 0.0
    assert torch.equal(data.resample(0).train.x, data.train.x)
    assert torch.equal(other.resample(0).train.x, data.train.x)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"main": "ill"}, ValueError, "no column 'ill', expected one of height, weight"),
        ({"auxiliaries": ["sick"]}, ValueError, "column 'sick' is given 2 roles, expected one"),
        ({"categorical": ["sick"]}, ValueError, "column 'sick' is given 2 roles"),
        ({"drop": ["nothing"]}, ValueError, "no column 'nothing'"),
        ({"groups": "team"}, ValueError, "no column 'team'"),
        ({"groups": "city"}, ValueError, "group column 'city' has missing values"),
        ({"kinds": {"height": "binary"}}, ValueError, "kinds names 'height', expected one of the targets sick"),
        ({"kinds": {"sick": "count"}}, ValueError, "target 'sick': kind is 'count', expected one of regression"),
        ({"kinds": {"sick": "regression"}}, ValueError, "target 'sick' is .*, expected numbers for a regression"),
        ({"main": "grade", "kinds": {"grade": "binary"}}, ValueError, "'grade' has 3 distinct values, expected 2"),
        ({"meta": 1.5}, ValueError, "meta is 1.5, expected a number from 0 to 1"),
        ({"meta": 0.0}, ValueError, "meta is 0 and test is 20, expected at least 1 each"),
        ({"meta": 0.5, "test": 0.5}, ValueError, "meta is 50 and test is 50, .* at most 99 together"),
        ({"frame": {"sick": [0, 1]}}, TypeError, "frame is a dict, expected a pandas.DataFrame"),
    ],
)
def test_bad_arguments(frame, change, error, message):
    with pytest.raises(error, match=message):
        from_frame(**{"frame": frame, "main": "sick", **change})


def test_bad_columns(frame):
    with pytest.raises(ValueError, match="column 'height' holds an infinite value"):
        from_frame(frame.assign(height=np.inf), "sick")
    with pytest.raises(ValueError, match="column 'pressure' holds an infinite value"):
        from_frame(frame.assign(pressure=[np.inf, *range(99)]), "pressure")
    with pytest.raises(TypeError, match=r"column 'day' is datetime64.*, expected numbers, text or categories"):
        from_frame(frame.assign(day=pd.Timestamp(datetime.date(2020, 1, 1))), "sick")
    with pytest.raises(TypeError, match="column 'wave' is complex128"):
        from_frame(frame.assign(wave=1j), "sick")
    with pytest.raises(ValueError, match="'sick' has 1 distinct values, expected 2"):
        from_frame(frame.assign(sick="no"), "sick")
    with pytest.raises(ValueError, match="expected each name once"):
        from_frame(pd.concat([frame, frame], axis=1), "sick")
    with pytest.raises(ValueError, match="is left as an input, expected at least one"):
        from_frame(frame[["sick", "grade"]], "sick", ["grade"])
    with pytest.raises(ValueError, match="target 'rare' has no label in the training split"):
        from_frame(frame.assign(rare=[0.5, *[np.nan] * 99]), "rare", kinds={"rare": "regression"}, meta=0.5, test=0.49)


COLUMNS = (
    "39, {work}, 77516, Bachelors, {years}, {status}, Sales, Husband, White, Male, 2174, 0, 40, {land}, {income}{stop}"
)


def adult_rows(n, stop="", first=""):
    rng = np.random.default_rng(n)
    lines = [
        COLUMNS.format(
            work=rng.choice(["Private", "?", "State-gov"]),
            years=rng.integers(1, 17),
            status=rng.choice(["Never-married", "Divorced"]),
            land=rng.choice(["United-States", "?"]),
            income=rng.choice(["<=50K", ">50K"]),
            stop=stop,
        )
        for _ in range(n)
    ]
    return (first + "\n".join(lines) + "\n\n").encode(), lines


def test_adult_from_small_files(place):
    (train, train_lines), (test, test_lines) = adult_rows(60), adult_rows(20, ".", "|1x3 Cross validator\n")
    place("adult/adult.data", train)
    place("adult/adult.test", test)
    data = load("adult", n_meta=10, label_noise=0.5, seed=1)
    clean = load("adult", n_meta=10, seed=1)
    assert [len(s) for s in data.splits.values()] == [50, 10, 20]
    assert data.test.rows.tolist() == list(range(60, 80))
    lines = train_lines + test_lines
    for split in clean.splits.values():
        cells = [lines[row].split(", ") for row in split.rows]
        assert split.y["income"].tolist() == [c[14].startswith(">") for c in cells]
        assert split.y["never_married"].tolist() == [c[5] == "Never-married" for c in cells]
        assert split.y["education"].tolist() == [int(c[4]) >= 10 for c in cells]
        assert split.x[:, 5].tolist() == [{"?": 0, "Private": 1, "State-gov": 2}[c[1]] for c in cells]
    assert data.train.noisy.sum(0).tolist() == [25, 0, 0]
    assert torch.equal(data.train.noisy[:, 0], data.train.y["income"] != clean.train.y["income"])
    other = load("adult", n_meta=10, main="education", label_noise=0.5, seed=1)
    assert [t.name for t in other.tasks] == ["education", "income", "never_married"]
    assert other.train.noisy.sum(0).tolist() == [25, 0, 0]
    assert torch.equal(other.train.y["income"], clean.train.y["income"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adult", {"main": "age"}, "main is 'age', expected one of income, never_married, education"),
        ("adult", {"label_noise": -0.1}, "label_noise is -0.1, expected a number from 0 to 1"),
        ("adult", {"n_meta": 0}, "n_meta is 0, expected at least 1 each"),
        ("adult", {"n_meta": 40}, "n_meta is 40, expected at least 1 each and at most 29 together"),
        ("adult", {"noise": "swap", "n_meta": 10}, "noise is 'swap', expected 'flip' or 'background'"),
        ("parkinsons", {"main": "age"}, "main is 'age', expected one of motor_UPDRS, total_UPDRS"),
        ("parkinsons", {"meta_subjects": 0}, "meta_subjects is 0 and test_subjects is 10, expected at least 1"),
        ("parkinsons", {"test_subjects": 40}, "meta_subjects is 8 and test_subjects is 40, .* at most 41"),
    ],
)
def test_bad_options(place, name, options, message):
    place("adult/adult.data", adult_rows(30)[0])
    place("adult/adult.test", adult_rows(10, ".")[0])
    lines = [f"{s},70,{s % 2},{t},{s + t},{2 * s + t}" for s in range(1, 43) for t in range(3)]
    header = "subject#,age,sex,test_time,motor_UPDRS,total_UPDRS"
    place("parkinsons-telemonitoring/parkinsons_updrs.data", "\n".join([header, *lines]).encode())
    with pytest.raises(ValueError, match=message):
        load(name, **options)


def test_real_adult(real_data):
    real_data(*ADULT)
    data = load("adult")
    assert [len(s) for s in data.splits.values()] == [30_561, 2000, 16_281]
    for task, n_train, n_test in (
        ("income", 7841, 3846),
        ("never_married", 10_683, 5434),
        ("education", 17_807, 8843),
    ):
        assert int(data.train.y[task].sum() + data.meta.y[task].sum()) == n_train
        assert int(data.test.y[task].sum()) == n_test
    assert list(data.categories.values()) == [9, 15, 7, 6, 3, 42]
    x = torch.cat([data.train.x, data.meta.x])
    assert (x[:, list(data.categories)] == 0).sum(0).tolist() == [1836, 1843, 0, 0, 0, 583]
    assert not torch.isnan(x).any()
    mean, sd = 1_256_257 / 32_561, 13.64
    age = x[torch.cat([data.train.rows, data.meta.rows]).sort().indices][:3, 0]
    np.testing.assert_allclose(age, (np.array([39, 50, 38]) - mean) / sd, atol=0.02)
    assert data.test.y["income"][:3].tolist() == [0, 0, 1]
    assert load("adult", label_noise=0.4).train.noisy.sum().item() == round(0.4 * 30_561)


def test_real_parkinsons(real_data):
    real_data(*PARKINSONS)
    table = pd.read_csv(files.fetch(PARKINSONS[0]))
    assert len(table) == 5875
    sizes, people = set(), []
    for seed in range(5):
        data = load("parkinsons", seed=seed)
        sizes.add(tuple(len(s) for s in data.splits.values()))
        parts = [set(table["subject#"].iloc[s.rows.numpy()]) for s in data.splits.values()]
        assert [len(p) for p in parts] == [24, 8, 10]
        assert len(set.union(*parts)) == 42
        people.append(parts[2])
        for split in data.splits.values():
            for name, (mean, sd) in data.scale.items():
                np.testing.assert_allclose(split.y[name] * sd + mean, table[name].iloc[split.rows.numpy()])
    assert sizes == {(3112, 936, 1194)}
    assert people[0] != people[1]
    assert load("parkinsons", main="total_UPDRS").main.name == "total_UPDRS"
    assert data.train.x.shape[1] == 19


def test_flipped_byte_in_a_copy(real_data, tmp_path, monkeypatch):
    real_data(*PARKINSONS)
    content = bytearray(files.fetch(PARKINSONS[0]).read_bytes())
    content[12_345] ^= 4
    copy = tmp_path / PARKINSONS[0]
    copy.parent.mkdir()
    copy.write_bytes(content)
    monkeypatch.setenv("MTLKIT_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=f"{copy} has SHA-256 .*, expected f2c7d5025dec"):
        load("parkinsons")
