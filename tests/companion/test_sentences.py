"""No sentence of a notebook has a number that was typed: what was found is written by code, the rest is the set-up."""

import inspect
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
import yaml
from companion import recipe
from companion.claims import SHARES, _judge
from companion.notebook import FINDING

import mtlkit as mtl
from mtlkit import studies
from mtlkit.training import fit

ROOT = Path(__file__).parents[2]
STORED = sorted(path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
DECIMAL = r"(?<![\d.])\d+\.\d+(?![\d.])|\d+(?= %)"
"""A decimal, but for a paper's number on arXiv, or a percentage."""
OF_THE_SET_UP = {
    "alphavil": {"0.9"},  # the momentum of training.SGD
    "toy_regression": {"0.9", "0.8", "97", "0.76"},  # that, a default correlation, how saturated the published toy is
    "your_data": None,  # quotes limits that were measured elsewhere
    "speed": None,  # measured on one machine, and no part of the pipeline
}
"""Notebook to the numbers in its text that belong to neither code nor parameters; None: not asked."""


def known(notebook):
    """Numbers of the code, of params.yaml and of the rules."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    rules = [value for value in vars(_judge).values() if isinstance(value, float)]
    text = f"{code} {(ROOT / 'params.yaml').read_text()} {rules} {list(SHARES.values())}"
    numbers = {95.0} | {float(number) for number in re.findall(r"\d+\.?\d*(?:e-?\d+)?", text)}
    return numbers | {100 * number for number in numbers}


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_text_has_only_numbers_of_the_set_up(path):
    allowed = OF_THE_SET_UP.get(path.stem, set())
    if allowed is None:
        return
    notebook = nbformat.read(path, 4)
    there = known(notebook) | {float(number) for number in allowed}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"\d{4}\.\d{4,5}|\$[^$]*\$", "", FINDING.sub("", cell.source))
            typed = {n for n in re.findall(DECIMAL, text) if not any(abs(float(n) - k) < 1e-9 for k in there)}
            assert not typed, f"{path.stem}: {typed} in {cell.source[:60]!r}"


LED = [path for path in STORED if FINDING.search(path.read_text().replace("\\n", "\n"))]


def test_every_study_leads_with_its_finding():
    studies = {"label_noise", "hydalearn_drift", "clean_rows", "published_baselines", "toy_regression", "alphavil"}
    assert studies | {"loss_weighting_comparison", "claims"} <= {path.stem for path in LED}


@pytest.mark.parametrize("path", LED, ids=lambda path: path.stem)
def test_the_finding_on_top_is_what_the_notebook_says(path):
    notebook = nbformat.read(path, 4)
    top = notebook.cells[0].source
    [cell] = [cell for cell in notebook.cells if "finding" in cell.metadata.get("tags", [])]
    says = next(output.data["text/markdown"] for output in cell.outputs if "text/markdown" in output.get("data", {}))
    assert says in top
    assert says.startswith("**")
    picture = FINDING.search(top)[2]
    assert f"]({picture})" in top
    assert (path.parent / picture).exists()


SEEDS = range(10)


def numbers(**losses):
    """A condition c in which each method has these losses, with a little noise of its own."""
    rows = []
    for place, (method, value) in enumerate(losses.items()):
        rows += [("c", method, seed, "loss", value + 0.01 * ((7 * place + 3 * seed) % 5)) for seed in SEEDS]
    return pd.DataFrame(rows, columns=["condition", "method", "seed", "metric", "value"])


def judged(**losses):
    """The same beside a constant, on rows of their own."""
    rows = [("c", "data", seed, "overlap", 0.0) for seed in SEEDS]
    return pd.concat([numbers(**losses, constant=0.9), pd.DataFrame(rows, columns=numbers(a=1).columns)])


def test_words_follow_the_numbers():
    table = judged(a=0.2, b=0.5, c=0.2)
    assert re.fullmatch(r"0\.3\d\d \[0\.2\d\d, 0\.3\d\d\] below b \(0\.5\d\d\)", recipe.against(table, "c", "a", "b"))
    assert " above a (0." in recipe.against(table, "c", "b", "a")
    assert recipe.against(table, "c", "a", "c").startswith("level with c (0.2")
    assert recipe.best_of(table, "c", ["a", "b"]) == "a"
    diverged = table["value"].mask((table["method"] == "a") & (table["seed"] == 3))
    assert recipe.best_of(table.assign(value=diverged), "c", ["a", "b"]) == "b"
    assert recipe.gain(table, "c", "a", "b") == pytest.approx(0.3, abs=0.02)
    assert recipe.listed(["x"]) == "x"
    assert recipe.listed(["x", "y", "z"]) == "x, y and z"


def test_words_have_the_direction_of_the_difference():
    shares = judged(a=0.2, b=0.5).replace({"metric": {"loss": "accuracy"}})
    assert " below b (0.5" in recipe.against(shares, "c", "a", "b", "accuracy")
    assert " above a (0.2" in recipe.against(shares, "c", "b", "a", "accuracy")


def test_a_wide_interval_is_not_called_level():
    table = judged(a=0.2, b=0.21)
    wide = table["value"] + 0.2 * table["seed"].map(lambda s: (-1) ** s) * (table["method"] == "b")
    says = recipe.against(table.assign(value=wide), "c", "a", "b")
    assert re.fullmatch(r"not clearly apart from b \(0\.\d{3}; -0\.\d{3} \[-0\.\d{3}, \+0\.\d{3}\]\)", says)


@pytest.mark.parametrize(("regret", "hangs"), [(0.0, False), (0.28, True)])
def test_a_difference_that_hangs_on_the_rate_is_said(regret, hangs):
    rows = [("c", method, s, "regret", regret * (method == "b")) for method in "ab" for s in SEEDS]
    table = pd.concat([judged(a=0.2, b=0.5), pd.DataFrame(rows, columns=numbers(a=1).columns)])
    assert ("another rate" in recipe.against(table, "c", "a", "b")) == hangs


def test_what_ranks_best_is_said_where_ranks_are_measured():
    table = judged(a=0.2, b=0.5)
    assert recipe.ranks(table, "c", "a", ["b"]) == ""
    ranked = pd.concat([table, numbers(a=0.6, b=0.8).assign(metric="average_precision")])
    assert re.search(r"b ranks best, 0\.8\d\d; a has 0\.6\d\d", recipe.ranks(ranked, "c", "a", ["a", "b", "absent"]))


def test_what_decides_nothing_is_said():
    def with_(**metrics):
        rows = [("c", "a", seed, metric, value) for metric, value in metrics.items() for seed in SEEDS]
        return pd.concat([numbers(a=0.2, constant=0.4), pd.DataFrame(rows, columns=numbers(a=1).columns)])

    assert recipe.caution(with_(late=0.2, edge=0.0), "c", "a") == ""
    assert "30% of its seeds still improved" in recipe.caution(with_(late=0.3, edge=0.0), "c", "a")
    assert "edge of those tried" in recipe.caution(with_(late=0.0, edge=1.0), "c", "a")
    assert (
        recipe.caution(numbers(a=0.5, constant=0.4), "c", "a") == " No verdict on a: it is no better than a constant."
    )


def run(values):
    """A run of one seed, whose meta and test losses these are by epoch, from epoch 0."""
    rows = [(0, e, split, v) for split in ("meta", "test") for e, v in enumerate(values)]
    frame = pd.DataFrame(rows, columns=["seed", "epoch", "split", "value"])
    frame = frame.assign(dataset="d", method="m", task="main", metric="loss", diverged=False)
    return mtl.Runs(frame, pd.DataFrame(), "main", {})


@pytest.mark.parametrize(
    ("ours", "says"),
    [
        ([9, 8, 6, 3, 2], "the mean of a is below that of b from step 300 on"),
        ([9, 3, 2], "the mean of a is below that of b from step 100 on"),
        ([9, 8, 7, 6], "the mean of a stays above that of b"),
        ([9, 4, 6], "the mean of a is below that of b from step 100 on"),
    ],
)
def test_who_overtakes_whom_is_read_from_what_is_reached(ours, says):
    assert recipe.overtaken({"a": run(ours), "b": run([9, 5, 5, 5, 5])}, "a", "b", 100) == says


def test_the_quick_scale_says_that_it_decides_nothing():
    sections = yaml.safe_load((ROOT / "params.yaml").read_text())
    shown = re.search(r"SHOWN := (.*?)\n\n", (ROOT / "Makefile").read_text(), re.DOTALL)[1]
    quick = re.findall(r"(\w+)=quick/", shown)
    for name in quick:
        assert name in sections
        top = nbformat.read(ROOT / f"notebooks/{name}.ipynb", 4).cells[0].source
        assert "**Quick scale, which decides nothing" in top


def test_the_budget_is_what_the_parameters_say():
    parameters = {"learning_rates": [0.1], "more_learning_rates": 2, "precision": "float64", "epochs": 3, "other": 1}
    expected = {"lrs": [0.1], "more_lrs": 2, "dtype": torch.float64, "epochs": 3}
    assert recipe.budget(parameters) == expected
    assert set(recipe.BUDGET) <= {*inspect.signature(fit).parameters, *inspect.signature(studies.study).parameters}
