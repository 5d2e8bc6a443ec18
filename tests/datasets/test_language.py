import functools
import json
import sys
import warnings

import numpy as np
import pytest
import torch

import mtlkit as mtl
from mtlkit.datasets import files, load, needs, outline
from mtlkit.tasks import labelled

tokenizers = pytest.importorskip("tokenizers")

CODE = sys.modules["mtlkit.datasets.language"]
TASKS = ("cb", "copa", "mrpc", "rte", "winogrande")
FILES = {name: (CODE.SOURCES[name].train, CODE.SOURCES[name].test) for name in TASKS}
SIZES = {"cb": (30, 7), "copa": (24, 8), "mrpc": (40, 9), "rte": (36, 6), "winogrande": (44, 10)}
WORDS = (
    "the", "cat", "dog", "sat", "saw", "ran", "on", "under", "near", "old", "red", "mat", "tree", "house", "river",
    "quickly", "again",
)  # fmt: skip


def sentence(rng, n=6):
    return " ".join(rng.choice(WORDS, n)).capitalize() + "."


def lines_of(task, n, rng):
    """Fields of n random rows of one task."""
    if task in ("cb", "rte"):
        classes = ["entailment", "contradiction", "neutral"] if task == "cb" else ["not_entailment", "entailment"]
        premises = [sentence(rng, 9) for _ in range(n)]
        premises[1] = premises[0]
        return [{"premise": p, "hypothesis": sentence(rng), "label": str(rng.choice(classes))} for p in premises]
    if task == "copa":
        return [
            {
                "premise": sentence(rng),
                "choice1": sentence(rng),
                "choice2": sentence(rng),
                "question": str(rng.choice(["cause", "effect"])),
                "label": int(rng.integers(2)),
            }
            for _ in range(n)
        ]
    if task == "mrpc":
        return [
            {
                "Quality": str(rng.integers(2)),
                "#1 ID": str(i),
                "#2 ID": "7",
                "#1 String": f'"{sentence(rng)}',
                "#2 String": sentence(rng),
            }
            for i in range(n)
        ]
    return [
        {
            "qID": f"Q{i // 2}-{i % 2 + 1}",
            "sentence": f"{sentence(rng)} Then _ sat.",
            "option1": "Ann",
            "option2": "Bob",
            "answer": str(1 + i % 2),
        }
        for i in range(n)
    ]


def content(task, lines):
    if task == "mrpc":
        rows = ["\t".join(lines[0]), *("\t".join(line.values()) for line in lines)]
        return "﻿".encode() + "".join(f"{row}\r\n" for row in rows).encode()
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


@pytest.fixture
def small(place):
    """All ten files with few random rows; their fields by task, training and test."""
    rng, found = np.random.default_rng(5), {}
    for task, sizes in SIZES.items():
        found[task] = [lines_of(task, n, rng) for n in sizes]
        for file, lines in zip(FILES[task], found[task], strict=True):
            place(file, content(task, lines))
    return found


def expected(task, line):
    """The two texts and the class of a row, spelled out."""
    if task in ("cb", "rte"):
        order = ["entailment", "contradiction", "neutral"] if task == "cb" else ["not_entailment", "entailment"]
        return line["premise"], line["hypothesis"], order.index(line["label"])
    if task == "copa":
        question = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}[line["question"]]
        before = line["premise"] + " " + question + " "
        return before + line["choice1"], before + line["choice2"], line["label"]
    if task == "mrpc":
        return line["#1 String"], line["#2 String"], int(line["Quality"])
    left, right = line["sentence"].split("_")
    return left + line["option1"] + right, left + line["option2"] + right, int(line["answer"]) - 1


def vocabulary(size=400):
    return CODE._learned(size, tuple(files.fetch(FILES[name][0]) for name in TASKS))


def texts_of(x, known):
    """Two texts from a row of ids."""
    ids = x.long().tolist()
    assert ids[0] == known.tokenizer.token_to_id("[CLS]")
    ends = [place for place, i in enumerate(ids) if i == known.separator]
    assert len(ends) == 2
    assert set(ids[ends[1] + 1 :]) <= {known.padding}
    decode = tokenizers.decoders.ByteLevel().decode
    parts = (ids[1 : ends[0]], ids[ends[0] + 1 : ends[1]])
    return tuple(decode([known.tokenizer.id_to_token(i) for i in part]).strip() for part in parts)


