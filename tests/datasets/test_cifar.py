import io
import pickle

import numpy as np
import pytest
import torch

from mtlkit.datasets import cifar, files, load

SIZES = {"n_train": 12, "n_meta": 4, "n_test": 10}


def batch(seed):
    rng = np.random.default_rng(seed)
    return {
        b"batch_label": b"made for a test",
        b"labels": (np.arange(20) % 10).tolist(),
        b"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8),
        b"filenames": [b"x.png"] * 20,
    }


@pytest.fixture
def small(place):
    found = {name: batch(seed) for seed, name in enumerate((cifar.TRAIN, cifar.TEST))}
    for name, content in found.items():
        place(name, pickle.dumps(content, protocol=3))
    cifar._batch.cache_clear()
    yield found
    cifar._batch.cache_clear()


def test_made_of_its_sources(small):
    data = load("cifar10", main="cat", seed=3, **SIZES)
    assert [t.name for t in data.tasks][:3] == ["is_cat", "is_airplane", "is_automobile"]
    assert torch.cat([data.train.rows, data.meta.rows]).sort().values.tolist() == list(range(16))
    assert data.test.rows.tolist() == [*range(50_000, 50_010)]
    source = small[cifar.TRAIN][b"data"].reshape(-1, 3, 32, 32).astype(float)
    train_rows = data.train.rows.numpy()
    mean = source[train_rows].mean(axis=(0, 2, 3))
    sd = source[train_rows].std(axis=(0, 2, 3))
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
    cifar._batch.cache_clear()
    opened = []

    class Spy(cifar.PlainUnpickler):
        def __init__(self, stream, **options):
            opened.append(files.hashlib.sha256(stream.getvalue()).hexdigest())
            super().__init__(stream, **options)

    monkeypatch.setattr(cifar, "PlainUnpickler", Spy)
    with pytest.raises(ValueError, match=f"{name} has SHA-256"):
        load("cifar10", **SIZES)
    assert opened == ([] if name == cifar.TRAIN else [files.FILES[cifar.TRAIN].sha256])


class Hostile:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize(
    "content",
    [
        Hostile(exec, "raise SystemExit('ran')"),
        Hostile(eval, "print"),
        {"data": Hostile(open, "/etc/hostname")},
        np.array([Hostile(print, "ran")], dtype=object),
        np.array(["a text"]),
        np.zeros(2, dtype=[("a", "u1")]),
        np.float64,
        io.BytesIO,
    ],
)
@pytest.mark.parametrize("protocol", [3, 4])
def test_only_plain_content_is_admitted(content, protocol):
    with pytest.raises(pickle.UnpicklingError, match="the file asks for"):
        cifar.PlainUnpickler(io.BytesIO(pickle.dumps(content, protocol))).load()


@pytest.mark.parametrize("protocol", [3, 4])
def test_plain_content_is_read(protocol):
    content = {"a": [1, 2.5, "text", b"bytes", None, (True,)], "b": np.arange(6.0).reshape(2, 3), "c": np.uint8([7, 9])}
    found = cifar.PlainUnpickler(io.BytesIO(pickle.dumps(content, protocol))).load()
    assert found["a"] == content["a"]
    for name in ("b", "c"):
        np.testing.assert_array_equal(found[name], content[name])
        assert found[name].dtype == content[name].dtype


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
    data = load("cifar10", label_noise=0.6)
    assert [len(s) for s in data.splits.values()] == [800, 200, 2000]
    assert torch.cat([data.train.rows, data.meta.rows]).sort().values.tolist() == list(range(1000))
    assert int(data.test.y["is_airplane"].sum()) == 196
    assert int(data.train.noisy.sum()) == 480
    wrong = data.train.y["is_airplane"] != data.train.noisy[:, 0]
    assert int(wrong.sum() + data.meta.y["is_airplane"].sum()) == 102
    torch.testing.assert_close(data.train.x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    assert not torch.equal(data.resample(1).train.rows, data.train.rows)
