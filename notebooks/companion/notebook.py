"""Run, strip, store and check notebooks: ``python -m companion.notebook --help``."""

from __future__ import annotations

import argparse
import ast
import copy
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import nbformat
import pandas as pd
import papermill
import yaml
from nbformat import NotebookNode

from mtlkit.progress import LOG_LINES

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
RUNTIME = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "2147483647",
}
"""Environment of every run: one thread, so that sums have one order; glibc keeps freed memory, since getting
pages from the system anew took up to two fifths of a step."""

TOLERANCE = 2e-5
"""Relative difference up to which a number counts as the same on another processor: tables hold six
significant digits, and the last may round the other way."""


def canonical(notebook: NotebookNode) -> NotebookNode:
    """A copy without what differs from run to run: times, widgets, stderr, library versions."""
    notebook = copy.deepcopy(notebook)
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})
    for number, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags", [])
        cell.metadata = NotebookNode({"tags": tags} if tags else {})
        if "injected-parameters" in tags:
            cell.id = "injected-parameters"
        elif "id" not in cell:
            cell.id = f"cell-{number}"
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(_plain, cell.outputs) if output is not None]
    return notebook


def _plain(output: NotebookNode) -> NotebookNode | None:
    """An output without widget views, of its metadata the alternative texts; None if nothing of it may be stored."""
    if output.output_type == "stream" and output.name == "stderr":
        return None
    if "data" in output:
        if any("widget" in kind for kind in output.data):
            return None
        pictures = {kind: value for kind, value in output.metadata.items() if kind.startswith("image/")}
        output.metadata = NotebookNode(
            {kind: {"alt": value["alt"]} for kind, value in pictures.items() if "alt" in value}
        )
    return output


FINDING = re.compile(r"(<!-- finding: (\S+) -->\n).*?(<!-- end of finding -->)", re.DOTALL)
"""Marks in a Markdown cell, with the picture of the finding, between which a stored notebook tells what was found."""


def stripped(notebook: NotebookNode) -> NotebookNode:
    """The source alone: no outputs, no counts, no finding."""
    notebook = canonical(notebook)
    for cell in notebook.cells:
        cell.source = FINDING.sub(r"\1\3", cell.source)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def _told(notebook: NotebookNode) -> None:
    """Put what the cell tagged ``finding`` says first, and its picture, between the marks on top."""
    says = [
        output.data["text/markdown"]
        for cell in notebook.cells
        if "finding" in cell.metadata.get("tags", [])
        for output in cell.outputs
        if "text/markdown" in output.get("data", {})
    ]
    for cell in notebook.cells:
        if says and cell.cell_type == "markdown":
            alternative = says[0].replace("**", "")
            text = f"{says[0]}\n\n![{alternative}]".replace("\\", "\\\\")
            cell.source = FINDING.sub(rf"\1{text}(\2)\n\3", cell.source)


def storable(notebook: NotebookNode) -> NotebookNode:
    """An executed notebook as it is kept in ``notebooks/``: no injected cell, counts from 1, finding on top."""
    notebook = canonical(notebook)
    _told(notebook)
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    count = 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count
    return notebook


def parameters(path: Path) -> dict[str, object]:
    """Names and defaults of the notebook's parameters.

    Raises:
        ValueError: not exactly one cell is tagged ``parameters``, or a default is not a literal.
    """
    cells = [c for c in nbformat.read(path, 4).cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"{path}: {len(cells)} cells are tagged 'parameters', expected one")
    found = {}
    for node in ast.parse(cells[0].source).body:
        try:
            found[node.targets[0].id] = ast.literal_eval(node.value)
        except (AttributeError, ValueError):
            raise ValueError(f"{path}: parameters line {node.lineno} is not of the form name = literal") from None
    return found


def run_notebook(source: Path, target: Path, values: dict[str, object], show: bool = False) -> None:
    """Execute ``source`` with these parameters and write the canonical result to ``target``.

    The kernel runs in ``notebooks/`` (paths in a notebook are relative to it; without such a folder, to where the
    user is), with one thread. ``show`` passes on what it writes to stderr.

    Raises:
        ValueError: a parameter that the notebook does not have, or one that it refuses, in which case
            ``target`` ends with the reason (:class:`mtlkit.advice.Refused`).
        papermill.PapermillExecutionError: a cell failed; ``target`` then holds the traceback.
    """
    known = parameters(source)
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"{source}: no parameter {', '.join(unknown)}, expected some of {', '.join(known)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with mock.patch.dict(os.environ, RUNTIME):
            papermill.execute_notebook(
                str(source),
                str(target),
                parameters=values,
                kernel_name="python3",
                cwd="notebooks" if Path("notebooks").is_dir() else ".",
                record_timing=False,
                progress_bar=False,
                log_output=True,
                autosave_cell_every=0,
                request_save_on_cell_execute=False,
                extra_arguments=[LOG_LINES],
                stderr_file=sys.stderr if show else None,
            )
    except papermill.PapermillExecutionError as error:
        if error.ename != "Refused":
            raise
        raise ValueError(error.evalue) from None
    write_notebook(canonical(nbformat.read(target, 4)), target)


