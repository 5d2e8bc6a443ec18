import pickle
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from companion import claims, figures
from companion.claims import Change, Numbers, Versus
from companion.claims._table import MARKS
from scipy import stats

from mtlkit.stats import LEVEL

ROOT = Path(__file__).parents[2]

SEEDS = range(10)
NOISE = np.random.default_rng(0).normal(0, 0.01, (40, 10))


def per_seed(values, metric="loss", condition="c", seeds=SEEDS):
    """A table in which each method has these values, or this value with a little noise of its own."""
    rows = []
    for number, (method, value) in enumerate(values.items()):
        series = value if np.ndim(value) else value + NOISE[number, : len(seeds)]
        rows += [(condition, method, seed, metric, v) for seed, v in zip(seeds, series, strict=True)]
    return pd.DataFrame(rows, columns=["condition", "method", "seed", "metric", "value"])


CONSTANT = {"loss": 3.0, "accuracy": 0.1}


def floored(table, overlap=0.0, constant=CONSTANT, **linear):
    """The table with what every condition has besides: a constant, a linear model where given, and shared rows."""
    parts = [table]
    for condition, rows in table.groupby("condition", sort=False):
        seeds = rows["seed"].unique()
        for metric, value in constant.items():
            floors = {"constant": np.full(len(seeds), value), **linear}
            parts.append(per_seed(floors, metric, condition, seeds))
        parts.append(per_seed({"data": np.full(len(seeds), overlap)}, "overlap", condition, seeds))
    return pd.concat(parts, ignore_index=True)


def claim(others, wants="better", metric="loss", rule=claims.every):
    return claims.Claim(
        "X1", "source", "sentence", "where", "what", "study", "figure", [Versus("c", "a", others, metric, wants)], rule
    )


def verdict(values, others, seeds=SEEDS, overlap=0.0, **options):
    table = floored(per_seed(values, options.get("metric", "loss"), seeds=seeds), overlap)
    return claims.test(claim(others, **options), table)


def test_every_comparison_decides():
    others = ["b", "d"]
    assert verdict({"a": 0.5, "b": 1.0, "d": 0.9}, others)[0] == "reproduced"
    assert verdict({"a": 0.5, "b": 1.0, "d": 0.5}, others)[0] == "partly"
    assert verdict({"a": 0.5, "b": 1.0, "d": 0.5, "e": 0.5}, ["b", "d", "e"])[0] == "not reproduced"
    assert verdict({"a": 1.0, "b": 0.5, "d": 0.6}, others)[0] == "opposite"
    assert verdict({"a": 1.0, "b": 0.5, "d": 1.0}, others)[0] == "not reproduced"


def test_higher_is_better_for_accuracy():
    assert verdict({"a": 0.9, "b": 0.8}, ["b"], metric="accuracy")[0] == "reproduced"
    assert verdict({"a": 0.8, "b": 0.9}, ["b"], metric="accuracy")[0] == "opposite"


def test_ties_win_nothing_but_do_no_harm():
    same = np.linspace(1, 2, 10)
    assert verdict({"a": same, "b": same}, ["b"])[0] == "not reproduced"
    assert verdict({"a": same, "b": same}, ["b"], wants="no worse")[0] == "reproduced"
    found = verdict({"a": same, "b": same}, ["b"])[2].iloc[0]
    assert (found["p_holm"], found["outcome"]) == (1, "level")
    assert verdict({"a": same, "b": same + 1}, ["b"])[0] == "reproduced"


def test_a_significant_difference_below_the_margin_does_not_count():
    tiny = {"a": np.full(10, 0.95) + NOISE[0] / 100, "b": np.full(10, 1.0)}
    found = verdict(tiny, ["b"])[2].iloc[0]
    assert found["p_holm"] < 1e-6
    assert found["margin"] == pytest.approx((3 - 0.95) / 20, abs=1e-3)
    assert found["outcome"] == "level"
    assert verdict({**tiny, "a": tiny["a"] - 0.1}, ["b"])[0] == "reproduced"
    better = {**tiny, "e": np.full(10, -1.0)}
    assert verdict(better, ["b"])[2]["margin"].item() == pytest.approx(4 / 20)


def test_a_large_difference_has_to_be_significant_after_the_correction():
    spread = NOISE[0] - NOISE[0].mean()
    spread *= 0.3 * np.sqrt(10) / 2.5 / spread.std(ddof=1)  # t = 2.5, p = 0.034
    values = {"a": 0.7 + spread, "b": np.ones(10), "d": np.ones(10) + 1e-9}
    assert verdict(values, ["b"])[0] == "reproduced"
    assert verdict(values, ["b", "d"])[0] == "undecided"
    assert set(verdict(values, ["b", "d"])[2]["outcome"]) == {"unclear"}


