"""The language tasks of αVIL: CB, COPA and RTE of SuperGLUE, MRPC and WinoGrande, in one data set."""

from __future__ import annotations

import functools
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtlkit.datasets import files
from mtlkit.datasets.base import Dataset, Split, check_sizes, join_splits, of_one_task, some_of
from mtlkit.datasets.text import SHORTEST, Text, Vocabulary, learn_vocabulary, read_vocabulary
from mtlkit.tasks import Task, labelled

QUESTIONS = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}
MANY_CUT = 0.5
"""Above this share of a task's training texts, cutting them is worth a warning."""
APART = 100_000
"""Row numbers of a task's training file start at a multiple of this, those of its test file half of it later."""

Line = dict[str, Any]
"""The fields of one row of a file."""


@dataclass(frozen=True)
class Source:
    """A task and its files.

    Attributes:
        train: its training file.
        test: the file whose rows are the test split.
        classes: their names, class 0 first; a task of two is binary.
        texts: a row's two texts.
        label: the name of its class.
        group: what it has in common with rows that belong on the same side of a split.
        source: who made it.
        licence: of the files.
        keep_end: whether texts that are too long are cut at their start.
    """

    train: str
    test: str
    classes: tuple[str, ...]
    texts: Callable[[Line], tuple[str, str]]
    label: Callable[[Line], str]
    group: Callable[[Line], str]
    source: str
    licence: str
    keep_end: bool = False

    def task(self, name: str) -> Task:
        """The task that it is under this name."""
        return Task(name, "binary") if len(self.classes) == 2 else Task(name, "multiclass", len(self.classes))


def _premise_and_hypothesis(line: Line) -> tuple[str, str]:
    return line["premise"], line["hypothesis"]


def _choices(line: Line) -> tuple[str, str]:
    before = f"{line['premise']} {QUESTIONS[line['question']]}"
    return f"{before} {line['choice1']}", f"{before} {line['choice2']}"


def _filled(line: Line) -> tuple[str, str]:
    return line["sentence"].replace("_", line["option1"]), line["sentence"].replace("_", line["option2"])


def _superglue(
    name: str,
    classes: tuple[str, ...],
    source: str,
    texts: Callable[[Line], tuple[str, str]] = _premise_and_hypothesis,
    label: Callable[[Line], str] = lambda line: line["label"],
    keep_end: bool = False,
) -> Source:
    return Source(
        f"superglue/{name}/train.jsonl",
        f"superglue/{name}/val.jsonl",
        classes,
        texts,
        label,
        group=lambda line: line["premise"],
        source=f"{source}, as in SuperGLUE",
        licence="research use",
        keep_end=keep_end,
    )


SOURCES = {
    "cb": _superglue(
        "CB",
        ("entailment", "contradiction", "neutral"),
        "CommitmentBank (De Marneffe, Simons and Tonhauser 2019)",
        keep_end=True,
    ),
    "copa": _superglue(
        "COPA",
        ("choice1", "choice2"),
        "COPA (Roemmele, Bejan and Gordon 2011)",
        texts=_choices,
        label=lambda line: f"choice{line['label'] + 1}",
    ),
    "mrpc": Source(
        "mrpc/msr_paraphrase_train.txt",
        "mrpc/msr_paraphrase_test.txt",
        ("different", "paraphrase"),
        texts=lambda line: (line["#1 String"], line["#2 String"]),
        label=lambda line: {"0": "different", "1": "paraphrase"}[line["Quality"]],
        group=lambda line: line["#1 ID"],
        source="Microsoft Research Paraphrase Corpus (Dolan and Brockett 2005)",
        licence="Microsoft research terms",
    ),
    "rte": _superglue("RTE", ("not_entailment", "entailment"), "Recognizing Textual Entailment 1, 2, 3 and 5"),
    "winogrande": Source(
        "winogrande/train_l.jsonl",
        "winogrande/dev.jsonl",
        ("option1", "option2"),
        texts=_filled,
        label=lambda line: f"option{line['answer']}",
        group=lambda line: line["qID"].rpartition("-")[0],
        source="WinoGrande (Sakaguchi, Le Bras, Bhagavatula and Choi 2020)",
        licence="CC BY",
    ),
}
TASKS = tuple(SOURCES)
SIZES = {
    "cb": (250, 1, 56),
    "copa": (400, 1, 100),
    "mrpc": (4076, 1, 1725),
    "rte": (2490, 5, 277),
    "winogrande": (10_234, 2, 1267),
}
"""Task to the rows of its training file, those of the largest group among them, and the rows of its test file."""


