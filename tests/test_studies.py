import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from companion import tables

import mtlkit as mtl
from mtlkit import studies
from mtlkit.levels import levels

BUDGET = {"epochs": 2}
OPTIONS = {"batch_size": 50, "steps_per_epoch": 5, "dtype": torch.float64, "device": "cpu"}


@pytest.fixture(scope="module")
def candidates():
    data = mtl.datasets.load("digits", label_noise=0.6)
    found = studies.contenders(data, mtl.models.mlp, {"Uniform": mtl.Uniform(), "SLGrad": mtl.SLGrad()})
    return {name: variants[0] for name, variants in found.items()}


@pytest.fixture(scope="module")
def outcome(candidates):
    return studies.study(candidates, lrs=[0.1, 1e6], tuning_seeds=2, seeds=3, jobs=1, **BUDGET, **OPTIONS)


def test_baselines_train_on_what_their_name_says(candidates):
    data = candidates["Uniform"].data
    train, meta = set(data.train.rows.tolist()), set(data.meta.rows.tolist())
    held = data.meta.rows.tolist()[150:]

    def rows(name, split="train"):
        return candidates[name].data.splits[split].rows.tolist()

    assert set(rows("single task")) == train
    assert rows("meta rows only") == data.meta.rows.tolist()[:150]
    assert sorted(rows("train + meta")) == sorted([*train, *meta.difference(held)])
    half = rows("train + meta, half each")
    assert sum(row in meta for row in half) == len(half) / 2
    clean = candidates["clean main labels"].data.train
    assert clean.rows.tolist() == half
    assert clean.y["is_8"].isnan().tolist() == [row not in meta for row in half]
    assert not clean.y["is_1"].isnan().any()
    apart = {name for name in candidates if "meta" in name or name == "clean main labels"}
    assert all(rows(name, "meta") == held for name in apart)
    assert all(rows(name, "meta") == data.meta.rows.tolist() for name in candidates if name not in apart)
    for name in ("single task", "SLGrad, main task only", "meta rows only, main task only"):
        assert [task.name for task in candidates[name].data.tasks] == ["is_8"]
    assert all(c.data.test.rows.tolist() == data.test.rows.tolist() for c in candidates.values())


def test_contenders_that_see_no_wrong_label_are_the_same_at_every_noise(candidates):
    data, clean = (mtl.datasets.load("digits", label_noise=share) for share in (0.6, 0.0))
    given = {"Uniform": mtl.Uniform(), "SLGrad": mtl.SLGrad()}
    found = {name: c for name, (c,) in studies.contenders(data, mtl.models.mlp, given, clean=clean).items()}
    same = {name for name, c in found.items() if "label_noise" not in c.data.recipe}
    assert same == {"meta rows only", "meta rows only, main task only", "clean main labels"}
    assert found.keys() == candidates.keys()
    for name in found:
        one, other = (contender[name].data.resample(3) for contender in (found, candidates))
        for split, rows in one.splits.items():
            theirs = other.splits[split]
            assert rows.x.equal(theirs.x)
            assert rows.noisy.equal(theirs.noisy)
            assert all(torch.equal(y.nan_to_num(-9), theirs.y[task].nan_to_num(-9)) for task, y in rows.y.items())


def test_rivals_are_added_on_request_and_fit_the_study(candidates):
    data = mtl.datasets.load("digits", label_noise=0.6)
    given = {"Uniform": mtl.Uniform(), "SLGrad": mtl.SLGrad()}
    found = studies.contenders(data, mtl.models.mlp, given, rivals=True)
    new = {"GradientCosine, meta", "train + meta, half each, GradientCosine", "single task, noise layer"}
    assert set(found) - set(candidates) == new
    (plain,), (cosine,) = found["GradientCosine, meta"], found["train + meta, half each, GradientCosine"]
    assert plain.weighting == cosine.weighting == mtl.GradientCosine(on="meta")
    assert len(plain.data.meta) == len(data.meta)
    assert cosine.data.train.rows.equal(candidates["train + meta, half each"].data.train.rows)
    layers = found["single task, noise layer"]
    assert [task.name for task in layers[0].data.tasks] == ["is_8"]
    assert [layer.weighting.flip for layer in layers] == [0.2, 0.05, 0.8]
    some = {name: variants for name, variants in found.items() if "Cosine" in name or "noise layer" in name}
    outcome = studies.study(
        some, lrs=[0.1], tuning_seeds=1, seeds=1, epochs=1, jobs=1, meta_batch_size=200, **OPTIONS
    )  # more than the 50 meta rows that the first keeps apart
    assert all(len(run.weights()) for run in outcome.runs.values())
    regression = mtl.datasets.load("synthetic")
    names = studies.contenders(regression, mtl.models.mlp, given, rivals=True)
    assert "single task, noise layer" not in names


