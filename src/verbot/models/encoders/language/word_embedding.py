"""A small transformer over word embeddings, with a vocabulary from the training instructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.encoders.language.tokenizer import END, PAD, SPECIAL, START, UNKNOWN, split_words
from verbot.models.exported_text import ExportedText, TextRecord
from verbot.models.layers.transformer import Block
from verbot.models.registries import language_encoders
from verbot.models.tokens import Sizes, TextBatch, TokenGroup


@language_encoders.register("word_embedding")
class WordEmbedding(nn.Module):
    """Word embeddings, position embeddings and `layers` of self-attention. ``""`` consists of START and END.

    Args:
        vocabulary: the known words; filled in by `fit` and saved with the policy. Their ids follow those of `SPECIAL`.
        layers, heads: the numbers of layers and heads of the transformer.
        longest: maximum number of words of an instruction.
    """

    def __init__(
        self,
        sizes: Sizes,
        vocabulary: Sequence[str] | None = None,
        layers: int = 1,
        heads: int = 4,
        longest: int = 48,
    ):
        super().__init__()
        if vocabulary is None:
            raise ConfigError("word_embedding has no vocabulary; build it with WordEmbedding.fit(options, instructions)")
        self.ids = {word: i for i, word in enumerate((*SPECIAL, *vocabulary))}
        self.longest, self.vocabulary = longest, tuple(vocabulary)
        self.embed = nn.Embedding(len(self.ids), sizes.width)
        self.positions = nn.Parameter(torch.randn(longest + 2, sizes.width) * 0.1)
        self.blocks = nn.ModuleList(Block(sizes.width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(sizes.width)

    @staticmethod
    def fit(options: Mapping[str, Any], instructions: Sequence[str]) -> dict[str, Any]:
        """`options` with the vocabulary of `instructions`."""
        return {**options, "vocabulary": sorted({word for text in set(instructions) for word in split_words(text)})}

    @staticmethod
    def grow(options: Mapping[str, Any], instructions: Sequence[str]) -> dict[str, Any]:
        """`options` of `fit` with new words of `instructions` appended; the ids of known words do not change."""
        known = list(options.get("vocabulary", ()))
        return {**options, "vocabulary": [*known, *sorted(set(WordEmbedding.fit({}, instructions)["vocabulary"]) - set(known))]}

    def prepare(self, texts: Sequence[str]) -> TextBatch:
        rows = [[START, *(self.ids.get(w, UNKNOWN) for w in split_words(t)[: self.longest]), END] for t in texts]
        length = max(map(len, rows), default=2)
        ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows], dtype=torch.int64)
        return TextBatch(ids, ids != PAD)

    def most_tokens(self) -> int:
        return len(self.positions)

    def exported_text(self) -> ExportedText:
        return ExportedText(TextRecord("words", self.most_tokens(), self.vocabulary))

    def forward(self, text: TextBatch) -> TokenGroup:
        x: Tensor = self.embed(text.values) + self.positions[: text.values.shape[1]]  # (b, l, e)
        for block in self.blocks:
            x = block(x, text.mask)
        return TokenGroup(self.norm(x), text.mask, "words")
