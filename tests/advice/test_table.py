import gzip
import time

import numpy as np
import pandas as pd
import pytest

from mtlkit.advice import Refused, read
from mtlkit.advice._columns import alone
from mtlkit.advice._prepare import Roles, prepare


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
    apart = {name: options.pop(name) for name in ("repeats", "inner") if name in options}
    return prepare(frame, Roles(main, auxiliaries, **options), **apart)


def test_what_it_infers(frame):
    found = prepared(frame.assign(notes=[f"note {i}" for i in range(200)], same=1, number=range(200)))
    assert found.columns["role"].to_dict() == {
        "bought": "main", "visits": "auxiliary", "stars": "auxiliary", "age": "input", "city": "input",
        "income": "input", "shop": "input", "day": "left out", "notes": "left out", "same": "left out",
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
    assert "column 'day': a date or time, left out; name it in dates to use it, or in time to split by it" in text
    assert "column 'notes': 200 different entries in 200 rows, like names of rows, left out" in text
    assert "column 'same': the same in every row" in text
    assert "column 'number': it numbers the rows" in text


def test_kinds_overrule(frame):
    found = prepared(frame, kinds={"stars": "regression"})
    assert found.data.tasks[2].kind == "regression"
    assert found.columns.loc["stars", "why"] == "as you said"


def test_names_may_be_numbers(frame):
    numbered = frame.set_axis(range(8), axis=1).set_index(np.zeros(200))
    found = prepared(numbered, main=0, auxiliaries=[1, 2], groups=6, kinds={2: "regression"})
    assert [task.name for task in found.data.tasks] == ["0", "1", "2"]
    assert found.data.tasks[2].kind == "regression"
    assert found.columns.loc["6", "role"] == "splits rows"


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
    assert "class 'yes' of 'bought' is rare (8 rows, 4.0%): a fold has about 2 of it" in text
    assert "class 2 of auxiliary 'stars' has 1 row only" in text


def test_mixed_inputs(frame):
    nearly = frame["income"].round(2).astype(str)
    nearly[3] = "n/a!"
    half = frame["shop"].astype("object").where(frame.index % 2 > 0, "unknown")
    found = prepared(frame.assign(nearly=nearly, half=half))
    assert found.columns.loc["nearly", "read as"] == "number"
    assert "column 'nearly': 1 entries such as 'n/a!' are no numbers, taken as missing" in "\n".join(found.warnings)
    assert found.columns.loc["half", "why"].endswith("categories, 100 entries are numbers")
    assert "column 'half': " in "\n".join(found.warnings)


def test_100000_categories(frame):
    wide = pd.concat([frame] * 500, ignore_index=True)
    codes = [f"code {i}" for i in np.random.default_rng(0).permutation(len(wide))]
    found = prepared(wide.assign(code=codes))
    assert "column 'code': 100,000 different entries, more than 200, left out" in found.warnings
    with pytest.raises(Refused, match="target 'code' has 100,000 classes, expected at most 50"):
        prepared(wide.assign(code=codes), main="code")


def test_columns_of_several_levels_are_refused():
    columns = pd.MultiIndex.from_tuples([("sales", "target"), ("sales", "price")])
    table = pd.DataFrame([[0, 1.0], [1, 2.0]] * 40, columns=columns)
    with pytest.raises(Refused, match=r"the columns have 2 levels, expected one: frame.columns.to_flat_index\(\)"):
        prepare(table, Roles("target", ["price"]))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"main": "sold"}, "no column 'sold', expected one of bought, visits"),
        ({}, {"auxiliaries": ["bought"]}, "column 'bought' is given 2 roles, expected one"),
        ({}, {"auxiliaries": "visits"}, "auxiliaries is 'visits', expected a list of column names"),
        ({}, {"groups": "shop", "time": "day"}, "expected one of them at most"),
        ({}, {"kinds": {"bought": "count"}}, "target 'bought': kind is 'count', expected one of"),
        ({}, {"main": "day"}, "target 'day' holds dates or times, expected numbers or classes"),
        ({"day": pd.Timestamp("2024-01-01")}, {"main": "day"}, "target 'day' holds dates"),
        ({"bought": "no"}, {}, "target 'bought' is 'no' in every row, expected two different values or more"),
        ({"visits": np.nan}, {}, "target 'visits' has no label in any row"),
        ({"bought": ["yes", *["no"] * 199]}, {}, "class 'yes' of 'bought' has 1 row, expected at least 5"),
        ({"bought": ["yes", "no"] * 20 + [None] * 160}, {}, "40 rows have a label for 'bought', expected at least 50"),
        ({"visits": [*range(199), "many"]}, {}, "target 'visits' mixes numbers and text: 1 of 200 .* such as 'many'"),
        ({"income": [*range(199), np.inf]}, {}, r"column 'income' holds an infinite value \(row 199\)"),
        ({"visits": [-np.inf, *range(199)]}, {}, r"column 'visits' holds an infinite value \(row 0\)"),
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
        ("my.xlsx", b"", "the ending is '.xlsx', expected one of .csv, .csv.gz, .tsv, .tsv.gz or .parquet"),
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


