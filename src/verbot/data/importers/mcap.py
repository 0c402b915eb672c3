"""MCAP logs with ROS 2 messages (CDR, defined in the file) or JSON: one file or a folder. A file is one episode unless split.

Options name the topics as ``topic``, or ``topic:field`` for one field of its messages: `images` {camera: topic}, `state` and
`action` (several separated by commas), and `instruction`. A topic that is not given is found by its message type, if only one
fits: CompressedImage and Image, JointState, Float64MultiArray and Float32MultiArray, String. The numbers of a message are
`position` of a JointState (whose names name the dimensions), `data`, or all numbers except the header.

Messages have their own log times. An episode is resampled to ``--rate-hz``: each frame takes the last message of every topic at
or before its time. It begins when every topic has had a message and ends with the last message of the first topic to end. If a
message is older than `max_age_s` when it is taken, the episode is an error. The topic `split` divides a file. Each of its
messages begins an episode, or ends one if it is false, ``""``, ``"end"`` or ``"stop"``. Its text is the instruction if no topic
is.
"""

from __future__ import annotations

import base64
import binascii
import bisect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.importers import Item, RawEpisode, failing, files_of, known_robots, listed, reading, sources, unique
from verbot.data.importers.images import decode_image, frames_of, stack
from verbot.data.importers.mcap_reader import listing, messages, topic_types
from verbot.errors import ConfigError, CorruptFileError, DataError
from verbot.spec import UInt8Array

PICTURES = ("CompressedImage", "Image")
NUMBERS = {"state": ("JointState",), "action": ("Float64MultiArray", "Float32MultiArray")}
ENDS = ("", "end", "stop", "false", "0")
LAYOUTS = {"rgb8": (3, False), "bgr8": (3, True), "rgba8": (4, False), "bgra8": (4, True), "mono8": (1, False)}


@dataclass(frozen=True)
class EpisodeSpan:
    """An episode within a file, in nanoseconds of log time. `end` None is the end of the file."""

    key: str
    start: int = 0
    end: int | None = None
    instruction: str = ""


@dataclass
class TopicStream:
    """The messages of one topic in one episode."""

    times: list[int] = field(default_factory=list)
    messages: list[Any] = field(default_factory=list)

    def add(self, time: int, message: Any) -> None:
        """Insert a message in time order; messages of a truncated file may be out of order."""
        place = bisect.bisect_right(self.times, time)
        self.times.insert(place, time)
        self.messages.insert(place, message)


@dataclass(frozen=True)
class Topics:
    """Where an episode is in a log; see the module's docstring."""

    images: Mapping[str, str] | None = None
    state: Any = None
    action: Any = None
    instruction: str | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        if self.images is not None and not isinstance(self.images, Mapping):
            raise ConfigError(f"images name a topic for each camera, as images.front=/camera, not {self.images!r}")

    @property
    def is_complete(self) -> bool:
        return None not in (self.images, self.state, self.action, self.instruction)


GUESSED = Topics()


