"""One step of all seeds of a run: from a batch to moved parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from mtlkit.checkpoint import of_optimizer, restore_optimizer
from mtlkit.datasets import Split
from mtlkit.gradients import Params
from mtlkit.measure import Alignment, Gains, Problem, no_meta_batch
from mtlkit.memory import prefers_two_passes
from mtlkit.step import step
from mtlkit.training.stack import Stack, stacks_well
from mtlkit.weighting import State, Weighting

LEARNED = "weighting.learned"


class Descent:
    """Moves the parameters of a stack, one step a call.

    Args:
        learned: what the optimiser learns for the weighting, (S, T), or None.
        optimizer: called with a list of parameters and ``lr``; elementwise, see :func:`check_elementwise`.
        clip: largest norm of a seed's gradient, over all its model's parameters; longer ones are
            scaled down to it. No limit when None.
        compile: trace the first step and compile it with ``torch.compile``. A weighting that calls code
            outside of torch (a Gramian's solver, a user's metric), or that measures more in some steps than
            in others (``implicit_alignment``), runs as it is.
    """

    def __init__(
        self,
        stack: Stack,
        weighting: Weighting,
        learned: Tensor | None,
        optimizer: Callable[..., torch.optim.Optimizer],
        lr: float,
        *,
        clip: float | None = None,
        compile: bool = False,
    ) -> None:
        self.stack, self.weighting, self.lr, self.clip = stack, weighting, lr, clip
        self.leaves = {**stack.parameters, **({} if learned is None else {LEARNED: learned})}
        self.optimizer = optimizer([leaf.requires_grad_() for leaf in self.leaves.values()], lr=lr)
        self.run = self._gradients
        self.to_compile = compile and weighting.stacks and all(request.compiles for request in weighting.reads)
        self.two_pass: bool | None = None

    def __call__(self, batch: Split, meta: Split | None, state: State, **given: Tensor) -> tuple[Tensor, State]:
        """Take a step.

        Args:
            batch: training rows (S, B).
            meta: rows of the meta split (S, m), for a weighting that looks at them.
            state: the weighting's, stacked.
            given: fields of the signal that need no computation, stacked; ``present`` always.

        Returns:
            the weights (S, T) or (S, B, T), and the weighting's new state.
        """
        leaves = {name: leaf.detach() for name, leaf in self.leaves.items()}
        masks = self.stack.masks()
        if self.two_pass is None:
            self.two_pass = self.weighting.asks(Alignment) and prefers_two_passes(
                functools.partial(self.stack.losses, batch), {**self.stack.parameters, **masks}
            )
        arguments = (leaves, batch, meta, masks, state, given)
        if self.to_compile:
            self.run, self.to_compile = _compiled(self._gradients, arguments), False
        gradients, weights, state = self.run(*arguments)
        if self.clip is not None:
            gradients |= _shortened({name: gradients[name] for name in self.stack.parameters}, self.clip)
        for name, leaf in self.leaves.items():
            leaf.grad = gradients[name]
        self.optimizer.step()
        return weights, state

    def state(self) -> dict[str, Any]:
        """What it has learned for the weighting, and its optimiser's memory, for :meth:`restore`."""
        return {"learned": self.leaves.get(LEARNED), "optimizer": of_optimizer(self.optimizer)}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        if LEARNED in self.leaves:
            self.leaves[LEARNED].copy_(state["learned"])
        restore_optimizer(self.optimizer, state["optimizer"])

    def _gradients(
        self,
        leaves: Params,
        batch: Split,
        meta: Split | None,
        masks: Params,
        state: State,
        given: dict[str, Tensor],
    ) -> tuple[dict[str, Tensor | None], Tensor, State]:
        """Gradients of the weighted loss, the weights and the new state: a function of tensors alone."""
        stack, weighting = self.stack, self.weighting
        leaves = {name: leaf.detach().requires_grad_() for name, leaf in leaves.items()}
        parameters = {name: leaves[name] for name in stack.parameters}

        def losses(own: Params) -> Tensor:
            return stack.losses(batch, {**parameters, **masks, **own})

        def columns(own: Params) -> list[Tensor]:
            return stack.columns(batch, {**parameters, **masks, **own})

        def main_loss(rows: Split | None, own: Params) -> Tensor:
            return no_meta_batch() if rows is None else stack.main_loss(rows, {**parameters, **own})

        def score(own: Params, request: Gains) -> Tensor:
            scored = batch if request.on == "batch" else meta
            if request.metric is None or scored is None:
                return main_loss(scored, own)
            return stack.main_score(request.metric, scored, {**parameters, **own})

        problem = Problem(
            parameters,
            stack.shared,
            stack.last,
            losses,
            functools.partial(main_loss, meta),
            score,
            lr=self.lr,
            stacked=stacks_well(stack.template, batch.x.device),
            two_pass=bool(self.two_pass),
            columns=columns,
            penalty=stack.penalty,
        )
        learned = {"learned": leaves[LEARNED]} if LEARNED in leaves else {}
        taken = step(weighting, problem, state, **given, **learned)
        found = torch.autograd.grad(taken.objective.sum(), list(leaves.values()), allow_unused=True)
        return dict(zip(leaves, found, strict=True)), taken.weights, taken.state


