"""Weigh the losses in the user's own training loop, for any module that returns a dict of outputs."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_unflatten

from mtlkit.signals import OF_SHARED, Params, Problem, mean_losses, prefers_two_passes, score
from mtlkit.tasks import Packed, Task, check_tasks, pack, per_sample_losses, presence, separate_losses
from mtlkit.weighting import Weighting, step

Shared = nn.Module | Iterable[nn.Parameter] | Iterable[str]

NO_CHECKPOINTING = "this weighting runs the model at swapped parameters: switch gradient checkpointing off"


class Weigher:
    """Weighted loss of one batch after the other, for a loop that the user writes.

    A call runs the model on the batch and returns a scalar whose ``backward()`` gives the step's
    gradients: accumulate, scale or clip them as usual. The call itself leaves every ``.grad`` alone.

    Measuring and training share their dropout masks, and buffers such as BatchNorm's running
    statistics are updated once per call, by the training batch. The meta batch runs in the model's
    current mode and updates nothing. Where a method differentiates in forward mode or twice,
    attention runs on PyTorch's math kernel, and recurrent layers without cuDNN.

    Methods that look beyond the plain gradients run the model at swapped parameters, with
    ``torch.func.functional_call``. A compiled or scripted model may not allow that: give the plain
    module. Nor may one with gradient checkpointing, which would recompute at other parameters.

    A model with a method ``penalty``, from its trainable parameters by name to a number (), has that added to
    the weighted loss (:func:`mtlkit.models.taps`).

    Args:
        model: returns a mapping of outputs by task name; make the Weigher when the model is on its
            device. Parameters that do not require a gradient are left out, at every call anew.
        tasks: the tasks, main task first.
        weighting: the method, such as ``mtlkit.SLGrad()``.
        shared: the part that all tasks share: a module of the model, parameters of it, or names of
            parameters or submodules.
        last: the last shared layer, given likewise, for a method that reads gradients there; the
            last module of the shared part that holds trainable parameters when None.
        lr: the optimiser's learning rate, for a method whose fake steps take it; assign
            ``weigher.lr`` when it changes.
        seed: of the weighting's own random numbers.

    Attributes:
        weights: of the last call, (T,) for mean losses or (B, T) for per-sample losses; None before.

    Raises:
        ValueError: an empty or unknown shared part, a model without parameters, tasks of one name.
        TypeError: ``weighting`` is not a Weighting, or ``shared`` or ``last`` nothing of the above.

    >>> model = nn.ModuleDict({"trunk": nn.Linear(3, 4), "a": nn.Linear(4, 1), "b": nn.Linear(4, 1)})
    >>> def forward(x):
    ...     return {name: model[name](model["trunk"](x).relu()) for name in ("a", "b")}
    >>> model.forward = forward
    >>> from mtlkit import SLGrad
    >>> weigh = Weigher(model, [Task("a", "regression"), Task("b", "binary")], SLGrad(), shared=model["trunk"])
    >>> y = {"a": torch.ones(5), "b": torch.ones(5)}
    >>> weigh(torch.ones(5, 3), y, meta=(torch.ones(2, 3), {"a": torch.ones(2)})).backward()
    >>> weigh.weights.shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        model: nn.Module,
        tasks: Sequence[Task],
        weighting: Weighting,
        *,
        shared: Shared,
        last: Shared | None = None,
        lr: float | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(weighting, Weighting):
            raise TypeError(
                f"weighting is {weighting!r}, expected an instance such as mtlkit.Uniform() "
                "(a method that merges models once per epoch runs in mtlkit.fit)"
            )
        self.model, self.tasks, self.weighting, self.lr = model, check_tasks(tasks), weighting, lr
        first = next(model.parameters(), None)
        if first is None:
            raise ValueError("the model has no parameters")
        self._device = first.device
        self._shared = _names(model, shared, "shared")
        self._last = None if last is None else _names(model, last, "last")
        self._like = like = first.new_zeros((), dtype=torch.promote_types(first.dtype, torch.float32))
        self._state = weighting.init(len(self.tasks), like)
        learned = weighting.learn(len(self.tasks), like)
        self._learned = None if learned is None else nn.Parameter(learned)
        self._kinds = {
            kind: torch.tensor([task.kind == kind for task in self.tasks], device=first.device)
            for kind in ("regression", "binary")
        }
        self._generator = torch.Generator().manual_seed(seed)
        self._two_pass: bool | None = None
        self.weights: Tensor | None = None

    def __call__(
        self,
        x: Any,
        y: Mapping[str, Tensor],
        *,
        meta: tuple[Any, Mapping[str, Tensor]] | None = None,
        epoch: int | None = None,
    ) -> Tensor:
        """The weighted loss () of a batch.

        Args:
            x: inputs of B samples: one object, a tuple of positional arguments, or a mapping of
                keyword arguments of the model.
            y: task name to (B, ...) target; missing labels are NaN or -1 (:class:`mtlkit.Task`).
            meta: inputs and targets of a held-out batch, of any size, for a method that looks at
                one; only the main task's target is read.
            epoch: number of the epoch from 0, for a method that reads it.

        Raises:
            ValueError: a target or output that is missing or does not fit its task (the values of
                targets are checked on the CPU only, as reading them would stall a GPU); no meta
                batch, epoch or learning rate for a method that needs it; a shared part without a
                trainable parameter, for a method that needs gradients of it.
            TypeError: targets or outputs that are not mappings of tensors.
            RuntimeError: gradient checkpointing in the model, for a method that swaps parameters.
        """
        parameters = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        if not parameters:
            raise ValueError("the model has no trainable parameters")
        shared = tuple(name for name in self._shared if name in parameters)
        last = _last_module(shared) if self._last is None else tuple(n for n in self._last if n in parameters)
        self._check_needs(shared, last, meta, epoch)
        run = functools.partial(
            _Run,
            self.model,
            parameters,
            buffers={name: value.detach().clone() for name, value in self.model.named_buffers()},
            contexts=self._contexts(),
        )
        targets = _packed(self.tasks, y, "y")
        training = run(x, updates=True)
        main_loss, scored = None, (training, y)
        if meta is not None:
            x_meta, y_meta = meta
            _packed(self.tasks[:1], y_meta, "meta")
            held_out = run(x_meta, updates=False)
            main_loss = self._main_loss(held_out, y_meta)
            if self.weighting.on == "meta":
                scored = held_out, y_meta
        if self._two_pass is None:
            trial = functools.partial(_losses, run(x, updates=False), self.tasks, targets)
            with torch.random.fork_rng(), torch.autocast(self._device.type, enabled=False):
                self._two_pass = "alignment" in self.weighting.reads and prefers_two_passes(trial, parameters)
        problem = Problem(
            parameters,
            shared,
            last,
            losses=functools.partial(_losses, training, self.tasks, targets),
            meta_loss=main_loss,
            score=self._score(*scored),
            lr=self.lr or 0.0,
            stacked_score=False,
            two_pass=self._two_pass,
            columns=functools.partial(_columns, training, self.tasks, targets),
            penalty=penalty if callable(penalty := getattr(self.model, "penalty", None)) else None,
        )
        given = {"present": presence(self.tasks, targets), "learned": self._learned, **self._kinds}
        if "noise" in self.weighting.reads:
            given["noise"] = torch.randn(len(self.tasks), generator=self._generator).to(self._like)
        if "epoch" in self.weighting.reads:
            given["epoch"] = torch.tensor(epoch, device=self._device)
        with torch.autocast(self._device.type, enabled=False):
            taken = step(self.weighting, problem, self._state, **given)
        self._state, self.weights = taken.state, taken.weights
        return taken.objective

    def _main_loss(self, run: _Run, y: Mapping[str, Tensor]) -> Callable[[Params], Tensor]:
        """The main task's mean loss () on a batch, as a function of the parameters."""
        main = self.tasks[:1]
        targets = pack(main, y)
        present = presence(main, targets)
        return lambda own: mean_losses(run(own, lambda outputs: per_sample_losses(main, outputs, targets)), present)[0]

    def _score(self, run: _Run, y: Mapping[str, Tensor]) -> Callable[[Params], Tensor]:
        """What the weighting wants lowered, likewise."""
        main, metric = self.tasks[0], self.weighting.metric
        if metric is None:
            return self._main_loss(run, y)
        return lambda own: run(own, lambda outputs: score(metric, main, outputs[main.name], y[main.name]))

    def _check_needs(self, shared: tuple[str, ...], last: tuple[str, ...], meta: Any, epoch: int | None) -> None:
        method, reads = type(self.weighting).__name__, self.weighting.reads
        if not OF_SHARED.isdisjoint(reads) and not shared:
            raise ValueError(f"shared: all its parameters are frozen, but {method} reads their gradients")
        if "last_norms" in reads and not last:
            raise ValueError(f"last: all its parameters are frozen, but {method} reads their gradients")
        if meta is None and self.weighting.uses_meta:
            raise ValueError(f"meta is None, but {method} looks at a held-out batch: pass meta=(x, y)")
        if meta is not None and len(meta) != 2:
            raise ValueError(f"meta has {len(meta)} parts, expected a pair (x, y)")
        if "epoch" in reads and epoch is None:
            raise ValueError(f"epoch is None, but {method} reads it: pass epoch=, counted from 0")
        if self.lr is None and ("lr" in reads or ("gains" in reads and self.weighting.fake_step(None) is None)):
            raise ValueError(f"lr is None, but {method} reads the learning rate: pass Weigher(..., lr=)")

    def _contexts(self) -> list[Callable[[], contextlib.AbstractContextManager]]:
        """What the forward pass runs under: the caller's autocast, and kernels that a method can differentiate."""
        kind = self._device.type
        dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        contexts = [functools.partial(torch.autocast, kind, dtype, enabled, cache_enabled=False)]
        reads = self.weighting.reads
        twice = "implicit_alignment" in reads or (self.weighting.penalises and "gramian" in reads)
        if "alignment" in reads or twice:
            contexts.append(functools.partial(sdpa_kernel, SDPBackend.MATH))
            if any(isinstance(module, nn.RNNBase) for module in self.model.modules()):
                contexts.append(functools.partial(torch.backends.cudnn.flags, enabled=False))
        return contexts

    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser is to learn for the weighting, beside the model; empty for most methods."""
        return [] if self._learned is None else [self._learned]

    def state_dict(self) -> dict[str, Any]:
        """The weighting's memory, learned weights and random numbers, as strings, lists and tensors."""
        return {
            "weighting": type(self.weighting).__name__,
            "state": [leaf.detach().clone() for leaf in tree_flatten(self._state)[0]],
            "learned": [value.detach().clone() for value in self.parameters()],
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a :meth:`state_dict`.

        Raises:
            ValueError: it belongs to another weighting or to another number of tasks.
        """
        leaves, form = tree_flatten(self._state)
        wanted = _outline(type(self.weighting).__name__, leaves, self.parameters())
        found = _outline(state.get("weighting"), state.get("state", ()), state.get("learned", ()))
        if found != wanted:
            raise ValueError(f"the state is of {found}, expected one of {wanted}")
        self._state = tree_unflatten(
            [new.to(old, copy=True) for old, new in zip(leaves, state["state"], strict=True)], form
        )
        with torch.no_grad():
            for old, new in zip(self.parameters(), state["learned"], strict=True):
                old.copy_(new)
        self._generator.set_state(state["generator"].cpu())


class _Run:
    """The model on one batch as a function of its parameters, the same function at every call.

    Every call draws the same random numbers (dropout) and starts from the same buffers. With
    ``updates``, the first call is the training pass and updates the model's own buffers; all other
    calls work on copies. If the first call raises (an operator without forward mode), random
    numbers and buffers are as before, and the next call counts as the first.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Params,
        x: Any,
        *,
        updates: bool,
        buffers: Params,
        contexts: Sequence[Callable[[], contextlib.AbstractContextManager]],
    ) -> None:
        self.model, self.parameters, self.updates = model, parameters, updates
        self.buffers, self.contexts = buffers, contexts
        self.args, self.kwargs = _arguments(x)
        self.generators = [torch.default_generator]
        device = next(iter(parameters.values())).device
        if device.type == "cuda":
            self.generators.append(torch.cuda.default_generators[device.index])
        self.replay: list[Tensor] | None = None

    def __call__(self, own: Params, read: Callable[[Mapping[str, Tensor]], Tensor]) -> Tensor:
        """What ``read`` makes of the outputs at the parameters ``own``, and the model's own for the rest."""
        swapped = {name: value for name, value in own.items() if value is not self.parameters[name]}
        before = [generator.get_state() for generator in self.generators]
        first = self.replay is None
        if not (first and self.updates):
            swapped.update({name: value.clone() for name, value in self.buffers.items()})
        if not first:
            self._set_random(self.replay)
        try:
            found = read(self._outputs(swapped))
        except Exception:
            self._set_random(before)
            if first:
                for name, value in self.buffers.items():
                    self.model.get_buffer(name).copy_(value)
            raise
        if first:
            self.replay = before
        else:
            self._set_random(before)
        return found

    def _set_random(self, states: Sequence[Tensor]) -> None:
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)

    def _outputs(self, swapped: Params) -> dict[str, Tensor]:
        with contextlib.ExitStack() as stack:
            for context in self.contexts:
                stack.enter_context(context())
            if torch.is_grad_enabled() and not swapped.keys().isdisjoint(self.parameters):
                stack.enter_context(disable_saved_tensors_hooks(NO_CHECKPOINTING))
            if swapped:
                outputs = functional_call(self.model, swapped, self.args, self.kwargs)
            else:
                outputs = self.model(*self.args, **self.kwargs)
        if not isinstance(outputs, Mapping):
            raise TypeError(f"the model returned a {type(outputs).__name__}, expected outputs by task name")
        return {name: _wide(output) for name, output in outputs.items()}


