import re
from pathlib import Path

import pandas as pd
import pytest
from companion import claims, figures, methods
from companion.claims._front import by_clean_rows, collapses, filled, findings, generated, hero, slim
from companion.claims._table import least_support, short, untested

import mtlkit as mtl

ROOT = Path(__file__).parents[2]


def committed():
    table = pd.read_csv(ROOT / "figures/claims/claims.csv", dtype=str, keep_default_na=False)
    studies = ("label_noise_mnist/label_noise_mnist", "clean_rows/clean_rows")
    numbers = (pd.read_csv(ROOT / f"figures/{study}_per_seed.csv") for study in studies)
    return table, *numbers, pd.read_csv(ROOT / "figures/alphavil/alphavil_collapsed.csv")


def test_the_front_page_says_what_the_tables_say():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert filled(text, generated(*committed())) == text
    table, *numbers, collapsed = committed()
    for n, moved in enumerate(part.assign(value=part["value"] + 0.1) for part in numbers):
        others = [*numbers[:n], moved, *numbers[n + 1 :]]
        assert filled(text, generated(table, *others, collapsed)) != text
    assert filled(text, generated(table.assign(verdict="opposite"), *numbers, collapsed)) != text
    rows = {"target": "target: right", "method": ["AlphaVIL", "DIW"], "collapsed seeds": [3, 2], "of": 10}
    says = collapses(pd.DataFrame(rows))
    assert says == " It collapses to a constant in 3 of 10 seeds with target right (αVIL)."
    assert collapses(pd.DataFrame(rows | {"collapsed seeds": 0})) == ""


def test_losses_are_listed_by_the_number_of_clean_rows():
    methods = ("SLGrad", "meta rows only", "linear model, clean rows", "constant")
    rows = [
        (f"{noise}% label noise, {count} clean rows", method, seed, metric,
         count / 1000 + 0.1 * (-n if count == 10 else n) + 0.02 * seed)
        for noise, counts in ((0, [25]), (60, [200, 25, 10, 50])) for count in counts
        for n, method in enumerate(methods) for seed in range(2) for metric in ("loss", "accuracy")
    ]  # fmt: skip
    says = by_clean_rows(pd.DataFrame(rows, columns=["condition", "method", "seed", "metric", "value"]))
    assert "60% label noise, 2 seeds" in says
    assert "with 25, 50 and 200 of them SLGrad's test loss is 0.035, 0.060 and 0.210" in says
    assert "on them alone 0.135, 0.160 and 0.310" in says
    assert says.endswith("of a constant 0.335, 0.360 and 0.510; with 10 none of these is below a constant.")


def test_no_number_on_the_front_page_is_typed():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in generated(*committed()):
        text = re.sub(f"<!-- {name} -->.*<!-- end of {name} -->", "", text, flags=re.DOTALL)
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert set(re.findall(r"\d[\d.,]*\d|\d", text)) == {"3.11", "25", "64"}  # Python; lines of a method; float64


def test_marks_are_asked_for_once_each():
    assert filled("a\n<!-- x -->\nold\n<!-- end of x -->\nb", {"x": "new"}) == (
        "a\n<!-- x -->\nnew\n<!-- end of x -->\nb"
    )
    with pytest.raises(ValueError, match="once each"):
        filled("nothing", {"x": "new"})


def row(claim, what, verdict, study="label_noise_mnist", where="60% label noise", numbers=("0.2", "0.5")):
    comparison = f"SLGrad against CAGrad, loss, {where}"
    values = {"claim": claim, "what": what, "verdict": verdict, "study": study, "where": where}
    values |= {
        "comparison": comparison,
        "ours": numbers[0],
        "theirs": numbers[1],
        "constant": "0.9",
        "linear_model": "0.85",
    }
    return values | {"seeds": "19 of 20", "steps": "3,000"}


def test_a_finding_counts_the_settings_in_which_a_claim_holds():
    baselines = "against the paper's baselines"
    table = pd.DataFrame(
        [
            row("S1", baselines, "reproduced", where="40% label noise"),
            row("S1", baselines, "reproduced", numbers=("0.3", "0.4")),
            row("S1", baselines, "partly", numbers=("0.6", "0.7")),
            row("S1", baselines, "undecided", numbers=("0.8", "0.7")),
            row("S1", baselines, "opposite", study="label_noise_digits"),
            row("S1", baselines, "not tested here", study="label_noise_cifar10"),
            row("S1", baselines, "nothing learned here", study="toy_regression"),
            row("S1", "against a linear model on the clean rows", "undecided"),
            row("S3", "against uniform weights", "partly", where="0% label noise"),
        ]
    )
    [first] = findings(table)
    counts = "lower test loss than its paper's baselines **in 2 of 5 settings, partly in 1 more, undecided in 1**"
    assert (
        f"{counts} (MNIST 60%, 20 seeds, at most 3,000 steps: 0.3 against 0.4, a constant 0.9, a linear model 0.85)"
        in first
    )
    assert "than a linear model on those rows **in 0 of 1, undecided in 1**" in first
    assert "no worse than uniform weights without wrong labels **in 0 of 1, partly in 1 more**" in first
    assert "plain training" not in first
    weak = pd.DataFrame([row("S1", baselines, "reproduced", numbers=("0.2", theirs)) for theirs in ("0.8", "0.95")])
    assert "a linear model 0.85; in 1 of 2 the best rival is itself worse than a constant)" in findings(weak)[0]


