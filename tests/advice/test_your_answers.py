import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score, root_mean_squared_error

import mtlkit as mtl
from mtlkit import studies, your_data
from mtlkit.your_data import _answers

QUICK = {"seeds": 3, "tuning_seeds": 1, "tuning_epochs": 1, "epochs": 3}


def digits():
    frame = load_digits(as_frame=True).frame
    digit = frame.pop("target")
    return frame.assign(is_8=(digit == 8).astype(int), is_3=(digit == 3).astype(int))


def diabetes():
    return load_diabetes(as_frame=True, scaled=False).frame


TABLES = {
    "breast cancer": (your_data.example, "diagnosis", your_data.EXAMPLE_AUXILIARIES[:2]),
    "diabetes": (diabetes, "target", ["s5", "s6"]),
    "digits": (digits, "is_8", ["is_3"]),
}


@pytest.fixture(scope="module", params=TABLES)
def answered(request):
    load, main, auxiliaries = TABLES[request.param]
    prepared = your_data.prepare(load(), main, auxiliaries, seeds=QUICK["seeds"])
    options = {**your_data.budget(prepared.data), **QUICK, "device": "cpu"}
    raw = studies.study(your_data.contenders(prepared.data), lrs=[0.01], jobs=1, **options)
    return prepared, raw, your_data.in_units(raw, prepared.data)


def per_seed(prepared, raw, name, metric):
    """The test metric at the epoch of the lowest meta loss, straight from the frame, in the column's units."""
    frame, main = raw.runs[name].frame, prepared.data.main.name
    frame = frame[frame["task"] == main]
    values = []
    for seed, rows in frame.groupby("seed"):
        meta = rows[(rows["split"] == "meta") & (rows["metric"] == "loss")]
        epoch = meta.loc[meta["value"].idxmin(), "epoch"]
        chosen = rows[(rows["split"] == "test") & (rows["metric"] == metric) & (rows["epoch"] == epoch)]
        scale = 1.0
        if metric == "rmse":
            labels = prepared.frame[main].iloc[prepared.data.resample(seed).train.rows.numpy()]
            scale = labels.std(ddof=0)
        values.append(chosen["value"].iloc[0] * scale)
    return np.array(values)


def corrected_p(differences, train, test):
    """Nadeau and Bengio's resampled t-test, from the differences themselves."""
    n = len(differences)
    t = differences.mean() / np.sqrt((1 / n + max(test / train, 1 / 3)) * differences.var(ddof=1))
    return 2 * stats.t.sf(abs(t), n - 1)


def test_differences_are_those_of_the_frames(answered):
    prepared, raw, outcome = answered
    data = prepared.data
    metric = your_data.METRICS[data.main.kind]
    helps = your_data.against_single(outcome, data, metric)
    assert list(helps.index) == ["Uniform", "GradientCosine", "HydaLearn", "SLGrad"]
    reference = per_seed(prepared, raw, "single task", metric)
    p = []
    for method, row in helps.iterrows():
        difference = per_seed(prepared, raw, method, metric) - reference
        assert row["difference"] == pytest.approx(difference.mean())
        p.append(corrected_p(difference, len(data.train), len(data.test)))
        assert row["p, Holm"] >= row["p"]
        assert row["p"] == pytest.approx(p[-1])
        sem = np.sqrt((1 / len(difference) + max(len(data.test) / len(data.train), 1 / 3)) * difference.var(ddof=1))
        low, high = stats.t.interval(0.95, len(difference) - 1, difference.mean(), sem)
        assert (row["low"], row["high"]) == pytest.approx((low, high))
        assert row["p, seeds alone"] == pytest.approx(stats.ttest_1samp(difference, 0).pvalue)
    sure = np.array(p)[helps["verdict"] != "no difference"]
    assert (np.sort(sure) < 0.05 / (len(p) - np.arange(len(sure)))).all() if len(sure) else min(p) > 0.05 / len(p)
    sentence = your_data.answer_helps(helps, metric, data.main.name)
    assert sentence.startswith("Yes" if (helps["verdict"] == "better").any() else "No")
    for method, row in helps.iterrows():
        if row["verdict"] != "no difference":
            assert f"{method} {row['difference']:+.3g}" in sentence


