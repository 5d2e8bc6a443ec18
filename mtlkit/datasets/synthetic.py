"""The toy regression of SLGrad (arXiv 2306.04519) and a learnable one of its shape, made anew for every seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mtlkit.datasets.base import Dataset, Split, check_share, choose
from mtlkit.tasks import Task

N_INPUTS = 250
TASKS = (Task("main", "regression"), Task("auxiliary", "regression"))


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

    x ~ N(0, I_250) and B ~ N(0, I_250) are shared; ε_t ~ N(0, ``distance`` I_250) sets the tasks apart (``distance`` is
    a variance; both scales σ_t are 1). Everything is drawn anew for every seed, in float64.

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
        drift_to: the auxiliary's distance at the end, when its relevance changes during training (HydaLearn, arXiv
            2008.11643): its training targets of an epoch are those of the same x, B and direction of ε at the distance
            of that epoch (:attr:`Dataset.train_at`). The arguments of tanh of the two tasks have the correlation 1/√((1
            + ``distance``)(1 + the auxiliary's distance)), their targets a lower one: with ``distance`` 0, 0.48 for
            ``drift_to`` 0.01, 0.02 for 1 and 0.006 for 3.5. Meta and test targets, and noisy labels, keep their values;
            so does the main task.
        drift_epochs: last epoch before the drift and first epoch after it; linear in between,
            sudden when the second is the first plus one.

    Raises:
        ValueError: a share outside [0, 1], an unknown ``noise`` or ``noisy_tasks``, an empty split,
            a negative distance, ``drift_epochs`` that do not increase.
    """
    for what, value in (("distance", distance), ("drift_to", drift_to)):
        if value is not None and not 0 <= value < float("inf"):
            raise ValueError(f"{what} is {value}, expected a variance of at least 0")
    frame = _Frame(label_noise, noise, noisy_tasks, drift_epochs, (n_train, n_meta, n_test))
    normal = _Normal(seed)
    x, common = normal(sum(frame.sizes), N_INPUTS), normal(N_INPUTS)
    apart = [normal(N_INPUTS) for _ in TASKS]

    def targets(t: int, distance: float) -> Tensor:
        return (x @ (common + distance**0.5 * apart[t])).tanh().abs()

    wrong = (-0.5, 0.0) if noise == "constant" else (0.0, 0.2)
    return frame.regressions("toy_regression", x, targets, (distance, drift_to), wrong, normal)


def synthetic(
    *,
    label_noise: float = 0.0,
    noise: str = "constant",
    noisy_tasks: str = "main",
    correlation: float = 0.8,
    correlation_after: float | None = None,
    drift_epochs: tuple[int, int] = (10, 20),
    observation_noise: float = 0.1,
    n_inputs: int = N_INPUTS,
    n_train: int = 600,
    n_meta: int = 200,
    n_test: int = 200,
    seed: int = 0,
) -> Dataset:
    """Two related linear regressions, ``main`` and ``auxiliary``, that can be learned: y_t = b_t · x + e_t.

    The shape of :func:`toy_regression`, whose targets saturate, without the hyperbolic tangent:
    x ~ N(0, I), and b_t has length 1, so that b_t · x has mean 0 and variance 1 over all x. With u and v
    orthogonal and of length 1, in directions that are drawn at random,

        b_main = u,    b_auxiliary = ρ u + √(1 - ρ²) v

    and the two noiseless targets have exactly the correlation ρ = ``correlation`` over all x; that of the rows of one
    draw varies around it. The observation noise e_t ~ N(0, ``observation_noise``²) is drawn for each row and task and
    is in every split, so that no prediction has an expected squared error below ``observation_noise``², and that of the
    best constant is 1 more. The default, 0.1, is a hundredth of the variance: too little to hide what separates
    methods, and enough that a training row which is fitted exactly is fitted too well.

    Everything is drawn anew for every seed, in float64. The labels of the auxiliary task are clean
    when only the main task's are noisy, so that it can stand in for them.

    Args:
        label_noise: share of the training labels that is replaced, exactly ``round(share * n_train)``
            of them in each noisy task.
        noise: ``"constant"`` puts -3 in their place, ``"gaussian"`` a draw from N(0, 1) (*readings*: the
            toy's -0.5 lies below all of its targets, which are near 1, and -3 lies below 99.9 % of
            these; a draw as wide as the targets cannot be told from them by its value).
        noisy_tasks: ``"main"`` or ``"all"``.
        correlation: of the noiseless targets of the two tasks, from -1 to 1.
        correlation_after: the correlation at the end, when the auxiliary's relevance changes during
            training (HydaLearn, arXiv 2008.11643): its training targets of an epoch are those of the
            same x, u, v and e at the correlation of that epoch (:attr:`Dataset.train_at`). Meta and
            test targets, and noisy labels, keep their values; so does the main task.
        drift_epochs: last epoch before the drift and first epoch after it; the correlation is linear
            in between, and the change sudden when the second is the first plus one.
        observation_noise: standard deviation of e_t.
        n_inputs: length of x, at least 2.

    Raises:
        ValueError: a share outside [0, 1], a correlation outside [-1, 1], an unknown ``noise`` or ``noisy_tasks``, an
            empty split, a negative ``observation_noise``, fewer than 2 inputs, ``drift_epochs`` that do not increase.
    """
    for what, value in (("correlation", correlation), ("correlation_after", correlation_after)):
        if value is not None and not -1 <= value <= 1:
            raise ValueError(f"{what} is {value}, expected a number from -1 to 1")
    if not 0 <= observation_noise < float("inf"):
        raise ValueError(f"observation_noise is {observation_noise}, expected a standard deviation of at least 0")
    if n_inputs < 2:
        raise ValueError(f"n_inputs is {n_inputs}, expected at least 2")
    frame = _Frame(label_noise, noise, noisy_tasks, drift_epochs, (n_train, n_meta, n_test))
    normal = _Normal(seed)
    x = normal(sum(frame.sizes), n_inputs)
    u, v = F.normalize(normal(n_inputs), dim=0), normal(n_inputs)
    along = x @ u, x @ F.normalize(v - (v @ u) * u, dim=0)
    observed = observation_noise * normal(len(x), 2)

    def targets(t: int, correlation: float) -> Tensor:
        share = 1.0 if t == 0 else correlation
        return share * along[0] + (1 - share**2) ** 0.5 * along[1] + observed[:, t]

    wrong = (-3.0, 0.0) if noise == "constant" else (0.0, 1.0)
    return frame.regressions("synthetic", x, targets, (correlation, correlation_after), wrong, normal)


