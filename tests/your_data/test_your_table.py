import gzip

import numpy as np
import pandas as pd
import pytest
import torch

from mtlkit.your_data import EXAMPLE_AUXILIARIES, Refused, example, located, prepare, read


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    n = 200
    age = rng.integers(20, 80, n)
    return pd.DataFrame(
        {
            "bought": np.where(age + rng.normal(0, 20, n) > 50, "yes", "no"),
            "visits": rng.poisson(age / 10).astype(float),
            "stars": rng.integers(1, 6, n),
            "age": age,
            "city": rng.choice(["Ghent", "Leuven", "Liège"], n),
            "income": rng.normal(3000, 500, n),
            "shop": rng.integers(0, 20, n),
            "day": pd.date_range("2024-01-01", periods=n).strftime("%Y-%m-%d"),
        }
    )


AUXILIARIES = ["visits", "stars"]


def prepared(frame, main="bought", auxiliaries=AUXILIARIES, **options):
    return prepare(frame, main, auxiliaries, **options)


def test_what_it_infers(frame):
    found = prepared(frame.assign(notes=[f"note {i}" for i in range(200)], same=1, number=range(200)))
    assert found.columns["role"].to_dict() == {
        "bought": "main", "visits": "auxiliary", "stars": "auxiliary", "age": "input", "city": "input",
        "income": "input", "shop": "input", "day": "left out", "notes": "input", "same": "left out",
        "number": "left out",
    }  # fmt: skip
    assert found.columns.loc[["bought", "visits", "stars"], "read as"].tolist() == [
        "binary",
        "regression",
        "multiclass",
    ]
    assert found.columns.loc["stars", "why"] == "the whole numbers 1 to 5"
    assert [task.kind for task in found.data.tasks] == ["binary", "regression", "multiclass"]
    text = "\n".join(found.warnings)
    assert "column 'day': a date, left out; set time to split by it" in text
    assert "column 'same': the same in every row" in text
    assert "column 'number': it numbers the rows" in text


def test_kinds_overrule(frame):
    found = prepared(frame, kinds={"stars": "regression"})
    assert found.data.tasks[2].kind == "regression"
    assert found.columns.loc["stars", "why"] == "as you said"


def test_splits_are_stratified_and_unlabelled_rows_are_trained_on(frame):
    frame["bought"] = frame["bought"].where(frame.index % 4 > 0)
    data = prepared(frame).data
    known = frame["bought"].dropna()
    for where in ("meta", "test"):
        split = data.splits[where]
        assert not torch.isnan(split.y["bought"]).any()
        assert split.y["bought"].mean().item() == pytest.approx((known == "yes").mean(), abs=0.02)
    assert int(torch.isnan(data.train.y["bought"]).sum()) == 50
    other = data.resample(1)
    assert len(other.train) == len(data.train)
    assert not torch.equal(other.test.rows, data.test.rows)


def test_groups_and_time_split_the_rows(frame):
    data = prepared(frame, groups="shop").data
    shops = [set(frame["shop"].iloc[s.rows.numpy()]) for s in data.splits.values()]
    assert len(set.union(*shops)) == sum(map(len, shops))
    shuffled = frame.sample(frac=1, random_state=0)
    data = prepared(shuffled, time="day").data
    days = [shuffled["day"].iloc[s.rows.numpy()] for s in data.splits.values()]
    assert days[0].max() < days[1].min() <= days[1].max() < days[2].min()
    assert data.redraw is None


def test_names_may_be_one_text(frame):
    found = prepared(frame, auxiliaries="visits, stars", leave_out="city,income")
    assert [task.name for task in found.data.tasks] == ["bought", "visits", "stars"]
    assert found.columns.loc[["city", "income"], "role"].tolist() == ["left out", "left out"]
    comma = frame.rename(columns={"visits": "visits, last year"})
    assert prepared(comma, auxiliaries="visits, last year").data.tasks[1].name == "visits, last year"


