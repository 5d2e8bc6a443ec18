"""Small random multi-task problems: as a ``Problem`` for the library, and as plain loops to check it by."""

import copy
import math

import torch
from torch import nn
from torch.func import functional_call

from mtlkit.gradients import mean_losses
from mtlkit.measure import Problem, score
from mtlkit.models import LowLevel, MultiTaskModel, initialise, multi_backbone, routed, taps
from mtlkit.tasks import Task, labelled_by_task, pack, per_sample_losses

KINDS = ("regression", "binary", "multiclass")
LR = 0.1
LAST = {
    "plain": ["trunk.2.weight", "trunk.2.bias"],
    "low level": ["trunk.0.weight", "trunk.0.bias"],
    "routed": ["trunk.2.weight", "trunk.2.bias"],
    "multi-backbone": ["trunk.0.2.weight", "trunk.0.2.bias", "trunk.1.2.weight", "trunk.1.2.bias"],
    "taps": ["trunk.2.weight", "trunk.2.bias"],
}
"""Architecture to the parameters of its last shared layer."""
THRESHOLD, STRENGTH = 0.1, 0.05


class Network:
    """One run: a model, its batches (one per step) and its meta batches, all drawn from ``seed``.

    Task 1 (or the only one) has a head of two layers. Labels are missing at random; in step 0 the last auxiliary
    has none at all, and in step 2 the main task has none.
    Low-level supervision: every other task, from task 1, has its head on the first layer.
    """

    def __init__(self, seed, n_tasks, steps=1, batch=5, meta=4, missing=0.3, dtype=torch.float64, architecture="plain"):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=generator, dtype=dtype)

        kinds = [KINDS[t % 3] for t in range(n_tasks)]
        self.tasks = tuple(Task(f"t{t}", k, n_classes=3 if k == "multiclass" else None) for t, k in enumerate(kinds))
        self.architecture = architecture
        low = architecture == "low level"
        width = {task.name: 5 if low and t % 2 else 3 for t, task in enumerate(self.tasks)}
        heads = {task.name: nn.Linear(width[task.name], task.n_outputs) for task in self.tasks}
        deep = self.tasks[min(1, n_tasks - 1)]
        heads[deep.name] = nn.Sequential(nn.Linear(width[deep.name], 2), nn.Tanh(), nn.Linear(2, deep.n_outputs))
        trunk = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.Tanh())
        build = {
            "plain": lambda model: model,
            "low level": lambda model: LowLevel(trunk, heads, {n: 1 if width[n] == 5 else 2 for n in heads}),
            "routed": lambda model: routed(model, 0.6),
            "multi-backbone": lambda model: multi_backbone(model, 2),
            "taps": lambda model: taps(model, THRESHOLD, STRENGTH),
        }[architecture]
        self.model = build(MultiTaskModel(trunk, heads)).to(dtype)
        initialise(self.model, generator)
        if architecture == "taps":  # away from its start, some layers on and some off
            for name, value in self.model.changes.named_parameters():
                value.data = normal(*value.shape) * (0.3 if name.endswith("score") else 1)
        self.masks = [route.mask.tolist() for route in self.model.routes] if architecture == "routed" else None
        self.parameters = {name: p.detach().clone().requires_grad_() for name, p in self.model.named_parameters()}
        self.x, self.x_meta = normal(steps, batch, 4), normal(steps, meta, 4)
        self.y, self.y_meta = {}, {}
        for y, rows in ((self.y, batch), (self.y_meta, meta)):
            for t, task in enumerate(self.tasks):
                absent = torch.rand(steps, rows, generator=generator) < missing
                absent[:, 0] = False
                if y is self.y and n_tasks > 1 and t == n_tasks - 1:
                    absent[0] = True
                if y is self.y and t == 0 and steps > 2:
                    absent[2] = True
                label = normal(steps, rows)
                if task.kind == "binary":
                    label = (label > 0).to(dtype)
                if task.kind == "multiclass":
                    label = torch.randint(3, (steps, rows), generator=generator)
                y[task.name] = torch.where(absent, -1 if task.kind == "multiclass" else math.nan, label)
        self.noise = normal(steps, n_tasks)

    def reordered(self, order):
        """The same problem with its tasks in another order (the main task stays first)."""
        other = copy.copy(self)
        other.tasks = tuple(self.tasks[t] for t in order)
        other.model = MultiTaskModel(self.model.trunk, {self.tasks[t].name: self.model.heads[t] for t in order})
        other.parameters = dict(other.model.named_parameters())
        other.noise = self.noise[:, order]
        return other

    def take(self, rows):
        """The same problem with these rows of every training batch."""
        other = copy.copy(self)
        other.x = self.x[:, rows]
        other.y = {name: label[:, rows] for name, label in self.y.items()}
        return other

    def batch(self, step, meta=False):
        x, y = (self.x_meta, self.y_meta) if meta else (self.x, self.y)
        return x[step], pack(self.tasks, {name: label[step] for name, label in y.items()})


