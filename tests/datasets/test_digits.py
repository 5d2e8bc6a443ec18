import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from mtlkit.datasets import load


def test_rows_are_the_source():
    data = load("digits", main=3, seed=2)
    source = load_digits()
    assert [t.name for t in data.tasks] == [f"is_{d}" for d in (3, 0, 1, 2, 4, 5, 6, 7, 8, 9)]
    for split in data.splits.values():
        rows = split.rows.numpy()
        np.testing.assert_array_equal(split.x.numpy() * 16, source.data[rows])
        for d in range(10):
            np.testing.assert_array_equal(split.y[f"is_{d}"].numpy(), source.target[rows] == d)
    assert [len(s) for s in data.splits.values()] == [1000, 200, 597]
    assert len(torch.cat([s.rows for s in data.splits.values()]).unique()) == 1797


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.2, 200), (0.6, 600), (1.0, 1000)])
def test_flips_are_counted_and_marked(share, count):
    clean, noisy = load("digits", seed=1), load("digits", seed=1, label_noise=share)
    changed = clean.train.y["is_8"] != noisy.train.y["is_8"]
    assert int(changed.sum()) == count
    assert torch.equal(noisy.train.noisy[:, 0], changed)
    assert not noisy.train.noisy[:, 1:].any()


def test_background_only_removes_positives():
    clean, noisy = load("digits", seed=1), load("digits", seed=1, label_noise=0.5, noise="background")
    before, after = clean.train.y["is_8"], noisy.train.y["is_8"]
    assert ((before == 1) | (after == before)).all()
    assert torch.equal(noisy.train.noisy[:, 0], before != after)
    assert 0 < int((before != after).sum()) < before.sum()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"main": 10}, "main is 10, expected one of 0, 1, 2"),
        ({"main": "8"}, "main is '8', expected one of 0"),
        ({"label_noise": 1.5}, "label_noise is 1.5, expected a number from 0 to 1"),
        ({"noise": "swap"}, "noise is 'swap', expected 'flip' or 'background'"),
        ({"n_meta": 0}, "n_meta is 0 .* at least 1 row in each split of 1797 rows"),
        ({"n_meta": 1200}, "n_meta is 1200 .* at least 1 row"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        load("digits", **options)
