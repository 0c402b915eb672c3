"""Additional sentences of a batch: other goals of its images, and true and false captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from verbot.models.tokens import Captions, GoalQueries, Masked, TextBatch

Prepare = Callable[[Sequence[str]], TextBatch]


def prepare_queries(
    prepare: Prepare,
    goals: Sequence[Sequence[str]],
    places: Masked,
    captions: Sequence[Sequence[tuple[str, str]]],
) -> tuple[GoalQueries | None, Captions | None]:
    """Goals and captions as tensors, tokenized together; None if there are none.

    Args:
        prepare: the tokenizer, a method of the language encoder.
        goals: at most m instructions per row.
        places: their keypoints, (b, m, v, p, 2).
        captions: pairs of a true and a false sentence per row.
    """
    texts = [text for row in goals for text in row]
    pairs = [pair for row in captions for pair in row]
    if not texts and not pairs:
        return None, None
    text = prepare([*texts, *(true for true, _ in pairs), *(false for _, false in pairs)])
    queries, captioned = None, None
    if texts:
        there = torch.tensor([[i < len(row) for i in range(places.mask.shape[1])] for row in goals])
        found = Masked(places.values[there], places.mask[there])
        queries = GoalQueries(there.nonzero()[:, 0], _rows(text, 0, len(texts)), found)
    if pairs:
        rows = torch.tensor([number for number, row in enumerate(captions) for _ in row] * 2)
        captioned = Captions(rows, _rows(text, len(texts), len(text.mask)), torch.arange(len(rows)) < len(pairs))
    return queries, captioned


def join_texts(texts: Sequence[TextBatch]) -> TextBatch:
    """Concatenate the sentences; shorter ones are padded."""
    if len(texts) == 1:
        return texts[0]
    each = [text.by_row() for text in texts]
    length = max(text.mask.shape[1] for text in each)
    values, mask = [[_padded(x, length) for x in parts] for parts in zip(*((t.values, t.mask) for t in each), strict=True)]
    return TextBatch(torch.cat(values), torch.cat(mask))


def _padded(x: Tensor, length: int) -> Tensor:
    return torch.cat([x, x.new_zeros(len(x), length - x.shape[1], *x.shape[2:])], 1)


def _rows(text: TextBatch, start: int, end: int) -> TextBatch:
    return TextBatch(text.values[start:end], text.mask[start:end])
