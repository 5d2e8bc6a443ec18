import gzip
import hashlib
import struct
import time

import numpy as np
import pytest
import torch

from mtlkit.datasets import files, load, mnist
from mtlkit.datasets.base import Split
from mtlkit.datasets.mnist import in_common
from mtlkit.datasets.overlay import draw_pairs, overlay

NAMES = ("multi_fashion", "multi_fashion_mnist", "multi_mnist")
SIZES = {"n_train": 40, "n_meta": 10, "n_test": 12}
SINGLE_SIZES = {"n_train": 8, "n_meta": 3, "n_test": 5}


def idx(values):
    header = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}i", *values.shape)
    return gzip.compress(header + values.astype(np.uint8).tobytes(), mtime=0)


@pytest.fixture
def small(place, monkeypatch):
    """Files of the same format with 30 + 10 training and 8 test images; pixels tell the image's number."""
    monkeypatch.setattr(mnist, "N_TRAIN", 30)
    monkeypatch.setattr(mnist, "N_META", 10)
    monkeypatch.setattr(mnist, "N_TEST", 8)
    rng = np.random.default_rng(0)
    found = {}
    for folder in ("mnist", "fashion-mnist"):
        images, labels = rng.integers(0, 256, (48, 28, 28)), rng.integers(0, 10, 48)
        found[folder] = images, labels
        for part, cut in (("train", slice(0, 40)), ("t10k", slice(40, 48))):
            place(f"{folder}/{part}-images-idx3-ubyte.gz", idx(images[cut]))
            place(f"{folder}/{part}-labels-idx1-ubyte.gz", idx(labels[cut]))
    yield found
    for cached in (mnist._source, mnist._test, mnist._single_test, mnist._test_among):
        cached.cache_clear()


