"""Training with ``mtlkit.Weigher``: one process with whole batches, or one of several with its rows of them."""

import datetime

import torch
import torch.distributed as dist
from methods import METHODS
from networks import LR, Network
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import mtlkit as mtl

STEPS, BATCH, META = 5, 8, 6
HALVES = (slice(0, 4), slice(4, 8)), (slice(0, 3), slice(3, 6))
UNEVEN = (slice(0, 7), slice(7, 8)), (slice(0, 0), slice(0, 6))
SETTINGS = {
    "plain model": (HALVES, False, 1),
    "wrapped model, uneven rows": (UNEVEN, True, 1),
    "two calls a step": (HALVES, False, 2),
}


def network():
    return Network(3, 3, STEPS, BATCH, META)


def rows_of(part, x, y):
    return x[part], {name: label[part] for name, label in y.items()}


def parts(mine, calls):
    """This process's rows of each of the calls of a step, between which the batch is divided."""
    return [[mine]] if calls == 1 else [[slice(mine.start // 2 + 4 * k, mine.stop // 2 + 4 * k)] for k in range(calls)]


def train(make, setting, rank=None):
    """Loss and weights of every call, and what is left: parameters, learned weights, state."""
    rows, wrapped, calls = SETTINGS[setting]
    mine, mine_meta = (slice(0, BATCH), slice(0, META)) if rank is None else (rows[0][rank], rows[1][rank])
    net = network()
    model = net.model
    given = DistributedDataParallel(model) if wrapped and rank is not None else model
    weigh = mtl.Weigher(given, net.tasks, make(3), shared=model.trunk, lr=LR)
    descent = torch.optim.SGD([*model.parameters(), *weigh.parameters()], lr=LR, momentum=0.9, weight_decay=0.01)
    found = {"losses": [], "weights": []}
    for k in range(STEPS):
        meta = rows_of(mine_meta, net.x_meta[k], {name: label[k] for name, label in net.y_meta.items()})
        batch = net.x[k], {name: label[k] for name, label in net.y.items()}
        descent.zero_grad()
        for [part] in parts(mine, calls):
            loss = weigh(*rows_of(part, *batch), meta=meta, epoch=k // 2)
            (loss / calls).backward()
            found["losses"].append(loss.detach())
            found["weights"].append(weigh.weights)
        descent.step()
        with torch.no_grad():
            given(batch[0])
    state = {name: value for name, value in weigh.state_dict().items() if name != "learned"}
    return found | {"parameters": dict(model.state_dict()), "learned": weigh.learned, "state": state}


class Both(nn.Module):
    """Model and Weigher in one module, as a framework wraps them."""

    def __init__(self, weighting):
        super().__init__()
        net = network()
        self.model = net.model
        self.weigh = mtl.Weigher(self.model, net.tasks, weighting, shared=self.model.trunk, lr=LR)

    def forward(self, *batch, **options):
        return self.weigh(*batch, **options)


def train_inside(make, rank=None):
    """The same for DistributedDataParallel around model and Weigher together."""
    both, net = Both(make(3)), network()
    outer = both if rank is None else DistributedDataParallel(both)
    mine, mine_meta = (slice(0, BATCH), slice(0, META)) if rank is None else (part[rank] for part in HALVES)
    descent = torch.optim.SGD(both.parameters(), lr=LR, momentum=0.9, weight_decay=0.01)
    for k in range(STEPS):
        meta = rows_of(mine_meta, net.x_meta[k], {name: label[k] for name, label in net.y_meta.items()})
        loss = outer(*rows_of(mine, net.x[k], {n: y[k] for n, y in net.y.items()}), meta=meta, epoch=k // 2)
        descent.zero_grad()
        loss.backward()
        descent.step()
    return dict(both.state_dict())


class Loose(nn.Module):
    """A head that only some batches reach, and a part that none does."""

    def __init__(self):
        super().__init__()
        self.trunk, self.a, self.b, self.never = (nn.Linear(4, n).double() for n in (4, 1, 1, 1))

    def forward(self, x):
        features = self.trunk(x).tanh()
        b = self.b(features) if (x[:, 0] > 0).any() else features[:, :1].detach()
        return {"a": self.a(features), "b": b}


def train_loose(rank=None):
    torch.manual_seed(0)
    model = Loose()
    tasks = mtl.Task("a", "regression"), mtl.Task("b", "regression")
    x = torch.randn(8, 4, dtype=torch.float64)
    x[:4, 0], x[4:, 0] = x[:4, 0].abs(), -x[4:, 0].abs()
    y = {"a": x.sum(1), "b": x.prod(1)}
    descent = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    for weighting in (mtl.Uniform(), mtl.GradientCosine(), mtl.SLGrad()):
        part = slice(0, 8) if rank is None else HALVES[0][rank]
        weigh = mtl.Weigher(model, tasks, weighting, shared=model.trunk)
        descent.zero_grad()
        weigh(*rows_of(part, x, y), meta=(x, y)).backward()
        descent.step()
    return dict(model.state_dict())


def faults(rank):
    """What each process says of a meta batch without a label, and of one that only one process has."""
    net, said = network(), []
    weigh = mtl.Weigher(net.model, net.tasks, mtl.SLGrad(), shared=net.model.trunk)
    batch = net.x[1], {name: label[1] for name, label in net.y.items()}
    for labelled in ((), (1,)):
        main = torch.full((META,), float("nan" if rank not in labelled else 1.0), dtype=torch.float64)
        try:
            weigh(*batch, meta=(net.x_meta[1], {"t0": main}))
            said.append("")
        except ValueError as error:
            said.append(str(error))
    return said


def everything(rank=None):
    found = {
        (name, setting): train(method.make, setting, rank) for name, method in METHODS.items() for setting in SETTINGS
    }
    found |= {(name, "inside"): train_inside(method.make, rank) for name, method in METHODS.items()}
    found["loose"] = train_loose(rank)
    return found


def process(rank, folder):
    """One of two processes; leaves what it found in the folder."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/group", rank=rank, world_size=2, timeout=datetime.timedelta(minutes=2)
    )
    found = everything(rank)
    found["faults"] = faults(rank)
    dist.destroy_process_group()
    torch.save(found, folder / f"{rank}.pt")
