"""What the README shows runs, and what it points to is there."""

import json
import re
from itertools import cycle
from pathlib import Path

import pytest
import torch
from torch import nn

import mtlkit as mtl
from mtlkit.merging import Merging
from mtlkit.weighting import Weighting

ROOT = Path(__file__).parent.parent
YOUR_MODEL = ROOT / "notebooks/your_model.ipynb"
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


@pytest.mark.parametrize("sign", "+-")
def test_its_loop_runs_with_and_without_weights(sign):
    [block] = re.findall(r"```diff\n(.*?)```", TEXT, re.DOTALL)
    assert block in "".join("".join(c["source"]) for c in json.loads(YOUR_MODEL.read_text())["cells"])
    code = "\n".join(line[1:] for line in block.splitlines() if line[0] in {" ", sign})
    model = nn.Module()
    model.trunk, model.heads = nn.Linear(3, 4), nn.ModuleDict({"income": nn.Linear(4, 1), "age": nn.Linear(4, 1)})
    model.forward = lambda x: {name: head(model.trunk(x)) for name, head in model.heads.items()}
    before = [p.clone() for p in model.parameters()]
    batch = torch.randn(5, 3), {"income": torch.ones(5), "age": torch.ones(5)}
    names = {
        "model": model,
        "torch": torch,
        "mtl": mtl,
        "cycle": cycle,
        "train_loader": [batch],
        "meta_loader": [batch],
    }
    names["losses"] = lambda outputs, y: {name: (outputs[name][:, 0] - y[name]).square().mean() for name in y}
    names["tasks"], names["lr"] = [mtl.Task("income", "binary"), mtl.Task("age", "regression")], 0.01
    exec(compile(code, "README.md", "exec"), names)
    assert any((p != q).any() for p, q in zip(model.parameters(), before, strict=True))


def test_its_methods_table_names_every_method():
    found = [name for name in mtl.__all__ if isinstance(getattr(mtl, name), type)]
    methods = [name for name in found if issubclass(getattr(mtl, name), Weighting | Merging)]
    assert len(methods) > 20
    for name in methods:
        assert re.search(rf"^\| `{name}\b", TEXT, re.MULTILINE), name
