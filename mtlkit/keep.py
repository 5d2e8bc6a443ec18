"""What a file of runs holds: tensors, numbers and text, so that ``torch.load(path, weights_only=True)`` reads it."""

from __future__ import annotations

import dataclasses
import os
import pickle
import platform
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import mtlkit
from mtlkit import models, recipes
from mtlkit.datasets import Dataset
from mtlkit.datasets.base import blank
from mtlkit.datasets.tabular import Column, Encoder
from mtlkit.models import MultiTaskModel
from mtlkit.tasks import Task

FORMAT, VERSION = "mtlkit runs", 1


def write_file(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Put ``content`` into a file, which replaces one that is there at once or not at all."""
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    versions = f"mtlkit {mtlkit.__version__} torch {torch.__version__} python {platform.python_version()}"
    try:
        torch.save({"format": FORMAT, "version": VERSION, "versions": versions, **content}, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_file(path: str | os.PathLike, formats: Sequence[str] = (FORMAT,)) -> dict[str, Any]:
    """The content of a file that :func:`write_file` made.

    Args:
        formats: what it may be.

    Raises:
        ValueError: a damaged file, another kind of file, or one of another version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if (broken := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"bad checksum of {broken}")
        content = torch.load(path, map_location="cpu", weights_only=True)
        found = content["format"]
    except (
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
        EOFError,
        pickle.UnpicklingError,
        LookupError,
        TypeError,
    ) as e:
        raise ValueError(f"{path} is damaged or something else, expected a file that Runs.save wrote") from e
    if found not in formats:
        raise ValueError(f"{path} holds {found!r}, expected {' or '.join(map(repr, formats))}")
    if content["version"] != VERSION:
        raise ValueError(
            f"{path} is of version {content['version']} (written by {content['versions']}), expected {VERSION}"
        )
    return content


def pack_frame(frame: pd.DataFrame) -> dict[str, Any]:
    """A frame of numbers and text, column by column: a tensor, or codes, the texts, and whether it is categorical."""
    packed: dict[str, Any] = {}
    for name, column in frame.items():
        if pd.api.types.is_numeric_dtype(column):
            packed[name] = torch.tensor(column.to_numpy())
        else:
            found = column.astype("category").cat
            categorical = isinstance(column.dtype, pd.CategoricalDtype)
            packed[name] = [torch.tensor(found.codes.to_numpy()), found.categories.tolist(), categorical]
    return packed


def unpack_frame(packed: Mapping[str, Any]) -> pd.DataFrame:
    """The frame that :func:`pack_frame` took apart."""

    def column(codes: torch.Tensor, texts: list[str], categorical: bool) -> pd.Series:
        if categorical:
            return pd.Series(pd.Categorical.from_codes(codes.numpy(), texts))
        return pd.Series(np.asarray(texts, dtype=object)[codes.numpy()].tolist())

    return pd.DataFrame({name: v.numpy() if isinstance(v, torch.Tensor) else column(*v) for name, v in packed.items()})


def pack_data(data: Dataset) -> dict[str, Any]:
    """The outline of a data set (:meth:`mtlkit.datasets.Dataset.outline`), for ``json.dumps``.

    Raises:
        ValueError: a column or category that is neither text nor number.
    """
    packed = {name: getattr(data, name) for name in ("name", "source", "licence", "recipe")}
    packed |= {name: list(getattr(data, name).items()) for name in ("categories", "classes", "scale")}
    packed["tasks"] = [dataclasses.asdict(task) for task in data.tasks]
    packed["shape"] = list(data.train.x.shape[1:])
    packed["targets"] = {name: list(y.shape[1:]) for name, y in data.train.y.items()}
    if isinstance(data.encoder, Encoder):
        packed["columns"] = [_plain_column(column) for column in data.encoder.columns]
        packed["fitted"] = [getattr(data.encoder, name).tolist() for name in ("mean", "sd", "flagged")]
        packed["shown"] = [mask.tolist() for mask in data.encoder.shown]
    return packed


def _plain_column(column: Column) -> list:
    values = column.values and [v.item() if isinstance(v, np.generic) else v for v in column.values]
    for value in (column.name, *(values or ())):
        if not isinstance(value, str | int | float):
            raise ValueError(
                f"column {column.name!r} has {value!r} ({type(value).__name__}), expected text or numbers in what is "
                "to be saved"
            )
    return [column.name, column.kind, values]


def unpack_data(packed: Mapping[str, Any]) -> Dataset:
    """The outline that :func:`pack_data` took apart."""
    options: dict[str, Any] = {name: packed[name] for name in ("source", "licence", "recipe")}
    options |= {name: {key: value for key, value in packed[name]} for name in ("categories", "classes", "scale")}
    options["classes"] = {name: tuple(classes) for name, classes in options["classes"].items()}
    options["scale"] = {name: tuple(scale) for name, scale in options["scale"].items()}
    if "columns" in packed:
        columns = tuple(Column(name, kind, values and tuple(values)) for name, kind, values in packed["columns"])
        mean, sd, flagged = packed["fitted"]
        mean, sd = (torch.tensor(v, dtype=torch.float64) for v in (mean, sd))
        shown = tuple(map(torch.tensor, packed["shown"]))
        options["encoder"] = Encoder(columns, mean, sd, torch.tensor(flagged, dtype=torch.bool), shown)
    tasks = tuple(Task(**task) for task in packed["tasks"])
    row = blank(tasks, packed["shape"], packed.get("targets", {}))
    return Dataset(packed["name"], tasks, row, row, row, **options)


def model_of(recipe: str, data: Dataset) -> MultiTaskModel | None:
    """The model that a recipe makes for a data set; None where no recipe is there or it is not one of ours."""
    known = {name: getattr(models, name) for name in models.__all__}
    try:
        return recipes.make(recipe, {**known, "data": data})
    except (TypeError, ValueError, ImportError, OSError):
        return None
