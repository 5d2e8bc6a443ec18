import math

import numpy as np
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
