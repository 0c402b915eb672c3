"""The table of an import of a ROS 2 recording: what each topic was taken as, at which times, and what was left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from verbot.data.importers import FieldNote
from verbot.data.importers.bag_reader import Bag
from verbot.data.importers.bag_records import BagOptions, BagTopic, rough
from verbot.data.importers.bag_timing import Timing, TopicStream
from verbot.data.importers.bag_topics import PICTURES, ChosenTopics
from verbot.data.importers.ros_images import describe
from verbot.data.importers.ros_messages import JOINT_FIELDS, topic_of


@dataclass(frozen=True)
class EpisodeTiming:
    """The times of one episode.

    Args:
        rows: of the rows in ns, int64 (t,).
        streams: the messages by topic.
        places: for each name of images, the place of the message of each row in its stream, (t,).
    """

    rows: np.ndarray
    streams: Mapping[str, TopicStream]
    places: Mapping[str, np.ndarray]
    timing: Timing
    rate_hz: float


def notes_of(
    bag: Bag, topics: ChosenTopics, timing: EpisodeTiming, options: BagOptions, split: str | None
) -> tuple[FieldNote, ...]:
    """The lines of one episode: the topics that were taken, rows that were cut off, and the topics that were left out."""
    names = dict.fromkeys((*topics.pictures.values(), *topics.numbers))
    taken = [note for name in names for note in _taken(bag, name, topics, timing, options)]
    taken += [
        FieldNote(name, "instruction", reason=topics.evidence[name]) for name in topics.instruction if name in topics.evidence
    ]
    return (*taken, *_cut_off(timing), *_joint_fields(topics, timing), *_left_out(bag, topics, split), *_miscounted(bag))


def _taken(bag: Bag, name: str, topics: ChosenTopics, timing: EpisodeTiming, options: BagOptions) -> list[FieldNote]:
    """One line for each camera or vector that `name` is taken as."""
    topic = topic_of(name)
    stream = timing.streams[topic]
    conversion = []
    if name in timing.places:
        places = timing.places[name]
        if name in topics.images.values():
            conversion += [text for text in (describe(encoding, options) for encoding in sorted(stream.encodings)) if text]
        else:
            unit = "" if topics.meters_per_unit is None else f", as {topics.meters_per_unit:g} m,"
            conversion.append(f"{', '.join(sorted(stream.encodings))}{unit} to meters, 0 where unknown")
        away = np.abs(np.array(stream.times, np.int64)[places] - timing.rows)
        which = "nearest" if timing.timing.align == "nearest" else "last"
        conversion.append(f"the {which} in time, at most {_ms(away.max())} away")
    if stream.latched:
        conversion.append("latched: a message holds until the next")
    reasons = [topics.evidence[topic]] if topic in topics.evidence else []
    reasons.append(_clock(stream, timing.timing))
    if topic in bag.topics and bag.topics[topic].definition:
        reasons.append(f"the file does not define {bag.topics[topic].type}: {bag.topics[topic].definition} is taken")
    texts = "; ".join(conversion), "; ".join(reason for reason in reasons if reason)
    return [FieldNote(name, label, *texts) for label in topics.labels(name)]


def _clock(stream: TopicStream, timing: Timing) -> str:
    """Which times were taken, and by how much the others differ."""
    if not stream.delays:
        without = "no stamps" if "none" in stream.stamps else "stamps of 0"
        return f"log times; it has {without}"
    middle, high = np.percentile(np.array(stream.delays, float), (50, 100))
    spread = f"{_ms(middle)} before their log times (median; up to {_ms(high)})"
    if timing.time == "header":
        return f"stamps, {spread}"
    return f"log times; stamps are {spread}; --set time=header takes them"


def _ms(nanoseconds: float) -> str:
    return "less than 1 ms" if abs(nanoseconds) < 1e6 else f"{rough(nanoseconds / 1e6)} ms"


def _cut_off(timing: EpisodeTiming) -> Iterator[FieldNote]:
    """Times at which some topics have messages and others have none, if they are longer than a row."""
    running = {topic: stream for topic, stream in timing.streams.items() if not stream.latched}
    period = 1e9 / timing.rate_hz
    first, last = min(s.times[0] for s in running.values()), max(s.times[-1] for s in running.values())
    before, after = timing.rows[0] - first, last - timing.rows[-1]
    if before >= period:
        latest = max(running, key=lambda topic: (running[topic].times[0], topic))
        reason = f"{rough(before / 1e9)} s in which not every topic had a message; the last to begin is {latest}"
        yield FieldNote("before the first row", "left out", reason=reason)
    if after >= 2 * period:
        earliest = min(running, key=lambda topic: (running[topic].times[-1], topic))
        yield FieldNote("after the last row", "left out", reason=f"{rough(after / 1e9)} s after {earliest} has ended")


def _joint_fields(topics: ChosenTopics, timing: EpisodeTiming) -> Iterator[FieldNote]:
    for topic in dict.fromkeys(topic_of(name) for name in topics.numbers):
        label = "state" if topic in {topic_of(name) for name in topics.state} else "action"
        present = {name.partition(":")[2] or "position" for name in topics.numbers if topic_of(name) == topic}
        for field in JOINT_FIELDS:
            if field in timing.streams[topic].filled - present:
                reason = f"not chosen; --set {label}={topic},{topic}:{field} takes it"
                yield FieldNote(f"{topic}:{field}", "left out", reason=reason)


def _left_out(bag: Bag, topics: ChosenTopics, split: str | None) -> Iterator[FieldNote]:
    used = {topic_of(name) for name in (*topics.pictures.values(), *topics.numbers, *topics.instruction)} | {split}
    for name, topic in sorted(bag.topics.items()):
        if name not in used:
            messages = "1 message" if topic.count == 1 else f"{rough(topic.count)} messages"
            yield FieldNote(name, "left out", reason=f"{messages} of {topic}; {topics.left.get(name) or _way(name, topic)}")


def _way(name: str, topic: BagTopic) -> str:
    if topic.unreadable:
        return "convert it to CDR with definitions in ros2msg, or to JSON"
    if topic.short in PICTURES:
        return f"--set images.NAME={name} takes it"
    if topic.short == "String":
        return f"--set instruction={name} takes it"
    return f"--set state={name} takes its numbers"


def _miscounted(bag: Bag) -> Iterator[FieldNote]:
    """Topics of which ``metadata.yaml`` states another number of messages than the files have."""
    for name, stated in sorted(bag.files.metadata.counts.items()):
        found = bag.topics[name].count if name in bag.topics else 0
        if found != stated:
            yield FieldNote(name, "incomplete", reason=f"metadata.yaml states {stated} messages, the files have {found}")
