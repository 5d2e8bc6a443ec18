"""Peak memory of a piece of work, on the CPU or on a GPU."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


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
