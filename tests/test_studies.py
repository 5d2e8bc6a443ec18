import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import mtlkit as mtl
from mtlkit import studies

BUDGET = {"epochs": 2, "tuning_epochs": 1}
OPTIONS = {"batch_size": 50, "steps_per_epoch": 5, "dtype": torch.float64, "device": "cpu"}


@pytest.fixture(scope="module")
def candidates():
    data = mtl.datasets.load("digits", label_noise=0.6)
    return studies.contenders(data, mtl.models.mlp, {"Uniform": mtl.Uniform(), "SLGrad": mtl.SLGrad()})


@pytest.fixture(scope="module")
def outcome(candidates):
    return studies.study(candidates, lrs=[0.1, 1e6], tuning_seeds=2, seeds=3, jobs=1, **BUDGET, **OPTIONS)


def test_baselines_train_on_what_their_name_says(candidates):
    data = candidates["Uniform"].data
    train, meta = set(data.train.rows.tolist()), set(data.meta.rows.tolist())

    def rows(name):
        return candidates[name].data.train.rows.tolist()

    assert set(rows("single task")) == train
    assert rows("meta rows only") == data.meta.rows.tolist()
    assert sorted(rows("train + meta")) == sorted([*train, *meta])
    half = rows("train + meta, half each")
    assert sum(row in meta for row in half) == len(half) / 2
    for name in ("single task", "SLGrad, main task only", "meta rows only, main task only"):
        assert [task.name for task in candidates[name].data.tasks] == ["is_8"]
    assert all(c.data.test.rows.tolist() == data.test.rows.tolist() for c in candidates.values())


def test_the_rate_is_chosen_by_the_meta_loss_and_a_diverging_one_never(outcome, candidates):
    assert set(outcome.lrs) == set(candidates)
    table = outcome.tuning
    for method, rows in table.groupby("method"):
        best = rows.loc[rows["meta_loss"].idxmin()]
        assert best["chosen"]
        assert rows["chosen"].sum() == 1
        assert outcome.lrs[method] == best["lr"]
    again = mtl.fit(
        candidates["Uniform"].model, candidates["Uniform"].data, mtl.Uniform(), lr=0.1, seeds=2, epochs=1, **OPTIONS
    ).frame
    meta = again[(again.split == "meta") & (again.task == "is_8") & (again.metric == "loss")]
    expected = meta.groupby("seed")["value"].min().mean()
    found = table[(table.method == "Uniform") & (table.lr == 0.1)]["meta_loss"].item()
    assert found == pytest.approx(expected)


def test_results_do_not_depend_on_the_number_of_processes(candidates, outcome):
    few = {name: candidates[name] for name in ("SLGrad", "Uniform")}
    apart = studies.study(few, lrs=[0.1], tuning_seeds=2, seeds=3, jobs=2, **BUDGET, **OPTIONS)
    assert apart.lrs == {"SLGrad": 0.1, "Uniform": 0.1}
    assert apart.tuning.empty
    assert apart.runs["Uniform"].frame.equals(outcome.runs["Uniform"].frame)
    assert apart.runs["Uniform"].samples.equals(outcome.runs["Uniform"].samples)


def test_summary_and_readable_tell_the_same(outcome):
    table = studies.summary(outcome, ["loss", "roc_auc"])
    assert len(table) == len(outcome.runs) * 3
    mine = table[(table.method == "SLGrad") & (table.metric == "loss") & (table["at"] == "selected")].iloc[0]
    against = mtl.compare([outcome.runs["Uniform"], outcome.runs["SLGrad"]]).loc["SLGrad"]
    assert mine[["difference", "p"]].tolist() == against[["difference", "p"]].tolist()
    assert mine["mean"] == outcome.runs["SLGrad"].summary().loc["SLGrad", "is_8", "loss"]["mean"]
    assert math.isnan(table[table.method == "Uniform"]["difference"].iloc[0])
    shown = studies.readable(table)
    assert shown.loc["SLGrad", "loss"] == f"{mine['mean']:.3f} [{mine['low']:.3f}, {mine['high']:.3f}]"
    assert shown.loc["SLGrad", "diverged"] == "0 of 3"
    means = [float(text.split()[0]) for text in shown["loss"]]
    assert means == sorted(means)


def test_noisy_shares_are_of_the_main_tasks_weight(outcome):
    found = studies.noisy_shares([outcome.runs["Uniform"], outcome.runs["SLGrad"]]).set_index("method")
    assert found.loc["Uniform", "noisy_labels"] == pytest.approx(0.6)
    assert found.loc["Uniform", "noisy_weight"] == pytest.approx(0.6, abs=0.02)
    samples = outcome.runs["SLGrad"].samples
    main = samples[samples.task == "is_8"]
    expected = [g[g.noisy].weight.sum() / g.weight.sum() for _, g in main.groupby("seed")]
    assert found.loc["SLGrad", "noisy_weight"] == pytest.approx(np.mean(expected), abs=1e-4)


