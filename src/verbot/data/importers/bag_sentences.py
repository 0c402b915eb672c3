"""The instruction of each row of an episode, from the messages of one topic."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from verbot.data.importers import FieldNote, unique
from verbot.data.importers.bag_reader import Bag
from verbot.data.importers.bag_records import rough
from verbot.data.importers.fields import joined_wordings
from verbot.data.importers.ros_messages import chosen, text_of, topic_of
from verbot.data.storage.segments import InstructionSegment, segments_of
from verbot.errors import DataError

CLOCK_NS = 60 * 10**9


class TimeSpan(Protocol):
    @property
    def key(self) -> str: ...

    @property
    def end(self) -> int | None: ...


@dataclass(frozen=True)
class BagSentences:
    """The episode's instruction, its segments where it changes, and notes for the table of the import."""

    instructions: tuple[str, ...] | None
    segments: tuple[InstructionSegment, ...] = ()
    notes: tuple[FieldNote, ...] = ()

    def without_topic(self, marked: str | None) -> BagSentences:
        """Those of a recording without such a topic: the text of the message that began the episode, if one did."""
        return dataclasses.replace(self, instructions=None if marked is None else unique([marked]))


def sentences_of(bag: Bag, names: tuple[str, ...], span: TimeSpan, rows: np.ndarray, clock_offset_ns: int) -> BagSentences:
    """The last sentence at or before each of `rows` (t,), also from before the episode; the first one for rows before it.

    Args:
        names: ``topic`` or ``topic:field`` of alternative wordings.
        clock_offset_ns: by how much log times are after the clock of `rows`, if that is the clock of stamps.
    """
    found = [_of_topic(bag, name, span, rows, clock_offset_ns) for name in names]
    if len(found) < 2:
        return found[0] if found else BagSentences(None)
    segments = joined_wordings(one.segments or [InstructionSegment(0, len(rows), one.instructions or ("",))] for one in found)
    notes = tuple(note for one in found for note in one.notes)
    return BagSentences(unique(segments[0].wordings), segments if len(segments) > 1 else (), notes)


def _of_topic(bag: Bag, name: str, span: TimeSpan, rows: np.ndarray, clock_offset_ns: int) -> BagSentences:
    said = [
        (message.time, text_of(chosen(name, message.value)).strip()) for message in bag.messages([topic_of(name)], 0, span.end)
    ]
    said.sort(key=lambda pair: pair[0])
    if not said:
        return BagSentences(
            (), notes=(FieldNote(topic_of(name), "left out", reason="it has no message in the episode or before"),)
        )
    times, texts = np.array([min(time, 2**62) for time, _ in said], np.int64), [text for _, text in said]
    if _other_clock(times, rows, clock_offset_ns) and len(set(texts)) > 1:
        raise DataError(
            f"{span.key}: {topic_of(name)} changes, but has log times, and stamps are of another clock; "
            "--set time=log takes log times"
        )
    places = np.searchsorted(times, rows, "right") - 1
    early = int((places < 0).sum())
    taken = [texts[max(place, 0)] for place in places]
    late = sum(text not in taken for text in dict.fromkeys(texts[places[-1] + 1 :])) if places[-1] >= 0 else 0
    reasons = []
    if early:
        reasons.append(f"the first message is {rough((times[0] - rows[0]) / 1e9)} s after the first row, and holds for it")
    if late:
        reasons.append(f"{late} sentences after the last row are left out")
    segments = segments_of(taken)
    if len(segments) > 1:
        reasons.append("each row has the last sentence at or before it")
    note = (FieldNote(topic_of(name), "instruction", reason="; ".join(reasons)),) if reasons else ()
    return BagSentences(unique([taken[0]]), segments if len(segments) > 1 else (), note)


def _other_clock(times: np.ndarray, rows: np.ndarray, clock_offset_ns: int) -> bool:
    return abs(clock_offset_ns) > CLOCK_NS and abs(int(times[0]) - int(rows[0])) > CLOCK_NS
