"""What all formats share: the options that name fields, ``--map``, and further columns.

Every format takes the options of `FieldOptions` with the same meaning. `False` leaves a kind of field out, `None` lets the
format decide.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from verbot.data.importers import FieldNote, listed, pick, unique
from verbot.data.storage.segments import InstructionSegment
from verbot.errors import ConfigError, DataError
from verbot.text import name_problem

NAMES = ("state", "action", "instruction")
CAMERAS = ("images", "depth")

# The dataset's columns, by the last part of a field's name. `next.` means: after the action of this frame.
COLUMNS: dict[str, tuple[str, type]] = {
    "reward": ("next.reward", np.float32),
    "rewards": ("next.reward", np.float32),
    "discount": ("next.discount", np.float32),
    "is_last": ("next.done", np.bool_),
    "done": ("next.done", np.bool_),
    "dones": ("next.done", np.bool_),
    "is_terminal": ("next.terminated", np.bool_),
    "terminated": ("next.terminated", np.bool_),
    "truncated": ("next.truncated", np.bool_),
    "success": ("next.success", np.bool_),
}


DEPTH_UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001}  # meters


def check_depth_unit(depth: Any, unit: str | None) -> None:
    """Raise `ConfigError` for a unit that there is none of, and for depth without one."""
    if unit not in DEPTH_UNITS and (unit is not None or (depth is not None and depth is not False and depth != ())):
        known = " or ".join(f"depth_unit={unit}" for unit in DEPTH_UNITS)
        raise ConfigError(f"depth needs its unit, which the format does not state: {known}; got {unit!r}")


@dataclass(frozen=True)
class FieldOptions:
    """The fields to take, by the names of the source.

    Args:
        state, action: one field or several, which are joined in this order. ``state=False`` leaves the state out.
        images: a field, several, or ``{camera: field}``; False takes no pictures.
        instruction: the field of the sentences; several are alternative wordings, the first is stored first.
        depth: as `images`, for depth pictures, which become cameras of kind ``"depth"``. None leaves them out.
        depth_unit: unit of the depth pictures, a key of `DEPTH_UNITS`; required with `depth`, because formats do not record it.

    Raises `ConfigError` for a value of another form.
    """

    state: Any = None
    action: Any = None
    images: Any = None
    instruction: Any = None
    depth: Any = None
    depth_unit: str | None = None

    states_unit: ClassVar[bool] = False  # whether the format records the unit of depth, which `depth_unit` then replaces

    def __post_init__(self) -> None:
        for label in NAMES:
            self.names(label)
        for label in CAMERAS:
            self._cameras(label)
        if self.action is False:
            raise ConfigError("action is False; a dataset has actions")
        check_depth_unit(None if self.states_unit else self.depth, self.depth_unit)

    @property
    def meters_per_unit(self) -> float:
        """Of the depth pictures."""
        return DEPTH_UNITS[self.depth_unit or "m"]

    def names(self, label: str) -> tuple[str, ...] | None:
        """The fields of ``"state"``, ``"action"`` or ``"instruction"``; None if the format decides, () for none."""
        value = getattr(self, label)
        if value is None or value is True:
            return None
        return () if value is False else _listed(label, value) or None

    def cameras(self, label: str, known: Mapping[str, Any], called: Callable[[str], str], place: object) -> dict[str, str] | None:
        """Camera to field of ``"images"`` or ``"depth"``; None if the format decides.

        Args:
            known: the fields that hold pictures, with their shapes.
            called: the camera's name of a field that the user did not name.

        Raises `DataError`, which lists the fields, if one does not exist.
        """
        given = self._cameras(label)
        if given is None:
            return None
        chosen = given if isinstance(given, dict) else {called(name): name for name in given}
        if len(chosen) != len(given):
            raise DataError(f"{place}: two fields of {label} would be one camera; give {label}.CAMERA=FIELD")
        pick(tuple(chosen.values()), known, "pictures" if label == "images" else "depth pictures", place)
        return chosen

    def chosen(self, label: str) -> dict[str, str] | None:
        """Camera to field of ``"images"`` or ``"depth"`` where a camera is called as its field, unless given as ``CAMERA=FIELD``;
        None if the format decides, {} for none."""
        given = self._cameras(label)
        if given is None or isinstance(given, dict):
            return given
        words = [(word.partition("=")[0].strip(), word.partition("=")[2].strip()) for word in given]
        return {_camera_name(camera) if name else camera: name or camera for camera, name in words}

    def with_full_names(self, known: Iterable[str], stems: Sequence[str]) -> FieldOptions:
        """These options with short names completed: ``image`` becomes ``observation/image`` if only that exists."""
        names = set(known)

        def full(name: str) -> str:
            return next((stem + name for stem in ("", *stems) if stem + name in names), name)

        values: dict[str, Any] = {label: self.names(label) for label in NAMES}
        values = {label: False if value == () else value and tuple(map(full, value)) for label, value in values.items()}
        for label in CAMERAS:
            given = self._cameras(label)
            if isinstance(given, dict):
                values[label] = {camera: full(name) for camera, name in given.items()}
            else:
                values[label] = False if given == () else given and tuple(map(full, given))
        return FieldOptions(**values, depth_unit=self.depth_unit)

    def _cameras(self, label: str) -> dict[str, str] | tuple[str, ...] | None:
        value = getattr(self, label)
        if value is None or value is True:
            return None
        if isinstance(value, Mapping):
            if not all(isinstance(name, str) and name for name in value.values()):
                raise ConfigError(f"{label} is {dict(value)!r}; expected the field of each camera, as {label}.front=FIELD")
            return {_camera_name(str(camera)): name for camera, name in value.items()}
        return () if value is False else _listed(label, value) or None


def _camera_name(name: str) -> str:
    """The name that the user gives a camera. Raises `ConfigError` if it can be none."""
    if problem := name_problem(name):
        raise ConfigError(f"a camera is to be called {name!r:.200}; {problem}")
    return name


def _listed(label: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, str) and not (isinstance(value, list | tuple) and all(isinstance(word, str) for word in value)):
        raise ConfigError(f"{label} is {value!r}; expected a field, or several separated by commas")
    return listed(value)


GUESSED_FIELDS = FieldOptions()


def mapped(words: Sequence[str]) -> dict[str, Any]:
    """The options of a format that ``--map`` stands for: ``observation.state=FIELD[,FIELD]``, ``images.CAMERA=FIELD``, …

    Raises `ConfigError` for another form or a name that a dataset does not have.

    Example:
        >>> mapped(["observation.state=state", "action=arm,gripper", "images.front=image0", "instruction=task"])
        {'state': ('state',), 'action': ('arm', 'gripper'), 'images': {'front': 'image0'}, 'instruction': ('task',)}
    """
    found: dict[str, Any] = {}
    for word in words:
        target, equals, source = word.partition("=")
        kind, _, camera = target.removeprefix("observation.").partition(".")
        fields = listed(source)
        if not equals or not fields:
            raise ConfigError(f"{word!r} is not of the form NAME=FIELD, such as action=actions or images.front=image0")
        if kind in NAMES and not camera:
            if kind in found:
                raise ConfigError(f"{kind} is mapped twice; separate several fields by commas: {kind}=FIELD,FIELD")
            found[kind] = fields
        elif kind in CAMERAS and camera and len(fields) == 1:
            found.setdefault(kind, {})[camera] = fields[0]
        elif kind in CAMERAS and not camera:
            found[kind] = fields
        else:
            known = "observation.state, action, images.CAMERA, depth.CAMERA, instruction"
            raise ConfigError(f"{word!r}: a dataset has no {target!r}; it has {known}, each of one field (vectors: several)")
    return found


def segments_of_wordings(frames: Iterable[Sequence[str]]) -> tuple[InstructionSegment, ...]:
    """The segments of an episode with alternative sentences per frame; empty and double ones are left out.

    Example:
        >>> [(s.start, s.stop, s.wordings) for s in segments_of_wordings([("pick", "lift"), ("pick", "lift"), ("put", "put")])]
        [(0, 2, ('pick', 'lift')), (2, 3, ('put',))]
    """
    out, start = [], 0
    for wordings, group in itertools.groupby(map(unique, frames)):
        stop = start + len(list(group))
        out.append(InstructionSegment(start, stop, wordings or ("",)))
        start = stop
    return tuple(out)


def joined_wordings(fields: Iterable[Sequence[InstructionSegment]]) -> tuple[InstructionSegment, ...]:
    """The segments of several fields over the same frames as one: alternative wordings, those of the first field first."""
    frames = [[segment.wordings for segment in field for _ in range(segment.start, segment.stop)] for field in fields]
    return segments_of_wordings([text for wordings in row for text in wordings] for row in zip(*frames, strict=True))


def column_of(field: str, values: np.ndarray) -> tuple[str, np.ndarray] | None:
    """The dataset's column of a field like ``steps/reward`` and its values (t,); None if it is no known column."""
    known = COLUMNS.get(field.replace(".", "/").rpartition("/")[2])
    if known is None or values.size != len(values) or values.dtype.kind not in "biuf":
        return None
    name, kind = known
    return name, values.reshape(-1).astype(kind)


def channels_note(shape: Sequence[int | None] | None) -> str:
    """The conversion of a picture (h, w, c), (c, h, w) or (h, w) to RGB, if its channels are not red, green and blue."""
    if shape is not None and len(shape) == 2:
        return "one channel, repeated"
    last = shape[-1] if shape is not None and len(shape) == 3 else None
    last = shape[0] if shape is not None and last not in (None, 1, 3, 4) else last  # channels first
    return {1: "one channel, repeated", 4: "the fourth channel left out"}.get(last or 0, "")


def left_out(field: str, shape: Sequence[int | None] | None, kind: str = "numbers") -> FieldNote:
    """The note on a field that nothing took, with the option that takes it.

    Args:
        kind: ``"numbers"``, ``"pictures"``, ``"depth"`` or ``"text"``.
    """
    size = "" if shape is None else " " + "×".join("?" if length is None else str(length) for length in shape) if shape else ""
    option = {
        "numbers": f"--map observation.state={field} or action={field}",
        "pictures": f"--map images.NAME={field}",
        "depth": f"--map depth.NAME={field}",
        "text": f"--map instruction={field}",
    }[kind]
    return FieldNote(field, "left out", "", f"{kind}{size}; taken with {option}")
