"""What holds for every data set, and the command line."""

import hashlib

import pytest
import torch

from mtlkit.datasets import files, load, names, needs, outline
from mtlkit.datasets.__main__ import main
from mtlkit.datasets.base import Dataset

SMALL = {"n_train": 60, "n_meta": 20, "n_test": 30}
CASES = {
    "adult": {"n_meta": 500},
    "cifar10": SMALL,
    "digits": {},
    "digits_and_articles": SMALL,
    "fashion_mnist": SMALL,
    "language": {"n_tokens": 96, **SMALL},
    "layered": SMALL,
    "mnist": SMALL,
    "multi_digits": SMALL,
    "multi_fashion": SMALL,
    "multi_fashion_mnist": SMALL,
    "multi_mnist": SMALL,
    "parkinsons": {},
    "synthetic": SMALL,
    "toy_language": SMALL,
    "toy_regression": SMALL,
}
CLEAN = ("digits_and_articles", "language", "layered", "parkinsons", "toy_language")
"""Data sets without label noise."""
NOISY = {name: options for name, options in CASES.items() if name not in CLEAN}


@pytest.fixture
def get(real_data):
    def get(name, **options):
        if name.endswith("language"):
            pytest.importorskip("tokenizers")
        if needs(name):
            real_data(*needs(name))
        return load(name, **options)

    return get


def digest(data):
    parts = (t for s in data.splits.values() for t in (s.x, *s.y.values(), s.rows, s.noisy))
    return hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in parts)).hexdigest()


def test_every_name_has_a_case():
    assert set(CASES) | {"nyuv2"} == set(names())


@pytest.mark.parametrize("name", CASES)
def test_splits_are_disjoint_and_clean(get, name):
    data = get(name, **CASES[name])
    assert isinstance(data, Dataset)
    assert data.name == name
    assert data.source
    rows = torch.cat([split.rows for split in data.splits.values()])
    assert len(rows.unique()) == len(rows)
    assert not any(split.noisy.any() for split in data.splits.values())
    for split in data.splits.values():
        assert split.noisy.shape == (len(split), len(data.tasks))
        assert list(split.y) == [task.name for task in data.tasks]
    assert str(data.card)


@pytest.mark.parametrize("name", CASES)
def test_seeds(get, name):
    data, again, other = (get(name, seed=seed, **CASES[name]) for seed in (3, 3, 4))
    assert digest(data) == digest(again) == digest(other.resample(3))
    assert not torch.equal(data.train.x, other.train.x)
    assert not torch.equal(data.meta.x, other.meta.x)
    for where, split in data.splits.items():
        assert split.x.shape == other.splits[where].x.shape
        assert split.x.dtype == other.splits[where].x.dtype


@pytest.mark.parametrize("name", NOISY)
def test_noise_touches_training_labels_of_the_main_task_only(get, name):
    clean, noisy = (get(name, seed=2, label_noise=share, **NOISY[name]) for share in (0.0, 0.4))
    count = round(0.4 * len(clean.train))
    assert noisy.train.noisy.sum(0).tolist() == [count] + [0] * (len(clean.tasks) - 1)
    main_task = clean.main.name
    assert torch.equal(clean.train.y[main_task] != noisy.train.y[main_task], noisy.train.noisy[:, 0])
    for where, split in clean.splits.items():
        other = noisy.splits[where]
        assert torch.equal(split.x, other.x)
        assert torch.equal(split.rows, other.rows)
        for task in split.y:
            if (where, task) != ("train", main_task):
                assert torch.equal(split.y[task], other.y[task])
    assert not noisy.meta.noisy.any()
    assert not noisy.test.noisy.any()


def test_unknown_name_and_option():
    with pytest.raises(ValueError, match="no data set 'imagenet', expected one of adult, cifar10, digits"):
        load("imagenet")
    with pytest.raises(ValueError, match="no data set 'imagenet'"):
        needs("imagenet")
    with pytest.raises(TypeError, match="'digits' has no option 'size', expected some of main, label_noise"):
        load("digits", size=3)
    with pytest.raises(TypeError, match="'multi_mnist' has no option 'shift', expected some of main, label_noise"):
        load("multi_mnist", shift=4)


def test_needs():
    assert needs("digits") == ()
    assert needs("adult") == ("adult/adult.data", "adult/adult.test")
    assert len(needs("multi_fashion_mnist")) == 8
    assert {file for name in names() for file in needs(name)} == set(files.FILES)


def test_list(place, capsys):
    present = place("adult/adult.data", b"rows")
    place("adult/adult.test", b"other rows").write_bytes(b"damaged")
    assert main(["list"]) == 1
    out = capsys.readouterr().out
    assert f"adult/adult.data: {present}" in out
    assert "adult.test has SHA-256" in out
    assert "mnist/train-images-idx3-ubyte.gz: not here, https://ossci-datasets" in out
    assert "digits (needs no file of a known address)" in out
    assert all(name in out for name in names())


def test_fetch(place, capsys):
    place("adult/adult.data", b"rows")
    place("adult/adult.test", b"other rows")
    assert main(["fetch", "adult", "digits"]) == 0
    assert "adult/adult.test: " in capsys.readouterr().out
    assert main(["fetch", "parkinsons"]) == 1
    assert "could not be downloaded" in capsys.readouterr().out


def test_fetch_of_an_unknown_name(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["fetch", "imagenet"])
    assert "invalid choice: 'imagenet' (choose from" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    ["mnist", "fashion_mnist", "digits_and_articles", "multi_mnist", "cifar10", "digits", "adult", "language"],
)
def test_an_outline_has_the_tasks_shapes_and_recipe_of_the_data_and_reads_no_file(name, get, monkeypatch):
    options = CASES[name] | ({} if name in CLEAN else {"label_noise": 0.2})
    real = get(name, **options)
    monkeypatch.setattr(files, "folders", list)
    found = outline(name, **options)
    assert found.recipe == real.recipe
    assert found.tasks == real.tasks
    for where, split in found.splits.items():
        assert split.x.shape == real.splits[where].x.shape
        assert split.x.dtype == real.splits[where].x.dtype
    assert found.categories == real.categories
    assert found.only([found.main.name]).train_on_meta(1, 0.25).recipe.endswith(".train_on_meta(1, hold_out=0.25)")


@pytest.mark.parametrize("name", ["mnist", "digits_and_articles", "multi_mnist", "adult", "language"])
def test_what_trains_on_an_outline_draws_real_rows(name, get):
    real, found = get(name, **CASES[name]).resample(1), outline(name, **CASES[name]).resample(1)
    for where, split in found.splits.items():
        assert torch.equal(split.x, real.splits[where].x)
        for task, y in real.splits[where].y.items():
            torch.testing.assert_close(split.y[task], y, rtol=0, atol=0, equal_nan=True)
