"""A batch spread over the processes of ``torch.distributed``, as one: rows gathered, gradients summed."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

Gradients = dict[str, Tensor | None]


def several() -> bool:
    """Whether a process group of more than one process is on."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class Rows:
    """The rows of one batch, rank after rank; without a process group just this process's.

    Args:
        count: how many of them this process has, which may differ from rank to rank.
        device: of the tensors to be gathered.

    Attributes:
        count: how many all processes have together.
        own: which of them are this process's.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self.apart, self.own, self.count = several(), slice(0, count), count
        if self.apart:
            rank, counts = dist.get_rank(), torch.zeros(dist.get_world_size(), dtype=torch.int64, device=device)
            counts[rank] = count
            dist.all_reduce(counts)
            ends = counts.cumsum(0).tolist()
            self.own, self.count = slice(ends[rank] - count, ends[rank]), ends[-1]

    def gather(self, mine: Tensor) -> Tensor:
        """All processes' rows (n, ...) from this one's; a gradient, forward or backward, takes the same way."""
        if not self.apart:
            return mine
        if mine.dtype == torch.bool:
            return self.gather(mine.byte()).bool()
        return _Gather.apply(mine, self)


def total(own: Gradients, parameters: dict[str, Tensor]) -> Gradients:
    """Gradients summed over all processes, None where no process has one.

    Differentiable: a function of the sum has this process's share of its gradient, as its own gradients are
    shares of the sum.

    Args:
        own: of this process, by name of the parameter, None for one that is not reached.
        parameters: the parameters, in the same order in every process.
    """
    found = [own[name] for name in parameters]
    values = parameters.values()
    parts = [torch.zeros_like(value) if part is None else part for part, value in zip(found, values, strict=True)]
    reached = parts[0].new_tensor([part is not None for part in found])
    flat = _Sum.apply(torch.cat([*(part.flatten() for part in parts), reached]))
    *sums, reached = flat.split([*(part.numel() for part in parts), len(parts)])
    summed: Gradients = {
        name: value.view_as(part).to(part.dtype) for name, value, part in zip(parameters, sums, parts, strict=True)
    }
    if any(value is None for value in own.values()):
        summed |= {name: None for name, count in zip(parameters, reached.tolist(), strict=True) if not count}
    return summed


def in_any(flag: bool, device: torch.device) -> bool:
    """Whether the flag is up in any process."""
    return bool(Rows(int(flag), device).count)


class _Gather(torch.autograd.Function):
    """Rows to the places of this process among zeros, summed over processes."""

    @staticmethod
    def forward(ctx, mine, rows):
        ctx.rows = rows
        whole = mine.new_zeros(rows.count, *mine.shape[1:])
        whole[rows.own] = mine
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def jvp(ctx, tangent, _):
        return _Gather.apply(tangent, ctx.rows)

    @staticmethod
    def backward(ctx, slope):
        return slope[ctx.rows.own], None


class _Sum(torch.autograd.Function):
    """The sum over processes, in place; its gradient is passed on as it is."""

    @staticmethod
    def forward(ctx, flat):
        ctx.mark_dirty(flat)
        dist.all_reduce(flat)
        return flat

    @staticmethod
    def backward(ctx, slope):
        return slope