def test_what_is_still_to_come_is_said_and_has_no_row():
    rows = [row("S1", "w", "partly"), row("S1", "x", "not tested here"), row("G2", "w", "not tested here")]
    table = pd.DataFrame(rows).assign(notebook="label_noise", figure="one", holds=["1 of 1", claims.NONE, claims.NONE])
    assert untested(table) == "Without a verdict so far: 2 of 3 tests, among them all of Loss weighting strategies: G2."
    assert untested(table[:2]) == "Without a verdict so far: 1 of 2 tests."
    cut = table[:2].assign(holds=["1 of 1", "0 of 0"])
    assert untested(cut) == "Without a verdict so far: 1 of 2 tests (1 of them run, but cut off or tuned to an edge)."
    assert untested(table[:1]) == ""
    assert short(table).to_dict("list") == {"verdicts": ["MNIST [1◐](notebooks/label_noise.ipynb)"]}


def test_the_hero_has_the_means_of_its_table():
    numbers = committed()[1]
    rows = numbers[(numbers["condition"] == "60% label noise") & (numbers["metric"] == "loss")]
    mean = rows.groupby("method")["value"].mean()
    said = [float(n) for n in re.findall(r"0\.\d{3}", hero(numbers))]
    best = min(mean[m] for m in claims.PAPERS_BASELINES)
    others = ["meta rows only", "clean main labels", "linear model, clean rows", "constant"]
    precision = numbers[(numbers["condition"] == "60% label noise") & (numbers["metric"] == "average_precision")]
    ranked = precision.groupby("method")["value"].mean()[["SLGrad", "clean main labels", "linear model, clean rows"]]
    expected = [mean["SLGrad"], best, *mean[others], *ranked]
    assert said == pytest.approx(expected, abs=5e-4)


def test_gains_are_shares_of_what_the_best_gains_on_a_constant():
    found = pd.DataFrame(
        {
            "claim": "S1", "setting": "s", "study": "label_noise_mnist", "method": "a", "against": ["b", "c", "d"],
            "metric": "loss",
            "wants": "better", "difference": [-0.2, -0.1, 9.0], "low": [-0.3, -0.2, 9.0], "high": [-0.1, 0.1, 9.0],
            "margin": 0.02, "outcome": ["better", "unclear", "cut off"], "support": [3.0, 1.0, -5.0],
        }
    )  # fmt: skip
    table = pd.DataFrame([row("S1", "w", "partly") | {"setting": "s"}])
    [least] = least_support(table, found).itertuples()
    assert least.label == "MNIST, 60%: against c"
    twice = least_support(pd.concat([table, table]), found)
    assert twice["label"].tolist() == ["MNIST, 60%: a against c"] * 2
    assert (least.gain, least.low, least.high) == pytest.approx((25, -25, 50))  # 0.1 of 20 margins of 0.02
    axis = figures.gain_bars(least_support(table, found)).axes[0]
    assert [line.get_xdata().tolist() for line in axis.lines[:2]] == [pytest.approx([-25, 50]), pytest.approx([25])]


def test_every_method_has_a_line_and_a_docstring_with_its_equation_and_source():
    exported = {name for name in mtl.__all__ if isinstance(getattr(mtl, name), type)}
    bases = mtl.weighting.Weighting | mtl.merging.Merging
    assert {m.name for m in methods.METHODS} == {name for name in exported if issubclass(getattr(mtl, name), bases)}
    for method in methods.METHODS + methods.ARCHITECTURES:
        found = methods.explained(method)
        assert found.says.endswith((".", ","))
        assert "Args" not in found.symbols + found.source
        if method.paper and method.name != "Gramian":
            assert found.source.startswith("Source: ")
    slgrad = methods.explained(next(m for m in methods.METHODS if m.name == "SLGrad"))
    assert slgrad.equations == ["δ_bt = ⟨∇_θ ℓ_bt, ∇_θ L_main(V)⟩,    w_bt = max(δ_bt, 0) / Σ_b't' max(δ_b't', 0)"]
    assert slgrad.symbols.startswith("θ: shared parameters")


def test_papers_on_arxiv_are_linked():
    assert methods.cited("1406.2080") == "[1406.2080](https://arxiv.org/abs/1406.2080)"
    assert methods.cited("ACL 2016") == "ACL 2016"


def test_a_slim_table_has_no_padding():
    table = pd.DataFrame({"a": [1], "bb": ["x"]}, index=pd.Index(["row"], name="n"))
    assert slim(table).splitlines() == ["| n | a | bb |", "| --- | --- | --- |", "| row | 1 | x |"]