def at_step(weighting, networks, step, parameters=None, learned=None, epoch=0, stacked=True):
    """The ``Problem`` and the given fields of a step, for a stack of networks or (not ``stacked``) just one.

    Args:
        parameters: name to (S, *) stacked parameters, or (*) of the one network; as initialised when None.
    """
    first = networks[0]
    model, tasks = first.model, first.tasks
    if parameters is None:
        parameters = initial(networks, stacked)

    def mapped(function):
        return torch.vmap(function) if stacked else function

    def join(values):
        return torch.stack(values) if stacked else values[0]

    def batch(meta):
        found = [network.batch(step, meta) for network in networks]
        return join([x for x, _ in found]), {names: join([y[names] for _, y in found]) for names in found[0][1]}

    (x, y), (x_meta, y_meta) = batch(False), batch(True)

    buffers = {n: join([net.model.get_buffer(n) for net in networks]) for n, _ in model.named_buffers()}

    def losses(own, x=x, y=y):
        run = mapped(lambda p, x, y: per_sample_losses(tasks, functional_call(model, p, (x,)), y))
        return run({**buffers, **parameters, **own}, x, y)

    def present(y=y):
        return mapped(lambda y: labelled_by_task(tasks, y))(y)

    def meta_loss(own, x=x_meta, y=y_meta):
        return mean_losses(losses(own, x, y), present(y))[..., 0]

    def of_metric(own, request):
        own = {**buffers, **parameters, **own}
        scores = []
        for s, network in enumerate(networks):
            p = {name: value[s] if stacked else value for name, value in own.items()}
            (xs, _), main = network.batch(step, request.on == "meta"), network.tasks[0].name
            target = (network.y_meta if request.on == "meta" else network.y)[main][step]
            scores.append(score(request.metric, network.tasks[0], functional_call(model, p, (xs,))[main], target))
        return join(scores)

    def of_request(own, request):
        if request.metric is not None:
            return of_metric(own, request)
        return meta_loss(own) if request.on == "meta" else meta_loss(own, x, y)

    shared = tuple(name for name in parameters if name.startswith("trunk."))
    problem = Problem(
        parameters,
        shared,
        model.last,
        losses,
        meta_loss,
        of_request,
        lr=LR,
        penalty=mapped(model.penalty) if hasattr(model, "penalty") else None,
    )
    given = {
        "present": present(),
        "noise": join([network.noise[step] for network in networks]),
        "epoch": join([torch.tensor(epoch) for _ in networks]),
        "binary": join([torch.tensor([task.kind == "binary" for task in tasks]) for _ in networks]),
        "regression": join([torch.tensor([task.kind == "regression" for task in tasks]) for _ in networks]),
        "learned": learned,
    }
    return problem, given


def initial(networks, stacked=True):
    """Initial parameters of the networks, leaves, (S, *) or (*)."""
    names = networks[0].parameters
    values = {n: [network.parameters[n].detach() for network in networks] for n in names}
    return {n: (torch.stack(v) if stacked else v[0].clone()).requires_grad_() for n, v in values.items()}


