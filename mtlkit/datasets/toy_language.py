"""Five tasks on made-up sentences, in the forms of the language tasks: a small stand-in that needs no file."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch

from mtlkit.datasets.base import Dataset, Split, check_sizes, join_splits, of_one_task, some_of
from mtlkit.datasets.text import SHORTEST, Text, Vocabulary, learn_vocabulary, read_vocabulary
from mtlkit.tasks import Task

NAMES = ("fox", "bear", "crow", "hare", "toad", "goose", "wolf", "mole")
ADJECTIVES = ("red", "old", "tall", "shy")
VERBS = {"follows": "trails", "sees": "spots", "helps": "aids", "calls": "summons"}
"""Verb to one that says the same."""
PASSIVE = {"follows": "followed", "sees": "seen", "helps": "helped", "calls": "called"}
THEN = {"hungry": "eats", "tired": "sleeps", "cold": "shivers", "thirsty": "drinks"}
"""State to what comes of it."""
SUBJECT, OBJECT = ("in a hurry", "curious"), ("in the way", "lost")
"""Reasons that are about who does something, and about whom it is done to."""

Pick = Callable[[Sequence[Any], int], list[Any]]
"""Draws so many different entries."""
Row = tuple[tuple[str, str], int]
"""Two texts and a class."""


def _implied(pick: Pick) -> Row:
    (one, two, other), (verb,), (colour,) = pick(NAMES, 3), pick([*VERBS], 1), pick(ADJECTIVES, 1)
    says = [f"the {one} {verb} the {two}", f"no {one} {verb} the {two}", f"the {one} {verb} the {other}"]
    (label,) = pick(range(3), 1)
    return (f"the {colour} {one} {verb} the {two}", says[label]), label


def _choice(pick: Pick) -> Row:
    (name,), (state, other), (label,) = pick(NAMES, 1), pick([*THEN], 2), pick(range(2), 1)
    ends = [THEN[state], THEN[other]] if label == 0 else [THEN[other], THEN[state]]
    first, second = (f"the {name} is {state} so it {end}" for end in ends)
    return (first, second), label


def _paraphrase(pick: Pick) -> Row:
    (one, two), (verb, other), (same,) = pick(NAMES, 2), pick([*VERBS], 2), pick(range(2), 1)
    return (f"the {one} {verb} the {two}", f"the {one} {VERBS[verb if same else other]} the {two}"), same


def _entailed(pick: Pick) -> Row:
    (one, two), (verb,), (label,) = pick(NAMES, 2), pick([*VERBS], 1), pick(range(2), 1)
    by, whom = (one, two) if label else (two, one)
    return (f"the {one} {verb} the {two}", f"the {whom} is {PASSIVE[verb]} by the {by}"), label


def _blank(pick: Pick) -> Row:
    (one, two), (verb,), (label,) = pick(NAMES, 2), pick([*VERBS], 1), pick(range(2), 1)
    (about,), (flipped,) = pick((SUBJECT, OBJECT)[label], 1), pick(range(2), 1)
    told = f"the {one} {verb} the {two} because the _ is {about}"
    first, second = (told.replace("_", name) for name in ((two, one) if flipped else (one, two)))
    return (first, second), 1 - label if flipped else label


MAKERS = {
    "implied": _implied,
    "choice": _choice,
    "paraphrase": _paraphrase,
    "entailed": _entailed,
    "blank": _blank,
}
"""Task to what makes a row of it."""
TASKS = tuple(MAKERS)
CLASSES = {"implied": ("entailment", "contradiction", "neutral")}
"""Classes of a task that is not binary."""


def toy_language(
    *,
    main: str = "implied",
    tasks: Sequence[str] = TASKS,
    n_tokens: int = 32,
    vocabulary: int | str | os.PathLike = 400,
    n_train: int = 300,
    n_meta: int = 100,
    n_test: int = 300,
    seed: int = 0,
) -> Dataset:
    """Five tasks on pairs of made-up sentences, each row labelled for one of them: a small stand-in for ``language``.

    ``implied`` (three classes, as CB), ``choice`` (which of two ends fits, as COPA), ``paraphrase`` (as MRPC),
    ``entailed`` (the active in the passive voice, as RTE) and ``blank`` (who is meant, as WinoGrande). Inputs are
    token ids, (``n_tokens``,), as of :func:`mtlkit.datasets.language.language`. Each seed makes its own training rows
    of every task and meta rows of the main one; the test rows of every task are the same for every seed.

    Args:
        main: the main task.
        tasks: which of the five. Rows of a task are the same whether it is loaded alone or with others.
        n_tokens: length of a row, special tokens included.
        vocabulary: largest number of entries of the byte-pair encoding, or the path of a tokeniser, see there.
        n_train: training rows of each task.
        n_test: test rows of each task.

    Raises:
        ValueError: an unknown task, a main task that is not loaded, an empty split, ``n_tokens`` below 8, a vocabulary
            smaller than the bytes, a tokeniser without the special tokens of a pair.
        FileNotFoundError: no tokeniser at that path.
        ImportError: the ``tokenizers`` library is not installed.
    """
    order = some_of(MAKERS, tasks, main, "toy language task")
    if n_tokens < SHORTEST:
        raise ValueError(f"n_tokens is {n_tokens}, expected at least {SHORTEST}")
    check_sizes(10**6, n_train=n_train, n_meta=n_meta, n_test=n_test)
    known = _vocabulary(vocabulary) if isinstance(vocabulary, int) else read_vocabulary(os.fspath(vocabulary))
    made = {name: _made(name, (seed, 0), n_train + n_meta * (name == main), n_tokens, known) for name in order}
    test = {name: _made(name, (0, 1), n_test, n_tokens, known) for name in order}
    every = tuple(Task(n, "multiclass", len(CLASSES[n])) if n in CLASSES else Task(n, "binary") for n in order)
    return Dataset(
        "toy_language",
        every,
        join_splits(*(_split(name, every, made[name], slice(n_train), 0) for name in order)),
        _split(main, every, made[main], slice(n_train, None), n_train),
        join_splits(*(_split(name, every, test[name], slice(None), APART // 2) for name in order)),
        source="made here",
        classes={name: CLASSES[name] for name in order if name in CLASSES},
        text=Text(known.entries, known.padding, known.separator, {name: made[name][2] for name in order}),
    )


APART = 10**7
"""Row numbers of a task start at a multiple of this, those of its test rows half of it later."""


@functools.lru_cache(maxsize=2)
def _vocabulary(entries: int) -> Vocabulary:
    pick = _picker(0)
    return learn_vocabulary((text for make in MAKERS.values() for _ in range(200) for text in make(pick)[0]), entries)


def _picker(seed: int) -> Pick:
    generator = torch.Generator().manual_seed(seed)

    def pick(options: Sequence, n: int) -> list:
        return [options[i] for i in torch.randperm(len(options), generator=generator)[:n].tolist()]

    return pick


def _made(
    name: str, stream: tuple[int, int], n: int, n_tokens: int, known: Vocabulary
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Ids (n, n_tokens), classes (n,) and the share of rows that were cut, of a seed's training or test rows."""
    seed, part = stream
    pick = _picker((2 * seed + part) * len(TASKS) + TASKS.index(name))
    made = [MAKERS[name](pick) for _ in range(n)]
    x, cut = known.encode([texts for texts, _ in made], n_tokens)
    return x, torch.tensor([label for _, label in made]), float(cut.float().mean())


def _split(
    name: str, tasks: Sequence[Task], made: tuple[torch.Tensor, torch.Tensor, float], part: slice, start: int
) -> Split:
    """Rows of one task, without a label for the others."""
    x, labels = made[0][part], made[1][part]
    rows = TASKS.index(name) * APART + start + torch.arange(len(x))
    return of_one_task(name, tasks, x, labels, rows)
