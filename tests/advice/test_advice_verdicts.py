"""Tables and sentences from scores that are made up."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mtlkit.advice._advice import _on_suspects, _Verdicts
from mtlkit.advice._figure import _ticks, dots
from mtlkit.advice._levels import CONSTANT, EQUAL, LINEAR, SINGLE, TREES, WITH, network_with
from mtlkit.advice._paired import judged, promise, rows_needed

SLGRAD = "network, SLGrad"


def scores(spread=0.01, n=10, **means):
    """Scores with a common part and an own one for each level."""
    rng = np.random.default_rng(0)
    base, names = rng.normal(0, 0.05, n), {"c": CONSTANT, "l": LINEAR, "t": TREES, "w": WITH, "s": SINGLE, "e": EQUAL}
    names |= {"g": SLGRAD, "a": network_with("a"), "b": network_with("b")}
    own = {names[key]: mean + base + rng.normal(0, spread, n) for key, mean in means.items()}
    return pd.DataFrame(own)


def verdicts(table, metric="ROC AUC"):
    return _Verdicts(table, 0.25, metric, "price", 1000)


def test_the_test_is_that_of_nadeau_and_bengio():
    table = scores(l=0.7, t=0.72)
    row = judged(table, {"x": (LINEAR, TREES)}, overlap=0.25, lower_is_better=False).loc["x"]
    d = table[TREES] - table[LINEAR]
    error = np.sqrt((1 / 10 + 0.25) * d.var(ddof=1))
    assert row["difference"] == pytest.approx(d.mean())
    assert row["p"] == pytest.approx(2 * stats.t.sf(abs(d.mean()) / error, 9))
    assert (row["low"], row["high"]) == pytest.approx(stats.t.interval(0.95, 9, d.mean(), error))
    two = judged(table, {"x": (LINEAR, TREES), "y": (TREES, LINEAR)}, overlap=0.25, lower_is_better=False)
    assert two["p"].tolist() == pytest.approx([2 * row["p"]] * 2)
    plain = judged(table, {"x": (LINEAR, TREES)}, overlap=0, lower_is_better=False).loc["x", "p"]
    assert plain == pytest.approx(stats.ttest_rel(table[TREES], table[LINEAR]).pvalue)


def test_better_is_lower_for_an_error_and_the_same_difference_in_every_repetition_is_sure():
    table = pd.DataFrame({"a": [1.0, 2, 3], "b": [0.5, 1.5, 2.5], "c": [1.0, 2, 3]})
    for lower, verdict in ((True, "better"), (False, "worse")):
        found = judged(table, {"b": ("a", "b"), "c": ("a", "c")}, overlap=0.25, lower_is_better=lower)
        assert found["verdict"].tolist() == [verdict, "no difference"]
        assert found.loc["c", "p"] == 1


def test_the_rows_that_would_do():
    """Simulated: with so many rows four of five tables show the difference."""
    rng = np.random.default_rng(0)
    values = pd.DataFrame({"a": 0.0, "b": 0.05 + rng.normal(0, 0.1, 10)})
    row = judged(values, {"x": ("a", "b")}, overlap=0.25, lower_is_better=False).loc["x"]
    factor = rows_needed(row, 1, 10, 1000) / 1000
    sd = (row["high"] - row["low"]) / 2 / stats.t.ppf(0.975, 9) / np.sqrt(0.35) / np.sqrt(factor)
    d = float(row["difference"]) + sd * (np.sqrt(0.25) * rng.normal(size=(4000, 1)) + rng.normal(size=(4000, 10)))
    error = np.sqrt(0.35 * d.var(1, ddof=1))
    assert (np.abs(d.mean(1)) / error > stats.t.ppf(0.975, 9)).mean() == pytest.approx(0.8, abs=0.03)
    assert rows_needed(row, 5, 10, 1000) > 1000 * factor
    tiny = row.copy()
    tiny["difference"] = 1e-9
    assert rows_needed(tiny, 1, 10, 1000) == np.inf


def test_what_is_promised_holds_for_new_rows():
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(2000):
        table = rng.normal(0.8, 0.02, 6)
        _, low, high = promise(pd.Series(table[:5]), lower_is_better=False)
        hits.append(low <= table[5] <= high)
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)
    assert promise(pd.Series([0.99, 1.0, 0.9]), lower_is_better=False)[2] == 1
    assert promise(pd.Series([0.1, 3.0]), lower_is_better=True)[1] == 0


@pytest.mark.parametrize(
    ("means", "wanted"),
    [
        ({"c": 0.5, "l": 0.8, "t": 0.8, "s": 0.8, "e": 0.8}, LINEAR),
        ({"c": 0.5, "l": 0.8, "t": 0.9, "s": 0.8, "e": 0.8}, TREES),
        ({"c": 0.5, "l": 0.8, "t": 0.8, "w": 0.99, "s": 0.8, "e": 0.8}, LINEAR),
        ({"c": 0.5, "l": 0.7, "t": 0.7, "s": 0.7, "e": 0.8, "g": 0.8}, EQUAL),
        ({"c": 0.5, "l": 0.7, "t": 0.7, "s": 0.7, "a": 0.9, "b": 0.7, "e": 0.8, "g": 0.8}, network_with("a")),
        ({"c": 0.5, "l": 0.7, "t": 0.7, "s": 0.7, "e": 0.7, "g": 0.8}, SLGRAD),
        ({"c": 0.5, "l": 0.5, "t": 0.5, "s": 0.5}, CONSTANT),
    ],
)
def test_the_simplest_that_is_not_surely_worse_than_the_best(means, wanted):
    table = scores(**means)
    assert verdicts(table).recommended() == wanted
    assert verdicts(-table, "rmse").recommended() == wanted
    shown = verdicts(table).levels(wanted)
    assert shown["verdict"][wanted] == "recommended"
    assert shown["mean"].is_monotonic_decreasing
    assert shown.loc[LINEAR, "difference"] == pytest.approx((table[LINEAR] - table[wanted]).mean()) or wanted == LINEAR


def test_the_verdict_in_words():
    trees = verdicts(scores(c=0.5, l=0.8, t=0.9, w=0.95, s=0.8, e=0.8))
    text = trees.use(TREES, [], ["paid", "sent"])
    assert text.startswith("Use boosted trees: ROC AUC 0.9")
    assert "Next best: " in text
    assert "It leaves the auxiliaries out; in a network they do not surely help either." in text
    assert "Will you know paid, sent when you predict? Then do not name them as auxiliaries: as inputs they" in text
    helped = verdicts(scores(c=0.5, l=0.8, t=0.95, s=0.8, e=0.9)).use(TREES, [], ["paid"])
    assert "It leaves paid out; they help only if you need a network (+0.0893 [" in helped
    assert "Will you know" not in helped
    late = trees.use(TREES, [SINGLE], [])
    assert late.endswith(f"may be possible: {SINGLE}; effort='thorough' trains longer.")
    few = verdicts(scores(0.2, c=0.5, l=0.52, t=0.6, s=0.55))
    level = few.recommended()
    assert level == CONSTANT
    text = few.use(level, [], [])
    assert text.startswith("Nothing is surely better than the same answer for every row (ROC AUC 0.")
    assert "rows, you have 1,000" in text


def test_auxiliaries_in_words():
    found = verdicts(scores(c=0.5, l=0.6, t=0.6, s=0.8, a=0.9, b=0.7, e=0.85, g=0.8))
    helps, which = found.helps(), found.which(["a", "b"])
    assert helps.index.tolist() == [EQUAL, SLGRAD]
    assert which["verdict"].tolist() == ["helps", "hurts"]
    text = found.on_auxiliaries(helps, which)
    assert text[0].startswith(f"Do the auxiliaries help a network? Yes: {EQUAL} +0.0")
    assert text[1].startswith("What helps by itself: a, +0.")
    assert text[2].startswith("What hurts by itself: b, -0.")
    one = verdicts(scores(c=0.5, l=0.6, t=0.6, s=0.8, e=0.8))
    assert one.which(["a"]).loc["a", "difference"] == pytest.approx(one.helps().loc[EQUAL, "difference"])
    text = one.on_auxiliaries(one.helps(), one.which(["a"]))
    assert text[0].startswith("Do the auxiliaries help a network? Not surely: the best, network, equal weights, ")
    assert text[1] == "No sure difference by itself: a."
    none = verdicts(scores(c=0.5, l=0.6, t=0.6, s=0.8))
    assert none.on_auxiliaries(none.helps(), none.which([])) == []


def test_suspects_in_words():
    check = pd.DataFrame({"roc_auc": [0.9, 0.5], "precision": [0.95, 0.1], "first": 20}, index=["by loss", "by weight"])
    order = pd.DataFrame({"suspicion": [3.0, 1.0]}, index=[7, 3])
    text = _on_suspects(order, check)
    assert text.startswith("Labels to look at first: rows 7, 3 (from 0), by by loss. With 10% of the labels made wrong")
    assert "95% of the first 20" in text
    assert _on_suspects(order, check[1:]).startswith("No ranking finds wrong labels here.")


def test_the_picture_shows_every_level_in_its_place():
    table = verdicts(scores(c=0.5, l=0.8, t=0.9)).levels(TREES)
    svg = dots(table, TREES, "ROC AUC & more", lower_is_better=False)
    assert svg.count("<circle") == 3
    assert "ROC AUC &amp; more (right is better)" in svg
    circles = [float(part.split('"')[1]) for part in svg.split("<circle ")[1:]]
    assert circles[0] > circles[1] > circles[2]
    assert svg.count("#0072B2") == 2
    assert _ticks(0.5, 0.93).tolist() == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
    assert 3 <= len(_ticks(12.0, 180.0)) <= 6
