import numpy as np
import pandas as pd
import pytest
from companion import paired
from scipy import stats

SEEDS = 6


@pytest.fixture(scope="module")
def table():
    generator = np.random.default_rng(0)
    mean = {
        ("small", "alone"): 1.0,
        ("small", "A"): 0.5,
        ("small", "B"): 0.9,
        ("large", "alone"): 0.4,
        ("large", "A"): 0.35,
        ("large", "B"): 0.1,
    }
    rows = [
        (condition, method, seed, "loss", value + 0.02 * generator.normal())
        for (condition, method), value in mean.items()
        for seed in range(SEEDS)
    ]
    rows += [("small", "alone", 0, "accuracy", 0.5)]
    rows += [(condition, "data", seed, "overlap", 0.0) for condition in ("small", "large") for seed in range(SEEDS)]
    return pd.DataFrame(rows, columns=["condition", "method", "seed", "metric", "value"])


def values(table, condition, method):
    rows = table[(table.condition == condition) & (table.method == method) & (table.metric == "loss")]
    return rows.sort_values("seed")["value"].to_numpy()


def test_gains_are_paired_differences(table):
    shuffled = table.sample(frac=1, random_state=1)
    found = paired.gains_over(shuffled, "loss", "alone").set_index(["condition", "method"])
    assert len(found) == 4
    for condition, method in found.index:
        difference = values(table, condition, "alone") - values(table, condition, method)
        row = found.loc[condition, method]
        expected = stats.ttest_rel(values(table, condition, "alone"), values(table, condition, method))
        low, high = expected.confidence_interval()
        assert row[["gain", "p", "low", "high", "seeds"]].tolist() == pytest.approx(
            [difference.mean(), expected.pvalue, low, high, SEEDS]
        )
    turned = paired.gains_of(table, "loss", "alone")
    assert turned["gain"].tolist() == pytest.approx((-paired.gains_over(table, "loss", "alone")["gain"]).tolist())


def test_more_is_better_for_accuracy(table):
    as_accuracy = table[table["metric"] != "accuracy"].replace({"metric": {"loss": "accuracy"}})
    found = paired.gains_over(as_accuracy, "accuracy", "alone")
    assert found["gain"].tolist() == pytest.approx((-paired.gains_over(table, "loss", "alone")["gain"]).tolist())


def test_a_seed_without_a_finite_value_is_left_out_of_its_pairs(table):
    broken = table.copy()
    broken.loc[(broken.condition == "small") & (broken.method == "A") & (broken.seed == 2), "value"] = np.nan
    found = paired.gains_over(broken, "loss", "alone").set_index(["condition", "method"])["seeds"]
    assert found.loc["small", "A"] == SEEDS - 1
    assert found.loc["small", "B"] == SEEDS


def test_what_is_not_there_is_named(table):
    with pytest.raises(ValueError, match="no metric 'rmse', found loss, accuracy, overlap"):
        paired.gains_over(table, "rmse", "alone")
    with pytest.raises(ValueError, match="small: no method 'C', found alone, A, B"):
        paired.gains_over(table, "loss", "C")
    with pytest.raises(ValueError, match="small: expected rows of the metric overlap, found none"):
        paired.gains_over(table[table["method"] != "data"], "loss", "alone")