@pytest.mark.parametrize("main", TASKS)
def test_rows_are_those_of_the_files(small, main):
    data = load("language", main=main, vocabulary=400, n_tokens=96, n_meta=5, seed=2)
    known = vocabulary()
    assert [task.name for task in data.tasks] == [main, *(name for name in TASKS if name != main)]
    assert {t.name: t.n_classes for t in data.tasks} == {n: 3 if n == "cb" else None for n in TASKS}
    assert data.train.x.dtype == torch.float32
    assert (data.text.entries, data.text.padding, data.text.separator) == (known.entries, 0, 2)
    assert data.text.cut == dict.fromkeys((t.name for t in data.tasks), 0.0)
    seen = []
    for where, split in data.splits.items():
        for i, row in enumerate(split.rows.tolist()):
            place, left = divmod(row, 100_000)
            task, (test, number) = TASKS[place], divmod(left, 50_000)
            first, second, label = expected(task, small[task][test][number])
            assert (where == "test") == bool(test)
            assert texts_of(split.x[i], known) == (first.lower(), second.lower())
            assert {n: float(y[i]) for n, y in split.y.items() if labelled(y)[i]} == {task: label}
            seen.append(row)
    assert len(set(seen)) == len(seen)
    assert len(data.test) == sum(test for _, test in SIZES.values())
    assert len(data.meta) == 5
    assert labelled(data.meta.y[main]).all()
    for name in set(TASKS) - {main}:
        assert int(labelled(data.train.y[name]).sum()) == SIZES[name][0]


def test_card_names_what_was_cut(small):
    data = load("language", vocabulary=400, n_tokens=96).only(["copa", "rte"])
    assert data.card.facts["texts that were cut"] == "0% of copa, 0% of rte"
    assert data.card.facts["inputs"] == f"(96,) float32, ids of a vocabulary of {data.text.entries}"
    assert data.card.classes.loc["copa", "name"].tolist() == ["choice1", "choice2"]


