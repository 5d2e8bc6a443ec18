import numpy as np
import pandas as pd
import pytest
import torch

from mtlkit.datasets import files, load

ADULT, PARKINSONS = files.needed("adult"), files.needed("parkinsons-telemonitoring")
COLUMNS = (
    "39, {work}, 77516, Bachelors, {years}, {status}, Sales, Husband, White, Male, 2174, 0, 40, {land}, {income}{stop}"
)


def adult_rows(n, stop="", first=""):
    rng = np.random.default_rng(n)
    lines = [
        COLUMNS.format(
            work=rng.choice(["Private", "?", "State-gov"]),
            years=rng.integers(1, 17),
            status=rng.choice(["Never-married", "Divorced"]),
            land=rng.choice(["United-States", "?"]),
            income=rng.choice(["<=50K", ">50K"]),
            stop=stop,
        )
        for _ in range(n)
    ]
    return (first + "\n".join(lines) + "\n\n").encode(), lines


def test_adult_from_small_files(place):
    (train, train_lines), (test, test_lines) = adult_rows(60), adult_rows(20, ".", "|1x3 Cross validator\n")
    place("adult/adult.data", train)
    place("adult/adult.test", test)
    data = load("adult", n_meta=10, label_noise=0.5, seed=1)
    clean = load("adult", n_meta=10, seed=1)
    assert [len(s) for s in data.splits.values()] == [50, 10, 20]
    assert data.test.rows.tolist() == list(range(60, 80))
    lines = train_lines + test_lines
    for split in clean.splits.values():
        cells = [lines[row].split(", ") for row in split.rows]
        assert split.y["income"].tolist() == [c[14].startswith(">") for c in cells]
        assert split.y["never_married"].tolist() == [c[5] == "Never-married" for c in cells]
        assert split.y["education"].tolist() == [int(c[4]) >= 10 for c in cells]
        assert split.x[:, 5].tolist() == [{"?": 0, "Private": 1, "State-gov": 2}[c[1]] for c in cells]
    assert data.train.noisy.sum(0).tolist() == [25, 0, 0]
    assert torch.equal(data.train.noisy[:, 0], data.train.y["income"] != clean.train.y["income"])
    other = load("adult", n_meta=10, main="education", label_noise=0.5, seed=1)
    assert [t.name for t in other.tasks] == ["education", "income", "never_married"]
    assert other.train.noisy.sum(0).tolist() == [25, 0, 0]
    assert torch.equal(other.train.y["income"], clean.train.y["income"])


def test_adult_draws_of_a_given_size_are_disjoint(place):
    place("adult/adult.data", adult_rows(60)[0])
    place("adult/adult.test", adult_rows(20, ".")[0])
    draws = [load("adult", n_train=12, n_meta=5, label_noise=0.25, seed=seed) for seed in range(3)]
    rows = [torch.cat([data.train.rows, data.meta.rows]).tolist() for data in draws]
    assert len({row for draw in rows for row in draw}) == 51
    assert max(map(max, rows)) < 60
    for seed, data in enumerate(draws):
        assert [len(s) for s in data.splits.values()] == [12, 5, 20]
        assert data.train.noisy.sum(0).tolist() == [3, 0, 0]
        assert torch.equal(data.test.rows, torch.arange(60, 80))
        whole = load("adult", n_meta=10)
        known = torch.cat([whole.train.rows, whole.meta.rows]).sort().indices
        education = torch.cat([whole.train.y["education"], whole.meta.y["education"]])[known]
        assert torch.equal(data.train.y["education"], education[data.train.rows])
        assert torch.equal(draws[0].resample(seed).train.x, data.train.x)
    assert not torch.equal(draws[0].train.noisy, draws[1].train.noisy)
    other = load("adult", n_train=5, n_meta=12, seed=1)
    assert torch.cat([other.train.rows, other.meta.rows]).tolist() == rows[1]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adult", {"main": "age"}, "main is 'age', expected one of income, never_married, education"),
        ("adult", {"label_noise": -0.1}, "label_noise is -0.1, expected a number from 0 to 1"),
        ("adult", {"n_meta": 0}, "n_meta is 0, expected at least 1 each"),
        ("adult", {"n_meta": 40}, "n_meta is 40, expected at least 1 each and at most 29 together"),
        ("adult", {"n_train": 0, "n_meta": 10}, "n_train is 0 and n_meta is 10, expected at least 1 each"),
        ("adult", {"n_train": 21, "n_meta": 10}, "n_train is 21 and n_meta is 10, .* at most 30 together"),
        (
            "adult",
            {"n_train": 4, "n_meta": 5, "seed": 3},
            "seed is 3, expected one from 0 to 2: 30 training rows give 3 disjoint draws of 9",
        ),
        ("adult", {"noise": "swap", "n_meta": 10}, "noise is 'swap', expected 'flip' or 'background'"),
        ("parkinsons", {"main": "age"}, "main is 'age', expected one of motor_UPDRS, total_UPDRS"),
        ("parkinsons", {"meta_subjects": 0}, "meta_subjects is 0 and test_subjects is 10, expected at least 1"),
        ("parkinsons", {"test_subjects": 40}, "meta_subjects is 8 and test_subjects is 40, .* at most 41"),
    ],
)
def test_bad_options(place, name, options, message):
    place("adult/adult.data", adult_rows(30)[0])
    place("adult/adult.test", adult_rows(10, ".")[0])
    lines = [f"{s},70,{s % 2},{t},{s + t},{2 * s + t}" for s in range(1, 43) for t in range(3)]
    header = "subject#,age,sex,test_time,motor_UPDRS,total_UPDRS"
    place("parkinsons-telemonitoring/parkinsons_updrs.data", "\n".join([header, *lines]).encode())
    with pytest.raises(ValueError, match=message):
        load(name, **options)