def test_no_worse_needs_an_interval_within_the_margin_not_a_missing_difference():
    wide = 1 + 40 * NOISE[0]
    assert verdict({"a": wide, "b": np.ones(10)}, ["b"], wants="no worse")[0] == "undecided"
    assert verdict({"a": 1.02, "b": 1.0}, ["b"], wants="no worse")[0] == "reproduced"
    assert verdict({"a": 1.5, "b": 1.0}, ["b"], wants="no worse")[0] == "opposite"


@pytest.mark.parametrize(
    ("wants", "ours", "spread", "expected"),
    [
        ("better", 0.95, 0.2, "undecided"),  # from far ahead to far behind
        ("better", 0.95, 0.01, "not reproduced"),  # ahead, by less than matters
        ("better", 1.07, 0.06, "not reproduced"),  # behind, whether by much is open
        ("no worse", 1.07, 0.06, "undecided"),
        ("different", 0.95, 0.2, "undecided"),
        ("different", 0.95, 0.01, "not reproduced"),
    ],
)
def test_undecided_where_the_interval_leaves_room_for_the_claim(wants, ours, spread, expected):
    deviations = (NOISE[0] - NOISE[0].mean()) / NOISE[0].std(ddof=1)
    values = {"a": ours + spread * deviations, "b": np.ones(10)}
    assert verdict(values, ["b"], wants=wants)[0] == expected
    assert verdict({**values, "d": values["b"] - 0.6}, ["b", "d"], wants="better")[0] == "not reproduced"


def test_a_diverged_seed_loses():
    broken = np.full(10, 0.1)
    broken[3] = np.nan
    assert verdict({"a": broken, "b": 1.0, "d": 2.0}, ["b", "d"])[0] == "not reproduced"
    assert verdict({"a": broken, "b": 1.0}, ["b"], wants="no worse")[0] == "not reproduced"
    assert verdict({"a": 0.5, "b": broken + 0.5}, ["b"])[0] == "undecided"  # level in all other seeds
    assert verdict({"a": 0.5, "b": broken + 0.9}, ["b"])[0] == "reproduced"
    assert verdict({"a": broken, "b": broken}, ["b"])[0] == "not reproduced"
    found = verdict({"a": 1.0, "b": np.full(10, np.nan)}, ["b"])[2].iloc[0]
    assert found["holds"]
    assert found["missing"] == 0


def share_test(ours, theirs, **options):
    """Test a claim that one share of weight is lower than another, or than a number."""
    shares = {"share": ours} | ({"other": theirs} if np.ndim(theirs) else {})
    seeds = range(len(ours))
    losses = per_seed({"a": np.full(len(seeds), 0.5), "b": np.full(len(seeds), 1.0)}, seeds=seeds)
    table = pd.concat([losses, *(per_seed({"a": v}, name, seeds=seeds) for name, v in shares.items())])
    sides = {"ours": ("a", "share"), "theirs": ("a", "other") if np.ndim(theirs) else theirs}
    change = Change("c", "a", "half", "words", lower=True, learned=["a"], **sides, **{"margin": 0.0, **options})
    return claims.test(claims.Claim("X", "", "", "", "", "study", "", [change]), floored(table))


@pytest.mark.parametrize(("before", "verdict"), [(0.04, "undecided"), (0.06, "not reproduced")])
def test_a_share_smaller_than_what_matters_cannot_fall_by_it(before, verdict):
    ours, theirs = np.full(10, before) + NOISE[0] / 1e3 - 0.02, np.full(10, before)
    room = {"room": ("a", "other")}
    assert share_test(ours, theirs, margin=0.05)[0] == "not reproduced"
    assert share_test(ours, theirs, margin=0.05, **room)[0] == verdict
    assert share_test(ours - 0.3, theirs, margin=0.05, **room)[0] == ("reproduced" if before > 0.05 else "undecided")


def test_an_undefined_share_is_left_out_and_caps_the_verdict():
    values = 0.2 + np.append(NOISE[0], NOISE[1])
    assert share_test(values, 0.5)[0] == "reproduced"
    values[3] = np.nan
    result, note, found = share_test(values, 0.5)
    assert (result, note) == ("partly", "1 of 20 seeds have no value")
    assert found["holds"].all()
    assert found[["method", "against", "metric"]].to_numpy().tolist() == [["a", "half", "words"]]


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_seeds_with_an_undefined_share_do_not_count(side):
    sides = {"ours": 0.2 + NOISE[0], "theirs": 0.5 + NOISE[1]}
    assert share_test(**sides)[0] == "reproduced"
    sides[side][:2] = np.nan
    assert share_test(**sides)[1] == "8 seeds, at least 10 are needed"