@pytest.mark.parametrize("n_meta", [None, 1, 6, 7])
@pytest.mark.parametrize("main", TASKS)
def test_like_rows_stay_on_one_side(small, main, n_meta):
    groups = {
        "cb": lambda line: line["premise"],
        "copa": lambda line: line["premise"],
        "mrpc": lambda line: line["#1 ID"],
        "rte": lambda line: line["premise"],
        "winogrande": lambda line: line["qID"][:-2],
    }
    sizes = set()
    for seed in range(8):
        data = load("language", main=main, tasks=(main,), vocabulary=400, n_tokens=96, n_meta=n_meta, seed=seed)
        train, meta = (
            {groups[main](small[main][0][row % 50_000]) for row in split.rows.tolist()}
            for split in (data.train, data.meta)
        )
        assert not train & meta
        assert len(data.meta) == (SIZES[main][0] // 5 if n_meta is None else n_meta)
        sizes.add(len(data.train))
    largest = 1 if main in ("copa", "mrpc") else 2
    assert sizes == {SIZES[main][0] - len(data.meta) - (largest - 1)}


def test_a_task_has_the_same_rows_alone_and_with_others(small):
    options = {"vocabulary": 400, "n_tokens": 96, "n_train": 12, "n_meta": 4, "n_test": 5, "seed": 1}
    alone, all_five = load("language", tasks=("rte",), **options), load("language", **options)
    assert [len(s) for s in alone.splits.values()] == [12, 4, 5]
    assert [len(s) for s in all_five.splits.values()] == [60, 4, 25]
    for where, split in alone.splits.items():
        other = all_five.splits[where]
        kept = other.take(labelled(other.y["rte"]))
        assert torch.equal(kept.x, split.x)
        assert torch.equal(kept.rows, split.rows)
        assert torch.equal(kept.y["rte"], split.y["rte"])
    assert torch.equal(load("language", **options).train.x, all_five.train.x)
    assert not torch.equal(load("language", **{**options, "seed": 2}).train.x, all_five.train.x)
    assert torch.equal(load("language", **{**options, "seed": 2}).resample(1).train.x, all_five.train.x)
    line = "load('language', n_meta=4, n_test=5, n_tokens=96, n_train=12, tasks=('rte',), vocabulary=400)"
    assert alone.recipe == line


def test_the_learned_vocabulary_is_the_same_again(small):
    first = vocabulary().tokenizer.to_str()
    CODE._learned.cache_clear()
    assert vocabulary().tokenizer.to_str() == first
    assert vocabulary() is vocabulary()
    test_texts = [line["hypothesis"] for line in small["rte"][1]]
    assert vocabulary(300).entries == 300
    assert 300 < vocabulary().entries <= 400
    assert all("[UNK]" not in vocabulary().tokenizer.encode(t + " Žluťoučký 猫").tokens for t in test_texts)


def test_long_texts_are_cut_longest_first_and_at_the_start_for_cb(small):
    known = vocabulary()
    for task in TASKS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = load("language", main=task, tasks=(task,), vocabulary=400, n_tokens=14)
        long = 0
        for row, x in zip(data.train.rows.tolist(), data.train.x, strict=True):
            first, second, _ = expected(task, small[task][0][row % 50_000])
            whole = [known.tokenizer.encode(text.lower(), add_special_tokens=False).ids for text in (first, second)]
            ids = x.long().tolist()
            ends = [place for place, i in enumerate(ids) if i == known.separator]
            kept = [ids[1 : ends[0]], ids[ends[0] + 1 : ends[1]]]
            for part, text in zip(kept, whole, strict=True):
                assert part == (text[len(text) - len(part) :] if task == "cb" else text[: len(part)])
            if sum(map(len, whole)) > 11:
                long += 1
                assert sum(map(len, kept)) == 11
                longer = max(map(len, kept))
                assert all(
                    len(part) == len(text) or longer - len(part) <= 1 for part, text in zip(kept, whole, strict=True)
                )
            else:
                assert kept == whole
        assert long
        everything = [expected(task, line) for line in small[task][0]]
        n_long = sum(
            sum(len(known.tokenizer.encode(t.lower(), add_special_tokens=False)) for t in pair[:2]) > 11
            for pair in everything
        )
        assert data.text.cut[task] == pytest.approx(n_long / len(everything))


def test_cutting_most_texts_is_worth_a_warning(small):
    message = r"\d+% of the training texts of 'mrpc' have more than 12 tokens and were cut; give a larger n_tokens"
    with pytest.warns(UserWarning, match=message):
        load("language", main="mrpc", tasks=("mrpc",), vocabulary=400, n_tokens=12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"main": "boolq"}, "main is 'boolq', expected one of cb, copa, mrpc, rte, winogrande"),
        ({"tasks": ("rte", "boolq")}, "no language task 'boolq', expected some of cb, copa, mrpc, rte, winogrande"),
        ({"tasks": ("cb", "copa")}, "main is 'rte', expected one of cb, copa"),
        ({"tasks": ("rte", "cb", "cb")}, "tasks are rte, cb, cb, expected each once"),
        ({"tasks": ("rte", "rte")}, "tasks are rte, rte, expected each once"),
        ({"n_tokens": 7}, "n_tokens is 7, expected at least 8"),
        ({"n_train": 0}, "n_train is 0, expected at least 1"),
        ({"n_test": 0}, "n_test is 0, expected at least 1"),
        ({"n_meta": 0}, "n_meta is 0, expected at least 1"),
        ({"n_meta": 35}, "n_meta is 35, expected at least 1 each and at most 34"),
        ({"vocabulary": 258}, "vocabulary is 258, expected at least 259 entries, or the path of a tokeniser"),
    ],
)
def test_bad_options(small, options, message):
    with pytest.raises(ValueError, match=message):
        load("language", **{"vocabulary": 400, "n_tokens": 96, **options})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"premise": "  "}, "row 3: 'premise' is empty, expected text"),
        ({"hypothesis": ""}, "row 3: 'hypothesis' is empty, expected text"),
        ({"label": "maybe"}, "row 3: ValueError.*not in tuple.*, expected a row of 'rte'"),
        ({"premise": ["a"]}, "row 3: TypeError.*texts are.*, expected a row of 'rte'"),
    ],
)
def test_bad_rows(small, place, change, message):
    lines = [{**line, **(change if i == 2 else {})} for i, line in enumerate(small["rte"][0])]
    path = place(FILES["rte"][0], content("rte", lines))
    with pytest.raises(ValueError, match=message) as error:
        load("language", vocabulary=400)
    assert str(path) in str(error.value)


