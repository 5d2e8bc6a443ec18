"""Merge branches in the user's own training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mtlkit.checkpoint import of_method, restored_method
from mtlkit.gradients import Params
from mtlkit.merging._base import Epoch, Merging, at


class Branch(NamedTuple):
    """What the user's function trains.

    Attributes:
        number: of the branch, from 0.
        weights: (T,) of the tasks' mean losses.
        share: of the training data to use, drawn anew.
        continues: whether the optimiser of this number's last branch continues; else a new one starts.
        penalty: what a term of the loss that belongs to no task, such as a model's penalty, is multiplied by.
    """

    number: int
    weights: Tensor
    share: float
    continues: bool
    penalty: float


class Merger:
    """A per-epoch method in a loop that the user writes; branches are trained one after the other.

    Each branch starts from the model's parameters and buffers, and keeps its own buffers while it continues
    within an epoch; after the merge, the parameters are merged and a floating-point buffer (such as
    BatchNorm's running statistics) is its mean over branches. Limit: the meta loss and metric of every
    branch and checkpoint, of ForkMerge's choice among them too, are taken with that mean as of the last
    interval, not with the branch's own buffers; layers without buffers, such as GroupNorm, are not affected.

    Args:
        model: trained in place; parameters that do not require a gradient stay as they are.
        n_tasks: T, the main task first.
        method: such as ``mtlkit.AlphaVIL()``.
        steps: optimiser steps of a branch that sees all of its data once, for the report only.

    Attributes:
        report: of the last epoch, the method's metrics, (T,) each; empty before.

    Raises:
        TypeError: ``method`` is not a Merging.

    >>> import mtlkit as mtl
    >>> x = torch.linspace(-1, 1, 8)[:, None]
    >>> targets = torch.cat([2 * x, -x], 1)
    >>> model = nn.Linear(1, 2)
    >>> def train(branch):
    ...     optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ...     for _ in range(10):
    ...         optimizer.zero_grad()
    ...         (branch.weights * (model(x) - targets).square().mean(0)).sum().backward()
    ...         optimizer.step()
    >>> merger = mtl.Merger(model, 2, mtl.AlphaVIL())
    >>> for _ in range(3):
    ...     merger.epoch(train, meta_loss=lambda m: (m(x)[:, 0] - targets[:, 0]).square().mean())
    >>> merger.report["alpha"].shape
    torch.Size([2])
    """

    def __init__(self, model: nn.Module, n_tasks: int, method: Merging, *, steps: int = 1) -> None:
        if not isinstance(method, Merging):
            raise TypeError(f"method is {method!r}, expected an instance such as mtlkit.AlphaVIL()")
        self.model, self.n_tasks, self.method, self.steps = model, n_tasks, method, steps
        self._state = method.init(n_tasks, next(iter(self._parameters().values())))
        self._last: str | None = None
        self.report: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """What the next epoch depends on beside the model and the user's optimisers, for ``torch.save``."""
        return {"method": of_method(self._state), "last": self._last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: of a method of another kind.
        """
        self._state, self._last = restored_method(self.method, self._state, state["method"]), state["last"]

    def epoch(
        self,
        train_branch: Callable[[Branch], Any],
        meta_loss: Callable[[Callable], Tensor],
        meta_metric: Callable[[Callable], Tensor | float] | None = None,
    ) -> None:
        """Train all branches, merge them into the model.

        Args:
            train_branch: trains the model, in place, as the branch says.
            meta_loss: called with a stand-in for the model, which takes the same inputs; returns the
                main task's mean loss () on held-out data. The model is in evaluation mode then.
            meta_metric: the same for the metric, to be lowered, by which DIW and ForkMerge compare
                models (it stands in for the method's own ``metric``); the meta loss when None.
        """
        start = {name: value.clone() for name, value in self._parameters().items()}
        buffers = {name: value.clone() for name, value in self.model.named_buffers()}
        ended: list[Params] = []

        def train(forks: Params, weights: Tensor, share: float, keep: str | None, parts: int = 1) -> Params:
            nonlocal ended
            continues = keep is not None and keep == self._last
            begun = ended if continues and ended else [buffers] * len(weights)
            trained, ended = [], []
            for k, own in enumerate(weights):
                self._load({**at(forks, k), **begun[k]})
                train_branch(Branch(k, own, share, continues, 1 / parts))
                trained.append({name: value.clone() for name, value in self._parameters().items()})
                ended.append({name: value.clone() for name, value in self.model.named_buffers()})
            self._last = keep
            floating = (name for name, value in buffers.items() if value.is_floating_point())
            self._load({name: torch.stack([end[name] for end in ended]).mean(0) for name in floating})
            return {name: torch.stack([branch[name] for branch in trained]) for name in start}

        def of_meta(function: Callable) -> Callable[[Params], Tensor]:
            def value(parameters: Params) -> Tensor:
                modes = [(module, module.training) for module in self.model.modules()]
                self.model.eval()
                try:
                    found = function(lambda *args, **kwargs: functional_call(self.model, parameters, args, kwargs))
                finally:
                    for module, training in modes:
                        module.training = training
                return torch.as_tensor(found).to(next(iter(start.values())))

            return value

        metric = None if meta_metric is None else torch.no_grad()(of_meta(meta_metric))
        epoch = Epoch(start, self.n_tasks, self.steps, train, [of_meta(meta_loss)], metric)
        merged = self.method.epoch(epoch, self._state)
        self._load(merged.parameters)
        self._state = merged.state
        self.report = {metric: values for metric, (_, values) in merged.report.items()}

    def _parameters(self) -> Params:
        return {name: value.detach() for name, value in self.model.named_parameters() if value.requires_grad}

    @torch.no_grad()
    def _load(self, values: Params) -> None:
        own = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        for name, value in values.items():
            own[name].copy_(value)