def _losses(run: _Run, tasks: Sequence[Task], targets: Packed, own: Params) -> Tensor:
    return run(own, lambda outputs: per_sample_losses(tasks, outputs, targets, training=True))


def _columns(run: _Run, tasks: Sequence[Task], targets: Packed, own: Params) -> list[Tensor]:
    return run(own, lambda outputs: separate_losses(tasks, outputs, targets, training=True))


def _wide(output: Any) -> Any:
    """Half-precision outputs as float32, so that losses are computed in float32."""
    half = isinstance(output, Tensor) and output.dtype in (torch.bfloat16, torch.float16)
    return output.float() if half else output


def _arguments(x: Any) -> tuple[tuple, dict[str, Any]]:
    """Positional and keyword arguments of the model; a batch sampler's list counts as a tuple."""
    if isinstance(x, Mapping):
        return (), dict(x)
    return (tuple(x) if type(x) in (tuple, list) else (x,)), {}


def _packed(tasks: Sequence[Task], targets: Mapping[str, Tensor], where: str) -> Packed:
    """Checked and packed targets; values are read on the CPU only."""
    if not isinstance(targets, Mapping):
        raise TypeError(f"{where}: the targets are a {type(targets).__name__}, expected a dict by task name")
    known = [(task, targets[task.name]) for task in tasks if task.name in targets]
    size = next((len(target) for _, target in known if isinstance(target, Tensor) and target.ndim), 0)
    try:
        for task, target in known:
            task.check(target, size, values=not isinstance(target, Tensor) or target.device.type == "cpu")
        return pack(tasks, targets)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from None


