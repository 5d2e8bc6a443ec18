"""NYUv2 in the folder layout of LibMTL: segmentation, depth and surface normals of indoor scenes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mtlkit.datasets.base import Dataset, Split, check_sizes, main_first
from mtlkit.datasets.files import folders
from mtlkit.tasks import Task

TASKS = {
    "segmentation": Task("segmentation", "multiclass", n_classes=13),
    "depth": Task("depth", "regression"),
    "normals": Task("normals", "regression"),
}
PARTS = ("image", "label", "depth", "normal")


def nyuv2(*, main: str = "segmentation", root: str | Path | None = None, n_meta: int = 100, seed: int = 0) -> Dataset:
    """Three dense tasks on 795 + 654 images, from the preprocessed files that LibMTL uses.

    The files are not downloaded: they take several GB. Expected are the folders ``train`` and
    ``val`` below ``root``, each with ``image``, ``label``, ``depth`` and ``normal``, and in those
    ``0.npy``, ``1.npy``, ... of shapes (H, W, 3), (H, W), (H, W, 1) and (H, W, 3), as published
    288 x 384. Everything is held in memory, 4 bytes a number (segmentation 1): about 8 MB an image.

    Inputs are (3, H, W). Targets are (H, W) classes 0 to 12, (1, H, W) depths and (3, H, W) unit normals. A pixel
    without a class (-1), depth (0) or normal (all 0) is missing; an image's loss is the mean over its known pixels.
    Regression tasks have the squared error, where LibMTL takes the absolute error for depth and the cosine for normals.

    Each seed draws the meta split from ``train``; ``val`` is the test split, numbered after the training images.

    Args:
        main: the main task.
        root: the folder; ``nyuv2`` in the data or cache folder when None.

    Raises:
        ValueError: an unknown task, an empty split, files of unequal shapes, a class out of range.
        FileNotFoundError: a folder or file is missing.
    """
    order = main_first(tuple(TASKS), main)
    candidates = [folder / "nyuv2" for folder in folders()] if root is None else [Path(root)]
    found = next((folder for folder in candidates if (folder / "train" / "image").is_dir()), None)
    if found is None:
        raise FileNotFoundError(
            f"no NYUv2 at {' or '.join(map(str, candidates))}, expected train/image/0.npy and so on below it; "
            "download the preprocessed files as LibMTL's NYUv2 example says, and pass their folder as root"
        )
    numbers = {part: _image_numbers(found / part) for part in ("train", "val")}
    n = len(numbers["train"])
    check_sizes(n - 1, n_meta=n_meta)
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    train, meta = (
        _images(found / "train", [numbers["train"][row] for row in rows], rows, order)
        for rows in drawn.split([n - n_meta, n_meta])
    )
    return Dataset(
        "nyuv2",
        tuple(TASKS[name] for name in order),
        train,
        meta,
        _images(found / "val", numbers["val"], n + torch.arange(len(numbers["val"])), order),
        source="NYU Depth v2 (Silberman et al. 2012), preprocessed by Liu et al. (arXiv 1803.10704)",
        licence="none stated",
    )


def _image_numbers(folder: Path) -> list[int]:
    """The numbers of the images in a folder, of which all four files must be there."""
    found = sorted(int(path.stem) for path in (folder / "image").glob("*.npy"))
    if not found:
        raise FileNotFoundError(f"no image in {folder / 'image'}, expected 0.npy and so on")
    for part in PARTS:
        for number in found:
            if not (folder / part / f"{number}.npy").is_file():
                raise FileNotFoundError(f"no file {folder / part / f'{number}.npy'}, expected one for every image")
    return found


def _images(folder: Path, numbers: Sequence[int], rows: Tensor, order: Sequence[str]) -> Split:
    def load(part: str) -> Tensor:
        first, *others = (np.load(folder / part / f"{n}.npy", allow_pickle=False) for n in numbers)
        for number, other in zip(numbers[1:], others, strict=True):
            if other.shape != first.shape:
                raise ValueError(f"{folder / part / f'{number}.npy'} has shape {other.shape}, expected {first.shape}")
        whole = torch.from_numpy(np.stack([first, *others]))
        return whole if part == "label" else whole.float().movedim(-1, 1)

    depth, normals, label = load("depth"), load("normal"), load("label")
    y = {
        "segmentation": torch.where(torch.isfinite(label), label, -1).to(torch.int8),
        "depth": torch.where(depth == 0, torch.nan, depth),
        "normals": torch.where((normals == 0).all(1, keepdim=True), torch.nan, normals),
    }
    noisy = torch.zeros(len(rows), len(order), dtype=torch.bool)
    return Split(load("image").contiguous(), {name: y[name] for name in order}, rows, noisy)
