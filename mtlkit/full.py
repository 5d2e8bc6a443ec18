"""Fill the stores of the studies at full scale: ``python -m mtlkit.full --help``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
import yaml

from mtlkit import notebook

BUILD = Path("build/full")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the notebooks with the parameters of params.yaml's section full, training what their stores lack."""
    parser = argparse.ArgumentParser(prog="python -m mtlkit.full", description=main.__doc__)
    parser.add_argument("names", nargs="*", help="entries of the section full; all of them if none")
    given = parser.parse_args(arguments)
    sections = yaml.safe_load(Path("params.yaml").read_text())["full"]
    try:
        os.nice(19)
        for name in given.names or sections:
            if name not in sections:
                raise ValueError(f"params.yaml has no full entry {name!r}, expected one of {', '.join(sections)}")
            section = sections[name]
            source = BUILD / name / "source.ipynb"
            notebook.write(notebook.stripped(nbformat.read(f"notebooks/{section['notebook']}.ipynb", 4)), source)
            values = {**section["parameters"], "missing": "train"}
            notebook.run(source, BUILD / name / "executed.ipynb", values, show=True)
            print(f"{name}: every run is in {values['store']}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
