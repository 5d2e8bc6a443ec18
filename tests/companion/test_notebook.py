import os
import re
import subprocess
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from companion import notebook
from companion.claims import CLAIMS
from nbformat.v4 import new_code_cell, new_notebook, new_output

STORED = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
assert STORED, "no stored notebook was found"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A small notebook with one parameters cell, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").mkdir()
    cells = [
        new_code_cell("n = 2\nout = None", metadata={"tags": ["parameters"]}),
        new_code_cell("import sys\nprint('to stderr', file=sys.stderr)\nprint(n * 3)"),
        new_code_cell("n * 5"),
    ]
    path = tmp_path / "study.ipynb"
    notebook.write_notebook(notebook.canonical(new_notebook(cells=cells)), path)
    return path


def outputs(path):
    return [o.get("text", o.get("data")) for c in nbformat.read(path, 4).cells if "outputs" in c for o in c.outputs]


def test_run_uses_the_parameters_and_gives_the_same_bytes_twice(study, tmp_path):
    notebook.run_notebook(study, tmp_path / "a.ipynb", {"n": 7})
    notebook.run_notebook(study, tmp_path / "b.ipynb", {"n": 7})
    assert (tmp_path / "a.ipynb").read_bytes() == (tmp_path / "b.ipynb").read_bytes()
    assert outputs(tmp_path / "a.ipynb") == ["21\n", {"text/plain": "35"}]


def test_a_run_shows_its_progress_as_log_lines(study, tmp_path, capsys):
    cells = nbformat.read(study, 4).cells[:1]
    cells.append(new_code_cell("from mtlkit.progress import progress\nlist(progress(range(2), 'work'))"))
    notebook.write_notebook(notebook.canonical(new_notebook(cells=cells)), study)
    notebook.run_notebook(study, tmp_path / "a.ipynb", {}, show=True)
    assert "done: work" in capsys.readouterr().err.splitlines()
    assert outputs(tmp_path / "a.ipynb") == [{"text/plain": "[0, 1]"}]


def test_run_leaves_the_environment_as_it_was(study, tmp_path):
    before = dict(os.environ)
    notebook.run_notebook(study, tmp_path / "a.ipynb", {"n": 7})
    with pytest.raises(papermill.PapermillExecutionError):
        notebook.run_notebook(study, tmp_path / "b.ipynb", {"n": {}})
    assert dict(os.environ) == before


def test_a_misspelt_parameter_is_an_error(study, tmp_path, capsys):
    with pytest.raises(ValueError, match="no parameter m, expected some of n, out"):
        notebook.run_notebook(study, tmp_path / "a.ipynb", {"m": 7})
    assert notebook.main(["run", str(study), str(tmp_path / "a.ipynb"), "-p", "m", "7"]) == 1
    assert "no parameter m" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [
        ("yes", "a", "yes"),
        ("7", "a", "7"),
        ("[0.1, 0.2]", [], [0.1, 0.2]),
        ("7", None, 7),
        ("yes", None, "yes"),
        ("% fat", None, "% fat"),
        ("a: b", None, "a: b"),
        ("{a: b}", {}, {"a": "b"}),
        ("null", None, None),
    ],
)
def test_parameters_on_the_command_line_stay_text_where_text_is_meant(text, default, value):
    assert notebook._value(text, default) == value


def test_without_a_folder_of_notebooks_paths_start_where_the_notebook_is(study, tmp_path):
    (tmp_path / "notebooks").rmdir()
    notebook.run_notebook(study, tmp_path / "elsewhere" / "a.ipynb", {"n": 7})
    assert outputs(tmp_path / "elsewhere" / "a.ipynb")[0] == "21\n"


def test_a_section_of_params_yaml_sets_parameters(study, tmp_path, capsys):
    (tmp_path / "params.yaml").write_text("study:\n  n: 4\n")
    assert notebook.main(["run", str(study), str(tmp_path / "a.ipynb"), "--section", "study"]) == 0
    assert outputs(tmp_path / "a.ipynb")[0] == "12\n"
    assert notebook.main(["run", str(study), str(tmp_path / "a.ipynb"), "--section", "other"]) == 1
    assert "no section 'other', expected one of study" in capsys.readouterr().err