def test_an_undefined_share_takes_opposite_away():
    values = np.concatenate([0.8 + NOISE[0], [np.nan]])
    assert share_test(values[:-1], 0.5)[0] == "opposite"
    assert share_test(values, 0.5)[0] == "not reproduced"


@pytest.mark.parametrize(
    ("change", "why"), [({}, ""), ({"late": 0.3}, "cut off"), ({"edge": 1.0}, "edge"), ({"loss": 3.5}, "nothing")]
)
def test_a_side_under_another_condition_must_have_learned_too(change, why):
    parts = []
    for condition, values in {"small": {}, "large": change}.items():
        numbers = {"share": 0.2 if condition == "large" else 0.6, "loss": 0.3, "late": 0.0, "edge": 0.0} | values
        found = pd.concat([per_seed({"a": np.full(10, v)}, name) for name, v in numbers.items()])
        found = found.assign(
            value=found["value"] + np.resize(NOISE[0] / 100, len(found)) * (found["metric"] == "share")
        )
        parts.append(floored(pd.concat([found, per_seed({"b": 1.0})])).assign(condition=condition))
    sides = {"ours": ("large", "a", "share"), "theirs": ("a", "share")}
    pair = Change("small", "a", "small", "words", lower=True, learned=["a"], margin=0.0, **sides)
    claim = claims.Claim("X", "", "", "", "", "study", "", [pair])
    result, note, found = claims.test(claim, pd.concat(parts))
    assert result == ("reproduced" if not why else "nothing learned here" if why == "nothing" else "not tested here")
    assert why in note


@pytest.mark.parametrize(("seeds", "tested"), [(9, 0), (10, 1)])
def test_too_few_seeds_give_no_verdict(seeds, tested):
    result, note, found = verdict({"a": 0.5, "b": 1.0}, ["b"], range(seeds))
    assert result == ("reproduced" if tested else "not tested here")
    assert len(found) == tested
    assert bool(note) != bool(tested)


def test_a_missing_method_or_study_gives_no_verdict():
    assert verdict({"a": 0.5}, ["b"])[:2] == ("not tested here", "no loss of b under 'c'")
    result, note, found = claims.test(claim(["b"]), None)
    assert (result, note, len(found)) == ("not tested here", "not yet run at full scale", 0)
    result, note, _ = claims.test(claim(["b"]), per_seed({"a": 0.5, "b": 1.0}))
    assert (result, note) == ("not tested here", "no loss of constant under 'c'")


def test_other_seeds_on_one_side_are_refused():
    table = pd.concat([per_seed({"a": 0.5}), per_seed({"b": 1.0}, seeds=range(1, 11))])
    with pytest.raises(ValueError, match=r"a has seeds .* and b"):
        claims.test(claim(["b"]), floored(table).drop_duplicates(["method", "seed", "metric"]))


def test_the_test_is_the_paired_t_test_corrected_after_holm():
    table = floored(per_seed({"a": 0.5, "b": 0.51, "d": 0.505}))
    found = claims.outcomes(claims.compared(Numbers(table), [Versus("c", "a", ["b", "d"])])).set_index("against")
    wide = table[table["metric"] == "loss"].pivot(index="seed", columns="method", values="value")
    for other in ("b", "d"):
        expected = stats.ttest_rel(wide["a"], wide[other])
        assert found.loc[other, "p"] == pytest.approx(expected.pvalue)
        interval = expected.confidence_interval(0.95)
        assert found.loc[other, ["low", "high"]].tolist() == pytest.approx([interval.low, interval.high])
    small, large = sorted(found["p"])
    assert sorted(found["p_holm"]) == pytest.approx([2 * small, max(2 * small, large)])


def test_most_needs_more_than_half():
    values = {"a": 1.0, "b": 1.0, "d": 1.0, "e": 0.5}
    options = {"wants": "no worse", "rule": claims.most}
    assert verdict(values, ["b", "d", "e"], **options)[0] == "reproduced"
    assert verdict(values, ["b", "e"], **options)[0] == "partly"
    assert verdict({**values, "f": 0.5, "g": 0.5}, ["b", "e", "f", "g"], **options)[0] == "opposite"


def test_first_needs_its_first_comparison():
    values = {"a": 0.5, "b": 1.0, "d": 0.5}
    assert verdict({**values, "d": 1.0}, ["b", "d"], rule=claims.first)[0] == "reproduced"
    assert verdict(values, ["b", "d"], rule=claims.first)[0] == "partly"
    assert verdict(values, ["d", "b"], rule=claims.first)[0] == "not reproduced"
    assert verdict({"a": 2.0, "b": 1.0, "d": 0.5}, ["d", "b"], rule=claims.first)[0] == "opposite"


