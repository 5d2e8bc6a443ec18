"""A model on one batch as a function of its parameters, random numbers and buffers included."""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from mtlkit.gradients import Params
from mtlkit.weighting import Weighting

Context = Callable[[], contextlib.AbstractContextManager]
Read = TypeVar("Read")

NO_CHECKPOINTING = "this weighting runs the model at swapped parameters: switch gradient checkpointing off"


class Replay:
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
        contexts: Sequence[Context],
    ) -> None:
        self.model, self.parameters, self.updates = model, parameters, updates
        self.buffers, self.contexts = buffers, contexts
        self.args, self.kwargs = _arguments(x)
        self.generators = [torch.default_generator]
        device = next(iter(parameters.values())).device
        if device.type == "cuda":
            self.generators.append(torch.cuda.default_generators[device.index])
        self.replay: list[Tensor] | None = None

    def __call__(self, own: Params, read: Callable[[Mapping[str, Tensor]], Read]) -> Read:
        """What ``read`` makes of the outputs at the parameters ``own``, and the model's own for the rest."""
        swapped = {name: value for name, value in own.items() if value is not self.parameters[name]}
        before = [generator.get_state() for generator in self.generators]
        first = self.replay is None
        if not (first and self.updates):
            swapped.update({name: value.clone() for name, value in self.buffers.items()})
        if self.replay is not None:
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
            raise TypeError(
                f"the model returned a {type(outputs).__name__}, expected outputs by task name, such as "
                "{'price': tensor, 'sold': tensor}"
            )
        return {name: _wide(output) for name, output in outputs.items()}


def contexts(weighting: Weighting, model: nn.Module, device: str) -> list[Context]:
    """What the forward pass runs under: the caller's autocast, and what a method can differentiate."""
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    found: list[Context] = [functools.partial(torch.autocast, device, dtype, enabled, cache_enabled=False)]
    if "torch._dynamo" in sys.modules and any(request.of_meta or request.of_tasks for request in weighting.reads):
        found.append(functools.partial(torch.compiler.set_stance, "force_eager"))
    if any(request.bends for request in weighting.reads):
        found.append(functools.partial(sdpa_kernel, SDPBackend.MATH))
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            found.append(functools.partial(torch.backends.cudnn.flags, enabled=False))
    return found


def uncompiled(function: Callable) -> Callable:
    """The function as it is, also within a program that ``torch.compile`` traces; its import waits until then."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if "torch._dynamo" in sys.modules:
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return run


def check_inputs(x: Any, where: str) -> None:
    """Refuse tables, and warn of NaN in inputs on the CPU."""
    args, kwargs = _arguments(x)
    for item in (*args, *kwargs.values()):
        if hasattr(item, "to_numpy"):
            raise TypeError(
                f"{where}: the inputs are a {type(item).__name__}, expected what the model takes, such as "
                "torch.tensor(table.to_numpy(), dtype=torch.float32)"
            )
        plain = isinstance(item, Tensor) and item.layout == torch.strided and item.is_floating_point()
        if plain and item.device.type == "cpu":
            rows = item.isnan().nonzero()
            if len(rows):
                warnings.warn(f"{where}: NaN in the inputs, first in row {rows[0, 0]} of the batch", stacklevel=2)


def _arguments(x: Any) -> tuple[tuple, dict[str, Any]]:
    """Positional and keyword arguments of the model; a batch sampler's list counts as a tuple."""
    if isinstance(x, Mapping):
        return (), dict(x)
    return (tuple(x) if type(x) in (tuple, list) else (x,)), {}


def _wide(output: Any) -> Any:
    """Half-precision outputs as float32, so that losses are computed in float32."""
    half = isinstance(output, Tensor) and output.dtype in (torch.bfloat16, torch.float16)
    return output.float() if half else output
