"""The states of a language trunk as words: a published language model reads the instruction, images never pass through it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.encoders.language.text_cache import TILE, TextCache
from verbot.models.encoders.language.tokenizer import split_words
from verbot.models.layers.transformer import Block
from verbot.models.protocols import FitsInstructions
from verbot.models.registries import Part, language_encoders, trunks
from verbot.models.tokens import Sizes, TextBatch, TokenGroup
from verbot.models.trunks.base import LanguageTrunk

TINY: Mapping[str, Any] = {"name": "tiny", "options": {"width": 64, "layers": 2, "reserved": 0}}


@language_encoders.register("language_trunk", needs=("tokenizers",))
class LanguageTrunkStates(nn.Module):
    """The projected hidden states of a language trunk that reads the instruction causally, and `layers` of trained attention.

    Of a trunk that never learns (``hf``, frozen, without adapters) each distinct instruction is encoded once and cached as
    float16, as in `MiniLM`: training then costs what it costs without a language model. The first state is that of a start or
    end token, which is all that ``""`` consists of.

    Args:
        trunk: name and options of the language trunk, e.g. ``{"name": "hf", "options": {"checkpoint": "models:smollm2-135m",
            "depth": 8, "mode": "frozen"}}``.
        layers, heads: the numbers of layers and heads of the trained transformer on top.
        longest: maximum kept of one instruction, in tokens.

    Raises `ConfigError` for a trunk without a name, or a maximum that holds no word; and as the trunk does.
    """

    def __init__(self, sizes: Sizes, trunk: Mapping[str, Any] = TINY, layers: int = 1, heads: int = 4, longest: int = 64):
        super().__init__()
        if longest < 2:
            raise ConfigError(f"language_trunk keeps longest={longest} tokens of an instruction; expected at least 2")
        part, self.longest = _part(trunk), longest
        made: LanguageTrunk = trunks.build(part.name, **part.options)
        self.is_constant, self._cache = made.is_constant, None
        if made.is_constant:
            self._held = (made,)  # in a tuple, so that torch does not register it
            most = math.ceil(longest / TILE) * TILE
            self._cache = TextCache(_identity(part), made.width, self.tokenize, self._run, most)
        else:
            self.trunk = made
        self.project = nn.Linear(made.width, sizes.width)
        self.blocks = nn.ModuleList(Block(sizes.width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(sizes.width)

    @staticmethod
    def fit(options: Mapping[str, Any], instructions: Sequence[str]) -> dict[str, Any]:
        """`options` with those of the trunk fitted to the instructions, or with the identity of its weights."""
        part = _part(options.get("trunk", TINY))
        kind = trunks.get(part.name)
        if not isinstance(kind, FitsInstructions):
            return dict(options)
        fitted = kind.fit(part.options, [_plain(text) for text in instructions])
        return {**options, "trunk": {"name": part.name, "options": dict(fitted)}}

    @property
    def own(self) -> LanguageTrunk:
        """The trunk."""
        return self._held[0] if self.is_constant else self.trunk

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text after the start or end token, at most `longest`."""
        tokenizer = self.own.tokenizer
        first = tokenizer.end if tokenizer.start is None else tokenizer.start
        return [[first, *tokenizer.encode(text)][: self.longest] for text in texts]

    def prepare(self, texts: Sequence[str]) -> TextBatch:
        """States (b, l, d) float16 of a trunk that never learns, ids (b, l) of another."""
        texts = [_plain(text) for text in texts]
        if self._cache is not None:
            return self._cache.batch(texts)
        rows = self.tokenize(texts)
        length = max(map(len, rows), default=1)
        ids = [[*row, *[self.own.tokenizer.pad] * (length - len(row))] for row in rows]
        mask = torch.arange(length) < torch.tensor([len(row) for row in rows], dtype=torch.int64)[:, None]
        return TextBatch(torch.tensor(ids, dtype=torch.int64).reshape(len(rows), length), mask)

    def most_tokens(self) -> int:
        return self.longest

    def forward(self, text: TextBatch) -> TokenGroup:
        states = text.values if self._cache is not None else self._run(text.values, text.mask)
        x = self.project(states.to(self.project.weight.dtype))  # (b, l, e)
        for block in self.blocks:
            x = block(x, text.mask)
        return TokenGroup(self.norm(x), text.mask, "words")

    def _run(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The hidden states (b, l, d) after the trunk's final norm."""
        rows, length = ids.shape
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        places = torch.arange(length, device=ids.device).expand(rows, -1)
        return self.own(self.own.embed(ids), causal & mask.unsqueeze(1), places).hidden


def _part(trunk: Any) -> Part:
    if not isinstance(trunk, Mapping) or set(trunk) - {"name", "options"} or not isinstance(trunk.get("name"), str):
        raise ConfigError(f"the trunk of language_trunk is {trunk!r:.120}; expected a name, and options")
    return Part(**trunk)


def _identity(part: Part) -> str:
    """The name of the cache: it changes whenever the states do."""
    options = part.options
    sha256 = options.get("sha256")
    if not isinstance(sha256, str):
        raise ConfigError("language_trunk has a frozen trunk whose weights are not identified; build it with fit(options, texts)")
    return f"trunk-{part.name}-{sha256[:16]}-{options.get('depth') or 'all'}-{options.get('dtype', 'file')}-{TILE}"


def _plain(text: str) -> str:
    return " ".join(split_words(text))
