"""HDF5 datasets of ALOHA (one file per episode), robomimic and LIBERO (``data/demo_0``, …): one file or a folder of them.

ALOHA has ``observations/qpos``, ``action`` and ``observations/images/<camera>``. Images are pixels, or JPEG padded with zeros;
decoders ignore the padding, so ``compress_len`` is not needed. JPEG is read as RGB, as in openpi's converter. Recorders that
passed RGB to OpenCV as BGR exchanged red and blue (option `bgr`). If the file has no instruction, give one with
``--instruction``.

robomimic has ``data/demo_k/actions`` and ``obs/<name>``; ``env_args`` holds the control rate and the controller. LIBERO is the
same with the instruction in ``data.attrs["problem_info"]``. Images of LIBERO are upside down: it stores robosuite's frames in
OpenGL's row order (``macros_image_convention``), whereas robomimic flips them before it stores them. This importer flips the
rows only. Users report that a vertical flip agrees with the camera's pose; the half turn that some converters apply mirrors
the scene.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.importers import (
    WIDEST,
    Item,
    RawEpisode,
    failing,
    files_of,
    known_robots,
    listed,
    natural,
    pick,
    reading,
    sources,
    unique,
)
from verbot.data.importers.images import decode_all, frames_of
from verbot.data.importers.known_robots import KnownRobot
from verbot.errors import DataError
from verbot.spec import RobotSpec, UInt8Array

SUFFIXES = (".hdf5", ".h5")
BROKEN = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    MemoryError,
)  # errors that h5py raises for damaged files
SENTENCES = ("language_instruction", "instruction", "language_raw", "language", "task")


@sources.register("hdf5", needs=("h5py",))
class Hdf5:
    """HDF5 files of ALOHA, robomimic or LIBERO.

    Args:
        state, images: fields of the observation, separated by commas.
        flip: whether to flip images vertically; None follows the file.
        bgr: exchange red and blue.
        floats: as for `verbot.data.importers.images.frames_of`.
    """

    about = ".hdf5 files of ALOHA, robomimic or LIBERO"
    recognition = ""

    def __init__(
        self,
        path: Path,
        robot: str | None = None,
        state: Any = (),
        images: Any = (),
        flip: bool | None = None,
        bgr: bool = False,
        floats: str = "auto",
    ):
        self._paths = files_of(path, *SUFFIXES)
        if not self._paths:
            raise DataError(f"{path} has no file that ends with {' or '.join(SUFFIXES)}")
        self._state, self._images = listed(state), listed(images)
        self._flip, self._bgr, self._floats = flip, bgr, floats
        self.robot, recorded_hz = self._recognized()
        self.robot = known_robots.known(robot) if robot else self.robot
        self.rate_hz = recorded_hz or self.robot.rate_hz
        self.total: int | None = None

    @staticmethod
    def recognizes(path: Path) -> bool:
        return bool(files_of(path, *SUFFIXES))

    def items(self) -> Iterator[Item]:
        for path in self._paths:
            try:
                with _opened(path) as file, reading(path, *BROKEN):
                    demos = sorted(file["data"], key=natural) if "data" in file else None
                    if demos is None and not ("action" in file and "observations" in file):
                        raise DataError(f"{path} has {', '.join(file) or 'nothing'}; expected data, or action and observations")
            except DataError as error:
                yield Item(path.name, failing(error))
                continue
            for demo in demos or ():
                yield Item(f"{path.name}, {demo}", partial(self._demo, path, demo))
            if demos is None:
                yield Item(path.name, partial(self._aloha, path))

    def _aloha(self, path: Path) -> RawEpisode:
        with _opened(path) as file, reading(path, *BROKEN):
            observed = file["observations"]
            fields = [name for name in observed if name != "images"]
            usual = self.robot.state_fields or tuple(name for name in ("qpos",) if name in fields)
            chosen = pick(self._state or usual, dict.fromkeys(fields), "state field", path)
            state = {name: observed[name][()] for name in chosen}
            action, sentences = file["action"][()], _sentences(file.attrs, file)
            names = sorted(observed["images"]) if "images" in observed else []
        wanted = pick(
            self._images or tuple(name for name in names if "depth" not in name), dict.fromkeys(names), "pictures", path
        )
        cameras = {name: partial(self._frames, path, f"observations/images/{name}", bool(self._flip)) for name in wanted}
        return RawEpisode(state, {"action": action}, cameras, sentences)

    def _demo(self, path: Path, demo: str) -> RawEpisode:
        place = f"{path}, data/{demo}"
        with _opened(path) as file, reading(place, *BROKEN):
            data, group = file["data"], file["data"][demo]
            if "actions" not in group or "obs" not in group:
                raise DataError(f"{place} has {', '.join(group)}; expected actions and obs")
            shapes = {name: (entry.shape, entry.dtype) for name, entry in group["obs"].items() if hasattr(entry, "shape")}
            pictures = [name for name, (shape, dtype) in shapes.items() if len(shape) == 4 and "depth" not in name]
            chosen = self._vectors(shapes, pictures, place)
            state = {name: group["obs"][name][()] for name in chosen}
            actions, sentences = group["actions"][()], _sentences(group.attrs, group)
            sentences = sentences or _sentences(data.attrs, {})
            problem, flip = _attribute(data.attrs, "problem_info"), self._flip
            if problem:
                sentences = sentences or unique([json.loads(problem).get("language_instruction", "")])
                flip = _attribute(data.attrs, "macros_image_convention") in ("", "opengl") if flip is None else flip
            kept = {key: json.loads(_attribute(group.attrs, key) or "{}") for key in ("verbot_calibration", "verbot_extras")}
        known = tuple(name for name in self.robot.camera_fields if name in pictures)
        cameras: dict[str, Callable[[], UInt8Array]] = {}
        for name in pick(self._images or known or tuple(pictures), dict.fromkeys(pictures), "pictures", place):
            camera = self.robot.cameras.get(name, name)
            cameras[camera] = partial(self._frames, path, f"data/{demo}/obs/{name}", bool(flip))
        extras = {key: value for key, value in kept["verbot_extras"].items() if key not in ("source", "instructions")}
        return RawEpisode(state, {"actions": actions}, cameras, sentences, extras, calibration=kept["verbot_calibration"])

    def _vectors(self, shapes: Mapping[str, Any], pictures: list[str], place: str) -> list[str]:
        vectors = [name for name, (shape, dtype) in shapes.items() if len(shape) <= 2 and dtype.kind in "fiu" and shape]
        if self._state or self.robot.state_fields:
            return pick(self._state or self.robot.state_fields, dict.fromkeys(vectors), "state field", place)
        for usual in (
            ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"),
            ("ee_states", "gripper_states", "joint_states"),
        ):
            if set(usual) <= set(vectors):
                return list(usual)
        return [name for name in sorted(vectors) if name != "object" and int(np.prod(shapes[name][0][1:])) <= WIDEST]

    def _frames(self, path: Path, name: str, flip: bool) -> UInt8Array:
        place = f"{path}, {name}"
        with _opened(path) as file, reading(place, *BROKEN):
            stored = file[name]
            encoded = stored.dtype.kind == "O" or (stored.ndim == 2 and stored.dtype == np.uint8)
            values = None if encoded else stored[()]
            contents = [np.asarray(row, np.uint8).tobytes() for row in stored] if encoded else []
        frames = decode_all(contents, place) if values is None else frames_of(values, place, self._floats)
        frames = frames[:, ::-1] if flip else frames
        return frames[..., ::-1] if self._bgr else frames

    def _recognized(self) -> tuple[KnownRobot, float | None]:
        """The robot, and the rate if recorded, according to the first readable file."""
        for path in self._paths:
            try:
                with _opened(path) as file, reading(path, *BROKEN):
                    return _robot(file)
            except DataError:
                continue
        return known_robots.known("generic"), None


def _opened(path: Path) -> Any:
    import h5py

    with reading(path, OSError):
        return h5py.File(path, "r")


def _robot(file: Any) -> tuple[KnownRobot, float | None]:
    if "data" not in file:
        wide = {file["action"].shape[-1], file["observations"]["qpos"].shape[-1]} == {14}
        return known_robots.known("aloha" if wide else "generic"), None
    attributes = file["data"].attrs
    spec = _attribute(attributes, "verbot_spec")
    if spec:
        given = RobotSpec.from_json(json.loads(spec))
        return known_robots.robot_of_spec(given), given.rate_hz
    name = "libero" if _attribute(attributes, "problem_info") else "robomimic"
    arguments = json.loads(_attribute(attributes, "env_args") or "{}").get("env_kwargs", {})
    recorded_hz, controller = arguments.get("control_freq"), arguments.get("controller_configs", {})
    controller = controller.get("body_parts", {}).get("right", controller)
    reach = controller.get("output_max", [0.05] * 3 + [0.5] * 3)
    deltas = controller.get("control_delta", True) and controller.get("input_type", "delta") == "delta"
    deltas = deltas and controller.get("type", "OSC_POSE") == "OSC_POSE" and isinstance(reach, list) and len(reach) == 6
    first = next(iter(sorted(file["data"], key=natural)), None)
    if first is None or file["data"][first]["actions"].shape[-1] != 7 or not deltas:
        return known_robots.known("generic"), recorded_hz
    return known_robots.robosuite(name, 20.0, reach[0], reach[3]), recorded_hz


def _attribute(attributes: Any, name: str) -> str:
    value = attributes.get(name, "")
    return value.decode() if isinstance(value, bytes) else str(value)


def _sentences(attributes: Any, group: Any) -> tuple[str, ...] | None:
    """The instructions in the attributes or text datasets of a group; None if it has no such field."""
    sentences: list[str] = []
    for name in SENTENCES:
        value = attributes.get(name)
        if value is None and name in group and hasattr(group[name], "shape") and group[name].dtype.kind in "OS":
            value = group[name][()]
        for text in np.atleast_1d(value).tolist() if value is not None else ():
            sentences.append(text.decode(errors="replace") if isinstance(text, bytes) else str(text))
    return unique(sentences) if sentences else None
