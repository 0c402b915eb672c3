"""Zarr replay buffers of diffusion policy and UMI: a folder ``….zarr``, a ``….zarr.zip``, or a folder of them.

``data/`` has arrays with one row per frame of all episodes, ``meta/episode_ends`` the number of rows up to the end of each
episode. Only the rows of one episode are read at a time. The format records no rate, and instructions only in arrays that the
option `instruction` names. UMI's buffers have no actions: its policies predict the poses themselves, which the option `action`
then names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.importers import (
    WIDEST,
    FieldNote,
    Item,
    RawEpisode,
    failing,
    inside,
    known_robots,
    natural,
    pick,
    sources,
)
from verbot.data.importers.fields import GUESSED_FIELDS, FieldOptions, channels_note, segments_of_wordings
from verbot.data.importers.images import SCALED, FloatRanges, depth_of, frames_of
from verbot.data.importers.zarr_store import SMALLEST, StoredArray, ZarrStore
from verbot.data.storage.segments import InstructionSegment
from verbot.errors import ConfigError, CorruptFileError, DataError
from verbot.spec import FloatArray, Int64Array, UInt8Array

SUFFIXES = (".zarr", ".zarr.zip")
ENDS = "meta/episode_ends"
UMI_POSES = ("eef_pos", "eef_rot_axis_angle", "gripper_width")
CONSTANT = ("demo_start_pose", "demo_end_pose")  # of UMI: the same row in every frame


@sources.register("zarr", needs=("zarr",))
class Zarr:
    """Zarr replay buffers.

    Args:
        fields: arrays of ``data/``. Sentences are text, or UTF-8 padded with zeros: one for each row, or in ``meta/`` for each
            episode.
        bgr: exchange red and blue.
        floats: as for `verbot.data.importers.images.frames_of`.
        absent: ``"error"`` for pieces of arrays that are absent, or ``"fill"`` to take the array's fill value for them, where
            zarr left pieces out that hold nothing else.
    """

    about = "zarr replay buffers of diffusion policy and UMI (.zarr, .zarr.zip)"
    recognition = ""

    def __init__(
        self,
        path: Path,
        robot: str | None = None,
        fields: FieldOptions = GUESSED_FIELDS,
        bgr: bool = False,
        floats: str = "auto",
        absent: str = "error",
    ):
        if absent not in ("error", "fill"):
            raise ConfigError(f"absent is {absent!r}; expected error or fill")
        self._absent = absent
        self._paths = _stores(path)
        if not self._paths:
            raise DataError(f"{path} has no zarr store: a folder that ends with .zarr, or a .zarr.zip")
        self._fields, self._bgr, self._floats = fields, bgr, floats
        self._ranges = FloatRanges(floats, self._float_readers)
        self.robot = known_robots.known(robot or "generic")
        self.rate_hz = self.robot.rate_hz
        self.total: int | None = None
        if len(self._paths) == 1:
            self._plan(self._paths[0])

    @staticmethod
    def recognizes(path: Path) -> bool:
        return bool(_stores(path))

    def items(self) -> Iterator[Item]:
        for path in self._paths:
            try:
                plan = self._plan(path)
            except DataError as error:
                yield Item(path.name, failing(error))
                continue
            latest = 0
            for number, (start, end) in enumerate(zip([0, *plan.ends[:-1].tolist()], plan.ends.tolist(), strict=True)):
                key = f"{path.name}, episode {number}"
                if not latest <= start < end:
                    text = f"{ENDS} has {end} after {start}; expected ends that rise"
                    yield Item(key, failing(CorruptFileError(path, f"episode {number}: {text}")))
                else:
                    yield Item(key, partial(self._read, plan, number, start, end))
                latest = max(latest, end)
            used = (*plan.action, *plan.state, *plan.cameras.values(), *plan.depth.values())
            rows, name = max((plan.store.arrays[f"data/{name}"].shape[0], name) for name in used)
            if rows > latest:
                text = f"rows {latest} to {rows} of data/{name} belong to no episode of {ENDS}; episodes may be missing"
                yield Item(path.name, failing(CorruptFileError(path, text)))

    def _read(self, plan: _Plan, number: int, start: int, end: int) -> RawEpisode:
        def rows(name: str) -> np.ndarray:
            return self._stored(plan, f"data/{name}", start, end)

        cameras: dict[str, Callable[[], UInt8Array | FloatArray]] = {
            camera: partial(self._frames, plan, name, start, end) for camera, name in plan.cameras.items()
        }
        cameras |= {camera: partial(self._depth, plan, name, start, end) for camera, name in plan.depth.items()}
        state, action = ({name: rows(name) for name in names} for names in (plan.state, plan.action))
        segments = self._segments(plan, number, start, end)
        wordings = tuple(filter(None, segments[0].wordings)) if segments else None
        changing = segments if len(segments) > 1 else ()
        notes = (*(self._picture_note(plan, camera, name) for camera, name in plan.cameras.items()), *plan.notes)
        return RawEpisode(state, action, cameras, wordings, segments=changing, notes=notes)

    def _picture_note(self, plan: _Plan, camera: str, name: str) -> FieldNote:
        array = plan.store.arrays[f"data/{name}"]
        floats, evidence = self._ranges.of(name) if array.letter == "f" else ("", "")
        conversion = ", ".join(filter(None, (SCALED.get(floats, ""), channels_note(array.shape[1:]))))
        return FieldNote(f"data/{name}", f"camera {camera}", conversion, evidence)

    def _float_readers(self, name: str) -> Iterator[Callable[[], np.ndarray]]:
        for path in self._paths:
            try:
                plan = self._plan(path)
            except DataError:
                continue  # named when its episodes are imported
            for start, end in zip([0, *plan.ends[:-1].tolist()], plan.ends.tolist(), strict=True):
                if f"data/{name}" in plan.store.arrays and start < end:
                    yield partial(self._stored, plan, f"data/{name}", start, end)

    def _segments(self, plan: _Plan, number: int, start: int, end: int) -> tuple[InstructionSegment, ...]:
        frames: list[tuple[str, ...]] = [()] * (end - start)
        for name in plan.instruction:
            of_rows = name.startswith("data/")
            first, last = (start, end) if of_rows else (number, number + 1)
            texts = _texts(self._stored(plan, name, first, last), f"{plan.store.path}, {name}")
            found = texts if of_rows else texts * (end - start)
            frames = [(*before, text) for before, text in zip(frames, found, strict=True)]
        return segments_of_wordings(frames) if plan.instruction else ()

    def _depth(self, plan: _Plan, name: str, start: int, end: int) -> FloatArray:
        values = self._stored(plan, f"data/{name}", start, end)
        return depth_of(values, f"{plan.store.path}, data/{name}", self._fields.meters_per_unit)

    def _stored(self, plan: _Plan, name: str, start: int, end: int) -> np.ndarray:
        return plan.store.rows(name, start, end, fill=self._absent == "fill")

    def _frames(self, plan: _Plan, name: str, start: int, end: int) -> UInt8Array:
        floats = self._ranges.of(name)[0] if plan.store.arrays[f"data/{name}"].letter == "f" else self._floats
        frames = frames_of(self._stored(plan, f"data/{name}", start, end), f"{plan.store.path}, data/{name}", floats)
        return frames[..., ::-1] if self._bgr else frames

    def _plan(self, path: Path) -> _Plan:
        """Which arrays of a store are what. Raises `DataError` if it is no replay buffer, or if a named array is absent."""
        store = ZarrStore(path)
        arrays = store.arrays
        data = {name.removeprefix("data/"): array for name, array in arrays.items() if name.startswith("data/")}
        lacking = [] if data else ["no array in data"]
        lacking += [] if ENDS in arrays else [f"no array {ENDS}"]
        if lacking:
            listing = ", ".join(f"{name} {array}" for name, array in arrays.items()) or "no array at all"
            expected = f"a replay buffer has data/action (n, a) and {ENDS} (episodes,)"
            raise DataError(f"{path} has {' and '.join(lacking)}: it has {listing}; {expected}. Is the copy complete?")
        action = self._actions(path, data)
        depth = self._depths(path, data)
        cameras = self._cameras(path, data, depth)
        state = self._states(path, data, action)
        instruction = self._sentences(path, arrays)
        ends = _ends(store)
        taken = {*action, *state, *cameras.values(), *depth.values(), *(name.removeprefix("data/") for name in instruction)}
        changed = f"times {self._fields.meters_per_unit:g}"
        notes = [FieldNote(f"data/{name}", f"camera {camera}", changed, "depth in meters") for camera, name in depth.items()]
        notes += [FieldNote(name, "instruction") for name in instruction]
        notes += [_note(name, array, state) for name, array in data.items() if name not in taken]
        notes += [
            FieldNote(name, "left out", "", "the format gives it no meaning")
            for name in arrays
            if not name.startswith("data/") and name not in (ENDS, *instruction)
        ]
        return _Plan(store, action, state, cameras, depth, instruction, ends, tuple(notes))

    def _actions(self, path: Path, data: Mapping[str, StoredArray]) -> tuple[str, ...]:
        numbers = {name: array for name, array in data.items() if array.kind == "numbers"}
        wanted = self._fields.names("action")
        if wanted or "action" in numbers:
            return tuple(pick(wanted or ("action",), numbers, "numbers", f"{path}, data"))
        listing = ", ".join(f"{name} {array}" for name, array in data.items())
        poses = [name for name in sorted(numbers, key=natural) if name.endswith(UMI_POSES)]
        poses.sort(key=lambda name: (name.partition("_")[0], [name.endswith(suffix) for suffix in UMI_POSES].index(True)))
        text = f"{path} has no data/action; it has {listing}"
        if poses:
            text += f". UMI's policies predict the poses themselves: to do so, add --set action={','.join(poses)}"
        else:
            text += ". Name the actions with --set action=ARRAY"
        raise DataError(text)

    def _states(self, path: Path, data: Mapping[str, StoredArray], action: tuple[str, ...]) -> tuple[str, ...]:
        numbers = {name: array for name, array in data.items() if array.kind == "numbers"}
        wanted = self._fields.names("state")
        if wanted is not None:
            return tuple(pick(wanted, numbers, "numbers", f"{path}, data"))
        if "state" in numbers:
            return ("state",)
        poses = [name for name in numbers if name.startswith("robot") and not name.endswith(CONSTANT)]
        return tuple(name for name in sorted(poses, key=natural) if numbers[name].width <= WIDEST and name != "action")

    def _cameras(self, path: Path, data: Mapping[str, StoredArray], depth: Mapping[str, str]) -> dict[str, str]:
        known = {name: array for name, array in data.items() if array.kind == "pictures" and "depth" not in name}
        wanted = self._fields.chosen("images")
        if wanted is None:
            wanted = {name: name for name in known if name not in depth.values()}
        pick(tuple(wanted.values()), known, "pictures", f"{path}, data")
        twice = sorted(set(wanted) & set(depth))
        if twice:
            raise ConfigError(f"the camera {twice[0]} has both color and depth; give the depth another name: depth.NAME=ARRAY")
        return wanted

    def _depths(self, path: Path, data: Mapping[str, StoredArray]) -> dict[str, str]:
        wanted = self._fields.chosen("depth") or {}
        pick(tuple(wanted.values()), {name: array for name, array in data.items() if _is_plane(array)}, "depth", f"{path}, data")
        return wanted

    def _sentences(self, path: Path, arrays: Mapping[str, StoredArray]) -> tuple[str, ...]:
        wanted = self._fields.names("instruction") or ()
        texts = {name: array for name, array in arrays.items() if _is_text(array) and name.startswith(("data/", "meta/"))}
        full = tuple(next((stem + name for stem in ("data/", "meta/") if stem + name in texts), name) for name in wanted)
        return tuple(pick(full, texts, "sentences", path))


@dataclass(frozen=True)
class _Plan:
    store: ZarrStore
    action: tuple[str, ...]
    state: tuple[str, ...]
    cameras: Mapping[str, str]
    depth: Mapping[str, str]
    instruction: tuple[str, ...]  # with data/ or meta/
    ends: Int64Array
    notes: tuple[FieldNote, ...]


def _stores(path: Path) -> list[Path]:
    """The stores at `path`, in natural order."""
    if path.is_file():
        return [path] if path.name.endswith(".zarr.zip") else []
    if path.name.endswith(".zarr") or any((path / name).is_file() for name in (".zgroup", "zarr.json")):
        return [path]
    found = [entry for entry in path.glob("*") if entry.name.endswith(SUFFIXES[1] if entry.is_file() else SUFFIXES[0])]
    return sorted((entry for entry in found if inside(path, entry)), key=lambda entry: natural(entry.name))


def _ends(store: ZarrStore) -> Int64Array:
    array = store.arrays[ENDS]
    ends = store.rows(ENDS, 0, array.shape[0] if array.shape else 0)
    if ends.ndim != 1 or ends.dtype.kind not in "iu" or not len(ends):
        raise CorruptFileError(f"{store.path}, {ENDS}", f"is {array}; expected one whole number per episode")
    return ends.astype(np.int64)


def _is_plane(array: StoredArray) -> bool:
    """Whether it may be depth: (n, h, w) or (n, h, w, 1)."""
    plane = array.shape[1:3] if len(array.shape) == 3 or (len(array.shape) == 4 and array.shape[-1] == 1) else ()
    return array.letter in "biuf" and min(plane, default=0) >= SMALLEST


def _is_text(array: StoredArray) -> bool:
    """Whether it may be text, which records and types that numpy does not have may be too, or UTF-8 (n, bytes)."""
    return (array.letter in "OSUT" and len(array.shape) == 1) or (array.dtype == "uint8" and len(array.shape) == 2)


def _texts(values: np.ndarray, place: str) -> list[str]:
    rows: list[Any] = [row.tobytes().rstrip(b"\0") for row in values] if values.ndim == 2 else values.tolist()
    if not all(isinstance(row, str | bytes) for row in rows):
        raise DataError(f"{place} is {values.dtype}; expected text")
    return [row.decode(errors="replace") if isinstance(row, bytes) else row for row in rows]


def _note(name: str, array: StoredArray, state: tuple[str, ...]) -> FieldNote:
    reason = f"{array}, neither numbers nor pictures"
    if _is_plane(array) and "depth" in name:
        reason = f"depth, whose unit the format does not state; take it with --set depth.CAMERA={name} depth_unit=mm (or cm, m)"
    elif _is_text(array) and array.kind == "other":
        reason = f"text; take it with --set instruction={name}"
    elif array.kind == "pictures":
        reason = f"not among the chosen cameras; take it with --set images.CAMERA={name}"
    elif name.endswith(CONSTANT):
        reason = "UMI's pose of the whole episode, the same in every frame"
    elif array.kind == "numbers":
        reason = f"not a usual field; take it with --set state={','.join((*state, name))}"
    return FieldNote(f"data/{name}", "left out", "", reason)