def test_the_conclusion_agrees_with_plain_scikit_learn(answered):
    """Single-task training is about as good as a linear model: no answer rests on a network that learned nothing."""
    prepared, raw, _ = answered
    data = prepared.data
    main, metric = data.main.name, your_data.METRICS[data.main.kind]
    ours = per_seed(prepared, raw, "single task", metric)
    theirs = []
    for seed in range(len(ours)):
        draw = data.resample(seed)
        x, y, x_test, y_test = (t.numpy() for t in (draw.train.x, draw.train.y[main], draw.test.x, draw.test.y[main]))
        if metric == "rmse":
            guess = Ridge().fit(x, y).predict(x_test)
            theirs.append(root_mean_squared_error(y_test, guess) * draw.scale[main][1])
        else:
            guess = LogisticRegression(max_iter=2000).fit(x, y).predict_proba(x_test)[:, 1]
            theirs.append(roc_auc_score(y_test, guess))
    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.1)


def test_each_auxiliary_is_left_out_in_turn(answered):
    prepared, raw, outcome = answered
    data = prepared.data
    metric = your_data.METRICS[data.main.kind]
    which = your_data.attribution(outcome, data, metric)
    names = [task.name for task in data.tasks[1:]]
    assert list(which.index) == names
    everything = per_seed(prepared, raw, "Uniform", metric)
    for name in names:
        other = f"without {name}" if len(names) > 1 else "single task"
        tasks = set(outcome.runs[other].frame["task"])
        assert tasks == {task.name for task in data.tasks} - {name}
        assert which.loc[name, "difference"] == pytest.approx(
            (everything - per_seed(prepared, raw, other, metric)).mean()
        )
        frame = outcome.runs["HydaLearn"].frame
        rows = frame[(frame["metric"] == "weight") & (frame["task"] == name) & (frame["epoch"] == 1)]
        assert which.loc[name, "HydaLearn, first"] == pytest.approx(rows["value"].mean())
    assert set(which["verdict"]) <= {"helps", "hurts", "no difference"}


def test_suspects_are_rows_of_the_table(answered):
    prepared, _, outcome = answered
    main = prepared.data.main.name
    found = your_data.suspects(outcome.runs["SLGrad"], prepared)
    assert found.index.is_unique
    assert set(found.index) <= set(range(len(prepared.frame)))
    for row in found.index[:5]:
        assert found.loc[row, main] == prepared.frame[main].iloc[row]
    assert set(found[prepared.frame.columns].dtypes) == {np.dtype(object)}
    assert found["loss"].is_monotonic_decreasing
    losses = mtl.samples.sample_losses(outcome.runs["SLGrad"], your_data.model(prepared.data), prepared.data)
    means = losses[losses["task"] == main].groupby("row")["loss"].mean()
    assert found["loss"].to_numpy() == pytest.approx(means[found.index].to_numpy())
    samples = mtl.audit(outcome.runs["SLGrad"]).samples
    wanted = samples[(samples["task"] == main)].set_index("row")["weight"]
    pd.testing.assert_series_equal(found["weight"], wanted[found.index], check_names=False)
    sentence = your_data.answer_samples(found)
    assert sentence.startswith(f"Look first at rows {', '.join(map(str, found.index[:5]))} (from 0): ")