def test_an_empty_choice_and_a_missing_field(small, place):
    place(FILES["copa"][1], content("copa", [{**small["copa"][1][0], "choice2": ""}]))
    with pytest.raises(ValueError, match=r"val.jsonl, row 1: 'choice2' is empty, expected text"):
        load("language", vocabulary=400)
    place(FILES["copa"][1], b'{"premise": "A."}\n')
    with pytest.raises(ValueError, match=r"val.jsonl, row 1: KeyError\('question'\), expected a row of 'copa'"):
        load("language", vocabulary=400)
    place(FILES["copa"][1], b"no json\n")
    with pytest.raises(ValueError, match=r"val.jsonl, row 1: JSONDecodeError.*, expected a row of 'copa'"):
        load("language", vocabulary=400)


def test_a_missing_file_names_address_and_folder(small, tmp_path, monkeypatch, cache):
    monkeypatch.undo()
    monkeypatch.setattr(files.pooch, "os_cache", lambda project: cache)
    monkeypatch.setattr(files, "RETRIES", 0)
    monkeypatch.setattr(files.pooch.HTTPDownloader, "__call__", refuse)
    monkeypatch.setenv("MTLKIT_DATA", str(tmp_path / "data"))
    for file in FILES["rte"]:
        (tmp_path / "data" / file).unlink()
    with pytest.raises(FileNotFoundError) as error:
        load("language")
    message = str(error.value)
    for part in ("superglue/data/v2/RTE.zip", "RTE/train.jsonl", str(cache / FILES["rte"][0]), str(tmp_path / "data")):
        assert part in message


def refuse(*_, **options):
    raise OSError("no network in a test")


def test_a_damaged_file_is_refused(small, tmp_path):
    path = tmp_path / "data" / FILES["cb"][1]
    damaged = bytearray(path.read_bytes())
    damaged[40] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=f"{path} has SHA-256 .*: it is damaged or another version"):
        load("language", vocabulary=400)


def word_level(names, template=True):
    """A tokeniser of whole words with special tokens of these names, as a folder of a saved model has one."""
    entries = {word: i for i, word in enumerate([*names, "[UNK]", *WORDS, "."])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(entries, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.Lowercase()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if template:
        start, end = ((w, entries[w]) for w in names if w in ("<s>", "</s>", "[CLS]", "[SEP]"))
        made.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{start[0]} $A {end[0]}",
            pair=f"{start[0]} $A {end[0]} {end[0]} $B {end[0]}",
            special_tokens=[start, end],
        )
    return made


def test_a_given_tokeniser_with_special_tokens_of_its_own(small, tmp_path):
    made = word_level(["<s>", "<pad>", "</s>"])
    made.enable_padding(length=200)
    made.enable_truncation(3)
    made.save(str(tmp_path / "tokenizer.json"))
    data = load("language", vocabulary=tmp_path, n_tokens=64, tasks=("rte",))
    again = load("language", vocabulary=str(tmp_path / "tokenizer.json"), n_tokens=64, tasks=("rte",))
    assert torch.equal(data.train.x, again.train.x)
    assert (data.text.entries, data.text.padding, data.text.separator) == (made.get_vocab_size(), 1, 2)
    for row, x in zip(data.train.rows.tolist(), data.train.x, strict=True):
        first, second, _ = expected("rte", small["rte"][0][row % 50_000])
        words = (one.lower().replace(".", " .").split() for one in (first, second))
        first, second = ([made.token_to_id(word) for word in one] for one in words)
        ids = [0, *first, 2, 2, *second, 2]
        assert x.tolist() == ids + [1] * (64 - len(ids))


@pytest.mark.parametrize(
    ("names", "template", "message"),
    [
        (["<s>", "</s>"], True, r"tokenizer.json has no padding token, expected \[PAD\] or <pad> among its entries"),
        (["[PAD]", "[SEP]"], False, r"tokenizer.json has no start token, expected \[CLS\] or <s>"),
        (["[PAD]", "[CLS]"], False, r"tokenizer.json has no separator token, expected \[SEP\] or </s>"),
        (["[PAD]", "[CLS]", "[SEP]"], False, r"makes .* of the texts 'a' and 'b', expected the start token first"),
    ],
)
def test_a_tokeniser_without_its_special_tokens(small, tmp_path, names, template, message):
    word_level(names, template).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=message):
        load("language", vocabulary=tmp_path)


def test_no_tokeniser(small, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"vocabulary is '.*nowhere', expected a tokenizer.json file"):
        load("language", vocabulary=tmp_path / "nowhere")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json is no tokeniser of the tokenizers library"):
        load("language", vocabulary=tmp_path)
    CODE._learned.cache_clear()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install mtlkit\[language\]"):
        load("language", vocabulary=300)


