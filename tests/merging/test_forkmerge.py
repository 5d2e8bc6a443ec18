import copy
import dataclasses

import numpy as np
import pytest
import torch

import mtlkit as mtl
from mtlkit.merging import Epoch
from mtlkit.merging._forkmerge import greedy

GRID = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def search(slow, start, branches, data):
    """Coefficients per branch, by the paper's loop."""
    ranked = sorted(range(len(branches)), key=lambda k: slow.meta_loss(branches[k], data))
    lam = {ranked[0]: 1.0}
    for i, k in enumerate(ranked[1:], 1):
        bound, best = sum(lam.values()) / i, None
        for a in GRID:
            trial = {**lam, k: a * bound}
            total = sum(trial.values())
            blended = slow.blend(start, [branches[j] for j in trial], [v / total for v in trial.values()], deltas=False)
            loss = slow.meta_loss(blended, data)
            if best is None or loss < best - 1e-13:
                best, lam[k] = loss, a * bound
    total = sum(lam.values())
    return [lam[k] / total for k in range(len(branches))]


@pytest.mark.parametrize(
    "method",
    [mtl.ForkMerge(), mtl.ForkMerge(interval=3), mtl.ForkMerge(top_k=2, paper_scale=True), mtl.ForkMerge(top_k=1)],
)
def test_agrees_with_a_slow_reference(slow, drawn, method):
    data, seed, epochs = slow.make(("regression", "binary", "regression", "regression")), 2, 3
    model = slow.initial(data, seed)
    runs = slow.run(data, method, seeds=[seed], epochs=epochs)
    sets = [[0], [0, 1], [0, 2], [0, 3]]
    optimizers, calls = None, iter(drawn)
    mixed = 0
    for e in range(epochs):
        branches = [copy.deepcopy(model) for _ in sets]
        states = [None] * len(sets) if optimizers is None else [o.state_dict() for o in optimizers]
        optimizers = [slow.sgd(branch) for branch in branches]
        for optimizer, state in zip(optimizers, states, strict=True):
            if state is not None:
                optimizer.load_state_dict(copy.deepcopy(state))
        best, lowest = [None] * len(sets), [np.inf] * len(sets)
        for _ in range(method.interval):
            rows = next(calls)
            for k, (branch, tasks) in enumerate(zip(branches, sets, strict=True)):
                weights = np.isin(range(4), tasks) / (1 if method.paper_scale else len(tasks))
                slow.train(branch, optimizers[k], data, weights, rows[k, 0])
                loss = slow.meta_loss(branch, data)
                if loss < lowest[k]:
                    best[k], lowest[k] = copy.deepcopy(branch), loss
        found = search(slow, model, best, data)
        mixed += sum(c > 0 for c in found) > 1
        expected = np.full(4, np.nan)
        expected[[tasks[-1] for tasks in sets]] = found
        np.testing.assert_allclose(slow.values(runs, "alpha", seed)[e], expected, atol=1e-8)
        scores = slow.values(runs, "branch_meta_metric", seed)[e]
        np.testing.assert_allclose(scores[[tasks[-1] for tasks in sets]], lowest, atol=1e-8)
        model = slow.blend(model, best, found, deltas=False)
        if e == 0 and method.top_k:
            order = [0, *sorted([1, 2, 3], key=lambda k: lowest[k])]
            sets, optimizers = [order[: k + 1] for k in range(method.top_k + 1)], None
    assert mixed > 0
    slow.assert_same(runs, seed, model)


def test_never_worse_than_its_target_only_branch(slow):
    def draw(seed):
        return slow.make(("regression",) * 3, auxiliaries=("shuffled", "shuffled"), seed=seed)

    data = dataclasses.replace(draw(0), redraw=draw)
    runs = slow.run(data, mtl.ForkMerge(paper_scale=True), seeds=20, epochs=4, steps_per_epoch=10)
    merged = np.stack([slow.values(runs, "loss", seed, "meta")[:, 0] for seed in range(20)])
    alone = np.stack([slow.values(runs, "branch_meta_loss", seed)[:, 0] for seed in range(20)])
    assert (merged <= alone + 1e-12).all()
    assert (merged < alone - 1e-6).any()
    harmful = np.stack([slow.values(runs, "branch_meta_loss", seed)[:, 1:] for seed in range(20)])
    assert (harmful > alone[..., None]).any()


def test_a_branch_that_diverged_is_left_out():
    parameters = {"a": torch.tensor([[1.0, 5.0], [torch.nan, 1.0], [3.0, 0.0]], dtype=torch.float64)}

    def score(at):
        return (at["a"] - 1.5) ** 2

    epoch = Epoch({}, 3, 1, None, [score])
    scores = torch.stack([score({"a": row}) for row in parameters["a"]])
    scores = torch.where(scores.isnan(), torch.inf, scores)
    found = greedy(epoch, parameters, scores)
    np.testing.assert_allclose(found[0], [1 / 1.4, 0, 0.4 / 1.4])
    assert found[1, 1] == found[1].max()


def test_an_auxiliary_whose_branch_diverges_changes_nothing(slow):
    data = slow.make(("regression", "binary", "regression", "regression"))
    data.train.y["t3"].mul_(1e100)
    runs = slow.run(data, mtl.ForkMerge(), seeds=10)
    without = slow.run(data.only(["t0", "t1", "t2"]), mtl.ForkMerge(), seeds=10)
    assert all(np.isnan(slow.values(runs, "branch_meta_loss", seed)[0, 3]) for seed in range(10))
    assert all(slow.values(runs, "alpha", seed)[0, 3] == 0 for seed in range(10))
    assert any((slow.values(without, "alpha", seed)[0] > 0).sum() > 1 for seed in range(10))
    for name, value in without.states["last"].items():
        torch.testing.assert_close(runs.states["last"][name], value, rtol=0, atol=1e-10)


def test_weights_of_tasks_average_the_branches(slow):
    runs = slow.run(slow.make(), mtl.ForkMerge(), epochs=3)
    alpha, weights = slow.values(runs, "alpha"), slow.values(runs, "task_weight")
    np.testing.assert_allclose(weights[:, 1:], alpha[:, 1:] / 2, atol=1e-12)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(slow.values(runs, "weight"), weights, atol=1e-12)
    assert (slow.values(runs, "branch_steps") == slow.steps).all()


@pytest.mark.parametrize(
    ("options", "kind"), [({"top_k": 0}, ValueError), ({"interval": 0}, ValueError), ({"metric": "loss"}, TypeError)]
)
def test_refuses_options_out_of_range(options, kind):
    with pytest.raises(kind, match=f"ForkMerge: {next(iter(options))}"):
        mtl.ForkMerge(**options)


def test_refuses_more_auxiliaries_than_there_are(slow):
    with pytest.raises(ValueError, match="top_k is 3, expected at most 2"):
        slow.run(slow.make(), mtl.ForkMerge(top_k=3))
