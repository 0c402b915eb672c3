"""The interface of a language trunk: embedding, transformer and output layer of a language model, with its tokenizer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from verbot.models.trunks.architecture import DecoderConfig


@runtime_checkable
class TextTokenizer(Protocol):
    """Text to token ids and back. Special tokens are never made from text, and `encode` adds none."""

    size: int  # of the vocabulary: ids are below it, reserved ones included
    start: int | None  # None if the model knows no start of a text
    end: int
    pad: int

    def encode(self, text: str, /) -> list[int]: ...

    def decode(self, ids: Sequence[int], /) -> str:
        """The text of `ids`; special tokens and ids without text are left out."""
        ...

    def reserved(self, count: int, /) -> list[int]:
        """`count` ids that text never uses, or else the least used; the last id of the vocabulary comes first.

        Raises `ConfigError` if there are fewer.
        """
        ...


@dataclass(frozen=True)
class KeyValueCache:
    """The keys and values of the tokens before, of each block. It is never changed in place.

    Args:
        keys: (b, g, m, h) for each block, g key heads of width h, after rotation.
        values: the same shapes.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def length(self) -> int:
        """m, the number of tokens."""
        return self.keys[0].shape[2]

    def append(self, other: KeyValueCache) -> KeyValueCache:
        """A cache with the tokens of `other` after those of this one."""
        return KeyValueCache(_joined(self.keys, other.keys), _joined(self.values, other.values))

    def select(self, rows: slice | Tensor) -> KeyValueCache:
        """A selection of rows."""
        return self.changed(lambda x: x[rows])

    def first(self, count: int) -> KeyValueCache:
        """Of the first tokens only."""
        return self.changed(lambda x: x[:, :, :count])

    def changed(self, change: Callable[[Tensor], Tensor]) -> KeyValueCache:
        """A copy with `change` of every tensor."""
        return KeyValueCache(tuple(map(change, self.keys)), tuple(map(change, self.values)))


def _joined(first: Sequence[Tensor], second: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(pair, 2) for pair in zip(first, second, strict=True))


@dataclass(frozen=True)
class TrunkOutput:
    """What a trunk makes of a sequence.

    Args:
        hidden: (b, n, d) after the final norm, in the dtype of the input.
        layers: the input of each block (b, n, d), in the trunk's own dtype.
        cache: keys and values of the m tokens so far, these n included.
    """

    hidden: Tensor
    layers: tuple[Tensor, ...]
    cache: KeyValueCache

    def select(self, rows: slice | Tensor) -> TrunkOutput:
        """A selection of rows."""
        return TrunkOutput(self.hidden[rows], tuple(layer[rows] for layer in self.layers), self.cache.select(rows))

    def followed(self, after: TrunkOutput) -> TrunkOutput:
        """With the output for what comes after, which was computed with this one's cache."""
        layers = (torch.cat(pair, 1) for pair in zip(self.layers, after.layers, strict=True))
        return TrunkOutput(torch.cat([self.hidden.to(after.hidden.dtype), after.hidden], 1), tuple(layers), after.cache)


class LanguageTrunk(nn.Module, ABC):
    """The transformer of a language model with embedding and output layer.

    It computes in the dtype of its weights. A trunk is built by ``factory(**options)``.
    """

    width: int  # d of the hidden states
    depth: int  # number of blocks
    config: DecoderConfig  # of its blocks
    tokenizer: TextTokenizer
    is_constant: bool = False  # nothing in it ever learns: what it makes of a sequence can be kept

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """The embeddings (b, n, d) of ids (b, n), scaled as the model was trained."""

    @abstractmethod
    def forward(self, x: Tensor, allowed: Tensor, positions: Tensor, cache: KeyValueCache | None = None) -> TrunkOutput:
        """
        Args:
            x: (b, n, d).
            allowed: (b, n, m) bool, True where a token may attend to one of m = cached + n. One that may attend to nothing gets
                zeros from attention, not NaN.
            positions: (b, n) int64.
            cache: keys and values of the tokens before.
        """

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """(b, n, v) float32 of hidden states (b, n, d) after the final norm."""