def _compiled(function: Callable, arguments: tuple) -> Callable:
    """The operations that ``function`` runs on these arguments, forward and backward, as one program.

    ``torch.compile`` alone does not follow forward-mode differentiation or ``torch.autograd.grad`` under
    ``torch.vmap``; what they come down to is traced first.
    """
    traced = make_fx(lambda *tensors: function(*tensors))(*arguments)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return torch.compile(traced, fullgraph=True, dynamic=False)


def _shortened(gradients: dict[str, Tensor | None], longest: float) -> Params:
    """Each seed's gradient (S, *) scaled down so that its norm over all of them is at most ``longest``."""
    found = {name: g for name, g in gradients.items() if g is not None}
    norms = torch.stack([g.flatten(1).square().sum(1) for g in found.values()]).sum(0).sqrt()
    scale = (longest / (norms + 1e-6)).clamp(max=1)
    return {name: g * scale.view(-1, *[1] * (g.ndim - 1)) for name, g in found.items()}


def check_elementwise(optimizer: Callable[[list[Tensor]], torch.optim.Optimizer]) -> None:
    """Refuse an optimiser that would mix the seeds of a stack.

    Two small tensors are optimised for three steps as they are and stacked into one, with gradients
    of different sizes; an elementwise optimiser does the same to both.

    Raises:
        ValueError: it does not, or cannot take such a step.
        TypeError: it is no optimiser.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    slopes = torch.randn(3, 2, 4, 3, generator=generator, dtype=torch.float64)
    slopes *= torch.tensor([1.0, 30.0], dtype=torch.float64)[:, None, None]

    def run(parameters: list[Tensor], gradients: Callable[[Tensor], list[Tensor]]) -> Tensor:
        moved = [p.clone().requires_grad_() for p in parameters]
        descent = optimizer(moved)
        for slope in slopes:
            for parameter, gradient in zip(moved, gradients(slope), strict=True):
                parameter.grad = gradient.clone()
            descent.step()
        return torch.cat([p.detach().flatten() for p in moved])

    plain = optimizer
    while isinstance(plain, functools.partial):
        plain = plain.func
    name = getattr(plain, "__name__", repr(plain))
    expected = "expected an elementwise one such as torch.optim.SGD or Adam"
    made = optimizer([start[0].clone().requires_grad_()])
    if not isinstance(made, torch.optim.Optimizer):
        raise TypeError(f"optimizer {name} makes a {type(made).__name__}, {expected}")
    try:
        together, apart = run([start], lambda slope: [slope]), run(list(start), list)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"optimizer {name} cannot train stacked models ({error}); {expected}") from error
    if not torch.allclose(together, apart, rtol=1e-6, atol=1e-9):
        raise ValueError(
            f"optimizer {name} treats a stack of models differently from each model alone, so that seeds would "
            f"influence each other; {expected}"
        )
