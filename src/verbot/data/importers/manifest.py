"""A folder with ``manifest.json``: a list of entries, or ``{"episodes": [...]}`` or ``{"samples": [...]}``.

An entry has `image_path`, `instruction`, `action` or `action_sequence`, and optionally `robot_state` and the id of its episode
(`episode_id`, `episode` or `episode_index`). Entries with the same id form one episode in the listed order. An entry without an
id is an episode of its own.

`image_path` is relative to the folder: one image, a list of images (one per frame), a video, or `{camera: any of these}`.
If an entry has several actions but one image, the image is repeated for all of them; ``extras["observed_frames"]`` lists the
frames that were recorded. `robot_state` is one vector, repeated likewise, or one vector per frame.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.importers import Item, RawEpisode, known_robots, reading, sources, unique
from verbot.data.importers.images import decode_image, read_video, stack
from verbot.errors import CorruptFileError, DataError
from verbot.spec import UInt8Array

IDS = ("episode_id", "episode", "episode_index")
VIDEOS = (".mp4", ".mkv", ".avi", ".webm", ".mov")
CAMERA = "image"


@sources.register("manifest")
class Manifest:
    """A folder with ``manifest.json``.

    Args:
        state: whether to import robot states.
    """

    about = "a folder with manifest.json"
    recognition = ""

    def __init__(self, path: Path, robot: str | None = None, state: bool = True):
        self._file = path if path.is_file() else path / "manifest.json"
        self.robot = known_robots.known(robot or "generic")
        self.rate_hz = self.robot.rate_hz
        with reading(self._file, OSError, UnicodeDecodeError, json.JSONDecodeError):
            content = json.loads(self._file.read_text())
        self._groups = _grouped(_entries(content, self._file))
        entries = [entry for group in self._groups.values() for entry in group]
        self._with_state = state and any(entry.get("robot_state") is not None for entry in entries if isinstance(entry, dict))
        self.total: int | None = len(self._groups)

    @staticmethod
    def recognizes(path: Path) -> bool:
        return path.name == "manifest.json" or (path / "manifest.json").is_file()

    def items(self) -> Iterator[Item]:
        for key, entries in self._groups.items():
            yield Item(key, partial(self._read, entries))

    def _read(self, entries: Sequence[Any]) -> RawEpisode:
        steps = [_Step(self._file.parent, entry, number, self._with_state) for number, entry in enumerate(entries)]
        cameras = list(steps[0].cameras)
        odd = next((step for step in steps if list(step.cameras) != cameras), None)
        if odd is not None:
            raise DataError(f"entry {odd.number} has cameras {', '.join(odd.cameras)}; the first has {', '.join(cameras)}")
        state = {"robot_state": _joined([step.state for step in steps], "robot_state")} if self._with_state else {}
        starts = np.cumsum([0, *(len(step.actions) for step in steps)])
        repeated = any(step.repeated for step in steps)
        observed = [
            int(start) + i
            for start, step in zip(starts, steps, strict=False)
            for i in range(1 if step.repeated else len(step.actions))
        ]
        return RawEpisode(
            state=state,
            action={"action": _joined([step.actions for step in steps], "action")},
            cameras={name: partial(_frames, steps, name) for name in cameras},
            instructions=unique(sentence for step in steps for sentence in step.instructions),
            extras={"observed_frames": observed} if repeated else {},
        )


class _Step:
    """One entry: its numbers are checked, its images are not read yet."""

    def __init__(self, folder: Path, entry: Any, number: int, with_state: bool):
        self._folder, self.number = folder, number
        if not isinstance(entry, dict):
            raise DataError(
                f"entry {number} is {type(entry).__name__}; expected an object with image_path, instruction and action"
            )
        self.instructions = _sentences(entry, number)
        self.actions = self._actions(entry)
        self.state = self._state(entry) if with_state else None
        paths = entry.get("image_path")
        if paths is None:
            raise DataError(f"entry {number} has no image_path; it has {', '.join(entry)}")
        self.cameras: Mapping[str, Any] = paths if isinstance(paths, dict) else {CAMERA: paths}
        self.repeated = len(self.actions) > 1 and any(  # one image stands for several frames
            isinstance(path, str) and not path.lower().endswith(VIDEOS) for path in self.cameras.values()
        )

    def frames(self, camera: str) -> UInt8Array:
        paths, length = self.cameras[camera], len(self.actions)
        if isinstance(paths, str) and paths.lower().endswith(VIDEOS):
            frames = read_video(self._inside(paths))
        elif isinstance(paths, str):
            frames = np.repeat(self._picture(paths)[None], length, 0)
        elif isinstance(paths, list):
            frames = stack([self._picture(path) for path in paths], f"entry {self.number}")
        else:
            raise DataError(f"entry {self.number}: image_path is {type(paths).__name__}; expected a path, a list or an object")
        if len(frames) != length:
            raise DataError(f"entry {self.number} has {len(frames)} pictures of camera {camera!r} for {length} actions")
        return frames

    def _picture(self, path: Any) -> UInt8Array:
        place = self._inside(path)
        try:
            return decode_image(place.read_bytes(), place)
        except OSError as error:
            raise CorruptFileError(place, f"cannot be read ({error.strerror})") from error

    def _inside(self, path: Any) -> Path:
        place = self._folder / str(path)
        if not isinstance(path, str) or not place.resolve().is_relative_to(self._folder.resolve()):
            raise DataError(f"entry {self.number}: image_path {path!r} is not a path within the manifest's folder")
        return place

    def _actions(self, entry: Mapping[str, Any]) -> np.ndarray:
        for key, dimensions in (("action", 1), ("action_sequence", 2)):
            if entry.get(key) is not None:
                values = _numbers(entry[key], key, self.number)
                if key == "action" and values.ndim == 2:
                    return values
                if values.ndim != dimensions or not values.size:
                    raise DataError(f"entry {self.number}: {key} has shape {values.shape}; expected {dimensions} dimension(s)")
                return values.reshape(-1, values.shape[-1])
        raise DataError(f"entry {self.number} has neither action nor action_sequence; it has {', '.join(entry)}")

    def _state(self, entry: Mapping[str, Any]) -> np.ndarray:
        if entry.get("robot_state") is None:
            raise DataError(f"entry {self.number} has no robot_state while others have one (--set state=false leaves it out)")
        values, length = _numbers(entry["robot_state"], "robot_state", self.number), len(self.actions)
        if values.ndim == 1:
            return np.repeat(values[None], length, 0)
        if values.ndim != 2 or len(values) != length:
            raise DataError(f"entry {self.number}: robot_state has shape {values.shape} for {length} actions")
        return values


def _entries(content: Any, path: Path) -> list[Any]:
    found = content
    if isinstance(content, dict):
        found = next((content[key] for key in ("episodes", "samples") if key in content), None)
    if not isinstance(found, list):
        kind = f"an object with {', '.join(content)}" if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{path} holds {kind}; expected a list of entries, or one under 'episodes' or 'samples'")
    return found


def _grouped(entries: Sequence[Any]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for number, entry in enumerate(entries):
        identity = next((entry[key] for key in IDS if key in entry), None) if isinstance(entry, dict) else None
        groups.setdefault(f"entry {number}" if identity is None else f"episode {identity}", []).append(entry)
    return groups


def _sentences(entry: Mapping[str, Any], number: int) -> list[str]:
    instruction = entry.get("instruction", "")
    sentences = instruction if isinstance(instruction, list) else [instruction]
    if not all(isinstance(sentence, str) for sentence in sentences):
        raise DataError(f"entry {number}: instruction is {instruction!r}; expected a sentence, or a list of them")
    return sentences


def _numbers(values: Any, key: str, number: int) -> np.ndarray:
    try:
        return np.asarray(values, np.float64)
    except (ValueError, TypeError) as error:
        raise DataError(f"entry {number}: {key} is not a vector, nor a list of vectors of one length ({error})") from error


def _joined(rows: Sequence[np.ndarray | None], key: str) -> np.ndarray:
    arrays = [array for array in rows if array is not None]
    sizes = sorted({array.shape[1] for array in arrays})
    if len(sizes) > 1:
        raise DataError(f"{key} has {' and '.join(map(str, sizes))} numbers in one episode")
    return np.concatenate(arrays)


def _frames(steps: Sequence[_Step], camera: str) -> UInt8Array:
    clips = [step.frames(camera) for step in steps]
    return stack([frame for clip in clips for frame in clip], f"camera {camera!r}")
