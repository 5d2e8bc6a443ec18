import pandas as pd
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook

import mtlkit
from mtlkit import notebook, paper

PARAMETERS = "seeds = 1\nepochs = 1\ncache = None\nout = None"
STUDY = """
import mtlkit as mtl
from mtlkit import studies

data = mtl.datasets.load("digits", label_noise=0.6)
candidate = studies.Candidate(mtl.models.mlp(data), data, mtl.Uniform())
outcome = studies.study(
    {"Uniform": candidate}, lrs=[0.1], tuning_seeds=1, tuning_epochs=1, seeds=seeds, epochs=epochs, jobs=1, cache=cache,
    device="cpu",
)
studies.save(studies.per_seed_table({"60% label noise": outcome}, ["loss"]), None, out, "small_per_seed")
"""
SECTION = {"notebook": "small", "parameters": {"seeds": 2, "epochs": 2}}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A project of one small study, in a folder of its own; returns a function that writes its notebook."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"paper": {"small_case": SECTION}}))

    def write(*sources):
        cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), *map(new_code_cell, sources)]
        notebook.write(notebook.canonical(new_notebook(cells=cells)), tmp_path / "notebooks" / "small.ipynb")

    write(STUDY)
    return write


def never(*arguments):
    raise AssertionError("the notebook was executed")


def test_a_study_leaves_its_numbers_with_their_provenance_and_is_then_skipped(place, tmp_path, monkeypatch, capsys):
    assert paper.main([]) == 0
    table = pd.read_csv(tmp_path / "data" / "reference" / "small_case.csv")
    given = ["condition", "method", "seed", "metric", "value"]
    assert table.columns.tolist() == [*given, "device", "date", "commit", "versions"]
    assert table["seed"].tolist() == [0, 1]
    data = mtlkit.datasets.load("digits", label_noise=0.6)
    runs = mtlkit.fit(mtlkit.models.mlp(data), data, mtlkit.Uniform(), epochs=2, lr=0.1, seeds=2, device="cpu")
    rows = runs.final("selected")
    rows = rows[(rows.split == "test") & (rows.task == "is_8") & (rows.metric == "loss")]
    assert table["value"].tolist() == pytest.approx(rows["value"].tolist(), rel=1e-4)
    assert (table["commit"] == "unknown").all()
    assert table["versions"].str.contains(f"mtlkit {mtlkit.__version__} torch ").all()
    assert yaml.safe_load((tmp_path / "data" / "reference" / "small_case.yaml").read_text()) == SECTION
    monkeypatch.setattr(notebook, "run", never)
    capsys.readouterr()
    assert paper.main(["small_case"]) == 0
    assert "is there for these parameters" in capsys.readouterr().out
    (tmp_path / "data" / "reference" / "small_case.yaml").write_text(
        yaml.safe_dump({**SECTION, "parameters": {"seeds": 3}})
    )
    with pytest.raises(AssertionError, match="was executed"):
        paper.main(["small_case"])


def test_an_interrupted_study_goes_on_where_it_was(place, tmp_path):
    place(STUDY, "1 / 0")
    with pytest.raises(Exception, match="division by zero"):
        paper.main([])
    assert not (tmp_path / "data").exists()
    place("import mtlkit.studies\n\ndel mtlkit.studies.fit", STUDY)
    assert paper.main([]) == 0
    assert (tmp_path / "data" / "reference" / "small_case.csv").exists()


def test_a_table_of_an_earlier_run_is_not_taken_for_this_one(place, tmp_path, capsys):
    earlier = tmp_path / "build" / "paper" / "small_case" / "results" / "small_per_seed.csv"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("condition,method,seed,metric,value\n")
    place("pass")
    assert paper.main([]) == 1
    assert "small did not write small_per_seed.csv" in capsys.readouterr().err


def test_a_name_or_a_parameter_that_is_not_there_is_refused(place, tmp_path, capsys):
    assert paper.main(["other"]) == 1
    assert "no paper entry 'other', expected one of small_case" in capsys.readouterr().err
    wrong = {"notebook": "small", "parameters": {"sees": 2}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"paper": {"small_case": wrong}}))
    assert paper.main([]) == 1
    assert "no parameter sees" in capsys.readouterr().err
