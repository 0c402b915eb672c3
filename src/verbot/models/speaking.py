"""Heads whose actions are words, and backbones with a language trunk that says them; protocols, checked with `isinstance`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from verbot.models.tokens import Batch, Suffix

if TYPE_CHECKING:
    from verbot.models.features import Features
    from verbot.models.trunks.base import TextTokenizer


@runtime_checkable
class SpeakingHead(Protocol):
    """A head whose actions are words of the backbone's language trunk."""

    longest: int  # number of ids of a chunk, at most

    def suffix(self, batch: Batch) -> Suffix:
        """The ids that say the actions of a training batch."""
        ...

    def choose(self, logits: Tensor, said: Tensor, generators: Sequence[torch.Generator | None] | None = None) -> Tensor:
        """The next id (b,) after `said` (b, i) by logits (b, v), only one that means something there. Rows with a generator draw
        one."""
        ...

    def is_over(self, said: Tensor) -> bool:
        """Whether every row of `said` (b, i) is a whole chunk."""
        ...

    def read(self, said: Tensor) -> tuple[Tensor, Tensor]:
        """Normalized actions (b, k, a) of ids (b, i), and (b,) bool, whether they mean a chunk."""
        ...


@runtime_checkable
class SpeakingBackbone(Protocol):
    """A backbone with a language trunk, which continues its prefix."""

    tokenizer: TextTokenizer

    def say(
        self, features: Features, choose: Callable[[Tensor, Tensor], Tensor], is_over: Callable[[Tensor], bool], most: int
    ) -> Tensor:
        """At most `most` ids (b, i) after the prefix of `features`, each chosen from logits (b, v) and the ids before it."""
        ...
