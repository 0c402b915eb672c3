"""Word tokenization of instructions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # robots split words without torch
    import torch

    from verbot.models.tokens import TextBatch

PAD, UNKNOWN, START, END = range(4)
SPECIAL = ("<pad>", "<unk>", "<start>", "<end>")


# Scripts without spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def split_words(text: str) -> list[str]:
    """Lower-case words without punctuation. Scripts without spaces between words are split into characters.

    >>> split_words("Put the RED cube, please!")
    ['put', 'the', 'red', 'cube', 'please']
    >>> split_words("拿起red方块")
    ['拿', '起', 'red', '方', '块']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def count_unread(tokenizer: Any, texts: Sequence[str]) -> tuple[int, int]:
    """How many tokens of these texts say nothing to a pretrained model, and how many there are.

    These are the unknown token, and pieces of a single letter outside ASCII: a model of English has one for many letters of other
    scripts, and knows no words of them.

    Args:
        tokenizer: a ``tokenizers.Tokenizer``.
    """
    unknown = {tokenizer.token_to_id(name) for name in ("[UNK]", "<unk>")} - {None}
    unread = total = 0
    for encoding in tokenizer.encode_batch(list(texts)):
        for number, token, special in zip(encoding.ids, encoding.tokens, encoding.special_tokens_mask, strict=True):
            if special and number not in unknown:
                continue
            letter = token.removeprefix("##").removeprefix("\u2581")
            total, unread = total + 1, unread + (number in unknown or (len(letter) == 1 and not letter.isascii()))
    return unread, total


def drop_words(text: TextBatch, share: float, generator: torch.Generator | None = None) -> TextBatch:
    """Word dropout: replace a fraction of the words by `UNKNOWN`, or mask them if `text` holds states of a frozen encoder.

    So the network is trained with unknown words. The first token of every row is never dropped.
    """
    import torch

    from verbot.models.tokens import TextBatch

    drawn = (torch.rand(text.mask.shape, generator=generator) < share).to(text.mask.device)
    if text.values.dtype == torch.int64:
        return TextBatch(torch.where(drawn & (text.values > END), UNKNOWN, text.values), text.mask)
    drawn[:, 0] = False
    return TextBatch(text.values, text.mask & ~drawn)