def test_tuning_table_marks_the_choice(outcome):
    shown = studies.readable_tuning(outcome)
    assert list(shown.columns) == ["0.1", "1e+06"]
    assert (shown.apply(lambda row: row.str.contains(r"\*").sum(), axis=1) == 1).all()


def test_saved_tables_round_trip_and_none_writes_nothing(outcome, tmp_path):
    table = studies.summary(outcome)
    studies.save(table, studies.readable(table), tmp_path / "new", "t")
    text = (tmp_path / "new" / "t.csv").read_text()
    assert text.count("\n") == len(table) + 1
    assert "SLGrad" in (tmp_path / "new" / "t.md").read_text()
    studies.save(table, table, None, "t")
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == ["t.csv", "t.md"]


def test_an_empty_grid_is_refused(candidates):
    with pytest.raises(ValueError, match="0 learning rates and"):
        studies.study(candidates, lrs=[], tuning_seeds=1, seeds=1, **BUDGET)


def test_spread_and_per_seed_are_of_the_selected_epoch(outcome):
    table = studies.per_seed(outcome, "roc_auc")
    assert table.index.tolist() == [0, 1, 2]
    rows = outcome.runs["SLGrad"].final("selected")
    rows = rows[(rows.split == "test") & (rows.metric == "roc_auc")]
    assert table["SLGrad"].tolist() == rows["value"].tolist()
    found = studies.spread(outcome, "roc_auc").loc["SLGrad"]
    assert found["max"] == rows["value"].max()
    assert found["sd"] == pytest.approx(np.std(rows["value"], ddof=1))


def test_everyone_makes_the_same_number_of_steps(candidates, monkeypatch):
    asked = {}

    def record(candidate, name, steps_per_epoch, **options):
        asked[name] = steps_per_epoch
        return mtl.fit(candidate.model, candidate.data, candidate.weighting, name=name, **options)

    monkeypatch.setattr(studies, "_fit", record)
    few = {name: candidates[name] for name in ("Uniform", "meta rows only", "train + meta, half each")}
    studies.study(few, lrs=[0.1], tuning_seeds=1, tuning_epochs=1, seeds=1, epochs=1, jobs=1, batch_size=100)
    assert set(asked.values()) == {10}


@pytest.fixture
def counted(monkeypatch):
    """What was really fitted: the names, in order; None in the list stops the next fit."""
    fitted, real = [], studies._fit

    def fit(candidate, **options):
        if None in fitted:
            raise KeyboardInterrupt
        fitted.append(options["name"])
        return real(candidate, **options)

    monkeypatch.setattr(studies, "_fit", fit)
    return fitted