def test_the_rate_is_chosen_by_the_meta_loss_and_a_diverging_one_never(outcome, candidates):
    assert set(outcome.lrs) == set(candidates)
    table = outcome.tuning
    for method, rows in table.groupby("method"):
        best = rows.loc[rows["meta_loss"].idxmin()]
        assert best["chosen"]
        assert rows["chosen"].sum() == 1
        assert outcome.lrs[method] == best["lr"]
    again = mtl.fit(
        candidates["Uniform"].model, candidates["Uniform"].data, mtl.Uniform(), lr=0.1, seeds=2, epochs=2, **OPTIONS
    ).frame
    meta = again[(again.split == "meta") & (again.task == "is_8") & (again.metric == "loss") & (again.epoch > 0)]
    expected = meta.groupby("seed")["value"].min().mean()
    found = table[(table.method == "Uniform") & (table.lr == 0.1)].iloc[0]
    assert found["meta_loss"] == pytest.approx(expected)
    at = meta.loc[meta.groupby("seed")["value"].idxmin(), ["seed", "epoch"]]
    tested = again[(again.split == "test") & (again.task == "is_8") & (again.metric == "loss")]
    assert found["test_loss"] == pytest.approx(tested.merge(at)["value"].mean())


def test_results_do_not_depend_on_the_number_of_processes(candidates, outcome):
    few = {name: candidates[name] for name in ("SLGrad", "Uniform")}
    apart = studies.study(few, lrs=[0.1], tuning_seeds=2, seeds=3, jobs=2, **BUDGET, **OPTIONS)
    assert apart.lrs == {"SLGrad": 0.1, "Uniform": 0.1}
    assert apart.tuning.empty
    assert apart.runs["Uniform"].frame.equals(outcome.runs["Uniform"].frame)
    assert apart.runs["Uniform"].samples.equals(outcome.runs["Uniform"].samples)


def test_summary_and_readable_tell_the_same(outcome):
    table = tables.summary(outcome, ["loss", "roc_auc"])
    assert len(table) == len(outcome.runs) * 3
    mine = table[(table.method == "SLGrad") & (table.metric == "loss") & (table["at"] == "selected")].iloc[0]
    against = mtl.compare([outcome.runs["Uniform"], outcome.runs["SLGrad"]]).loc["SLGrad"]
    assert mine[["difference", "p"]].tolist() == against[["difference", "p"]].tolist()
    assert mine["mean"] == outcome.runs["SLGrad"].summary().loc["SLGrad", "is_8", "loss"]["mean"]
    assert math.isnan(table[table.method == "Uniform"]["difference"].iloc[0])
    shown = tables.readable_summary(table)
    assert shown.loc["SLGrad", "loss"] == f"{mine['mean']:.3f} [{mine['low']:.3f}, {mine['high']:.3f}]"
    assert shown.loc["SLGrad", "diverged"] == "0 of 3"
    means = [float(text.split()[0]) for text in shown["loss"]]
    assert means == sorted(means)


def test_saved_tables_round_trip_and_none_writes_nothing(outcome, tmp_path):
    table = tables.summary(outcome)
    tables.save_table(table, tables.readable_summary(table), tmp_path / "new", "t")
    text = (tmp_path / "new" / "t.csv").read_text()
    assert text.count("\n") == len(table) + 1
    assert "SLGrad" in (tmp_path / "new" / "t.md").read_text()
    tables.save_table(table, table, None, "t")
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
    found = tables.spread(outcome, "roc_auc").loc["SLGrad"]
    assert found["max"] == rows["value"].max()
    assert found["sd"] == pytest.approx(np.std(rows["value"], ddof=1))


