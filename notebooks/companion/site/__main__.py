"""Build the pages and check them: ``python -m companion.site build/site``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from sphinx.cmd.build import build_main

from companion.site._check import page_faults
from companion.site._pages import assemble


def main(folder: Path) -> int:
    """Assemble, build, check."""
    source, pages = folder / "source", folder / "pages"
    assemble(Path(), source)
    shutil.rmtree(pages, ignore_errors=True)
    if build_main(["-q", "-b", "html", "-d", str(folder / "trees"), str(source), str(pages)]):
        return 1
    found = list(page_faults(pages))
    print("\n".join(found) or f"{len(list(pages.rglob('*.html')))} pages are in order: open {pages / 'index.html'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
