import pickle

import numpy as np
import pytest
import torch

from mtlkit.datasets import cifar, files, load

SIZES = {"n_train": 12, "n_meta": 4, "n_test": 10}


def batch(seed, n):
    rng = np.random.default_rng(seed)
    return {
        b"batch_label": b"made for a test",
        b"labels": (np.arange(n) % 10).tolist(),
        b"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8),
        b"filenames": [b"x.png"] * n,
    }


@pytest.fixture
def small(place, monkeypatch):
    """Files of the same format with 70 training and 20 test images."""
    monkeypatch.setattr(cifar, "N_TRAIN", 70)
    monkeypatch.setattr(cifar, "N_TEST", 20)
    found = {name: batch(seed, n) for seed, (name, n) in enumerate(((cifar.TRAIN, 70), (cifar.TEST, 20)))}
    for name, content in found.items():
        place(name, pickle.dumps(content, protocol=3))
    clear()
    yield found
    clear()


def clear():
    for cached in (cifar._batch, cifar._moments, cifar._test):
        cached.cache_clear()


def test_made_of_its_sources(small):
    data = load("cifar10", main="cat", seed=3, **SIZES)
    assert [t.name for t in data.tasks][:3] == ["is_cat", "is_airplane", "is_automobile"]
    assert data.test.rows.tolist() == [*range(50_000, 50_010)]
    source = small[cifar.TRAIN][b"data"].reshape(-1, 3, 32, 32).astype(float)
    mean = source.mean(axis=(0, 2, 3))
    sd = source.std(axis=(0, 2, 3))
    for split, pixels, offset in (
        (data.train, source, 0),
        (data.meta, source, 0),
        (data.test, small[cifar.TEST][b"data"].reshape(-1, 3, 32, 32).astype(float), 50_000),
    ):
        rows = split.rows.numpy() - offset
        expected = (pixels[rows] - mean[:, None, None]) / sd[:, None, None]
        np.testing.assert_allclose(split.x, expected, atol=1e-5)
        for c, name in enumerate(cifar.CLASSES):
            np.testing.assert_array_equal(split.y[f"is_{name}"], rows % 10 == c)


def test_every_seed_has_its_own_images_in_the_order_of_the_file(small):
    draws = [load("cifar10", seed=seed, **SIZES) for seed in range(4)]
    for seed, data in enumerate(draws):
        rows = torch.cat([data.train.rows, data.meta.rows]).tolist()
        assert sorted(rows) == list(range(16 * seed, 16 * (seed + 1)))
        assert rows != sorted(rows)
    moved = [data.train.rows - 16 * seed for seed, data in enumerate(draws)]
    assert not torch.equal(moved[0], moved[1])
    with pytest.raises(ValueError, match=r"seed is 4, expected one from 0 to 3: 70 .* give 4 disjoint draws of 16"):
        draws[0].resample(4)


def test_seeds_share_the_tensors_of_the_test_split(small):
    first, second = (load("cifar10", seed=seed, label_noise=0.5, **SIZES).test for seed in (0, 2))
    assert shared(first, second)
    assert not shared(first, load("cifar10", **{**SIZES, "n_test": 9}).test)


