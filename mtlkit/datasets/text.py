"""Pairs of texts as token ids of a fixed length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SHORTEST = 8
"""Fewest tokens of a pair of texts, special tokens included."""

SPECIAL = {"padding": ("[PAD]", "<pad>"), "start": ("[CLS]", "<s>"), "separator": ("[SEP]", "</s>")}
"""Special tokens of a pair and the names they go by, those of BERT and of RoBERTa."""


@dataclass(frozen=True)
class Text:
    """What a model has to know of inputs that are token ids, (N, n_tokens) as floating-point numbers.

    Attributes:
        entries: number of the vocabulary's entries; ids are 0 to entries - 1.
        padding: id that fills a row up.
        separator: id that ends each of a row's texts.
        cut: task to the share of its training texts that were too long and have been cut.
    """

    entries: int
    padding: int
    separator: int
    cut: Mapping[str, float]


class Vocabulary:
    """A tokeniser with the special tokens that a pair of texts needs.

    Args:
        tokenizer: of the ``tokenizers`` library.
        name: in messages.

    Attributes:
        entries: number of entries.
        padding: id of the padding token.
        separator: id of the token that ends a text.

    Raises:
        ValueError: a special token is missing, or not put around a pair of texts.
    """

    def __init__(self, tokenizer: Tokenizer, name: str) -> None:
        ids = {}
        for role, words in SPECIAL.items():
            found = [i for i in map(tokenizer.token_to_id, words) if i is not None]
            if not found:
                raise ValueError(f"{name} has no {role} token, expected {' or '.join(words)} among its entries")
            ids[role] = found[0]
        tokenizer.no_padding()
        tokenizer.no_truncation()
        marked = tokenizer.encode("a", "b").ids
        if marked[0] != ids["start"] or marked[-1] != ids["separator"] or marked.count(ids["separator"]) < 2:
            raise ValueError(
                f"{name} makes {tokenizer.encode('a', 'b').tokens} of the texts 'a' and 'b', expected the start token "
                "first and a separator after each (a post-processor of pairs)"
            )
        self.tokenizer = tokenizer
        self.entries = tokenizer.get_vocab_size()
        self.padding, self.separator = ids["padding"], ids["separator"]

    def encode(self, pairs: Sequence[tuple[str, str]], n_tokens: int, keep_end: bool = False) -> tuple[Tensor, Tensor]:
        """Ids (N, n_tokens) as float32, which holds them exactly, and which pairs were cut, (N,) bool.

        The longer text of a pair is cut first.

        Args:
            keep_end: cut a text at its start rather than at its end.
        """
        self.tokenizer.enable_truncation(n_tokens, direction="left" if keep_end else "right")
        found = self.tokenizer.encode_batch(list(pairs))
        self.tokenizer.no_truncation()
        ids = torch.full((len(found), n_tokens), float(self.padding))
        for row, encoding in zip(ids, found, strict=True):
            row[: len(encoding.ids)] = torch.tensor(encoding.ids, dtype=ids.dtype)
        return ids, torch.tensor([bool(encoding.overflowing) for encoding in found])


def learn_vocabulary(texts: Iterable[str], entries: int) -> Vocabulary:
    """Byte-pair encoding of lower-case text, learned from ``texts``, the same at every call.

    Words are bytes at first, so that there is no unknown one. Padding has id 0.

    Raises:
        ImportError: ``tokenizers`` is not installed.
        ValueError: fewer entries than bytes and special tokens.
    """
    tokenizers = _library()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = [names[0] for names in SPECIAL.values()]
    least = len(alphabet) + len(words)
    if entries < least:
        raise ValueError(f"vocabulary is {entries}, expected at least {least} entries, or the path of a tokeniser")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.NFKC(), tokenizers.normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=entries, special_tokens=words, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(word, tokenizer.token_to_id(word)) for word in words[1:]],
    )
    return Vocabulary(tokenizer, "the learned vocabulary")


def read_vocabulary(path: str) -> Vocabulary:
    """The tokeniser of a ``tokenizer.json`` file, or of a folder with one, such as that of a saved model.

    Raises:
        ImportError: ``tokenizers`` is not installed.
        FileNotFoundError: no such file.
        ValueError: not a tokeniser's file, or a special token is missing.
    """
    tokenizers = _library()
    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"vocabulary is {path!r}, expected a tokenizer.json file or its folder, no name")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no narrower class
        raise ValueError(f"{file} is no tokeniser of the tokenizers library: {error}") from None
    return Vocabulary(tokenizer, str(file))


def _library():
    try:
        import tokenizers
        import tokenizers.processors
        import tokenizers.trainers
    except ImportError as error:
        raise ImportError("texts need the tokenizers library; install it with: pip install mtlkit[language]") from error
    return tokenizers
