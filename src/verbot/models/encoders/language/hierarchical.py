"""An encoder of instructions with several sentences: attention within each sentence, then across sentences."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from verbot.errors import ConfigError
from verbot.models.encoders.language.tokenizer import START, split_words
from verbot.models.layers.transformer import AttentionPool, Block
from verbot.models.protocols import CountsUnreadTokens, GrowsVocabulary
from verbot.models.registries import language_encoders
from verbot.models.tokens import Sizes, TextBatch, TokenGroup


def split_sentences(text: str) -> list[str]:
    """The sentences of an instruction; at least one, which may be empty.

    >>> split_sentences("Open the drawer. Put 1.5 cups in it!\\nClose it; stop")
    ['Open the drawer', 'Put 1.5 cups in it', 'Close it', 'stop']
    """
    return [part for part in re.split(r"[.!?;]+(?:\s+|$)|\n+", text) if split_words(part)] or [""]


@language_encoders.register("hierarchical")
class HierarchicalLanguage(nn.Module):
    """Word tokens, each with a feature of its sentence.

    Words attend to words of their own sentence. Sentences, pooled by attention, attend to each other, with embeddings of their
    order. Only word tokens are returned: with one token per sentence, networks memorized the training sentences. Source: the
    hierarchical attention network, Yang et al. 2016, with self-attention in place of recurrence.

    Args:
        base: the encoder of single sentences, e.g. ``"word_embedding"`` or ``"minilm"``, with `base_options`.
        layers, heads: the numbers of layers and heads of the transformer across sentences.
        sentences: number of order embeddings; later sentences share the last one.
    """

    def __init__(
        self,
        sizes: Sizes,
        base: str = "word_embedding",
        base_options: Mapping[str, Any] | None = None,
        layers: int = 1,
        heads: int = 4,
        sentences: int = 8,
    ):
        super().__init__()
        _check(base)
        self.base = language_encoders.build(base, sizes, **(base_options or {}))
        self.pool = AttentionPool(sizes.width, heads)
        self.order = nn.Parameter(torch.randn(sentences, sizes.width) * 0.1)
        self.blocks = nn.ModuleList(Block(sizes.width, heads) for _ in range(layers))
        self.tell = nn.Sequential(nn.LayerNorm(sizes.width), nn.Linear(sizes.width, sizes.width))
        self.norm = nn.LayerNorm(sizes.width)

    @staticmethod
    def fit(options: Mapping[str, Any], instructions: Sequence[str]) -> dict[str, Any]:
        """`options` with those of the base encoder, fitted to the sentences."""
        base = options.get("base", "word_embedding")
        _check(base)
        sentences = sorted({sentence for text in instructions for sentence in split_sentences(text)})
        return {**options, "base_options": language_encoders.get(base).fit(options.get("base_options") or {}, sentences)}

    @staticmethod
    def grow(options: Mapping[str, Any], instructions: Sequence[str]) -> dict[str, Any]:
        """`options` of `fit`, with new words added to the vocabulary of the base encoder if it has one."""
        base = language_encoders.get(options.get("base", "word_embedding"))
        if not isinstance(base, GrowsVocabulary):
            return dict(options)
        return {**options, "base_options": base.grow(options.get("base_options") or {}, instructions)}

    def unread_tokens(self, texts: Sequence[str]) -> tuple[int, int]:
        return self.base.unread_tokens(texts) if isinstance(self.base, CountsUnreadTokens) else (0, 0)

    def prepare(self, texts: Sequence[str]) -> TextBatch:
        """Tokens of all sentences by the base encoder. Ids mark sentence starts; states (b, l, d + 1) end with its number."""
        sentences = [split_sentences(text) for text in texts]
        text = self.base.prepare([sentence for found in sentences for sentence in found])
        rows, masks, first = [], [], 0
        for found in sentences:
            parts = []
            for number in range(len(found)):
                values = text.values[first + number][text.mask[first + number]]
                if values.is_floating_point():
                    values = torch.cat([values, values.new_full((len(values), 1), number)], -1)
                parts.append(values)
            first += len(found)
            rows.append(torch.cat(parts))
            masks.append(torch.ones(len(rows[-1]), dtype=torch.bool))
        if not rows:
            return text
        pad = nn.utils.rnn.pad_sequence
        return TextBatch(pad(rows, batch_first=True), pad(masks, batch_first=True))

    def forward(self, text: TextBatch) -> TokenGroup:
        sentences, count = _split_batch(text)
        words = self.base(sentences)  # (b·m, l, e)
        mask = words.mask.unflatten(0, (-1, count))  # (b, m, l)
        there = mask.any(-1)
        order = self.order[torch.arange(count, device=there.device).clamp(max=len(self.order) - 1)]
        x = self.pool(words).unflatten(0, (-1, count)) + order  # (b, m, e)
        for block in self.blocks:
            x = block(x, there)
        tokens = words.tokens.unflatten(0, (-1, count)) + self.tell(x).unsqueeze(2)  # (b, m, l, e)
        return TokenGroup(self.norm(tokens.flatten(1, 2)), mask.flatten(1), "words")


def _check(base: str) -> None:
    if base == "hierarchical":
        raise ConfigError("the base of hierarchical reads one sentence; it cannot be hierarchical itself")


def _split_batch(text: TextBatch) -> tuple[TextBatch, int]:
    """The sentences of all instructions as a batch (b·m, l), and m, the maximum number of sentences."""
    values, mask = text.values, text.mask
    if values.is_floating_point():
        values, number = values[..., :-1], values[..., -1].long()
    else:
        number = ((values == START) & mask).cumsum(1) - 1
    number = number.masked_fill(~mask, 0).clamp(min=0)
    place = torch.arange(mask.shape[1], device=mask.device).expand_as(number)
    count = int(number.max()) + 1
    # Where each sentence begins: the first of its words that is not masked.
    begins = place.new_full((len(mask), count), mask.shape[1])
    begins = begins.scatter_reduce(1, number, place.masked_fill(~mask, mask.shape[1]), "amin")
    within = (place - begins.gather(1, number)).masked_fill(~mask, 0)
    length = int(within.max()) + 1
    # Every word to its sentence's row; what is masked, to a place that is cut off.
    slot = (number * length + within).masked_fill(~mask, count * length)
    shape = (len(mask), count * length + 1)
    kept = torch.zeros(shape, dtype=torch.bool, device=mask.device).scatter(1, slot, mask)[:, :-1]
    if values.ndim == 2:
        spread = values.new_zeros(shape).scatter(1, slot, values)
    else:
        index = slot.unsqueeze(-1).expand_as(values)
        spread = values.new_zeros((*shape, values.shape[-1])).scatter(1, index, values)
    cut = spread[:, :-1].unflatten(1, (count, length)).flatten(0, 1)
    return TextBatch(cut, kept.unflatten(1, (count, length)).flatten(0, 1)), count