def test_suspects_keep_columns_that_have_the_names_of_their_own():
    frame = diabetes().rename(columns={"age": "row", "bmi": "weight"})
    prepared = your_data.prepare(frame, "target", ["s5"])
    data = prepared.data
    options = {n: v for n, v in your_data.budget(data).items() if not n.startswith("tuning")} | {"seeds": 2}
    runs = mtl.fit(your_data.model(data), data, mtl.SLGrad(), lr=0.01, **options | {"epochs": 1, "device": "cpu"})
    found = your_data.suspects(runs, prepared).reset_index()
    assert found.columns.is_unique
    assert found["row (column)"].tolist() == frame["row"].iloc[found["row"]].tolist()
    assert found["weight (column)"].tolist() == frame["weight"].iloc[found["row"]].tolist()


def test_levels_are_those_of_the_frames_and_of_plain_scikit_learn(answered):
    prepared, raw, outcome = answered
    data = prepared.data
    main, metric = data.main.name, your_data.METRICS[data.main.kind]
    found = your_data.levels(outcome, data, jobs=1)
    assert set(found.index) == {"single task", *your_data.METHODS, "linear model", "the same answer for every row"}
    for method in ("single task", *your_data.METHODS):
        ours = per_seed(prepared, raw, method, metric)
        assert found.loc[method].tolist() == pytest.approx([ours.mean(), ours.std(ddof=1), len(ours)])
    linear, constant = [], []
    for seed in range(QUICK["seeds"]):
        draw = data.resample(seed)
        x, y, x_test, y_test = (t.numpy() for t in (draw.train.x, draw.train.y[main], draw.test.x, draw.test.y[main]))
        if metric == "rmse":
            sd = draw.scale[main][1]
            linear.append(root_mean_squared_error(y_test, Ridge().fit(x, y).predict(x_test)) * sd)
            constant.append(root_mean_squared_error(y_test, np.full(len(y_test), y.mean())) * sd)
        else:
            guess = LogisticRegression(max_iter=1000).fit(x, y).predict_proba(x_test)[:, 1]
            linear.append(roc_auc_score(y_test, guess))
            constant.append(0.5)
    assert found.loc["linear model", "mean"] == pytest.approx(np.mean(linear))
    assert found.loc["the same answer for every row", "mean"] == pytest.approx(np.mean(constant))
    assert found["mean"].is_monotonic_increasing if metric == "rmse" else found["mean"].is_monotonic_decreasing
    assert f"a linear model {np.mean(linear):.3g}" in your_data.answer_levels(found, data)


def test_a_linear_model_ahead_of_every_network_is_named(anything):
    def said(**means):
        return your_data.answer_levels(pd.DataFrame({"mean": means, "sd": 0.1}).rename(index=str), anything)

    means = {"single task": 0.9, "Uniform": 0.95, "linear model": 0.92, "the same answer for every row": 0.5}
    assert "consider that one first" not in said(**dict(sorted(means.items(), key=lambda kv: -kv[1])))
    means["linear model"] = 0.96
    assert said(**dict(sorted(means.items(), key=lambda kv: -kv[1]))) == (
        "Single-task training reaches 0.9, a linear model 0.96, the same answer for every row 0.5 (ROC AUC). "
        "No network is ahead of the linear model: consider that one first."
    )
    means |= {"single task": 0.55, "linear model": 0.52}
    assert said(**dict(sorted(means.items(), key=lambda kv: -kv[1]))).endswith(
        "So it has hardly learned anything (the spread over seeds is as large): the answers below mean little."
    )
    same = pd.DataFrame({"mean": 0.8, "sd": 0.0}, index=list(means))
    assert "hardly learned anything" in your_data.answer_levels(same, anything)
    means |= {"single task": 0.2}
    assert "So it is worse than knowing nothing" in said(**dict(sorted(means.items(), key=lambda kv: -kv[1])))


