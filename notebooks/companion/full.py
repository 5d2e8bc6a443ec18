"""Fill the stores of the studies at full scale, and check what is in them: ``python -m companion.full --help``."""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import torch
import yaml

import mtlkit
from companion import dynamics, notebook, published
from mtlkit import recipes
from mtlkit.datasets.drift import with_drift
from mtlkit.progress import progress
from mtlkit.results import Runs
from mtlkit.store import SETTINGS, Store
from mtlkit.training import fit

BUILD = Path("build/full")
RESULTS = Path("data/results")
SAME, TOLERANCE = 1e-5, 0.05
"""Relative differences in the test loss at the chosen epoch up to which a fit has the same digits, and counts as made
again in any case. On another processor sums have another order, and in thousands of steps rounding can grow until
another epoch is chosen: of single-precision convolutions at high rates, and of SLGrad, whose weights are cut off at
zero. Then a fit may differ from the stored one by as much as stored seeds of the same settings do among themselves."""


def fill(name: str, sections: dict[str, dict]) -> None:
    """Run a study's notebook with the parameters of one entry of params.yaml's section full.

    What its store lacks is trained; a finished fit is written at once, so that the run may be stopped at any moment.

    Raises:
        ValueError: no such entry.
    """
    if name not in sections:
        raise ValueError(f"params.yaml has no full entry {name!r}, expected one of {', '.join(sections)}")
    section = sections[name]
    source = BUILD / name / "source.ipynb"
    notebook.write_notebook(notebook.stripped(nbformat.read(f"notebooks/{section['notebook']}.ipynb", 4)), source)
    values = {**section["parameters"], "missing": "train"}
    notebook.run_notebook(source, BUILD / name / "executed.ipynb", values, show=True)
    print(f"{name}: every run is in {values['store']}")


def known() -> dict[str, object]:
    """Everything that a stored fit's recipes may name."""
    try:
        from torchjd import aggregation
    except ImportError:
        others = {}
    else:
        others = vars(aggregation)
    functions = {name: f for name, f in vars(mtlkit.models).items() if inspect.isfunction(f)}
    optimizers = {name: f for name, f in vars(torch.optim).items() if inspect.isclass(f)}
    ours = {"load": mtlkit.datasets.load, "with_drift": with_drift, "Schedule": dynamics.Schedule}
    # Ours last: torchjd has a RandomWeighting of its own.
    found = {**others, **vars(published), **optimizers, **functions, **ours, **vars(mtlkit)}
    return found | {"float32": torch.float32, "float64": torch.float64, "tensor": torch.tensor, "dict": dict}


def again(row: pd.Series) -> Runs:
    """Train a stored fit anew, beside the seed before: a seed alone sums in another order than one in a stack.

    Args:
        row: of a store's table; its settings, seed and cap.
    """
    names = known()
    data = recipes.make(row["data"], names)
    model = recipes.make(row["model"], {**names, "data": data})
    options = recipes.make(f"dict({row['options']})", names)
    weighting = recipes.make(row["weighting"], names)
    seed = int(row["seed"])
    seeds = [seed, seed - 1 if seed else 1]
    return fit(model, data, weighting, lr=row["lr"], epochs=int(row["epochs"]), seeds=seeds, **options)


def check(count: int, seed: int, paths: Sequence[Path]) -> tuple[int, list[str]]:
    """Draw stored fits at random, train them again and compare.

    Returns:
        how many have the same digits (:data:`SAME`), and a sentence for every fit that differs by more than
        :data:`TOLERANCE` allows, in the test loss at its chosen epoch.

    Raises:
        ValueError: no fits in these files.
    """
    stores = {path: Store(path) for path in paths}
    fits = [
        (path, row)
        for path, store in stores.items()
        for _, row in store.table[store.table["epochs"] > 0].drop_duplicates([*SETTINGS, "epochs", "seed"]).iterrows()
    ]
    if not fits:
        raise ValueError(f"no fits in {', '.join(map(str, paths)) or RESULTS}: fill it with make full")
    drawn = np.random.default_rng(seed).choice(len(fits), min(count, len(fits)), replace=False)
    same, found = 0, []
    torch.set_num_threads(1)
    for path, row in progress([fits[n] for n in drawn], "training stored fits again"):
        settings, cap, store = {name: row[name] for name in SETTINGS}, int(row["epochs"]), stores[path]
        losses = _chosen(store.runs(settings, cap, store.seeds(settings, cap), row["method"]))
        before, now = losses[row["seed"]], _chosen(again(row))[row["seed"]]
        among_seeds = np.ptp(losses[np.isfinite(losses)]) if np.isfinite(losses).any() else 0.0
        allowed = max(TOLERANCE * abs(before), among_seeds) if np.isfinite(before) else 0.0
        same += np.isclose(before, now, rtol=SAME, atol=0, equal_nan=True)
        if not np.isclose(before, now, rtol=0, atol=allowed, equal_nan=True):
            what = ", ".join(str(row[name]) for name in SETTINGS)
            found.append(f"{path}, seed {row['seed']}: test loss {before:.6g} stored, {now:.6g} now ({what})")
    return same, found


def _chosen(runs: Runs) -> pd.Series:
    """Seed to the main task's test loss at its chosen epoch."""
    rows = runs.final("selected")
    rows = rows[(rows["split"] == "test") & (rows["metric"] == "loss") & (rows["task"] == runs.main)]
    return rows.set_index("seed")["value"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m companion.full", description=__doc__)
    parser.add_argument("names", nargs="*", help="entries of params.yaml's section full; all of them if none")
    parser.add_argument("--check", type=int, metavar="N", help="train N stored fits again instead, and compare")
    parser.add_argument("--seed", type=int, default=0, help="draws the fits to check")
    given = parser.parse_args(arguments)
    try:
        if given.check is not None:
            same, found = check(given.check, given.seed, sorted(RESULTS.glob("*.parquet")))
            print(*found, f"{same} of {given.check} test losses have the same digits", sep="\n")
            print(f"{len(found)} differ by more than {TOLERANCE:.0%} and by more than seeds do")
            return 1 if found else 0
        os.nice(19)
        sections = yaml.safe_load(Path("params.yaml").read_text())["full"]
        for name in given.names or sections:
            fill(name, sections)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
