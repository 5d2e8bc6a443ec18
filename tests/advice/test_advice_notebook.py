"""The notebook on tables of a user: refused ones headless, as papermill and as the project's runner start it."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes

ROOT = Path(__file__).parent.parent.parent
SOURCE = ROOT / "notebooks" / "your_data.ipynb"


@pytest.fixture
def folder(tmp_path):
    load_diabetes(as_frame=True, scaled=False).frame.to_csv(tmp_path / "my.csv", index=False)
    (tmp_path / "latin.csv").write_bytes("stad,prijs\nLiège,1\n".encode("latin-1"))
    return tmp_path


def shown(path):
    cells = nbformat.read(path, 4).cells
    outputs = [o for c in cells if c.cell_type == "code" for o in c.outputs if o.get("name") != "stderr"]
    assert not any("Traceback" in str(o) for o in outputs)
    return outputs


@pytest.mark.parametrize(
    ("path", "main", "message"),
    [
        ("my.csv", "price", "no column 'price', expected one of age, sex"),
        ("latin.csv", "prijs", "latin.csv is not utf-8"),
    ],
)
def test_a_refused_table_ends_in_one_sentence(folder, path, main, message):
    command = [
        sys.executable,
        "-m",
        "companion.notebook",
        "run",
        str(SOURCE),
        "out.ipynb",
        "-p",
        "path",
        path,
        "-p",
        "main",
    ]
    done = subprocess.run([*command, main], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"error: {message}" in done.stderr
    assert "PapermillExecutionError" not in done.stderr
    last = shown(folder / "out.ipynb")[-1]
    assert last.output_type == "error"
    assert len(last.traceback) == 1
    assert message in last.traceback[0]
    assert sorted(p.name for p in folder.rglob("*")) == ["latin.csv", "my.csv", "out.ipynb"]


def test_plain_papermill_takes_the_path_from_where_it_is_started(folder):
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(SOURCE),
        "out.ipynb",
        "-p",
        "path",
        "my.csv",
        "-p",
        "main",
        "target",
    ]
    options = ["-p", "auxiliaries", "s5", "-p", "seeds", "2", "-p", "jobs", "1", "-p", "out", "mine"]
    quick = ["-y", "{audit_levels: [], learning_rates: [0.01]}"]
    done = subprocess.run([*command, *options, *quick], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = "\n".join(str(o.get("data", o)) for o in shown(folder / "out.ipynb"))
    assert "single-task training of target" in text or "Use " in text
    helps = pd.read_csv(folder / "mine" / "your_data_helps.csv")
    assert helps["method"].tolist() == ["Uniform", "GradientCosine", "HydaLearn", "SLGrad"]
    seeds = pd.read_csv(folder / "mine" / "your_data_per_seed.csv")
    rmse = seeds[seeds["metric"] == "rmse"].pivot(index="seed", columns="method", values="value")
    differences = rmse["Uniform"] - rmse["single task"]
    assert helps["difference"][0] == pytest.approx(differences.mean(), rel=1e-4)
    assert {p.name for p in folder.iterdir()} == {"latin.csv", "my.csv", "out.ipynb", "mine"}