def test_an_interrupted_study_repeats_no_finished_fit(candidates, outcome, counted, tmp_path, monkeypatch):
    few = {name: candidates[name] for name in ("Uniform", "SLGrad", "meta rows only")}
    settings = {"lrs": [0.1, 1e6], "tuning_seeds": 2, "seeds": 3, "jobs": 1, **BUDGET, **OPTIONS}
    one = studies._fit

    def until_the_fourth(candidate, **options):
        run = one(candidate, **options)
        if len(counted) == 3:
            counted.append(None)
        return run

    monkeypatch.setattr(studies, "_fit", until_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        studies.study(few, cache=tmp_path, **settings)
    assert counted == ["Uniform", "Uniform", "SLGrad", None]
    counted.clear()
    monkeypatch.setattr(studies, "_fit", one)
    resumed = studies.study(few, cache=tmp_path, **settings)
    assert counted == ["SLGrad", "meta rows only", "meta rows only", *few]
    assert resumed.lrs == {name: outcome.lrs[name] for name in few}
    for name in few:
        assert resumed.runs[name].frame.equals(outcome.runs[name].frame)
        assert resumed.runs[name].samples.equals(outcome.runs[name].samples)
    counted.clear()
    again = studies.study(few, cache=tmp_path, **settings)
    assert counted == []
    assert again.runs["SLGrad"].frame.equals(resumed.runs["SLGrad"].frame)


def changed_candidates():
    data = mtl.datasets.load("digits", label_noise=0.6)

    def of(weighting=None, data=data, hidden=(64, 64), **options):
        return studies.Candidate(mtl.models.mlp(data, hidden=hidden), data, weighting or mtl.SLGrad(), options)

    drifting = [
        mtl.datasets.load("toy_regression", n_train=40, n_meta=9, n_test=9, drift_to=v, drift_epochs=(0, 2))
        for v in (1.0, 2.0)
    ]
    return {
        "base": of(),
        "method": of(mtl.Uniform()),
        "hyper-parameter": of(mtl.SLGrad(lookahead=0.1)),
        "architecture": of(hidden=(64, 32)),
        "label noise": of(data=mtl.datasets.load("digits", label_noise=0.4)),
        "main task": of(data=mtl.datasets.load("digits", main=3, label_noise=0.6)),
        "tasks": of(data=data.only(["is_8", "is_3"])),
        "rows": of(data=data.train_on_meta(None)),
        "its own option": of(batch_size=10),
        "drift": of(data=drifting[0]),
        "other drift": of(data=drifting[1]),
    }


SETTINGS = {"name": "a", "lr": 0.1, "seeds": 2, "epochs": 2, "dtype": torch.float64, "optimizer": mtl.training.SGD}


def test_a_fit_is_found_again_only_if_nothing_that_matters_changed():
    prints = {name: studies._fingerprint(c, SETTINGS) for name, c in changed_candidates().items()}
    base = changed_candidates()["base"]
    for change in ({"lr": 0.2}, {"seeds": [1, 2]}, {"epochs": 3}, {"dtype": torch.float32}, {"name": "b"}):
        prints[str(change)] = studies._fingerprint(base, {**SETTINGS, **change})
    prints["optimizer"] = studies._fingerprint(base, {**SETTINGS, "optimizer": torch.optim.Adam})
    assert len(set(prints.values())) == len(prints)
    assert studies._fingerprint(base, SETTINGS) == prints["base"]


def test_a_fit_is_found_again_by_another_process():
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_studies as t; print(*t.prints())"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert found.split() == prints()


def prints():
    return [studies._fingerprint(c, SETTINGS) for c in changed_candidates().values()]


def test_reference_reads_a_table_and_none_is_none(tmp_path):
    assert studies.reference("small", tmp_path) is None
    (tmp_path / "small.csv").write_text("condition,method,seed,metric,value\na,Uniform,0,loss,0.5\n")
    assert studies.reference("small", tmp_path)["value"].tolist() == [0.5]


def test_per_seed_table_has_every_number_of_every_seed(outcome):
    table = studies.per_seed_table({"60% label noise": outcome, "again": outcome}, ["loss", "roc_auc"])
    assert list(table.columns) == studies.PER_SEED
    assert len(table) == 2 * len(outcome.runs) * 3 * 2
    rows = table[(table.condition == "again") & (table.method == "SLGrad") & (table.metric == "roc_auc")]
    assert rows["seed"].tolist() == [0, 1, 2]
    assert rows["value"].tolist() == studies.per_seed(outcome, "roc_auc")["SLGrad"].tolist()


def test_share_table_tells_where_each_seeds_weight_went(outcome):
    table = studies.share_table({"noisy": outcome}, ["Uniform", "SLGrad"])
    assert list(table.columns) == studies.PER_SEED
    value = table.set_index(["method", "metric", "seed"])["value"].sort_index()
    assert value["Uniform", "auxiliary_share_first"].tolist() == pytest.approx([0.9] * 3)
    assert value["Uniform", "noisy_labels"].tolist() == pytest.approx([0.6] * 3)
    found = studies.noisy_shares([outcome.runs["SLGrad"]])["noisy_weight"].item()
    assert value["SLGrad", "noisy_weight"].mean() == pytest.approx(found, abs=1e-4)
    frame = outcome.runs["SLGrad"].frame
    weights = frame[(frame.metric == "weight") & (frame.task != "is_8")].groupby(["epoch", "seed"])["value"].sum()
    assert value["SLGrad", "auxiliary_share_first"].tolist() == pytest.approx(weights[1].tolist())
    assert value["SLGrad", "auxiliary_share_last"].tolist() == pytest.approx(weights[2].tolist())


def test_share_table_is_silent_about_diverged_seeds_and_absent_noise(candidates):
    clean = mtl.datasets.load("digits")
    few = {"Uniform": studies.Candidate(mtl.models.mlp(clean), clean, mtl.Uniform())}
    broken = studies.study(few, lrs=[1e150], tuning_seeds=1, seeds=2, jobs=1, **BUDGET, **OPTIONS)
    table = studies.share_table({"clean": broken}, ["Uniform"])
    assert set(table["metric"]) == {"auxiliary_share_first", "auxiliary_share_last"}
    assert table["value"].isna().all()
    assert studies.per_seed_table({"clean": broken}, ["loss"])["value"].isna().all()


def test_gains_to_read_have_a_column_per_condition():
    rows = [("a", "x", 0.5, 0.25, 0.75), ("b", "x", -1, -2, 0), ("a", "y", 0, 0, 0)]
    table = pd.DataFrame(rows, columns=["condition", "method", "gain", "low", "high"])
    shown = studies.readable_gains(table)
    assert shown.loc["x"].tolist() == ["+0.500 [+0.250, +0.750]", "-1.000 [-2.000, +0.000]"]
    assert shown.loc["y", "b"] == "not run"