class Slow:
    """One step of one network by loops over samples and tasks: every loss and every gradient on its own.

    A score of TAPS stands in ``parameters`` as the indicator 1[s ≥ τ], by which it is differentiated.
    """

    def __init__(self, network, parameters, step, epoch=0, learned=None):
        self.network, self.step, self.epoch, self.learned = network, step, epoch, learned
        self.raw = {name: p.detach().clone() for name, p in parameters.items()}
        self.parameters = {
            name: ((p >= THRESHOLD).to(p.dtype) if name.endswith("score") else p.clone()).requires_grad_()
            for name, p in self.raw.items()
        }
        self.shared = [name for name in parameters if name.startswith("trunk.")]
        self.last = LAST[network.architecture]
        self.tasks = network.tasks
        self.T, self.B = len(network.tasks), network.x.shape[1]
        self.noise = network.noise[step].tolist()
        self.labelled = [[b for b in range(self.B) if self.loss(b, t) is not None] for t in range(self.T)]
        self.n = [len(rows) for rows in self.labelled]
        self.L = [sum(self.loss(b, t).item() for b in self.labelled[t]) / max(self.n[t], 1) for t in range(self.T)]

    def loss(self, b, t, meta=False):
        """ℓ_bt, or None without a label."""
        x, y = (self.network.x_meta, self.network.y_meta) if meta else (self.network.x, self.network.y)
        task = self.tasks[t]
        label = y[task.name][self.step, b]
        if label.isnan() if label.is_floating_point() else label == -1:
            return None
        output = self.output(x[self.step, b], t)
        if task.kind == "regression":
            return (output[0] - label) ** 2
        if task.kind == "binary":
            return -torch.log(torch.sigmoid(output[0] if label == 1 else -output[0]))
        return -torch.log(output.exp()[label] / output.exp().sum())

    def output(self, x, t):
        p, kind, masks = self.parameters, self.network.architecture, self.network.masks

        def layer(h, trunk, k):
            weight, bias = p[f"{trunk}.{k}.weight"], p[f"{trunk}.{k}.bias"]
            if kind == "taps":
                change = f"changes.{t}.{k // 2}"
                weight = weight + p[f"{change}.score"][0] * p[f"{change}.weight"]
                bias = bias + p[f"{change}.score"][0] * p[f"{change}.bias"]
            h = torch.tanh(weight @ h + bias)
            if masks is not None:
                h = torch.stack([unit if kept else 0 * unit for unit, kept in zip(h, masks[k // 2][t], strict=True)])
            return h

        def encode(trunk):
            h = layer(x, trunk, 0)
            return h if kind == "low level" and t % 2 else layer(h, trunk, 2)

        h = torch.cat([encode("trunk.0"), encode("trunk.1")]) if kind == "multi-backbone" else encode("trunk")
        head = f"heads.{t}"
        if f"{head}.0.weight" in p:
            h = torch.tanh(p[f"{head}.0.weight"] @ h + p[f"{head}.0.bias"])
            head = f"{head}.2"
        return p[f"{head}.weight"] @ h + p[f"{head}.bias"]

    def slope(self, loss, create_graph=False):
        """Gradient of one loss with respect to all parameters, by name."""
        if loss is None:
            return {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        found = torch.autograd.grad(
            loss, list(self.parameters.values()), materialize_grads=True, create_graph=create_graph
        )
        return dict(zip(self.parameters, found, strict=True))

    def slope_kept(self, loss):
        """The same with the graph kept."""
        found = torch.autograd.grad(loss, list(self.parameters.values()), materialize_grads=True, retain_graph=True)
        return dict(zip(self.parameters, found, strict=True))

    def total(self, weights, create_graph=False):
        """Σ_bt w_bt ∇ℓ_bt over all parameters, by name; ``weights`` maps (b, t) to a number."""
        total = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        for (b, t), weight in weights.items():
            one = self.slope(self.loss(b, t), create_graph)
            total = {name: value + weight * one[name] for name, value in total.items()}
        return total

    def by_sample(self, task_weights):
        """Task weights as weights of the single losses."""
        return {(b, t): w / self.n[t] for t, w in enumerate(task_weights) for b in self.labelled[t]}

    def flat(self, gradients, names=None):
        return torch.cat([gradients[name].flatten() for name in names or self.shared])

    def g(self, t, names=None, create_graph=False):
        """∇L_t over the shared (or the named) parameters, flat."""
        return self.flat(self.total({(b, t): 1 / self.n[t] for b in self.labelled[t]}, create_graph), names)

    def main_mean(self, meta=True):
        """L_main of the meta batch, or of the training batch."""
        rows = range(len(self.network.x_meta[0]) if meta else self.B)
        found = [loss for b in rows if (loss := self.loss(b, 0, meta)) is not None]
        return sum(found) / len(found) if found else torch.zeros((), dtype=torch.float64)

    def g_meta(self):
        return self.flat(self.slope(self.main_mean()))

    def after(self, gradients, step):
        """The same step at θ − step · gradients."""
        moved = {name: p - step * gradients[name].detach() for name, p in self.raw.items()}
        return Slow(self.network, moved, self.step, self.epoch, self.learned)
