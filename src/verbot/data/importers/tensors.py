"""Tensor files, read without pickle: ``.safetensors``, ``.npz`` and ``.pt`` (``weights_only``); one or a folder of them.

A file holds these tensors, unless options name others:

- `actions` (t, a);
- `observations`: images (t, h, w, 3) or vectors (t, s), or several of them as ``observations.front``, ``observations.state``, …;
- `episode_indices` (t,); without it the file is one episode;
- `language`: one sentence per frame, per episode (in the order in which episodes begin), or one for all;
- `rewards`, `dones`, `success` (t,): columns.

Sentences are text in ``.npz`` and ``.pt``. Safetensors has no text: there they are uint8 (n, bytes), UTF-8 padded with zeros, or
a JSON list under ``language`` in the metadata.

One episode is read at a time. A compressed ``.npz`` is decompressed as a stream; an array in Fortran order is read as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from verbot.data.importers import FieldNote, Item, RawEpisode, failing, files_of, known_robots, pick, sources
from verbot.data.importers.fields import (
    COLUMNS,
    GUESSED_FIELDS,
    FieldOptions,
    channels_note,
    column_of,
    left_out,
    segments_of_wordings,
)
from verbot.data.importers.images import FLOATS, SCALED, depth_of, float_range, frames_of
from verbot.data.importers.limits import other_episode
from verbot.data.importers.tensor_files import SUFFIXES, TensorFile, open_tensors
from verbot.data.storage.segments import InstructionSegment
from verbot.errors import CorruptFileError, DataError
from verbot.spec import FloatArray, UInt8Array

OBSERVATIONS, ACTIONS, EPISODES, LANGUAGE = "observations", "actions", "episode_indices", "language"
STATES = ("states", "robot_states", "state", "robot_state")
STEMS = (f"{OBSERVATIONS}.", f"{OBSERVATIONS}/", "images.", "images/")
PICTURES = "images"


@sources.register("tensors")
class Tensors:
    """Tensor files.

    Args:
        fields: names of tensors; ``front`` stands for ``observations.front``.
        floats: the range of images stored as floats; see `verbot.data.importers.images.frames_of`.
    """

    about = "a .safetensors, .npz or .pt file with actions, observations, language and episode_indices, or a folder of them"
    recognition = ""

    def __init__(self, path: Path, robot: str | None = None, fields: FieldOptions = GUESSED_FIELDS, floats: str = "auto"):
        self._paths = files_of(path, *SUFFIXES)
        if not self._paths:
            raise DataError(f"{path} has no file that ends with {', '.join(SUFFIXES)}")
        if floats not in FLOATS:
            raise DataError(f"floats must be one of {', '.join(FLOATS)}; got {floats!r}")
        self.robot = known_robots.known(robot or "generic")
        self.rate_hz = self.robot.rate_hz
        self.total: int | None = None
        self._fields, self._floats = fields, floats

    @staticmethod
    def recognizes(path: Path) -> bool:
        return path.name.endswith(SUFFIXES) if path.is_file() else bool(files_of(path, *SUFFIXES))

    def items(self) -> Iterator[Item]:
        for path in self._paths:
            try:
                tensors = self._opened(path)
                episodes = tensors.episodes()
            except DataError as error:
                yield Item(path.name, failing(error))
                continue
            for place, (number, rows) in enumerate(episodes):
                yield Item(f"{path.name}, episode {number}", partial(self._read, tensors, rows, place, len(episodes)))

    def _opened(self, path: Path) -> _File:
        return _File(open_tensors(path, LANGUAGE), self._fields)

    def _read(self, tensors: _File, rows: np.ndarray, place: int, count: int) -> RawEpisode:
        notes: list[FieldNote] = []
        cameras: dict[str, Callable[[], UInt8Array | FloatArray]] = {}
        for camera, key in tensors.cameras.items():
            floats, note = self._range(key, tensors.file.kinds[key])
            conversion = "; ".join(filter(None, (channels_note(tensors.file.shapes[key][1:]), note[0])))
            notes.append(FieldNote(key, f"camera {camera}", conversion, note[1]))
            cameras[camera] = partial(self._frames, tensors, key, rows, floats)
        scale = tensors.options.meters_per_unit
        for camera, key in tensors.depth.items():
            notes.append(FieldNote(key, f"camera {camera}", f"times {scale:g}" if scale else "", "depth in meters"))
            cameras[camera] = partial(self._depth, tensors, key, rows, scale)
        columns: dict[str, np.ndarray] = {}
        for key in tensors.columns:
            found = column_of(key, tensors.file.rows(key, rows))
            if found is not None and found[0] not in columns:
                columns |= dict([found])
                notes.append(FieldNote(key, f"column {found[0]}"))
        segments = tensors.segments(rows, place, count)
        notes += [FieldNote(key, "instruction") for key in tensors.sentences]
        used = {*tensors.state, *tensors.action, EPISODES, *(note.field for note in notes)}
        notes += [
            left_out(key, tensors.file.shapes[key][1:], tensors.kind(key)) for key in tensors.file.readers if key not in used
        ]
        notes += [left_out(key, None, "text") for key in tensors.file.texts if key not in used]
        return RawEpisode(
            state={_short(key): tensors.file.rows(key, rows) for key in tensors.state},
            action={_short(key): tensors.file.rows(key, rows) for key in tensors.action},
            cameras=cameras,
            instructions=tuple(filter(None, segments[0].wordings)) if segments else None,
            segments=segments if len(segments) > 1 else (),
            columns=columns,
            notes=tuple(notes),
        )

    def _range(self, key: str, kind: str) -> tuple[str, tuple[str, str]]:
        """The range of the pixels of a tensor, with the conversion and its evidence."""
        if kind != "f":
            return "byte", ("", "")
        if self._floats != "auto":
            return self._floats, (SCALED[self._floats], f"floats={self._floats}")
        found, evidence = self._ranges.get(key) or self._ranges.setdefault(key, self._first_range(key))
        return found, (SCALED[found], f"floats: {evidence}")

    @cached_property
    def _ranges(self) -> dict[str, tuple[str, str]]:
        return {}

    def _first_range(self, key: str) -> tuple[str, str]:
        """The range of float pictures according to the first episode that has them, for all episodes."""
        for path in self._paths:
            try:
                tensors = self._opened(path)
                rows = next(iter(tensors.episodes()), (0, np.zeros(0, int)))[1]
            except DataError:
                continue
            if key in tensors.cameras.values() and len(rows):
                with other_episode():
                    return float_range(tensors.file.rows(key, rows), f"{path.name}, {key}")
        raise DataError(f"no file has readable pictures {key!r}")

    def _frames(self, tensors: _File, key: str, rows: np.ndarray, floats: str) -> UInt8Array:
        return frames_of(tensors.file.rows(key, rows), f"{tensors.file.path.name}, {key}", floats)

    def _depth(self, tensors: _File, key: str, rows: np.ndarray, scale: float) -> FloatArray:
        return depth_of(tensors.file.rows(key, rows), f"{tensors.file.path.name}, {key}", scale)


@dataclass
class _File:
    """A tensor file, and which of its tensors are what. Raises `DataError` if there are no actions, or their lengths differ."""

    file: TensorFile
    options: FieldOptions

    def __post_init__(self) -> None:
        shapes, place = self.file.shapes, self.file.path
        known = {key: shape[1:] for key, shape in shapes.items()}
        self.options = options = self.options.with_full_names([*shapes, *self.file.texts], STEMS)
        action = options.names("action")
        if action is None and ACTIONS not in shapes:
            raise DataError(f"{place} has no tensor {ACTIONS!r}; it has {', '.join(shapes) or 'none'}")
        self.action = pick((ACTIONS,) if action is None else action, known, "action field", place)
        self._length = shapes[self.action[0]][0] if shapes[self.action[0]] else 0
        state = options.names("state")
        self.depth = options.cameras("depth", known, self._called, place) or {}
        pictures = [key for key in shapes if self._is_picture(key) and key not in (*self.action, *self.depth.values())]
        given = options.cameras("images", known, self._called, place)
        self.cameras = {self._called(key): key for key in pictures} if given is None else given
        self.state = [key for key in shapes if self._is_state(key)] if state is None else pick(state, known, "state field", place)
        self.columns = [key for key in shapes if _last(key) in COLUMNS and key not in (*self.state, *self.action)]
        wanted = options.names("instruction")
        texts = dict.fromkeys((*self.file.texts, *(key for key in shapes if self.file.kinds[key] == "u")))
        present = tuple(key for key in (LANGUAGE,) if key in self.file.texts or key in shapes)
        self.sentences = list(present) if wanted is None else pick(wanted, texts, "instruction field", place)
        taken = (*self.action, *self.state, *self.cameras.values(), *self.depth.values())
        for key in (*taken, *((EPISODES,) if EPISODES in shapes else ())):
            if shapes[key][:1] != (self._length,):
                raise DataError(f"{place}: {key} has shape {shapes[key]} for {self._length} actions")

    def _called(self, key: str) -> str:
        return _stem(key)[1].replace(".", "_") or "image"

    def _is_state(self, key: str) -> bool:
        if _stem(key)[0] not in (OBSERVATIONS, *STATES) or len(self.file.shapes[key]) > 2 or _last(key) in COLUMNS:
            return False
        return key not in self.action

    def _is_picture(self, key: str) -> bool:
        stem, sides = _stem(key)[0], self.file.shapes[key][1:]
        large = len(sides) > 2 or (len(sides) == 2 and min(sides) > 4)  # small matrices are poses
        return stem == PICTURES or (stem in (OBSERVATIONS, *STATES) and large and not self._is_depth(key))

    def _is_depth(self, key: str) -> bool:
        """Whether it is called depth and has one channel."""
        shape = self.file.shapes[key]
        return "depth" in key and (len(shape) == 3 or shape[-1] == 1)

    def kind(self, key: str) -> str:
        """What a tensor seems to hold, for the note that it was left out."""
        shape = self.file.shapes[key]
        return "depth" if self._is_depth(key) else "pictures" if len(shape) == 4 else "numbers"

    def episodes(self) -> list[tuple[int, np.ndarray]]:
        """(episode number, its row numbers), in the order in which episodes begin."""
        everything = np.arange(self._length)
        if EPISODES not in self.file.readers:
            return [(0, everything)] if self._length else []
        indices = self.file.rows(EPISODES, everything).reshape(-1)
        if not np.issubdtype(indices.dtype, np.integer):
            raise DataError(f"{self.file.path}: {EPISODES} are {indices.dtype}; expected integers")
        if len(indices) != self._length:
            raise DataError(f"{self.file.path}: {EPISODES} are {len(indices)} numbers for {self._length} actions")
        order = np.argsort(indices, kind="stable")
        numbers, first = np.unique(indices[order], return_index=True)
        groups = (
            [(int(number), rows) for number, rows in zip(numbers, np.split(order, first[1:]), strict=True)] if len(order) else []
        )
        return sorted(groups, key=lambda group: int(group[1][0]))

    def segments(self, rows: np.ndarray, place: int, count: int) -> tuple[InstructionSegment, ...]:
        """The instructions of an episode; none if the file has no sentences."""
        if not self.sentences:
            return ()
        frames: list[tuple[str, ...]] = [()] * len(rows)
        for key in self.sentences:
            texts = self._texts(key)
            chosen = {self._length: rows, count: np.array([place]), 1: np.array([0])}
            if len(texts) not in chosen:
                raise DataError(
                    f"{self.file.path}: {key} has {len(texts)} sentences; expected one a frame ({self._length}), "
                    f"one an episode ({count}) or one"
                )
            numbers = chosen[len(texts)]
            found = [texts[i] for i in (numbers if len(numbers) == len(rows) else np.repeat(numbers[:1], len(rows)))]
            frames = [(*before, text) for before, text in zip(frames, found, strict=True)]
        return segments_of_wordings(frames)

    def _texts(self, key: str) -> list[str]:
        if key not in self.file.texts:
            return self._utf8(key)
        text = self.file.texts[key]
        if not isinstance(text, list | tuple) or not all(isinstance(sentence, str) for sentence in text):
            raise DataError(f"{self.file.path}: {key} is {type(text).__name__}; expected a list of sentences")
        return list(text)

    def _utf8(self, key: str) -> list[str]:
        shape = self.file.shapes[key]
        rows = self.file.rows(key, np.arange(shape[0] if shape else 0))
        if rows.dtype != np.uint8 or rows.ndim not in (1, 2):
            raise DataError(
                f"{self.file.path}: {key} is {rows.dtype} {shape}, such as embeddings; "
                "expected text, or UTF-8 as uint8 (n, bytes)"
            )
        try:
            return [row.tobytes().rstrip(b"\0").decode() for row in np.atleast_2d(rows)]
        except UnicodeDecodeError as error:
            raise CorruptFileError(self.file.path, f"{key} is not UTF-8 ({error})") from error


def _stem(key: str) -> tuple[str, str]:
    stem, _, rest = key.replace("/", ".").partition(".")
    return stem, rest


def _last(key: str) -> str:
    return key.replace("/", ".").rpartition(".")[2]


def _short(key: str) -> str:
    """The field's name in the dataset: without ``observations``."""
    stem, rest = _stem(key)
    if stem == OBSERVATIONS:
        return rest or "state"
    return rest or stem
