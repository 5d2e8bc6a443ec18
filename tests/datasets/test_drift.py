import pytest
import torch

import mtlkit as mtl
from mtlkit.datasets.drift import with_drift


@pytest.fixture(scope="module")
def data():
    return with_drift(mtl.datasets.load("digits", main=8, label_noise=0.3), after=2)


def test_only_the_auxiliaries_training_labels_change_and_only_after_the_epoch(data):
    plain = mtl.datasets.load("digits", main=8, label_noise=0.3, seed=4)
    draw = data.resample(4)
    for split in ("train", "meta", "test"):
        assert torch.equal(draw.splits[split].x, plain.splits[split].x)
        assert all(torch.equal(draw.splits[split].y[name], y) for name, y in plain.splits[split].y.items())
    for epoch in (1, 2):
        assert all(torch.equal(draw.train_at(epoch).y[name], y) for name, y in plain.train.y.items())
    later = draw.train_at(3)
    assert torch.equal(later.x, plain.train.x)
    assert torch.equal(later.y["is_8"], plain.train.y["is_8"])
    assert torch.equal(later.noisy, plain.train.noisy)
    assert all(torch.equal(draw.train_at(9).y[name], y) for name, y in later.y.items())


def test_the_permuted_labels_keep_their_joint_distribution_and_lose_their_relevance(data):
    before, after = data.train_at(1).y, data.train_at(3).y
    names = [name for name in before if name != "is_8"]
    joint = [torch.stack([y[name] for name in names], 1) for y in (before, after)]
    assert torch.equal(joint[0].sum(0), joint[1].sum(0))
    assert (joint[1].sum(1) <= 1).all()
    clean = mtl.datasets.load("digits", main=8).train.y["is_8"]
    assert not (joint[0].sum(1).bool() & clean.bool()).any()
    both = (joint[1].sum(1).bool() & clean.bool()).double().mean().item()
    assert both == pytest.approx(joint[1].sum(1).mean().item() * clean.mean().item(), abs=0.02)


def test_noise_of_an_auxiliary_moves_with_its_label():
    data = mtl.datasets.load("toy_regression", label_noise=0.3, noisy_tasks="all")
    later = with_drift(data, 0).train_at(1)
    assert torch.equal(later.noisy[:, 0], data.train.noisy[:, 0])
    assert torch.equal(later.noisy[:, 1], later.y["auxiliary"] == -0.5)


def test_it_survives_a_choice_of_tasks(data):
    some = data.only(["is_8", "is_3"])
    assert list(some.resample(1).train_at(3).y) == ["is_8", "is_3"]
    assert not torch.equal(some.resample(1).train_at(3).y["is_3"], some.resample(1).train_at(2).y["is_3"])


def test_what_cannot_drift_is_refused(data):
    with pytest.raises(ValueError, match="after is -1"):
        with_drift(mtl.datasets.load("digits"), -1)
    with pytest.raises(ValueError, match="only the task 'is_8'"):
        with_drift(mtl.datasets.load("digits").only(["is_8"]), 1)
    with pytest.raises(ValueError, match="change already"):
        with_drift(data, 1)
