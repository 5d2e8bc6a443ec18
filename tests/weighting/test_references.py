"""Each method against an independent slow reference: loops over samples and tasks, in float64, over several steps."""

import math

import pytest
import torch
from methods import METHODS, worst_error
from networks import LAST, LR, STRENGTH, Network, Slow
from runs import assert_close, fast_run, flat
from torchjd import aggregation

STEPS = 6  # two per epoch


# A reference is a function of a Slow step that returns task weights (a list of T numbers) or sample
# weights (a dict from (b, t)); what it remembers between steps are plain Python numbers.


def softmax(values):
    top = max(values)
    parts = [math.exp(v - top) for v in values]
    return [p / sum(parts) for p in parts]


def share(values):
    positive = [max(v, 0.0) for v in values]
    return [p / sum(positive) if sum(positive) > 0 else 0.0 for p in positive]


def uniform(at):
    return [1 / at.T] * at.T


def fixed(at):
    return [0.5] + [0.25] * (at.T - 1)


def random_weighting(at):
    return softmax(at.noise)


def uncertainty(at, scale=None):
    factors = [0.5 if task.kind == "regression" else 1.0 for task in at.tasks]
    scale = scale or 1 / at.T
    return [scale * f * math.exp(-s) for f, s in zip(factors, at.learned, strict=True)]


def revised_uncertainty(at):
    return [1 / (2 * math.exp(s)) / at.T for s in at.learned]


def dwa(temperature=2.0, paper=False):
    history = []

    def weigh(at):
        while len(history) <= at.epoch:
            history.append([[] for _ in range(at.T)])
        ratios = []
        for t in range(at.T):
            last, earlier = (history[at.epoch - k][t] if at.epoch >= k else [] for k in (1, 2))
            ratios.append(sum(last) / len(last) / (sum(earlier) / len(earlier)) if last and earlier else 1.0)
            if at.n[t]:
                history[at.epoch][t].append(at.L[t])
        return [(at.T if paper else 1) * w for w in softmax([r / temperature for r in ratios])]

    return weigh


def adaptive(at):
    return share(at.L)


def slaw(beta=0.99, eps=1e-5, paper=False):
    a, b = {}, {}

    def weigh(at):
        for t in range(at.T):
            if at.n[t]:
                a[t] = beta * a.get(t, 0) + (1 - beta) * at.L[t] ** 2
                b[t] = beta * b.get(t, 0) + (1 - beta) * at.L[t]
        spread = {t: max(eps, math.sqrt(max(a[t] - b[t] ** 2, 0))) for t in a}
        total = sum(1 / s for s in spread.values())
        return [(at.T if paper else 1) / spread[t] / total if t in spread else 0.0 for t in range(at.T)]

    return weigh


def log_se(paper=False):
    def weigh(at):
        if paper:
            sums = [sum(at.loss(b, t).item() for b in at.labelled[t]) for t in range(at.T)]
            # d/dθ of (N/2) ln S is N/(2S) dS/dθ, and dS/dθ is N dL/dθ
            return [at.n[t] / (2 * s) * at.n[t] if s else 0.0 for t, s in enumerate(sums)]
        return share([1 / loss if loss else 0.0 for loss in at.L])

    return weigh


def gradnorm(alpha=1.5, lr=0.025, paper=False):
    first, w = {}, []

    def weigh(at):
        w[:] = w or [1.0] * at.T
        used = [v if paper else v / at.T for v in w]
        rows = [t for t in range(at.T) if at.n[t]]
        if not rows:
            return used
        for t in rows:
            first.setdefault(t, at.L[t])
        norms = {t: at.g(t, at.last).norm().item() for t in rows}
        progress = {t: at.L[t] / first[t] for t in rows}
        mean_progress = sum(progress.values()) / len(rows)
        mean_norm = sum(w[t] * norms[t] for t in rows) / len(rows)
        for t in rows:
            target = mean_norm * (progress[t] / mean_progress) ** alpha
            leaf = torch.tensor(w[t], dtype=torch.float64, requires_grad=True)
            (slope,) = torch.autograd.grad((leaf * norms[t] - target).abs(), leaf)
            w[t] = max(w[t] - lr * slope.item(), 0.0)
        w[:] = [at.T * v / sum(w) for v in w]
        return used

    return weigh


