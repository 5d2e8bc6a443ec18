"""The notebook: a table that is refused, and one that is answered for, as the project's runner starts it."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes

ROOT = Path(__file__).parent.parent.parent
RUN = [sys.executable, "-m", "companion.notebook", "run", str(ROOT / "notebooks" / "your_data.ipynb"), "out.ipynb"]


@pytest.fixture
def folder(tmp_path):
    load_diabetes(as_frame=True, scaled=False).frame.to_csv(tmp_path / "my.csv", index=False)
    return tmp_path


def test_a_refused_table_ends_in_one_sentence(folder):
    command = [*RUN, "-p", "path", "my.csv", "-p", "main", "price", "-p", "auxiliaries", "[s5]"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: no column 'price', expected one of age, sex" in done.stderr
    outputs = [o for cell in nbformat.read(folder / "out.ipynb", 4).cells for o in cell.get("outputs", [])]
    assert outputs[-1].output_type == "error"
    assert len(outputs[-1].traceback) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["my.csv", "out.ipynb"]


def test_a_table_of_ones_own(folder):
    command = [
        *RUN,
        "-p",
        "path",
        "my.csv",
        "-p",
        "main",
        "target",
        "-p",
        "auxiliaries",
        "[s5]",
        "-p",
        "effort",
        "quick",
    ]
    done = subprocess.run([*command, "-p", "out", "mine"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cells = nbformat.read(folder / "out.ipynb", 4).cells
    assert len(cells) <= 15  # one of them holds the parameters
    text = "".join(str(output) for cell in cells for output in cell.get("outputs", []))
    assert "<svg" in text
    assert "rmse, in units of target" in text
    assert "diagnosis" not in text
    levels = pd.read_csv(folder / "mine" / "your_data_levels.csv")
    assert {"constant", "linear model", "boosted trees"} < set(levels["level"])