@pytest.mark.parametrize("name", NAMES)
def test_made_of_its_sources(small, name):
    data = load(name, seed=1, **SIZES)
    (left_images, left_labels), (right_images, right_labels) = (small[folder] for folder in mnist.FOLDERS[name])
    pools = {}
    for where, split in data.splits.items():
        left, right = (split.rows // 48).numpy(), (split.rows % 48).numpy()
        np.testing.assert_array_equal(split.y["left"], left_labels[left])
        np.testing.assert_array_equal(split.y["right"], right_labels[right])
        sides = (torch.from_numpy(images).float() / 255 for images in (left_images[left], right_images[right]))
        torch.testing.assert_close(split.x[:, 0], overlay(*sides, 8))
        pools[where] = {*left.tolist(), *right.tolist()}
    assert not pools["train"] & pools["meta"]
    assert pools["train"] | pools["meta"] <= set(range(40))
    assert pools["test"] <= set(range(40, 48))
    assert [len(s) for s in data.splits.values()] == [40, 10, 12]
    assert data.train.x.shape == (40, 1, 28, 28)


def test_seeds_share_the_test_split_only(small):
    first, second = (load("multi_mnist", seed=seed, **SIZES) for seed in (0, 1))
    assert first.test.x is second.test.x
    assert not torch.equal(first.train.rows, second.train.rows)
    assert not torch.equal(first.meta.rows, second.meta.rows)


def test_label_noise(small):
    clean = load("multi_mnist", main="right", **SIZES)
    noisy = load("multi_mnist", main="right", label_noise=0.3, **SIZES)
    changed = clean.train.y["right"] != noisy.train.y["right"]
    assert int(changed.sum()) == 12
    assert torch.equal(noisy.train.noisy, torch.stack([changed, torch.zeros(40, dtype=torch.bool)], 1))
    assert torch.equal(clean.train.x, noisy.train.x)
    assert [t.name for t in noisy.tasks] == ["right", "left"]


def test_names_of_classes(small):
    assert load("multi_mnist", **SIZES).classes == {}
    assert load("multi_fashion_mnist", **SIZES).classes == {"right": mnist.CLOTHES}
    assert load("multi_fashion", **SIZES).licence == "fashion-mnist: MIT"


@pytest.mark.parametrize("name", list(mnist.SINGLE))
def test_single_images_are_made_of_their_source(small, name):
    data = load(name, main=3, seed=1, **SINGLE_SIZES)
    images, labels = small[mnist.SINGLE[name]]
    assert [t.name for t in data.tasks] == ["is_3", *(f"is_{d}" for d in (0, 1, 2, 4, 5, 6, 7, 8, 9))]
    assert [len(s) for s in data.splits.values()] == [8, 3, 5]
    assert data.test.rows.tolist() == [40, 41, 42, 43, 44]
    assert max(data.train.rows.max(), data.meta.rows.max()) < 40
    for split in data.splits.values():
        rows = split.rows.numpy()
        assert split.x.dtype == torch.float32
        np.testing.assert_allclose(split.x, images[rows].reshape(-1, 784) / 255, atol=1e-6)
        for digit in range(10):
            np.testing.assert_array_equal(split.y[f"is_{digit}"], labels[rows] == digit)
    names = {"is_3": ("rest", "dress")}
    assert data.classes.items() >= names.items() if name == "fashion_mnist" else data.classes == {}


def test_draws_of_single_images_are_disjoint(small):
    draws = [load("mnist", seed=seed, **SINGLE_SIZES) for seed in range(3)]
    rows = [torch.cat([data.train.rows, data.meta.rows]).tolist() for data in draws]
    assert len({row for draw in rows for row in draw}) == 33
    assert rows[0] != sorted(rows[0])
    longer = load("mnist", seed=1, n_train=3, n_meta=8, n_test=5)
    assert torch.cat([longer.train.rows, longer.meta.rows]).tolist() == rows[1]
    message = "seed is {}, expected one from 0 to 2: 40 training rows give 3 disjoint draws of 11"
    for seed in (-1, 3):
        with pytest.raises(ValueError, match=message.format(seed)):
            draws[0].resample(seed)


def test_seeds_share_the_tensors_of_the_single_test_split(small):
    first, second = (load("mnist", seed=seed, label_noise=0.5, **SINGLE_SIZES).test for seed in (0, 2))
    assert shared(first, second)
    assert not shared(first, load("mnist", **{**SINGLE_SIZES, "n_test": 4}).test)
    assert next(iter(load("mnist", main=2, **SINGLE_SIZES).test.y)) == "is_2"


@pytest.mark.parametrize(("noise", "share", "expected"), [("flip", 0.5, 4), ("flip", 0.3, 2), ("background", 1, None)])
def test_label_noise_of_single_images(small, noise, share, expected):
    labels = small["mnist"][1]
    main = int(np.bincount(labels[:40]).argmax())
    for seed in range(3):
        clean = load("mnist", main=main, seed=seed, **SINGLE_SIZES)
        noisy = load("mnist", main=main, seed=seed, label_noise=share, noise=noise, **SINGLE_SIZES)
        before, after = clean.train.y[f"is_{main}"], noisy.train.y[f"is_{main}"]
        count = int(before.sum()) if expected is None else expected
        assert int((before != after).sum()) == count
        assert torch.equal(noisy.train.noisy[:, 0], before != after)
        assert not noisy.train.noisy[:, 1:].any()
        assert not noisy.meta.noisy.any()
        assert torch.equal(clean.train.rows, noisy.train.rows)
        assert torch.equal(clean.meta.y[f"is_{main}"], noisy.meta.y[f"is_{main}"])
        if noise == "background":
            assert not after.any()


def test_the_seed_draws_the_noise(small):
    marks = [load("mnist", seed=seed, label_noise=0.5, **SINGLE_SIZES).train.noisy[:, 0] for seed in range(3)]
    again = load("mnist", seed=1, label_noise=0.5, **SINGLE_SIZES).train.noisy[:, 0]
    assert torch.equal(marks[1], again)
    assert not torch.equal(marks[0], marks[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"main": "8"}, "main is '8', expected one of 0, 1, 2"),
        ({"main": 10}, "main is 10, expected one of 0, 1, 2"),
        ({"label_noise": 1.5}, "label_noise is 1.5, expected a number from 0 to 1"),
        ({"n_meta": 0}, "n_train is 1000 and n_meta is 0, expected at least 1 each and at most 60000 together"),
        ({"n_test": 10_001}, "n_test is 10001, expected at least 1 each and at most 10000"),
        ({"seed": 50}, "seed is 50, expected one from 0 to 49: 60000 training rows give 50 disjoint draws of 1200"),
    ],
)
@pytest.mark.parametrize("name", list(mnist.SINGLE))
def test_bad_options_of_single_images(name, options, message):
    with pytest.raises(ValueError, match=message):
        load(name, **options)


