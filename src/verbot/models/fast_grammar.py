"""Which tokens of FAST may follow which: those after which a chunk of the right length can still be said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from verbot.spec import Int64Array

# How much of a UTF-8 character was said. Some first bytes restrict the second one, which excludes overlong codes and surrogates.
BETWEEN, ONE_LEFT, TWO_LEFT, THREE_LEFT, AFTER_E0, AFTER_ED, AFTER_F0, AFTER_F4 = range(8)
STATES, NEVER = 8, -1
SECOND = {  # (lowest and highest next byte, state after it)
    ONE_LEFT: (0x80, 0xBF, BETWEEN),
    TWO_LEFT: (0x80, 0xBF, ONE_LEFT),
    THREE_LEFT: (0x80, 0xBF, TWO_LEFT),
    AFTER_E0: (0xA0, 0xBF, ONE_LEFT),
    AFTER_ED: (0x80, 0x9F, ONE_LEFT),
    AFTER_F0: (0x90, 0xBF, TWO_LEFT),
    AFTER_F4: (0x80, 0x8F, TWO_LEFT),
}


@dataclass(frozen=True)
class FastGrammar:
    """What each of v tokens does to a text that is being said.

    Args:
        after: (states, v) the state after a token, `NEVER` if it cannot stand there.
        characters: (states, v) how many characters it ends.
        longest: the most bytes of a character that these tokens can begin.
    """

    after: Int64Array
    characters: Int64Array
    longest: int

    @staticmethod
    def of(words: Sequence[bytes]) -> FastGrammar:
        """The grammar of tokens that stand for these bytes."""
        after, characters = np.full((STATES, len(words)), NEVER, np.int64), np.zeros((STATES, len(words)), np.int64)
        for state in range(STATES):
            for number, word in enumerate(words):
                after[state, number], characters[state, number] = _read(word, state)
        return FastGrammar(after, characters, max(map(_length, words), default=1))

    def allowed(self, said: Iterable[int], count: int) -> tuple[np.ndarray, bool]:
        """(v,) bool, the tokens that may follow `said`, and whether it is a whole chunk of `count` characters."""
        state, characters = BETWEEN, 0
        for token in said:
            characters += int(self.characters[state, token])
            state = int(self.after[state, token])
            if state == NEVER or characters > count:
                return np.zeros(self.after.shape[1], bool), False
        then, total = self.after[state], characters + self.characters[state]
        return (then >= 0) & np.where(then == BETWEEN, total <= count, total < count), state == BETWEEN and characters == count


def _read(word: bytes, state: int) -> tuple[int, int]:
    characters = 0
    for byte in word:
        state = _next(byte, state)
        if state == NEVER:
            return NEVER, 0
        characters += state == BETWEEN
    return state, characters


def _next(byte: int, state: int) -> int:
    if state != BETWEEN:
        low, high, then = SECOND[state]
        return then if low <= byte <= high else NEVER
    if byte < 0x80:
        return BETWEEN
    if 0xC2 <= byte < 0xE0:
        return ONE_LEFT
    if 0xE0 <= byte < 0xF0:
        return {0xE0: AFTER_E0, 0xED: AFTER_ED}.get(byte, TWO_LEFT)
    if 0xF0 <= byte <= 0xF4:
        return {0xF0: AFTER_F0, 0xF4: AFTER_F4}.get(byte, THREE_LEFT)
    return NEVER


def _length(word: bytes) -> int:
    return max((1 + (b >= 0xC2) + (b >= 0xE0) + (b >= 0xF0) for b in word), default=1)