def test_everyone_makes_the_same_number_of_steps(candidates, monkeypatch):
    asked = {}

    def record(candidate, name, steps_per_epoch, **options):
        asked[name] = steps_per_epoch
        return mtl.fit(candidate.model, candidate.data, candidate.weighting, name=name, **options)

    monkeypatch.setattr(studies, "_fit", record)
    few = {name: candidates[name] for name in ("Uniform", "meta rows only", "train + meta, half each")}
    studies.study(few, lrs=[0.1], tuning_seeds=1, seeds=1, epochs=1, jobs=1, batch_size=100)
    assert set(asked.values()) == {10}


def scripted(monkeypatch, losses):
    """Studies whose fits are not trained: (name, rate, cap) to the meta losses of every epoch, in all seeds."""
    asked = []

    def fitted(candidate, name, lr, seeds, epochs, **options):
        asked.append((name, lr, epochs))
        curve = losses(name, lr, epochs)
        rows = [
            ("d", name, seed, epoch, split, "is_8", "loss", value, not np.isfinite(value))
            for seed in seeds
            for epoch, value in enumerate(curve)
            for split in ("train", "meta", "test")
        ]
        columns = ["dataset", "method", "seed", "epoch", "split", "task", "metric", "value", "diverged"]
        return mtl.Runs(pd.DataFrame(rows, columns=columns), pd.DataFrame(), "is_8", {})

    monkeypatch.setattr(studies, "_fit", fitted)
    return asked


def test_the_grid_grows_until_the_choice_is_inside(candidates, monkeypatch):
    best = {"Uniform": 0.3, "SLGrad": 0.001, "single task": 0.1}
    asked = scripted(monkeypatch, lambda name, lr, epochs: [9, abs(math.log10(lr / best[name])) + 1, 9])
    few = {name: candidates[name] for name in best}
    grid = {"lrs": [0.03, 0.1, 0.3], "tuning_seeds": 1, "seeds": 2, "epochs": 20, "jobs": 1}
    outcome = studies.study(few, more_lrs=4, **grid)
    assert outcome.lrs == best
    assert not outcome.choices["edge"].any()
    tried = outcome.tuning.groupby("method")["lr"].apply(list)
    assert tried["Uniform"] == [0.03, 0.1, 0.3, 1.0]
    assert tried["SLGrad"] == [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3]
    assert tried["single task"] == [0.03, 0.1, 0.3]
    assert len(asked) == 4 + 7 + 3 + 3
    stuck = studies.study({"SLGrad": few["SLGrad"]}, more_lrs=1, **grid)
    assert stuck.lrs == {"SLGrad": 0.01}
    assert stuck.choices["edge"].all()


def test_a_rate_next_to_one_that_diverges_is_inside(candidates, monkeypatch):
    scripted(monkeypatch, lambda name, lr, epochs: [9, np.inf] if lr > 0.3 else [9, 1 / lr, 9])
    outcome = studies.study(
        {"Uniform": candidates["Uniform"]}, lrs=[0.03, 0.1, 0.3], more_lrs=4, tuning_seeds=1, seeds=2, epochs=20, jobs=1
    )
    assert outcome.lrs == {"Uniform": 0.3}
    assert not outcome.choices["edge"].any()


def test_a_cap_that_cuts_off_is_doubled_for_that_contender_alone(candidates, monkeypatch):
    def losses(name, lr, epochs):
        return [9, 1, 2, 2] if name == "Uniform" else [100 - epoch for epoch in range(min(epochs, 35) + 1)]

    asked = scripted(monkeypatch, losses)
    few = {name: candidates[name] for name in ("Uniform", "SLGrad")}
    options = {"lrs": [0.1], "tuning_seeds": 1, "seeds": 2, "epochs": 10, "jobs": 1}
    outcome = studies.study(few, doublings=2, **options)
    assert asked == [("Uniform", 0.1, 10), ("SLGrad", 0.1, 10), ("SLGrad", 0.1, 20), ("SLGrad", 0.1, 40)]
    assert outcome.choices["epochs"].to_dict() == {"Uniform": 10, "SLGrad": 40}
    assert outcome.choices["late"].to_dict() == {"Uniform": 0, "SLGrad": 0}
    cut = studies.study(few, doublings=1, **options)
    assert cut.choices["late"].to_dict() == {"Uniform": 0, "SLGrad": 1}


