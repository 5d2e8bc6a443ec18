"""The toy regression of SLGrad (arXiv 2306.04519), made from scratch for every seed."""

from __future__ import annotations

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

    Args:
        label_noise: share of the training labels that is replaced, exactly ``round(share * n_train)``
            of them in each noisy task.
        noise: ``"constant"`` puts -0.5 in their place, ``"gaussian"`` a draw from N(0, 0.2²)
            (*reading*: the noise replaces the label rather than being added to it).
        noisy_tasks: ``"main"`` or ``"all"``.

    Raises:
        ValueError: a share outside [0, 1], an unknown ``noise`` or ``noisy_tasks``, an empty split.
    """
    check_share("label_noise", label_noise)
    if noise not in ("constant", "gaussian"):
        raise ValueError(f"noise is {noise!r}, expected 'constant' or 'gaussian'")
    if noisy_tasks not in ("main", "all"):
        raise ValueError(f"noisy_tasks is {noisy_tasks!r}, expected 'main' or 'all'")
    generator = torch.Generator().manual_seed(seed)
    n = n_train + n_meta + n_test
    tasks = (Task("main", "regression"), Task("auxiliary", "regression"))

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, common = normal(n, N_INPUTS), normal(N_INPUTS)
    y = torch.stack([(x @ (common + distance**0.5 * normal(N_INPUTS))).tanh().abs() for _ in tasks], 1)
    noisy = torch.zeros(n, len(tasks), dtype=torch.bool)
    for t in range(len(tasks) if noisy_tasks == "all" else 1):
        noisy[:n_train, t] = choose(n_train, label_noise, generator)
    wrong = torch.full_like(y, -0.5) if noise == "constant" else 0.2 * normal(n, len(tasks))
    y = torch.where(noisy, wrong, y)

    whole = Split(x, {task.name: y[:, t] for t, task in enumerate(tasks)}, torch.arange(n), noisy)
    rows = torch.arange(n).split([n_train, n_meta, n_test])
    return Dataset("toy_regression", tasks, *(whole.take(r) for r in rows), source="made here, after arXiv 2306.04519")
