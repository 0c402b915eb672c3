"""Makes episodes of ROS 2 recordings: rows at one rate, with the message of each topic that belongs to each row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from verbot.data.importers import Item, RawEpisode, failing, natural
from verbot.data.importers.bag_folders import BagFiles
from verbot.data.importers.bag_notes import EpisodeTiming, notes_of
from verbot.data.importers.bag_reader import Bag
from verbot.data.importers.bag_records import BagMessage, BagOptions
from verbot.data.importers.bag_sentences import sentences_of
from verbot.data.importers.bag_timing import NUMBER_AGE_S, Timing, TopicStream, bounds, last_before, pictures_of, rows_between
from verbot.data.importers.bag_topics import Topics, choose
from verbot.data.importers.limits import take
from verbot.data.importers.ros_images import check_encoding, depth_picture, encoding_of, picture
from verbot.data.importers.ros_messages import chosen, filled_joint_fields, is_joints, numbers, stamp_ns, text_of, topic_of
from verbot.errors import ConfigError, CorruptFileError, DataError

ENDS = ("", "end", "stop", "false", "0")
MARGIN_NS = 10 * 10**9  # of log time around an episode, in which messages with stamps within the episode are looked for
CLOCK_NS = 60 * 10**9  # stamps that differ by more from log times are of another clock
LATEST_NS = 2**62


@dataclass(frozen=True)
class EpisodeSpan:
    """An episode within a recording, in nanoseconds of log time. `end` None is the end of the recording."""

    key: str
    start: int = 0
    end: int | None = None
    instruction: str = ""


class BagEpisodes:
    """The episodes of recordings.

    Raises `DataError` if no recording can be opened, `ConfigError` if topics have to be named.
    """

    def __init__(self, found: list[BagFiles], rate_hz: float | None, topics: Topics, timing: Timing, options: BagOptions):
        self._found, self._timing, self._options, self.rate_hz = found, timing, options, rate_hz
        self._split = topics.split
        self.topics = choose(topics, self._first(topics))

    def items(self) -> Iterator[Item]:
        for files in self._found:
            bag = self._bag(files)
            if files.problem is not None:
                yield Item(files.key, failing(files.problem))
            elif self._split is None:
                yield Item(files.key, partial(self._read, bag, EpisodeSpan(files.key)))
            else:
                spans, problem = self._spans(bag, self._split)
                for span in spans:
                    yield Item(span.key, partial(self._read, bag, span))
                if problem is not None and (not spans or spans[-1].end is not None):  # else reading the open episode reports it
                    yield Item(f"{files.key}, after episode {len(spans)}", failing(problem))

    def _bag(self, files: BagFiles) -> Bag:
        return Bag(files, self._options.truncated == "use")

    def _first(self, topics: Topics) -> Bag | None:
        """The first recording whose topics can be read, if any are to be found by their types."""
        problems: list[DataError] = []
        for files in self._found:
            bag = self._bag(files)
            try:
                if files.problem is not None:
                    raise files.problem
                if bag.topics:
                    return bag
            except DataError as error:
                problems.append(error)
        if problems and None in (topics.images, topics.state, topics.action, topics.instruction):
            raise problems[0]
        return None

    def _spans(self, bag: Bag, topic: str) -> tuple[list[EpisodeSpan], DataError | None]:
        """The episodes that the messages of `topic` divide a recording into, and what ended the search, if anything did."""
        marks: list[tuple[int, str]] = []
        problem: DataError | None = None
        try:
            for message in bag.messages([topic]):
                marks.append((message.time, text_of(message.value)))
        except CorruptFileError as error:
            problem = error
        spans: list[EpisodeSpan] = []
        started: tuple[int, str] | None = None
        for time, text in [*sorted(marks, key=lambda mark: mark[0]), (None, "")]:
            if started is not None:
                spans.append(EpisodeSpan(f"{bag.files.key}, episode {len(spans)}", started[0], time, started[1]))
            ends = text.strip().lower() in ENDS
            started = None if time is None or ends else (time, "" if text.lower() in ("true", "1") else text)
        return spans, problem

    def _read(self, bag: Bag, span: EpisodeSpan) -> RawEpisode:
        if self.rate_hz is None:
            raise ConfigError(f"{span.key} has messages at rates of their own; give the rate of the dataset with --rate-hz")
        streams = self._collect(bag, span)
        matrices = {name: _Numbers(name, streams[topic_of(name)], self.topics.joints) for name in self.topics.numbers}
        starts = {topic_of(name): matrix.first for name, matrix in matrices.items()}
        first, last = bounds(streams, starts, span.key)
        rows = rows_between(first, last, self.rate_hz, sum(len(stream.times) for stream in streams.values()))
        values = {name: matrix.rows(rows, self._timing.max_age_s, span.key) for name, matrix in matrices.items()}
        self._check_joints(matrices, span.key)
        cameras: dict[str, Callable[[], Any]] = {}
        places: dict[str, np.ndarray] = {}
        for camera, name in self.topics.pictures.items():
            stream = streams[topic_of(name)]
            times, where = np.array(stream.times, np.int64), f"{span.key}: {topic_of(name)}"
            taken = pictures_of(times, rows, self._timing, self.rate_hz, stream.latched, where)
            places[name] = taken
            ordinals = np.array([stream.values[place][0] for place in taken])
            cameras[camera] = partial(self._pictures, bag, span, name, ordinals, camera in self.topics.depth)
        said = sentences_of(bag, self.topics.instruction, span, rows, _clock_offset(streams))
        if not self.topics.instruction:
            said = said.without_topic(None if self._split is None else span.instruction)
        timing = EpisodeTiming(rows, streams, places, self._timing, self.rate_hz)
        notes = (*bag.files.notes, *notes_of(bag, self.topics, timing, self._options, self._split), *said.notes)
        axes = {called(name): matrix.axes for name, matrix in matrices.items()}
        state, action = ({called(name): values[name] for name in names} for names in (self.topics.state, self.topics.action))
        named = {called(name): name for name in self.topics.numbers}
        whole, segments = said.instructions, said.segments
        return RawEpisode(state, action, cameras, whole, axes=axes, segments=segments, notes=notes, sources=named)

    def _collect(self, bag: Bag, span: EpisodeSpan) -> dict[str, TopicStream]:
        """The messages of an episode by topic. Images are not kept: of each only its number among those of its topic."""
        names = (*self.topics.numbers, *self.topics.pictures.values())
        streams = {topic_of(name): TopicStream() for name in names}
        wanted = {topic: [name for name in self.topics.numbers if topic_of(name) == topic] for topic in streams}
        seen = dict.fromkeys(streams, 0)
        for message in self._window(bag, span, list(streams)):
            stream, value = streams[message.topic], message.value
            time = self._time(message, value, stream)
            before = stream.values[-1][1] if stream.values else {}
            found = {name: _packed(name, value, before.get(name)) for name in wanted[message.topic]}
            self._note_encodings(message.topic, value, stream)
            stream.filled.update(filled_joint_fields(value) if found else ())
            if span.end is None or time < span.end:
                stream.add(time, (seen[message.topic], found))
            seen[message.topic] += 1
        empty = sorted(topic for topic, stream in streams.items() if not stream.times)
        if empty:
            raise DataError(f"{span.key} has no message of {', '.join(empty)}; the file has {bag.listing()}")
        for topic, stream in streams.items():
            stream.sort()
            stream.begin(span.start, topic in self.topics.latched, bool(bag.topics[topic].latched), NUMBER_AGE_S)
        empty = sorted(topic for topic, stream in streams.items() if not stream.times)
        if empty:
            raise DataError(f"{span.key} has no message of {', '.join(empty)} within it")
        self._check_clocks(streams, span.key)
        return streams

    def _window(self, bag: Bag, span: EpisodeSpan, topics: list[str]) -> Iterator[BagMessage]:
        """The messages that can belong to an episode: of latched topics those before it too."""
        latched = [
            topic for topic in topics if topic in self.topics.latched or (topic in bag.topics and bag.topics[topic].latched)
        ]
        margin = MARGIN_NS if self._timing.time == "header" else 0
        end = None if span.end is None else span.end + margin
        yield from bag.messages([topic for topic in topics if topic not in latched], max(0, span.start - margin), end)
        yield from bag.messages(latched, 0, end)

    def _time(self, message: BagMessage, value: Any, stream: TopicStream) -> int:
        """The time of a message: that of its log, or its stamp."""
        stamp = stamp_ns(value)
        time = message.time
        if stamp:
            stream.delays.append(message.time - stamp)
        stream.stamps.add("none" if stamp is None else "set" if stamp else "zero")
        if self._timing.time == "header" and stamp is not None:
            if stamp == 0:
                raise DataError(f"{message.topic} has a message without a stamp (0); --set time=log takes log times")
            time = stamp
        if not 0 <= time < LATEST_NS:
            raise DataError(f"{message.topic} has a message at {time} ns, which is no time")
        return time

    def _note_encodings(self, topic: str, value: Any, stream: TopicStream) -> None:
        for camera, name in self.topics.pictures.items():
            if topic_of(name) == topic:
                encoding = encoding_of(chosen(name, value))
                if encoding not in stream.encodings and camera in self.topics.images:
                    check_encoding(name, encoding, self._options)
                stream.encodings.add(encoding)

    def _check_clocks(self, streams: dict[str, TopicStream], key: str) -> None:
        if self._timing.time != "header":
            return
        unstamped = sorted(topic for topic, stream in streams.items() if "none" in stream.stamps)
        offset = _clock_offset(streams)
        if abs(offset) > CLOCK_NS and (unstamped or self._split is not None):
            other = ", ".join(unstamped) if unstamped else f"{self._split}, which divides the recording,"
            raise DataError(
                f"{key}: stamps differ from log times by {offset / 1e9:.6g} s, so that their clocks are others, and {other} "
                "has no stamps; --set time=log takes log times"
            )

    def _check_joints(self, matrices: dict[str, _Numbers], key: str) -> None:
        known = {axis for matrix in matrices.values() if matrix.by_joint for axis in matrix.axes}
        absent = [joint for joint in self.topics.joints if joint not in known]
        if absent:
            names = ", ".join(name for name, matrix in matrices.items() if matrix.by_joint) or "no topic of joints"
            found = sorted({axis for matrix in matrices.values() for axis in matrix.all_axes}, key=natural)
            raise DataError(f"{key}: {names} has no joint {', '.join(absent)}; it has {', '.join(found) or 'none'}")

    def _pictures(self, bag: Bag, span: EpisodeSpan, name: str, ordinals: np.ndarray, depth: bool) -> np.ndarray:
        """The images of a camera, (t, h, w, 3) or depth (t, h, w): one pass over its messages, each decoded once."""
        wanted: dict[int, list[int]] = {}
        for row, ordinal in enumerate(ordinals.tolist()):
            wanted.setdefault(ordinal, []).append(row)
        out: np.ndarray | None = None
        for ordinal, message in enumerate(self._window(bag, span, [topic_of(name)])):
            rows = wanted.pop(ordinal, None)
            if rows is None:
                continue
            value = chosen(name, message.value)
            scale = self.topics.meters_per_unit
            image: np.ndarray = depth_picture(name, value, scale) if depth else picture(name, value, self._options)
            if out is None:
                out = _room(name, len(ordinals), image)
            if image.shape != out.shape[1:]:
                sizes = [f"{shape[0]}×{shape[1]}" for shape in (out.shape[1:], image.shape)]
                raise DataError(f"{name}: images are {sizes[0]}, and of row {rows[0]} {sizes[1]}; a camera has one size")
            out[rows] = image
            if not wanted:
                break
        if out is None or wanted:
            raise DataError(f"{span.key}: {name} has fewer messages than before; was the file changed during the import?")
        return out


def called(name: str) -> str:
    """The field's name: ``/arm/command:values`` is ``arm_command_values``."""
    return name.strip("/").replace("/", "_").replace(":", "_").replace(".", "_")


