"""Encoders of token ids: a small one, and any of Hugging Face's."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtlkit import recipes
from mtlkit.datasets import Dataset, Text
from mtlkit.models.base import MultiTaskModel
from mtlkit.recipes import remembered

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS_AT_ONCE = 2**13
"""So many go through an encoder at a time in evaluation."""


class Layer(nn.Module):
    """Self-attention and a perceptron, each added to what goes in, which is normalised first.

    Products and a softmax rather than torch's fused attention, which has no derivative in forward mode.

    Args:
        width: of a token's vector.
        heads: number of attention heads.
        dropout: of what is added.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        )
        self.dropout, self.dropout_after = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, L, width) and what is added to attention's logits (B, 1, 1, L) to (B, L, width)."""
        normed = self.before(x)
        found = (layer(normed) for layer in (self.query, self.key, self.value))
        query, key, value = (vectors.unflatten(-1, (self.heads, -1)).transpose(1, 2) for vectors in found)
        logits = query / math.sqrt(query.shape[-1]) @ key.mT + bias
        attended = (logits.softmax(-1) @ value).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.out(attended))
        return x + self.dropout_after(self.perceptron(x))


class TextEncoder(nn.Module):
    """Token ids to one vector: embeddings of token, place and text, layers, the mean over the tokens, a dense layer.

    Args:
        entries: size of the vocabulary.
        n_tokens: L.
        padding: id of tokens that are not looked at.
        separator: id that ends a text.
        width: of the vectors.
        layers: number of :class:`Layer`.
        heads: of each layer.
        dropout: of the embeddings and in each layer.
    """

    def __init__(
        self, entries: int, n_tokens: int, padding: int, separator: int, width: int, layers: int, heads: int,
        dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.padding, self.separator = padding, separator
        self.token = nn.Embedding(entries, width)
        self.place = nn.Embedding(n_tokens, width)
        self.part = nn.Embedding(2, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.dense = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L) to (B, width)."""
        return _in_parts(self, self.encode, x)

    def encode(self, x: Tensor) -> Tensor:
        """The same for all rows at once."""
        ids, known, bias = _ids_and_mask(x, self.padding)
        vectors = self.token(ids) + self.place.weight + self.part(_which_text(ids, known, self.separator))
        vectors = self.dropout(vectors)
        for layer in self.layers:
            vectors = layer(vectors, bias.to(vectors.dtype))
        share = known.to(vectors.dtype) / known.sum(-1, keepdim=True).clamp(min=1)
        return F.relu(self.dense((share.unsqueeze(-2) @ self.norm(vectors)).squeeze(-2)))


def _in_parts(encoder: nn.Module, encode: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``encode(x)``, a few thousand tokens after the other where that changes nothing: attention takes much memory."""
    rows = max(1, TOKENS_AT_ONCE // x.shape[1])
    if encoder.training or torch.is_grad_enabled() or len(x) <= rows:
        return encode(x)
    return torch.cat([encode(part) for part in x.split(rows)])


def _ids_and_mask(x: Tensor, padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids (B, L) of floating-point inputs, which are no padding, and the bias (B, 1, 1, L) that hides padding."""
    ids = x.long()
    known = ids != padding
    bias = torch.zeros(known.shape, device=x.device).masked_fill(~known, -1e4)
    return ids, known, bias.unsqueeze(-2).unsqueeze(-2)


def _which_text(ids: Tensor, known: Tensor, separator: int) -> Tensor:
    """0 for the tokens of the first text, its separator and padding, 1 for those of the second."""
    ends = (ids == separator).long()
    return (ends.cumsum(-1) - ends).clamp(max=1) * known


@remembered
def text_encoder(
    data: Dataset, width: int = 64, layers: int = 1, heads: int = 2, dropout: float = 0.0
) -> MultiTaskModel:
    """A small transformer for token ids, (N, n_tokens), with one linear head per task.

    Args:
        width: of the vectors.
        layers: of self-attention; 0 leaves the mean of the embeddings.
        heads: of attention; divide ``width``.
        dropout: 0 to 1.

    Raises:
        ValueError: inputs that are not token ids, a ``width`` that the heads do not divide.
    """
    text = _check_text(data, "text_encoder")
    if heads < 1 or width % heads:
        raise ValueError(f"width is {width} and heads is {heads}, expected a width that the heads divide")
    trunk = TextEncoder(
        text.entries, data.train.x.shape[1], text.padding, text.separator, width, layers, heads, dropout
    )
    return MultiTaskModel(trunk, {task.name: nn.Linear(width, task.n_outputs) for task in data.tasks})


class Pretrained(nn.Module):
    """An encoder of Hugging Face's on token ids: the last layer's vector of the first token.

    ``mtlkit.models.initialise`` leaves its weights as they are (``keeps_weights``).

    Args:
        encoder: called with ids, an attention mask, and the parts of a pair if it knows them.
        padding: id of tokens that are not looked at.
        separator: id that ends a text.
    """

    keeps_weights = True

    def __init__(self, encoder: PreTrainedModel, padding: int, separator: int) -> None:
        super().__init__()
        self.encoder, self.padding, self.separator = encoder, padding, separator
        self.knows_parts = getattr(encoder.config, "type_vocab_size", 0) > 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, L) to (B, width)."""
        return _in_parts(self, self.encode, x)

    def encode(self, x: Tensor) -> Tensor:
        """The same for all rows at once."""
        ids, known, bias = _ids_and_mask(x, self.padding)
        # A ready mask of four axes: one of two would be read by the library, which torch.vmap does not allow.
        dtype = next(self.encoder.parameters()).dtype
        options = {"token_type_ids": _which_text(ids, known, self.separator)} if self.knows_parts else {}
        return self.encoder(input_ids=ids, attention_mask=bias.to(dtype), **options).last_hidden_state[:, 0]


def hugging_face(data: Dataset, encoder: str | os.PathLike | PreTrainedModel) -> MultiTaskModel:
    """An encoder of Hugging Face's ``transformers`` for token ids, with one linear head per task.

    Every run starts from the encoder's weights, whatever the seed, and trains them all; heads are drawn anew.
    The ids in ``data`` must be those of the encoder's own tokeniser (``load("language", vocabulary=path)``).

    Works in :func:`mtlkit.fit`, seeds stacked or not, and in :class:`mtlkit.Weigher`, with every weighting, for BERT,
    RoBERTa, ELECTRA, ALBERT and DistilBERT, and for others that take a ready attention mask. Attention is the
    library's "eager" one, which alone has derivatives in forward mode and of second order; its dropout is
    switched off, as it draws from one stream for all seeds. Other dropout stays. A pooling layer is left out.
    Gradient checkpointing does not work.

    Args:
        encoder: the folder of a saved model (safetensors), for which nothing is downloaded; a model, which stays as
            it is (its runs have no recipe); or a name, which ``transformers`` looks up and may download.

    Raises:
        ImportError: ``transformers`` is not installed.
        OSError: no such model.
        ValueError: inputs that are not token ids, a vocabulary or rows too large for the encoder, an encoder
            that does not take a ready attention mask or draws random numbers in other ways than ``nn.Dropout``.
    """
    try:
        from transformers import AutoModel
    except ImportError as error:
        raise ImportError("hugging_face needs transformers; install it with: pip install mtlkit[language]") from error
    text = _check_text(data, "hugging_face")
    if isinstance(encoder, nn.Module):
        return _with_heads(data, text, copy.deepcopy(encoder))
    line = recipes.call(hugging_face, encoder=os.fspath(encoder))
    model = _with_heads(data, text, AutoModel.from_pretrained(encoder, use_safetensors=True))
    model.recipe = line.replace("(", "(data, ", 1)
    return model


def _with_heads(data: Dataset, text: Text, encoder: PreTrainedModel) -> MultiTaskModel:
    kind, config, n_tokens = type(encoder).__name__, encoder.config, data.train.x.shape[1]
    if text.entries > config.vocab_size:
        raise ValueError(
            f"{data.name} has a vocabulary of {text.entries} entries, {kind} one of {config.vocab_size}: "
            "expected the encoder's own tokeniser"
        )
    if config.pad_token_id != text.padding:
        raise ValueError(
            f"{data.name}: padding has id {text.padding}, {kind} expects {config.pad_token_id}: "
            "expected the encoder's own tokeniser"
        )
    if n_tokens > (places := _places(encoder, n_tokens)):
        raise ValueError(f"{data.name}: inputs have {n_tokens} tokens, {kind} takes at most {places}")
    encoder.set_attn_implementation("eager")
    if getattr(encoder, "pooler", None) is not None:
        encoder.register_module("pooler", None)
    trunk = Pretrained(encoder, text.padding, text.separator)
    _check_encoder(trunk, data.train.x[:2].clone())
    width = config.hidden_size
    return MultiTaskModel(trunk, {task.name: nn.Linear(width, task.n_outputs) for task in data.tasks})


def _places(encoder: PreTrainedModel, otherwise: int) -> int:
    """How many tokens an encoder takes: RoBERTa's kind begins to count behind the place of the padding."""
    places = getattr(encoder.config, "max_position_embeddings", otherwise)
    inside = [m for name, m in encoder.named_modules() if isinstance(m, nn.Embedding) and "position" in name]
    return places - max((m.padding_idx + 1 for m in inside if m.padding_idx is not None), default=0)


@torch.no_grad()
def _check_encoder(trunk: Pretrained, x: Tensor) -> None:
    """Switch dropout off where it is no layer that is called, and see that masks and modes are respected."""
    encoder, kind = trunk.encoder, type(trunk.encoder).__name__
    drops, called = [m for m in encoder.modules() if isinstance(m, nn.Dropout)], set()
    x[:, x.shape[1] // 2 :] = trunk.padding
    with torch.random.fork_rng(devices=[]):
        hooks = [m.register_forward_hook(lambda m, *_: called.add(m)) for m in drops]
        trunk.train()(x)
        for hook in hooks:
            hook.remove()
        rates = [m.p if m in called else 0.0 for m in drops]
        for m in drops:
            m.p = 0.0
        training, judging = trunk(x), trunk.eval()(x)
    for m, rate in zip(drops, rates, strict=True):
        m.p = rate
    short = trunk(x[:, : x.shape[1] // 2])
    trunk.train()
    if not torch.equal(training, judging):
        raise ValueError(f"{kind} draws random numbers in training beside its nn.Dropout layers, expected none")
    if not torch.allclose(judging, short, atol=1e-4):
        raise ValueError(f"{kind} does not take a ready attention mask: padding changes its outputs")


def _check_text(data: Dataset, model: str) -> Text:
    if data.text is None:
        raise ValueError(f"{data.name}: inputs are no token ids, which {model} takes (data.text is None)")
    return data.text
