from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mtlkit import claims
from mtlkit.claims import Comparison, Numbers
from mtlkit.claims.__main__ import MARKS, with_table
from mtlkit.claims._table import COLUMNS

ROOT = Path(__file__).parent.parent

SEEDS = range(10)
NOISE = np.random.default_rng(0).normal(0, 0.01, (40, 10))


def per_seed(values, metric="loss", condition="c", seeds=SEEDS):
    """A table in which each method has these values, or this value with a little noise of its own."""
    rows = []
    for number, (method, value) in enumerate(values.items()):
        series = value if np.ndim(value) else value + NOISE[number, : len(seeds)]
        rows += [(condition, method, seed, metric, v) for seed, v in zip(seeds, series, strict=True)]
    return pd.DataFrame(rows, columns=["condition", "method", "seed", "metric", "value"])


def claim(others, wants="better", metric="loss", rule=claims.every):
    return claims.Claim(
        "X1", "source", "sentence", "setting", "study", "figure",
        lambda numbers: claims.versus(numbers, "c", "a", others, metric, wants),
        rule,
    )  # fmt: skip


def verdict(values, others, scale="quick", seeds=SEEDS, **options):
    return claims.test(claim(others, **options), per_seed(values, options.get("metric", "loss"), seeds=seeds), scale)


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
    assert (found["p"], found["outcome"]) == (1, "level")
    assert verdict({"a": same, "b": same + 1}, ["b"])[0] == "reproduced"


def test_a_significant_difference_below_the_margin_does_not_count():
    tiny = {"a": np.full(10, 0.95) + NOISE[0] / 100, "b": np.full(10, 1.0)}
    found = verdict(tiny, ["b"])[2].iloc[0]
    assert found["p_holm"] < 1e-6
    assert found["outcome"] == "level"
    assert verdict({**tiny, "a": tiny["a"] - 0.1}, ["b"])[0] == "reproduced"


def test_a_large_difference_has_to_be_significant_after_the_correction():
    spread = NOISE[0] - NOISE[0].mean()
    spread *= 0.3 * np.sqrt(10) / 2.5 / spread.std(ddof=1)  # t = 2.5, p = 0.034
    values = {"a": 0.7 + spread, "b": np.ones(10), "d": np.ones(10)}
    assert verdict(values, ["b"])[0] == "reproduced"
    assert verdict(values, ["b", "d"])[0] == "not reproduced"
    assert set(verdict(values, ["b", "d"])[2]["outcome"]) == {"unclear"}


def test_no_worse_needs_an_interval_within_the_margin_not_a_missing_difference():
    wide = 1 + 40 * NOISE[0]
    assert verdict({"a": wide, "b": np.ones(10)}, ["b"], wants="no worse")[0] == "not reproduced"
    assert verdict({"a": 1.02, "b": 1.0}, ["b"], wants="no worse")[0] == "reproduced"
    assert verdict({"a": 1.5, "b": 1.0}, ["b"], wants="no worse")[0] == "opposite"


def test_a_diverged_seed_loses():
    broken = np.full(10, 0.1)
    broken[3] = np.nan
    assert verdict({"a": broken, "b": 1.0, "d": 2.0}, ["b", "d"])[0] == "not reproduced"
    assert verdict({"a": broken, "b": 1.0}, ["b"], wants="no worse")[0] == "not reproduced"
    assert verdict({"a": 1.0, "b": broken}, ["b"])[0] == "reproduced"
    assert verdict({"a": broken, "b": broken}, ["b"])[0] == "not reproduced"
    found = verdict({"a": 1.0, "b": np.full(10, np.nan)}, ["b"])[2].iloc[0]
    assert found["holds"]
    assert found["missing"] == 0