@pytest.mark.parametrize("method", [mtl.Uniform(), mtl.SLGrad(), mtl.AlphaVIL()], ids=lambda m: type(m).__name__)
def test_fit_on_five_tasks(small, method):
    data = load("language", vocabulary=300, n_tokens=96, n_train=16, n_meta=6, n_test=5)
    model = mtl.models.text_encoder(data, width=8)
    runs = mtl.fit(model, data, method, epochs=2, batch_size=16, steps_per_epoch=2, seeds=2, lr=0.05)
    assert not runs.frame["diverged"].any()
    found = runs.frame[(runs.frame.metric == "loss") & (runs.frame.split != "meta")]
    assert set(found.task) == set(TASKS)
    assert np.isfinite(found.value).all()
    curves = found[found.split == "train"].pivot_table(index=["seed", "task"], columns="epoch", values="value")
    assert (curves[0] != curves[2]).all()
    accuracy = runs.frame[(runs.frame.metric == "accuracy") & (runs.frame.split == "test")]
    assert set(accuracy.task) == {"rte"}
    assert set((accuracy.value * 5).round(9)) <= set(range(6))


@functools.cache
def published(folder):
    """Rows of every published file, read line by line without the loader."""
    found = {}
    for file in needs("language"):
        with open(f"{folder}/{file}", encoding="utf-8-sig", newline="") as lines:
            rows = [line.rstrip("\r\n") for line in lines]
        if file.startswith("mrpc"):
            found[file] = [dict(zip(rows[0].split("\t"), row.split("\t"), strict=True)) for row in rows[1:]]
        else:
            found[file] = [json.loads(row) for row in rows]
    return found


@pytest.mark.parametrize("main", TASKS)
def test_an_outline_has_as_many_rows_as_the_real_files_whatever_the_seed(real_data, main):
    real_data(*needs("language"))
    options = {"main": main, "n_tokens": 96, "n_train": 3000}
    found = outline("language", **options)
    for seed in (0, 1):
        real = load("language", seed=seed, **options)
        assert real.text.entries == found.text.entries
        assert (real.text.padding, real.text.separator) == (found.text.padding, found.text.separator)
        for where, split in real.splits.items():
            assert split.x.shape == found.splits[where].x.shape
            for name, y in split.y.items():
                assert int(labelled(y).sum()) == int(labelled(found.splits[where].y[name]).sum())
    share = {"cb": 0.8, "copa": 0.8, "mrpc": 3000 / 4076, "rte": 1992 / 2490 - 4 / 2490, "winogrande": 3000 / 10_234}
    assert CODE.in_common(found) == CODE.in_common(real) == pytest.approx(share[main])


def test_real_files(real_data, given):
    real_data(*needs("language"))
    rows = published(given)
    data = load("language", main="winogrande", n_tokens=96)
    sizes = {"winogrande": 10_234 - 500 - 1, "cb": 250, "copa": 400, "mrpc": 4076, "rte": 2490}
    assert {name: int(labelled(y).sum()) for name, y in data.train.y.items()} == sizes
    assert {n: int(labelled(y).sum()) for n, y in data.test.y.items()} == {
        "winogrande": 1267, "cb": 56, "copa": 100, "mrpc": 1725, "rte": 277,
    }  # fmt: skip
    for name in TASKS:
        for where in ("train", "test"):
            split = data.splits[where]
            own = split.take(labelled(split.y[name]))
            lines = rows[FILES[name][where == "test"]]
            wanted = [expected(name, lines[row % 50_000])[2] for row in own.rows.tolist()]
            assert own.y[name].tolist() == wanted
    known = CODE._learned(4000, tuple(files.fetch(FILES[name][0]) for name in TASKS))
    for i in range(0, len(data.test), 200):
        place, number = divmod(int(data.test.rows[i]) - 50_000, 100_000)
        first, second, _ = expected(TASKS[place], rows[FILES[TASKS[place]][1]][number])
        assert len(set(data.test.x[i].long().tolist())) > 5
        if (data.test.x[i] == known.padding).any():
            folded = tuple(known.tokenizer.normalizer.normalize_str(one).strip() for one in (first, second))
            assert texts_of(data.test.x[i], known) == folded
    pairs = [{rows[FILES["winogrande"][0]][r % 50_000]["qID"][:-2] for r in s.rows.tolist() if r // 100_000 == 4}
             for s in (data.train, data.meta)]  # fmt: skip
    assert not pairs[0] & pairs[1]
    assert all(0 <= share < 0.5 for share in data.text.cut.values())
