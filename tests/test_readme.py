"""What the README shows runs, and what it points to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_its_python_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 2
    names = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, page, "exec"), names)


def test_its_links_lead_somewhere():
    targets = set(re.findall(r"\]\(([^)#:]+)\)", TEXT))
    assert len(targets) > 5
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_its_commands_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    commands = set(re.findall(r"`make (\w+)`", TEXT)) | set(re.findall(r"^make (\w+)", TEXT, re.MULTILINE))
    assert {"reproduce", "test", "lab"} <= commands
    for command in commands:
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), command


def test_its_methods_table_names_every_method():
    import mtlkit as mtl
    from mtlkit.merging import Merging
    from mtlkit.weighting import Weighting

    found = [name for name in mtl.__all__ if isinstance(getattr(mtl, name), type)]
    methods = [name for name in found if issubclass(getattr(mtl, name), Weighting | Merging)]
    assert len(methods) > 20
    for name in methods:
        assert re.search(rf"^\| `{name}\b", TEXT, re.MULTILINE), name