def test_an_undefined_share_is_left_out_and_caps_the_verdict():
    def test_of(values):
        share = pd.Series(values, index=SEEDS)
        one = Comparison("c", "a", "half", "share", share, 0.5, lower=True, margin=0.0, infinite=False)
        tested = claims.Claim("X", "", "", "", "study", "", lambda numbers: [one])
        return claims.test(tested, per_seed({"a": 1.0}), "quick")

    values = 0.2 + NOISE[0]
    assert test_of(values)[0] == "reproduced"
    values[3] = np.nan
    result, note, found = test_of(values)
    assert (result, note) == ("partly", "1 of 10 seeds have no value")
    assert found["holds"].all()


@pytest.mark.parametrize(
    ("scale", "seeds", "tested"), [("quick", 9, 0), ("quick", 10, 1), ("paper", 4, 0), ("paper", 5, 1)]
)
def test_too_few_seeds_give_no_verdict(scale, seeds, tested):
    result, note, found = verdict({"a": 0.5, "b": 1.0}, ["b"], scale, range(seeds))
    assert result == ("reproduced" if tested else "not tested here")
    assert len(found) == tested
    assert bool(note) != bool(tested)


def test_a_missing_method_or_study_gives_no_verdict():
    assert verdict({"a": 0.5}, ["b"])[:2] == ("not tested here", "no loss of b under 'c'")
    result, note, found = claims.test(claim(["b"]), None, "quick")
    assert (result, note, len(found)) == ("not tested here", "the study has not been run at this scale", 0)


def test_other_seeds_on_one_side_are_refused():
    table = pd.concat([per_seed({"a": 0.5}), per_seed({"b": 1.0}, seeds=range(1, 11))])
    with pytest.raises(ValueError, match=r"a has seeds .* and b"):
        claims.test(claim(["b"]), table, "quick")


def test_the_test_is_the_paired_t_test_corrected_after_holm():
    table = per_seed({"a": 0.5, "b": 0.51, "d": 0.505})
    found = claims.outcomes(claims.versus(Numbers(table), "c", "a", ["b", "d"], "loss")).set_index("against")
    wide = table.pivot(index="seed", columns="method", values="value")
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
    left, right = np.arange(10.0), np.arange(10.0) + 1
    left[0] = right[9] = np.nan
    share = [pd.Series(values, index=SEEDS) for values in (left, right)]
    row = claims.outcomes([Comparison("c", "a", "b", "share", *share, lower=True, margin=0.1, infinite=False)]).iloc[0]
    assert row[["ours", "theirs", "difference"]].tolist() == [4.5, 5.5, -1]


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
    return pd.concat(
        per_seed({method: value}, metric, condition)
        for condition in conditions
        for (method, metric), value in metrics.items()
    )


DIGITS = {
    ("SLGrad", "loss"): 0.3,
    ("SLGrad, main task only", "loss"): 0.31,
    **{(m, "loss"): 0.6 for m in claims.PAPERS_BASELINES},
    **{(m, "loss"): 0.15 for m in claims.CLEAN_ROWS},
    ("SLGrad", "noisy_labels"): np.full(10, 0.6),
    ("SLGrad", "noisy_weight"): 0.04 + NOISE[5] / 10,
    ("SLGrad", "auxiliary_share_first"): 0.7,
    ("SLGrad", "auxiliary_share_last"): 0.5,
}


def verdicts(study_name, table):
    return {(c.id, c.setting): claims.test(c, table, "quick")[0] for c in claims.CLAIMS if c.study == study_name}


def test_the_claims_on_slgrad():
    noises = ("60% label noise", "0% label noise")
    found = verdicts("digits_label_noise", study(noises, DIGITS))
    assert found == {
        ("S1", "60% label noise, the paper's baselines"): "reproduced",
        ("S1", "60% label noise, plain training on the clean rows"): "opposite",
        ("S2", "60% label noise"): "reproduced",
        ("S3", "0% label noise, against uniform weights"): "reproduced",
        ("S4", "60% label noise"): "reproduced",
        ("S4", "0% label noise"): "reproduced",
    }
    changed = {
        **DIGITS,
        ("SLGrad", "loss"): 0.7,
        ("SLGrad", "noisy_weight"): 0.25,
        ("SLGrad", "auxiliary_share_last"): 0.7,
    }
    found = verdicts("digits_label_noise", study(noises, changed))
    assert list(found.values()) == ["opposite", "opposite", "partly", "opposite", "not reproduced", "not reproduced"]
    just = 0.1 * 0.6 / (0.4 + 0.1 * 0.6)
    for weight, expected in ((just - 0.02, "reproduced"), (just + 0.02, "partly")):
        near = study(noises, {**DIGITS, ("SLGrad", "noisy_weight"): np.full(10, weight)})
        assert verdicts("digits_label_noise", near)["S2", "60% label noise"] == expected
    level = verdicts("digits_label_noise", study(noises, {**DIGITS, ("SLGrad", "noisy_weight"): 0.6}))
    assert level["S2", "60% label noise"] == "not reproduced"


