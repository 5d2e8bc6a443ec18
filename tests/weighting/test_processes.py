"""Two processes with a part of every batch do what one process does with the whole of it."""

import pytest
import torch
import torch.distributed as dist
from methods import METHODS
from networks import LR, Network
from processes import BATCH, CASES, META, process, take, train, train_loose
from torch import nn

import mtlkit as mtl
from mtlkit.ranks import Rows, several


def sent():
    """A Weigher whose random numbers are not at their start."""
    net = Network(3, 3, 1, BATCH, META)
    weigh = mtl.Weigher(net.model, net.tasks, mtl.RandomWeighting(), shared=net.model.trunk, seed=3)
    weigh(net.x[0], {name: label[0] for name, label in net.y.items()})
    return weigh


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What both processes found."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(process, (folder, sent()), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES, ids=", ".join)
def test_two_processes_equal_one(two, case):
    one = train(*case)
    first, second = (found[case] for found in two)
    for name, value in one["state"].items():
        assert torch.equal(first["state"][name], second["state"][name]), name
        torch.testing.assert_close(first["state"][name], value, rtol=1e-6, atol=1e-9, equal_nan=True)
    assert torch.equal(torch.stack(first["losses"]), torch.stack(second["losses"]))
    torch.testing.assert_close(first["losses"], one["losses"], rtol=1e-6, atol=1e-9)
    for mine, other, whole in zip(first["weights"], second["weights"], one["weights"], strict=True):
        if whole.ndim == 2:
            mine = torch.cat([mine, other])
        torch.testing.assert_close(mine, whole, rtol=1e-6, atol=1e-9)


def test_a_head_that_one_process_reaches_and_one_that_none_does(two):
    before, one = train_loose()
    for found in two:
        for name, value in found["loose"][1].items():
            torch.testing.assert_close(value, one[name], rtol=1e-9, atol=1e-12)
    assert torch.equal(one["never.weight"], before["never.weight"])
    assert not torch.allclose(one["b.weight"], before["b.weight"] * 0.99**3)


def test_a_weigher_reaches_a_spawned_process_as_it_is(two):
    for found in two:
        torch.testing.assert_close(found["sent"], sent().state_dict(), rtol=0, atol=0)


def test_a_meta_batch_without_the_main_label_is_refused_in_all_processes_or_in_none(two):
    for found in two:
        nowhere, in_one = found["said"]
        assert "meta: task 't0' has no label in a batch of 12 rows, but SLGrad" in nowhere
        assert in_one == ""


def test_without_other_processes_nothing_is_exchanged(monkeypatch, tmp_path):
    def exchange(*_):
        raise AssertionError("exchanged")

    monkeypatch.setattr(dist, "all_reduce", exchange)
    found = [train("SLGrad", "halves")]
    dist.init_process_group("gloo", f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        assert not several()
        wrapped = nn.Sequential(nn.parallel.DistributedDataParallel(nn.Linear(4, 1)))
        with pytest.raises(ValueError, match="the model holds a DistributedDataParallel, expected it outermost"):
            mtl.Weigher(wrapped, [mtl.Task("a", "regression")], mtl.Uniform(), shared=wrapped)
        tensor = torch.ones(3)
        assert Rows(3, tensor.device).gather(tensor) is tensor
        found.append(train("SLGrad", "halves"))
    finally:
        dist.destroy_process_group()
    for name, value in found[0]["state"].items():
        assert torch.equal(value, found[1]["state"][name])


# Gradient accumulation in one process


def accumulated(method, calls, missing):
    """Gradient of the shared part and the weights of each call, for a batch that is weighed in parts."""
    net = Network(3, 3, 2, BATCH, META, missing=missing)
    batch = net.x[1], {name: label[1] for name, label in net.y.items()}
    meta = net.x_meta[1], {name: label[1] for name, label in net.y_meta.items()}
    weigh, weights = mtl.Weigher(net.model, net.tasks, METHODS[method](3), shared=net.model.trunk, lr=LR), []
    for part in range(calls):
        rows = slice(part * BATCH // calls, (part + 1) * BATCH // calls)
        (weigh(*take(rows, *batch), meta=meta, epoch=0) / calls).backward()
        weights.append(weigh.weights)
    return torch.cat([p.grad.flatten() for p in net.model.trunk.parameters()]), weights, weigh


def test_calls_add_up_to_the_whole_batch_where_weights_do_not_depend_on_it_and_labels_are_as_many():
    for method in ("Uniform", "Fixed"):
        torch.testing.assert_close(accumulated(method, 2, 0.0)[0], accumulated(method, 1, 0.0)[0])
    assert not torch.allclose(accumulated("Uniform", 2, 0.5)[0], accumulated("Uniform", 1, 0.5)[0])


def test_every_call_is_weighed_on_its_own():
    gradient, [whole], _ = accumulated("SLGrad", 1, 0.0)
    parted, parts, _ = accumulated("SLGrad", 2, 0.0)
    for rows, part in zip((slice(0, 4), slice(4, 8)), parts, strict=True):
        torch.testing.assert_close(part, whole[rows] / whole[rows].sum())
        torch.testing.assert_close(part.sum(), torch.ones((), dtype=torch.float64))
    assert not torch.allclose(parted, gradient, rtol=1e-3)


def test_the_memory_moves_on_with_every_call():
    assert accumulated("OLAux", 1, 0.0)[2].state_steps == 1
    parts = accumulated("OLAux, paper", 2, 0.0)[2]
    assert parts.state_steps == 2