def test_means_are_of_the_pairs_that_are_compared():
    left, right = np.arange(12.0), np.arange(12.0) + 1
    left[0] = right[11] = np.nan
    row = share_test(left, right)[2].iloc[0]
    assert row[["ours", "theirs", "difference"]].tolist() == [5.5, 6.5, -1]


def test_none_best_needs_everyone_beaten_somewhere():
    def rule(*wins, methods="abc"):
        rows = [(winner, loser, "better") for winner, loser in wins]
        rows += [(m, n, "level") for m in methods for n in methods if m < n]
        return claims.none_best(pd.DataFrame(rows, columns=["method", "against", "outcome"]))

    assert rule("ab", "bc", "ca") == "reproduced"
    assert rule("ab", "ac", "bc") == "opposite"
    assert rule("ab", "bc") == "partly"
    assert rule("ab") == "not reproduced"
    assert rule() == "not reproduced"
    worse = pd.DataFrame(
        [("a", "b", "worse"), ("a", "c", "better"), ("b", "c", "worse")], columns=["method", "against", "outcome"]
    )
    assert claims.none_best(worse) == "reproduced"


def study(conditions, metrics):
    """A table with these metrics of each method: (method, metric) to value, the same under every condition."""
    return floored(
        pd.concat(
            per_seed({method: value}, metric, condition)
            for condition in conditions
            for (method, metric), value in metrics.items()
        ),
        **{"linear model, clean rows": 0.4},
    )


DIGITS = {
    ("SLGrad", "loss"): 0.3,
    ("SLGrad, main task only", "loss"): 0.31,
    **{(m, "loss"): 0.6 + NOISE[n] for n, m in enumerate(claims.PAPERS_BASELINES)},
    **{(m, "loss"): 0.1 + NOISE[20 + n] for n, m in enumerate(claims.CLEAN_ROWS)},
    **{(m, "loss"): 0.31 + NOISE[30 + n] for n, m in enumerate(claims.CORRECTED)},
    ("clean main labels", "loss"): 0.1 + NOISE[35],
    ("SLGrad", "noisy_labels"): np.full(10, 0.6),
    ("SLGrad", "noisy_weight"): 0.04 + NOISE[5] / 10,
    ("SLGrad", "auxiliary_share_first"): 0.7,
    ("SLGrad", "auxiliary_share_last"): 0.5,
}


def verdicts(study_name, table):
    return {(c.id, c.setting): claims.test(c, table)[0] for c in claims.CLAIMS if c.study == study_name}


def test_the_claims_on_slgrad():
    noises = ("60% label noise", "40% label noise", "0% label noise")
    found = verdicts("label_noise_cifar10", study(noises, DIGITS))
    for noise in ("40%", "60%"):
        assert found["S1", f"{noise} label noise, against the paper's baselines"] == "reproduced"
        assert found["S1", f"{noise} label noise, against plain training on the clean rows"] == "opposite"
        without = "S1", f"{noise} label noise, against plain training without the main labels that may be wrong"
        assert found[without] == "opposite"
        level = "S1", f"{noise} label noise, against plain training that knows the share of wrong labels"
        assert found[level] == "not reproduced"
        assert found["S1", f"{noise} label noise, against a linear model on the clean rows"] == "not reproduced"
        assert found["S2", f"{noise} label noise"] == "reproduced"
    assert found["S3", "0% label noise, against uniform weights"] == "reproduced"
    assert {v for (claim, _), v in found.items() if claim == "S4"} == {"reproduced"}
    changed = {
        **DIGITS,
        ("SLGrad", "loss"): 0.9,
        ("SLGrad", "noisy_weight"): 0.25,
        ("SLGrad", "auxiliary_share_last"): 0.7,
    }
    found = verdicts("label_noise_cifar10", study(noises, changed))
    assert found["S1", "60% label noise, against the paper's baselines"] == "opposite"
    assert found["S2", "60% label noise"] == "partly"
    assert found["S3", "0% label noise, against uniform weights"] == "opposite"
    assert found["S4", "60% label noise"] == "not reproduced"
    just = 0.1 * 0.6 / (0.4 + 0.1 * 0.6)
    for weight, expected in ((just - 0.02, "reproduced"), (just + 0.02, "partly")):
        near = study(noises, {**DIGITS, ("SLGrad", "noisy_weight"): np.full(10, weight)})
        assert verdicts("label_noise_cifar10", near)["S2", "60% label noise"] == expected
    nothing = study(noises, {**DIGITS, ("SLGrad", "loss"): 3.0, ("SLGrad, main task only", "loss"): 3.0})
    found = verdicts("label_noise_cifar10", nothing)
    assert found["S2", "60% label noise"] == found["S4", "0% label noise"] == "nothing learned here"
    assert found["S1", "60% label noise, against the paper's baselines"] == "opposite"