def cosine(a, b):
    return (a @ b / (a.norm() * b.norm())).item() if a.norm() > 0 and b.norm() > 0 else 0.0


def gradient_cosine(weighted, meta=False):
    def weigh(at):
        found = [cosine(at.g(t), at.g_meta() if meta else at.g(0)) for t in range(at.T)]
        weights = [max(c, 0.0) if weighted else float(c >= 0) for c in found]
        return [1 / at.T, *(w / at.T for w in weights[1:])]

    return weigh


def olaux(every, beta, paper=False):
    w, window = [], []

    def weigh(at):
        w[:] = w or [1.0] * at.T
        used = [v if paper else v / at.T for v in w]
        window.append([LR * (at.g(0) @ at.g(t)).item() for t in range(at.T)])
        if len(window) == every:
            for t in range(1, at.T):
                w[t] += beta * sum(row[t] for row in window)
            window.clear()
        return used

    return weigh


def tartan(beta):
    z = []

    def weigh(at):
        z[:] = z or [0.0] * at.T
        used = softmax(z)
        for t in range(at.T):
            z[t] += beta * cosine(at.g(t), at.g_meta())
        return used

    return weigh


def hydalearn(step=LR, meta=True, metric=None):
    def value(at):
        if metric is None:
            return at.main_mean(meta).item()
        rows = [b for b in range(at.network.x_meta.shape[1]) if at.loss(b, 0, True) is not None]
        outputs = torch.stack([at.output(at.network.x_meta[at.step, b], 0) for b in rows])
        return metric(outputs.detach(), at.network.y_meta["t0"][at.step, rows])

    def weigh(at):
        gains = []
        for t in range(at.T):
            fake = at.after(at.total({(b, t): 1 / at.n[t] for b in at.labelled[t]}), step)
            gains.append(value(at) - value(fake))
        return share(gains) if max(gains) > 0 else [1.0] + [0.0] * (at.T - 1)

    return weigh


def slgrad(lookahead=0.0):
    current = []

    def weigh(at):
        current[:] = current or [1 / at.T] * at.T
        ahead = at.after(at.total(at.by_sample(current)), lookahead) if lookahead else at
        direction = ahead.g_meta()
        pairs = [(b, t) for t in range(at.T) for b in at.labelled[t]]
        found = share([(at.flat(ahead.slope(ahead.loss(b, t))) @ direction).item() for b, t in pairs])
        weights = dict(zip(pairs, found, strict=True))
        current[:] = [sum(w for (_, u), w in weights.items() if u == t) for t in range(at.T)]
        return weights

    return weigh


def moved_by_adamax(values, slopes, memory, lr):
    """One number after the other; what is remembered of it is in ``memory``."""
    memory["k"] = memory.get("k", 0) + 1
    found = []
    for i, (value, slope) in enumerate(zip(values, slopes, strict=True)):
        mean, largest = memory.get(i, (0.0, 0.0))
        mean, largest = 0.9 * mean + 0.1 * slope, max(0.999 * largest, abs(slope))
        memory[i] = mean, largest
        found.append(value - lr * mean / (1 - 0.9 ** memory["k"]) / largest if largest > 0 else value)
    return found


def leaf(numbers):
    return torch.tensor(numbers, dtype=torch.float64, requires_grad=True)


def meta_weight_net(hidden, lr, lookahead):
    phi, memory = [], {}

    def value(own, t, loss):
        at, found = t * (3 * hidden + 1), 0.0
        for h in range(hidden):
            slope, offset, height = own[at + h], own[at + hidden + h], own[at + 2 * hidden + h]
            found = found + height * torch.clamp(slope * loss + offset, min=0)
        return torch.sigmoid(found + own[at + 3 * hidden])

    def weights(own, at):
        pairs = [(b, t) for t in range(at.T) for b in at.labelled[t]]
        return {(b, t): value(own, t, at.loss(b, t).detach()) / (at.T * at.n[t]) for b, t in pairs}

    def weigh(at):
        if not phi:
            angles = [math.pi * (1.5 * (h + 0.5) / hidden - 0.5) for h in range(hidden)]
            for _ in range(at.T):
                phi.extend([*map(math.cos, angles), *map(math.sin, angles), *[0.0] * (hidden + 1)])
        own = leaf(phi)
        given = weights(own, at)
        ahead = at.after(at.total({pair: w.item() for pair, w in given.items()}), lookahead)
        for pair, w in given.items():  # the shared parameters after the step are a function of φ
            slope = at.slope(at.loss(*pair))
            for name in at.shared:
                ahead.parameters[name] = ahead.parameters[name] - (w - w.detach()) * slope[name]
        (slopes,) = torch.autograd.grad(ahead.main_mean(), own, materialize_grads=True)
        phi[:] = moved_by_adamax(phi, slopes.tolist(), memory, lr)
        return {pair: w.item() for pair, w in weights(leaf(phi), at).items()}

    return weigh