def test_rows_longer_than_the_header_are_not_shifted(tmp_path):
    path = tmp_path / "my.csv"
    for text in ("a,b,c\n1,2,3,\n4,5,6,\n", "a;b,c;d\n1;2;3;4\n", "a,c\n1,5,2\n"):
        path.write_text(text)
        with pytest.raises(Refused, match=r"my\.csv: rows have . entries, the header has .; is there a separator"):
            read(path)


def test_what_counts_as_missing_in_a_csv(tmp_path):
    (tmp_path / "my.csv").write_text("size, harm\nNA,None\n,Mild\n3, n/a\n")
    found = read(tmp_path / "my.csv")
    assert found["harm"].tolist()[:2] == ["None", "Mild"]
    assert found.isna().sum().tolist() == [2, 1]


def test_european_files(tmp_path):
    (tmp_path / "my.csv").write_text('naam ;prijs;"a, b"\nGent;1,5;2\n')
    assert read(tmp_path / "my.csv", decimal=",").to_dict("list") == {"naam": ["Gent"], "prijs": [1.5], "a, b": [2]}
    with pytest.raises(Refused, match=r"decimal is ';', expected '\.' or ','"):
        read(tmp_path / "my.csv", decimal=";")


def test_blank_first_lines_do_not_hide_a_name_that_is_there_twice(tmp_path):
    (tmp_path / "my.csv").write_text("\n\na,b,a \n1,2,3\n")
    with pytest.raises(Refused, match="more than one column 'a', expected each name once"):
        read(tmp_path / "my.csv")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("https://example.org/my.csv", "is an address, expected a file"),
        (".", "is a folder, expected a file"),
        ("", "path is '', expected the name of a file"),
        (5, "path is 5, expected the name of a file"),
        ("my.csv.zip", "the ending is '.zip'"),
    ],
)
def test_paths_that_are_no_tables(path, message):
    with pytest.raises(Refused, match=message):
        read(path)


def test_a_named_index_of_a_parquet_file_is_a_column(frame, tmp_path):
    frame.set_index("age").to_parquet(tmp_path / "my.parquet")
    assert "age" in read(tmp_path / "my.parquet")
    frame.to_parquet(tmp_path / "plain.parquet")
    pd.testing.assert_frame_equal(read(tmp_path / "plain.parquet"), frame, check_dtype=False)


def comma(values):
    return [f"{value:.2f}".replace(".", ",") for value in values]