def test_the_claims_on_slgrad_with_published_baselines():
    losses = {(m, "loss"): 0.6 + NOISE[n] for n, m in enumerate(claims.PAPERS_BASELINES)}
    losses |= {("SLGrad", "loss"): 0.3, ("SLGrad, as published", "loss"): 0.9}
    asked = verdicts("published_baselines", study(["60% label noise"], losses))
    assert set(asked.values()) == {"not tested here"}
    losses |= {(f"{m}, as published", "loss"): 0.6 + NOISE[n] for n, m in enumerate(("OLAux", "CAGrad", "GradNorm"), 7)}
    losses |= {("PCGrad, as published", "loss"): 0.2}
    found = verdicts("published_baselines", study(["60% label noise"], losses))
    assert list(found.values()) == ["partly", "opposite"]


def test_the_claims_on_alphavil():
    accuracy = {"single task": 0.8, "Uniform": 0.7, "DIW": 0.5, "AlphaVIL": 0.75}
    longer = {"single task": 0.85, "Uniform": 0.75, "DIW": 0.6, "AlphaVIL": 0.9}
    accuracy |= {f"{method}, twice the steps": value for method, value in longer.items()}
    table = study(["target: left", "target: right"], {(m, "accuracy"): v for m, v in accuracy.items()})
    found = list(verdicts("alphavil", table).values())
    assert found == ["reproduced", "partly", "reproduced", "reproduced", "not tested here"]
    alone = table[table["condition"] == "target: left"]
    assert set(verdicts("alphavil", alone).values()) == {"not tested here"}
    forks = study(["target: left", "target: right"], {("ForkMerge", "accuracy"): 0.9})
    assert list(verdicts("alphavil", pd.concat([table, forks])).values())[-1] == "opposite"


def test_the_claims_on_hydalearn():
    def found(*tables):
        table = pd.concat(tables).drop_duplicates(["condition", "method", "metric", "seed"])
        asked = {key: verdict for key, verdict in verdicts("hydalearn_drift", table).items() if "synthetic" in key[1]}
        return list(asked.values())

    def drift(by_kind, **renamed):
        return [study([f"synthetic, {kind}"], values).replace({"method": renamed}) for kind, values in by_kind.items()]

    losses = {
        ("HydaLearn", "loss"): 0.3,
        ("static, auxiliaries 0%", "loss"): 0.6,
        ("static, auxiliaries 50%", "loss"): 0.5,
    }
    before = {("HydaLearn", "auxiliary_share_before"): 0.5, ("HydaLearn", "within_epoch_sd"): 0.3}
    steady, fallen = ({**before, **losses, ("HydaLearn", "auxiliary_share_after"): after} for after in (0.5, 0.2))
    falls, stays, falls_anyway = (
        {"drift": fallen, "no drift": steady},
        {"drift": steady, "no drift": steady},
        {"drift": fallen, "no drift": fallen},
    )

    def on_batch(by_kind):
        shares = {
            k: {(m, what): v for (m, what), v in values.items() if m == "HydaLearn"} for k, values in by_kind.items()
        }
        return drift(shares, HydaLearn="HydaLearn, on batch")

    assert found(*drift(falls), *on_batch(stays)) == ["reproduced", "reproduced", "not reproduced", "reproduced"]
    assert found(*drift(stays), *on_batch(falls)) == ["reproduced", "not reproduced", "reproduced", "reproduced"]
    assert found(*drift(falls_anyway), *on_batch(falls_anyway)) == ["reproduced", "partly", "partly", "reproduced"]
    weak = {("HydaLearn", "within_epoch_sd"): 0.05, ("static, auxiliaries 50%", "loss"): 0.3}
    weaker = drift({kind: values | weak for kind, values in stays.items()})
    assert found(*weaker, *on_batch(stays)) == ["partly", "not reproduced", "not reproduced", "opposite"]


def test_the_claims_of_the_comparison():
    def table(single, uniform, dwa, uncertainty):
        parts = []
        for size, at in {100: 0, 500: 0, 1000: 0, 5000: 0, 15000: 1}.items():
            losses = {"single task": single, "Uniform": uniform, "DWA": dwa, "Uncertainty": uncertainty}
            values = {(m, "loss"): v[at] + NOISE[n] for n, (m, v) in enumerate(losses.items())}
            parts.append(study([f"target: {pair}, {size} rows" for pair in ("left", "left_even")], values))
        table = pd.concat(parts)
        found = verdicts("loss_weighting_comparison", table)
        some = verdicts("loss_weighting_comparison", table[~table["condition"].str.contains(" 5000 ")])
        assert {v for (claim, _), v in some.items() if claim in ("G1", "G2")} == {"not tested here"}
        return [v for (_, setting), v in found.items() if not setting.startswith("related") and "later" not in setting]

    assert table((2, 1), (1, 1), (1.5, 0.7), (1.7, 0.8)) == ["opposite", "reproduced", "not reproduced"]
    assert table((1, 0.5), (1, 0.5), (1, 0.5), (1, 0.5)) == ["reproduced", "not reproduced", "not tested here"]