def test_variants_of_a_contender_compete_on_the_meta_split(candidates):
    c = candidates["SLGrad"]
    variants = [studies.Candidate(c.model, c.data, c.weighting, {"meta_batch_size": size}) for size in (2, 200)]
    outcome = studies.study({"SLGrad": variants}, lrs=[0.1], tuning_seeds=2, seeds=2, jobs=1, **BUDGET, **OPTIONS)
    table = outcome.tuning.set_index("variant")["meta_loss"]
    assert outcome.choices.loc["SLGrad", "variant"] == table.idxmin()
    assert table[0] != table[1]
    options = {"meta_batch_size": (2, 200)[table.idxmin()], "lr": 0.1, "seeds": 2, "epochs": 2}
    alone = mtl.fit(c.model, c.data, c.weighting, name="SLGrad", **options, **OPTIONS)
    assert outcome.runs["SLGrad"].frame.equals(alone.frame)


STORED = {"lrs": [0.03, 0.1], "tuning_seeds": 2, "seeds": 3, "jobs": 1, "epochs": 3, "patience": 1, **OPTIONS}


def counting(monkeypatch, stop=None):
    """What is really trained: (name, rate, seeds); the fit after ``stop`` others is interrupted."""
    trained, real = [], studies._fit

    def fit(candidate, **options):
        if len(trained) == stop:
            raise KeyboardInterrupt
        trained.append((options["name"], options["lr"], options["seeds"]))
        return real(candidate, **options)

    monkeypatch.setattr(studies, "_fit", fit)
    return trained


def test_an_interrupted_study_repeats_no_finished_fit(candidates, tmp_path, monkeypatch):
    few = {name: candidates[name] for name in ("Uniform", "SLGrad", "meta rows only")}
    path = tmp_path / "here" / "runs.parquet"
    with monkeypatch.context() as patch:
        first = counting(patch, stop=4)
        with pytest.raises(KeyboardInterrupt):
            studies.study(few, store=path, **STORED)
    with monkeypatch.context() as patch:
        rest = counting(patch)
        outcome = studies.study(few, store=path, **STORED)
    assert len(first) == 4
    assert len(rest) == 2 + 3
    assert not {t[:2] for t in first} & {t[:2] for t in rest if t[2] == [0, 1]}
    assert [t[2] for t in rest][-3:] == [[2]] * 3
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        trained = counting(patch)
        again = studies.study(few, store=path, missing="raise", **STORED)
    assert trained == []
    assert path.read_bytes() == before
    assert again.tuning.equals(outcome.tuning)
    plain = studies.study(few, **STORED)
    assert plain.choices.equals(outcome.choices)
    for name, runs in plain.runs.items():
        kept = runs.frame[runs.frame["task"] == "is_8"]
        found = again.runs[name]
        assert found.selected().equals(runs.selected())
        columns = ["seed", "epoch", "split", "metric"]
        a, b = (f.set_index(columns)["value"].sort_index() for f in (kept, found.frame))
        left_out = a.index.difference(b.index).to_frame()
        assert len(left_out)
        assert (left_out[["split", "metric"]] == ["train", "loss"]).all(axis=None)
        a = a.loc[b.index]
        np.testing.assert_allclose(a, b, rtol=5e-6)
        with pytest.raises(LookupError, match="keeps numbers but no models"):
            found.state_dict(0)


