"""Which instruction holds for which frames of an episode."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verbot.errors import DataError

SEGMENTS = "segments"  # key of an episode's extras


@dataclass(frozen=True)
class InstructionSegment:
    """Successive frames with one instruction.

    Args:
        start, stop: the frames, `stop` excluded.
        wordings: alternative sentences of the instruction, the recorded one first; the sentence may be empty.

    Raises `DataError` for a segment without frames or without a sentence.
    """

    start: int
    stop: int
    wordings: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop or not self.wordings:
            raise DataError(f"an instruction holds for frames {self.start} to {self.stop}; expected at least one, and a sentence")


def segments_of(sentences: Sequence[str]) -> tuple[InstructionSegment, ...]:
    """The segments of an episode with one sentence per frame.

    Example:
        >>> [(s.start, s.stop, s.wordings) for s in segments_of(["pick it", "pick it", "put it"])]
        [(0, 2, ('pick it',)), (2, 3, ('put it',))]
    """
    out, start = [], 0
    for sentence, frames in itertools.groupby(sentences):
        stop = start + len(list(frames))
        out.append(InstructionSegment(start, stop, (sentence,)))
        start = stop
    return tuple(out)


def check_segments(segments: Sequence[InstructionSegment], length: int) -> None:
    """Raise `DataError` unless `segments` cover the frames 0 to `length` in order, each once."""
    bounds = [0, *(segment.stop for segment in segments)]
    if bounds[-1] != length or any(s.start != start for s, start in zip(segments, bounds, strict=False)):
        found = ", ".join(f"{s.start} to {s.stop}" for s in segments) or "none"
        raise DataError(f"the instructions hold for frames {found}; expected 0 to {length} without a gap")


def segments_to_json(segments: Sequence[InstructionSegment]) -> list[dict[str, Any]]:
    """Plain data, as the extras of an episode keep it under ``"segments"``."""
    return [{"start": s.start, "stop": s.stop, "wordings": list(s.wordings)} for s in segments]


def segments_from_json(record: Sequence[Mapping[str, Any]]) -> tuple[InstructionSegment, ...]:
    """Inverse of `segments_to_json`. Raises `DataError` on a missing field."""
    try:
        return tuple(InstructionSegment(int(s["start"]), int(s["stop"]), tuple(map(str, s["wordings"]))) for s in record)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"not instructions of segments: {error!r}; expected start, stop and wordings of each") from error