def test_names_may_be_numbers(frame):
    numbered = frame.set_axis(range(8), axis=1).set_index(np.zeros(200))
    found = prepared(numbered, main=0, auxiliaries=[1, 2], groups=6, kinds={2: "regression"})
    assert [task.name for task in found.data.tasks] == ["0", "1", "2"]
    assert found.data.tasks[2].kind == "regression"
    assert found.columns.loc["6", "role"] == "splits rows"


def test_without_auxiliaries_the_related_columns_are_taken_with_a_warning(frame):
    found = prepared(frame.assign(copy=frame["bought"]), auxiliaries=None)
    names = [task.name for task in found.data.tasks[1:]]
    assert len(names) == 3
    assert "age" in names
    assert "copy" not in names
    assert f"are taken: {', '.join(names)}; they are no inputs then" in found.warnings[0]


def test_a_leak_is_warned_about(frame):
    rng = np.random.default_rng(1)
    leaky = frame.assign(
        paid=np.where(frame["bought"] == "yes", rng.uniform(5, 9, 200), np.nan), score=frame["visits"] * 2 + 1
    )
    text = "\n".join(prepared(leaky).warnings)
    assert "column 'paid' alone predicts 'bought' almost perfectly (1.000 of 1): does it leak" in text
    assert "'score'" not in text
    assert "'age'" not in text
    text = "\n".join(prepared(leaky, main="visits", auxiliaries=["bought"]).warnings)
    assert "column 'score' alone predicts 'visits' almost perfectly" in text


def test_rare_classes_are_warned_about(frame):
    frame["bought"] = np.where(frame.index < 8, "yes", "no")
    frame["stars"] = np.where(frame.index < 199, 1, 2)
    text = "\n".join(prepared(frame).warnings)
    assert "class 'yes' of 'bought' is rare (4.0%): always answering the commonest class is right in 96.0%" in text
    assert "class 2 of auxiliary 'stars' has 1 row only" in text


def test_mixed_inputs(frame):
    nearly = frame["income"].round(2).astype(str)
    nearly[3] = "n/a!"
    half = frame["income"].round(0).astype("object").where(frame.index % 2 > 0, "unknown")
    found = prepared(frame.assign(nearly=nearly, half=half))
    assert found.columns.loc["nearly", "read as"] == "number"
    assert "column 'nearly': 1 entries such as 'n/a!' are no numbers, taken as missing" in "\n".join(found.warnings)
    assert found.columns.loc["half", "why"].endswith("categories, 100 of them numbers")


def test_100000_categories(frame):
    wide = pd.concat([frame] * 500, ignore_index=True)
    codes = [f"code {i}" for i in np.random.default_rng(0).permutation(len(wide))]
    found = prepared(wide.assign(code=codes))
    assert "column 'code': 100,000 different entries, more than 200, left out" in found.warnings
    with pytest.raises(Refused, match="target 'code' has 100,000 classes, expected at most 50"):
        prepared(wide.assign(code=codes), main="code")


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"main": "sold"}, "no column 'sold', expected one of bought, visits"),
        ({}, {"auxiliaries": ["bought"]}, "column 'bought' is given 2 roles, expected one"),
        ({}, {"auxiliaries": []}, "no auxiliary column is given, expected at least one"),
        ({}, {"groups": "shop", "time": "day"}, "expected one of them at most"),
        ({}, {"kinds": {"bought": "count"}}, "target 'bought': kind is 'count', expected one of"),
        ({}, {"main": "day"}, "target 'day' holds dates, expected numbers or classes"),
        ({"day": pd.Timestamp("2024-01-01")}, {"main": "day"}, "target 'day' holds dates"),
        ({"bought": "no"}, {}, "target 'bought' is 'no' in every row, expected two different values or more"),
        ({"visits": np.nan}, {}, "target 'visits' has no label in any row"),
        ({"bought": ["yes", *["no"] * 199]}, {}, "class 'yes' of 'bought' has 1 row, expected at least 5"),
        ({"bought": ["yes", "no"] * 20 + [None] * 160}, {}, "40 rows have a label for 'bought', expected at least 50"),
        ({"visits": [*range(199), "many"]}, {}, "target 'visits' mixes numbers and text: 1 of 200 .* such as 'many'"),
        ({"income": [*range(199), np.inf]}, {}, r"column 'income' holds 1 infinite values \(the first in row 199\)"),
        ({"visits": [-np.inf, *range(199)]}, {}, r"column 'visits' holds 1 infinite values \(the first in row 0\)"),
        ({"income": np.arange(200) * 1j}, {}, "column 'income' is complex128"),
        ({"shop": np.repeat([0, 1, 2], [100, 99, 1])}, {"groups": "shop"}, "too few groups or rows|expected"),
    ],
)
def test_refusals(frame, change, options, message):
    with pytest.raises(Refused, match=message) as caught:
        prepared(frame.assign(**change), **options)
    assert caught.value._render_traceback_() == [str(caught.value)]


