"""The interface of a merging method, and the arithmetic on stacked parameters that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from mtlkit.gradients import Params, dot, gradient, sum_up
from mtlkit.measure import Metric
from mtlkit.tasks import labelled


@dataclass(frozen=True)
class Epoch:
    """What a merging method works with in one epoch: functions of the parameters.

    Axes are called as in :mod:`mtlkit.measure`; branches are one more in front of the seeds'.

    Attributes:
        parameters: θ, (*runs, *) each.
        n_tasks: T.
        steps: optimiser steps of one branch that sees all of its training data once.
        train: called with the branches' parameters (branches, *runs, *), the weights of the tasks' mean losses
            (branches, *runs, tasks), the share of the training data to use, and a word: the optimisers of the last
            call continue if it had the same word, and start afresh otherwise or for None; where the branches' updates
            are summed, in how many ``parts`` they share the model's own penalty. Returns the trained branches.
        meta: parts of the main task's mean loss on the meta split: their sum is the loss.
        metric: parameters to the main task's metric on the meta split, to be lowered; the loss when None.
    """

    parameters: Params
    n_tasks: int
    steps: int
    train: Callable[..., Params]
    meta: Sequence[Callable[[Params], Float[Tensor, "*runs"]]]
    metric: Callable[[Params], Float[Tensor, "*runs"]] | None = None

    @torch.no_grad()
    def meta_loss(self, parameters: Params) -> Float[Tensor, "*runs"]:
        """The main task's loss on the meta split."""
        return sum_up(part(parameters) for part in self.meta)

    def score(self, parameters: Params) -> Float[Tensor, "*runs"]:
        """The main task's metric on the meta split, to be lowered."""
        return self.meta_loss(parameters) if self.metric is None else self.metric(parameters)

    def meta_gradient(self, parameters: Params) -> Params:
        """Gradient of :meth:`meta_loss`: one backward pass per part."""
        at = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        parts = [gradient(part(at), at) for part in self.meta]
        return {name: sum_up(part[name] for part in parts) for name in at}


class Merged(NamedTuple):
    """The outcome of an epoch.

    Attributes:
        parameters: merged parameters, (*runs, *) each.
        state: the method's new state.
        weights: what each task's mean loss weighed in the merged update, all in all.
        report: metric to its split and its values, for the frame. Branches go by the task that they add.
    """

    parameters: Params
    state: Any
    weights: Float[Tensor, "*runs tasks"]
    report: dict[str, tuple[str, Float[Tensor, "*runs tasks"]]]


class Merging:
    """A per-epoch method: fork, train, merge. Subclasses are frozen dataclasses of their hyper-parameters.

    An epoch trains several branches for ``steps_per_epoch`` steps each (times the method's share or
    interval), so it costs more than an epoch of a per-step weighting. Compare at equal cost: the frame's
    metric ``branch_steps``, summed over tasks, is the number of optimiser steps of the epoch.

    Attributes:
        metric: by which it compares models, see :func:`mtlkit.measure.score`; the main task's mean loss when None.
    """

    metric: Metric | None = None

    def init(self, n_tasks: int, like: Tensor) -> Any:
        """State before the first epoch, a weight of 1 for each task unless a method has another.

        Tensors take the dtype and device of ``like``.
        """
        return like.new_ones(n_tasks)

    def epoch(self, epoch: Epoch, state: Any) -> Merged:
        """Fork, train, merge."""
        raise NotImplementedError


def steps_of(steps: int, share: float) -> int:
    """Optimiser steps of a branch that trains on this share of the data, where a pass has ``steps``: at least one."""
    return max(1, round(share * steps))


def fork(parameters: Params, n_branches: int) -> Params:
    """The same parameters for every branch: (*runs, *) to (branches, *runs, *)."""
    return {name: value.detach().expand(n_branches, *value.shape) for name, value in parameters.items()}


def at(stack: Params, branch: int) -> Params:
    """One branch: (branches, *runs, *) to (*runs, *)."""
    return {name: value[branch] for name, value in stack.items()}


def of_each(function: Callable[[Params], Float[Tensor, "*runs"]], stack: Params) -> Float[Tensor, " branches *runs"]:
    """A function of every branch."""
    n_branches = len(next(iter(stack.values())))
    return torch.stack([function(at(stack, k)) for k in range(n_branches)])


