"""Instructions as words, before any encoder."""

from __future__ import annotations

import re
import unicodedata

import torch

from verbot.models.tokens import TextBatch

PAD, UNKNOWN, START, END = range(4)
SPECIAL = ("<pad>", "<unk>", "<start>", "<end>")


def split_words(text: str) -> list[str]:
    """Lower-case words without punctuation.

    >>> split_words("Put the RED cube, please!")
    ['put', 'the', 'red', 'cube', 'please']
    """
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower())


def drop_words(text: TextBatch, share: float, generator: torch.Generator | None = None) -> TextBatch:
    """`text` with a share of its words not understood: ids become `UNKNOWN`, states of a frozen encoder are masked.

    What an unknown word does is so learned before one is met. The first token of every row stays.
    """
    drawn = (torch.rand(text.mask.shape, generator=generator) < share).to(text.mask.device)
    if text.values.dtype == torch.int64:
        return TextBatch(torch.where(drawn & (text.values > END), UNKNOWN, text.values), text.mask)
    drawn[:, 0] = False
    return TextBatch(text.values, text.mask & ~drawn)