def test_strip_and_store_keep_source_and_results_apart(study, tmp_path):
    done, stored = (tmp_path / f"{name}.ipynb" for name in ("done", "stored"))
    notebook.run_notebook(study, done, {"n": 2})
    notebook.main(["store", str(done), str(stored)])
    assert notebook.faults(stored) == []
    assert outputs(stored) == outputs(done)
    notebook.main(["strip", str(stored), str(done), str(tmp_path / "sources")])
    assert (tmp_path / "sources" / "stored.ipynb").read_bytes() == study.read_bytes()
    assert (tmp_path / "sources" / "done.ipynb").exists()


def test_faults_are_found(study):
    assert any("execution counts" in fault for fault in notebook.faults(study))
    broken = nbformat.read(study, 4)
    broken.cells[0].metadata = {}
    broken.metadata.kernelspec.name = "other"
    for count, cell in enumerate(broken.cells, 1):
        cell.execution_count = count
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}}
    broken.cells[1].outputs = [
        new_output("display_data", data=view),
        new_output("error", ename="E", evalue="", traceback=[]),
    ]
    notebook.write_notebook(broken, study)
    found = " ".join(notebook.faults(study))
    for fault in ("0 cells are tagged 'parameters'", "stores widgets", "stores an error", "kernel is not python3"):
        assert fault in found
    cleaned = notebook.canonical(broken)
    assert [o.output_type for o in cleaned.cells[1].outputs] == ["error"]


def test_a_stored_notebook_tells_its_finding_on_top_and_its_source_does_not(tmp_path):
    marks = "# Title\n\n<!-- finding: ../figures/a/b.svg -->\n<!-- end of finding -->\n\nQuestion."
    says = "**SLGrad is lowest, 0.2 \\\\ [0.1, 0.3].** Bars."
    shown = new_output("display_data", data={"text/markdown": says, "text/plain": "x"})
    later = new_output("display_data", data={"text/markdown": "**Later.**"})
    cells = [
        nbformat.v4.new_markdown_cell(marks, id="top"),
        new_code_cell("n = 1", metadata={"tags": ["parameters"]}, id="parameters"),
        new_code_cell("show()", metadata={"tags": ["finding"]}, outputs=[shown, later], id="found"),
    ]
    stored = notebook.storable(new_notebook(cells=cells))
    picture = f"![{says.replace('**', '')}](../figures/a/b.svg)"
    expected = f"-->\n{says}\n\n{picture}\n<!-- end of finding -->\n\nQuestion."
    assert stored.cells[0].source.endswith(expected)
    assert notebook.storable(stored) == stored
    assert notebook.stripped(stored).cells[0].source == marks
    nothing = notebook.storable(new_notebook(cells=cells[:2]))
    assert nothing.cells[0].source == marks


def test_of_a_pictures_metadata_the_alternative_text_stays():
    data = {"image/png": "x", "text/plain": "what it shows"}
    output = new_output("display_data", data=data, metadata={"image/png": {"alt": "what", "width": 3}, "other": 1})
    [cell] = notebook.canonical(new_notebook(cells=[new_code_cell("1", outputs=[output])])).cells
    assert cell.outputs[0].metadata == {"image/png": {"alt": "what"}}


def test_parameters_must_be_literals(study):
    book = nbformat.read(study, 4)
    book.cells[0].source = "n = 1 + len('a')"
    notebook.write_notebook(book, study)
    with pytest.raises(ValueError, match="parameters line 1 is not of the form name = literal"):
        notebook.parameters(study)


OLD = "method,loss\na,0.25 [0.1]\nb,1.5\n"


@pytest.mark.parametrize(
    ("new", "found"),
    [
        (OLD, []),
        ("method,loss\na,0.2500000001 [0.1]\nb,1.5\n", []),
        ("method,loss\na,0.250001 [0.1]\nb,1.5\n", []),
        ("method,loss\na,0.26 [0.1]\nb,1.5\n", ["row 1 (a), loss: 0.25 [0.1] committed, 0.26 [0.1] now"]),
        ("method,loss\na,0.25 (0.1]\nb,1.5\n", ["row 1 (a), loss: 0.25 [0.1] committed, 0.25 (0.1] now"]),
        ("method,loss\na,0.25 [0.1]\nc,1.5\n", ["row 2 (b), method: b committed, c now"]),
        ("method,loss\na,0.25 [0.1]\n", ["shape: (2, 2) committed, (1, 2) now, or other columns"]),
    ],
)
def test_differences_name_the_cell(new, found):
    assert list(notebook.differences(OLD, new)) == found


