"""The three places that name packages cannot drift apart, and the house keeps its floors."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mtlkit

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = {
    canonicalize_name(line.split("==")[0]): line.split("==")[1]
    for line in (ROOT / "requirements.txt").read_text().splitlines()
    if line and not line.startswith("#")
}
FLOORS = {
    "mtlkit": [
        "stats", "progress", "memory", "recipes", "ranks", "workers", "tasks", "datasets", "models", "checkpoint",
        "gradients", "measure", "weighting", "step", "merging", "replay", "weigher", "keep", "results", "live", "store",
        "samples", "training", "estimator", "studies", "levels", "advice", "__main__",
    ],
    "companion": [
        "tables", "dynamics", "paired", "published", "methods", "claims", "figures", "architectures", "show", "recipe",
        "noise", "speed", "notebook", "full", "site",
    ],
}  # fmt: skip
"""The two rooms, each from the ground up; the companion stands on mtlkit."""
ROOMS = {"mtlkit": ROOT / "mtlkit", "companion": ROOT / "notebooks" / "companion"}


def declared():
    lines = PROJECT["dependencies"] + [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("requirement", declared(), ids=lambda r: r.name)
def test_the_lock_holds_what_the_project_declares(requirement):
    pinned = LOCK.get(canonicalize_name(requirement.name))
    assert pinned, f"{requirement.name} is declared in pyproject.toml but not pinned in requirements.txt"
    assert requirement.specifier.contains(pinned)


def test_the_lock_pins_exact_public_versions():
    lines = [x for x in (ROOT / "requirements.txt").read_text().splitlines() if x and not x.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line) for line in lines)
    assert LOCK["torch"] == "2.13.0"


def test_the_conda_environment_is_the_lock_and_the_package():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, packages = conda["dependencies"]
    assert conda["name"] == PROJECT["name"] == "mtlkit"
    assert pip == "pip"
    assert packages == {"pip": ["-r requirements.txt", "-e ."]}
    assert re.fullmatch(r"python=3\.1[123]", python)


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert mtlkit.__version__ == PROJECT["version"] == citation["version"]
    assert PROJECT["requires-python"] == ">=3.11"
    assert "torch>=2.11" in PROJECT["dependencies"]
    assert len(citation["references"]) == 4


def imports(path):
    """Room and floor of everything that a module imports from either room."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (tuple(name.split(".")[:2]) for name in names if name.split(".")[0] in ROOMS and "." in name)


MODULES = sorted(p for room in ROOMS.values() for p in room.rglob("*.py") if p.parent != room or p.stem != "__init__")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: "/".join(p.parts[-2:]))
def test_a_module_imports_only_from_the_floors_below_its_own(path):
    room = "companion" if "companion" in path.parts else "mtlkit"
    own = path.relative_to(ROOMS[room]).parts[0].removesuffix(".py")
    assert own in FLOORS[room]
    for where, other in set(imports(path)) - {(room, own)}:
        if where == room and other in FLOORS[room]:
            assert FLOORS[room].index(other) < FLOORS[room].index(own), f"{own} imports {other}, which is above it"
        else:
            assert where == "mtlkit", f"{own} imports {other} of the {where}"


def test_mtlkit_brings_nothing_that_only_the_studies_need():
    code = "import sys, mtlkit; print(*{name.partition('.')[0] for name in sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"matplotlib", "papermill", "nbformat", "dvc", "IPython", "companion"} & set(found)


def test_nothing_is_downloaded_or_opened_at_import():
    code = "import socket; socket.socket.connect = None; import mtlkit"
    subprocess.run([sys.executable, "-c", code], check=True)


CHECKED = [
    found
    for found in vars(mtlkit.weighting).values()
    if inspect.isclass(found) and found is not mtlkit.weighting.Weighting and "__post_init__" in vars(found)
]


@pytest.mark.parametrize("weighting", CHECKED, ids=lambda found: found.__name__)
def test_a_weighting_that_checks_its_options_says_so(weighting):
    assert "Raises:" in weighting.__doc__
