import pytest
import torch

from mtlkit import Task, recipes
from mtlkit.datasets import Dataset, Split, load
from mtlkit.datasets.base import check_share, check_sizes, choose, join_splits, main_first
from mtlkit.datasets.noise import flip_labels, other_class, with_main_labels

TASKS = (Task("a", "binary"), Task("b", "multiclass", n_classes=3))


def split(n=4, first=0, **changes):
    y = {"a": torch.arange(n) % 2.0, "b": torch.arange(n) % 3}
    parts = {
        "x": torch.arange(n * 2.0).view(n, 2) + first,
        "y": y,
        "rows": torch.arange(first, first + n),
        "noisy": torch.zeros(n, 2, dtype=torch.bool),
    }
    return Split(**{**parts, **changes})


def data(**changes):
    parts = {"train": split(6), "meta": split(3, 10), "test": split(2, 20)}
    return Dataset("tiny", TASKS, **{**parts, **changes})


def test_take_keeps_rows_together():
    part = split().take(torch.tensor([2, 0]))
    assert part.x.tolist() == [[4, 5], [0, 1]]
    assert part.rows.tolist() == [2, 0]
    assert part.y["b"].tolist() == [2, 0]
    assert len(part) == 2


@pytest.mark.parametrize("where", ["train", "meta", "test"])
def test_empty_split(where):
    with pytest.raises(ValueError, match=f"tiny: the {where} split is empty, expected at least one row"):
        data(**{where: split(0)})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_inputs(bad):
    with pytest.raises(ValueError, match="tiny: the meta inputs hold NaN or infinite values, expected finite ones"):
        data(meta=split(3, x=torch.full((3, 2), bad)))


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        ({"a": torch.zeros(3)}, ValueError, "no target 'b', found \\['a'\\]"),
        ({"a": torch.zeros(2), "b": torch.zeros(3).long()}, ValueError, "'a': target has shape \\(2,\\), expected 3"),
        ({"a": torch.zeros(3, 1), "b": torch.zeros(3).long()}, ValueError, "shape \\(3, 1\\), expected \\(3,\\)"),
        ({"a": torch.zeros(3), "b": torch.full((3,), 3)}, ValueError, "'b': target holds 3, expected integer classes"),
        ({"a": torch.full((3,), 0.5), "b": torch.zeros(3).long()}, ValueError, "'a': target holds 0.5"),
        ({"a": torch.zeros(3), "b": torch.zeros(3)}, TypeError, "'b': target is torch.float32, expected integer"),
        ({"a": [0, 1, 0], "b": torch.zeros(3).long()}, TypeError, "'a': target is a list"),
    ],
)
def test_bad_target(y, error, message):
    with pytest.raises(error, match=f"tiny, (the )?test split.*{message}|tiny: the test split has {message}"):
        data(test=split(3, y=y))


def test_two_tasks_of_one_name():
    with pytest.raises(ValueError, match="each with its own name"):
        Dataset("tiny", (TASKS[0], TASKS[0]), split(), split(), split())


def test_only_reorders_tasks_and_noise():
    noisy = torch.zeros(6, 2, dtype=torch.bool)
    noisy[3, 0] = True
    both = data(train=split(6, noisy=noisy)).only(["b", "a"])
    assert both.main.name == "b"
    assert both.train.noisy.nonzero().tolist() == [[3, 1]]
    single = both.only(["b"])
    assert [t.name for t in single.tasks] == ["b"]
    assert list(single.test.y) == ["b"]
    assert single.train.noisy.shape == (6, 1)
    with pytest.raises(ValueError, match="tiny: no task 'c', expected one of a, b"):
        data().only(["c"])


@pytest.mark.parametrize(("share", "rows"), [(None, [*range(6), 10, 11, 12]), (1, [10, 11, 12])])
def test_train_on_meta(share, rows):
    mixed = data().train_on_meta(share)
    assert mixed.train.rows.tolist() == rows
    assert mixed.meta.rows.tolist() == [10, 11, 12]


def test_without_main_labels_the_auxiliaries_and_the_other_splits_stay():
    whole = load("digits", main=8, label_noise=0.5)
    hidden = whole.without_main_labels()
    assert hidden.train.y["is_8"].isnan().all()
    assert hidden.train.y["is_1"].equal(whole.train.y["is_1"])
    assert not hidden.train.noisy.any()
    assert hidden.meta is whole.meta
    assert hidden.resample(3).train.rows.equal(whole.resample(3).train.rows)
    assert recipes.make(hidden.recipe, {"load": load}).train.y["is_8"].isnan().all()
    wrong = load("toy_regression").without_main_labels().train_on_meta(0.5)
    assert wrong.train.y[wrong.main.name].isnan().sum() == 600


