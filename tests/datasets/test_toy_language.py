import re
import sys

import pytest
import torch

from mtlkit.datasets import load
from mtlkit.tasks import labelled

tokenizers = pytest.importorskip("tokenizers")

CODE = sys.modules["mtlkit.datasets.toy_language"]


def words(x):
    """The two texts of a row of ids."""
    known = CODE._vocabulary(400)
    ids = [i for i in x.long().tolist() if i != known.padding]
    end = ids.index(known.separator)
    decode = tokenizers.decoders.ByteLevel().decode
    parts = (ids[1:end], ids[end + 1 : -1])
    return tuple(decode([known.tokenizer.id_to_token(i) for i in part]).strip() for part in parts)


def by_rule(task, first, second):
    """The class of two texts, found from the words alone."""
    verbs = "|".join([*CODE.VERBS, *CODE.VERBS.values()])
    event = re.compile(rf"(\w+) ({verbs}) the (\w+)")
    if task == "choice":
        return [CODE.THEN[text.split()[3]] == text.split()[6] for text in (first, second)].index(True)
    if task == "blank":
        by, _, whom = event.search(first).groups()
        about = CODE.SUBJECT if re.search(rf"because the {by} is", first) else CODE.OBJECT
        return 0 if any(reason in first for reason in about) else 1
    by, verb, whom = event.search(first).groups()
    if task == "entailed":
        name, done, other = re.fullmatch(r"the (\w+) is (\w+) by the (\w+)", second).groups()
        assert CODE.PASSIVE[verb] == done
        return int((name, other) == (whom, by))
    one, other, two = event.search(second).groups()
    if task == "paraphrase":
        assert (one, two) == (by, whom)
        return int(CODE.VERBS[verb] == other)
    if second.startswith("no "):
        return 1
    return 0 if two == whom else 2


def test_labels_follow_from_the_words():
    data = load("toy_language", main="blank", n_train=40, n_meta=10, n_test=20, seed=2)
    seen = {}
    for split in data.splits.values():
        for name, y in split.y.items():
            there = labelled(y)
            for x, label in zip(split.x[there], y[there], strict=True):
                assert by_rule(name, *words(x)) == int(label), (name, words(x))
                seen.setdefault(name, set()).add(int(label))
    assert seen == {name: set(range(3 if name == "implied" else 2)) for name in CODE.TASKS}


def test_rows_have_one_label_and_are_never_cut():
    data = load("toy_language", main="entailed", n_train=30, n_meta=8, n_test=12)
    for where, n in (("train", 150), ("test", 60)):
        split = data.splits[where]
        assert torch.stack([labelled(y) for y in split.y.values()]).sum(0).tolist() == [1] * n
    assert labelled(data.meta.y["entailed"]).all()
    assert set(data.text.cut.values()) == {0.0}
    assert data.text.entries <= 400


def test_a_task_has_the_same_rows_alone_and_with_others():
    options = {"main": "choice", "n_train": 20, "n_meta": 5, "n_test": 7, "seed": 4}
    every, alone = load("toy_language", **options), load("toy_language", tasks=("choice",), **options)
    for where, split in alone.splits.items():
        own = labelled(every.splits[where].y["choice"])
        assert torch.equal(split.x, every.splits[where].x[own])
        assert torch.equal(split.rows, every.splits[where].rows[own])
        assert torch.equal(split.y["choice"], every.splits[where].y["choice"][own])


def test_test_rows_are_the_same_for_every_seed_and_training_rows_are_not():
    one, two = (load("toy_language", seed=seed, n_train=20, n_meta=5, n_test=7) for seed in (0, 1))
    assert torch.equal(one.test.x, two.test.x)
    assert not torch.equal(one.train.x, two.train.x)
    assert not torch.equal(one.meta.x, two.meta.x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ("cb",), "main": "cb"}, "no toy language task 'cb', expected some of implied, choice"),
        ({"main": "cb"}, "main is 'cb', expected one of implied"),
        ({"tasks": ("choice", "choice"), "main": "choice"}, "tasks are choice, choice, expected each once"),
        ({"n_tokens": 7}, "n_tokens is 7, expected at least 8"),
        ({"n_test": 0}, "n_test is 0, expected at least 1 each"),
        ({"vocabulary": 100}, "vocabulary is 100, expected at least"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        load("toy_language", **options)