def test_ten_rows_and_nothing_left(frame):
    with pytest.raises(Refused, match="10 rows have a label for 'bought', expected at least 50"):
        prepared(frame[:10])
    with pytest.raises(Refused, match="no usable input is left"):
        prepared(frame[["bought", "visits", "day"]], auxiliaries=["visits"])
    with pytest.raises(Refused, match="expected each name once"):
        prepared(pd.concat([frame, frame], axis=1))


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv", ".parquet"])
def test_files_are_read(frame, tmp_path, ending, monkeypatch):
    path = tmp_path / f"my{ending}"
    if ending == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ending == ".tsv" else ";")
    monkeypatch.delenv("MTLKIT_START", raising=False)
    pd.testing.assert_frame_equal(read(path), frame, check_dtype=False)
    monkeypatch.chdir(tmp_path)
    assert len(read(path.name)) == 200
    elsewhere = tmp_path / "notebooks"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(Refused, match=f"there is no file my{ending} "):
        read(path.name)
    monkeypatch.setenv("MTLKIT_START", str(tmp_path))
    assert len(read(path.name)) == 200
    assert located(path) == path
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, "notebooks"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("my.csv", "stad,prijs\nLiège,1\n".encode("latin-1"), r"my.csv is not utf-8: byte 0xe8 .* set encoding"),
        ("my.csv", "städ,prijs\nGent,1\n".encode("latin-1"), r"my.csv is not utf-8: byte 0xe4"),
        ("my.csv", b"a,b,a\n1,2,3\n", "more than one column 'a', expected each name once"),
        ("my.csv", b"", "could not be read as a table"),
        ("my.csv", b"a,b\n", "has no rows"),
        ("my.csv", b"a,b\n1,2\n1,2,3,4\n", "could not be read as a table: .*line 3"),
        ("my.csv.gz", b"no gzip", "could not be read as a table"),
        ("my.parquet", b"no parquet", "could not be read as a table"),
        ("my.xlsx", b"", r"the ending is '.xlsx', expected .csv, .csv.gz, .tsv or .parquet"),
    ],
)
def test_files_that_are_no_tables(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused, match=message):
        read(tmp_path / name)


def test_other_encodings_can_be_named(tmp_path):
    (tmp_path / "my.csv").write_bytes("stad,prijs\nLiège,1\n".encode("cp1252"))
    assert read(tmp_path / "my.csv", "cp1252")["stad"].tolist() == ["Liège"]
    with pytest.raises(Refused, match="unknown encoding: klingon"):
        read(tmp_path / "my.csv", "klingon")
    (tmp_path / "bom.csv").write_bytes("a,b\n1,2\n".encode("utf-8-sig"))
    assert read(tmp_path / "bom.csv").columns.tolist() == ["a", "b"]
    with gzip.open(tmp_path / "z.csv.gz", "wt") as file:
        file.write("a\tb\n1\t2\n")
    assert read(tmp_path / "z.csv.gz").columns.tolist() == ["a", "b"]


def test_the_example_is_a_real_table():
    frame = read(None)
    assert frame.equals(example())
    found = prepare(frame, "diagnosis", EXAMPLE_AUXILIARIES)
    assert len(frame) == 569
    assert found.data.main.kind == "binary"
    assert found.warnings == ()
