"""Training with ``mtlkit.Weigher``: one process with whole batches, or one of two with its rows of them."""

import datetime
from typing import NamedTuple

import torch
import torch.distributed as dist
from methods import METHODS, Method
from networks import LR, Network
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import mtlkit as mtl
from mtlkit import memory

STEPS, BATCH, META = 5, 8, 6


def median_error(output, target):
    """A metric of the whole batch that is no mean over parts of it."""
    return float((output.squeeze(1) - target).abs().median())


METHODS = METHODS | {
    f"HydaLearn, median on {on}": Method(lambda n, on=on: mtl.HydaLearn(0.5, on, median_error))
    for on in ("meta", "batch")
}


class Setting(NamedTuple):
    """How the two processes share the work.

    rows: each process's of the training batch and of the meta batch.
    wrapped: what stands in DistributedDataParallel: "model", "both" (model and Weigher in one module) or nothing.
    calls: of the Weigher in each step, which share its batch.
    opaque: whether the trunk has an operator without forward mode.
    fused: largest forward pass whose alignment is measured in one pass.
    """

    rows: tuple = (slice(0, 4), slice(4, 8)), (slice(0, 3), slice(3, 6))
    wrapped: str = ""
    calls: int = 1
    opaque: bool = False
    fused: int = memory.FUSED_BYTES


UNEVEN = (slice(0, 7), slice(7, 8)), (slice(0, 0), slice(0, 6))
SETTINGS = {
    "halves": Setting(),
    "uneven rows, wrapped model": Setting(rows=UNEVEN, wrapped="model"),
    "wrapped together": Setting(wrapped="both"),
    "two calls a step": Setting(calls=2),
    "differentiated twice": Setting(opaque=True),
    "two passes": Setting(fused=0),
}
OF_EACH_KIND = (
    "Uniform", "Uncertainty", "SLAW, paper", "GradNorm, paper", "OLAux", "PCGrad", "HydaLearn", "SLGrad, look-ahead",
    "OrthogonalGradients",
)  # fmt: skip
CASES = [(method, setting) for method in METHODS for setting in list(SETTINGS)[:2]]
CASES += [(method, setting) for method in OF_EACH_KIND for setting in list(SETTINGS)[2:4]]
CASES += [(method, setting) for method in ("SLGrad", "SLGrad, look-ahead") for setting in list(SETTINGS)[4:]]


class Opaque(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Twice(nn.Module):
    def forward(self, x):
        return Opaque.apply(x)


class Both(nn.Module):
    """Model and Weigher in one module, as a framework has them."""

    def __init__(self, model, weigh):
        super().__init__()
        self.model, self.weigh = model, weigh

    def forward(self, *batch, **options):
        return self.weigh(*batch, **options)


def take(rows, x, y):
    return x[rows], {name: label[rows] for name, label in y.items()}


def train(method, setting, rank=None):
    """Losses and weights of all calls, and what they leave: parameters and the weighting's state."""
    setting = SETTINGS[setting]
    mine, mine_meta = (part if rank is None else part[rank] for part in setting.rows)
    if rank is None:
        mine, mine_meta = slice(0, BATCH), slice(0, META)
    net = Network(3, 3, STEPS, BATCH, META)
    model = net.model
    if setting.opaque:
        model.trunk.append(Twice())
    given = DistributedDataParallel(model) if setting.wrapped == "model" and rank is not None else model
    weigh = mtl.Weigher(given, net.tasks, METHODS[method](3), shared=model.trunk, lr=LR)
    both = Both(model, weigh)
    call = DistributedDataParallel(both) if setting.wrapped == "both" and rank is not None else both
    descent = torch.optim.SGD(both.parameters(), lr=LR, momentum=0.9, weight_decay=0.01)
    found = {"losses": [], "weights": []}
    memory.FUSED_BYTES = setting.fused
    for k in range(STEPS):
        batch = net.x[k], {name: label[k] for name, label in net.y.items()}
        meta = take(mine_meta, net.x_meta[k], {name: label[k] for name, label in net.y_meta.items()})
        descent.zero_grad()
        for part in range(setting.calls):
            start, size = part * BATCH // setting.calls, BATCH // setting.calls
            rows = slice(start + mine.start // setting.calls, start + mine.stop // setting.calls)
            assert rows.stop <= start + size
            loss = call(*take(rows, *batch), meta=meta, epoch=k // 2)
            (loss / setting.calls).backward()
            found["losses"].append(loss.detach())
            found["weights"].append(weigh.weights)
        descent.step()
        with torch.no_grad():
            given(batch[0])  # as in validation
    memory.FUSED_BYTES = Setting().fused
    return found | {"state": dict(both.state_dict())}


class Loose(nn.Module):
    """One head is reached by rows with a positive x, another by none."""

    def __init__(self):
        super().__init__()
        self.trunk, self.a, self.b, self.never = (nn.Linear(4, n).double() for n in (4, 1, 1, 1))

    def forward(self, x):
        features, positive = self.trunk(x).tanh(), x[:, 0] > 0
        b = features.new_zeros(len(x), 1)
        if positive.any():
            b = b.index_put((positive,), self.b(features[positive]))
        return {"a": self.a(features), "b": b}


def train_loose(rank=None):
    """Parameters after a step of several methods; only process 0 reaches head b."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = Loose(), torch.randn(8, 4, dtype=torch.float64)
    tasks = mtl.Task("a", "regression"), mtl.Task("b", "regression")
    x[:, 0] = x[:, 0].abs() * torch.tensor([1, -1]).repeat_interleave(4)
    y = {"a": x.sum(1), "b": x.prod(1)}
    before = dict(copy_of(model))
    descent = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    for weighting in (mtl.Uniform(), mtl.GradientCosine(), mtl.SLGrad()):
        rows = slice(0, 8) if rank is None else Setting().rows[0][rank]
        weigh = mtl.Weigher(model, tasks, weighting, shared=model.trunk)
        descent.zero_grad()
        weigh(*take(rows, x, y), meta=take(rows, x, y)).backward()
        descent.step()
    return before, dict(copy_of(model))


def copy_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def what_is_said(rank):
    """Of meta batches without a label of the main task: in both processes, and in process 0 alone."""
    net, said = Network(3, 3, STEPS, BATCH, META), []
    weigh = mtl.Weigher(net.model, net.tasks, mtl.SLGrad(), shared=net.model.trunk)
    batch = net.x[1], {name: label[1] for name, label in net.y.items()}
    for labelled in ((), (1,)):
        main = torch.full((META,), 1.0 if rank in labelled else torch.nan, dtype=torch.float64)
        try:
            weigh(*batch, meta=(net.x_meta[1], {"t0": main}))
            said.append("")
        except ValueError as error:
            said.append(str(error))
    return said


def process(rank, folder, sent):
    """One of two processes, which leaves what it found in the folder."""
    torch.set_num_threads(1)
    limit = datetime.timedelta(minutes=5)
    dist.init_process_group("gloo", f"file://{folder}/group", rank=rank, world_size=2, timeout=limit)
    found = {case: train(*case, rank) for case in CASES}
    found |= {"loose": train_loose(rank), "said": what_is_said(rank), "sent": sent.state_dict()}
    dist.destroy_process_group()
    torch.save(found, folder / f"{rank}.pt")
