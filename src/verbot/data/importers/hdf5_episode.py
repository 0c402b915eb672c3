"""Reads one episode of an HDF5 file: its fields, pictures, sentences and further columns, and what is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.importers import WIDEST, FieldNote, RawEpisode, pick, reading
from verbot.data.importers.fields import FieldOptions, channels_note
from verbot.data.importers.hdf5_file import (
    BROKEN,
    Entry,
    Hdf5Pictures,
    attribute,
    entries,
    opened,
    record_of,
    stored,
    texts,
    whole_number,
)
from verbot.data.importers.hdf5_notes import COLUMNS, left_out
from verbot.data.importers.hdf5_recognition import Hdf5Recognition
from verbot.data.importers.hdf5_sentences import EpisodeSentences, sentences_of
from verbot.data.importers.hdf5_time import nearest_rows
from verbot.data.importers.images import SCALED, FloatRanges
from verbot.data.importers.known_robots import KnownRobot
from verbot.errors import CorruptFileError, DataError

USUAL_STATES = (
    ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"),
    ("ee_states", "gripper_states", "joint_states"),
)


@dataclass(frozen=True)
class Hdf5Options(FieldOptions):
    """Fields and how they are read. Their names are paths in an episode, or in its group of observations.

    Args:
        timestamps: the times of the rows; a camera with timestamps of its own is then aligned to them.
        flip: whether to flip images vertically; None follows the file.
        bgr: exchange red and blue.
        floats: as for `verbot.data.importers.images.frames_of`.
    """

    timestamps: str = ""
    flip: bool | None = None
    bgr: bool = False
    floats: str = "auto"


@dataclass(frozen=True)
class Hdf5Place:
    """Where an episode lies.

    Args:
        group: its group in the file; empty for the whole file.
        observed, pictured: the groups of the observation's numbers and of its pictures, in `group`.
        actions: the usual names of its actions.
    """

    path: Path
    group: str = ""
    observed: str = ""
    pictured: str = ""
    actions: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.path}, {self.group}" if self.group else str(self.path)

    @property
    def key(self) -> str:
        return f"{self.path.name}, {self.group.rpartition('/')[2]}" if self.group else self.path.name

    def full(self, path: str) -> str:
        """The path in the file of a dataset of the episode."""
        return f"{self.group}/{path}" if self.group else path

    def inside(self, fields: Mapping[str, Entry], *folders: str) -> dict[str, str]:
        """The path of every field by the names that it has in one of `folders`; the first folder counts."""
        names: dict[str, str] = {}
        for folder in folders:
            start = f"{folder}/" if folder else ""
            for path in fields:
                if path.startswith(start):
                    names.setdefault(path.removeprefix(start), path)
        return names


def read_episode(
    place: Hdf5Place, robot: KnownRobot, found: Hdf5Recognition, options: Hdf5Options, ranges: FloatRanges
) -> RawEpisode:
    """One episode without its pictures, which are read when they are asked for. Raises `DataError` if it is broken."""
    with opened(place.path) as file, reading(place, *BROKEN):
        group = file[place.group] if place.group else file
        return _Reader(place, robot, found, options, ranges, (file, group)).read()


class _Reader:
    def __init__(
        self,
        place: Hdf5Place,
        robot: KnownRobot,
        found: Hdf5Recognition,
        options: Hdf5Options,
        ranges: FloatRanges,
        opened: tuple[Any, Any],
    ):
        self._place, self._robot, self._found, self._options, self._ranges = place, robot, found, options, ranges
        (file, group) = self._file, self._group = opened
        self._fields = entries(group)
        self._own = bool(attribute(file["data"].attrs, "verbot_spec")) if "data" in file else False

    def read(self) -> RawEpisode:
        actions = self._actions()
        action = self._numbers(actions)
        length = len(next(iter(action.values())))
        self._check_counts(length)
        states = self._states()
        columns, used, kept = self._columns(length)
        cameras, pictured, notes = self._cameras(length)
        words = self._sentences(length)
        taken = {*actions.values(), *states.values(), *used, *pictured, *words.used}
        record = {key: record_of(self._group.attrs, key, self._place) for key in ("verbot_calibration", "verbot_extras")}
        extras = {key: value for key, value in record["verbot_extras"].items() if key not in ("source", "instructions")}
        if "success" in self._group.attrs and not self._own:
            extras["success"] = bool(np.all(self._group.attrs["success"]))
            notes.append(FieldNote("attribute success", "success"))
        notes += [*kept, *self._found.notes, *words.notes]
        notes += left_out(self._group, self._fields, taken, self._place.observed, tuple(actions), tuple(states))
        if self._place.group:
            others = [name for name in self._file if name != self._place.group.partition("/")[0]]
            notes += [FieldNote(name, "left out", "", "it belongs to no single episode") for name in others]
        return RawEpisode(
            self._numbers(states),
            action,
            cameras,
            words.wordings,
            extras,
            calibration=record["verbot_calibration"],
            segments=words.segments,
            columns=columns,
            notes=tuple(notes),
        )

    def _names(self, *folders: str) -> dict[str, str]:
        return self._place.inside(self._fields, *folders)

    def _actions(self) -> dict[str, str]:
        known = self._names("", self._place.observed)
        numbers = {name: path for name, path in known.items() if self._fields[path].kind == "numbers"}
        wanted = self._options.names("action") or self._robot.action_fields or self._place.actions
        lacking = [name for name in wanted if name not in known]
        if lacking or (self._place.observed and not self._observed()):
            self._raise_incomplete(lacking)
        return {name: numbers[name] for name in pick(wanted, numbers, "action field", self._place)}

    def _observed(self) -> bool:
        return any(path.startswith(f"{self._place.observed}/") for path in self._fields) or self._place.observed in self._group

    def _raise_incomplete(self, lacking: list[str]) -> None:
        expected = self._options.names("action") or (
            *self._place.actions,
            *([self._place.observed] if self._place.observed else []),
        )
        text = f"{self._place} has {', '.join(self._group) or 'nothing'}; expected {' and '.join(expected)}"
        if "states" in self._fields and not self._observed():
            text += ". It holds the simulator's states: extract the observations first, with robomimic's dataset_states_to_obs.py"
        elif lacking and self._fields:
            text += f". Its datasets: {', '.join(map(str, list(self._fields.values())[:12]))}"
        raise DataError(text)

    def _states(self) -> dict[str, str]:
        known = self._names(self._place.observed, "")
        vectors = {name: path for name, path in known.items() if self._fields[path].kind == "numbers"}
        usual = {name: path for name, path in vectors.items() if path == f"{self._place.observed}/{name}" and "/" not in name}
        given = self._options.names("state")
        wanted = self._robot.state_fields if given is None else given
        if wanted or given is not None:
            shown = vectors if set(wanted) <= set(vectors) else usual or vectors
            return {name: vectors[name] for name in pick(wanted, shown, "state field", self._place)}
        for names in (("qpos",), *USUAL_STATES) if self._place.observed else ():
            if set(names) <= set(usual):
                return {name: usual[name] for name in names}
        if self._place.observed != "obs":
            return {}
        narrow = [name for name in sorted(usual) if self._fields[usual[name]].width <= WIDEST]
        return {name: usual[name] for name in narrow if name not in ("object", "actions", "timestamp", "timestamps")}

    def _numbers(self, paths: Mapping[str, str]) -> dict[str, np.ndarray]:
        values = {}
        for name, path in paths.items():
            values[name] = stored(self._group[path], f"{self._place}, {path}")
            if values[name].dtype.kind not in "biuf" or not values[name].ndim:
                raise DataError(f"{self._place}, {path} is {self._fields[path]}; expected numbers (t, …)")
        return values

    def _check_counts(self, length: int) -> None:
        """Raise `CorruptFileError` where counts in the file contradict the number of actions."""
        counted = whole_number(self._group.attrs, "num_samples", self._place)
        if counted is not None and counted != length:
            raise CorruptFileError(self._place, f"num_samples is {counted}, but it has {length} actions")
        lengths = self._fields.get("compress_len")
        if lengths is not None and not self._place.group:
            pictures = [entry for path, entry in self._fields.items() if path.startswith("observations/images/")]
            cameras = sum(entry.kind == "encoded" for entry in pictures)
            if lengths.shape != (cameras, length):
                expected = f"({cameras}, {length}): {cameras} compressed cameras, {length} actions"
                raise CorruptFileError(self._place, f"compress_len is {lengths.shape}; expected {expected}")

    def _columns(self, length: int) -> tuple[dict[str, np.ndarray], set[str], list[FieldNote]]:
        """Rewards, ends and simulator states; of a file of verbot those that its dataset had."""
        columns, used, notes = dict[str, np.ndarray](), set[str](), list[FieldNote]()
        given = self._recorded_columns() if self._own else COLUMNS
        for path, name in given.items():
            entry = self._fields.get(path)
            if entry is None or entry.kind not in (("numbers", "text") if self._own else ("numbers",)):
                continue
            if entry.length != length:
                raise DataError(f"{path} has {entry.length} values for {length} actions")
            if entry.kind == "text":
                values = np.array(texts(stored(self._group[path], f"{self._place}, {path}")), object)
            else:
                values = stored(self._group[path], f"{self._place}, {path}")
            if name in ("next.reward", "next.done"):
                if entry.width != 1:
                    continue
                values = values.reshape(length)
            with np.errstate(over="ignore"):
                columns[name] = values.astype(np.bool_ if name == "next.done" else values.dtype if self._own else np.float32)
            used.add(path)
            notes.append(FieldNote(path, f"column {name}"))
        if self._own:
            used |= {path for path in COLUMNS if path not in given}
            used |= {path for path in self._fields if path.startswith("next_obs/")}
        return columns, used, notes

    def _recorded_columns(self) -> dict[str, str]:
        record = record_of(self._group.attrs, "verbot_columns", self._place)
        return {path: name for path, name in record.items() if isinstance(name, str)}

    def _cameras(self, length: int) -> tuple[dict[str, Callable[[], Any]], set[str], list[FieldNote]]:
        flip = self._found.flip if self._options.flip is None else self._options.flip
        cameras: dict[str, Callable[[], Any]] = {}
        notes: list[FieldNote] = []
        used: set[str] = set()
        known = self._place.inside(self._fields, self._place.pictured, self._place.observed, "")
        colors = self._colors(known)
        depths = self._depths(known, set(colors))
        unit = self._options.meters_per_unit if self._options.chosen("depth") else 1.0  # verbot exports meters
        for camera, path in (*colors.items(), *depths.items()):
            rows, times = nearest_rows(self._place, self._group, self._fields, path, length, self._options.timestamps)
            deep, entry = camera in depths, self._fields[path]
            scaled = not deep and entry.dtype.startswith("float")
            floats, evidence = self._ranges.of(path) if scaled else (self._options.floats, "")
            pictures = Hdf5Pictures(self._place.path, self._place.full(path), bool(flip), self._options.bgr, floats, rows)
            cameras[camera] = partial(pictures.depth, unit) if deep else pictures.color
            changes = [SCALED[floats]] if scaled else []
            changes += [channels_note(entry.shape[1:])] if not deep and entry.kind in ("color", "gray") else []
            changes += ["rows flipped"] if flip else []
            changes += ["red and blue exchanged"] if self._options.bgr and not deep else []
            changes += [f"{self._options.depth_unit} to meters"] if deep and self._options.chosen("depth") else []
            changes += ["the picture nearest to each row's time"] if rows is not None else []
            reasons = ["depth in meters"] if deep else []
            reasons += ["macros_image_convention"] if flip and self._options.flip is None else []
            texts = ", ".join(filter(None, changes)), "; ".join(filter(None, (evidence, *reasons)))
            notes.append(FieldNote(path, f"camera {camera}", *texts))
            used |= {path, *times}
        return cameras, used, notes

    def _colors(self, known: Mapping[str, str]) -> dict[str, str]:
        """The path of the color pictures of each camera."""
        place, robot = self._place, self._robot
        able = {name: path for name, path in known.items() if self._fields[path].kind in ("color", "gray", "encoded")}
        start = f"{place.pictured}/"
        usual = {name: path for name, path in able.items() if place.pictured and path == start + name and "/" not in name}
        if place.pictured == place.observed:  # among numbers, (t, h, w) need not be gray pictures
            usual = {name: path for name, path in usual.items() if self._fields[path].kind != "gray"}
        wanted = self._options.chosen("images")
        if wanted is not None:
            pick(tuple(wanted.values()), able if set(wanted.values()) <= set(able) else usual or able, "pictures", place)
            return {camera: able[name] for camera, name in wanted.items()}
        fields = tuple(name for name in robot.camera_fields if name in usual) or tuple(usual)
        return {robot.cameras.get(name, name): usual[name] for name in fields}

    def _depths(self, known: Mapping[str, str], cameras: set[str]) -> dict[str, str]:
        """The path of the depth images of each camera: the named ones, or those that verbot exported."""
        wanted = self._options.chosen("depth")
        if wanted is None:
            if not self._own:
                return {}
            views = [name for name, view in self._robot.views.items() if view.kind == "depth"]
            return {name: known[f"{name}_depth"] for name in views if f"{name}_depth" in known}
        deep = {name: path for name, path in known.items() if self._fields[path].kind == "depth"}
        able = deep | {name: path for name, path in known.items() if name in wanted.values() and path not in deep.values()}
        lacking = [name for name in wanted.values() if name not in able]
        pick(tuple(lacking), deep, "depth", self._place)
        return {f"{camera}_depth" if camera in cameras else camera: able[name] for camera, name in wanted.items()}

    def _sentences(self, length: int) -> EpisodeSentences:
        attributes = self._file["data"].attrs if "data" in self._file else {}
        return sentences_of(self._place, self._group, attributes, self._fields, length, self._options.names("instruction"))