def _names(model: nn.Module, part: Shared, argument: str) -> tuple[str, ...]:
    """Names of the parameters of a part of the model, in the model's order."""
    expected = "a module of the model, its parameters, or names of parameters or submodules"
    if isinstance(part, (str, Tensor)) or not isinstance(part, (nn.Module, Iterable)):
        raise TypeError(f"{argument} is a {type(part).__name__}, expected {expected}")
    chosen = set()
    for item in part.parameters() if isinstance(part, nn.Module) else part:
        if isinstance(item, str):
            every = model.named_parameters(remove_duplicate=False)
            found = {id(value) for name, value in every if name == item or name.startswith(f"{item}.")}
            if not found:
                raise ValueError(f"{argument}: the model has no parameter or part with parameters named {item!r}")
            chosen |= found
        elif isinstance(item, Tensor):
            chosen.add(id(item))
        else:
            raise TypeError(f"{argument} holds a {type(item).__name__}, expected {expected}")
    names = {id(value): name for name, value in model.named_parameters()}
    if not chosen:
        raise ValueError(f"{argument} holds no parameters, expected {expected}")
    if not chosen <= names.keys():
        raise ValueError(f"{argument} holds parameters that are not the model's, expected {expected}")
    return tuple(name for key, name in names.items() if key in chosen)


def _last_module(names: Sequence[str]) -> tuple[str, ...]:
    """Those of the names that belong to the same module as the last one."""
    return tuple(name for name in names if name.rpartition(".")[0] == names[-1].rpartition(".")[0])


def _outline(method: str | None, state: Iterable[Tensor], learned: Iterable[Tensor]) -> str:
    shapes = [tuple(value.shape) for value in (*state, *learned)]
    return f"{method} with tensors of shapes {shapes}"
