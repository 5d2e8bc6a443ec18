import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

import mtlkit as mtl
from mtlkit.training import branches as _branches
from mtlkit.training.branches import Branches
from mtlkit.training.stack import stacks_well

METHODS = [mtl.AlphaVIL(rho=0.5), mtl.DIW(metric=None), mtl.ForkMerge(top_k=1, interval=2)]
methods = pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)


def assert_equal(runs, others, tolerance=1e-10):
    for name, value in runs.states["last"].items():
        torch.testing.assert_close(value, others.states["last"][name], rtol=0, atol=tolerance)
    pd.testing.assert_frame_equal(runs.frame, others.frame, rtol=0, atol=tolerance)


@methods
def test_side_by_side_and_one_after_the_other_give_the_same_numbers(slow, monkeypatch, method):
    data, found = slow.make(), []
    for stacked in (True, False):
        monkeypatch.setattr("mtlkit.training.branches.stacks_well", lambda *_, stacked=stacked: stacked)
        found.append(slow.run(data, method, seeds=2, epochs=3))
    assert_equal(*found)


@methods
def test_seeds_together_equal_seeds_alone(slow, method):
    together = slow.run(slow.make(), method, seeds=[0, 7], epochs=3)
    alone = slow.run(slow.make(), method, seeds=[7], epochs=3)
    for name, value in alone.state_dict(7, "last").items():
        torch.testing.assert_close(together.state_dict(7, "last")[name], value, rtol=0, atol=1e-10)
    frame = together.frame[together.frame.seed == 7]
    keys = ["epoch", "split", "task", "metric"]
    pd.testing.assert_series_equal(
        frame.set_index(keys)["value"].sort_index(), alone.frame.set_index(keys)["value"].sort_index(), atol=1e-10
    )


@methods
def test_a_diverging_seed_leaves_the_others_alone(slow, method):
    def draw(seed):
        return slow.make(scale=1e6 if seed == 1 else 1.0)

    data = dataclasses.replace(draw(0), redraw=draw)
    runs = slow.run(data, method, seeds=3, epochs=3)
    assert runs.frame.groupby("seed")["diverged"].all().tolist() == [False, True, False]
    without = slow.run(data, method, seeds=[0, 2], epochs=3)
    for seed in (0, 2):
        for name, value in without.state_dict(seed, "last").items():
            torch.testing.assert_close(runs.state_dict(seed, "last")[name], value, rtol=0, atol=1e-10)
        np.testing.assert_allclose(
            slow.values(runs, "branch_meta_loss", seed), slow.values(without, "branch_meta_loss", seed), atol=1e-10
        )


@methods
def test_the_meta_split_may_come_in_parts(slow, monkeypatch, method):
    data = slow.make()
    data.meta.y["t0"][:9] = torch.nan
    whole = slow.run(data, method, epochs=2)
    monkeypatch.setattr(_branches, "META_ROWS", 7)
    assert_equal(slow.run(data, method, epochs=2), whole)


def test_every_branch_draws_its_own_share_of_the_rows_in_shuffled_passes(slow, drawn):
    slow.run(slow.make(), mtl.AlphaVIL(rho=0.4), seeds=2, batch_size=8, steps_per_epoch=10)
    (rows,) = drawn
    assert rows.shape == (3, 2, 4, 8)
    chosen = []
    for own in rows.flatten(0, 1).flatten(1):
        first, second = own.split(16)
        assert len(set(first.tolist())) == 16
        assert set(first.tolist()) == set(second.tolist())
        assert first.tolist() != second.tolist()
        chosen.append(frozenset(first.tolist()))
    assert len(set(chosen)) == 6


def with_few_labels(slow):
    """Each task has the labels of its own rows: 0 to 19, 20 to 35, 36 to 39."""
    data = slow.make()
    for name, own in (("t0", range(20)), ("t1", range(20, 36)), ("t2", range(36, 40))):
        data.train.y[name][[row for row in range(40) if row not in own]] = torch.nan
    return data


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (mtl.AlphaVIL(rho=0.5), (10, 8, 4)),
        (mtl.ForkMerge(), (20, 36, 24)),
    ],
)
def test_a_branch_draws_from_the_rows_with_labels_of_its_tasks(slow, drawn, method, expected):
    """``expected``: how many of them, by branch."""
    slow.run(with_few_labels(slow), method, seeds=2, batch_size=4, steps_per_epoch=20)
    labelled = {0: range(20), 1: range(20, 36), 2: range(36, 40)}
    tasks = [(0,), (1,), (2,)] if isinstance(method, mtl.AlphaVIL) else [(0,), (0, 1), (0, 2)]
    (rows,) = drawn
    for branch, own, n in zip(rows, tasks, expected, strict=True):
        for found in branch.flatten(1):
            usable = {row for task in own for row in labelled[task]}
            assert set(found.tolist()) <= usable
            assert len(set(found.tolist())) == n


def test_a_task_whose_weight_is_zero_draws_from_all_rows_and_does_not_move(slow, drawn, monkeypatch):
    monkeypatch.setattr(mtl.AlphaVIL, "init", lambda self, n, like: like.new_tensor([1.0, 0.0, 1.0]))
    runs = slow.run(with_few_labels(slow), mtl.AlphaVIL(), batch_size=4, steps_per_epoch=20)
    (rows,) = drawn
    assert set(rows[1].flatten().tolist()) == set(range(40))
    assert (slow.values(runs, "alpha")[:, 1] == 1).all()


def test_optimisers_continue_for_the_same_word_only(slow, monkeypatch):
    kept = []

    def spy(self, start, weights, share, keep, **options):
        before = [optimizer for _, optimizer in self.groups]
        trained = train(self, start, weights, share, keep, **options)
        kept.append(bool(before) and before == [optimizer for _, optimizer in self.groups])
        return trained

    train = Branches.train
    monkeypatch.setattr(Branches, "train", spy)
    slow.run(slow.make(), mtl.ForkMerge(top_k=1), epochs=3)
    slow.run(slow.make(), mtl.ForkMerge(), epochs=3)
    slow.run(slow.make(), mtl.AlphaVIL(), epochs=3)
    assert kept == [False, False, True, False, True, True, False, False, False]


def test_a_task_without_labels_does_not_move_its_branch(slow):
    data = slow.make()
    data.train.y["t1"][:] = torch.nan
    runs = slow.run(data, mtl.AlphaVIL(), epochs=2)
    alone = slow.run(data.only(["t0", "t2"]), mtl.Uniform())
    start = slow.run(data, mtl.Uniform(), lr=0.0)
    loss = start.frame.query("epoch == 0 and split == 'meta' and task == 't0' and metric == 'loss'").value.item()
    assert slow.values(runs, "branch_meta_loss")[0, 1] == pytest.approx(loss, abs=1e-12)
    assert (slow.values(runs, "alpha")[:, 1] == 1).all()
    assert not alone.frame.diverged.any()


def test_convolutions_train_one_after_the_other_on_a_cpu_only():
    convolution = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3))
    assert stacks_well(torch.nn.Linear(2, 2), "cpu")
    assert not stacks_well(convolution, "cpu")
    assert stacks_well(convolution, "cuda")