def test_train_on_meta_oversamples():
    mixed = data().train_on_meta(0.5)
    assert len(mixed.train) == 12
    assert torch.bincount(mixed.train.rows)[10:].tolist() == [2, 2, 2]
    for share in (0, -0.1, 1.1):
        with pytest.raises(ValueError, match="expected None or a number above 0 and at most 1"):
            data().train_on_meta(share)


def test_variants_are_redrawn_with_the_same_change():
    whole = load("digits", seed=0, label_noise=0.3)
    variant = whole.only(["is_8", "is_1"]).train_on_meta(None)
    again = variant.resample(5)
    fresh = load("digits", seed=5, label_noise=0.3)
    assert torch.equal(again.train.x, torch.cat([fresh.train.x, fresh.meta.x]))
    assert torch.equal(again.train.y["is_8"][:1000], fresh.train.y["is_8"])
    assert list(again.train.y) == ["is_8", "is_1"]
    assert data().resample(3).train.rows.tolist() == list(range(6))
    twice = variant.resample(2).resample(5)
    assert torch.equal(twice.train.x, again.train.x)
    assert list(twice.train.y) == ["is_8", "is_1"]


def test_variants_keep_changing_targets():
    def train_at(epoch):
        return split(6, y={"a": torch.full((6,), epoch % 2.0), "b": torch.zeros(6).long()})

    changing = data(train_at=train_at)
    assert list(changing.only(["a"]).train_at(3).y) == ["a"]
    mixed = changing.train_on_meta(None).train_at(3)
    assert mixed.y["a"].tolist() == [1] * 6 + [0, 1, 0]
    assert changing.train_on_meta(1).train_at is None


def test_join():
    both = join_splits(split(2), split(1, 5))
    assert both.rows.tolist() == [0, 1, 5]
    assert both.y["b"].tolist() == [0, 1, 0]


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_check_share(bad):
    with pytest.raises(ValueError, match=r"label_noise is .*, expected a number from 0 to 1"):
        check_share("label_noise", bad)


def test_check_sizes():
    check_sizes(10, n_train=8, n_meta=2)
    message = r"n_train is .* and n_meta is .*, expected at least 1 each and at most 10"
    for sizes in ({"n_train": 9, "n_meta": 2}, {"n_train": 10, "n_meta": 0}, {"n_train": -1, "n_meta": 2}):
        with pytest.raises(ValueError, match=message):
            check_sizes(10, **sizes)


def test_main_first():
    assert main_first(["a", "b", "c"], "b") == ["b", "a", "c"]
    with pytest.raises(ValueError, match="main is 'd', expected one of a, b, c"):
        main_first(["a", "b", "c"], "d")


@pytest.mark.parametrize(("n", "share", "count"), [(10, 0, 0), (10, 0.25, 2), (7, 0.5, 4), (10, 1, 10)])
def test_choose_counts(n, share, count):
    draws = [choose(n, share, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1, 2, 3)]
    assert all(int(d.sum()) == count for d in draws)
    assert torch.equal(draws[0], draws[1])


def test_choose_is_uniform():
    generator = torch.Generator().manual_seed(0)
    total = sum(choose(5, 0.4, generator).double() for _ in range(2000))
    assert (total / 2000 - 0.4).abs().max() < 0.05


def test_flip_labels():
    labels, chosen = torch.tensor([0.0, 1, 0, 1]), torch.tensor([True, True, False, False])
    assert flip_labels(labels, chosen, "flip").tolist() == [1, 0, 0, 1]
    assert flip_labels(labels, chosen, "background").tolist() == [0, 0, 0, 1]
    with pytest.raises(ValueError, match="noise is 'swap', expected 'flip' or 'background'"):
        flip_labels(labels, chosen, "swap")


def test_other_class():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat(500)
    chosen = torch.arange(2000) < 1000
    wrong = other_class(labels, chosen, 4, generator)
    assert (wrong[:1000] != labels[:1000]).all()
    assert torch.equal(wrong[1000:], labels[1000:])
    shares = torch.bincount((wrong - labels)[:1000] % 4, minlength=4) / 1000
    assert (shares[1:] - 1 / 3).abs().max() < 0.06


def test_with_main_labels_marks_what_changed():
    before = split(4)
    after = with_main_labels(before, torch.tensor([1.0, 1, 0, 0]))
    assert after.noisy.tolist() == [[True, False], [False, False], [False, False], [True, False]]
    assert torch.equal(after.y["b"], before.y["b"])
    assert not before.noisy.any()
    assert list(after.y) == ["a", "b"]
