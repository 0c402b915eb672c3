"""What belongs to frames, moved along when frames are left out or repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from verbot.data.storage.segments import SEGMENTS, InstructionSegment
from verbot.data.storage.sentences import SEGMENTS_NOTE
from verbot.spec import Int64Array

REWARD = "next.reward"


def moved_extras(extras: Mapping[str, Any], rows: Int64Array) -> dict[str, Any]:
    """The extras of an episode of which the frames `rows` (ascending) are left.

    Moved are ``first_contact_frame``, ``unseen_frame`` and other numbers of frames (``…_frame``), ``observed_frames``, and the
    frames of recorded instructions. Those of present instructions are left out: they follow from the segments. Everything else is
    kept. Without a frame from its number on, ``first_contact_frame`` is None, and another number is left out.
    """
    out = {key: value for key, value in extras.items() if key != SEGMENTS}
    for key in [key for key, value in out.items() if _is_frame(key, value)]:
        new = _first_from(rows, out[key])
        if new is None and key != "first_contact_frame":
            del out[key]
        else:
            out[key] = new
    if "observed_frames" in out:
        out["observed_frames"] = np.flatnonzero(np.isin(rows, out["observed_frames"])).tolist()
    if SEGMENTS_NOTE in out:
        spans = [(s, _span(rows, s["start"], s["stop"])) for s in out[SEGMENTS_NOTE]]
        out[SEGMENTS_NOTE] = [{**s, "start": start, "stop": stop} for s, (start, stop) in spans if start < stop]
    return out


def moved_segments(segments: Sequence[InstructionSegment], rows: Int64Array) -> tuple[InstructionSegment, ...]:
    """The instruction of each of the frames `rows` (ascending)."""
    spans = [(segment, _span(rows, segment.start, segment.stop)) for segment in segments]
    return tuple(InstructionSegment(start, stop, segment.wordings) for segment, (start, stop) in spans if start < stop)


def moved_column(name: str, values: np.ndarray, rows: Int64Array, stop: int) -> np.ndarray:
    """The values (t, …) of the frames `rows` (ascending), the last of which lasts until frame `stop`.

    A reward (``next.reward``) is the sum, and a bool (``next.done``) whether any is true, from each frame to the next one that is
    left.
    """
    every = len(rows) == stop - rows[0]
    if every or not (name == REWARD or (name.startswith("next.") and values.dtype == bool)):
        return values[rows]
    combine = np.logical_or if values.dtype == bool else np.add
    ends = np.append(rows[1:], stop)
    # A row that is repeated, at a higher rate, has its value once, in the last of its repetitions.
    return np.stack([
        combine.reduce(values[row:end], axis=0) if row < end else np.zeros_like(values[row])
        for row, end in zip(rows, ends, strict=True)
    ])  # fmt: skip


def _is_frame(key: str, value: Any) -> bool:
    return key.endswith("_frame") and isinstance(value, int) and not isinstance(value, bool)


def _first_from(rows: Int64Array, frame: int) -> int | None:
    """The new number of the first frame that is not before `frame`; None if there is none."""
    place = int(np.searchsorted(rows, frame))
    return place if place < len(rows) else None


def _span(rows: Int64Array, start: int, stop: int) -> tuple[int, int]:
    first, last = np.searchsorted(rows, (start, stop))
    return int(first), int(last)