@pytest.mark.parametrize(
    ("values", "role", "why"),
    [
        (lambda i: f"user-{i}", "left out", "like names of rows"),
        (lambda i: f"{i % 28 + 1:02}.{i % 12 + 1:02}.2024", "left out", "a date or time, left out"),
        (
            lambda i: f"2024-03-{i % 28 + 1:02}T00:00:00+0{i % 2 + 1}:00",
            "left out",
            "a date or time, left out",
        ),
        (
            lambda i: pd.Timestamp(2024, 1, 1).date() + pd.Timedelta(days=i),
            "left out",
            "a date or time, left out",
        ),
        (lambda i: pd.Timedelta(days=i * i % 99), "left out", "a date or time"),
        (lambda i: 200 - i, "left out", "numbers the rows"),
        (lambda i: 1850 + i, "input", ""),
        (lambda i: f"{2010 + i % 9}-{11 + i % 9}", "input", "9 categories"),
        (lambda i: f"{i % 3},{i % 5},{i % 2}", "input", "30 categories"),
        (lambda i: f"{10 * (i % 4 + 1)},000", "input", "text such as '10,000' read as 10000"),
        (lambda i: f"€ {i * 1300 + 100:,}.50", "input", "text such as '€ 100.50' read as 100.5"),
        (lambda i: f"{i * 1300 + 100:,}".replace(",", ".") + ",5", "input", "text such as '100,5' read as 100.5"),
        (lambda i: f"{i * i % 97} %", "input", "text such as '0 %' read as 0"),
        (lambda i: f"1.{i % 20}.{i % 3}", "input", "60 categories"),
        (lambda i: i + i // 50, "left out", "numbers the rows"),
        (lambda i: np.nan, "left out", "no value in any row"),
        (lambda i: i * i, "input", ""),
        (lambda i: str(i * i / 10), "input", ""),
        (lambda i: bool(i % 3), "input", ""),
        (lambda i: 1e30 if i == 5 else i * i, "input", "one value, 1e+30, is a million times farther out"),
        (lambda i: pd.Interval(i % 4, i % 4 + 1), "input", "4 categories"),
    ],
)
def test_what_an_input_is(frame, values, role, why):
    found = prepared(frame.assign(extra=[values(i) for i in range(200)]))
    assert found.columns.loc["extra", "role"] == role
    assert why in found.columns.loc["extra", "why"]
    told = [text for text in found.warnings if "'extra'" in text]
    assert bool(told) == (bool(why) and "categories" not in why)


def test_targets_as_other_programs_write_them(frame):
    text = frame.assign(visits=frame["visits"].map(str), bought=frame["bought"] + " ")
    text["bought"] = text["bought"].where(text.index % 7 > 0, text["bought"].str.strip())
    text["stars"] = pd.Categorical(text["stars"], categories=range(9))
    found = prepared(text)
    assert [task.kind for task in found.data.tasks] == ["binary", "regression", "multiclass"]
    assert found.data.classes["bought"] == ("no", "yes")
    nullable = prepared(frame.convert_dtypes())
    assert [task.kind for task in nullable.data.tasks] == ["binary", "regression", "multiclass"]
    upper = frame.assign(bought=frame["bought"].where(frame.index % 2 > 0, frame["bought"].str.upper()))
    assert "target 'bought' has classes that differ only in upper and lower case" in prepared(upper).warnings


def test_kinds_overrule_text_that_looks_like_numbers(frame):
    likert = frame["stars"].map({1: "1 (no)", 2: "2", 3: "3", 4: "4", 5: "5 (yes)"})
    with pytest.raises(Refused, match=r"mixes numbers and text: .* set kinds to 'multiclass'"):
        prepared(frame.assign(stars=likert))
    found = prepared(frame.assign(stars=likert), kinds={"stars": "multiclass"})
    assert found.data.classes["stars"] == ("1 (no)", "2", "3", "4", "5 (yes)")
    counts = frame.assign(bought=[5, *[0, 1, 2, 3, 4] * 39, 0, 0, 0, 0])
    with pytest.raises(Refused, match=r"class 5 of 'bought' has 1 row, .* set kinds to 'regression'"):
        prepared(counts)
    assert prepared(counts, kinds={"bought": "regression"}).data.main.kind == "regression"


def test_size_is_checked_in_text_that_is_nearly_numbers(frame):
    nearly = frame["income"].astype(str)
    nearly[:2] = ["n/a!", "1e300"]
    with pytest.raises(Refused, match=r"column 'income' holds 1e\+300 \(row 1\)"):
        prepared(frame.assign(income=nearly))


def test_a_balanced_target_with_many_classes_is_not_rare():
    rng = np.random.default_rng(0)
    wide = pd.DataFrame({"kind": [f"k{i % 25}" for i in range(1000)], "a": rng.normal(size=1000)})
    assert prepare(wide.assign(x=rng.normal(size=1000)), Roles("kind", ["a"])).warnings == []
    skewed = wide.assign(x=rng.normal(size=1000), kind=np.repeat(["a", "b", "c"], [800, 100, 100]))
    assert "always answering 'a' is right in 80.0% of the rows" in "\n".join(
        prepare(skewed, Roles("kind", ["a"])).warnings
    )


def test_the_same_thing_under_another_name_is_warned_about(frame):
    text = "\n".join(prepared(frame.assign(visits=frame["bought"].map({"yes": "y", "no": "n"}))).warnings)
    assert "auxiliary 'visits' alone predicts 'bought' almost perfectly (1.000 of 1): is it the same thing" in text


def test_classes_that_training_never_shows():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"t": range(300), "kind": [f"k{i // 50}" for i in range(300)], "a": rng.normal(size=300)})
    frame["x"] = rng.normal(size=300)
    early = frame.assign(kind=np.where(frame.index < 180, "k0", frame["kind"]))
    with pytest.raises(Refused, match="a train split has 120 labels of 1 different values for 'kind'"):
        prepare(early, Roles("kind", ["a"], time="t"))
    with pytest.raises(Refused, match="no test row has a class of 'kind' that a training row has"):
        prepare(frame, Roles("kind", ["a"], time="t"))
    mixed = frame.assign(kind=frame["kind"].where(frame.index % 2 > 0, "k0"))
    text = "\n".join(prepare(mixed, Roles("kind", ["a"], time="t")).warnings)
    assert "up to 50.0% of the test rows are of a class of 'kind' that is in no training row" in text


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"main": "boght"}, r"no column 'boght' \(did you mean 'bought'\?\)"),
        ({}, {"leave_out": ["citty"]}, r"no column 'citty' \(did you mean 'city'\?\)"),
        ({}, {"kinds": {"age": "regression"}}, "kinds names 'age', expected one of the targets"),
        ({}, {"kinds": {"bought": "regression"}}, "target 'bought' holds text such as .* expected numbers"),
        ({}, {"kinds": {"visits": "binary"}}, "target 'visits' has .* different values, expected two"),
        ({"visits": np.arange(200) * 1.5}, {"kinds": {"visits": "multiclass"}}, "has 200 classes, expected at most 50"),
        ({"income": [1e300] * 2 + [1.0] * 198}, {}, r"column 'income' holds 1e\+300 \(row 0\)"),
        ({"income": ["inf", "1.5"] * 100}, {}, "column 'income' holds an infinite value"),
        ({"income": [[1, 2]] * 200}, {}, r"column 'income' holds lists or the like \(list\)"),
        ({"visits": pd.Timedelta(days=1)}, {}, "target 'visits' holds dates or times"),
    ],
)
def test_more_refusals(frame, change, options, message):
    with pytest.raises(Refused, match=message):
        prepared(frame.assign(**change), **options)