def test_levels_with_categories_classes_and_missing_labels():
    rng = np.random.default_rng(0)
    city = rng.choice(["Ghent", "Leuven", "Liège", "Mons"], 300)
    kind = pd.Series(city).map({"Ghent": "a", "Leuven": "b", "Liège": "c", "Mons": "c"})
    frame = pd.DataFrame({"kind": kind.where(rng.random(300) > 0.2), "city": city, "size": rng.normal(size=300)})
    data = your_data.prepare(frame.assign(other=rng.normal(size=300)), "kind", "other").data
    options = {**your_data.budget(data), **QUICK, "steps_per_epoch": 2, "device": "cpu"}
    outcome = studies.study(your_data.contenders(data), lrs=[0.01], jobs=1, **options)
    found = your_data.levels(outcome, data, jobs=1)["mean"]
    assert found["linear model"] == 1
    commonest = (kind == "c").mean()
    assert found["the same answer for every row"] == pytest.approx(commonest, abs=0.05)


def table(**verdicts):
    rows = {}
    for name, (difference, verdict) in verdicts.items():
        rows[name] = {"difference": difference, "low": difference - 1, "high": difference + 1, "p, Holm": 0.01}
        rows[name]["verdict"] = verdict
    return pd.DataFrame.from_dict(rows, orient="index")


SAME = table(a=(0.0, "no difference"))


@pytest.fixture(scope="module")
def anything():
    return your_data.prepare(your_data.example(), "diagnosis", ["worst radius"]).data


def test_the_recommendation(anything, monkeypatch):
    def use(helps, which=SAME, **against):
        asked = table(**{name: (0.1, verdict) for name, verdict in against.items()})
        monkeypatch.setattr(_answers, "contrast", lambda outcome, pairs, *_: asked.loc[list(pairs)])
        return your_data.answer_use(None, helps, which, anything, "roc_auc")

    none = use(table(Uniform=(0.1, "no difference"), SLGrad=(-0.3, "worse")))
    assert none.startswith("Use single-task training of diagnosis and leave the auxiliaries out: no method")
    assert "the best of them, Uniform, is at +0.1 [-0.9, +1.1], adjusted p = 0.01" in none
    both = table(Uniform=(0.1, "better"), SLGrad=(0.2, "better"), HydaLearn=(0.3, "better"))
    level = {"SLGrad": "no difference", "HydaLearn": "no difference"}
    assert use(both, **level).startswith("Use equal weights for all tasks")
    ahead = use(both, **level | {"SLGrad": "better"})
    assert ahead.startswith("Use SLGrad (ROC AUC against single-task training: +0.2")
    assert "; against equal weights: +0.1" in ahead
    assert use(table(Uniform=(0.3, "no difference"), SLGrad=(0.2, "better"))).startswith("Use SLGrad")
    assert use(table(Uniform=(0.3, "better"), SLGrad=(0.2, "worse"))).startswith("Use equal weights for all tasks")
    one_hurts = table(a=(0.0, "no difference"), b=(-1.0, "hurts"))
    assert use(both, one_hurts, **level).endswith(" Leave out b: it hurts.")
    two_hurt = table(a=(0.0, "no difference"), b=(-1.0, "hurts"), c=(-1.0, "hurts"))
    assert use(both, two_hurt, **level).endswith(" Leave out b, c: each hurts by itself.")
    assert "Leave out" not in use(both, one_hurts, **level | {"SLGrad": "better"})
    assert "Leave out" not in use(both, table(b=(-1.0, "hurts")), **level)


def test_sentences():
    helps = table(Uniform=(0.1, "better"), SLGrad=(-0.2, "worse"), HydaLearn=(0.0, "no difference"))
    found = your_data.answer_helps(helps, "rmse", "price")
    assert found == (
        "Yes: better than single-task training: Uniform +0.1 [-0.9, +1.1], adjusted p = 0.01; worse than "
        "single-task training: SLGrad -0.2 [-1.2, +0.8], adjusted p = 0.01 (rmse, in units of price)."
    )
    which = your_data.answer_which(table(x=(1.0, "helps"), y=(-1.0, "hurts"), z=(0.0, "no difference")))
    assert which == (
        "What helps: x, +1 [+0, +2], adjusted p = 0.01. What hurts: y, -1 [-2, +0], adjusted p = 0.01. "
        "No difference when left out: z."
    )


