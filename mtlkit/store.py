"""Runs that are done, kept: one Parquet file a study, a row per fit, seed, epoch and metric.

A fit is found again by what it is made of (:data:`SETTINGS`), written as recipes (:mod:`mtlkit.recipes`), so
that a change of the library's code is not noticed: ``make check-result`` trains stored fits again and compares.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import mtlkit
from mtlkit.results import Runs

VERSION = b"1"
SETTINGS = ["data", "model", "weighting", "options", "lr"]
"""Columns that say what a fit is made of; ``options`` are those of :func:`mtlkit.training.fit` that change numbers."""

_MADE = ["device", "date", "commit", "versions"]
_ROWS = ["method", "seed", "epochs", "diverged", "epoch", "split", "task", "metric", "value"]
COLUMNS = [*SETTINGS, *_MADE, *_ROWS]
"""All columns. ``epochs``: the cap under which a seed was trained; ``method``: what it was called then."""

FEW = 5
"""Up to so many tasks, the weights of all of them are kept."""
DIGITS = 6
"""Significant digits that are kept of every value."""


class Store:
    """The file of one study.

    Every :meth:`add` replaces the file at once, under a lock, so that a process may be killed at any moment
    and several may write.

    Args:
        path: need not exist yet.

    Raises:
        ValueError: a damaged file, or one of another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._hold(self._read())

    def _hold(self, table: pd.DataFrame) -> None:
        self.table = table
        self.places = table.groupby(SETTINGS, observed=True, sort=False).indices

    def _read(self) -> pd.DataFrame:
        if not self.path.exists():
            return pd.DataFrame(columns=COLUMNS)
        try:
            # One look at the file: by its path it would be opened twice, and might be replaced in between.
            found = pq.read_table(pa.BufferReader(self.path.read_bytes()))
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{self.path} is damaged ({error}): restore it, for instance with git checkout") from None
        version = (found.schema.metadata or {}).get(b"mtlkit store")
        if version != VERSION:
            raise ValueError(
                f"{self.path} is a store of version {(version or b'none').decode()}, expected {VERSION.decode()}: "
                "move it away, or use the mtlkit that wrote it"
            )
        return found.to_pandas()

    def seeds(self, settings: dict[str, object], epochs: int) -> list[int]:
        """The seeds whose run with these settings and a cap of ``epochs`` is there."""
        return self._done(settings, epochs)["seed"].unique().tolist()

    def _done(self, settings: dict[str, object], epochs: int) -> pd.DataFrame:
        """The rows of a fit. A seed that was finished before an earlier cap would have done the same under this one."""
        at = self.places.get(tuple(settings[name] for name in SETTINGS), [])
        rows = self.table.iloc[at]
        last = rows.groupby(["seed", "epochs"], observed=True)["epoch"].transform("max")
        usable = (rows["epochs"] == epochs) | ((last < rows["epochs"]) & (last <= epochs))
        rows = rows[usable]
        return rows[rows["epochs"] == rows.groupby("seed")["epochs"].transform("min")]

    def runs(self, settings: dict[str, object], epochs: int, seeds: Sequence[int], method: str) -> Runs:
        """The stored runs of these seeds, in this order, without models and samples.

        Args:
            method: what the frame calls them.
        """
        rows = self._done(settings, epochs)
        rows = rows[rows["seed"].isin(list(seeds))]
        rows = rows.sort_values("seed", kind="stable", key=lambda s: s.map(list(seeds).index), ignore_index=True)
        first = rows.iloc[0]
        frame = rows[["seed", "epoch", "split", "task", "metric", "value", "diverged"]]
        frame = frame.assign(split=frame["split"].astype(str), metric=frame["metric"].astype(str))
        frame = frame.assign(task=frame["task"].astype(str))
        frame = frame.astype({"seed": int, "epoch": int, "value": float})
        frame.insert(0, "method", method)
        name = re.search(r"load\('([^']+)'", first["data"])
        frame.insert(0, "dataset", name[1] if name else first["data"])
        losses = frame[frame["metric"] == "loss"]
        select_from = re.search(r"select_from=(\d+)", first["options"])
        return Runs(frame, pd.DataFrame(), losses["task"].iloc[0], {}, int(select_from[1]) if select_from else 1)

    def add(self, settings: dict[str, object], epochs: int, runs: Runs) -> None:
        """Write runs to the file: all of the main task, but its training loss only at the first, the selected and
        the last epoch; where tasks are few, of the others all but the losses and the weights' spread.

        A seed that another process has written meanwhile stays as it is.
        """
        frame = runs.frame
        kept = frame[_worth_keeping(frame, runs)]
        rows = kept.drop(columns="dataset").assign(epochs=epochs, **settings, **provenance())[COLUMNS]
        rows = rows.assign(value=_rounded(rows["value"].to_numpy()))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.path.with_suffix(".lock")):
            there = self._read()
            same = (there["epochs"] == epochs) & (there[SETTINGS] == pd.Series(settings)[SETTINGS]).all(axis=1)
            rows = rows[~rows["seed"].isin(there.loc[same, "seed"])]
            self._write(pd.concat([there, rows], ignore_index=True) if len(there) else rows)

    def _write(self, table: pd.DataFrame) -> None:
        kinds = {"seed": "int32", "epochs": "int32", "epoch": "int32", "value": "float32", "diverged": "bool"}
        texts = {name: "category" for name in COLUMNS if name not in kinds and name != "lr"}
        order = [*SETTINGS, "epochs", "seed"]
        table = table.sort_values(order, kind="stable", ignore_index=True).astype(kinds)
        table = table.astype({name: str for name in texts}).astype(texts)
        packed = pa.Table.from_pandas(table, preserve_index=False)
        packed = packed.replace_schema_metadata({**packed.schema.metadata, b"mtlkit store": VERSION})
        part = self.path.with_suffix(".part")
        streams = {"value": "BYTE_STREAM_SPLIT"}
        options = {"compression": "zstd", "compression_level": 12, "column_encoding": streams}
        pq.write_table(packed, part, use_dictionary=[c for c in COLUMNS if c != "value"], **options)
        os.replace(part, self.path)
        self._hold(table)


