import dataclasses

import pandas as pd
import pytest
from companion import methods, noise, paired, recipe, tables

import mtlkit as mtl
from mtlkit import studies

BUDGET = {"lrs": [0.01], "tuning_seeds": 1, "seeds": 2, "jobs": 1, "epochs": 1, "store": None, "missing": "train"}


@pytest.fixture(scope="module")
def found():
    data = mtl.datasets.load("digits", main=8)
    alone = data.only(["is_8"])

    def candidate(used, method):
        return studies.Candidate(mtl.models.mlp(used, hidden=(8,)), used, method, {"steps_per_epoch": 3})

    few = {"single task": candidate(alone, mtl.Uniform()), "SLGrad": candidate(data, mtl.SLGrad())}
    more = few | {"Uniform": candidate(data, mtl.Uniform())}
    shared = {"a": 0.0, "b": 0.5}
    return recipe.studied({"a": (data, few), "b": (data, more)}, called="target", overlap=shared, **BUDGET)


def test_means_are_those_of_the_summary(found):
    summary = found.summaries(["accuracy"], "SLGrad")["b"].query("at == 'selected'").set_index("method")
    expected = summary[["mean", "low", "high"]]
    pd.testing.assert_frame_equal(found.means("accuracy")["b"], expected, check_names=False)
    assert list(found.means(start="b")) == ["b"]
    assert set(found.lines("accuracy")["a"]) == set(found.floors["a"])


def test_a_condition_without_its_floors_is_left_out_where_nothing_is_trained(tmp_path):
    data = mtl.datasets.load("digits", main=8)
    model = mtl.models.mlp(data, hidden=(8,))
    few = {"Uniform": studies.Candidate(model, data, mtl.Uniform(), {"steps_per_epoch": 3})}
    options = BUDGET | {"store": tmp_path / "runs.parquet"}
    studies.study(few, **options)
    assert not recipe.studied({"a": (data, few)}, **options | {"missing": "skip"}).outcomes
    recipe.studied({"a": (data, few)}, **options)
    assert list(recipe.studied({"a": (data, few)}, **options | {"missing": "skip"}).outcomes) == ["a"]


def test_shared_rows_widen_every_interval_of_a_study(found):
    wider = (1 + 2 * 0.5) ** 0.5
    alone = dataclasses.replace(found, overlap=dict.fromkeys(found.outcomes, 0.0))

    def widths(study, condition):
        summary = study.summaries(["loss"], "single task")[condition]
        tables = [
            study.means()[condition],
            summary,
            summary[["difference_low", "difference_high"]].dropna().set_axis(["low", "high"], axis=1),
            study.compared([("SLGrad", "single task")], "loss").query(f"target == {condition!r}"),
            paired.gains_over(study.numbers(["loss"]), "loss", "single task").query(f"condition == {condition!r}"),
        ]
        return [float(width) for table in tables for width in table["high"] - table["low"]]

    assert widths(found, "a") == widths(alone, "a")
    assert widths(found, "b") == pytest.approx([wider * width for width in widths(alone, "b")])


def test_only_trained_pairs_are_compared(found):
    table = found.compared([("SLGrad", "single task"), ("SLGrad", "Uniform")], "loss")
    assert table[["target", "method", "against"]].to_numpy().tolist() == [
        ["a", "SLGrad", "single task"], ["b", "SLGrad", "single task"], ["b", "SLGrad", "Uniform"],
    ]  # fmt: skip
    means = found.means()["b"]["mean"]
    assert table["difference"].iloc[-1] == pytest.approx(means["SLGrad"] - means["Uniform"])


def test_tables_call_conditions_what_the_study_calls_them(found, tmp_path):
    found.show_spread(tmp_path, "spread", "accuracy")
    found.show_tuning(tmp_path, "tuning")
    for name in ("spread", "tuning"):
        assert pd.read_csv(tmp_path / f"{name}.csv").columns[0] == "target"
    found.show_summaries(tmp_path, {"a": "x", "b": "y"}, ["loss"], reference="single task")
    assert (tmp_path / "x.md").exists()
    assert set(pd.read_csv(tmp_path / "y.csv")["method"]) == {"single task", "SLGrad", "Uniform"}


