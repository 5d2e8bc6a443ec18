"""Memory: the peak of a piece of work, on the CPU or on a GPU, and whether a forward pass is a large one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_memory(call: Callable[[], object], device: str | torch.device = "cpu") -> int:
    """Bytes of tensors alive at the worst moment of ``call()``, beyond those alive before it.

    On a CPU they are the allocations that PyTorch's profiler sees, which slows the call down: do not
    time it. Scratch space that a library such as oneDNN gets for itself within one operator is not
    among them. Memory from before that is freed meanwhile is not subtracted.

    Args:
        device: where the tensors are.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]"]
    live = peak = 0
    for change in sorted(changes, key=lambda event: event["ts"]):
        live += change["args"]["Bytes"]
        peak = max(peak, live)
    return peak


FUSED_BYTES = 100 * 2**20
"""Up to this size of a forward pass the alignment is measured together with the plain pass."""


class _Outputs(TorchDispatchMode):
    """Counts the bytes of all that is computed, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.bytes += sum(leaf.nbytes for leaf in tree_leaves(found) if isinstance(leaf, Tensor))
        return found


@torch.no_grad()
def prefers_two_passes(losses: Callable[[dict[str, Tensor]], Tensor], parameters: dict[str, Tensor]) -> bool:
    """Whether a forward pass computes so much that its tape should not be kept twice: :class:`mtlkit.measure.Problem`.

    A tape with tangents took 4.4 times the memory of a plain one on a ResNet-18; a dual pass without a
    tape is about as fast there. It runs ``losses`` once.
    """
    with _Outputs() as outputs:
        losses(parameters)
    return outputs.bytes > FUSED_BYTES