def _worth_keeping(frame: pd.DataFrame, runs: Runs) -> pd.Series:
    """Which rows go to the file: of the main task what decides and what is drawn, of few others what is drawn."""
    main, training = frame["task"] == runs.main, (frame["metric"] == "loss") & (frame["split"] == "train")
    if training.any():
        ends = frame["epoch"] == frame["seed"].map(runs.selected())
        ends |= (frame["epoch"] == 0) | (frame["epoch"] == frame.groupby("seed")["epoch"].transform("max"))
        main &= ends | ~training
    few = frame["task"].nunique() <= FEW
    return main | (few & ~frame["metric"].isin(["loss", "weight_sd"]))


def _rounded(values: np.ndarray) -> np.ndarray:
    """Values to :data:`DIGITS` significant digits."""
    size = np.floor(np.log10(np.abs(values), where=np.isfinite(values) & (values != 0), out=np.zeros(len(values))))
    scale = 10.0 ** (DIGITS - 1 - size)
    return np.where(np.isfinite(values), np.round(values * scale) / scale, values)


def provenance() -> dict[str, str]:
    """What the numbers of a run come from: device, date (UTC), commit, versions.

    A commit that ends in ``-dirty`` had changes, other than to stores, that were not committed.
    """
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU {platform.machine()}"
    try:
        changes = _git("status", "--porcelain", "--untracked-files=no", "--", ":(top)", ":(top,exclude)data/results")
        commit = _git("rev-parse", "--short", "HEAD") + ("-dirty" if changes else "")
    except (FileNotFoundError, subprocess.CalledProcessError):
        commit = "unknown"
    versions = {"mtlkit": mtlkit.__version__, "torch": torch.__version__, "python": platform.python_version()}
    return {
        "device": device,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit,
        "versions": " ".join(f"{package} {version}" for package, version in versions.items()),
    }


def _git(*arguments: str) -> str:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()