def auxilearn(hidden=None, every=10, lr=0.3, paper=False, alpha=0.1, terms=3):
    phi, memory, steps = [], {}, []

    def combined(own, auxiliary):
        if hidden is None:
            return sum(f * loss for f, loss in zip(own, auxiliary, strict=True))
        n, total = len(auxiliary), 0.0
        for h in range(hidden):
            inner = sum(own[h * n + k] * loss for k, loss in enumerate(auxiliary)) + own[hidden * n + h]
            total = total + own[hidden * (n + 1) + h] * torch.log(1 + torch.exp(inner))
        return total

    def bounded(i, n):
        return hidden is None or not hidden * n <= i < hidden * (n + 1)

    def weigh(at):
        n = at.T - 1
        if not steps:
            spread = [] if hidden is None else [4 * h / (hidden - 1) - 2 for h in range(hidden)]
            phi.extend([1.0] * n if hidden is None else [1.0] * (hidden * n) + spread + [1 / hidden] * hidden)
        steps.append(None)
        own, losses = leaf(phi), [leaf(loss) for loss in at.L]
        of_losses = combined(own, losses[1:])
        w = [1.0]
        if n:
            w += [s.item() for s in torch.autograd.grad(of_losses, losses[1:])]
        used = [v if paper else v / at.T for v in w]
        if n and len(steps) % every == 0:
            means = [sum(at.loss(b, t) for b in at.labelled[t]) / max(at.n[t], 1) for t in range(at.T)]
            means = [m if isinstance(m, torch.Tensor) else leaf(0.0) for m in means]
            everything = list(at.parameters)
            slope = at.flat(at.slope(means[0] + combined(own, means[1:]), create_graph=True), everything)
            hessian = torch.stack([at.flat(at.slope_kept(one), everything) for one in slope])
            direction = at.flat(at.slope(at.main_mean()), everything)
            inverse = sum(
                torch.linalg.matrix_power(torch.eye(len(slope), dtype=torch.float64) - alpha * hessian, j)
                for j in range(terms + 1)
            )
            response = (alpha * inverse @ direction).detach()
            (found,) = torch.autograd.grad(slope @ response, own, materialize_grads=True)
            moved = moved_by_adamax(phi, (-found).tolist(), memory, lr)
            phi[:] = [max(v, 0.0) if bounded(i, n) else v for i, v in enumerate(moved)]
        return used

    return weigh


def arml(lr, paper=False):
    alpha = []

    def weigh(at):
        n = at.T - 1
        if not alpha:
            alpha.extend([1.0] * n)
        used = [v if paper else v / at.T for v in (1.0, *alpha)]
        if n and at.n[0]:
            own = leaf(alpha)
            gap = at.g(0) - sum(own[k] * at.g(k + 1) for k in range(n))
            (slope,) = torch.autograd.grad(gap @ gap, own)
            moved = [a - lr * s for a, s in zip(alpha, slope.tolist(), strict=True)]
            low, high = min(moved) - 1, max(moved)
            for _ in range(200):  # halve the interval of the number to subtract
                middle = (low + high) / 2
                low, high = (middle, high) if sum(max(v - middle, 0) for v in moved) > n else (low, middle)
            alpha[:] = [max(v - low, 0.0) for v in moved]
        return used

    return weigh


def corrected(at, b, t, rate, auxiliaries):
    """The loss of a label that is flipped at a rate."""
    if at.tasks[t].kind != "binary" or (t > 0 and not auxiliaries):
        return at.loss(b, t)
    p = torch.exp(-at.loss(b, t))
    return -torch.log((1 - rate) * p + rate * (1 - p))