@pytest.mark.parametrize("noise", ["flip", "background"])
def test_label_noise(small, noise):
    clean = load("cifar10", seed=1, **SIZES)
    noisy = load("cifar10", seed=1, label_noise=0.5, noise=noise, **SIZES)
    before, after = clean.train.y["is_airplane"], noisy.train.y["is_airplane"]
    assert torch.equal(noisy.train.noisy[:, 0], before != after)
    assert not noisy.train.noisy[:, 1:].any()
    assert torch.equal(clean.train.x, noisy.train.x)
    if noise == "flip":
        assert int((before != after).sum()) == 6
    else:
        assert (after <= before).all()
        everything = load("cifar10", seed=1, label_noise=1, noise=noise, **SIZES)
        assert not everything.train.y["is_airplane"].any()
        assert int(everything.train.noisy.sum()) == int(before.sum())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 10}, "seed is 10, expected one from 0 to 9: 10000 training rows give 10 disjoint draws of 1000"),
        ({"seed": -1}, "seed is -1, expected one from 0 to 9"),
        ({"main": "frogs"}, "main is 'frogs', expected one of airplane, automobile"),
        ({"label_noise": 1.1}, "label_noise is 1.1, expected a number from 0 to 1"),
        ({"n_meta": 0}, "n_train is 800 and n_meta is 0, expected at least 1 each and at most 10000 together"),
        ({"n_train": 9_900}, "n_train is 9900 and n_meta is 200, expected at least 1 each"),
        ({"n_test": 10_001}, "n_test is 10001, expected at least 1 each and at most 10000"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        load("cifar10", **options)


def test_unknown_noise(small):
    with pytest.raises(ValueError, match="noise is 'uniform', expected 'flip' or 'background'"):
        load("cifar10", noise="uniform", **SIZES)


@pytest.mark.parametrize("name", [cifar.TRAIN, cifar.TEST])
def test_flipped_byte_is_caught_before_unpickling(small, place, monkeypatch, name):
    content = bytearray(pickle.dumps(small[name], protocol=3))
    path = place(name, bytes(content))
    content[500] ^= 1
    path.write_bytes(content)
    clear()
    opened, loads = [], pickle.loads

    def spy(content, **options):
        opened.append(files.hashlib.sha256(content).hexdigest())
        return loads(content, **options)

    monkeypatch.setattr(cifar.pickle, "loads", spy)
    with pytest.raises(ValueError, match=f"{name} has SHA-256"):
        load("cifar10", **SIZES)
    assert opened == ([] if name == cifar.TRAIN else [files.FILES[cifar.TRAIN].sha256])


def test_real_files(real_data):
    real_data(cifar.TRAIN, cifar.TEST)
    pixels, classes = cifar._batch(cifar.TRAIN, files.fetch(cifar.TRAIN))
    assert pixels.shape == (10_000, 3, 32, 32)
    assert classes[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert torch.bincount(classes).tolist() == [1005, 974, 1032, 1016, 999, 937, 1030, 1001, 1025, 981]
    assert torch.bincount(classes[:1000]).tolist() == [102, 112, 99, 92, 99, 85, 107, 102, 99, 103]
    assert int(pixels.long().sum()) == 3_718_380_578
    assert pixels[0, :, 0, 0].tolist() == [59, 62, 63]
    pixels, classes = cifar._batch(cifar.TEST, files.fetch(cifar.TEST))
    assert classes[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert torch.bincount(classes).tolist() == [1000] * 10
    assert int(pixels.long().sum()) == 3_733_375_634


def test_the_papers_split(real_data):
    real_data(cifar.TRAIN, cifar.TEST)
    data = load("cifar10", label_noise=0.6, n_test=2000)
    assert [len(s) for s in data.splits.values()] == [800, 200, 2000]
    assert torch.cat([data.train.rows, data.meta.rows]).sort().values.tolist() == list(range(1000))
    assert int(data.test.y["is_airplane"].sum()) == 196
    assert int(data.train.noisy.sum()) == 480
    wrong = data.train.y["is_airplane"] != data.train.noisy[:, 0]
    assert int(wrong.sum() + data.meta.y["is_airplane"].sum()) == 102


def test_ten_real_draws(real_data):
    real_data(cifar.TRAIN, cifar.TEST)
    draws = [load("cifar10", seed=seed, label_noise=0.4) for seed in range(10)]
    splits = [split for data in draws for split in (data.train, data.meta)]
    rows = torch.cat([split.rows for split in splits])
    assert torch.equal(rows.sort().values, torch.arange(10_000))
    pixels = torch.cat([split.x for split in splits]).double()
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(pixels.square().mean((0, 2, 3)), torch.ones(3).double(), atol=1e-5, rtol=0)
    for data in draws:
        assert int(data.train.noisy.sum()) == 320
        assert shared(data.test, draws[0].test)
    assert [int(target.sum()) for target in draws[0].test.y.values()] == [1000] * 10


def shared(first, second):
    """Whether two splits hold the same tensors, not only equal ones."""
    pairs = zip(*((s.x, s.rows, s.noisy, *s.y.values()) for s in (first, second)), strict=True)
    return all(a is b for a, b in pairs)