def test_every_verdict_has_its_place_in_the_matrix():
    table, _ = claims.table(claims.CLAIMS, {})
    found = claims.matrices(table)
    assert sum((panel != "").to_numpy().sum() for panel in found.values()) == len(claims.CLAIMS)
    figure = figures.verdicts(found)
    marks = [c for c in figure.axes[0].collections if c.get_label() in claims.VERDICTS]
    assert sum(len(c.get_offsets()) for c in marks) == len(claims.CLAIMS)


# What the rules must catch.


def rows(metric, **shares):
    return per_seed({name: np.full(10, value) for name, value in shares.items()}, metric)


def judged(table, others, **floors):
    return claims.test(claim(others), floored(table, **floors))


def test_an_opponent_that_is_equal_or_never_moved_counts_once():
    start = 0.8 + NOISE[3]
    values = {"a": 0.5, "b": start, "d": start, "e": start + 1e-12, "f": 0.9}
    table = per_seed(values)
    left = pd.concat([per_seed({name: start}, "loss_at_start") for name in "bd"])
    left = pd.concat([left, per_seed({"e": start + 1e-12}, "loss_at_start")])
    result, _, found = judged(pd.concat([table, left]), list("bdef"))
    assert result == "reproduced"
    assert found["against"].tolist() == ["b", "f"]
    assert judged(table, list("bdef"))[2]["against"].tolist() == ["b", "e", "f"]


@pytest.mark.parametrize("ours", [2.9, 3.0, 3.2])
def test_where_nothing_beats_the_constant_nothing_was_learned(ours):
    values = {"a": ours, "b": 3.5, "best": 0.5}
    result, note, found = verdict(values, ["b"])
    assert result == "nothing learned here"
    assert note == "of 1 comparisons do not count: nothing learned: 1"
    assert found["p_holm"].isna().all()
    mixed, note, _ = verdict({**values, "d": 0.5}, ["b", "d"])
    assert mixed == "opposite"
    assert note == "of 2 comparisons do not count: nothing learned: 1"


def test_an_uncertain_lead_over_the_constant_is_none():
    wild = 2.0 + 250 * (NOISE[0] - NOISE[0].mean())
    assert verdict({"a": wild, "b": 6.0}, ["b"])[0] == "nothing learned here"


def test_a_lead_over_the_constant_that_shared_rows_leave_open_decides_nothing_and_denies_nothing():
    values = {"a": 2.0 + 70 * (NOISE[0] - NOISE[0].mean()), "b": 6.0}
    assert verdict(values, ["b"])[0] == "reproduced"
    result, note, found = verdict(values, ["b"], overlap=4.0)
    assert (result, found["outcome"].item()) == ("undecided", "shared rows")
    assert note == "of 1 comparisons do not count: shared rows: 1"


def test_shared_rows_widen_intervals():
    values = {"a": 0.7 + 20 * NOISE[0], "b": np.ones(10) + 0.0}
    own, shared = (verdict(values, ["b"], overlap=overlap) for overlap in (0.0, 0.6))
    assert own[0] == "reproduced"
    assert shared[0] == "undecided"
    a, b = own[2].iloc[0], shared[2].iloc[0]
    wider = np.sqrt((1 / 10 + 0.6) / (1 / 10))
    assert b["high"] - b["low"] == pytest.approx(wider * (a["high"] - a["low"]))
    difference = values["a"] - 1
    t = difference.mean() / (difference.std(ddof=1) * np.sqrt(1 / 10 + 0.6))
    assert b["p"] == pytest.approx(2 * stats.t.sf(abs(t), 9))


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_side_that_was_cut_off_or_tuned_at_an_edge_decides_nothing(side):
    table = per_seed({"a": 0.5, "b": 1.0})
    late = per_seed({side: np.arange(10) < 3}, "late")
    result, note, found = judged(pd.concat([table, late]), ["b"])
    assert (result, note) == ("not tested here", "of 1 comparisons do not count: cut off: 1")
    assert found["late"].item() == pytest.approx(0.3)
    allowed = per_seed({side: np.arange(10) < 2}, "late")
    assert judged(pd.concat([table, allowed]), ["b"])[0] == "reproduced"
    edge = judged(pd.concat([table, rows("edge", **{side: 1.0})]), ["b"])
    assert edge[:2] == ("not tested here", "of 1 comparisons do not count: edge: 1")


