"""Claims on architectures and language tasks, and the rivals of SLGrad and of single-task training."""

import re

import nbformat
import pandas as pd
import pytest
import yaml
from companion import claims, notebook
from companion.claims._architectures import ARCHITECTURES, FRACTION, MAINS, STRENGTHS
from companion.claims._language import TARGETS
from companion.claims._rivals import ON_CLEAN_ROWS, OTHER_WEIGHTINGS, RIVALS, WITH_AUXILIARIES
from companion.methods import GRAMIANS
from test_claims import NOISE, ROOT, study, verdicts

import mtlkit as mtl
from mtlkit import studies
from mtlkit.merging import Merging
from mtlkit.weighting import Weighting

TAPS = "TAPS, λ 0.003"


def losses(condition, metric="loss", **values):
    named = {name.replace("_", " "): value for name, value in values.items()}
    return study([condition], {(m, metric): v + NOISE[n] / 10 for n, (m, v) in enumerate(named.items())})


def architectures(**changes):
    """Numbers under which all four claims hold, but for the changes."""
    sizes = {TAPS: 40_000.0, "separate models": 100_000.0} | changes.pop("sizes", {})
    low = losses("layered, 300 rows", hard_sharing=1.0, low_level=0.6)
    twenty = losses("twenty tasks, digit_8", hard_sharing=1.0, routed=0.6)
    ten = {"two backbones": 0.6, "wide trunk": 1.0, TAPS: 0.61, "single task": 0.6} | changes
    parts = study(["ten tasks"], {(m, "loss"): v + NOISE[n] / 10 for n, (m, v) in enumerate(ten.items())})
    kept = [("ten tasks", m, seed, "parameters", v) for m, v in sizes.items() for seed in range(10)]
    return pd.concat([low, twenty, parts, pd.DataFrame(kept, columns=parts.columns)])


def test_architectures_that_do_what_their_papers_say():
    found = verdicts("architectures", architectures())
    assert found["A1", "layered, 300 rows"] == "reproduced"
    assert found["A1", "layered, 1200 rows"] == "not tested here"
    assert found["A2", "twenty tasks, digit 8"] == "reproduced"
    assert found["A3", "ten tasks"] == found["A4", "ten tasks, λ 0.003"] == "reproduced"
    assert found["A4", "ten tasks, λ 0.01"] == "not tested here"


def test_a_trunk_of_as_many_parameters_decides_about_two_backbones():
    found = verdicts("architectures", architectures(**{"two backbones": 1.0, "wide trunk": 0.6}))
    assert found["A3", "ten tasks"] == "opposite"


@pytest.mark.parametrize(
    ("loss", "size", "verdict"),
    [(0.6, FRACTION + 0.1, "partly"), (1.5, 0.2, "partly"), (1.5, 2.0, "opposite"), (0.6, 0.49, "reproduced")],
)
def test_taps_has_to_be_both_near_and_small(loss, size, verdict):
    table = architectures(**{TAPS: loss, "sizes": {TAPS: size * 100_000}})
    assert verdicts("architectures", table)["A4", "ten tasks, λ 0.003"] == verdict


def test_every_language_target_has_its_own_verdict():
    constant = {"accuracy": 0.5, "loss": 3.0}

    def under(target, **values):
        table = losses(f"target: {target}", "accuracy", **values)
        table.loc[(table["method"] == "constant") & (table["metric"] == "accuracy"), "value"] = constant["accuracy"]
        return table

    better = under("rte", AlphaVIL=0.8, single_task=0.7, Uniform=0.7, DIW=0.7, ForkMerge=0.9)
    nothing = under("copa", AlphaVIL=0.5, single_task=0.5, Uniform=0.5, DIW=0.5, ForkMerge=0.5)
    found = verdicts("language_tasks", pd.concat([better, nothing]))
    share = "branches share the data"
    assert found["V1", f"RTE, {share}"] == found["V2", f"RTE, {share}"] == "reproduced"
    assert found["V2", "RTE, and than ForkMerge"] == "opposite"
    assert found["V1", f"COPA, {share}"] == "nothing learned here"
    assert found["V1", f"CB, {share}"] == "not tested here"


