"""What is asked of the pictures in a batch beside what is to be done in them: other goals, and captions that fit or do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from verbot.models.tokens import Captions, Questions, TextBatch

Prepare = Callable[[Sequence[str]], TextBatch]


def prepare_asked(
    prepare: Prepare,
    questions: Sequence[Sequence[str]],
    places: tuple[Tensor, Tensor],
    captions: Sequence[Sequence[tuple[str, str]]],
) -> tuple[Questions | None, Captions | None]:
    """Questions and captions as tensors, their sentences read together; None where there are none.

    Args:
        prepare: of the language encoder.
        questions: of each row, at most m.
        places: where they point (b, m, v, p, 2), and the mask (b, m, v, p).
        captions: of each row, pairs of what is true and what is not.
    """
    goals = [text for row in questions for text in row]
    pairs = [pair for row in captions for pair in row]
    if not goals and not pairs:
        return None, None
    text = prepare([*goals, *(true for true, _ in pairs), *(false for _, false in pairs)])
    asked, said = None, None
    if goals:
        points, mask = places
        there = torch.tensor([[i < len(row) for i in range(mask.shape[1])] for row in questions])
        asked = Questions(there.nonzero()[:, 0], _rows(text, 0, len(goals)), points[there], mask[there])
    if pairs:
        rows = torch.tensor([number for number, row in enumerate(captions) for _ in row] * 2)
        said = Captions(rows, _rows(text, len(goals), len(text.mask)), torch.arange(len(rows)) < len(pairs))
    return asked, said


def joined(questions: Questions | None, captions: Captions | None, views: int, points: int) -> Questions | None:
    """Captions asked behind the questions, as questions without an answer: nobody knows where they point."""
    if captions is None:
        return questions
    count = len(captions.rows)
    nowhere = captions.true.new_zeros(count, views, points)
    behind = Questions(captions.rows, captions.text, torch.zeros(*nowhere.shape, 2, device=nowhere.device), nowhere)
    if questions is None:
        return behind
    text = TextBatch(*(_longer(getattr(questions.text, n), getattr(behind.text, n)) for n in ("values", "mask")))
    rest = (torch.cat([getattr(q, n) for q in (questions, behind)]) for n in ("keypoints", "mask"))
    return Questions(torch.cat([questions.rows, behind.rows]), text, *rest)


def _longer(first: Tensor, second: Tensor) -> Tensor:
    """Both one after another, the shorter sentences padded."""
    length = max(first.shape[1], second.shape[1])
    padded = (torch.cat([x, x.new_zeros(len(x), length - x.shape[1], *x.shape[2:])], 1) for x in (first, second))
    return torch.cat(list(padded))


def _rows(text: TextBatch, start: int, end: int) -> TextBatch:
    return TextBatch(text.values[start:end], text.mask[start:end])
