import datetime

import numpy as np
import pandas as pd
import pytest
import torch

from mtlkit.datasets import from_frame
from mtlkit.datasets.tabular import grouped_rows, stratified_rows, time_order


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
        "code": ("multiclass", 4),
    }
    assert data.classes == {
        "sick": ("no", "yes"),
        "grade": ("a", "b", "c"),
        "smoker": ("False", "True"),
        "size": ("S", "M", "L"),
        "code": ("0", "1", "2", "3"),
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


def test_stratified_rows_are_random_and_share_alike():
    strata = torch.tensor([0] * 20 + [1] * 5 + [-1] * 3 + [2])
    seen = torch.zeros(29, 3)
    for seed in range(300):
        parts = stratified_rows(strata, 0.2, 0.4, torch.Generator().manual_seed(seed))
        assert sorted(torch.cat(parts).tolist()) == list(range(29))
        counts = [torch.bincount(strata[part] + 1, minlength=4).tolist() for part in parts]
        assert counts == [[3, 8, 2, 1], [0, 4, 1, 0], [0, 8, 2, 0]]
        for s, part in enumerate(parts):
            seen[part, s] += 1
    torch.testing.assert_close(seen[:25] / 300, torch.tensor([[0.4, 0.2, 0.4]]).expand(25, 3), atol=0.13, rtol=0)


def test_stratified_splits_follow_the_main_task(frame):
    frame["grade"] = frame["grade"].where(frame.index % 10 > 0)
    for main, unlabelled in (("sick", 0), ("grade", 10), ("weight", int(frame["weight"].isna().sum()))):
        data = from_frame(frame, main, stratify=True, meta=0.25, test=0.25)
        known = 100 - unlabelled
        assert len(data.train) + len(data.meta) + len(data.test) == 100
        assert abs(len(data.test) - known / 4) <= 1.5
        target = data.train.y[main]
        missing = torch.isnan(target) if target.is_floating_point() else target == -1
        assert int(missing.sum()) == unlabelled
        again = data.resample(5)
        assert [len(s) for s in again.splits.values()] == [len(s) for s in data.splits.values()]
    share = frame["sick"].eq("yes").mean()
    assert from_frame(frame, "sick", stratify=True).test.y["sick"].mean().item() == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("unit", ["number", "text", "datetime64[ns]", "datetime64[ns, UTC]"])
def test_time_splits_early_from_late(frame, unit):
    days = pd.Series(np.random.default_rng(1).permutation(100))
    if unit == "number":
        frame["when"] = days
    else:
        dates = pd.Timestamp("2024-01-01") + pd.to_timedelta(days, "D")
        frame["when"] = dates.dt.strftime("%Y-%m-%d") if unit == "text" else dates.astype("datetime64[ns]")
        if unit.endswith("UTC]"):
            frame["when"] = frame["when"].dt.tz_localize("UTC")
    data = from_frame(frame, "sick", time="when")
    assert [sorted(days[s.rows.numpy()]) for s in data.splits.values()] == [
        list(range(60)), list(range(60, 80)), list(range(80, 100)),
    ]  # fmt: skip
    assert data.resample(3) is data
    assert data.train.x.shape[1] == from_frame(frame, "sick", drop=["when"]).train.x.shape[1]


def test_rows_of_the_same_time_keep_their_order():
    assert time_order(pd.Series([2, 1, 2, 1, 1])).tolist() == [1, 3, 4, 0, 2]
    with pytest.raises(ValueError, match="time column 'when' has missing values"):
        time_order(pd.Series([1.0, np.nan], name="when"))
    with pytest.raises(ValueError, match=r"time column 'when' is .*, expected numbers or dates such as 2024-03-31"):
        time_order(pd.Series(["yesterday", "today"], name="when"))


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
        ({"groups": "person", "stratify": True}, ValueError, "groups='person', time=None, stratify=True, expected one"),
        ({"time": "height", "groups": "person"}, ValueError, "expected one of them at most"),
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
