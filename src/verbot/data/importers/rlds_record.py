"""One record of an RLDS dataset as an episode: which of its fields are what, and what becomes of the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from verbot.data.importers import WIDEST, FieldNote, RawEpisode, known_robots, pick
from verbot.data.importers.fields import COLUMNS, FieldOptions, channels_note, column_of, left_out, segments_of_wordings
from verbot.data.importers.images import SCALED, decode_all, decode_depth, depth_of, float_range, frames_of
from verbot.data.importers.known_robots import KnownRobot
from verbot.data.importers.limits import other_episode, take
from verbot.data.importers.rlds_fields import METADATA, OBSERVATION, STEPS, Field, kind_of, unpacked
from verbot.data.importers.tfrecord import Feature
from verbot.data.storage.segments import InstructionSegment
from verbot.errors import DataError
from verbot.spec import FloatArray, UInt8Array

LANGUAGE = ("language_instruction", "natural_language_instruction", "instruction", "language_text", "task_description", "task")
FLAGS = ("is_first", "is_last", "is_terminal", "discount", "reward")
STEMS = (OBSERVATION, "action/", "action_dict/", METADATA)
SMALL = 4096  # bytes of a value of the episode that is kept with it


@dataclass(frozen=True)
class RldsReading:
    """How the records of a dataset are read.

    Args:
        fields: those of ``features.json`` by flat name; empty without that file.
        ranges: the range of float pictures by field, as `float_range` found it in the first episode.
    """

    robot: KnownRobot
    fields: Mapping[str, Field]
    options: FieldOptions
    ranges: dict[str, tuple[str, str]]
    floats: str = "auto"


class RldsRecord:
    """One parsed record. Raises `DataError` if it is not an episode of steps."""

    def __init__(self, example: Mapping[str, Feature], fields: Mapping[str, Field], name: str):
        self.name, self._fields = name, fields
        self.steps = {key.removeprefix(STEPS): example[key] for key in sorted(example) if key.startswith(STEPS)}
        self.others = {key: value for key, value in sorted(example.items()) if not key.startswith(STEPS)}
        if not self.steps:
            raise DataError(f"{name} has no {STEPS}…, so it is not RLDS; it has {', '.join(example) or 'nothing'}")
        self.kinds = {key: kind_of(fields.get(STEPS + key), value) for key, value in self.steps.items()}
        self.broken: dict[str, DataError] = {}

    @cached_property
    def length(self) -> int:
        """The number of steps: from the flags, or else from pictures and sentences, or else from a described shape."""
        for key in FLAGS:
            if len(self.steps.get(key, ())):
                return len(self.steps[key])
        for value in self.steps.values():
            if isinstance(value, list) and value:
                return len(value)
        for key, value in self.steps.items():
            size = field.size if (field := self._fields.get(STEPS + key)) is not None else None
            if size and len(value):
                return len(value) // size
        raise DataError(f"{self.name}: the number of steps is unknown: it has no is_first, is_last, is_terminal and no image")

    @cached_property
    def numbers(self) -> dict[str, np.ndarray]:
        """The vectors by field: (t, d); without those that do not fit the steps, which are in `broken`."""
        found = {}
        for key in (key for key in self.steps if self.kinds[key] == "numbers"):
            try:
                found[key] = self.rows(key)
            except DataError as error:
                self.broken[key] = error
        return found

    def rows(self, key: str) -> np.ndarray:
        """The numbers of one field: (t, d). Raises `DataError` if they do not fit the steps."""
        value, field, place = self.steps[key], self._fields.get(STEPS + key), f"{self.name}: {key}"
        if isinstance(value, list):
            value = unpacked(value, field or Field("tensor"), f"{self.name}, {key}")
        if not self.length or value.size % self.length or not value.size:
            raise DataError(f"{place} has {value.size} numbers for {self.length} steps")
        rows = value.reshape(self.length, -1)
        if field is not None and field.size not in (None, rows.shape[1]):
            raise DataError(f"{place} has {value.size} numbers for {self.length} steps of shape {field.shape}")
        return rows

    def pixels(self, key: str) -> np.ndarray:
        """A picture field that is stored as numbers: (t, h, w) or (t, h, w, c)."""
        rows, field = self.rows(key), self._fields.get(STEPS + key)
        shape = field.shape if field is not None else ()
        if len(shape) not in (2, 3) or None in shape:
            raise DataError(f"{self.name}: {key} has {rows.shape[1]} numbers a frame of unknown shape; expected pictures")
        values = rows.reshape(self.length, *[int(length or 0) for length in shape])
        if field is not None and field.dtype == "uint8":
            if values.size and not 0 <= values.min() <= values.max() <= 255:
                raise DataError(f"{self.name}: {key} has values from {values.min()} to {values.max()}; expected 0 to 255")
            if values.dtype != np.uint8:
                take(values.size, f"{self.name}, {key}")
            return values.astype(np.uint8, copy=False)
        return values

    def shape(self, key: str) -> tuple[int | None, ...] | None:
        """The shape of a step of a field; None if it is unknown."""
        field = self._fields.get(STEPS + key)
        if field is not None and (field.shape or field.kind == "tensor"):
            return field.shape
        return self.numbers[key].shape[1:] if key in self.numbers else None

    def episode(self, reading: RldsReading) -> RawEpisode:
        """The episode, and notes on every field."""
        options = reading.options.with_full_names([*self.steps, *self.others], STEMS)
        state = self._vectors("state", reading, options)
        action = self._vectors("action", reading, options)
        notes: list[FieldNote] = []
        cameras = dict(self._cameras(reading, options, notes))
        columns = dict(self._columns({*state, *action}, notes))
        sentences = self.instruction_fields(options.names("instruction"))
        segments = self._segments(sentences)
        notes += [FieldNote(key, "instruction", "", _alternatives(sentences)) for key in sentences]
        extras = self._extras(sentences, notes)
        used = {*state, *action, *(note.field for note in notes)}
        notes += [self._left_out(key) for key in self.steps if key not in used]
        instructions = tuple(filter(None, segments[0].wordings)) if sentences else None
        changing = segments if len(segments) > 1 else ()
        return RawEpisode(state, action, cameras, instructions, extras, segments=changing, columns=columns, notes=tuple(notes))

    def _vectors(self, label: str, reading: RldsReading, options: FieldOptions) -> dict[str, np.ndarray]:
        robot = reading.robot
        meaning, usual = (robot.state, robot.state_fields) if label == "state" else (robot.action, robot.action_fields)
        wanted = options.names(label)
        if wanted is None and not usual:
            wanted = tuple(self._generic_state() if label == "state" else self._generic_action(meaning))
        known = {key: self.shape(key) for key in self.steps if self.kinds[key] != "text"}
        chosen = pick(usual if wanted is None else wanted, known, f"{label} field", self.name)
        return {key: self.numbers[key] if key in self.numbers else self.rows(key) for key in chosen}

    def _generic_state(self) -> list[str]:
        """``observation/state`` or ``observation/proprio``; otherwise every vector of floats that is not an embedding."""
        for key in (f"{OBSERVATION}state", f"{OBSERVATION}proprio"):
            if key in self.numbers or key in self.broken:
                return [key]
        vectors = [key for key, rows in self.numbers.items() if key.startswith(OBSERVATION) and rows.dtype.kind == "f"]
        return [key for key in vectors if "embedding" not in key and self.numbers[key].shape[1] <= WIDEST]

    def _generic_action(self, meaning: known_robots.Meaning) -> list[str]:
        """``action``; otherwise the parts of an action dictionary, known ones first, without ``terminate_episode``."""
        if "action" in self.numbers or "action" in self.broken:
            return ["action"]
        parts = [key for key in self.numbers if key.startswith("action/") and not key.endswith("terminate_episode")]
        if not parts:
            pick(("action",), {key: rows for key, rows in self.numbers.items() if key not in FLAGS}, "action field", self.name)
        return sorted(parts, key=lambda key: (list(meaning).index(key) if key in meaning else len(meaning), key))

    def _cameras(
        self, reading: RldsReading, options: FieldOptions, notes: list[FieldNote]
    ) -> Iterator[tuple[str, Callable[[], UInt8Array | FloatArray]]]:
        robot, kinds = reading.robot, self.kinds
        pictures = [key for key in self.steps if kinds[key] == "picture"]

        def called(key: str) -> str:
            return robot.cameras.get(key, key.removeprefix(OBSERVATION).replace("/", "_"))

        shapes = {key: self.shape(key) for key in self.steps if kinds[key] != "text"}
        chosen = options.cameras("images", shapes, called, self.name)
        usual = [key for key in robot.camera_fields if key in pictures] or [key for key in pictures if "depth" not in key]
        for camera, key in ({called(key): key for key in usual} if chosen is None else chosen).items():
            if self._is_encoded(key):
                notes.append(FieldNote(key, f"camera {camera}", channels_note(self.shape(key))))
                yield camera, partial(decode_all, self.steps[key], f"{self.name}, {key}")
                continue
            range_, note = self._pixel_range(key, reading)
            conversion = "; ".join(filter(None, (channels_note(self.shape(key)), note[0])))
            notes.append(FieldNote(key, f"camera {camera}", conversion, note[1]))
            yield camera, partial(self._frames, key, range_)
        scale = options.meters_per_unit
        for camera, key in (options.cameras("depth", shapes, called, self.name) or {}).items():
            notes.append(FieldNote(key, f"camera {camera}", f"times {scale:g}" if scale else "", "depth in meters"))
            yield camera, partial(self._depth, key, scale)

    def _is_encoded(self, key: str) -> bool:
        """Whether a picture is stored as a file, such as JPEG."""
        field = self._fields.get(STEPS + key)
        return isinstance(self.steps[key], list) and not (
            field is not None and field.kind == "tensor" and field.encoding != "none"
        )

    def _frames(self, key: str, floats: str) -> UInt8Array:
        return frames_of(self.pixels(key), f"{self.name}, {key}", floats)

    def _depth(self, key: str, scale: float) -> FloatArray:
        place, value = f"{self.name}, {key}", self.steps[key]
        if self._is_encoded(key) and isinstance(value, list):
            return decode_depth(value, place, scale)
        return depth_of(self.pixels(key), place, scale)

    def _pixel_range(self, key: str, reading: RldsReading) -> tuple[str, tuple[str, str]]:
        """The range of the pixels of a picture that is stored as numbers, with the conversion and its evidence."""
        value, field = self.steps[key], self._fields.get(STEPS + key)
        if not (field.dtype if field is not None else str(np.asarray(value).dtype)).startswith(("float", "bfloat")):
            return "byte", ("", "8 bits as a tensor")
        if reading.floats != "auto":
            return reading.floats, (SCALED[reading.floats], f"floats={reading.floats}")
        if key not in reading.ranges:
            with other_episode():
                reading.ranges[key] = float_range(self.pixels(key), f"{self.name}, {key}")
        found, evidence = reading.ranges[key]
        return found, (SCALED[found], f"floats: {evidence}")

    def _columns(self, used: set[str], notes: list[FieldNote]) -> Iterator[tuple[str, np.ndarray]]:
        taken: set[str] = set()
        for key, rows in self.numbers.items():
            if key in used or key.rpartition("/")[2] not in COLUMNS or (found := column_of(key, rows)) is None:
                continue
            if found[0] not in taken:
                taken.add(found[0])
                notes.append(FieldNote(key, f"column {found[0]}"))
                yield found

    def instruction_fields(self, given: tuple[str, ...] | None) -> list[str]:
        """The fields of the sentences, in the steps or of the episode: alternative wordings of one instruction."""
        texts = {key: None for key in self.steps if self.kinds[key] != "picture" and self.kinds[key] != "depth"}
        texts |= dict.fromkeys(self.others)
        if given is not None:
            return pick(given, texts, "instruction field", self.name)
        for name in LANGUAGE:
            for stem in ("", OBSERVATION, METADATA):
                pattern = re.compile(re.escape(stem + name) + r"(_\d+)?")
                found = [key for key in texts if pattern.fullmatch(key) and self._is_text(key)]
                if found:
                    return sorted(found)
        return []

    def _is_text(self, key: str) -> bool:
        value = self._value(key)
        return isinstance(value, list) or (key.endswith("instruction") and key in self.steps)  # language_table: characters

    def _value(self, key: str) -> Feature:
        return self.steps[key] if key in self.steps else self.others[key]

    def _segments(self, keys: Iterable[str]) -> tuple[InstructionSegment, ...]:
        if not self.length:
            raise DataError("it has no frames")
        frames: list[tuple[str, ...]] = [()] * self.length
        for key in keys:
            frames = [(*before, *texts) for before, texts in zip(frames, self._sentences(key), strict=True)]
        return segments_of_wordings(frames)

    def _sentences(self, key: str) -> list[tuple[str, ...]]:
        """The sentences of each step in a field."""
        value = self._value(key)
        if isinstance(value, list):
            texts = [_text(content, f"{self.name}: {key}") for content in value]
        else:
            texts = _characters(value, self.length if key in self.steps else 1, f"{self.name}: {key}")
        if len(texts) == self.length:
            return [(text,) for text in texts]
        if len(texts) == 1 or (key not in self.steps and texts):  # of the whole episode
            return [tuple(texts)] * self.length
        raise DataError(f"{self.name}: {key} has {len(texts)} sentences for {self.length} steps")

    def _extras(self, sentences: Iterable[str], notes: list[FieldNote]) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for key, value in self.others.items():
            size = sum(map(len, value)) if isinstance(value, list) else value.nbytes
            if size > SMALL:
                if key not in sentences:
                    notes.append(FieldNote(key, "left out", "", "a large value of the episode"))
                continue
            kept[key.removeprefix(METADATA)] = _plain(value)
            if key not in sentences:
                notes.append(FieldNote(key, "extras"))
        return {"episode_metadata": kept} if kept else {}

    def _left_out(self, key: str) -> FieldNote:
        if key == "is_first":
            return FieldNote(key, "left out", "", "true at the first frame")
        if key in self.broken:
            return FieldNote(key, "left out", "", "its numbers do not fit the steps")
        kind = {"picture": "pictures", "depth": "depth"}.get(self.kinds[key], self.kinds[key])
        return left_out(key, self.shape(key), kind)


def _alternatives(keys: list[str]) -> str:
    return "alternative wordings" if len(keys) > 1 else ""


def _text(content: bytes, place: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{place} is not text in UTF-8 ({error})") from error


def _characters(values: np.ndarray, length: int, place: str) -> list[str]:
    """Sentences stored as character codes (t, n), padded with zeros."""
    if values.dtype.kind not in "iu" or not length or values.size % length:
        raise DataError(f"{place} has {values.size} numbers of {values.dtype}; expected sentences")
    if values.size and (not 0 <= values.min() <= values.max() < 0x110000 or ((values >= 0xD800) & (values < 0xE000)).any()):
        raise DataError(f"{place} has numbers from {values.min()} to {values.max()}, which are no characters")
    return ["".join(map(chr, row)).partition("\0")[0] for row in values.reshape(length, -1).tolist()]


def _plain(value: Feature) -> Any:
    values = [item.decode(errors="replace") for item in value] if isinstance(value, list) else value.tolist()
    return values[0] if len(values) == 1 else values
