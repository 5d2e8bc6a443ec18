"""Branches of fit's stacked models: train them side by side where that is faster, evaluate them on the meta split."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtlkit.checkpoint import of_optimizer, restore_optimizer
from mtlkit.datasets import Split
from mtlkit.gradients import Params
from mtlkit.measure import Metric
from mtlkit.merging import Epoch, steps_of
from mtlkit.training.settings import Settings
from mtlkit.training.stack import Stack, stacks_well, take
from mtlkit.weighting import per_sample

META_ROWS = 1024


class Branches:
    """Trains K forks of a stack of S models, and keeps their optimisers between epochs.

    The branches are one more axis in front of the seeds' one. A branch draws its training rows from those that have
    a label of a task that it weighs: all of them, where every row has every label.

    Args:
        stack: the seeds' models.
        splits: stacked over seeds, targets packed.
        metric: of the main task, to be lowered; its mean loss when None.
        settings: steps of one pass, rows per step, optimiser.
        generators: one per seed, for the order of the rows.

    Attributes:
        data: the training split; assign another for an epoch whose data differ.
        stacked: whether all branches train in one program (``torch.vmap``) or one after the other. The numbers are
            the same but for rounding.
    """

    def __init__(
        self,
        stack: Stack,
        splits: Mapping[str, Split],
        metric: Metric | None,
        settings: Settings,
        generators: Sequence[torch.Generator],
    ) -> None:
        self.stack, self.data, self.generators = stack, splits["train"], generators
        self.steps, self.batch_size = settings.steps_per_epoch, settings.batch_size
        self.optimizer = functools.partial(settings.optimizer, lr=settings.lr)
        self.stacked = stacks_well(stack.template, settings.device)
        meta = splits["meta"]
        rows = torch.arange(meta.rows.shape[1], device=meta.rows.device).expand(meta.rows.shape)
        parts = [take(meta, part) for part in rows.split(META_ROWS, dim=1)]
        labelled = torch.stack([stack.present(part)[..., 0].sum(-1) for part in parts]).double()
        shares = labelled / labelled.sum(0).clamp(min=1)
        self.meta = [_part(stack.main_loss, part, share) for part, share in zip(parts, shares, strict=True)]
        self.score = None if metric is None else functools.partial(stack.main_score, metric, meta)
        self.last: str | None = None
        self.groups: list[tuple[Params, torch.optim.Optimizer]] = []

    def epoch(self, parameters: Params) -> Epoch:
        """What a merging method works with, at these parameters (S, *), on the training split ``data``."""
        self.labels = self.stack.present(self.data)
        return Epoch(parameters, len(self.stack.tasks), self.steps, self.train, self.meta, self.score)

    def train(self, start: Params, weights: Tensor, share: float, keep: str | None, parts: int = 1) -> Params:
        """Train every branch.

        Args:
            start: (K, S, *).
            weights: (K, S, T) of the tasks' mean losses.
            share: of a branch's training rows and of the steps of a pass; drawn anew for each branch.
            keep: if the last call had the same word, each branch's optimiser continues from there;
                otherwise, and for None, they start afresh.
            parts: each branch takes one of so many equal parts of the model's penalty.

        Returns:
            (K, S, *), detached.
        """
        n_branches = len(weights)
        steps = steps_of(self.steps, share)
        rows = self._drawn_rows(weights, share, steps)
        keys = {name: drawn.movedim(0, 1) for name, drawn in self.stack.masks(n_branches, steps).items()}
        together = [slice(None)] if self.stacked else [slice(k, k + 1) for k in range(n_branches)]
        if keep is None or keep != self.last:
            self.groups = [self._group({name: value[part] for name, value in start.items()}) for part in together]
        self.last, penalty = keep, self.stack.penalty
        for part, (leaves, optimizer) in zip(together, self.groups, strict=True):
            with torch.no_grad():
                for name, leaf in leaves.items():
                    leaf.copy_(start[name][part].flatten(0, 1))
            for step in range(steps):
                optimizer.zero_grad()
                masks = {name: key[part, :, step].flatten(0, 1) for name, key in keys.items()}
                loss = self._loss({**leaves, **masks}, rows[part, :, step], weights[part])
                (loss if penalty is None else loss + penalty(leaves).sum() / parts).backward()
                optimizer.step()
        return {
            name: torch.cat([leaves[name].detach() for leaves, _ in self.groups]).view(value.shape)
            for name, value in start.items()
        }

    def state(self) -> dict[str, Any]:
        """The streams, and the optimisers that may go on, with their parameters (K S, *); for :meth:`restore`."""
        return {
            "streams": [stream.get_state() for stream in self.generators],
            "last": self.last,
            "groups": [[leaves, of_optimizer(optimizer)] for leaves, optimizer in self.groups],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        for stream, saved in zip(self.generators, state["streams"], strict=True):
            stream.set_state(saved)
        self.last, self.groups = state["last"], []
        for values, memory in state["groups"]:
            leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
            self.groups.append((leaves, self.optimizer(list(leaves.values()))))
            restore_optimizer(self.groups[-1][1], memory)

    def _loss(self, state: Params, rows: Tensor, weights: Tensor) -> Tensor:
        """Sum of all branches' weighted losses, (): state (K S, *), rows (K, S, B), weights (K, S, T)."""
        seed = torch.arange(rows.shape[1], device=rows.device)[:, None]
        by_sample = per_sample(weights, self.labels[seed, rows])
        losses = self.stack.losses(take(self.data, rows.flatten(0, 1)), state)
        return (by_sample * losses.view(by_sample.shape)).sum()

    def _group(self, start: Params) -> tuple[Params, torch.optim.Optimizer]:
        leaves = {name: value.detach().flatten(0, 1).clone().requires_grad_() for name, value in start.items()}
        return leaves, self.optimizer(list(leaves.values()))

    def _drawn_rows(self, weights: Tensor, share: float, steps: int) -> Tensor:
        """Row numbers (K, S, steps, B): per seed and branch, shuffled passes over its share of its rows.

        A branch without any row, such as one whose only task has weight zero, draws from all of them.
        """
        needed = steps * self.batch_size
        own = (self.labels & (weights != 0).unsqueeze(-2)).any(-1)
        own = torch.where(own.any(-1, keepdim=True), own, True)

        def draw(generator: torch.Generator, usable: Tensor) -> Tensor:
            device = generator.device
            order = torch.randperm(len(usable), generator=generator, device=device)
            order = order[usable[order]]
            chosen = min(len(order), max(self.batch_size, round(share * len(order))))
            first, again = order[:chosen], range(-(-needed // chosen) - 1)
            passes = [first, *(first[torch.randperm(chosen, generator=generator, device=device)] for _ in again)]
            return torch.cat(passes)[:needed].view(steps, self.batch_size)

        by_seed = [
            torch.stack([draw(generator, usable) for usable in own[:, s]])
            for s, generator in enumerate(self.generators)
        ]
        return torch.stack(by_seed, 1)


def _part(loss: Callable[[Split, Params], Tensor], rows: Split, share: Tensor) -> Callable[[Params], Tensor]:
    """Some rows' part of the mean loss over all rows."""
    return lambda own: share.to(next(iter(own.values())).dtype) * loss(rows, own)