def test_what_is_not_in_the_store_is_named_skipped_or_trained(candidates, tmp_path):
    path = tmp_path / "runs.parquet"
    one = {"Uniform": candidates["Uniform"]}
    options = {**STORED, "lrs": [0.1]}
    studies.study(one, store=path, **{**options, "seeds": 2})
    with pytest.raises(LookupError, match=r"no run of 'Uniform' with lr=0.1 and seeds \[2\] for these settings"):
        studies.study(one, store=path, missing="raise", **options)
    both = {**one, "SLGrad": candidates["SLGrad"]}
    found = studies.study(both, store=path, missing="skip", **{**options, "seeds": 2})
    assert list(found.runs) == ["Uniform"]
    with pytest.raises(ValueError, match="missing is 'never', expected one of train, raise, skip"):
        studies.study(one, store=path, missing="never", **options)
    data = candidates["Uniform"].data
    mine = studies.Candidate(mtl.models.MultiTaskModel(torch.nn.Linear(64, 3), {}), data, mtl.Uniform())
    with pytest.raises(
        ValueError, match=r"a store needs data from mtlkit\.datasets\.load and a model from mtlkit.models"
    ):
        studies.study({"Uniform": mine}, store=path, **options)


def test_an_unfinished_search_leaves_its_contender_out(candidates, tmp_path):
    path = tmp_path / "runs.parquet"
    one = {"Uniform": candidates["Uniform"]}
    options = {**STORED, "lrs": [1e-6, 1e-5], "store": path}
    assert studies.study(one, **options).lrs == {"Uniform": 1e-5}
    assert studies.study(one, more_lrs=1, missing="skip", **options).runs == {}
    assert studies.study(one, more_lrs=1, **options).lrs == {"Uniform": 3e-5}
    assert studies.study(one, more_lrs=1, missing="skip", **options).lrs == {"Uniform": 3e-5}


def test_protocol_table_says_what_a_verdict_asks_for(candidates):
    few = {name: candidates[name] for name in ("Uniform", "SLGrad")}
    outcome = studies.study(few, lrs=[0.03, 0.1], tuning_seeds=2, seeds=3, jobs=1, **BUDGET, **OPTIONS)
    floors = levels(candidates["Uniform"].data, 3)
    losses = outcome.tuning["chosen"].map({True: 0.5, False: 0.2})
    outcome = dataclasses.replace(outcome, tuning=outcome.tuning.assign(test_loss=losses))
    table = tables.protocol_table({"noisy": outcome}, {"noisy": floors}, ["loss", "roc_auc"], {"noisy": 0.5})
    value = table.set_index(["method", "metric", "seed"])["value"].sort_index()
    assert value["data", "overlap"].tolist() == [0.5] * 3
    runs = outcome.runs["SLGrad"]
    assert value["SLGrad", "late"].tolist() == (runs.selected() == 2).astype(float).tolist()
    assert value["SLGrad", "edge"].tolist() == [1.0] * 3
    frame = runs.frame[(runs.frame.task == "is_8") & (runs.frame.metric == "loss") & (runs.frame.split == "test")]
    assert value["SLGrad", "regret"].tolist() == pytest.approx([0.3] * 3)
    assert value["SLGrad", "loss_at_start"].tolist() == frame[frame.epoch == 0]["value"].tolist()
    assert len(value["linear model, clean rows", "roc_auc"]) == 3


def test_per_seed_table_has_every_number_of_every_seed(outcome):
    table = tables.per_seed_table({"60% label noise": outcome, "again": outcome}, ["loss", "roc_auc"])
    assert list(table.columns) == tables.PER_SEED
    assert len(table) == 2 * len(outcome.runs) * 3 * 2
    rows = table[(table.condition == "again") & (table.method == "SLGrad") & (table.metric == "roc_auc")]
    assert rows["seed"].tolist() == [0, 1, 2]
    assert rows["value"].tolist() == studies.per_seed(outcome, "roc_auc")["SLGrad"].tolist()