def combine(coefficients: Float[Tensor, "*runs branches"], stack: Params) -> Params:
    """Σ_k c_k θ_k: branches (branches, *runs, *) to (*runs, *).

    A branch with coefficient zero does not count, even where it holds no finite numbers.
    """
    by_branch = coefficients.movedim(-1, 0)

    def total(value: Tensor) -> Tensor:
        c = by_branch.view(*by_branch.shape, *[1] * (value.ndim - by_branch.ndim))
        return torch.where(c == 0, 0, c * value).sum(0)

    return {name: total(value) for name, value in stack.items()}


def moved(parameters: Params, coefficients: Float[Tensor, "*runs branches"], deltas: Params) -> Params:
    """θ + Σ_k c_k δ_k: parameters (*runs, *) and deltas (branches, *runs, *)."""
    update = combine(coefficients, deltas)
    return {name: value.detach() + update[name] for name, value in parameters.items()}


def inner(deltas: Params, direction: Params, runs: int) -> Float[Tensor, "*runs branches"]:
    """⟨δ_k, g⟩ over all parameters, keeping ``runs`` leading axes of g."""
    return dot((deltas[name] for name in direction), direction.values(), 1 + runs).movedim(0, -1)


def one_task_each(epoch: Epoch, weights: Float[Tensor, "*runs tasks"], share: float) -> tuple[Params, Params]:
    """Train one branch per task, each on its own task's weighted loss w_t L_t alone, with a fresh optimiser.

    Returns:
        the branches θ_t and their updates δ_t = θ_t - θ, both (tasks, *runs, *).
    """
    own = torch.diag_embed(weights).movedim(-1, 0)
    branches = epoch.train(fork(epoch.parameters, epoch.n_tasks), own, share, None, parts=epoch.n_tasks)
    return branches, {name: branches[name] - value.detach() for name, value in epoch.parameters.items()}


def branch_report(epoch: Epoch, branches: Params, share: float, like: Tensor) -> dict[str, tuple[str, Tensor]]:
    """For the frame: the main task's meta loss of each branch, and the steps it took, (*runs, branches) as ``like``."""
    return {
        "branch_meta_loss": ("meta", of_each(epoch.meta_loss, branches).movedim(0, -1)),
        "branch_steps": ("train", torch.full_like(like, steps_of(epoch.steps, share))),
    }


def error_rate(output: Float[Tensor, "n ..."], target: Shaped[Tensor, "n ..."]) -> Float[Tensor, ""]:
    """Share of wrong predictions, a metric for binary and multiclass tasks: 1 - accuracy.

    Args:
        output: (n, C, ...) logits of C >= 2 classes, or (n, ...) or (n, 1, ...) logits of a binary task.
        target: (n, ...) classes.

    Raises:
        ValueError: targets that are not classes.

    >>> error_rate(torch.tensor([[1.0, 3.0], [2.0, 0.0]]), torch.tensor([1, 1])).item()
    0.5
    >>> error_rate(torch.tensor([[-2.0], [0.5], [0.1], [-1.0]]), torch.tensor([0.0, 1.0, 1.0, 1.0])).item()
    0.25
    """
    observed = labelled(target)
    many = output.ndim == target.ndim + 1 and output.shape[1] > 1
    top = output.shape[1] - 1 if many else 1
    known = target[observed]
    if (known.is_floating_point() and (known != known.round()).any()) or (known < 0).any() or (known > top).any():
        raise ValueError(f"the error rate needs classes 0 to {top}, found other targets; give another metric, or None")
    guess = output.argmax(1) if many else output.reshape(target.shape) > 0
    return (guess != target)[observed].to(output.dtype).mean()


def check_metric(method: str, metric: Any) -> None:
    """Raise TypeError unless ``metric`` is None or can be called."""
    if metric is not None and not callable(metric):
        raise TypeError(f"{method}: metric is {metric!r}, expected None or a function of outputs and targets")


def check_rho(method: str, rho: float) -> None:
    """Raise ValueError unless 0 < ``rho`` <= 1."""
    if not 0 < rho <= 1:
        raise ValueError(f"{method}: rho is {rho}, expected a share above 0 and at most 1")