def turned(ours, theirs, wants, **regret):
    """Verdict and outcome of a claim on one comparison, whose sides could have had this much less at another rate."""
    table = floored(pd.concat([per_seed({"a": ours, "b": theirs}), rows("regret", **regret)]))
    result, _, found = claims.test(claim(["b"], wants), table)
    return result, found["outcome"].item()


def test_a_better_rate_of_the_side_that_is_behind_takes_a_verdict_away():
    margin = 0.05 * 2.5
    assert turned(0.5, 1.0, "better", a=9.0, b=0.3) == ("reproduced", "better")
    assert turned(0.5, 1.0, "better", a=0.0, b=0.4) == ("undecided", "unclear")
    assert turned(1.0, 0.5, "better", a=0.3, b=9.0) == ("opposite", "worse")
    assert turned(1.0, 0.5, "better", a=0.4, b=0.0) == ("not reproduced", "unclear")
    assert turned(1.0, 0.5, "better", a=0.5 + 1.5 * margin, b=0.0) == ("undecided", "unclear")
    assert turned(1.0, 0.5, "no worse", a=0.3, b=0.0) == ("opposite", "worse")
    assert turned(1.0, 0.5, "no worse", a=0.4, b=0.0) == ("undecided", "unclear")
    assert turned(0.5, 1.0, "no worse", a=0.0, b=0.5 + 0.5 * margin) == ("reproduced", "unclear")
    assert turned(0.5, 1.0, "no worse", a=0.0, b=0.5 + 1.5 * margin) == ("undecided", "unclear")
    assert turned(0.5, 1.0, "different", a=0.0, b=0.3) == ("reproduced", "better")
    assert turned(0.5, 1.0, "different", a=0.0, b=0.4) == ("undecided", "unclear")


@pytest.mark.parametrize(("regret", "expected"), [(0.3, "stands"), (0.4, "decides")])
def test_a_verdict_that_another_rate_would_turn_is_said(regret, expected):
    table = per_seed({"a": 0.5, "b": 1.0})
    found = judged(pd.concat([table, rows("regret", a=9.0, b=regret)]), ["b"])
    assert found[2]["rate"].item() == expected
    assert judged(table, ["b"])[2]["rate"].item() == "not available"
    shares = pd.concat([per_seed({"a": 0.5, "b": 1.0}, "accuracy"), table, rows("regret", b=regret)])
    accuracy = claims.test(claim(["b"], metric="accuracy"), floored(shares))
    assert accuracy[2]["rate"].item() == "not available"
    words = claims.in_words(claim(["b"]), *found)
    assert words["rate"] == f"{expected == 'decides':d} of 1"


def test_a_verdict_against_a_claim_is_shown_by_a_comparison_that_denies_it():
    table = pd.concat([per_seed({"a": 1.0, "b": 0.5, "d": 0.8}), rows("regret", a=0.3, b=0.0, d=0.0)])
    result = judged(table, ["b", "d"])
    assert result[0] == "not reproduced"
    assert result[2].set_index("against")["outcome"].to_dict() == {"b": "worse", "d": "unclear"}
    unclear_last = result[2].assign(support=[1.0, 0.0], denied=[True, False])
    words = claims.in_words(claim(["b", "d"]), *result[:2], unclear_last)
    assert words["comparison"].startswith("a against b")


@pytest.mark.parametrize(
    ("linear", "expected"), [(0.3, "ahead"), (0.4, "as good"), (0.62, "as good"), (0.65, "behind")]
)
def test_a_linear_model_as_good_is_said(linear, expected):
    table = floored(per_seed({"a": 0.5, "b": 1.0}), **{"linear model": np.full(10, linear)})
    assert claims.test(claim(["b"]), table)[2]["linear"].item() == expected
    assert verdict({"a": 0.5, "b": 1.0}, ["b"])[2]["linear"].item() == "not available"