def noise_layer(auxiliaries):
    def weigh(at):
        weights = {}
        for t in range(at.T):
            rate = 1 / (1 + math.exp(-at.learned[t]))
            for b in at.labelled[t]:
                plain, noisy = at.slope(at.loss(b, t)), at.slope(corrected(at, b, t, rate, auxiliaries))
                bias = f"heads.{t}.bias" if f"heads.{t}.bias" in plain else f"heads.{t}.2.bias"
                weights[b, t] = (noisy[bias] / plain[bias])[0].item() / (at.T * at.n[t])
        return weights

    return weigh


def library(weighting):
    def weigh(at):
        jacobian = torch.stack([at.g(t) for t in range(at.T)])
        return weighting(jacobian @ jacobian.T).tolist()

    return weigh


def cagrad(at):
    """The library's weights; those of the mean where it stops, as it does where a task has no gradient."""
    weights = library(aggregation.CAGradWeighting(c=0.5))(at)
    return weights if any(weights) else [1 / at.T] * at.T


REFERENCES = {
    "Uniform": lambda: uniform,
    "Fixed": lambda: fixed,
    "RandomWeighting": lambda: random_weighting,
    "Uncertainty": lambda: uncertainty,
    "Uncertainty, paper": lambda: lambda at: uncertainty(at, 1.0),
    "RevisedUncertainty": lambda: revised_uncertainty,
    "DWA": dwa,
    "DWA, paper": lambda: dwa(0.5, paper=True),
    "AdaptiveWeights": lambda: adaptive,
    "SLAW": slaw,
    "SLAW, paper": lambda: slaw(0.5, 0.3, paper=True),
    "LogSE": log_se,
    "LogSE, paper": lambda: log_se(paper=True),
    "GradNorm": gradnorm,
    "GradNorm, paper": lambda: gradnorm(0.7, 0.3, paper=True),
    "GradientCosine": lambda: gradient_cosine(False),
    "GradientCosine, weighted": lambda: gradient_cosine(True),
    "GradientCosine, meta": lambda: gradient_cosine(False, meta=True),
    "GradientCosine, meta weighted": lambda: gradient_cosine(True, meta=True),
    "OLAux": lambda: olaux(2, 5.0),
    "OLAux, paper": lambda: olaux(3, 50.0, paper=True),
    "MetaTartan": lambda: tartan(0.5),
    "HydaLearn": hydalearn,
    "HydaLearn, batch": lambda: hydalearn(0.5, meta=False),
    "HydaLearn, metric": lambda: hydalearn(2.0, metric=worst_error),
    "SLGrad": slgrad,
    "SLGrad, look-ahead": lambda: slgrad(0.3),
    "MetaWeightNet": lambda: meta_weight_net(7, 0.01, LR),
    "MetaWeightNet, no look-ahead": lambda: meta_weight_net(7, 0.5, 0.0),
    "AuxiLearn": lambda: auxilearn(every=2),
    "AuxiLearn, network": lambda: auxilearn(hidden=5, every=1, paper=True),
    "ARML": lambda: arml(3.0),
    "ARML, paper": lambda: arml(0.05, paper=True),
    "NoiseLayer": lambda: noise_layer(auxiliaries=False),
    "NoiseLayer, auxiliaries": lambda: noise_layer(auxiliaries=True),
    "OrthogonalGradients": lambda: uniform,
    "MGDA": lambda: library(aggregation.MGDAWeighting()),
    "CAGrad": lambda: cagrad,
    "UPGrad": lambda: library(aggregation.UPGradWeighting()),
    "IMTL-G": lambda: library(aggregation.IMTLGWeighting()),
    "Aligned-MTL": lambda: library(aggregation.AlignedMTLWeighting()),
}


