"""Instructions as input of an exported policy: the tokenizers of its language encoder, in numpy."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from verbot.errors import MissingDependencyError, PolicyError, install_command
from verbot.models.encoders.language.tokenizer import END, PAD, SPECIAL, START, UNKNOWN, split_words
from verbot.models.exported_text import TextRecord
from verbot.policy.runtimes import Graph
from verbot.spec import BoolArray

Text = tuple[npt.NDArray[Any], BoolArray]  # ids (b, l) int64 or states (b, l, d) float32, and their mask (b, l)
TILE = 64  # as `verbot.models.tokens.TEXT_TILE`, which needs torch
REMEMBERED = 1024  # instructions whose states are kept
TOKENIZER = "tokenizer.json"


class Instructions(ABC):
    """Makes the text input of a batch."""

    def __init__(self, record: TextRecord):
        self.record = record

    @abstractmethod
    def rows(self, texts: Sequence[str]) -> list[npt.NDArray[Any]]:
        """The ids (l,) or states (l, d) of each text."""

    def batch(self, texts: Sequence[str], equally_long: bool = False) -> Text:
        """The texts padded to one length.

        Args:
            equally_long: pad as `verbot.models.tokens.TextBatch.equally_long` does.
        """
        rows = self.rows(texts)
        longest = max(map(len, rows), default=2)
        if equally_long:
            longest = max(longest, min(self.record.most, -(-longest // TILE) * TILE))
        values = np.zeros((len(rows), longest, *rows[0].shape[1:]), rows[0].dtype)
        mask = np.zeros(values.shape[:2], bool)
        for number, row in enumerate(rows):
            values[number, : len(row)], mask[number, : len(row)] = row, True
        return values, mask


class Words(Instructions):
    """Ids of the words of a vocabulary, as the language encoder ``word_embedding`` has them."""

    def __init__(self, record: TextRecord):
        super().__init__(record)
        self._ids = {word: number for number, word in enumerate((*SPECIAL, *record.vocabulary))}
        assert PAD == 0  # `batch` pads with zeros

    def rows(self, texts: Sequence[str]) -> list[npt.NDArray[Any]]:
        kept = self.record.most - 2
        ids = ([START, *(self._ids.get(word, UNKNOWN) for word in split_words(text)[:kept]), END] for text in texts)
        return [np.array(row, np.int64) for row in ids]


class Pieces(Instructions):
    """States of a frozen encoder, each instruction's computed once, as the language encoder ``minilm`` has them.

    Args:
        tokenizer: a ``tokenizer.json``.
        encode: the frozen encoder: ``ids`` (b, l) int64 and ``mask`` (b, l) to ``states`` (b, l, d).

    Raises `MissingDependencyError` without the package tokenizers, `PolicyError` for a file that is no tokenizer.
    """

    def __init__(self, record: TextRecord, tokenizer: bytes, encode: Graph):
        super().__init__(record)
        try:
            package = importlib.import_module("tokenizers")
        except ImportError as error:
            raise MissingDependencyError(f"the policy reads with tokenizers: {install_command('tokenizers')}") from error
        try:
            self._tokenizer = package.Tokenizer.from_buffer(tokenizer)
        except Exception as error:  # the package raises plain exceptions
            raise PolicyError(f"{TOKENIZER} is no tokenizer: {' '.join(str(error).split())[:200]}") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(record.most)
        self._encode = encode
        self._known: dict[str, npt.NDArray[Any]] = {}

    def rows(self, texts: Sequence[str]) -> list[npt.NDArray[Any]]:
        plain = [" ".join(split_words(text)) for text in texts]
        found = {text: self._known[text] for text in plain if text in self._known}
        for text in dict.fromkeys(plain):
            if text not in found:
                found[text] = self._known[text] = self._states(text)
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return [found[text] for text in plain]

    def _states(self, text: str) -> npt.NDArray[Any]:
        ids = np.array([self._tokenizer.encode(text).ids], np.int64)
        states = self._encode({"ids": ids, "mask": np.ones(ids.shape, bool)})["states"]
        return states[0].astype(np.float16).astype(np.float32)  # the network was trained on half-precision states


def instructions_of(record: TextRecord, files: Mapping[str, bytes], language: Graph | None) -> Instructions:
    """The reader of instructions that `record` names.

    Raises `PolicyError` for another kind, or if its file or graph is absent.
    """
    if record.kind == "words":
        return Words(record)
    if record.kind != "pieces":
        raise PolicyError(f"the policy reads instructions as {record.kind!r}; this version of verbot knows 'words' and 'pieces'")
    if language is None or TOKENIZER not in files:
        raise PolicyError(f"the policy lacks {TOKENIZER} or its language graph: without them it cannot read instructions")
    return Pieces(record, files[TOKENIZER], language)