def test_unknown_noise_of_single_images(small):
    with pytest.raises(ValueError, match="noise is 'uniform', expected 'flip' or 'background'"):
        load("mnist", noise="uniform", **SINGLE_SIZES)


def test_flipped_byte(small, place):
    path = place("mnist/t10k-images-idx3-ubyte.gz", idx(small["mnist"][0][40:]))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    mnist._source.cache_clear()
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte.gz has SHA-256 .* damaged"):
        load("multi_mnist", **SIZES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"main": "top"}, "main is 'top', expected one of left, right"),
        ({"label_noise": -1}, "label_noise is -1, expected a number from 0 to 1"),
        ({"n_meta": 0}, "n_meta is 0, expected at least 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        load("multi_mnist", **options)


def test_no_file_and_no_network():
    with pytest.raises(
        FileNotFoundError, match=r"mnist/train-images-idx3-ubyte.gz is in none .*ossci-datasets.*440fcabf73"
    ):
        load("multi_mnist")


REAL = {
    "mnist": {
        "first": [5, 0, 4, 1, 9, 2, 1, 3, 1, 4],
        "first_test": [7, 2, 1, 0, 4, 1, 4, 9, 5, 9],
        "counts": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        "pixels": 1_567_298_545,
        "test_pixels": 264_923_200,
        "first_image": 27_525,
    },
    "fashion-mnist": {
        "first": [9, 0, 0, 3, 0, 2, 7, 2, 5, 5],
        "first_test": [9, 2, 1, 1, 6, 1, 4, 6, 5, 7],
        "counts": [6000] * 10,
        "pixels": 3_431_114_169,
        "test_pixels": 573_469_082,
        "first_image": 76_247,
    },
}


@pytest.mark.parametrize("folder", list(REAL))
def test_real_files(real_data, folder):
    real_data(*files.needed(folder))
    known = REAL[folder]
    images, labels = mnist._source(folder, tuple(files.fetch(name) for name in files.needed(folder)))
    assert images.shape == (70_000, 28, 28)
    assert labels[:10].tolist() == known["first"]
    assert labels[60_000:60_010].tolist() == known["first_test"]
    assert torch.bincount(labels[:60_000]).tolist() == known["counts"]
    assert int(images[:60_000].sum(dtype=torch.int64)) == known["pixels"]
    assert int(images[60_000:].sum()) == known["test_pixels"]
    assert int(images[0].sum()) == known["first_image"]


@pytest.mark.parametrize("name", NAMES)
def test_real_pairs(real_data, name):
    real_data(*(file for folder in mnist.FOLDERS[name] for file in files.needed(folder)))
    mnist._source.cache_clear()
    start = time.perf_counter()
    data = load(name, seed=0)
    assert time.perf_counter() - start < 30
    assert [len(s) for s in data.splits.values()] == [15_000, 5_000, 10_000]
    left, right = (
        mnist._source(folder, tuple(files.fetch(file) for file in files.needed(folder)))
        for folder in mnist.FOLDERS[name]
    )
    for split in data.splits.values():
        assert torch.equal(split.y["left"], left[1][split.rows // 70_000])
        assert torch.equal(split.y["right"], right[1][split.rows % 70_000])
        assert split.x.min() >= 0
        assert split.x.max() <= 1 + 1e-6
    pools = [torch.cat([s.rows // 70_000, s.rows % 70_000]).unique() for s in data.splits.values()]
    assert not torch.isin(pools[0], pools[1]).any()
    assert int(max(pools[0].max(), pools[1].max())) < 60_000 <= int(pools[2].min())


@pytest.mark.parametrize("name", list(mnist.SINGLE))
def test_real_single_images(real_data, name):
    folder = mnist.SINGLE[name]
    real_data(*files.needed(folder))
    images, classes = mnist._source(folder, tuple(files.fetch(file) for file in files.needed(folder)))
    draws = [load(name, seed=seed, label_noise=0.4) for seed in range(50)]
    seen = torch.cat([split.rows for data in draws for split in (data.train, data.meta)])
    assert torch.equal(seen.sort().values, torch.arange(60_000))
    for data in draws:
        assert [len(s) for s in data.splits.values()] == [1000, 200, 10_000]
        assert data.train.noisy.sum(0).tolist() == [400] + [0] * 9
        assert torch.equal(data.train.y["is_8"] != data.train.noisy[:, 0], classes[data.train.rows] == 8)
        assert shared(data.test, draws[0].test)
    test = draws[0].test
    assert torch.equal(torch.stack([test.y[f"is_{d}"] for d in range(10)]).argmax(0), classes[60_000:])
    assert torch.equal((test.x * 255).round().byte().view(-1, 28, 28), images[60_000:])
    assert torch.equal(draws[7].resample(9).train.x, draws[9].train.x)


def test_real_redraws(real_data):
    real_data(*files.needed("mnist"))
    data, again, other = (load("multi_mnist", seed=seed, n_train=2000, n_meta=500, n_test=500) for seed in (0, 0, 1))
    assert digest(again) == digest(data)
    assert not torch.equal(other.train.rows, data.train.rows)


def test_seeds_share_the_real_test_pairs(real_data):
    real_data(*files.needed("mnist"))
    first, *others = (load("multi_mnist", seed=seed, n_train=50, n_meta=50).test for seed in range(4))
    assert len(first) == 10_000
    assert all(shared(first, other) for other in others)


def shared(first: Split, second: Split) -> bool:
    """Whether two splits hold the same tensors, not only equal ones."""
    pairs = zip(*((s.x, s.rows, s.noisy, *s.y.values()) for s in (first, second)), strict=True)
    return all(a is b for a, b in pairs)


def digest(data):
    parts = (t for s in data.splits.values() for t in (s.x, *s.y.values(), s.rows, s.noisy))
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in parts)).hexdigest()


def test_images_in_common_are_those_that_two_seeds_draw():
    def used(seed, n_train):
        generator = torch.Generator().manual_seed(seed)
        pool = torch.randperm(60_000, generator=generator)[:45_000]
        return set(draw_pairs(pool, n_train, generator).flatten().tolist())

    for n_train in (100, 15_000, 60_000):
        one, other = used(0, n_train), used(1, n_train)
        assert in_common(n_train) == pytest.approx(len(one & other) / len(one), abs=0.01)


@pytest.mark.parametrize("main", ["digit_3", "article_6"])
def test_digits_and_articles_have_the_labels_of_their_own_set(small, main):
    data = load("digits_and_articles", main=main, seed=1, **SINGLE_SIZES)
    kind = main.split("_")[0]
    assert data.main.name == main
    assert len(data.tasks) == 20
    assert [len(split) for split in data.splits.values()] == [16, 3, 5]
    for where, split in data.splits.items():
        for i, row in enumerate(split.rows.tolist()):
            article, place = row >= 48, row % 48
            images, labels = small["fashion-mnist" if article else "mnist"]
            assert torch.equal(split.x[i], torch.from_numpy(images[place]).float().flatten() / 255)
            assert where == "train" or article == (kind == "article")
            for name, y in split.y.items():
                if name.startswith("article") == article:
                    assert y[i] == (labels[place] == int(name[-1]))
                else:
                    assert y[i].isnan()
    other = load("digits_and_articles", main=main, seed=0, **SINGLE_SIZES)
    assert other.test is data.test
    assert not set(other.train.rows.tolist()) & set(data.train.rows.tolist())


def test_digits_and_articles_know_their_tasks(small):
    with pytest.raises(ValueError, match=r"main is 'shirt', expected one of digit_0, .*, article_9"):
        load("digits_and_articles", main="shirt", **SINGLE_SIZES)