@sources.register("mcap", needs=("mcap", "mcap_ros2"))
class Mcap:
    """MCAP logs; the options are described in the module's docstring."""

    about = ".mcap logs of ROS 2 or JSON messages"
    recognition = ""

    def __init__(
        self,
        path: Path,
        robot: str | None = None,
        rate_hz: float | None = None,
        topics: Topics = GUESSED,
        max_age_s: float = 1.0,
    ):
        self._paths = files_of(path, ".mcap")
        if not self._paths:
            raise DataError(f"{path} has no file that ends with .mcap")
        self.robot = known_robots.known(robot or "generic")
        self.rate_hz = rate_hz or self.robot.rate_hz
        self.total: int | None = len(self._paths) if topics.split is None else None
        self._max_age_ns = round(max_age_s * 1e9)
        self._split, self._instruction = topics.split, topics.instruction
        guessed = {} if topics.is_complete else self._guess()
        self._images = dict(topics.images) if topics.images is not None else guessed["images"]
        self._state = listed(topics.state) if topics.state is not None else guessed["state"]
        self._action = listed(topics.action) if topics.action is not None else guessed["action"]
        self._instruction = topics.instruction if topics.instruction is not None else guessed["instruction"]
        if not self._action:
            raise ConfigError(f"the action topic of {self._paths[0].name} is ambiguous; {guessed.get('known')}")

    @staticmethod
    def recognizes(path: Path) -> bool:
        return bool(files_of(path, ".mcap"))

    def items(self) -> Iterator[Item]:
        for path in self._paths:
            if self._split is None:
                yield Item(path.name, partial(self._read, path, EpisodeSpan(path.name)))
                continue
            spans: list[EpisodeSpan] = []
            try:
                for span in self._spans(path):
                    spans.append(span)
                    yield Item(span.key, partial(self._read, path, span))
            except CorruptFileError as error:
                if not spans or spans[-1].end is not None:  # otherwise reading the open episode reports the cut
                    yield Item(f"{path.name}, after episode {len(spans)}", failing(error))

    def _spans(self, path: Path) -> Iterator[EpisodeSpan]:
        topic, count, started = str(self._split), 0, None
        try:
            for _, time, value in messages(path, [topic]):
                text = _text(_field(value, "data")) if not isinstance(value, str) else value
                if started is not None:
                    yield EpisodeSpan(f"{path.name}, episode {count - 1}", started[0], time, started[1])
                    started = None
                if text.strip().lower() not in ENDS:
                    started, count = (time, "" if text.lower() in ("true", "1") else text), count + 1
        except CorruptFileError:
            if started is not None:
                yield EpisodeSpan(f"{path.name}, episode {count - 1}", started[0], None, started[1])
            raise
        if started is not None:
            yield EpisodeSpan(f"{path.name}, episode {count - 1}", started[0], None, started[1])

    def _read(self, path: Path, span: EpisodeSpan) -> RawEpisode:
        topics = {_topic(name) for name in (*self._images.values(), *self._state, *self._action)}
        streams: dict[str, TopicStream] = {topic: TopicStream() for topic in topics}
        for topic, time, value in messages(path, sorted(topics), span.start, span.end):
            streams[topic].add(time, value)
        empty = sorted(topic for topic, stream in streams.items() if not stream.times)
        if empty:
            raise DataError(f"{span.key} has no message of {', '.join(empty)}; the file has {listing(path)}")
        taken = self._resampled(streams, span.key)
        axes: dict[str, tuple[str, ...]] = {}
        vectors: list[dict[str, np.ndarray]] = []
        for names in (self._state, self._action):
            fields = {}
            for name in names:
                axis_names, rows = _matrix(name, taken[_topic(name)])
                fields[_called(name)], axes[_called(name)] = rows, axis_names
            vectors.append(fields)
        cameras = {name: partial(_pictures, topic, taken[_topic(topic)]) for name, topic in self._images.items()}
        return RawEpisode(vectors[0], vectors[1], cameras, self._sentences(path, span), axes=axes)

    def _resampled(self, streams: Mapping[str, TopicStream], key: str) -> dict[str, list[Any]]:
        """For each topic, the last message at or before each frame."""
        first = max(stream.times[0] for stream in streams.values())
        last = min(stream.times[-1] for stream in streams.values())
        if last < first:
            raise DataError(
                f"{key}: {min(streams, key=lambda t: streams[t].times[-1])} ends before every topic has had a message"
            )
        period_ns = 1e9 / float(self.rate_hz or 1.0)
        frames = first + np.rint(np.arange(int((last - first) / period_ns + 1e-6) + 1) * period_ns).astype(np.int64)
        taken = {}
        for topic, stream in streams.items():
            places = np.searchsorted(np.array(stream.times), frames, "right") - 1
            ages = frames - np.array(stream.times)[places]
            if ages.max() > self._max_age_ns:
                worst = int(ages.argmax())
                raise DataError(
                    f"{key}: {topic} has no message for {ages[worst] / 1e9:.3g} s at {(frames[worst] - first) / 1e9:.3g} s; "
                    f"max_age_s is {self._max_age_ns / 1e9:g}"
                )
            taken[topic] = [stream.messages[place] for place in places]
        return taken

    def _sentences(self, path: Path, span: EpisodeSpan) -> tuple[str, ...] | None:
        if not self._instruction:
            return None if self._split is None else unique([span.instruction])
        before, within = "", []
        for _, time, value in messages(path, [_topic(self._instruction)], 0, span.end):
            text = _text(_chosen(self._instruction, value))
            if time < span.start:
                before = text
            else:
                within.append(text)
        return unique(within or [before])

    def _guess(self) -> dict[str, Any]:
        """Find topics by their message types, in the first file with an index."""
        types: dict[str, str] = {}
        for path in self._paths:
            try:
                types = topic_types(path)
                break
            except CorruptFileError:
                continue
        short = {topic: kind.rpartition("/")[2] for topic, kind in sorted(types.items()) if topic != self._split}
        pictures = [topic for topic, kind in short.items() if kind in PICTURES]
        found: dict[str, Any] = {"images": {_camera(topic): topic for topic in pictures}}
        for label, kinds in NUMBERS.items():
            fitting = [topic for topic, kind in short.items() if kind in kinds]
            found[label] = tuple(fitting) if len(fitting) == 1 else ()
        texts = [topic for topic, kind in short.items() if kind == "String"]
        found["instruction"] = texts[0] if len(texts) == 1 else None
        listing = ", ".join(f"{topic} ({kind})" for topic, kind in sorted(types.items()))
        return found | {"known": f"give --set action=TOPIC; it has {listing or 'none'}"}