@dataclass(frozen=True)
class PackedNumbers:
    """The numbers of one message, float64 (d,), by the names of `axes`, which messages of one kind share."""

    by_joint: bool
    axes: tuple[str, ...]
    values: np.ndarray


def _packed(name: str, value: Any, before: PackedNumbers | None) -> PackedNumbers:
    found = numbers(name, value)
    axes = tuple(found)
    take(8 * len(axes), name)
    return PackedNumbers(
        is_joints(name, value),
        before.axes if before is not None and before.axes == axes else axes,
        np.array(list(found.values())),
    )


def _room(name: str, count: int, image: np.ndarray) -> np.ndarray:
    take(count * image.nbytes, name)
    try:
        return np.empty((count, *image.shape), image.dtype)
    except (MemoryError, ValueError) as error:
        raise DataError(f"{name}: {count} images of {image.shape[0]}×{image.shape[1]} do not fit into memory") from error


def _clock_offset(streams: dict[str, TopicStream]) -> int:
    """By how much log times are after stamps, in ns: the median over messages; 0 without stamps."""
    delays = [delay for stream in streams.values() for delay in stream.delays]
    return int(np.median(np.array(delays, float))) if delays else 0


class _Numbers:
    """The numbers of one topic, or of one field of it, over an episode."""

    def __init__(self, name: str, stream: TopicStream, joints: tuple[str, ...]):
        self._name, self._stream = name, stream
        self._values: list[PackedNumbers] = [value[1][name] for value in stream.values]
        self.by_joint = all(values.by_joint for values in self._values)
        self.all_axes = self._values[0].axes
        self._joined = False
        for axes in {id(values.axes): values.axes for values in self._values}.values():  # equal ones are mostly the same
            if set(axes) != set(self.all_axes) or not axes:
                self._joined = True
                if not self.by_joint or not axes:
                    found_here, before = ", ".join(axes) or "no numbers", ", ".join(self.all_axes) or "none"
                    raise DataError(f"{name}: a message has {found_here[:200]}; the first has {before[:200]}")
        if self._joined:
            self.all_axes = tuple(sorted({axis for values in self._values for axis in values.axes}, key=natural))
        self.axes = tuple(joint for joint in joints if joint in self.all_axes) if joints and self.by_joint else self.all_axes

    @property
    def first(self) -> int:
        """The time in ns at which every dimension has had a value."""
        if not self._joined:
            return self._stream.times[0]
        return max(self._by_axis[axis][0][0] for axis in self.axes) if self.axes else self._stream.times[0]

    @cached_property
    def _by_axis(self) -> dict[str, tuple[list[int], list[float]]]:
        """The times and values of each axis, from one pass over the messages."""
        found: dict[str, tuple[list[int], list[float]]] = {axis: ([], []) for axis in self.axes}
        for time, values in zip(self._stream.times, self._values, strict=True):
            for axis, value in zip(values.axes, values.values.tolist(), strict=True):
                if axis in found:
                    found[axis][0].append(time)
                    found[axis][1].append(value)
        return found

    def rows(self, rows: np.ndarray, limit_s: float | None, key: str) -> np.ndarray:
        """The values (t, d) of the last message at or before each row, by dimension where several publishers share a topic.

        Raises `DataError` for a value that is not finite or too large for float32.
        """
        label = f"{key}: {topic_of(self._name)}"
        take(8 * len(rows) * len(self.axes), label)
        found = np.empty((len(rows), len(self.axes)))
        if self._joined:
            for column, axis in enumerate(self.axes):
                times, values = self._by_axis[axis]
                where = f"{label}, joint {axis},"
                places = last_before(np.array(times, np.int64), rows, self._stream.latched, limit_s, where)
                found[:, column] = np.array(values, float)[places]
        else:
            places = last_before(np.array(self._stream.times, np.int64), rows, self._stream.latched, limit_s, label)
            orders: dict[tuple[str, ...], list[int]] = {}
            for row, place in enumerate(places.tolist()):
                message = self._values[place]
                if message.axes not in orders:
                    numbers = {axis: number for number, axis in enumerate(message.axes)}
                    orders[message.axes] = [numbers[axis] for axis in self.axes]
                found[row] = message.values[orders[message.axes]]
        wrong = np.argwhere(~(np.abs(found) <= np.finfo(np.float32).max).T)
        if len(wrong):
            column, row = wrong[0].tolist()
            raise DataError(f"{label}: {self.axes[column]} is {found[row, column]:g} in row {row}; expected a finite number")
        return found