def test_share_table_tells_where_each_seeds_weight_went(outcome):
    table = tables.share_table({"noisy": outcome}, ["Uniform", "SLGrad"])
    assert list(table.columns) == tables.PER_SEED
    value = table.set_index(["method", "metric", "seed"])["value"].sort_index()
    assert value["Uniform", "auxiliary_share_first"].tolist() == pytest.approx([0.9] * 3)
    assert value["Uniform", "noisy_labels"].tolist() == pytest.approx([0.6] * 3)
    assert value["Uniform", "noisy_weight"].tolist() == pytest.approx([0.6] * 3, abs=0.03)
    frame, chosen = outcome.runs["SLGrad"].frame, outcome.runs["SLGrad"].selected()
    rows = frame[(frame.metric == "noisy_weight") & (frame.task == "is_8")]
    expected = [g[g.epoch <= chosen[seed]].value.mean() for seed, g in rows.groupby("seed")]
    assert value["SLGrad", "noisy_weight"].tolist() == pytest.approx(expected)
    weights = frame[(frame.metric == "weight") & (frame.task != "is_8")].groupby(["epoch", "seed"])["value"].sum()
    assert value["SLGrad", "auxiliary_share_first"].tolist() == pytest.approx(weights[1].tolist())
    assert value["SLGrad", "auxiliary_share_last"].tolist() == pytest.approx(weights[2].tolist())


def test_share_table_is_silent_about_diverged_seeds_and_absent_noise(candidates):
    clean = mtl.datasets.load("digits")
    few = {"Uniform": studies.Candidate(mtl.models.mlp(clean), clean, mtl.Uniform())}
    broken = studies.study(few, lrs=[1e150], tuning_seeds=1, seeds=2, jobs=1, **BUDGET, **OPTIONS)
    table = tables.share_table({"clean": broken}, ["Uniform"])
    assert set(table["metric"]) == {"auxiliary_share_first", "auxiliary_share_last"}
    assert table["value"].isna().all()
    assert tables.per_seed_table({"clean": broken}, ["loss"])["value"].isna().all()


def test_gains_to_read_have_a_column_per_condition():
    rows = [("a", "x", 0.5, 0.25, 0.75), ("b", "x", -1, -2, 0), ("a", "y", 0, 0, 0)]
    table = pd.DataFrame(rows, columns=["condition", "method", "gain", "low", "high"])
    shown = tables.readable_gains(table)
    assert shown.loc["x"].tolist() == ["+0.500 [+0.250, +0.750]", "-1.000 [-2.000, +0.000]"]
    assert shown.loc["y", "b"] == "not run"


def test_outcomes_on_the_same_data_are_joined_and_a_run_that_never_moved_is_stuck(candidates):
    rates = {"Uniform": 0.1, "SLGrad": 0.0}
    parts = [studies.study({n: candidates[n]}, lrs=[lr], tuning_seeds=1, **{**BUDGET, **OPTIONS, "seeds": 2, "jobs": 1})
             for n, lr in rates.items()]  # fmt: skip
    both = studies.joined(*parts)
    assert both.lrs == rates
    assert {name: tables.stuck(run).tolist() for name, run in both.runs.items()} == {
        "Uniform": [False, False],
        "SLGrad": [True, True],
    }


def test_what_a_model_tells_of_itself_is_kept_with_and_without_a_store(tmp_path):
    data = mtl.datasets.load("layered", n_train=60, n_meta=20, n_test=20)
    taps = mtl.models.taps(mtl.models.mlp(data, hidden=(5, 4)), strength=3.0)
    one = {"TAPS": studies.Candidate(taps, data, mtl.Uniform())}
    options = {"lrs": [0.03], "tuning_seeds": 1, "seeds": 3, "epochs": 3, "jobs": 1, "batch_size": 20}
    fresh = studies.study(one, **options).runs["TAPS"]
    for path in (tmp_path / "runs.parquet",) * 2:
        stored = studies.study(one, **options, store=path).runs["TAPS"]
        for metric in ("task_share", "task_parameters"):
            kept, told = (r.frame[r.frame["metric"] == metric].set_index("seed") for r in (stored, fresh))
            expected = [fresh.model(seed).measures()[metric] for seed in fresh.seeds]
            assert kept["value"].tolist() == told["value"].tolist() == expected
            assert kept["epoch"].tolist() == told["epoch"].tolist() == fresh.selected().tolist()
    assert len({*fresh.frame.loc[fresh.frame["metric"] == "task_share", "value"], 1.0}) > 1
    plain = studies.study({"a": studies.Candidate(mtl.models.mlp(data), data, mtl.Uniform())}, **options).runs["a"]
    assert "task_share" not in set(plain.frame["metric"])