def test_real_adult(real_data):
    real_data(*ADULT)
    data = load("adult")
    assert [len(s) for s in data.splits.values()] == [30_561, 2000, 16_281]
    for task, n_train, n_test in (
        ("income", 7841, 3846),
        ("never_married", 10_683, 5434),
        ("education", 17_807, 8843),
    ):
        assert int(data.train.y[task].sum() + data.meta.y[task].sum()) == n_train
        assert int(data.test.y[task].sum()) == n_test
    assert list(data.categories.values()) == [9, 15, 7, 6, 3, 42]
    x = torch.cat([data.train.x, data.meta.x])
    assert (x[:, list(data.categories)] == 0).sum(0).tolist() == [1836, 1843, 0, 0, 0, 583]
    assert not torch.isnan(x).any()
    mean, sd = 1_256_257 / 32_561, 13.64
    age = x[torch.cat([data.train.rows, data.meta.rows]).sort().indices][:3, 0]
    np.testing.assert_allclose(age, (np.array([39, 50, 38]) - mean) / sd, atol=0.02)
    assert data.test.y["income"][:3].tolist() == [0, 0, 1]
    assert load("adult", label_noise=0.4).train.noisy.sum().item() == round(0.4 * 30_561)


def test_real_adult_without_n_train_keeps_its_draws(real_data):
    real_data(*ADULT)
    data = load("adult", seed=3, label_noise=0.2)
    order = torch.randperm(32_561, generator=torch.Generator().manual_seed(3))
    assert torch.equal(data.train.rows, order[:30_561])
    assert torch.equal(data.meta.rows, order[30_561:])
    assert data.train.rows[data.train.noisy[:, 0]][:5].tolist() == [25952, 9747, 13335, 2145, 19291]


@pytest.mark.parametrize(("n_train", "n_meta", "draws"), [(300, 200, 65), (1000, 500, 21), (3000, 256, 10)])
def test_real_adult_draws_are_disjoint(real_data, n_train, n_meta, draws):
    real_data(*ADULT)
    options = {"n_train": n_train, "n_meta": n_meta}
    some = [load("adult", seed=seed, **options) for seed in (0, 1, 2, draws - 1)]
    rows = torch.cat([split.rows for data in some for split in (data.train, data.meta)])
    assert len(rows.unique()) == len(some) * (n_train + n_meta)
    assert rows.max() < 32_561
    for data in some:
        torch.testing.assert_close(data.train.x[:, 0].mean(), torch.tensor(0.0).double(), atol=1e-9, rtol=0)
        assert len(data.test) == 16_281
        assert int(data.test.y["income"].sum()) == 3846
    with pytest.raises(ValueError, match=f"32561 training rows give {draws} disjoint draws of {n_train + n_meta}"):
        load("adult", seed=draws, **options)


def test_real_parkinsons(real_data):
    real_data(*PARKINSONS)
    table = pd.read_csv(files.fetch(PARKINSONS[0]))
    assert len(table) == 5875
    sizes, people = set(), []
    for seed in range(5):
        data = load("parkinsons", seed=seed)
        sizes.add(tuple(len(s) for s in data.splits.values()))
        parts = [set(table["subject#"].iloc[s.rows.numpy()]) for s in data.splits.values()]
        assert [len(p) for p in parts] == [24, 8, 10]
        assert len(set.union(*parts)) == 42
        people.append(parts[2])
        for split in data.splits.values():
            for name, (mean, sd) in data.scale.items():
                np.testing.assert_allclose(split.y[name] * sd + mean, table[name].iloc[split.rows.numpy()])
    assert sizes == {(3112, 936, 1194)}
    assert people[0] != people[1]
    assert load("parkinsons", main="total_UPDRS").main.name == "total_UPDRS"
    assert data.train.x.shape[1] == 19


def test_flipped_byte_in_a_copy(real_data, tmp_path, monkeypatch):
    real_data(*PARKINSONS)
    content = bytearray(files.fetch(PARKINSONS[0]).read_bytes())
    content[12_345] ^= 4
    copy = tmp_path / PARKINSONS[0]
    copy.parent.mkdir()
    copy.write_bytes(content)
    monkeypatch.setenv("MTLKIT_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=f"{copy} has SHA-256 .*, expected f2c7d5025dec"):
        load("parkinsons")
