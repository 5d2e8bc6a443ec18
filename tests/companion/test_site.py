from pathlib import Path

import nbformat
from companion.site._check import page_faults
from companion.site._pages import assemble
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def test_what_a_reader_would_stumble_over_is_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="top"></h1><a href="b.html#there">x</a><a href="b.html#gone">x</a><a href="none.html">x</a>'
        '<img src="p.png" alt="what it shows here"><img src="p.png" alt=""><script src="https://else/x.js"></script>'
        '<a href="https://else">x</a><a href="#top">x</a><a href="b.html?q=1">x</a>'
    )
    (tmp_path / "b.html").write_text('<p id="there"></p>')
    (tmp_path / "p.png").write_bytes(b"")
    assert list(page_faults(tmp_path)) == [
        "a.html: no alternative text for p.png",
        "a.html: loads https://else/x.js",
        "a.html: b.html#gone leads to no such place",
        "a.html: none.html leads nowhere",
    ]


def test_pages_keep_their_links_and_tell_their_pictures(tmp_path):
    root, source = tmp_path / "root", tmp_path / "source"
    for folder in ("notebooks", "data", "figures"):
        (root / folder).mkdir(parents=True)
    (root / "README.md").write_text(
        "[![alt](figures/f.svg)](notebooks/n.ipynb) [data](data) [file](requirements.txt) [away](https://x.org)"
    )
    for name in ("CONTRIBUTING.md", "data/README.md"):
        (root / name).write_text("[up](../README.md#what) [home](README.md)")
    (root / "figures/f.svg").write_text("<svg/>")
    (root / "requirements.txt").write_text("")
    says = "SLGrad comes lowest [0.1, 0.2]."
    output = new_output("display_data", data={"image/png": PIXEL, "text/plain": says})
    cells = [new_markdown_cell("[code](companion) [front](../README.md)"), new_code_cell("1", outputs=[output])]
    nbformat.write(new_notebook(cells=cells), root / "notebooks/n.ipynb")
    assemble(root, source)
    front = (source / "index.md").read_text()
    assert front.startswith(
        "[![alt](figures/f.svg)](notebooks/n.ipynb) data [file](requirements.txt) [away](https://x.org)"
    )
    assert (source / "figures/f.svg").exists()
    assert (source / "requirements.txt").exists()
    assert "[up](../index.md#what)" in (source / "data/README.md").read_text()
    book = nbformat.read(source / "notebooks/n.ipynb", 4)
    assert book.cells[0].source == "code [front](../index.md)"
    picture = book.cells[1].outputs[0].data["text/markdown"]
    assert picture == "![SLGrad comes lowest (0.1, 0.2).](n_1.png)"
    assert (source / "notebooks/n_1.png").exists()
    for name in ("notebooks/n", "api/mtlkit", "data/README", "CONTRIBUTING"):
        assert f"\n{name}\n" in front
        assert Path(source, name).with_suffix(".ipynb" if "/n" in name else ".md").exists() or name.startswith("api")
    assert ".. autoclass:: SLGrad" in (source / "api/mtlkit.md").read_text()