def made_up(helpful):
    """A table with few main labels; its auxiliaries are the answer with less noise, or nothing but noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 20))
    z = x @ rng.normal(size=20)
    frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(20)])
    frame["target"] = np.where(np.arange(900) % 9 == 0, z + rng.normal(0, 1, 900), np.nan)
    frame["other"] = z + rng.normal(0, 1, 900) if helpful else rng.normal(size=900)
    return frame


@pytest.mark.parametrize("helpful", [True, False])
def test_a_known_answer_is_found(helpful):
    prepared = your_data.prepare(made_up(helpful), "target", ["other"])
    options = {**your_data.budget(prepared.data), "seeds": 8, "device": "cpu"}
    candidates = your_data.contenders(prepared.data, {"Uniform": mtl.Uniform()})
    outcome = your_data.in_units(studies.study(candidates, lrs=[0.01], jobs=1, **options), prepared.data)
    helps = your_data.against_single(outcome, prepared.data, "rmse", ["Uniform"])
    assert (helps.loc["Uniform", "verdict"] == "better") == helpful
    if helpful:
        assert helps.loc["Uniform", "difference"] < -0.1


def test_only_rows_with_a_main_label_count_in_the_correction():
    prepared = your_data.prepare(made_up(False), "target", ["other"])
    data = prepared.data
    options = {**your_data.budget(data), **QUICK, "steps_per_epoch": 3, "device": "cpu"}
    outcome = studies.study(your_data.contenders(data, {"Uniform": mtl.Uniform()}), lrs=[0.01], jobs=1, **options)
    row = your_data.against_single(outcome, data, "rmse", ["Uniform"]).loc["Uniform"]
    values = studies.per_seed(outcome, "rmse")
    differences = (values["Uniform"] - values["single task"]).to_numpy()
    train, test = (int((~torch.isnan(s.y["target"])).sum()) for s in (data.train, data.test))
    assert (train, test) == (60, 20)
    assert row["p"] == pytest.approx(corrected_p(differences, train, test))


def test_with_groups_the_correction_is_that_of_the_groups():
    rng = np.random.default_rng(0)
    sizes = rng.exponential(20, 60).astype(int) + 1
    frame = pd.DataFrame({"who": np.repeat(range(60), sizes), "x": rng.normal(size=sizes.sum())})
    frame = frame.assign(y=frame["x"] + rng.normal(size=len(frame)), a=rng.normal(size=len(frame)))
    data = your_data.prepare(frame, "y", "a", groups="who").data
    assert len(data.test) / len(data.train) < 0.2
    options = {**your_data.budget(data), **QUICK, "steps_per_epoch": 3, "device": "cpu"}
    outcome = studies.study(your_data.contenders(data, {"Uniform": mtl.Uniform()}), lrs=[0.01], jobs=1, **options)
    row = your_data.against_single(outcome, data, "rmse", ["Uniform"]).loc["Uniform"]
    values = studies.per_seed(outcome, "rmse")
    assert row["p"] == pytest.approx(corrected_p((values["Uniform"] - values["single task"]).to_numpy(), 3, 1))


def test_a_difference_that_is_the_same_in_every_seed_has_no_interval(answered):
    prepared, _, outcome = answered
    pair = {"again": ("single task", "single task")}
    row = your_data.contrast(outcome, pair, prepared.data, your_data.METRICS[prepared.data.main.kind]).loc["again"]
    assert row["difference"] == 0
    assert row[["low", "high", "p"]].isna().all()
    assert row["p, Holm"] == 1
    assert row["verdict"] == "no difference"
    sentence = your_data.answer_helps(row.to_frame().T, "roc_auc", "diagnosis")
    assert sentence == "No: no difference from single-task training (the best, again: +0, no interval) (ROC AUC)."


def test_a_single_split_by_time_needs_no_correction():
    frame = made_up(False).assign(when=range(900))
    data = your_data.prepare(frame, "target", ["other"], time="when").data
    options = {**your_data.budget(data), **QUICK, "steps_per_epoch": 3, "device": "cpu"}
    outcome = studies.study(your_data.contenders(data, {"Uniform": mtl.Uniform()}), lrs=[0.01], jobs=1, **options)
    row = your_data.against_single(outcome, data, "rmse", ["Uniform"]).loc["Uniform"]
    assert row["p, seeds alone"] == pytest.approx(row["p"])


def test_the_budget_fits_the_rows():
    small = your_data.prepare(diabetes(), "target", ["s5"]).data
    assert your_data.budget(small)["seeds"] == 10
    large = your_data.prepare(pd.concat([diabetes()] * 30), "target", ["s5"]).data
    assert your_data.budget(large) | {"seeds": 5, "batch_size": 256, "steps_per_epoch": 31} == your_data.budget(large)


def test_flipped_labels_are_looked_for_by_everyone():
    asked = []

    def nobody(classes, held_out):
        asked.append((len(classes), held_out.shape))
        return np.zeros(len(classes))

    draws = {0.6: mtl.datasets.load("digits", label_noise=0.6)}
    others = {"nobody": nobody, "held out": lambda classes, held_out: held_out[np.arange(len(classes)), classes]}
    found = your_data.audit_check(draws, seeds=2, others=others, jobs=1)
    assert asked == [(1000, (1000, 2))] * 2
    assert len(found) == 14
    auc = found.groupby("ranking")["roc_auc"].mean()
    assert auc["weight under SLGrad"] > 0.85
    assert auc["loss under SLGrad"] > 0.85
    assert auc["loss, single task"] < 0.5
    assert auc["loss, equal weights"] < 0.5
    assert auc["held out"] < 0.3
    assert auc["loss, meta rows only"] > 0.95
    assert auc["nobody"] == 0.5
    shown = your_data.readable_check(found)
    assert list(shown.columns) == ["60% wrong"]
    assert shown.loc["nobody", "60% wrong"].startswith("0.500")
    sentence = your_data.answer_samples(pd.DataFrame(index=[7, 3]), found)
    assert f"this order finds those with ROC AUC {auc['loss under SLGrad']:.2f} [" in sentence
    assert f"the weights alone have {auc['weight under SLGrad']:.2f}, the best other ranking" in sentence
    assert sentence.endswith(f"{auc['loss, meta rows only']:.2f} (loss, meta rows only).")


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_the_check_on_a_small_table(kind):
    """The meta split has fewer rows than a batch, and labels are missing."""
    data = many(kind, rows=80)
    options = {n: v for n, v in your_data.budget(data).items() if not n.startswith("tuning")}
    options |= {"seeds": 2, "epochs": 1, "device": "cpu"}
    lrs = {"SLGrad": 0.01, "Uniform": 0.02, "single task": 0.03}
    others = {"held out": lambda classes, held_out: held_out[np.arange(len(classes)), classes]}
    draws = {0.2: your_data.mislabelled(data, 0.2)}
    found = your_data.audit_check(draws, lrs=lrs, others=others, jobs=1, **options)
    assert ("held out" in set(found["ranking"])) == (kind == "multiclass")
    assert found["roc_auc"].between(0, 1).all()
    other = your_data.audit_check(draws, lrs=lrs | {"Uniform": 0.2}, jobs=1, **options)
    both = found.merge(other, on=["ranking", "seed"])
    moved = both.loc[both["roc_auc_x"] != both["roc_auc_y"], "ranking"]
    assert set(moved) == {"loss, equal weights"}


def many(kind, rows=569):
    frame = your_data.example().assign(size=lambda f: pd.qcut(f["mean area"], 3, labels=["s", "m", "l"]))[:rows]
    main = {"binary": "diagnosis", "multiclass": "size", "regression": "mean radius"}[kind]
    frame[main] = frame[main].where(frame.index % 5 > 0)
    return your_data.prepare(frame, main, "mean texture").data


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_labels_are_made_wrong_where_nobody_is_to_be_trusted(kind):
    data = many(kind)
    main = data.main.name
    assert data.main.kind == kind
    spoilt = your_data.mislabelled(data, 0.25)
    for seed in (0, 3):
        clean, wrong = data.resample(seed), spoilt.resample(seed)
        for where in ("train", "meta"):
            before, after = (draw.splits[where].y[main] for draw in (clean, wrong))
            known = ~torch.isnan(before) if before.is_floating_point() else before != -1
            noisy = wrong.splits[where].noisy
            changed = (before != after) & known
            asked = round(0.25 * int(known.sum()))
            assert noisy[:, 0].sum() == asked if kind != "regression" else 0.9 * asked < noisy[:, 0].sum() <= asked
            assert not noisy[:, 1:].any()
            assert torch.equal(changed, noisy[:, 0])
            if kind == "regression":
                assert torch.isin(after[known], before[known]).all()
        assert torch.equal(clean.test.x, wrong.test.x)
        assert torch.equal(clean.test.y[main].nan_to_num(-9), wrong.test.y[main].nan_to_num(-9))
        assert torch.equal(wrong.train.y[main].nan_to_num(-9), spoilt.resample(seed).train.y[main].nan_to_num(-9))
    assert torch.equal(spoilt.train.noisy, spoilt.resample(0).train.noisy)


def test_without_rows_to_trust_the_weights_are_no_guide():
    """The reason for the order of the suspects."""
    data = your_data.prepare(your_data.example(), "diagnosis", your_data.EXAMPLE_AUXILIARIES).data
    options = {n: v for n, v in your_data.budget(data).items() if not n.startswith("tuning")} | {"seeds": 4}
    draws = {0.2: your_data.mislabelled(data, 0.2)}
    for lr in (0.003, 0.03):
        lrs = dict.fromkeys(["SLGrad", "Uniform", "single task"], lr)
        found = your_data.audit_check(draws, lrs=lrs, jobs=1, device="cpu", **options)
        auc = found.groupby("ranking")["roc_auc"].mean()
        assert auc["loss under SLGrad"] > 0.9
        assert auc["weight under SLGrad"] < 0.75


def test_the_audit_beats_cleanlab_and_the_loss_where_most_labels_are_wrong():
    from cleanlab.rank import get_label_quality_scores
    from sklearn.model_selection import cross_val_predict

    data = mtl.datasets.load("digits", label_noise=0.6)
    options = {"epochs": 6, "batch_size": 64, "meta_batch_size": 200, "optimizer": torch.optim.Adam, "device": "cpu"}
    runs = mtl.fit(your_data.model(data), data, mtl.SLGrad(), lr=0.01, seeds=1, **options)
    found = mtl.audit(runs).detection["roc_auc"].item()
    x, y = data.train.x.numpy(), data.train.y["is_8"].numpy().astype(int)
    guessed = cross_val_predict(LogisticRegression(max_iter=500), x, y, cv=3, method="predict_proba")
    quality = get_label_quality_scores(y, guessed)
    noisy = data.train.noisy[:, 0].numpy()
    assert found > 0.85 > 0.5 > roc_auc_score(noisy, -quality)


def test_methods_and_names_are_those_of_the_contenders(anything):
    names = list(your_data.contenders(anything))
    assert names == ["single task", *your_data.METHODS]
    two = your_data.prepare(your_data.example(), "diagnosis", your_data.EXAMPLE_AUXILIARIES).data
    left_out = [name for name in your_data.contenders(two) if name.startswith("without ")]
    assert left_out == [f"without {name}" for name in your_data.EXAMPLE_AUXILIARIES]
    assert len(set(itertools.chain(names, left_out))) == len(names) + len(left_out)
