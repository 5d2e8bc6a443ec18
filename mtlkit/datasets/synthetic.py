"""The toy regression of SLGrad (arXiv 2306.04519), made from scratch for every seed."""

from __future__ import annotations

from dataclasses import replace

import torch

from mtlkit.datasets.base import Dataset, Split, check_share, choose
from mtlkit.tasks import Task

N_INPUTS = 250


def toy_regression(
    *,
    label_noise: float = 0.0,
    noise: str = "constant",
    noisy_tasks: str = "main",
    distance: float = 3.5,
    drift_to: float | None = None,
    drift_epochs: tuple[int, int] = (10, 20),
    n_train: int = 600,
    n_meta: int = 200,
    n_test: int = 200,
    seed: int = 0,
) -> Dataset:
    """Two related regressions, ``main`` and ``auxiliary``: y_t = \\|tanh((B + ε_t) · x)\\|.

    x ~ N(0, I_250) and B ~ N(0, I_250) are shared; ε_t ~ N(0, ``distance`` I_250) sets the tasks
    apart (``distance`` is a variance; both scales σ_t are 1). Everything is drawn anew for every
    seed, in float64.

    Note that (B + ε_t) · x has a standard deviation near 34, so that the hyperbolic tangent is
    saturated and 97 % of the targets lie above 0.76: a constant close to 1 already predicts well.
    For the same reason the targets of the two tasks are nearly unrelated unless ``distance`` is
    tiny: their correlation is 1 at distance 0, 0.36 at 0.01, 0.09 at 0.1 and 0.001 at 3.5.

    Args:
        label_noise: share of the training labels that is replaced, exactly ``round(share * n_train)``
            of them in each noisy task.
        noise: ``"constant"`` puts -0.5 in their place, ``"gaussian"`` a draw from N(0, 0.2²)
            (*reading*: the noise replaces the label rather than being added to it).
        noisy_tasks: ``"main"`` or ``"all"``.
        drift_to: the auxiliary's distance at the end, when its relevance changes during training
            (HydaLearn, arXiv 2008.11643): its training targets of an epoch are those of the same
            x, B and direction of ε at the distance of that epoch (:attr:`Dataset.train_at`).
            The arguments of tanh of the two tasks have the correlation
            1/√((1 + ``distance``)(1 + the auxiliary's distance)), their targets a lower one: with
            ``distance`` 0, 0.48 for ``drift_to`` 0.01, 0.02 for 1 and 0.006 for 3.5. Meta and test targets, and
            noisy labels, keep their values; so does the main task.
        drift_epochs: last epoch before the drift and first epoch after it; linear in between,
            sudden when the second is the first plus one.

    Raises:
        ValueError: a share outside [0, 1], an unknown ``noise`` or ``noisy_tasks``, an empty split,
            a negative distance, ``drift_epochs`` that do not increase.
    """
    check_share("label_noise", label_noise)
    if noise not in ("constant", "gaussian"):
        raise ValueError(f"noise is {noise!r}, expected 'constant' or 'gaussian'")
    if noisy_tasks not in ("main", "all"):
        raise ValueError(f"noisy_tasks is {noisy_tasks!r}, expected 'main' or 'all'")
    for what, value in (("distance", distance), ("drift_to", drift_to)):
        if value is not None and not 0 <= value < float("inf"):
            raise ValueError(f"{what} is {value}, expected a variance of at least 0")
    first, last = drift_epochs
    if not 0 <= first < last:
        raise ValueError(f"drift_epochs is {drift_epochs}, expected two increasing epochs, the first at least 0")
    if min(n_train, n_meta, n_test) < 1:
        raise ValueError(f"splits have {n_train}, {n_meta} and {n_test} rows, expected at least 1 each")
    generator = torch.Generator().manual_seed(seed)
    n = n_train + n_meta + n_test
    tasks = (Task("main", "regression"), Task("auxiliary", "regression"))

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, common = normal(n, N_INPUTS), normal(N_INPUTS)
    apart = [normal(N_INPUTS) for _ in tasks]

    def targets(t: int, distance: float) -> torch.Tensor:
        return (x @ (common + distance**0.5 * apart[t])).tanh().abs()

    y = torch.stack([targets(t, distance) for t in range(len(tasks))], 1)
    noisy = torch.zeros(n, len(tasks), dtype=torch.bool)
    for t in range(len(tasks) if noisy_tasks == "all" else 1):
        noisy[:n_train, t] = choose(n_train, label_noise, generator)
    wrong = torch.full_like(y, -0.5) if noise == "constant" else 0.2 * normal(n, len(tasks))
    y = torch.where(noisy, wrong, y)

    whole = Split(x, {task.name: y[:, t] for t, task in enumerate(tasks)}, torch.arange(n), noisy)
    rows = torch.arange(n).split([n_train, n_meta, n_test])
    train, meta, test = (whole.take(r) for r in rows)

    def train_at(epoch: int) -> Split:
        done = min(max((epoch - first) / (last - first), 0), 1)
        moved = targets(1, distance + done * (drift_to - distance))[:n_train]
        return replace(train, y={**train.y, "auxiliary": torch.where(train.noisy[:, 1], train.y["auxiliary"], moved)})

    source = "made here, after arXiv 2306.04519"
    drifting = None if drift_to is None else train_at
    return Dataset("toy_regression", tasks, train, meta, test, source=source, train_at=drifting)
