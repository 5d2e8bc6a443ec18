import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mtlkit.stats import contrast, estimate, holm

RNG = np.random.default_rng(0)
TABLE = pd.DataFrame(RNG.normal([0, 1, 0, 3], size=(10, 4)), columns=list("abcd"))


def test_an_estimate_is_the_t_interval_of_what_is_finite():
    values = pd.Series([1.0, 3.0, np.nan, 4.0, np.inf])
    low, high = stats.t.interval(0.95, 2, loc=8 / 3, scale=stats.sem([1, 3, 4]))
    assert estimate(values).to_dict() == pytest.approx(
        {"mean": 8 / 3, "low": low, "high": high, "seeds": 3, "missing": 2}
    )
    shared = estimate(values, overlap=0.5)
    assert shared["high"] - shared["low"] == pytest.approx((high - low) * np.sqrt(1 + 3 * 0.5))


def test_an_estimate_of_one_run_or_none_has_no_interval():
    one, none = estimate(pd.Series([1.0])), estimate(pd.Series([np.nan, np.nan]))
    assert one[["mean", "seeds", "missing"]].tolist() == [1, 1, 0]
    assert none[["seeds", "missing"]].tolist() == [0, 2]
    assert np.isnan([one["low"], one["high"], none["mean"], none["low"]]).all()
    assert len(estimate(pd.Series([], dtype=float)).dropna()) == 2


def test_estimates_by_group_are_those_of_each_group():
    long = pd.DataFrame({"k": RNG.integers(0, 9, 60), "j": RNG.integers(0, 2, 60), "value": RNG.normal(size=60)})
    long.loc[::7, "value"] = np.nan
    groups = long.groupby(["k", "j"], sort=False)["value"]
    found = estimate(groups)
    first, second = (long[key].unique().tolist() for key in "kj")
    there = set(zip(long["k"], long["j"], strict=True))
    assert found.index.tolist() == [(k, j) for k in first for j in second if (k, j) in there]
    for key, values in groups:
        assert found.loc[key].to_dict() == pytest.approx(estimate(values).to_dict(), nan_ok=True)


def test_groups_without_rows_and_rows_without_a_group_change_nothing():
    long = pd.DataFrame({"k": ["b", "a", None, "b", "a"], "value": [1.0, 2.0, 9.0, 3.0, 6.0]})
    found = estimate(long.groupby("k")["value"])
    assert found["mean"].to_dict() == {"a": 4.0, "b": 2.0}
    assert found["missing"].tolist() == [0, 0]
    cat = long.assign(k=pd.Categorical(long["k"], ["c", "b", "a"]))
    found = estimate(cat.groupby("k", observed=False)["value"])
    assert found["mean"].to_dict() == pytest.approx({"c": np.nan, "b": 2.0, "a": 4.0}, nan_ok=True)
    assert found["seeds"].tolist() == [0, 2, 2]


def test_a_contrast_is_scipys_paired_t_test():
    found = contrast(TABLE, [("a", "b"), ("d", "c")])
    for row, (ours, theirs) in zip(found.itertuples(), [("a", "b"), ("d", "c")], strict=True):
        expected = stats.ttest_rel(TABLE[ours], TABLE[theirs])
        interval = expected.confidence_interval(0.95)
        means = TABLE[ours].mean(), TABLE[theirs].mean(), (TABLE[ours] - TABLE[theirs]).mean()
        assert (row.ours, row.theirs, row.difference) == pytest.approx(means)
        assert (row.low, row.high, row.p) == pytest.approx((interval.low, interval.high, expected.pvalue))
        assert row.seeds == 10
    assert found["p_holm"].tolist() == pytest.approx(holm(found["p"]))


@pytest.mark.parametrize("overlap", [0.0, 0.25, 1.0])
def test_shared_rows_widen_a_contrast_as_nadeau_and_bengio_say(overlap):
    row = contrast(TABLE, [("a", "b")], overlap=overlap).iloc[0]
    difference = TABLE["a"] - TABLE["b"]
    error = difference.std() * np.sqrt(1 / 10 + overlap)
    low, high = stats.t.interval(0.95, 9, loc=difference.mean(), scale=error)
    p = 2 * stats.t.sf(abs(difference.mean() / error), 9)
    assert row[["low", "high", "p"]].tolist() == pytest.approx([low, high, p])


def test_every_pair_has_its_own_overlap_and_margin():
    pairs = [("a", "b"), ("a", "c")]
    both = contrast(TABLE, pairs, margin=[0.0, 9.0], overlap=[0.5, 0.0])
    for place, (overlap, margin) in enumerate([(0.5, 0.0), (0.0, 9.0)]):
        alone = contrast(TABLE, pairs[place : place + 1], margin=margin, overlap=overlap)
        assert both.loc[place, ["low", "high", "p"]].tolist() == alone.loc[0, ["low", "high", "p"]].tolist()
    assert both["outcome"].tolist()[1] == "level"


def test_a_seed_without_a_value_on_either_side_is_left_out():
    broken = TABLE.copy()
    broken.loc[2, "a"], broken.loc[5, "b"], broken.loc[7, "b"] = np.nan, np.inf, -np.inf
    assert contrast(broken, [("a", "b")]).equals(contrast(TABLE.drop([2, 5, 7]), [("a", "b")]))
    none = contrast(broken.assign(b=np.nan), [("a", "b")]).iloc[0]
    assert (none["seeds"], none["p_holm"], none["outcome"]) == (0, 1, "unclear")


def test_outcomes_ask_for_significance_and_for_the_margin():
    noise = RNG.normal(size=10)
    noise -= noise.mean()
    table = pd.DataFrame(
        {"zero": np.zeros(10), "one": 1 + noise / 10, "wide": 1 + 5 * noise, "tiny": 0.01 + noise / 1e3}
    )
    pairs = [("one", "zero"), ("zero", "one"), ("wide", "zero"), ("tiny", "zero"), ("zero", "zero")]
    assert contrast(table, pairs, margin=0.5)["outcome"].tolist() == ["above", "below", "unclear", "level", "level"]
    assert contrast(table, pairs)["outcome"].tolist() == ["above", "below", "unclear", "above", "unclear"]


def test_significance_is_that_after_holms_correction():
    just = TABLE["c"] - TABLE["c"].mean()
    just = 2.5 * just.std() / np.sqrt(10) + just  # t = 2.5, p = 0.034
    table = pd.DataFrame({"just": just, "zero": 0.0, "other": 0.0})
    assert contrast(table, [("just", "zero")])["outcome"].tolist() == ["above"]
    assert contrast(table, [("just", "zero"), ("just", "other")])["outcome"].tolist() == ["unclear"] * 2


def test_the_same_difference_in_all_seeds_is_certain():
    table = TABLE.assign(same=TABLE["a"], more=TABLE["a"] + 0.1)
    found = contrast(table, [("a", "same"), ("a", "more")])
    assert found["p"].tolist() == pytest.approx([np.nan, 0], nan_ok=True)
    assert found["p_holm"].tolist() == [1, 0]
    assert found["low"].tolist() == found["high"].tolist() == found["difference"].tolist() == pytest.approx([0, -0.1])


def test_holm_against_its_definition():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, np.nan, 0.9]) == pytest.approx([1, 1, 1])
    assert holm([]) == []


def test_holm_on_random_p_values():
    rng = np.random.default_rng(0)
    for n in (1, 2, 5):
        p = rng.random(n) ** 3
        order = np.argsort(p)
        for k, i in enumerate(order):
            assert holm(p)[i] == pytest.approx(max(min(1, (n - j) * p[order[j]]) for j in range(k + 1)))
