"""Heads whose actions are words, and backbones with a language trunk that says them; protocols, checked with `isinstance`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from verbot.contracts import TextTask
from verbot.errors import ConfigError
from verbot.models.tokens import Batch, Suffix, TextBatch

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

    def prepare_questions(self, texts: Sequence[str], are_questions: Sequence[bool]) -> TextBatch:
        """As `Backbone.prepare`, with the sentence of a question around those texts that are one."""
        ...

    def say(
        self, features: Features, choose: Callable[[Tensor, Tensor], Tensor], is_over: Callable[[Tensor], bool], most: int
    ) -> Tensor:
        """At most `most` ids (b, i) after the prefix of `features`, each chosen from logits (b, v) and the ids before it."""
        ...

    def think(self, features: Features, forced: Sequence[Sequence[int]], most: int) -> tuple[Features, list[list[int]]]:
        """Text after the prefix, each row forced with these ids, and the features to `say` on from."""
        ...


def is_question(task: TextTask | None) -> bool:
    """Whether a row of text asks something: its prompt is no instruction."""
    return task is not None and task.kind != "reasoning"


def questions_of(backbone: nn.Module, texts: Sequence[str], are_questions: Sequence[bool]) -> TextBatch:
    """`texts` as input of a backbone with a language trunk. Raises `ConfigError` for another one."""
    return _speaking(backbone).prepare_questions(texts, are_questions)


def text_targets(backbone: nn.Module, tasks: Sequence[TextTask | None]) -> Suffix | None:
    """What each row of a training batch says: the answer of its task and the end of a text; None if no row has a task.

    Raises `ConfigError` for a backbone without a language trunk.
    """
    if not any(task is not None for task in tasks):
        return None
    own = _speaking(backbone).tokenizer
    rows = [[] if task is None else [*own.encode(task.answer), own.end] for task in tasks]
    length = max(map(len, rows))
    ids = torch.tensor([[*row, *[own.pad] * (length - len(row))] for row in rows], dtype=torch.int64)
    mask = torch.arange(length) < torch.tensor([len(row) for row in rows]).unsqueeze(1)
    return Suffix(ids, mask, torch.zeros_like(mask))


def _speaking(backbone: nn.Module) -> SpeakingBackbone:
    if not isinstance(backbone, SpeakingBackbone):
        raise ConfigError(
            f"the training has text (data.text.question and others), and {type(backbone).__name__} has no language trunk to say "
            f"it; use the backbone 'vlm', or leave text out"
        )
    return backbone
