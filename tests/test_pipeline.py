"""Which stages of the pipeline a change of a file makes run again, as ``dvc repro --dry`` says it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = (
    "dvc.yaml",
    "params.yaml",
    "requirements.txt",
    ".dvc/config",
    ".dvcignore",
    "mtlkit",
    "notebooks",
    "data/results",
)
OUTPUTS = "from dvc.repo import Repo; print(*(out.fs_path for out in Repo().index.outs), sep='\\n')"


def dvc(folder, *arguments):
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The tree with something in the place of every output, all of it up to date."""
    folder = tmp_path_factory.mktemp("tree")
    for part in PARTS:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / part).is_dir():
            leave = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.lock")
            shutil.copytree(ROOT / part, folder / part, ignore=leave)
        else:
            shutil.copy(ROOT / part, folder / part)
    dvc(folder, "config", "--local", "core.no_scm", "true")
    found = subprocess.run([sys.executable, "-c", OUTPUTS], cwd=folder, check=True, capture_output=True, text=True)
    for path in map(Path, found.stdout.split()):
        (path if path.suffix else path / "one").parent.mkdir(parents=True, exist_ok=True)
        (path if path.suffix else path / "one").write_text("made")
    dvc(folder, "commit", "--force", "--quiet", "dvc.yaml")
    return folder


STUDIES = {"quick", "full", "guides", "your_data"}


@pytest.mark.parametrize(
    ("touched", "stages"),
    [
        (None, set()),
        ("mtlkit/tasks.py", {*STUDIES, "claims"}),
        ("mtlkit/weighting/_slgrad.py", {*STUDIES, "claims"}),
        ("notebooks/companion/figures.py", {*STUDIES, "claims"}),
        ("notebooks/companion/claims/_papers.py", {*STUDIES, "claims"}),
        ("notebooks/alphavil.ipynb", {"source"}),
        (
            "build/source/label_noise.ipynb",
            {"source", "quick@label_noise", "full@label_noise_digits", "full@label_noise_mnist"},
        ),
        ("data/results/hydalearn_drift.parquet", {"full@hydalearn_drift"}),
        ("figures/synthetic/one", {"full@synthetic", "claims"}),
        ("params.yaml", {"quick@alphavil"}),
    ],
)
def test_a_change_runs_what_depends_on_it_and_nothing_else(tree, touched, stages):
    if touched is None:
        assert named(tree) == set()
        return
    path = tree / touched
    before = path.read_bytes()
    changed = before.replace(b"figures/quick/alphavil", b"elsewhere") if touched == "params.yaml" else before + b"\n"
    path.write_bytes(changed)
    try:
        found = named(tree)
    finally:
        path.write_bytes(before)
    every = dvc(tree, "stage", "list", "--name-only").split()
    assert found == {stage for stage in every if stages & {stage, stage.split("@")[0]}}
    assert found or not stages


def named(tree):
    """The stages that ``dvc repro --dry`` would run."""
    return set(re.findall(r"Running stage '([^']+)'", dvc(tree, "repro", "--dry")))
