import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from mtlkit.datasets import load
from mtlkit.datasets.overlay import draw_pairs, overlay, paired


def slow_overlay(left, right, shift):
    """Antialiased bilinear resampling written out: a triangle filter as wide as the scale."""
    height, width = left.shape
    canvas = np.zeros((height + shift, width + shift))
    for i in range(height):
        for j in range(width):
            canvas[i, j] = left[i, j]
    for i in range(height):
        for j in range(width):
            canvas[i + shift, j + shift] = max(canvas[i + shift, j + shift], right[i, j])

    def weights(n_out, n_in):
        scale = n_in / n_out
        found = np.zeros((n_out, n_in))
        for o in range(n_out):
            centre = (o + 0.5) * scale
            for i in range(n_in):
                found[o, i] = max(0, 1 - abs(i + 0.5 - centre) / scale)
            found[o] /= found[o].sum()
        return found

    return weights(height, height + shift) @ canvas @ weights(width, width + shift).T


@pytest.mark.parametrize(("size", "shift"), [((28, 28), 8), ((8, 8), 3), ((5, 7), 2)])
def test_overlay_against_a_slow_reference(size, shift):
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.rand(3, *size, generator=generator, dtype=torch.float64) for _ in range(2))
    found = overlay(left, right, shift)
    for n in range(3):
        np.testing.assert_allclose(found[n], slow_overlay(left[n].numpy(), right[n].numpy(), shift), atol=1e-6)


def test_overlay_agrees_with_pillow():
    """Another implementation of the same interpolation."""
    scans = load_digits().images[:2].astype(np.float32)
    canvas = np.zeros((11, 11), dtype=np.float32)
    canvas[:8, :8] = scans[0]
    canvas[3:, 3:] = np.maximum(canvas[3:, 3:], scans[1])
    expected = np.asarray(Image.fromarray(canvas).resize((8, 8), Image.Resampling.BILINEAR))
    left, right = torch.from_numpy(scans).split(1)
    np.testing.assert_allclose(overlay(left, right, 3)[0], expected, atol=1e-4)


def test_draw_pairs():
    pool = torch.tensor([3, 5, 7, 11, 13])
    pairs = draw_pairs(pool, 12, torch.Generator().manual_seed(0))
    assert pairs.shape == (12, 2)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert set(pairs.flatten().tolist()) <= set(pool.tolist())
    for start in (0, 5):
        assert sorted(pairs[start : start + 5, 0].tolist()) == pool.tolist()


def test_partners_are_uniform():
    pairs = draw_pairs(torch.arange(4), 40_000, torch.Generator().manual_seed(0))
    counts = torch.bincount(pairs[:, 0] * 4 + pairs[:, 1], minlength=16).view(4, 4) / 40_000
    assert (counts.diagonal() == 0).all()
    assert (counts[~torch.eye(4, dtype=torch.bool)] - 1 / 12).abs().max() < 0.01


def test_paired_keeps_left_and_right_apart():
    images = torch.zeros(2, 4, 4)
    images[0, 0, 0], images[1, 3, 3] = 10, 10
    pairs = torch.tensor([[0, 1], [1, 0]])
    split = paired((images, images), (torch.tensor([4, 9]),) * 2, pairs, ["right", "left"], shift=2, white=10)
    assert list(split.y) == ["right", "left"]
    assert split.y["left"].tolist() == [4, 9]
    assert split.y["right"].tolist() == [9, 4]
    assert split.rows.tolist() == [1, 2]
    corners = split.x[:, 0, [0, 3], [0, 3]]
    assert (corners[0] > 0.3).all()
    assert (corners[1] == 0).all()


def test_multi_digits_is_made_of_its_sources():
    data = load("multi_digits", seed=3, n_train=50, n_meta=20, n_test=30)
    source = load_digits()
    pools = {}
    for where, split in data.splits.items():
        left, right = (split.rows // 1797).numpy(), (split.rows % 1797).numpy()
        np.testing.assert_array_equal(split.y["left"], source.target[left])
        np.testing.assert_array_equal(split.y["right"], source.target[right])
        for n in (0, 7):
            expected = slow_overlay(source.images[left[n]] / 16, source.images[right[n]] / 16, 3).ravel()
            np.testing.assert_allclose(split.x[n], expected, atol=1e-6)
        pools[where] = {*left.tolist(), *right.tolist()}
    assert len(set.union(*pools.values())) == sum(map(len, pools.values()))
    assert [len(s) for s in data.splits.values()] == [50, 20, 30]


def test_sources_stay_apart_however_many_pairs():
    data = load("multi_digits", n_train=6000, n_meta=3000, n_test=3000)
    pools = [torch.cat([s.rows // 1797, s.rows % 1797]).unique() for s in data.splits.values()]
    assert [len(pool) for pool in pools] == [1000, 200, 597]
    assert len(torch.cat(pools).unique()) == 1797


def test_label_noise_always_changes_the_class():
    clean = load("multi_digits", main="right", seed=2)
    noisy = load("multi_digits", main="right", seed=2, label_noise=0.25)
    changed = clean.train.y["right"] != noisy.train.y["right"]
    assert int(changed.sum()) == 500
    assert torch.equal(noisy.train.noisy[:, 0], changed)
    assert not noisy.train.noisy[:, 1].any()
    assert torch.equal(clean.train.y["left"], noisy.train.y["left"])
    assert noisy.main.name == "right"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"main": "middle"}, "main is 'middle', expected one of left, right"),
        ({"label_noise": 2}, "label_noise is 2, expected a number from 0 to 1"),
        ({"n_meta": 0}, "n_meta is 0, expected at least 1 each"),
        ({"n_train": -3}, "n_train is -3, expected at least 1 each"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        load("multi_digits", **options)


def test_a_related_pair_asks_for_the_same_digit():
    data = load("multi_digits", main="left_even", label_noise=0.25, n_train=400)
    assert [(task.name, task.n_classes) for task in data.tasks] == [("left_even", 2), ("left", 10)]
    wrong = (data.train.y["left"] + data.train.y["left_even"]) % 2 == 0
    assert wrong.tolist() == data.train.noisy[:, 0].tolist()
    assert wrong.sum() == 100
    assert ((data.test.y["left"] + data.test.y["left_even"]) % 2 == 1).all()
    plain = load("multi_digits", main="left", n_train=400)
    assert torch.equal(plain.train.x, data.train.x)