def slow_run(name, network, n_steps):
    """Per step: sample weights, objective, its gradients by name and for what is learned; plain SGD in between."""
    weigh = REFERENCES[name]()
    parameters = network.parameters
    start = {"NoiseLayer": math.log(0.2 / 0.8), "NoiseLayer, auxiliaries": math.log(0.6 / 0.4)}.get(name, 0.0)
    learned = [start] * len(network.tasks)
    for k in range(n_steps):
        at = Slow(network, parameters, k, epoch=k // 2, learned=learned)
        weights = weigh(at)
        by_task = None if isinstance(weights, dict) else weights
        weights = at.by_sample(weights) if by_task else weights
        gradients = at.total(weights)
        objective = sum(w * at.loss(b, t).item() for (b, t), w in weights.items())
        if name == "OrthogonalGradients":
            rows = [at.g(t, create_graph=True) for t in range(at.T)]
            pairs = [(s, t) for t in range(at.T) for s in range(t) if at.n[s] and at.n[t]]
            penalty = sum((rows[s] @ rows[t] / (rows[s].norm() * rows[t].norm())) ** 2 for s, t in pairs)
            if pairs:
                objective += 0.3 * penalty.item()
                more = at.slope(0.3 * penalty)
                gradients = {key: value + more[key] for key, value in gradients.items()}
        slope = [0.0] * at.T
        for t in range(at.T):
            scale = 1 if "paper" in name else 1 / at.T
            if at.n[t] and name.startswith("Uncertainty"):
                objective += scale * learned[t] / 2
                slope[t] = -by_task[t] * at.L[t] + scale / 2
            if at.n[t] and name == "RevisedUncertainty":
                variance = math.exp(learned[t])
                objective += scale * math.log(1 + variance)
                slope[t] = -by_task[t] * at.L[t] + scale * variance / (1 + variance)
        if name.startswith("NoiseLayer"):
            logits = leaf(learned)
            parts = [
                corrected(at, b, t, torch.sigmoid(logits[t]), "auxiliaries" in name) / (at.T * at.n[t])
                for t in range(at.T)
                for b in at.labelled[t]
            ]
            total = sum(parts) + 0 * logits.sum()
            objective, gradients = total.item(), at.slope_kept(total)
            (found,) = torch.autograd.grad(total, logits)
            slope = found.tolist()
        for key, score in at.raw.items():
            if key.endswith("score"):
                objective += STRENGTH * score.abs().item()
                gradients[key] = gradients[key] + STRENGTH * score.sign()
        yield at, weights, objective, gradients, slope
        parameters = {key: p.detach() - LR * gradients[key].detach() for key, p in parameters.items()}
        learned = [s - LR * ds for s, ds in zip(learned, slope, strict=True)]


def table(at, weights):
    """Sample weights (B, T) from a dict."""
    found = torch.zeros(at.B, at.T, dtype=torch.float64)
    for (b, t), weight in weights.items():
        found[b, t] = weight
    return found


@pytest.mark.parametrize(("n_tasks", "stacked"), [(1, True), (3, False), (6, True)])
@pytest.mark.parametrize("name", REFERENCES)
def test_equals_slow_reference_over_several_steps(name, n_tasks, stacked):
    check(name, [Network(10 * n_tasks + s, n_tasks, STEPS) for s in range(2 if stacked else 1)], stacked)


FAMILIES = [name for name in REFERENCES if "paper" not in name and name != "AuxiLearn, network"]
"""Every method, in its own scale; AuxiLearn's network is slow to differentiate by loops."""


@pytest.mark.parametrize("architecture", [name for name in LAST if name != "plain"])
@pytest.mark.parametrize("name", FAMILIES)
def test_equals_slow_reference_in_every_architecture(name, architecture):
    networks = [Network(70 + s, 3, STEPS, architecture=architecture) for s in range(2)]
    assert networks[0].model.last == tuple(LAST[architecture])
    check(name, networks, True)


def check(name, networks, stacked):
    """A method's steps on these networks against the slow ones."""
    n_tasks = len(networks[0].tasks)
    tolerance = 1e-6 if name == "CAGrad" else 1e-8  # an interior point solver stops short of that
    slow = [slow_run(name, network, STEPS) for network in networks]
    for taken, gradients, learned in fast_run(METHODS[name](n_tasks), networks, STEPS, stacked):
        for s, run in enumerate(slow):
            at, weights, objective, expected, slope = next(run)
            pick = s if stacked else ...
            found = taken.weights[pick]
            found = found if found.ndim == 2 else table(at, at.by_sample(found.tolist()))
            assert_close(found, table(at, weights), tolerance)
            assert_close(taken.objective[pick], torch.tensor(objective, dtype=torch.float64), tolerance)
            assert_close(flat({n: g[pick] for n, g in gradients.items()}), flat(expected), tolerance)
            if learned is not None:
                assert_close(learned[pick], torch.tensor(slope, dtype=torch.float64), tolerance)