def test_verdict_tells_identical_from_close_from_different(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert notebook.verdict(Path("figures")) == (
        "git knows of no committed results here, so nothing was compared.",
        False,
    )
    table = tmp_path / "figures" / "t.csv"
    table.parent.mkdir()
    table.write_text(OLD)
    table.with_suffix(".png").write_bytes(b"\x89PNG\xff")
    for command in ("init -q", "add .", "-c user.name=n -c user.email=e commit -qm m"):
        subprocess.run(["git", *command.split()], check=True)
    assert notebook.verdict(Path("figures")) == ("Every file in figures/ is byte for byte the committed one.", True)
    table.write_text(OLD.replace("1.5", "1.5000000001"))
    table.with_suffix(".png").write_bytes(b"\x89PNG\xfe")
    sentence, same = notebook.verdict(Path("figures"))
    assert same
    assert "to a relative 2e-05; other bytes in: t.csv, t.png" in sentence
    note = table.with_suffix(".md")
    note.write_text("| a | 0.1 * |")
    table.write_text(OLD)
    subprocess.run(["git", "add", "."], check=True)
    subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "m"], check=True)
    note.write_text("| a | 0.1 |")
    assert "figures/t.md: the text differs" in notebook.verdict(Path("figures"))[0]
    note.write_text("| a | 0.1 * |")
    table.write_text(OLD.replace("1.5", "1.6"))
    (table.parent / "new.svg").write_text("x")
    sentence, same = notebook.verdict(Path("figures"))
    assert not same
    assert "figures/t.csv: row 2 (b), loss: 1.5 committed, 1.6 now" in sentence
    assert "figures/new.svg: not committed" in sentence
    table.unlink()
    assert "figures/t.csv: missing now" in notebook.verdict(Path("figures"))[0]


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_stored_notebooks_are_in_order(path):
    assert notebook.faults(path) == []
    assert notebook.storable(nbformat.read(path, 4)) == nbformat.read(path, 4)


ROOT = Path(__file__).parents[2]
SHOWN = dict(
    re.findall(r"(\w+)=([\w/]+)", re.search(r"SHOWN := (.*?)\n\n", (ROOT / "Makefile").read_text(), re.DOTALL)[1])
)
"""Notebook to the execution of it that is kept."""


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_defaults_are_those_of_the_stage_that_is_kept(path):
    """So that the stored notebook, which runs with its defaults, shows what the pipeline writes."""
    sections = yaml.safe_load((ROOT / "params.yaml").read_text())
    kept = SHOWN.get(path.stem, path.stem)
    section = sections.get(f"full_{kept}") or sections[kept.removeprefix("quick/")]
    defaults = notebook.parameters(path)
    for folder in {"out", "cache"} & defaults.keys():
        assert defaults[folder] is None, "default parameters must not write files"
    section.pop("out")
    assert {name: defaults[name] for name in section} == section


@pytest.mark.parametrize("key", yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["full"]["foreach"])
def test_a_stage_draws_what_a_store_holds_and_trains_nothing(key):
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["full"]["foreach"]
    section = yaml.safe_load((ROOT / "params.yaml").read_text())[f"full_{key}"]
    found = notebook.parameters(ROOT / f"notebooks/{stages[key]['notebook']}.ipynb") | section
    assert found["store"] == f"../data/results/{stages[key]['store']}.parquet"
    # A reader who adds a noise level trains that level; the store of what is kept is whole.
    assert found["missing"] == "skip" or SHOWN[stages[key]["notebook"]] == key


def test_a_claim_leads_to_a_notebook_only_where_its_stored_copy_shows_the_study():
    for claim in CLAIMS:
        if claim.notebook is not None:
            notebook = claim.notebook or claim.study
            assert SHOWN[notebook].removeprefix("quick/") == claim.study, claim
