"""Run studies at paper scale and keep their results in ``data/reference``: ``python -m mtlkit.paper --help``."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
import pandas as pd
import torch
import yaml

import mtlkit
from mtlkit import notebook

BUILD = Path("build/paper")
"""One folder per study: the fits that are done (``cache``), the executed notebook and everything it writes."""

REFERENCE = Path("data/reference")


def up_to_date(name: str, section: Mapping[str, object]) -> bool:
    """Whether ``data/reference`` holds this study's results for exactly these parameters."""
    beside = REFERENCE / f"{name}.yaml"
    return (REFERENCE / f"{name}.csv").exists() and beside.exists() and yaml.safe_load(beside.read_text()) == section


def run(name: str, section: Mapping[str, object]) -> Path:
    """Execute a study's notebook and write its per-seed numbers with their provenance to ``data/reference``.

    Fits that an earlier, interrupted run has finished are taken from ``build/paper``. Beside
    ``<name>.csv`` lies ``<name>.yaml``, the section it was run with.

    Args:
        name: of the results.
        section: ``notebook`` (its name) and ``parameters`` (what differs from the notebook's defaults).

    Returns:
        path of the csv file.

    Raises:
        ValueError: a parameter that the notebook does not have, or a notebook that writes no per-seed table.
        papermill.PapermillExecutionError: a cell failed.
    """
    study, folder = section["notebook"], BUILD / name
    made = provenance()
    source = folder / "source.ipynb"
    notebook.write(notebook.stripped(nbformat.read(f"notebooks/{study}.ipynb", 4)), source)
    paths = {"out": str(Path("..", folder, "results")), "cache": str(Path("..", folder, "cache"))}
    table = folder / "results" / f"{study}_per_seed.csv"
    table.unlink(missing_ok=True)
    notebook.run(source, folder / "executed.ipynb", {**section["parameters"], **paths})
    if not table.exists():
        raise ValueError(
            f"{study} did not write {table.name} into its folder out, expected a table of per-seed numbers"
        )
    REFERENCE.mkdir(parents=True, exist_ok=True)
    target = REFERENCE / f"{name}.csv"
    pd.read_csv(table, dtype={"value": str}).assign(**made).to_csv(target, index=False, lineterminator="\n")
    target.with_suffix(".yaml").write_text(yaml.safe_dump(dict(section), sort_keys=False), encoding="utf-8")
    return target


def provenance() -> dict[str, str]:
    """What the numbers of a run come from: device, date (UTC), commit, versions.

    A commit that ends in ``-dirty`` had changes that were not committed.
    """
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU {platform.machine()}"
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        commit = "unknown"
    versions = {"mtlkit": mtlkit.__version__, "torch": torch.__version__, "python": platform.python_version()}
    return {
        "device": device,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit,
        "versions": " ".join(f"{package} {version}" for package, version in versions.items()),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m mtlkit.paper", description=__doc__)
    parser.add_argument("names", nargs="*", help="which entries of params.yaml's section paper; all of them if none")
    given = parser.parse_args(arguments)
    sections = yaml.safe_load(Path("params.yaml").read_text())["paper"]
    try:
        for name in given.names or sections:
            if name not in sections:
                raise ValueError(f"params.yaml has no paper entry {name!r}, expected one of {', '.join(sections)}")
            if up_to_date(name, sections[name]):
                print(f"{REFERENCE / name}.csv is there for these parameters")
            else:
                print(f"{run(name, sections[name])} written")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