def rows_of(data):
    return [set(split.rows.tolist()) for split in data.splits.values()]


def test_every_labelled_row_is_tested_on_once_in_five_and_unlabelled_ones_are_trained_on(frame):
    frame["bought"] = frame["bought"].where(frame.index % 4 > 0)
    found = prepared(frame, repeats=2, inner=2)
    known = frame["bought"].dropna()
    assert len(found.draws) == 20
    for repeat in range(2):
        tests = [found.draws[2 * r][2] for r in range(5 * repeat, 5 * repeat + 5)]
        assert sorted(np.concatenate(tests)) == known.index.tolist()
    for train, meta, test in found.draws:
        assert len({*train, *meta, *test}) == len(train) + len(meta) + len(test)
        assert (frame["bought"].isna().to_numpy().nonzero()[0] == sorted(r for r in train if r % 4 == 0)).all()
        for rows in (meta, test):
            assert (known[rows] == "yes").mean() == pytest.approx((known == "yes").mean(), abs=0.03)
    assert found.draws[0][2].tolist() == found.draws[1][2].tolist()
    assert set(found.draws[0][1]).isdisjoint(found.draws[1][1])
    assert found.overlap == pytest.approx(0.25)
    assert rows_of(found.data.resample(3)) == [set(rows) for rows in found.draws[3]]