def test_seeds_that_collapse_are_counted_apart(found, monkeypatch):
    values = pd.DataFrame({"single task": [0.9, 0.8, 1.0], "SLGrad": [0.1, 0.95, 0.49]})
    monkeypatch.setattr(studies, "per_seed", lambda outcome, metric: values)
    monkeypatch.setattr(recipe.Studied, "lines", lambda self, metric: {"a": {"constant": 0.1}})
    down = found.collapsed("accuracy")
    assert down.loc[("a", "single task")].tolist() == [0, 3, pytest.approx(0.9)]
    assert down.loc[("a", "SLGrad")].tolist() == [2, 3, pytest.approx(0.95)]  # below (0.1 + 0.9) / 2
    assert down.index.names == ["target", "method"]


def test_clear_differences_are_counted_and_starred():
    rows = [("a", "x", 1.0, 0.5, 1.5), ("a", "y", -1.0, -1.5, -0.5), ("b", "x", 0.1, -0.1, 0.3)]
    table = pd.DataFrame(rows, columns=["condition", "method", "gain", "low", "high"])
    assert recipe.tally(table) == "clearly ahead in 1 of 3 comparisons, clearly behind in 1"
    shown = tables.starred_gains(table, "condition", "method", digits=1)
    assert shown.to_dict("index") == {"a": {"x": "+1.0 *", "y": "-1.0 *"}, "b": {"x": "+0.1", "y": ""}}


def test_a_study_without_a_store_says_that_it_decides_nothing():
    assert recipe.scale(None) == "Quick scale, which decides nothing: "
    assert recipe.scale("runs.parquet") == ""


def test_weightings_come_in_the_order_asked_for():
    assert list(methods.weightings("SLGrad", "CAGrad")) == ["SLGrad", "CAGrad"]
    assert methods.weightings("DWA") == {"DWA": mtl.DWA()}
    every = methods.weightings()
    assert {method.name for method in methods.METHODS} - {"Gramian"} <= set(every)
    assert set(methods.GRAMIANS) <= set(every)


def test_the_ten_tasks_are_those_of_the_data_set():
    data = noise.ten_tasks("digits", 8, 0.2)
    assert (len(data.tasks), data.main.name) == (10, "is_8")


def test_the_losses_of_all_rates_stand_under_the_cap_of_the_final_runs_with_a_star_at_the_choice():
    columns = ["method", "variant", "lr", "meta_loss", "test_loss", "epochs", "chosen"]
    rows = [
        ("b", 0, 0.1, 0.5, 0.4, 10, False),
        ("b", 0, 0.3, 0.4, 0.6, 10, False),
        ("b", 0, 0.1, 0.3, 0.3, 20, True),
        ("b", 0, 0.3, 0.4, 0.2, 20, False),
        ("a", 0, 0.1, 0.5, 0.7, 10, False),
        ("a", 1, 0.1, 0.4, 0.8, 10, True),
    ]
    found = tables.by_rate({"noisy": pd.DataFrame(rows, columns=columns)})
    assert found.index.tolist() == [("noisy", "b", 0), ("noisy", "a", 0), ("noisy", "a", 1)]
    assert found.to_numpy().tolist() == [["0.300*", "0.200"], ["0.700", ""], ["0.800*", ""]]


def test_intervals_of_shares_are_cut_at_what_they_can_be():
    found = pd.DataFrame({"mean": [0.9, 0.9], "low": [-0.2, -0.2], "high": [1.1, 1.1]}, index=["accuracy", "loss"])
    each = tables.possible(found, found.index)
    assert each.loc["accuracy"].tolist() == [0.9, 0.0, 1.0]
    assert each.loc["loss"].tolist() == [0.9, -0.2, 1.1]
    assert tables.possible(found, "roc_auc")["high"].tolist() == [1.0, 1.0]