def test_the_table_has_a_row_per_claim_and_no_empty_cell():
    known = study(("60% label noise", "40% label noise", "0% label noise"), DIGITS)
    table, comparisons = claims.table(claims.CLAIMS, {"label_noise_cifar10": known})
    assert len(table) == len(claims.CLAIMS)
    assert not table.isna().any(axis=None)
    assert (table.astype(str) != "").all(axis=None)
    assert set(table["verdict"]) <= set(claims.VERDICTS)
    assert (table.loc[table["holds"] == claims.NONE, "verdict"] == "not tested here").all()
    first = table[table["study"] == "label_noise_cifar10"].iloc[0]
    worst = comparisons[(comparisons["claim"] == "S1") & (comparisons["setting"] == first["setting"])]
    assert first["holds"] == first["learned"] == "7 of 7"
    assert first["trained"] == "at most 0% late"
    assert first["rows"] == "own rows"
    assert first["linear"] == "as good"
    assert first["comparison"].split(" against ")[1].split(",")[0] in set(worst["against"])
    assert float(first["difference"]) == pytest.approx(worst["difference"].max(), abs=0.02)
    assert first["p"] == "<0.001"


def test_every_text_says_the_verdict_of_the_table():
    known = study(("60% label noise", "40% label noise", "0% label noise"), DIGITS)
    tested = [c for c in claims.CLAIMS if c.study == "label_noise_cifar10"]
    table, _ = claims.table(tested, {"label_noise_cifar10": known})
    shown, words = claims.readable(table), claims.sentences(table).splitlines()
    front = claims.short(table)
    tested = table[table["verdict"] != claims.VERDICTS[-1]]
    assert [name.split()[0] for name in front.index] == list(dict.fromkeys(tested["claim"]))
    for row, full, line in zip(table.itertuples(), shown.itertuples(), words, strict=True):
        assert full.verdict == f"**{row.verdict}**"
        same = table[(table["claim"] == row.claim) & (table["verdict"] == row.verdict)]
        [cell] = front.loc[[name for name in front.index if name.startswith(row.claim)], "verdicts"]
        assert f"{len(same)}{MARKS[row.verdict]}" in cell
        assert f"(figures/label_noise_cifar10/{row.figure}.svg)" in cell
        assert f"**{row.claim}**, {row.setting}" in line
        assert f"**{row.verdict}**" in line


def test_margins_and_thresholds_are_the_documented_ones():
    assert claims.SHARES == {"auxiliary_share": 0.05, "noisy_weight": 0.05}
    assert (claims.MINIMUM, LEVEL, claims.LATE) == (10, 0.05, 0.2)


def committed():
    """The claims table that the pipeline made."""
    return pd.read_csv(ROOT / "figures/claims/claims.csv", dtype=str, keep_default_na=False)


def test_the_notebook_shows_the_verdicts_of_the_pipeline():
    notebook = nbformat.read(ROOT / "notebooks/claims.ipynb", 4)
    [cell] = [cell for cell in notebook.cells if cell.id == "readable-table"]
    shown = cell.outputs[0]["data"]["text/markdown"].splitlines()[2:]
    table = committed()
    assert len(shown) == len(table)
    for line, row in zip(shown, table.itertuples(), strict=True):
        assert line.split("|")[1].strip() == row.claim
        assert f"| **{row.verdict}** " in line


def test_the_pipelines_table_is_complete():
    table = committed()
    assert list(table.columns) == list(claims.table(claims.CLAIMS[:1], {})[0].columns)
    assert (table != "").all(axis=None)
    assert list(zip(table["claim"], table["setting"], strict=True)) == [(c.id, c.setting) for c in claims.CLAIMS]


def test_no_committed_verdict_rests_on_what_decides_nothing():
    table = committed()
    decided = table[~table["verdict"].isin(["not tested here", "nothing learned here"])]
    behind = pd.read_csv(ROOT / "figures/claims/claims_comparisons.csv")
    for row in decided.itertuples():
        own = behind[
            (behind["claim"] == row.claim) & (behind["setting"] == row.setting) & (behind["study"] == row.study)
        ]
        counted = own[~own["outcome"].isin(["nothing learned", "cut off", "edge", "shared rows"])]
        assert int(row.holds.split(" of ")[1]) == len(counted)
        assert len(counted) or (
            row.verdict == "undecided" and set(own["outcome"]) <= {"shared rows", "nothing learned"}
        )
        assert (counted["late"] <= claims.LATE).all()
        assert (counted["seeds"] >= claims.MINIMUM).all()
        assert (counted["steps"] > 0).all()


def test_the_claims_cover_all_papers():
    expected = ["S1", "S2", "S3", "S4", "H1", "H2", "H3", "V1", "V2", "G1", "G2", "G3", "A1", "A2", "A3", "A4"]
    assert {claim.id for claim in claims.CLAIMS} == set(expected)


@pytest.mark.parametrize("claim", claims.CLAIMS, ids=lambda claim: f"{claim.id} {claim.study} {claim.setting}")
def test_a_claim_is_plain_data(claim):
    again = pickle.loads(pickle.dumps(claim))
    assert again == claim
    assert claim.pairs
    assert all(isinstance(pair, Change | Versus) for pair in claim.pairs)