def test_rivals_decide_apart_from_the_papers_baselines():
    values = {("SLGrad", "loss"): 0.5, **{(m, "loss"): 1.0 + NOISE[n] for n, m in enumerate(RIVALS)}}
    values |= {(m, "loss"): 0.2 + NOISE[20 + n] for n, m in enumerate(OTHER_WEIGHTINGS)}
    found = verdicts("label_noise_mnist", study(["60% label noise"], values))
    assert found["S1", "60% label noise, against rivals that it is not compared with"] == "reproduced"
    assert found["S1", "60% label noise, against the weightings of other papers"] == "opposite"


def test_later_methods_are_judged_at_the_sizes_at_which_they_were_run():
    single = {("single task", "loss"): 0.5}
    later = {(m, "loss"): 1.0 + NOISE[n] for n, m in enumerate(WITH_AUXILIARIES)}
    sizes = [f"target: left, {rows} rows" for rows in sections("loss_weighting_comparison_rivals")["sizes"]]
    both = pd.concat([study(sizes, single | later), study(["target: left, 500 rows"], single)])
    name = "G1", "competing pair, later methods for auxiliaries"
    assert verdicts("loss_weighting_comparison", both)[name] == "reproduced"
    assert verdicts("loss_weighting_comparison", study(["target: left, 500 rows"], single))[name] == "not tested here"


def sections(name):
    return yaml.safe_load((ROOT / "params.yaml").read_text())["full"][name]["parameters"]


def cells(name):
    return "".join(cell.source for cell in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells)


def test_what_claims_compare_is_what_studies_train():
    given = notebook.parameters(ROOT / "notebooks" / "architectures.ipynb")
    conditions = {f"layered, {rows} rows" for rows in given["layered_rows"]} | {"ten tasks"}
    assert list(STRENGTHS) == given["strengths"]
    assert list(MAINS) == given["twenty_tasks"]
    conditions |= {f"twenty tasks, {called}" for called in MAINS.values()}
    assert {claim.where for claim in ARCHITECTURES} == conditions
    assert list(TARGETS) == notebook.parameters(ROOT / "notebooks" / "language_tasks.ipynb")["targets"]
    assert {claim.where for claim in claims.CLAIMS if claim.study == "language_tasks"} == set(TARGETS.values())
    assert all(f'"{name}"' in cells("label_noise") for name in OTHER_WEIGHTINGS)
    learned = [name for name in RIVALS if name not in ON_CLEAN_ROWS]
    assert all(f'"{name}"' in cells("label_noise") for name in learned)
    data = mtl.datasets.load("digits")
    assert {*ON_CLEAN_ROWS} <= {*studies.contenders(data, mtl.models.mlp, {}, rivals=True)}
    (by_rows,) = (claim for claim in claims.CLAIMS if claim.study == "clean_rows")
    assert {pair.condition for pair in by_rows.pairs} == {
        f"60% label noise, {rows} clean rows"
        for rows in notebook.parameters(ROOT / "notebooks" / "clean_rows.ipynb")["clean_rows"]
        if rows != 200
    }
    shown = notebook.parameters(ROOT / "notebooks" / "loss_weighting_comparison.ipynb")["further"]
    assert list(WITH_AUXILIARIES) == shown
    assert notebook.parameters(ROOT / "notebooks" / "clean_rows.ipynb")["rivals"]
    shown = [(c.study, c.figure) for c in claims.CLAIMS if c.study in ("architectures", "language_tasks")]
    for study_name, figure in shown:
        stem = figure.removeprefix(f"{study_name}_")
        assert f'"{study_name}_' in cells(study_name)
        assert stem in cells(study_name), figure
    assert claims.CLAIMS[-1].id == "A4"
    assert notebook.parameters(ROOT / "notebooks" / "label_noise.ipynb")["rivals"] is False


def test_every_method_is_trained_by_a_study_at_full_scale():
    names = {entry["notebook"] for entry in yaml.safe_load((ROOT / "params.yaml").read_text())["full"].values()}
    code = "".join(cells(name) for name in names) + (ROOT / "mtlkit" / "studies.py").read_text()
    code += "".join(f'"{name}"' for name in claims.PAPERS_BASELINES)
    found = [name for name in mtl.__all__ if isinstance(getattr(mtl, name), type)]
    methods = [name for name in found if issubclass(getattr(mtl, name), Weighting | Merging)]
    assert len(methods) > 20
    asked = {*methods, *GRAMIANS} - {"Gramian"}
    assert [name for name in asked if not re.search(rf'\b{name}\(|"{name}"', code)] == []
    models = ("stages=", "routed(", "multi_backbone(", "taps(", "text_encoder(", "hugging_face(")
    assert all(model in code for model in models)