class _Normal:
    """Draws from N(0, 1), in float64, and the generator behind them."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)


@dataclass(frozen=True)
class _Frame:
    """What both data sets have in common: label noise, a drift, splits.

    Attributes:
        sizes: rows of the training, meta and test split.
    """

    label_noise: float
    noise: str
    noisy_tasks: str
    drift_epochs: tuple[int, int]
    sizes: tuple[int, int, int]

    def __post_init__(self) -> None:
        check_share("label_noise", self.label_noise)
        if self.noise not in ("constant", "gaussian"):
            raise ValueError(f"noise is {self.noise!r}, expected 'constant' or 'gaussian'")
        if self.noisy_tasks not in ("main", "all"):
            raise ValueError(f"noisy_tasks is {self.noisy_tasks!r}, expected 'main' or 'all'")
        first, last = self.drift_epochs
        if not 0 <= first < last:
            raise ValueError(
                f"drift_epochs is {self.drift_epochs}, expected two increasing epochs, the first at least 0"
            )
        if min(self.sizes) < 1:
            raise ValueError("splits have {}, {} and {} rows, expected at least 1 each".format(*self.sizes))

    def regressions(
        self,
        name: str,
        x: Tensor,
        targets: Callable[[int, float], Tensor],
        relevance: tuple[float, float | None],
        wrong: tuple[float, float],
        normal: _Normal,
    ) -> Dataset:
        """Two regressions with label noise and, where ``relevance`` names an end, a drift of the second task.

        Args:
            x: (N, D) inputs of all splits.
            targets: (number of a task, relevance) to its (N,) clean targets.
            relevance: at the start and, after the drift, at the end; None without a drift.
            wrong: mean and standard deviation of a wrong label.
        """
        n, n_train = len(x), self.sizes[0]
        start, end = relevance
        y = torch.stack([targets(t, start) for t in range(len(TASKS))], 1)
        noisy = torch.zeros(n, len(TASKS), dtype=torch.bool)
        for t in range(len(TASKS) if self.noisy_tasks == "all" else 1):
            noisy[:n_train, t] = choose(n_train, self.label_noise, normal.generator)
        mean, sd = wrong
        y = torch.where(noisy, mean + sd * normal(n, len(TASKS)), y)

        whole = Split(x, {task.name: y[:, t] for t, task in enumerate(TASKS)}, torch.arange(n), noisy)
        train, meta, test = (whole.take(rows) for rows in torch.arange(n).split(self.sizes))
        first, last = self.drift_epochs
        there = start if end is None else end

        def train_at(epoch: int) -> Split:
            done = min(max((epoch - first) / (last - first), 0), 1)
            moved = targets(1, there if done == 1 else start + done * (there - start))[:n_train]
            y = torch.where(train.noisy[:, 1], train.y["auxiliary"], moved)
            return replace(train, y={**train.y, "auxiliary": y})

        source = "made here, after arXiv 2306.04519"
        return Dataset(name, TASKS, train, meta, test, source=source, train_at=None if end is None else train_at)
