"""Verdicts in texts are those of the claims table, in the words of its renderer; nobody types one."""

import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from companion import claims

ROOT = Path(__file__).parents[2]
VERDICT = re.compile("|".join(rf"\b{verdict}\b" for verdict in sorted(claims.VERDICTS, key=len, reverse=True)))
CLAIM = re.compile(rf"\b({'|'.join(sorted({claim.id for claim in claims.CLAIMS}))})\b")


def committed():
    """The claims table that the pipeline made."""
    return pd.read_csv(ROOT / "figures/claims/claims.csv", dtype=str, keep_default_na=False)


def texts(path):
    """What a reader of a file sees as text: Markdown, and the text of a notebook's stored outputs."""
    if path.suffix == ".md":
        yield path.read_text(encoding="utf-8")
        return
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "markdown":
            yield cell.source
        for output in cell.get("outputs", []):
            yield output.get("text", "")
            yield from (text for kind, text in output.get("data", {}).items() if kind.startswith("text/"))


def typed(text, table):
    """The sentences of a text that give a claim a verdict and are not the renderer's."""
    rendered = claims.short(table).to_markdown(), claims.readable(table, "..").to_markdown(), claims.sentences(table)
    lines = {line.strip() for part in rendered for line in part.splitlines()}
    others = [line for line in text.splitlines() if line.strip() not in lines]
    whole = re.compile(rf"\s*(\||- )\W*{CLAIM.pattern}")  # a row of a table, or of a list
    sentences = [s for line in others for s in ([line] if whole.match(line) else re.split(r"(?<=[.?!:;])\s", line))]
    return [sentence for sentence in sentences if CLAIM.search(sentence) and VERDICT.search(sentence)]


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "notebooks").glob("*.ipynb"))], ids=lambda path: path.name
)
def test_a_text_says_no_verdict_but_the_tables(path):
    found = [sentence for text in texts(path) for sentence in typed(text, committed())]
    assert not found, f"{path.name} gives verdicts that are not the claims table's: {found}"


def test_another_verdict_is_found_wherever_it_stands():
    table = committed()
    front, words = claims.short(table).to_markdown(), claims.sentences(table)
    assert typed(f"# Title\n\n{front}\n\n{words}", table) == []
    for text in (words, claims.readable(table, "..").to_markdown()):
        line = next(line for line in text.splitlines() if CLAIM.search(line) and "not reproduced" in line)
        assert typed(text.replace(line, line.replace("not reproduced", "reproduced")), table)
    assert typed("So S1 is reproduced on MNIST. H1 is a claim about static weights.", table) == [
        "So S1 is reproduced on MNIST."
    ]
    assert typed("| H2 | opposite |", table)
    assert typed("Does it beat static weights (H1)? The opposite would surprise.", table) == []


def test_outputs_and_markdown_of_notebooks_are_looked_at(tmp_path):
    cells = [nbformat.v4.new_markdown_cell("S1: reproduced"), nbformat.v4.new_code_cell("1")]
    cells[1].outputs = [
        nbformat.v4.new_output("stream", text="H1 is not reproduced"),
        nbformat.v4.new_output("display_data", {"text/markdown": "G2: **opposite**", "image/png": "S1 partly"}),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "one.ipynb")
    assert list(texts(tmp_path / "one.ipynb")) == ["S1: reproduced", "H1 is not reproduced", "", "G2: **opposite**"]