def _topic(name: str) -> str:
    return name.partition(":")[0]


def _called(name: str) -> str:
    """The field's name: ``/arm/command:values`` is ``arm_command_values``."""
    return name.strip("/").replace("/", "_").replace(":", "_").replace(".", "_")


def _camera(topic: str) -> str:
    """``/camera/front/image_raw/compressed`` is camera ``front``."""
    words = [
        w for w in topic.strip("/").split("/") if w not in ("compressed", "image_raw", "image", "color", "camera", "cameras")
    ]
    return "_".join(words) or topic.strip("/").replace("/", "_")


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


def _chosen(name: str, value: Any) -> Any:
    """The field of a message that ``topic:field.inner`` names."""
    for word in filter(None, name.partition(":")[2].split(".")):
        inner = _field(value, word)
        if inner is None:
            raise DataError(f"{name}: a message has no {word!r}; it has {_has(value)}")
        value = inner
    return value


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    inner = value if isinstance(value, str | int | float) or value is None else _field(value, "data") or _field(value, "text")
    return "" if inner is None else str(inner)


def _entries(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    return [(name, getattr(value, name)) for name in getattr(value, "__slots__", ())]


def _has(value: Any) -> str:
    return ", ".join(key for key, _ in _entries(value)) or "no fields"


def _numbers(value: Any, stem: str = "") -> Iterator[tuple[str, float]]:
    """(name, number) of every number in a message, except its header."""
    if isinstance(value, bool | int | float):
        yield stem, float(value)
    elif isinstance(value, list | tuple | np.ndarray):
        for number, inner in enumerate(value):
            yield from _numbers(inner, f"{stem}.{number}" if stem else str(number))
    else:
        for name, inner in _entries(value):
            if name not in ("header", "layout", "stamp"):
                yield from _numbers(inner, f"{stem}.{name}" if stem else name)


def _matrix(name: str, values: list[Any]) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the dimensions, and the values (t, d), of the messages of one topic. Joints have the first message's order."""
    rows: list[list[float]] = []
    axes: tuple[str, ...] = ()
    for value in values:
        chosen = _chosen(name, value)
        joints, position = _field(chosen, "name"), _field(chosen, "position")
        if joints and position is not None and len(joints) == len(position):
            numbers = dict(zip(joints, map(float, position), strict=True))
        else:
            data = _field(chosen, "data")
            numbers = dict(_numbers(chosen if data is None else data))
        axes = axes or tuple(numbers)
        if set(numbers) != set(axes) or not axes:
            raise DataError(
                f"{name}: a message has {', '.join(numbers) or 'no numbers'}; the first has {', '.join(axes) or 'none'}"
            )
        rows.append([numbers[axis] for axis in axes])
    return axes, np.array(rows)


def _pictures(name: str, values: list[Any]) -> UInt8Array:
    """uint8 (t, h, w, 3). A message that appears several times is decoded once."""
    decoded: dict[int, UInt8Array] = {}
    for value in values:
        if id(value) not in decoded:
            decoded[id(value)] = _picture(name, _chosen(name, value))
    return stack([decoded[id(value)] for value in values], name)


def _picture(name: str, value: Any) -> UInt8Array:
    data, encoding = _field(value, "data"), _field(value, "encoding")
    if isinstance(data, str):
        with reading(name, binascii.Error):
            data = base64.b64decode(data, validate=True)
    if not isinstance(data, bytes | bytearray | memoryview | list):
        raise DataError(f"{name}: a message has no picture in 'data'; it has {_has(value)}")
    if encoding is None:
        return decode_image(bytes(data), name)
    if encoding not in LAYOUTS:
        raise DataError(f"{name} has pictures encoded as {encoding!r}; expected {', '.join(LAYOUTS)}, or compressed ones")
    channels, reversed_ = LAYOUTS[encoding]
    height, width = int(_field(value, "height")), int(_field(value, "width"))
    step = int(_field(value, "step") or width * channels)
    with reading(name, ValueError):
        rows = (
            np.frombuffer(bytes(data), np.uint8).reshape(height, step)[:, : width * channels].reshape(1, height, width, channels)
        )
    if reversed_:
        rows = rows[..., [2, 1, 0]]
    return frames_of(rows, name)[0]