def test_the_claims_on_slgrad_with_published_baselines():
    losses = {(m, "loss"): 0.6 for m in claims.PAPERS_BASELINES}
    losses |= {("PCGrad, as published", "loss"): 0.2, ("SLGrad", "loss"): 0.3, ("SLGrad, as published", "loss"): 0.9}
    found = verdicts("published_baselines", study(["60% label noise"], losses))
    assert list(found.values()) == ["partly", "opposite"]


def test_the_claims_on_alphavil():
    accuracy = {"single task": 0.8, "Uniform": 0.7, "DIW": 0.5, "DIW, twice the steps": 0.6}
    accuracy |= {"AlphaVIL": 0.75, "AlphaVIL, twice the steps": 0.9}
    table = study(["target: left", "target: right"], {(m, "accuracy"): v for m, v in accuracy.items()})
    found = list(verdicts("alphavil_multidigits", table).values())
    assert found == ["reproduced", "partly", "reproduced", "reproduced"]


def test_the_claims_on_hydalearn():
    def found(*tables):
        return list(verdicts("hydalearn_drift", pd.concat(tables)).values())

    def drift(by_kind, **renamed):
        return [study([f"toy, {kind}"], values).replace({"method": renamed}) for kind, values in by_kind.items()]

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
        shares = {k: {key: v for key, v in values.items() if "share" in key[1]} for k, values in by_kind.items()}
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
        for size, at in zip((100, 1000), range(2), strict=True):
            losses = {"single task": single, "Uniform": uniform, "DWA": dwa, "Uncertainty": uncertainty}
            values = {(m, "loss"): v[at] + NOISE[n] for n, (m, v) in enumerate(losses.items())}
            parts.append(study([f"target: left, {size} rows"], values))
        return verdicts("loss_weighting_comparison", pd.concat(parts))

    gains = table((2, 1), (1, 1), (1.5, 0.7), (1.7, 0.8))
    assert list(gains.values()) == ["opposite", "reproduced", "not reproduced"]
    no_gain = table((1, 0.5), (1, 0.5), (1, 0.5), (1, 0.5))
    assert list(no_gain.values()) == ["reproduced", "not reproduced", "not tested here"]


def test_the_table_has_a_row_per_claim_and_no_empty_cell():
    known = study(("60% label noise", "0% label noise"), DIGITS)
    quick = {c.study: None for c in claims.CLAIMS} | {"digits_label_noise": known}
    table, comparisons = claims.table(claims.CLAIMS, {"quick": quick, "paper": {"digits_label_noise": None}})
    at_paper_scale = sum(c.study == "digits_label_noise" for c in claims.CLAIMS)
    assert len(table) == len(claims.CLAIMS) + at_paper_scale
    assert not table.isna().any(axis=None)
    assert (table.astype(str) != "").all(axis=None)
    assert set(table["verdict"]) <= set(claims.VERDICTS)
    assert (table.loc[table["holds"] == claims.NONE, "verdict"] == "not tested here").all()
    first = table.iloc[0]
    worst = comparisons[(comparisons["claim"] == "S1") & (comparisons["setting"] == first["setting"])]
    assert first["holds"] == "7 of 7"
    assert first["comparison"].split(" against ")[1].split(",")[0] in set(worst["against"])
    assert float(first["difference"]) == pytest.approx(worst["difference"].max(), abs=0.02)
    assert first["p"] == "below 0.001"


