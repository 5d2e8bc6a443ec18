"""A task whose low-level parts are known: do two sides agree? Made anew for every seed."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from mtlkit.datasets.base import Dataset, Split, check_sizes
from mtlkit.tasks import Task

SIDES = ("side_a", "side_b")


def layered(*, n_inputs: int = 20, n_train: int = 600, n_meta: int = 200, n_test: int = 2000, seed: int = 0) -> Dataset:
    """Two simple questions, and a main task that needs both answers: ``same_side``, ``side_a`` and ``side_b``.

    x ~ N(0, I). With u and v orthogonal and of length 1, in directions that are drawn at random,

        side_a = [u · x > 0],    side_b = [v · x > 0],    same_side = [side_a = side_b]

    All three are binary and balanced. A side is what one unit can tell; the main task is the exclusive or of the two,
    which no single layer can tell, and which is independent of either side. So the sides belong to the first layer
    of a network that solves it: a case for low-level supervision (:class:`mtlkit.models.LowLevel`), whose source has
    such pairs in language. Everything is drawn anew for every seed, in float64; no label is wrong.

    Args:
        n_inputs: length of x, at least 2.

    Raises:
        ValueError: fewer than 2 inputs, an empty split.
    """
    if n_inputs < 2:
        raise ValueError(f"n_inputs is {n_inputs}, expected at least 2")
    sizes = {"n_train": n_train, "n_meta": n_meta, "n_test": n_test}
    check_sizes(10**9, **sizes)
    generator = torch.Generator().manual_seed(seed)
    n = sum(sizes.values())
    x = torch.randn(n, n_inputs, generator=generator, dtype=torch.float64)
    u, v = torch.randn(2, n_inputs, generator=generator, dtype=torch.float64)
    u = F.normalize(u, dim=0)
    a, b = x @ u > 0, x @ (v - (v @ u) * u) > 0
    y = dict(zip(("same_side", *SIDES), ((a == b).double(), a.double(), b.double()), strict=True))
    whole = Split(x, y, torch.arange(n), torch.zeros(n, len(y), dtype=torch.bool))
    train, meta, test = (whole.take(rows) for rows in torch.arange(n).split([*sizes.values()]))
    return Dataset("layered", tuple(Task(name, "binary") for name in y), train, meta, test, source="made here")
