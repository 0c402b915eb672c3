"""Zarr replay buffers of diffusion policy and UMI: a folder ``….zarr``, a ``….zarr.zip``, or a folder of them.

``data/`` has arrays with one row per frame of all episodes, ``meta/episode_ends`` the number of rows up to the end of each
episode. Only the rows of one episode are read at a time. The format records neither a rate nor instructions. UMI's buffers have
no actions: its policies predict the poses themselves, which the option `action` then names.
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
    known_robots,
    listed,
    natural,
    pick,
    sources,
)
from verbot.data.importers.images import frames_of
from verbot.data.importers.zarr_store import StoredArray, ZarrStore
from verbot.errors import ConfigError, CorruptFileError, DataError
from verbot.spec import Int64Array, UInt8Array

SUFFIXES = (".zarr", ".zarr.zip")
ENDS = "meta/episode_ends"
UMI_POSES = ("eef_pos", "eef_rot_axis_angle", "gripper_width")
CONSTANT = ("demo_start_pose", "demo_end_pose")  # of UMI: the same row in every frame


@sources.register("zarr", needs=("zarr",))
class Zarr:
    """Zarr replay buffers.

    Args:
        state, action: arrays of ``data/``, separated by commas.
        images: cameras by name, separated by commas, or ``images.CAMERA=array`` for each.
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
        state: Any = (),
        action: Any = (),
        images: Any = (),
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
        self._state, self._action, self._images = listed(state), listed(action), images
        self._bgr, self._floats = bgr, floats
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
                    yield Item(key, partial(self._read, plan, start, end))
                latest = max(latest, end)
            used = (*plan.action, *plan.state, *plan.cameras.values())
            rows, name = max((plan.store.arrays[f"data/{name}"].shape[0], name) for name in used)
            if rows > latest:
                text = f"rows {latest} to {rows} of data/{name} belong to no episode of {ENDS}; episodes may be missing"
                yield Item(path.name, failing(CorruptFileError(path, text)))

    def _read(self, plan: _Plan, start: int, end: int) -> RawEpisode:
        def rows(name: str) -> np.ndarray:
            return self._stored(plan, f"data/{name}", start, end)

        cameras: dict[str, Callable[[], UInt8Array]] = {
            camera: partial(self._frames, plan, name, start, end) for camera, name in plan.cameras.items()
        }
        state, action = ({name: rows(name) for name in names} for names in (plan.state, plan.action))
        return RawEpisode(state, action, cameras, None, notes=plan.notes)

    def _stored(self, plan: _Plan, name: str, start: int, end: int) -> np.ndarray:
        return plan.store.rows(name, start, end, fill=self._absent == "fill")

    def _frames(self, plan: _Plan, name: str, start: int, end: int) -> UInt8Array:
        frames = frames_of(self._stored(plan, f"data/{name}", start, end), f"{plan.store.path}, data/{name}", self._floats)
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
        cameras = self._cameras(path, data)
        state = self._states(path, data, action)
        ends = _ends(store)
        taken = {*action, *state, *cameras.values()}
        notes = [FieldNote(f"data/{name}", f"camera {camera}", _scaling(data[name])) for camera, name in cameras.items()]
        notes += [_note(name, array, state) for name, array in data.items() if name not in taken]
        notes += [
            FieldNote(name, "left out", "", "the format gives it no meaning")
            for name in arrays
            if not name.startswith("data/") and name != ENDS
        ]
        return _Plan(store, action, state, cameras, ends, tuple(notes))

    def _actions(self, path: Path, data: Mapping[str, StoredArray]) -> tuple[str, ...]:
        numbers = {name: array for name, array in data.items() if array.kind == "numbers"}
        if self._action or "action" in numbers:
            return tuple(pick(self._action or ("action",), numbers, "numbers", f"{path}, data"))
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
        if self._state:
            return tuple(pick(self._state, numbers, "numbers", f"{path}, data"))
        if "state" in numbers:
            return ("state",)
        poses = [name for name in numbers if name.startswith("robot") and not name.endswith(CONSTANT)]
        return tuple(name for name in sorted(poses, key=natural) if numbers[name].width <= WIDEST and name != "action")

    def _cameras(self, path: Path, data: Mapping[str, StoredArray]) -> dict[str, str]:
        known = {name: array for name, array in data.items() if array.kind == "pictures" and "depth" not in name}
        if isinstance(self._images, Mapping):
            wanted = {str(camera): str(name) for camera, name in self._images.items()}
        else:
            words = [(word.partition("=")[0], word.partition("=")[2]) for word in listed(self._images)]
            wanted = {name: array or name for name, array in words} or {name: name for name in known}
        pick(tuple(wanted.values()), known, "pictures", f"{path}, data")
        return wanted


@dataclass(frozen=True)
class _Plan:
    store: ZarrStore
    action: tuple[str, ...]
    state: tuple[str, ...]
    cameras: Mapping[str, str]
    ends: Int64Array
    notes: tuple[FieldNote, ...]


def _stores(path: Path) -> list[Path]:
    """The stores at `path`, in natural order."""
    if path.is_file():
        return [path] if path.name.endswith(".zarr.zip") else []
    if path.name.endswith(".zarr") or any((path / name).is_file() for name in (".zgroup", "zarr.json")):
        return [path]
    found = [entry for entry in path.glob("*") if entry.name.endswith(SUFFIXES[1] if entry.is_file() else SUFFIXES[0])]
    return sorted(found, key=lambda entry: natural(entry.name))


def _ends(store: ZarrStore) -> Int64Array:
    array = store.arrays[ENDS]
    ends = store.rows(ENDS, 0, array.shape[0] if array.shape else 0)
    if ends.ndim != 1 or ends.dtype.kind not in "iu" or not len(ends):
        raise CorruptFileError(f"{store.path}, {ENDS}", f"is {array}; expected one whole number per episode")
    return ends.astype(np.int64)


def _scaling(array: StoredArray) -> str:
    return "floats to uint8 by the range of each episode" if array.letter == "f" else ""


def _note(name: str, array: StoredArray, state: tuple[str, ...]) -> FieldNote:
    reason = f"{array}, neither numbers nor pictures"
    if array.kind == "pictures":
        reason = "depth" if "depth" in name else f"not among the chosen cameras; take it with --set images.CAMERA={name}"
    elif name.endswith(CONSTANT):
        reason = "UMI's pose of the whole episode, the same in every frame"
    elif array.kind == "numbers":
        reason = f"not a usual field; take it with --set state={','.join((*state, name))}"
    return FieldNote(f"data/{name}", "left out", "", reason)
