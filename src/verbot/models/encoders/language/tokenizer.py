"""Word tokenization of instructions."""

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
    """Word dropout: replace a fraction of the words by `UNKNOWN`, or mask them if `text` holds states of a frozen encoder.

    So the network is trained with unknown words. The first token of every row is never dropped.
    """
    drawn = (torch.rand(text.mask.shape, generator=generator) < share).to(text.mask.device)
    if text.values.dtype == torch.int64:
        return TextBatch(torch.where(drawn & (text.values > END), UNKNOWN, text.values), text.mask)
    drawn[:, 0] = False
    return TextBatch(text.values, text.mask & ~drawn)
