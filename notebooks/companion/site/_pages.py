"""What Sphinx reads: the README, the notebooks with their outputs, and a page of docstrings per module."""

from __future__ import annotations

import base64
import importlib
import os
import re
import shutil
import types
from pathlib import Path
from urllib.parse import unquote

import nbformat
from nbformat import NotebookNode

HERE = Path(__file__).parent
SECTIONS = {
    "What we found": ("claims",),
    "Studies": (
        "label_noise", "clean_rows", "published_baselines", "toy_regression", "hydalearn_drift", "alphavil",
        "loss_weighting_comparison", "speed",
    ),
    "Guides": ("your_data", "your_model", "methods", "add_a_method"),
}  # fmt: skip
"""Captions of the contents to notebooks; a notebook that is not named here comes last."""
MODULES = {
    "mtlkit": "Methods, fit, Weigher, results",
    "mtlkit.models": "Models",
    "mtlkit.datasets": "Data sets",
    "mtlkit.studies": "Fair comparisons",
    "mtlkit.levels": "Floors",
}
"""Module to the title of its page."""
NO_LINK = "\0"
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")


def assemble(root: Path, source: Path) -> None:
    """Lay out what Sphinx reads, in the folders of the project, so that its relative links hold."""
    shutil.rmtree(source, ignore_errors=True)
    (source / "_static").mkdir(parents=True)
    shutil.copy(HERE / "conf.py", source)
    shutil.copy(HERE / "pages.css", source / "_static")
    notebooks = sorted(path.relative_to(root) for path in (root / "notebooks").rglob("*.ipynb") if _shown(path))
    pages = {Path("README.md"), Path("CONTRIBUTING.md"), Path("data/README.md"), *notebooks}
    for page in pages:
        target = source / ("index.md" if page == Path("README.md") else page)
        target.parent.mkdir(parents=True, exist_ok=True)
        if page.suffix == ".md":
            text = _linked((root / page).read_text(encoding="utf-8"), page, pages, root, source)
            target.write_text(text + _contents(notebooks) * (page == Path("README.md")), encoding="utf-8")
        else:
            nbformat.write(_readable(nbformat.read(root / page, 4), page, pages, root, source), target)
    for module, title in MODULES.items():
        _api(source / "api" / f"{module}.md", module, title)


def _shown(path: Path) -> bool:
    return ".ipynb_checkpoints" not in path.parts


def _contents(notebooks: list[Path]) -> str:
    named = [name for names in SECTIONS.values() for name in names]
    further = [str(path.with_suffix("")) for path in notebooks if path.stem not in named]
    listed = {caption: [f"notebooks/{name}" for name in names] for caption, names in SECTIONS.items()}
    listed["Studies"] += further
    listed["Reference"] = [*(f"api/{module}" for module in MODULES), "data/README", "CONTRIBUTING"]
    tree = "\n\n```{{toctree}}\n:hidden:\n:caption: {}\n{}\n```"
    return "".join(tree.format(caption, "\n".join(names)) for caption, names in listed.items())


def _linked(text: str, page: Path, pages: set[Path], root: Path, source: Path) -> str:
    """The text with its links as Sphinx needs them; a file beside the pages is copied, a folder loses its link."""

    def link(found: re.Match) -> str:
        target = Path(os.path.normpath(page.parent / unquote(found[1])))
        if target == Path("README.md"):
            return f"]({os.path.relpath('index.md', page.parent)}{found[2] or ''})"
        if target in pages:
            return found[0]
        if not (root / target).is_file():
            return "]" + NO_LINK
        (source / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / target, source / target)
        return found[0]

    return re.sub(rf"\[([^\[\]]*)\]{NO_LINK}", r"\1", LINK.sub(link, text))


def _readable(notebook: NotebookNode, page: Path, pages: set[Path], root: Path, source: Path) -> NotebookNode:
    """A notebook whose pictures are files with an alternative text: the output's text/plain (:mod:`companion.show`)."""
    number = 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _linked(cell.source, page, pages, root, source)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                number += 1
                name = f"{page.stem}_{number}.png"
                (source / page.parent).mkdir(parents=True, exist_ok=True)
                (source / page.parent / name).write_bytes(base64.b64decode(data["image/png"]))
                says = re.sub(r"\s+", " ", data.get("text/plain", "")).replace("[", "(").replace("]", ")")
                output.data = {"text/markdown": f"![{says}]({name})"}
            elif "text/markdown" in data:
                output.data = {"text/markdown": _linked(data["text/markdown"], page, pages, root, source)}
    return notebook


def _api(path: Path, name: str, title: str) -> None:
    """A page with the docstrings of a module's public names."""
    module = importlib.import_module(name)
    blocks = [f".. currentmodule:: {name}\n"]
    for public in getattr(module, "__all__", None) or _own(module):
        value = getattr(module, public)
        if isinstance(value, type):
            hidden = ", ".join(
                n for n in dir(value) if n.startswith("set_") and n.endswith("_request")
            )  # scikit-learn's
            blocks.append(f".. autoclass:: {public}\n   :members:\n   :exclude-members: {hidden}\n")
        elif callable(value):
            blocks.append(f".. autofunction:: {public}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# {title}: `{name}`\n\n```{{eval-rst}}\n" + "\n".join(blocks) + "```\n", encoding="utf-8")


def _own(module: types.ModuleType) -> list[str]:
    found = vars(module).items()
    return [n for n, v in found if not n.startswith("_") and callable(v) and v.__module__ == module.__name__]