def test_groups_stay_together_and_hardly_a_row_is_lost(frame):
    uneven = np.r_[np.zeros(110, int), np.repeat(range(1, 10), 10)]
    for shop in (frame["shop"].to_numpy(), uneven):
        found = prepared(frame.assign(shop=shop), groups="shop")
        assert sum(map(len, found.draws[0])) > 0.85 * 200
        for draw in found.draws:
            shops = [set(shop[rows]) for rows in draw]
            assert len(set.union(*shops)) == sum(map(len, shops))
    text = "\n".join(found.warnings)
    assert "the largest group of 'shop' has 110 of 200 rows and is always trained on" in text
    assert "split by a finer column, or by time" in text
    few = prepared(frame.assign(shop=np.repeat(range(5), 40)), groups="shop")
    assert "'shop' has 5 groups only" in "\n".join(few.warnings)
    with pytest.raises(Refused, match="group column 'shop' has 2 groups, expected at least 5"):
        prepared(frame.assign(shop=frame.index % 2), groups="shop")


def test_by_time_the_future_is_tested_on(frame):
    shuffled = frame.sample(frac=1, random_state=0).reset_index(drop=True)
    for column in (shuffled["day"], pd.to_timedelta(shuffled["day"].rank(), unit="h")):
        found = prepared(shuffled.assign(day=column), time="day")
        assert len(found.draws) == 5
        for train, meta, test in found.draws:
            days = [shuffled["day"][rows] for rows in (train, meta, test)]
            assert days[0].max() < days[1].min() <= days[1].max() < days[2].min()
            assert (len(train), len(meta), len(test)) == (80, 20, 20)
    last = np.concatenate([shuffled["day"][rows] for rows in found.parts[0][:2]])
    assert len(last) == 200
    for values, message in (("2024-01-01", "is the same in every row"), (["3/31"] * 100 + ["4/1"] * 100, "'3/31'")):
        with pytest.raises(Refused, match=f"time column 'day' .*{message}"):
            prepared(frame.assign(day=values), time="day")


def test_classes_of_the_same_weight():
    rng = np.random.default_rng(0)
    rare = pd.DataFrame({"kind": np.repeat(["a", "b", "c"], [260, 30, 10]), "x": rng.normal(size=300)})
    plain, even = (prepare(rare, Roles("kind", balanced=balanced)) for balanced in (False, True))
    assert "always answering 'a' is right in 86.7%" in "\n".join(plain.warnings)
    assert "set balanced" not in "\n".join(even.warnings)
    for train, meta, test in even.draws:
        counts = rare["kind"][train].value_counts()
        assert counts.min() > 0.8 * counts.max()
        assert len(set(test)) == len(test)
        assert set(train).isdisjoint(test)
        assert set(train).isdisjoint(meta)
    with pytest.raises(Refused, match="balanced is True, but 'x' is a regression"):
        prepare(rare, Roles("x", balanced=True))