def language(
    *,
    main: str = "rte",
    tasks: Sequence[str] = TASKS,
    n_tokens: int = 128,
    vocabulary: int | str | os.PathLike = 4000,
    n_train: int | None = None,
    n_meta: int | None = None,
    n_test: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Five language tasks: ``cb``, ``copa``, ``mrpc``, ``rte``, ``winogrande``, the chosen ``main`` first.

    A row is a pair of texts with the label of one task; its labels of the others are missing. Pairs:

    ========== ====================================== ==================== =================================
    task       first text                             second text          label
    ========== ====================================== ==================== =================================
    cb         premise                                hypothesis           entailment, contradiction, neutral
    copa       premise, question and choice 1         the same, choice 2   which is right
    mrpc       sentence 1                             sentence 2           paraphrase or not
    rte        premise                                hypothesis           entailment or not
    winogrande sentence, its blank filled by option 1 the same, option 2   which is right
    ========== ====================================== ==================== =================================

    Both choices in one row make a choice a binary task whose accuracy is that of the published task, so that one model
    with a head per task serves all five. (Scoring each choice in a row of its own is the usual form for one such task
    alone; it would double the rows and need an encoder pass per choice for tasks that have none.)

    Inputs are (n_tokens,) token ids, floating-point numbers as category codes are elsewhere, ``[CLS] first [SEP]
    second [SEP]`` and padding. A longer pair is cut, the longer text first, at its end; at the start for ``cb``,
    whose hypothesis comes from the end of its premise. ``data.text`` and the card say how many were.

    The published test files carry no labels (but for MRPC's). So the test split is the published validation
    file of each task, MRPC's test file, and each seed splits the training file: meta rows of the main
    task, the only ones that methods read, and training rows. Rows with the same premise, first sentence or
    WinoGrande pair are never on both sides. WinoGrande's training file is ``train_l``. Training rows of a task
    are the same whether it is loaded alone, ``tasks=("rte",)``, or with others; a task alone is also
    ``only(["rte"])``, which keeps the other tasks' rows without a label.

    ``rows`` is 100,000 times the task's place in this list, plus the line from 0; test rows 50,000 more.

    Args:
        main: the main task.
        tasks: which of the five.
        n_tokens: length of a row, special tokens included.
        vocabulary: largest number of entries of a byte-pair encoding, learned from the training files of all five
            tasks (whichever are loaded, without a look at labels), or the path of a ``tokenizer.json`` or of
            a folder with one.
        n_train: at most this many training rows of each task; all when None.
        n_meta: rows of the main task; a fifth of its training file, at most 500, when None.
        n_test: at most this many test rows of each task, the first; all when None.

    Raises:
        ValueError: an unknown task, a main task that is not loaded, an empty split, a number out of its range,
            a damaged file or an empty text in it, a tokeniser without the special tokens of a pair.
        FileNotFoundError: a file that is not there and could not be downloaded; no tokeniser at that path.
        ImportError: the ``tokenizers`` library is not installed.
    """
    order = some_of(SOURCES, tasks, main, "language task")
    if n_tokens < SHORTEST:
        raise ValueError(f"n_tokens is {n_tokens}, expected at least {SHORTEST}")
    check_sizes(APART, n_train=1 if n_train is None else n_train)
    check_sizes(APART, n_test=1 if n_test is None else n_test)
    paths = {name: (files.fetch(SOURCES[name].train), files.fetch(SOURCES[name].test)) for name in order}
    unread = files.BLANK in paths[main]
    known: Vocabulary | Unread
    if not isinstance(vocabulary, int):
        known = _stored(os.fspath(vocabulary))
    elif unread:
        known = Unread(vocabulary)
    else:
        known = _learned(vocabulary, tuple(files.fetch(source.train) for source in SOURCES.values()))
    encoded = {
        name: _unread(name, n_tokens) if unread else _encoded(name, *paths[name], n_tokens, known) for name in order
    }

    drawn = {}
    for name, data in encoded.items():
        n_rows = len(data.train.labels)
        held = 0
        if name == main:
            held = min(n_rows // 5, 500) if n_meta is None else n_meta
            check_sizes(n_rows - data.spare - 1, n_meta=held)
        generator = torch.Generator().manual_seed(seed * len(TASKS) + TASKS.index(name))
        drawn[name] = _draw(data, held, n_rows if n_train is None else n_train, generator)
    return Dataset(
        "language",
        tuple(SOURCES[name].task(name) for name in order),
        join_splits(*(_split(name, order, encoded[name].train, rows) for name, (rows, _) in drawn.items())),
        _split(main, order, encoded[main].train, drawn[main][1]),
        _test(tuple(encoded.items()), n_test),
        source="; ".join(SOURCES[name].source for name in order),
        licence="; ".join(f"{name}: {SOURCES[name].licence}" for name in order),
        classes={name: SOURCES[name].classes for name in order},
        text=Text(known.entries, known.padding, known.separator, {name: data.cut for name, data in encoded.items()}),
    )


@dataclass(frozen=True)
class FileRows:
    """A file's rows: (N, n_tokens) ids, (N,) classes, and (N,) row numbers."""

    x: Tensor
    labels: Tensor
    rows: Tensor


@dataclass(frozen=True, eq=False)
class Encoded:
    """A task's files as numbers.

    Attributes:
        groups: (N,) group of each training row, from 0.
        spare: rows of the largest group but one.
        cut: share of the training rows that were too long.
    """

    train: FileRows
    test: FileRows
    groups: Tensor
    spare: int
    cut: float


def in_common(data: Dataset) -> float:
    """Share of the main task's training rows that two seeds have in common."""
    return int(labelled(data.train.y[data.main.name]).sum()) / SIZES[data.main.name][0]


@dataclass(frozen=True)
class Unread:
    """What a learned vocabulary is known to be before its texts are read."""

    entries: int
    padding: int = 0
    separator: int = 2


def _unread(name: str, n_tokens: int) -> Encoded:
    """A task's files without their content."""
    n, largest, n_test = SIZES[name]
    groups = torch.arange(n)
    groups[: largest - 1] = largest - 1
    classes = len(SOURCES[name].classes)
    first = TASKS.index(name) * APART
    train, test = (
        FileRows(torch.zeros(rows, n_tokens), torch.arange(rows) % classes, start + torch.arange(rows))
        for rows, start in ((n, first), (n_test, first + APART // 2))
    )
    return Encoded(train, test, groups.unique(return_inverse=True)[1], largest - 1, 0.0)


@functools.lru_cache(maxsize=4)
def _learned(entries: int, paths: tuple[Path, ...]) -> Vocabulary:
    read = (_lines(name, path) for name, path in zip(SOURCES, paths, strict=True))
    return learn_vocabulary((one for lines, _, _ in read for pair in lines for one in pair), entries)


@functools.lru_cache(maxsize=4)
def _stored(path: str) -> Vocabulary:
    return read_vocabulary(path)


@functools.lru_cache(maxsize=16)
def _encoded(name: str, train: Path, test: Path, n_tokens: int, known: Vocabulary) -> Encoded:
    parts, long = [], []
    for place, path in enumerate((train, test)):
        texts, labels, _ = _lines(name, path, place)
        x, cut = known.encode(texts, n_tokens, SOURCES[name].keep_end)
        first = TASKS.index(name) * APART + place * APART // 2
        parts.append(FileRows(x, torch.tensor(labels), first + torch.arange(len(texts))))
        long.append(float(cut.float().mean()))
    if long[0] > MANY_CUT:
        warnings.warn(
            f"{long[0]:.0%} of the training texts of {name!r} have more than {n_tokens} tokens and were cut; "
            "give a larger n_tokens",
            stacklevel=4,
        )
    numbers: dict[str, int] = {}
    groups = torch.tensor([numbers.setdefault(group, len(numbers)) for group in _lines(name, train)[2]])
    return Encoded(parts[0], parts[1], groups, int(groups.bincount().max()) - 1, long[0])


@functools.lru_cache(maxsize=16)
def _lines(name: str, path: Path, place: int = 0) -> tuple[list[tuple[str, str]], list[int], list[str]]:
    """Texts, classes and groups of a task's training file (place 0) or test file (1).

    Raises:
        ValueError: a row without one of its fields, with an unknown class, or with an empty field.
    """
    source = SOURCES[name]
    file = (source.train, source.test)[place]
    found = files.checked_bytes(file, path).decode("utf-8-sig")
    texts, labels, groups = [], [], []
    for number, line in enumerate(_fields(found, table=file.endswith(".txt")), 1):
        try:
            fields = json.loads(line) if isinstance(line, str) else line
            pair, label, group = source.texts(fields), source.label(fields), source.group(fields)
            if not all(isinstance(one, str) for one in pair):
                raise TypeError(f"texts are {pair}")
            empty = [key for key, value in fields.items() if isinstance(value, str) and not value.strip()]
            labels.append(source.classes.index(label))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}, row {number}: {error!r}, expected a row of {name!r}") from None
        if empty:
            raise ValueError(f"{path}, row {number}: {empty[0]!r} is empty, expected text")
        texts.append(pair)
        groups.append(group)
    return texts, labels, groups


def _fields(content: str, table: bool) -> Iterator[str | Line]:
    """JSON lines as they are; the rows of a table, whose first line names its columns, by those names."""
    lines = [line.rstrip("\r") for line in content.split("\n") if line.strip()]
    if not table:
        yield from lines
        return
    names = lines[0].split("\t")
    for line in lines[1:]:
        yield dict(zip(names, line.split("\t"), strict=False))


def _draw(data: Encoded, n_meta: int, n_train: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows for training and for meta, no group in both.

    As many as every seed can have: the rows of the largest group but one stay out, unless ``n_train`` is lower.
    """
    place = torch.randperm(int(data.groups.max()) + 1, generator=generator)[data.groups]
    order = place.argsort(stable=True)
    meta = order[:n_meta]
    free = order[n_meta:]
    if n_meta:
        free = free[place[free] > place[meta[-1]]]
        n_train = min(n_train, len(order) - n_meta - data.spare)
    return free[:n_train], meta


def _split(name: str, order: Sequence[str], file: FileRows, index: Tensor) -> Split:
    """Rows of one task, without a label for the others."""
    tasks = [SOURCES[other].task(other) for other in order]
    return of_one_task(name, tasks, file.x[index], file.labels[index], file.rows[index])


@functools.lru_cache(maxsize=4)
def _test(encoded: tuple[tuple[str, Encoded], ...], n_test: int | None) -> Split:
    order = [name for name, _ in encoded]
    return join_splits(
        *(_split(name, order, data.test, torch.arange(len(data.test.labels))[:n_test]) for name, data in encoded)
    )