def test_every_text_says_the_verdict_of_the_table():
    known = study(("60% label noise", "0% label noise"), DIGITS)
    table, _ = claims.table(claims.CLAIMS[:6], {"quick": {"digits_label_noise": known}})
    shown, words = claims.readable(table), claims.sentences(table).splitlines()
    front = claims.short(table)
    assert list(front.index) == list(dict.fromkeys(table["claim"]))
    for row, full, line in zip(table.itertuples(), shown.itertuples(), words, strict=True):
        assert full.verdict == f"**{row.verdict}**"
        brief = f"**{row.verdict}** ({row.holds}; {row.ours}, {row.theirs}): {row.study}, {row.setting}"
        assert brief in front.loc[row.claim, "what we found"].split("<br>")
        assert f"**{row.claim}**, {row.setting}" in line
        assert f"**{row.verdict}**" in line


def test_margins_and_thresholds_are_the_documented_ones():
    assert claims.MARGINS == {
        "loss": 0.1, "rmse": 0.1, "accuracy": 0.01, "roc_auc": 0.01, "average_precision": 0.01,
        "auxiliary_share": 0.05, "noisy_weight": 0.05,
    }  # fmt: skip
    assert claims.MINIMUM == {"quick": 10, "paper": 5}


def test_halvings_are_paired_ratios_of_the_loss_or_of_what_accuracy_lacks():
    table = per_seed({"a": np.full(10, 0.25), "b": np.linspace(1, 2, 10), "d": np.linspace(0.5, 1, 10)})
    found = claims.halvings(table, "c", "loss", "b").set_index("method")
    assert found.loc["d", ["gain", "low", "high"]].tolist() == pytest.approx([1, 1, 1])
    assert found.loc["a", "gain"] == pytest.approx(np.log2(np.linspace(1, 2, 10) / 0.25).mean())
    accuracy = per_seed({"a": np.full(10, 0.75), "b": np.full(10, 0.5)}, "accuracy")
    assert claims.halvings(accuracy, "c", "accuracy", "b")["gain"].item() == pytest.approx(1)


def test_a_text_takes_the_table_between_its_marks():
    table, _ = claims.table(claims.CLAIMS[:1], {"quick": {"digits_label_noise": None}})
    text = f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter"
    found = with_table(text, table)
    assert found.startswith("before")
    assert found.endswith("after")
    assert "old" not in found
    assert "| S1" in found
    assert with_table(found, table) == found
    with pytest.raises(ValueError, match="once each"):
        with_table("nothing", table)


def committed():
    """The claims table that the pipeline made."""
    return pd.read_csv(ROOT / "figures/claims/claims.csv", dtype=str, keep_default_na=False)


def test_the_readme_shows_the_table_of_the_pipeline():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_table(text, committed()) == text


def test_the_notebook_shows_the_verdicts_of_the_pipeline():
    notebook = nbformat.read(ROOT / "notebooks/claims.ipynb", 4)
    [cell] = [cell for cell in notebook.cells if cell.id == "table"]
    shown = cell.outputs[0]["data"]["text/markdown"].splitlines()[2:]
    table = committed()
    assert len(shown) == len(table)
    for line, row in zip(shown, table.itertuples(), strict=True):
        assert line.split("|")[1].strip() == row.claim
        assert f"| **{row.verdict}** " in line


def test_the_pipelines_table_is_complete():
    table = committed()
    assert list(table.columns) == COLUMNS
    assert (table != "").all(axis=None)
    quick = table[table["scale"] == "quick"]
    assert list(zip(quick["claim"], quick["setting"], strict=True)) == [(c.id, c.setting) for c in claims.CLAIMS]
    assert {c.id for c in claims.CLAIMS} == {*["S1", "S2", "S3", "S4", "H1", "H2", "H3", "V1", "V2", "G1", "G2", "G3"]}
