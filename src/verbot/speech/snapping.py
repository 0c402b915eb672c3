"""The likely sentence that is nearest to what was heard, by edit distance."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from verbot.spec import FloatArray

NEAR = 0.34  # edits per character of the longer sentence, below which two sentences count as near
MOST_CHARACTERS = 200  # of a sentence that is compared; longer ones stay as they were heard
MOST_WORDS, LEAST_LETTERS = 80, 3  # of a vocabulary, and of a word in it


def snap(heard: str, sentences: Sequence[str], near: float = NEAR) -> str:
    """The sentence nearest to `heard` if it is near, otherwise `heard`. Of several as near, the first.

    Args:
        near: edits (letters inserted, deleted, replaced) per letter of the longer of both, below which it is near.

    Example:
        >>> snap("pick up the red queue.", ["pick up the red cube", "pick up the blue ball"])
        'pick up the red cube'
        >>> snap("sing a song", ["pick up the red cube"])
        'sing a song'
    """
    plain = normalized(heard)
    if not plain or not sentences or len(plain) > MOST_CHARACTERS:
        return heard.strip()
    known = [normalized(sentence) for sentence in sentences]
    distances = _distances(plain, known)
    share = distances / np.maximum([len(each) for each in known], len(plain))
    best = int(share.argmin())
    return sentences[best] if share[best] < near else heard.strip()


def vocabulary(sentences: Sequence[str]) -> list[str]:
    """The words of the sentences, the most frequent first, at most `MOST_WORDS`, without the shortest.

    Example:
        >>> vocabulary(["Pick up the ball.", "push the ball left"])
        ['ball', 'the', 'left', 'pick', 'push']
    """
    counts: dict[str, int] = {}
    for sentence in sentences:
        for word in normalized(sentence).split():
            if len(word) >= LEAST_LETTERS:
                counts[word] = counts.get(word, 0) + 1
    return sorted(counts, key=lambda word: (-counts[word], word))[:MOST_WORDS]


def normalized(text: str) -> str:
    """Lower case, letters and digits, one space between words.

    Example:
        >>> normalized("Put it in the box, please!")
        'put it in the box please'
    """
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def _distances(text: str, others: Sequence[str]) -> FloatArray:
    """The edit distances (n,) of `text` to each of n other texts (Wagner and Fischer 1974), a row of all of them at a time."""
    longest = max(map(len, others))
    codes = np.zeros((len(others), longest), np.int32)
    for i, other in enumerate(others):
        codes[i, : len(other)] = [ord(letter) for letter in other]
    steps = np.arange(longest + 1, dtype=np.int32)
    row = np.tile(steps, (len(others), 1))
    for number, letter in enumerate(text, 1):
        cheapest = np.empty_like(row)
        cheapest[:, 0] = number
        cheapest[:, 1:] = np.minimum(row[:, 1:] + 1, row[:, :-1] + (codes != ord(letter)))
        row = np.minimum.accumulate(cheapest - steps, 1) + steps  # insertions, one after another
    lengths = [len(other) for other in others]
    return row[np.arange(len(others)), lengths].astype(np.float32)