def write_notebook(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook with a stable layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.validate(notebook)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def faults(path: Path) -> list[str]:
    """What keeps a stored notebook from being tested and rendered."""
    notebook = nbformat.read(path, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = []
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("execution counts are not 1, 2, 3, ...: run all cells from the top and save")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("the kernel is not python3")
    if "widgets" in notebook.metadata or any(
        "widget" in kind for cell in code for output in cell.outputs for kind in output.get("data", {})
    ):
        found.append("it stores widgets, which do not render")
    if any(output.output_type == "error" for cell in code for output in cell.outputs):
        found.append("it stores an error")
    try:
        parameters(path)
    except ValueError as error:
        found.append(str(error))
    return found


def differences(old: str, new: str) -> Iterator[str]:
    """Cells in which two csv tables differ by more than :data:`TOLERANCE`."""
    before, after = (pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False) for text in (old, new))
    if before.columns.tolist() != after.columns.tolist() or len(before) != len(after):
        yield f"shape: {before.shape} committed, {after.shape} now, or other columns"
        return
    for row in range(len(before)):
        for column in before.columns:
            a, b = before.at[row, column], after.at[row, column]
            if a != b and not _close(a, b):
                yield f"row {row + 1} ({before.iat[row, 0]}), {column}: {a} committed, {b} now"


def _close(a: str, b: str) -> bool:
    """Whether all numbers in two texts agree to the tolerance, and the words between them exactly."""
    number = r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?"
    if re.split(number, a) != re.split(number, b):
        return False
    pairs = zip(re.findall(number, a), re.findall(number, b), strict=True)
    return all(abs(float(x) - float(y)) <= TOLERANCE * max(abs(float(x)), abs(float(y))) for x, y in pairs)


def verdict(folder: Path) -> tuple[str, bool]:
    """Compare what is in ``folder`` with what git has committed there.

    Returns:
        a sentence, and whether the results are the committed ones: identical bytes, or numbers
        within :data:`TOLERANCE`.
    """
    status = _git("status", "--porcelain", "--untracked-files=all", "--", str(folder))
    if status is None:
        return "git knows of no committed results here, so nothing was compared.", False
    if not status.strip():
        return f"Every file in {folder}/ is byte for byte the committed one.", True
    changed = [Path(line[3:].strip('"')) for line in status.splitlines()]
    found = []
    for path in changed:
        old = _git("show", f"HEAD:{path.as_posix()}")
        if old is None or not path.exists():
            found.append(f"{path}: {'not committed' if old is None else 'missing now'}")
        elif path.suffix == ".csv":
            found += [f"{path}: {difference}" for difference in differences(old, path.read_text())]
        elif path.suffix == ".md" and not _close(old, path.read_text()):
            found.append(f"{path}: the text differs, see git diff")
    if found:
        return "These results differ from the committed ones:\n  " + "\n  ".join(found), False
    names = ", ".join(path.name for path in changed)
    return f"Every number equals the committed one to a relative {TOLERANCE:g}; other bytes in: {names}.", True


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, encoding="utf-8", errors="replace", check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m companion.notebook", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("strip", help="write the sources of notebooks, without outputs, into a folder")
    command.add_argument("sources", type=Path, nargs="+")
    command.add_argument("folder", type=Path)
    for name, text in (
        ("store", "write an executed notebook as it is kept in notebooks/"),
        ("run", "execute a notebook with parameters"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("source", type=Path)
        command.add_argument("target", type=Path)
        if name == "run":
            command.add_argument("--section", help="section of params.yaml to take parameters from")
            command.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    command = commands.add_parser("check", help="say what is wrong with stored notebooks")
    command.add_argument("paths", type=Path, nargs="+")
    command = commands.add_parser("report", help="print the tables of a folder and compare it with the committed one")
    command.add_argument("folder", type=Path)
    given = parser.parse_args(arguments)
    try:
        return _COMMANDS[given.command](given)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _strip(given: argparse.Namespace) -> int:
    for source in given.sources:
        write_notebook(stripped(nbformat.read(source, 4)), given.folder / source.name)
    return 0


def _store(given: argparse.Namespace) -> int:
    write_notebook(storable(nbformat.read(given.source, 4)), given.target)
    return 0


def _run(given: argparse.Namespace) -> int:
    values = {}
    if given.section:
        sections = yaml.safe_load(Path("params.yaml").read_text())
        if given.section not in sections:
            raise ValueError(f"params.yaml has no section {given.section!r}, expected one of {', '.join(sections)}")
        values.update(sections[given.section])
    defaults = parameters(given.source)
    values.update({name: _value(value, defaults.get(name)) for name, value in given.p})
    run_notebook(given.source, given.target, values)
    return 0


def _value(text: str, default: object) -> object:
    """A parameter from the command line: YAML, but text where the default is text or the YAML would be no text."""
    if isinstance(default, str):
        return text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return text if isinstance(value, bool | dict) and not isinstance(default, type(value)) else value


def _check(given: argparse.Namespace) -> int:
    found = [f"{path}: {fault}" for path in given.paths for fault in faults(path)]
    print("\n".join(found) or f"{len(given.paths)} notebooks are in order")
    return 1 if found else 0


def _report(given: argparse.Namespace) -> int:
    for table in sorted(given.folder.rglob("*.md")):
        print(f"\n{table}\n\n{table.read_text()}")
    sentence, same = verdict(given.folder)
    print(sentence)
    return 0 if same else 1


_COMMANDS = {"strip": _strip, "store": _store, "run": _run, "check": _check, "report": _report}

if __name__ == "__main__":
    sys.exit(main())
