"""Weigh the losses in the user's own training loop, for any module that returns a dict of outputs."""

from __future__ import annotations

import functools
import math
import numbers
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_leaves, tree_structure, tree_unflatten

from mtlkit.gradients import Params, mean_losses
from mtlkit.measure import Alignment, LastNorms, Metric, Problem, no_meta_batch, score
from mtlkit.memory import prefers_two_passes
from mtlkit.models.base import of_last_module
from mtlkit.ranks import Rows, in_any, several, total
from mtlkit.replay import Replay, check_inputs, contexts, uncompiled
from mtlkit.step import step
from mtlkit.tasks import Packed, Task, check_tasks, labelled_by_task, pack, per_sample_losses, separate_losses
from mtlkit.weighting import Weighting

Shared = nn.Module | Iterable[nn.Parameter] | Iterable[str]
ASKED = ("regression", "binary")
"""Kinds of task that a weighting may ask for."""


class Weigher(nn.Module):
    """Weighted loss of one batch after the other, for a loop that the user writes.

    A call runs the model on the batch and returns a scalar whose ``backward()`` gives the step's
    gradients: accumulate, scale or clip them as usual. The call itself leaves every ``.grad`` alone.

    Measuring and training share their dropout masks, and buffers such as BatchNorm's running
    statistics are updated once per call, by the training batch. The meta batch runs in the model's
    current mode and updates nothing. Where a method differentiates in forward mode or twice,
    attention runs on PyTorch's math kernel, and recurrent layers without cuDNN.

    Methods that look beyond the plain gradients run the model at swapped parameters, with
    ``torch.func.functional_call``, and uncompiled if it is compiled; the others keep what ``torch.compile`` made. A
    scripted model may not allow that, nor one with gradient checkpointing, which would recompute at other parameters.

    The Weigher is a module of its own beside the model, which is none of its submodules. Its
    ``parameters()`` are what the optimiser is to learn for the weighting (``learned``, for most
    methods nothing) and its ``state_dict`` is the weighting's memory, what is learned and the state of
    its random numbers, in tensors. It follows the model to another device or precision.

    *Several processes.* While ``torch.distributed`` has a process group of more than one, the batches of all processes
    count as one: losses, gradients, gains and weights are those of the global batch, means are taken over its labelled
    samples, and loss and gradients are the same in every process. The call itself sums the gradients, with or without
    DistributedDataParallel around the model, whose own averaging of equal gradients changes nothing; ``no_sync`` is of
    no use. Beside the plain gradient, a method sums what it reads: T gradients for a Gramian or gains, the meta
    gradient. Every process must make the same calls, from the same parameters (DistributedDataParallel sees to it) and
    ``seed``. BatchNorm and dropout stay each process's own, as there. As the gradients are computed within the call, a
    ``GradScaler`` scales them afterwards: prefer bfloat16 to float16.

    *Gradient accumulation.* Every call is a batch of its own: its weights compare samples and tasks
    within the call, sample weights sum to 1 in it, means count its labels, and the weighting's memory
    moves on by one step. The k losses, each divided by k, therefore give the gradient of the k times
    larger batch only where weights do not depend on the batch and every call has equally many labels,
    as with ``Uniform``. To weigh a larger batch as a whole, spread it over processes.

    A model with a method ``penalty``, from its trainable parameters by name to a number (), has that added to
    the weighted loss (:func:`mtlkit.models.taps`).

    Args:
        model: returns a mapping of outputs by task name. Parameters that do not require a gradient are
            left out, at every call anew.
        tasks: the tasks, main task first.
        weighting: the method, such as ``mtlkit.SLGrad()``.
        shared: the part that all tasks share: a module of the model, parameters of it, or names of
            parameters or submodules.
        last: the last shared layer, given likewise, for a method that reads gradients there; the
            last module of the shared part that holds trainable parameters when None.
        lr: the optimiser's learning rate, for a method whose fake steps take it; assign ``weigher.lr`` when it changes.
        seed: of the weighting's own random numbers, the same in all processes.

    Attributes:
        weights: of the last call, (T,) for mean losses or (B, T) for this process's samples; None before.
        learned: what the optimiser learns for the weighting, or None.

    Raises:
        ValueError: an empty or unknown shared part, a model without parameters, tasks of one name, a
            model that holds a DistributedDataParallel inside.
        TypeError: ``tasks`` are no tasks, ``weighting`` is not a Weighting, or ``shared`` or ``last``
            nothing of the above.

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

    tasks: tuple[Task, ...]
    weighting: Weighting
    lr: float | None
    weights: Tensor | None
    learned: nn.Parameter | None
    _held: tuple[nn.Module]
    _shared: tuple[str, ...]
    _last: tuple[str, ...] | None
    _leaves: list[str]
    _generator: torch.Generator
    _two_pass: bool | None

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
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is a {type(model).__name__}, expected a torch.nn.Module")
        if not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**63:
            raise ValueError(f"seed is {seed!r}, expected an integer of at least 0")
        if lr is not None and not (isinstance(lr, numbers.Real) and 0 <= lr < math.inf):
            raise ValueError(f"lr is {lr!r}, expected None or a positive number")
        super().__init__()
        model = model.module if isinstance(model, DistributedDataParallel) else model
        if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
            raise ValueError("the model holds a DistributedDataParallel, expected it outermost or not at all")
        self._held = (model,)  # a tuple, so that it is not registered
        self.tasks, self.weighting, self.lr = check_tasks(tasks), weighting, lr
        first = next(model.parameters(), None)
        if first is None:
            raise ValueError("the model has no parameters")
        self._shared = _names(model, shared, "shared")
        self._last = None if last is None else _names(model, last, "last")
        like = first.new_zeros((), dtype=_dtype_of(first))
        leaves, _ = tree_flatten_with_path(weighting.init(len(self.tasks), like))
        self._leaves = ["state" + re.sub(r"\W+", "_", keystr(path)) for path, _ in leaves]
        for name, (_, leaf) in zip(self._leaves, leaves, strict=True):
            self.register_buffer(name, leaf.clone())
        learned = weighting.learn(len(self.tasks), like)
        self.learned = None if learned is None else nn.Parameter(learned)
        for kind in ASKED:
            is_kind = torch.tensor([task.kind == kind for task in self.tasks], device=first.device)
            self.register_buffer(f"_{kind}", is_kind, persistent=False)
        self._generator = torch.Generator().manual_seed(int(seed))
        self._two_pass = None
        self.weights = None
        self.register_load_state_dict_pre_hook(_refuse_another)

    @property
    def model(self) -> nn.Module:
        """The model that it weighs, without a DistributedDataParallel around it."""
        return self._held[0]

    @uncompiled
    def forward(
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
            ValueError: a target or output that is missing or does not fit its task (values are checked
                on the CPU only, as reading them would stall a GPU); no meta batch, label of the main
                task in it, epoch or learning rate for a method that needs it; a shared part without
                a trainable parameter, for a method that needs gradients of it.
            TypeError: targets or outputs that are not mappings of tensors; a table as inputs.
            RuntimeError: gradients are switched off; gradient checkpointing in the model, for a method
                that swaps parameters.

        Warns:
            UserWarning: NaN in the inputs, where they are on the CPU.
        """
        main = self.tasks[0].name
        if not torch.is_grad_enabled():
            raise RuntimeError(
                "gradients are switched off (torch.no_grad or inference_mode), but a Weigher weighs training batches: "
                f"in validation, compute the main task's loss from model(x)[{main!r}] directly"
            )
        parameters: Params = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        if not parameters:
            raise ValueError("the model has no trainable parameters")
        shared = tuple(name for name in self._shared if name in parameters)
        last = of_last_module(shared) if self._last is None else tuple(n for n in self._last if n in parameters)
        self._check_needs(shared, last, meta, epoch)
        first = next(iter(parameters.values()))
        self._follow(first)
        run = functools.partial(
            Replay,
            self.model,
            parameters,
            buffers={name: value.detach().clone() for name, value in self.model.named_buffers()},
            contexts=contexts(self.weighting, self.model, first.device.type),
        )
        targets = _packed(self.tasks, y, "y")
        check_inputs(x, "x")
        own = labelled_by_task(self.tasks, targets)
        if meta is not None:
            x_meta, y_meta = meta
            packed_meta = _packed(self.tasks[:1], y_meta, "meta")
            check_inputs(x_meta, "meta")
        rows = Rows(len(own), first.device)
        if not rows.count:
            raise ValueError("y: the batch has no rows, expected at least one")
        present = rows.gather(own)
        training = run(x, updates=True)
        main_loss, scored = None, {"batch": (training, y, rows)}
        if meta is not None and self.weighting.uses_meta:
            scored["meta"] = run(x_meta, updates=False), y_meta, self._meta_rows(packed_meta)
            main_loss = self._main_loss(*scored["meta"])
        losses = functools.partial(per_sample_losses, self.tasks, targets=targets, training=True)
        columns = functools.partial(separate_losses, self.tasks, targets=targets, training=True)
        if self._two_pass is None:
            trial = run(x, updates=False)
            with torch.random.fork_rng(), torch.autocast(first.device.type, enabled=False):
                large = self.weighting.asks(Alignment) and prefers_two_passes(
                    lambda own: trial(own, losses), parameters
                )
            self._two_pass = in_any(large, first.device)
        problem = Problem(
            parameters,
            shared,
            last,
            losses=lambda own: rows.gather(training(own, losses)),
            meta_loss=main_loss or no_meta_batch,
            score=lambda own, request: self._score(own, request.metric, *scored[request.on]),
            lr=self.lr or 0.0,
            two_pass=self._two_pass,
            columns=lambda own: [rows.gather(column) for column in training(own, columns)],
            total=total if several() else None,
            penalty=penalty if callable(penalty := getattr(self.model, "penalty", None)) else None,
        )
        given = {"present": present, "learned": self.learned, **{kind: getattr(self, f"_{kind}") for kind in ASKED}}
        asked = {request.field for request in self.weighting.reads}
        if "noise" in asked:
            noise = torch.randn(len(self.tasks), generator=self._generator)
            given["noise"] = noise.to(first.device, _dtype_of(first))
        if "epoch" in asked:
            given["epoch"] = torch.tensor(epoch, device=first.device)
        form = tree_structure(self.weighting.init(len(self.tasks), torch.zeros(())))
        state = tree_unflatten([getattr(self, name) for name in self._leaves], form)
        with torch.autocast(first.device.type, enabled=False):
            taken = step(self.weighting, problem, state, **given)
        for name, leaf in zip(self._leaves, tree_leaves(taken.state), strict=True):
            setattr(self, name, leaf.detach().clone())
        self.weights = taken.weights[rows.own] if taken.weights.ndim == 2 else taken.weights
        return taken.objective

    def _meta_rows(self, targets: Packed) -> Rows:
        """The rows of the meta batch, of which one at least must have a label of the main task."""
        own = labelled_by_task(self.tasks[:1], targets)
        rows = Rows(len(own), own.device)
        present = rows.gather(own)
        if not rows.count or (own.device.type == "cpu" and not present.any()):
            raise ValueError(
                f"meta: task {self.tasks[0].name!r} has no label in a batch of {rows.count} rows, but "
                f"{type(self.weighting).__name__} looks at its loss there: expected at least one"
            )
        return rows

    def _main_loss(self, run: Replay, y: Mapping[str, Tensor], rows: Rows) -> Callable[[Params], Tensor]:
        """The main task's mean loss () on a batch, as a function of the parameters."""
        main = self.tasks[:1]
        targets = pack(main, y)
        present = rows.gather(labelled_by_task(main, targets))
        return lambda own: mean_losses(
            rows.gather(run(own, lambda outputs: per_sample_losses(main, outputs, targets))), present
        )[0]

    def _score(self, own: Params, metric: Metric | None, run: Replay, y: Mapping[str, Tensor], rows: Rows) -> Tensor:
        """The main task's metric () on a batch, to be lowered."""
        main = self.tasks[0]
        if metric is None:
            return self._main_loss(run, y, rows)(own)
        target = rows.gather(y[main.name])
        return run(own, lambda outputs: score(metric, main, rows.gather(outputs[main.name]), target))

    def _follow(self, first: Tensor) -> None:
        """Own tensors to where the model is now."""
        dtype = _dtype_of(first)
        tensors = [*self.parameters(), *self.buffers()]
        if any(t.device != first.device or (t.is_floating_point() and t.dtype != dtype) for t in tensors):
            self.to(first.device, dtype)

    def _check_needs(self, shared: tuple[str, ...], last: tuple[str, ...], meta: Any, epoch: int | None) -> None:
        method, reads = type(self.weighting).__name__, self.weighting.reads
        if any(request.of_shared for request in reads) and not shared:
            raise ValueError(f"shared: all its parameters are frozen, but {method} reads their gradients")
        if self.weighting.asks(LastNorms) and not last:
            raise ValueError(f"last: all its parameters are frozen, but {method} reads their gradients")
        if meta is None and self.weighting.uses_meta:
            raise ValueError(f"meta is None, but {method} looks at a held-out batch: pass meta=(x, y)")
        if meta is not None and len(meta) != 2:
            raise ValueError(f"meta has {len(meta)} parts, expected a pair (x, y)")
        if epoch is not None and not (isinstance(epoch, numbers.Integral) and epoch >= 0):
            raise ValueError(f"epoch is {epoch!r}, expected None or a number from 0")
        if any(request.field == "epoch" for request in reads) and epoch is None:
            raise ValueError(f"epoch is None, but {method} reads it: pass epoch=, counted from 0")
        if self.lr is None and any(request.of_lr for request in reads):
            raise ValueError(f"lr is None, but {method} reads the learning rate: pass Weigher(..., lr=)")

    def get_extra_state(self) -> Tensor:
        """The state of the random numbers and the weighting's name, in bytes: any file format takes a tensor."""
        name = type(self.weighting).__name__.encode()
        return torch.cat([self._generator.get_state(), torch.tensor(list(name), dtype=torch.uint8)])

    def set_extra_state(self, state: Tensor) -> None:
        """Continue the random numbers."""
        self._generator.set_state(state[: len(self._generator.get_state())].cpu().clone())

    def __getstate__(self) -> dict[str, Any]:
        # A generator itself does not survive the way to a spawned process.
        return self.__dict__ | {"_generator": bytes(self._generator.get_state().tolist())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        generator = torch.Generator()
        generator.set_state(torch.tensor(list(state["_generator"]), dtype=torch.uint8))
        super().__setstate__(state | {"_generator": generator})


def _refuse_another(weigher: Weigher, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Before loading: ValueError for the state of another weighting or another number of tasks."""
    own = weigher.state_dict(prefix=prefix)
    key = f"{prefix}_extra_state"
    if key in state:
        found, wanted = (_outline(s, prefix, len(weigher._generator.get_state())) for s in (state, own))
        if found != wanted:
            raise ValueError(f"the state is of {found}, expected one of {wanted}")


def _outline(state: Mapping[str, Tensor], prefix: str, start: int) -> str:
    name = bytes(state[f"{prefix}_extra_state"][start:].tolist()).decode()
    own = sorted(key for key in state if key.startswith((f"{prefix}state", f"{prefix}learned")))
    return f"{name} with tensors of shapes {[tuple(state[key].shape) for key in own]}"


def _dtype_of(parameter: Tensor) -> torch.dtype:
    """Of what the weighting computes: the model's, float32 at least."""
    return torch.promote_types(parameter.dtype, torch.float32)


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