def test_dates_as_inputs(frame):
    first = frame.assign(day=pd.to_datetime(frame["day"]).dt.strftime("%d.%m.%Y"))
    for table in (frame, first, frame.assign(day=pd.to_datetime(frame["day"]))):
        found = prepared(table, dates=["day"])
        inputs = found.reader(table)
        day = pd.to_datetime(frame["day"])
        for part, of in {"year": "year", "month": "month", "weekday": "day_of_week"}.items():
            assert inputs[f"day, {part}"].tolist() == getattr(day.dt, of).tolist()
        assert found.columns.loc["day", ["role", "read as"]].tolist() == ["input", "date"]
    with pytest.raises(Refused, match=r"column 'city' holds '.*', expected dates"):
        prepared(frame, dates=["city"])


def test_targets_that_are_text_or_start_at_minus_one(frame):
    price = [f"{value:,.2f}" for value in frame["income"] * 10]
    found = prepared(frame.assign(visits=price))
    assert found.table.targets["visits"].tolist() == pytest.approx((frame["income"] * 10).round(2).tolist())
    assert "read as" in found.columns.loc["visits", "why"]
    signs = frame.assign(bought=np.where(frame["bought"] == "yes", 1, -1), stars=frame["stars"] % 3 - 1)
    found = prepared(signs)
    assert [task.kind for task in found.table.tasks] == ["binary", "regression", "multiclass"]
    assert (found.strata == (signs["bought"] + 1) // 2).all()
    assert found.table.targets["stars"].tolist() == (signs["stars"] + 1).tolist()


def test_thousands_of_columns_take_seconds():
    rng = np.random.default_rng(0)
    wide = pd.DataFrame(rng.normal(size=(300, 3000))).add_prefix("x")
    wide["y"] = rng.integers(0, 2, 300)
    wide["leak"] = wide["y"] * 2.5
    begun = time.process_time()
    found = prepare(wide, Roles("y"))
    assert time.process_time() - begun < 30
    leaks = [text for text in found.warnings if "almost perfectly" in text]
    assert len(leaks) == 1
    assert leaks[0].startswith("column 'leak' alone")
    assert found.inner == 2
    assert len(found.draws) == 20
    assert alone(wide["x0"], wide["y"], "binary") < 0.7


def test_what_stands_above_the_header_is_left_out(tmp_path):
    table = pd.DataFrame({"a": [1, 2], "b": ["x", "y,z"]})
    plain = table.to_csv(index=False, sep=";")
    for above in ("", "sep=;\n", '"sep=;"\n', "# made by hand\n", "Sales of 2024\n\n", "# a, b, c\n# more\n"):
        (tmp_path / "my.csv").write_text(above + plain)
        pd.testing.assert_frame_equal(read(tmp_path / "my.csv"), table)
    (tmp_path / "my.csv").write_text("#a,b\n1,2\n3,4\n")
    assert read(tmp_path / "my.csv").columns.tolist() == ["#a", "b"]
    (tmp_path / "my.csv").write_text("a\n1\n2\n")
    assert read(tmp_path / "my.csv").columns.tolist() == ["a"]
    (tmp_path / "my.csv").write_text("prijs;maat\n1,5;2,5\n")
    assert read(tmp_path / "my.csv", decimal=",").to_dict("list") == {"prijs": [1.5], "maat": [2.5]}


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv", ".parquet"])
def test_files_are_read(frame, tmp_path, ending, monkeypatch):
    path = tmp_path / f"my{ending}"
    if ending == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ending == ".tsv" else ";")
    pd.testing.assert_frame_equal(read(path), frame, check_dtype=False)
    monkeypatch.chdir(tmp_path)
    assert len(read(path.name)) == 200
    with pytest.raises(Refused, match=f"there is no file other{ending} "):
        read(f"other{ending}")
