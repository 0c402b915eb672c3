"""A folder with ``manifest.json``: a list of entries, or ``{"episodes": [...]}`` or ``{"samples": [...]}``.

An entry has `image_path`, `instruction`, `action` or `action_sequence`, and optionally `robot_state` and the id of its episode
(`episode_id`, `episode` or `episode_index`). Entries with the same id form one episode in the listed order. An entry without an
id is an episode of its own. Other keys are named by options; rewards and flags (`reward`, `done`, `success`) become columns.

`image_path` is relative to the folder: one image, a list of images (one per frame), a video, or `{camera: any of these}`.
If an entry has several actions but one image, the image is repeated for all of them; ``extras["observed_frames"]`` lists the
frames that were recorded. `robot_state` is one vector, repeated likewise, or one vector per frame. An instruction is that of its
entry's frames; a list of sentences are alternative wordings.

The file is read entry by entry, so that one episode is in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.importers import FieldNote, Item, RawEpisode, known_robots, pick, reading, sources, unique
from verbot.data.importers.fields import COLUMNS, GUESSED_FIELDS, FieldOptions, column_of, left_out
from verbot.data.importers.images import decode_image, decode_plane, depth_of, repeated_image, stack, video_frames
from verbot.data.importers.json_entries import Place, entries, read_entry
from verbot.data.importers.limits import check_item
from verbot.data.storage.segments import InstructionSegment
from verbot.errors import CorruptFileError, DataError
from verbot.files import below, regular_file
from verbot.spec import FloatArray, UInt8Array

IDS = ("episode_id", "episode", "episode_index")
VIDEOS = (".mp4", ".mkv", ".avi", ".webm", ".mov")
CAMERA, IMAGES, STATE, ACTIONS, INSTRUCTION = "image", "image_path", "robot_state", ("action", "action_sequence"), "instruction"
LISTS = ("episodes", "samples")
_LISTS = " or ".join(map(repr, LISTS))
MALFORMED = (OSError, ValueError, RecursionError)


@sources.register("manifest")
class Manifest:
    """A folder with ``manifest.json``.

    Args:
        fields: keys of the entries; a camera of `image_path` is named ``image_path.CAMERA``, or just by its name.
    """

    about = "a folder with manifest.json"
    recognition = ""

    def __init__(self, path: Path, robot: str | None = None, fields: FieldOptions = GUESSED_FIELDS):
        self._file = path if path.is_file() else path / "manifest.json"
        self.robot = known_robots.known(robot or "generic")
        self.rate_hz = self.robot.rate_hz
        self._fields = fields
        with reading(self._file, *MALFORMED):
            found = _surveyed(self._file)
        self._groups, self._has_state, self.total = found.groups, found.has_state, len(found.groups)

    @staticmethod
    def recognizes(path: Path) -> bool:
        return path.name == "manifest.json" or (path / "manifest.json").is_file()

    def items(self) -> Iterator[Item]:
        for key, places in self._groups.items():
            yield Item(key, partial(self._read, places))

    def _read(self, places: Sequence[Place]) -> RawEpisode:
        with reading(self._file, *MALFORMED):
            found = [read_entry(self._file, place) for place in places]
        options = _chosen(self._fields, found[0], self._has_state)
        steps = [_Step(self._file.parent, entry, number, options) for number, entry in enumerate(found)]
        cameras = list(steps[0].cameras)
        odd = next((step for step in steps if list(step.cameras) != cameras), None)
        if odd is not None:
            raise DataError(f"entry {odd.number} has cameras {', '.join(odd.cameras)}; the first has {', '.join(cameras)}")
        notes: list[FieldNote] = []
        columns = dict(_columns(steps, options, notes))
        segments = _segments(steps)
        repeated = any(step.repeated for step in steps)
        notes += [FieldNote(field, f"camera {camera}", "", text) for camera, (field, text) in _origins(steps[0], options).items()]
        notes += [FieldNote(field, "instruction") for field in options.sentences if field in steps[0].entry]
        notes += _left_out(steps, options, {*columns, *(note.field for note in notes)})
        wordings = tuple(filter(None, segments[0].wordings))
        return RawEpisode(
            state={key: _joined([step.vectors[key] for step in steps], key) for key in options.state},
            action={key: _joined([step.vectors[key] for step in steps], key) for key in options.action},
            cameras={name: partial(_frames, steps, name) for name in cameras}
            | {name: partial(_depth, steps, name, options.scale) for name in options.depth},
            instructions=wordings,
            extras={"observed_frames": _observed(steps)} if repeated else {},
            segments=segments if len(segments) > 1 else (),
            columns=columns,
            notes=tuple(notes),
        )


@dataclass(frozen=True)
class _Survey:
    """The entries of each episode, and whether any has a state."""

    groups: dict[str, list[Place]]
    has_state: bool


def _surveyed(path: Path) -> _Survey:
    """Group the entries by episode, without keeping their content."""
    groups: dict[str, dict[str, list[Place]]] = {}
    keys, count, states = list[str](), 0, dict[str, bool]()
    for key, place, entry in entries(path, LISTS):
        if not place.size:
            if key == "":
                raise DataError(f"{path} holds {type(entry).__name__}; expected a list of entries, or one under {_LISTS}")
            keys.append(key)
            if key in LISTS:  # a list begins
                count, groups[key], states[key] = 0, {}, False
            continue
        identity = next((entry[name] for name in IDS if name in entry), None) if isinstance(entry, dict) else None
        name = f"entry {count}" if identity is None else f"episode {identity}"
        groups.setdefault(key, {}).setdefault(name, []).append(place)
        states[key] = states.get(key, False) or (isinstance(entry, dict) and entry.get(STATE) is not None)
        count += 1
    chosen = next((key for key in ("", *LISTS) if key in groups), None)
    if chosen is None and keys:
        raise DataError(f"{path} holds an object with {', '.join(keys)}; expected a list of entries, or one under {_LISTS}")
    return _Survey(groups.get(chosen or "", {}), states.get(chosen or "", False))


@dataclass(frozen=True)
class _Chosen:
    """What is taken of every entry of an episode.

    Args:
        cameras, depth: camera to the key of its pictures, and for one of several the name under that key.
        sentences: keys of alternative wordings.
        scale: meters per unit of depth.
    """

    state: tuple[str, ...]
    action: tuple[str, ...]
    cameras: Mapping[str, tuple[str, str]]
    depth: Mapping[str, tuple[str, str]]
    sentences: tuple[str, ...]
    scale: float


def _chosen(options: FieldOptions, entry: Any, has_state: bool) -> _Chosen:
    """The choice for an episode, by its first entry."""
    if not isinstance(entry, dict):
        raise DataError(f"entry 0 is {type(entry).__name__}; expected an object with image_path, instruction and action")
    pictures = dict(_pictures(entry))
    stems = dict(pictures)
    if isinstance(entry.get(IMAGES), dict):
        stems |= {name: (IMAGES, name) for name in map(str, entry[IMAGES]) if name not in stems}
    shapes = dict.fromkeys(stems)

    def called(field: str) -> str:
        return stems[field][1] or (CAMERA if field == IMAGES else field.removesuffix("_path")) if field in stems else field

    given = options.cameras("images", shapes, called, "entry 0")
    depth = options.cameras("depth", shapes, called, "entry 0") or {}
    if given is None:
        if IMAGES not in entry:
            has = ", ".join(map(str, entry))
            raise DataError(f"entry 0 has no {IMAGES}; it has {has} (--set images=false takes no pictures)")
        inner = [name for name in stems if stems[name][0] == IMAGES and (stems[name][1] or not isinstance(entry[IMAGES], dict))]
        given = {called(name): name for name in inner if stems[name] not in {stems[field] for field in depth.values()}}
    state, action, sentences = (options.names(label) for label in ("state", "action", "instruction"))
    vectors = {
        str(key): _shape(value) for key, value in entry.items() if isinstance(value, int | float | list) and key not in IDS
    }
    return _Chosen(
        ((STATE,) if has_state else ()) if state is None else tuple(pick(state, vectors, "state field", "entry 0")),
        _usual_action(entry) if action is None else tuple(pick(action, vectors, "action field", "entry 0")),
        {camera: stems[name] for camera, name in given.items()},
        {camera: stems[name] for camera, name in depth.items()},
        (INSTRUCTION,) if sentences is None else tuple(pick(sentences, entry, "instruction field", "entry 0")),
        options.meters_per_unit,
    )


def _shape(value: Any) -> tuple[int, ...]:
    """The shape of one frame of a number, a vector or several vectors."""
    inner = value[0] if isinstance(value, list) and value and isinstance(value[0], list) else value
    return (len(inner),) if isinstance(inner, list) else ()


def _usual_action(entry: Mapping[str, Any]) -> tuple[str, ...]:
    for key in ACTIONS:
        if entry.get(key) is not None:
            return (key,)
    raise DataError(f"entry 0 has neither action nor action_sequence; it has {', '.join(map(str, entry))}")


def _pictures(entry: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    """(field, (key, camera or "")) of what may be pictures: paths, lists of paths, and objects of either."""
    for key, value in entry.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{name}", (key, name)) for name in value)
        elif key == IMAGES or _is_path(value):
            yield key, (key, "")


def _is_path(value: Any) -> bool:
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, str) and first.lower().endswith((*VIDEOS, ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"))


class _Step:
    """One entry: its numbers are checked, its images are not read yet."""

    def __init__(self, folder: Path, entry: Any, number: int, chosen: _Chosen):
        self._folder, self.number = folder, number
        if not isinstance(entry, dict):
            raise DataError(
                f"entry {number} is {type(entry).__name__}; expected an object with image_path, instruction and action"
            )
        self.entry: Mapping[str, Any] = entry
        self.sentences = tuple(sentence for key in chosen.sentences for sentence in _sentences(entry, key, number))
        self.vectors = {key: self._action(key) for key in chosen.action}
        lengths = {key: len(values) for key, values in self.vectors.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"entry {number} has {' and '.join(f'{n} of {key}' for key, n in lengths.items())}")
        self.length = next(iter(lengths.values()))
        self.vectors |= {key: self._state(key) for key in chosen.state}
        self.cameras = {name: self._paths(*place) for name, place in chosen.cameras.items()}
        self.depth = {name: self._paths(*place) for name, place in chosen.depth.items()}
        self.repeated = self.length > 1 and any(  # one image stands for several frames
            isinstance(path, str) and not path.lower().endswith(VIDEOS) for path in (*self.cameras.values(), *self.depth.values())
        )

    def frames(self, camera: str) -> Iterator[UInt8Array]:
        paths = self.cameras[camera]
        if isinstance(paths, str) and paths.lower().endswith(VIDEOS):
            count = 0
            for frame in video_frames(self._inside(paths)):
                count += 1
                yield frame
            self._check(count, camera)
        elif isinstance(paths, str):
            yield from repeated_image(self._content(paths), self._inside(paths), self.length)
        else:
            listed = self._listed(paths)
            self._check(len(listed), camera)
            yield from (decode_image(self._content(path), self._inside(path)) for path in listed)

    def depth_frames(self, camera: str) -> Iterator[np.ndarray]:
        paths = self.depth[camera]
        if isinstance(paths, str):
            yield from [decode_plane(self._content(paths), self._inside(paths))] * self.length
        else:
            listed = self._listed(paths)
            self._check(len(listed), camera)
            yield from (decode_plane(self._content(path), self._inside(path)) for path in listed)

    def _check(self, count: int, camera: str) -> None:
        if count != self.length:
            raise DataError(f"entry {self.number} has {count} pictures of camera {camera!r} for {self.length} actions")

    def _listed(self, paths: Any) -> list[Any]:
        if not isinstance(paths, list):
            raise DataError(f"entry {self.number}: image_path is {type(paths).__name__}; expected a path, a list or an object")
        return paths

    def _paths(self, key: str, camera: str) -> Any:
        paths = self.entry.get(key)
        if paths is None:
            raise DataError(f"entry {self.number} has no {key}; it has {', '.join(map(str, self.entry))}")
        if camera and (not isinstance(paths, dict) or camera not in paths):
            found = ", ".join(map(str, paths)) if isinstance(paths, dict) else CAMERA
            raise DataError(f"entry {self.number} has cameras {found}; the first has {camera}")
        return paths[camera] if camera else paths

    def _content(self, path: Any) -> bytes:
        place = self._inside(path)
        try:
            check_item(regular_file(place).stat().st_size, place, "a picture")
            return place.read_bytes()
        except OSError as error:
            raise CorruptFileError(place, f"cannot be read ({error.strerror})") from error

    def _inside(self, path: Any) -> Path:
        try:
            name, folder = path if isinstance(path, str) else "..", self._folder.resolve()
            return below(self._folder, str(Path(name).relative_to(folder)) if Path(name).is_relative_to(folder) else name)
        except DataError as error:
            text = f"entry {self.number}: image_path {path!r} is not a path within the manifest's folder"
            raise DataError(text) from error

    def _action(self, key: str) -> np.ndarray:
        """One action, or several: (k, a)."""
        if self.entry.get(key) is None:
            names = "neither action nor action_sequence" if key in ACTIONS else f"no {key}"
            raise DataError(f"entry {self.number} has {names}; it has {', '.join(map(str, self.entry))}")
        values, dimensions = _numbers(self.entry[key], key, self.number), 2 if key == ACTIONS[1] else 1
        if values.ndim not in {dimensions, 2} or not values.size:
            raise DataError(f"entry {self.number}: {key} has shape {values.shape}; expected {dimensions} dimension(s)")
        return values.reshape(-1, values.shape[-1])

    def _state(self, key: str) -> np.ndarray:
        if self.entry.get(key) is None:
            raise DataError(f"entry {self.number} has no {key} while others have one (--set state=false leaves it out)")
        values, length = _numbers(self.entry[key], key, self.number), self.length
        if values.ndim <= 1:
            return np.repeat(values.reshape(1, -1), length, 0)
        if values.ndim != 2 or len(values) != length:
            raise DataError(f"entry {self.number}: {key} has shape {values.shape} for {length} actions")
        return values


def _sentences(entry: Mapping[str, Any], key: str, number: int) -> list[str]:
    instruction = entry.get(key, "")
    sentences = instruction if isinstance(instruction, list) else [instruction]
    if not all(isinstance(sentence, str) for sentence in sentences):
        raise DataError(f"entry {number}: {key} is {instruction!r}; expected a sentence, or a list of them")
    return sentences


def _segments(steps: Iterable[_Step]) -> tuple[InstructionSegment, ...]:
    """The instructions of an episode: one segment for successive entries with the same sentences."""
    out: list[InstructionSegment] = []
    stop = 0
    for step in steps:
        wordings, start, stop = unique(step.sentences) or ("",), stop, stop + step.length
        if out and out[-1].wordings == wordings:
            out[-1] = InstructionSegment(out[-1].start, stop, wordings)
        else:
            out.append(InstructionSegment(start, stop, wordings))
    return tuple(out)


def _observed(steps: Iterable[_Step]) -> list[int]:
    """The frames that have a picture of their own."""
    out, start = list[int](), 0
    for step in steps:
        out += range(start, start + (1 if step.repeated else step.length))
        start += step.length
    return out


def _columns(steps: Sequence[_Step], chosen: _Chosen, notes: list[FieldNote]) -> Iterator[tuple[str, np.ndarray]]:
    """Columns that every entry of the episode has, one number a frame."""
    for key in steps[0].entry:
        if key not in COLUMNS or key in (*chosen.state, *chosen.action):
            continue
        rows = []
        for step in steps:
            values = np.asarray(step.entry.get(key), object).reshape(-1)
            if len(values) != step.length or not all(isinstance(value, bool | int | float) for value in values):
                break
            rows.append(values.astype(np.float64))
        found = column_of(key, np.concatenate(rows)) if len(rows) == len(steps) else None
        if found is not None:
            notes.append(FieldNote(key, f"column {found[0]}"))
            yield found


def _origins(step: _Step, chosen: _Chosen) -> dict[str, tuple[str, str]]:
    """(field, remark) of each camera."""
    remark = "one picture for the actions of an entry" if step.repeated else ""
    fields = {camera: (f"{key}.{name}" if name else key, remark) for camera, (key, name) in chosen.cameras.items()}
    depth = {camera: (f"{key}.{name}" if name else key, "depth in meters") for camera, (key, name) in chosen.depth.items()}
    return fields | depth


def _left_out(steps: Sequence[_Step], chosen: _Chosen, noted: set[str]) -> Iterator[FieldNote]:
    used = {*noted, *chosen.state, *chosen.action, *IDS}
    for key in dict.fromkeys(key for step in steps for key in step.entry if key not in used):
        value = next(step.entry[key] for step in steps if key in step.entry)
        if isinstance(value, dict):
            fields = (f"{key}.{name}" for name in value)
            yield from (left_out(field, None, "pictures") for field in fields if field not in used)
        elif value is not None:
            kind = "pictures" if _is_path(value) else "text" if isinstance(value, str) else "numbers"
            yield left_out(key, None, kind)


def _numbers(values: Any, key: str, number: int) -> np.ndarray:
    try:
        return np.asarray(values, np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"entry {number}: {key} is not a vector, nor a list of vectors of one length ({error})") from error


def _joined(rows: Sequence[np.ndarray], key: str) -> np.ndarray:
    sizes = sorted({array.shape[1] for array in rows})
    if len(sizes) > 1:
        raise DataError(f"{key} has {' and '.join(map(str, sizes))} numbers in one episode")
    return np.concatenate(rows)


def _frames(steps: Sequence[_Step], camera: str) -> UInt8Array:
    return stack((frame for step in steps for frame in step.frames(camera)), f"camera {camera!r}")


def _depth(steps: Sequence[_Step], camera: str, scale: float) -> FloatArray:
    return depth_of(stack((f for step in steps for f in step.depth_frames(camera)), f"camera {camera!r}"), camera, scale)
