"""Which robot an HDF5 file is of, and its rate: only what the file gives evidence for. Without evidence the numbers are kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from verbot.data.importers import FieldNote, known_robots, natural, reading
from verbot.data.importers.hdf5_file import Entry, attribute, record_of, stored
from verbot.data.importers.known_robots import KnownComponent, KnownRobot
from verbot.spec import RobotSpec
from verbot.spec.checks import with_clean_names

RATES = ("fps", "rate_hz", "control_freq")  # attributes that state the recording rate
ROBOSUITE = 1  # the type of an environment in env_args


@dataclass(frozen=True)
class Hdf5Recognition:
    """What a file says of its robot.

    Args:
        rate_hz: the recorded rate; None if the file gives none.
        evidence: why it is this robot; empty for a generic one.
        flip: whether the file says that its pictures are upside down; None if it says nothing about it.
        notes: what was not recognized, and how to force it.
    """

    robot: KnownRobot
    rate_hz: float | None = None
    evidence: str = ""
    flip: bool | None = None
    notes: tuple[FieldNote, ...] = ()


GENERIC = Hdf5Recognition(known_robots.known("generic"))


def of_aloha(file: Any, fields: Mapping[str, Entry]) -> Hdf5Recognition:
    """ALOHA by the names and the sizes of its fields; 50 Hz is its rate unless timestamps contradict."""
    rate, measured = recorded_rate(file.attrs), measured_rate(file, fields)
    pictured = [path for path in fields if path.startswith("observations/images/") and fields[path].kind != "depth"]
    cameras = [path.rpartition("/")[2] for path in pictured]
    sizes = {fields[name].shape[1:] for name in ("action", "observations/qpos") if name in fields}
    if sizes != {(14,)} or not any(name.startswith("cam_") for name in cameras):
        return dataclasses.replace(GENERIC, rate_hz=rate)
    robot = known_robots.known("aloha")
    evidence = f"qpos and action of 14 numbers and the cameras {', '.join(cameras)}: ALOHA"
    if rate is None and measured is not None and abs(measured / (robot.rate_hz or 1) - 1) > 0.05:
        robot = dataclasses.replace(robot, rate_hz=None)
        return Hdf5Recognition(robot, None, f"{evidence}; its timestamps say {measured:.4g} Hz, not ALOHA's 50")
    return Hdf5Recognition(robot, rate, f"{evidence}, {rate or robot.rate_hz:g} Hz")


def of_demonstrations(data: Any, fields: Mapping[str, Entry], place: object) -> Hdf5Recognition:
    """The robot of ``data/demo_k`` by the attributes of `data`; `fields` are those of the first demonstration."""
    if attribute(data.attrs, "verbot_spec"):
        return _of_spec(data.attrs, place)
    arguments = record_of(data.attrs, "env_args", place)
    convention = attribute(data.attrs, "macros_image_convention")
    flip = {"opengl": True, "opencv": False}.get(convention)
    if _is_isaac_lab(arguments, fields):
        return _of_isaac_lab(arguments, fields)
    name = "libero" if attribute(data.attrs, "problem_info") else "robomimic"
    options = arguments.get("env_kwargs")
    options = options if isinstance(options, dict) else {}
    rate = _positive(options.get("control_freq")) or recorded_rate(data.attrs)
    notes = _of_pictures(fields, flip, name)
    actions = fields.get("actions")
    try:
        reach = _reach(arguments.get("type"), options)
        if actions is None or actions.shape[1:] != (7,):
            raise _NoEvidence("its actions are not 7 numbers")
    except _NoEvidence as reason:
        force = f"--robot {name} reads the actions as changes of pose by 0.05 m and 0.5 rad, a gripper that −1 opens"
        note = FieldNote("env_args", "left out", "", f"{reason}: numbers are kept. {force}, quaternions as x, y, z, w")
        return Hdf5Recognition(GENERIC.robot, rate, "", flip, (note, *notes))
    robot = dataclasses.replace(known_robots.robosuite(name, 20.0, *reach), rate_hz=None)
    evidence = f"env_args: OSC_POSE with changes of pose up to {reach[0]:g} m and {reach[1]:g} rad"
    evidence += f", control_freq {rate:g}" if rate else ", no control_freq"
    return Hdf5Recognition(robot, rate, evidence, flip, tuple(notes))


def recorded_rate(attributes: Mapping[str, Any]) -> float | None:
    """The rate in Hz that an attribute states; None if there is none."""
    for name in RATES:
        try:
            stated = _positive(float(attribute(attributes, name) or 0))
        except ValueError:
            continue
        if stated is not None:
            return stated
    return None


def measured_rate(file: Any, fields: Mapping[str, Entry]) -> float | None:
    """The rate of the rows' timestamps in seconds; None without such timestamps."""
    for name in (f"{group}timestamp{s}" for group in ("observations/", "obs/", "") for s in ("", "s")):
        if name in fields and fields[name].kind == "numbers" and fields[name].length > 2 and fields[name].width == 1:
            times = np.asarray(stored(file[name], name), np.float64).reshape(-1)
            step = float(np.median(np.diff(times))) if np.isfinite(times).all() else 0.0
            return 1 / step if 1e-3 <= step <= 2 else None
    return None


def _of_spec(attributes: Mapping[str, Any], place: object) -> Hdf5Recognition:
    record = record_of(attributes, "verbot_spec", place)
    with reading(f"{place}, verbot_spec", ValueError, TypeError, LookupError, AttributeError):
        given = RobotSpec.from_json(with_clean_names(record))
    return Hdf5Recognition(known_robots.robot_of_spec(given), given.rate_hz, f"verbot_spec: {given.name}", False)


def _is_isaac_lab(arguments: Mapping[str, Any], fields: Mapping[str, Entry]) -> bool:
    return "env_kwargs" not in arguments and (
        "processed_actions" in fields or str(arguments.get("env_name", "")).startswith("Isaac-") or "sim_args" in arguments
    )


def _of_isaac_lab(arguments: Mapping[str, Any], fields: Mapping[str, Entry]) -> Hdf5Recognition:
    """Isaac Lab: its rate is 1 / (dt · decimation), which some recorders store; quaternions have w first, as Isaac's do."""
    timing = arguments.get("sim_args")
    timing = timing if isinstance(timing, dict) else {}
    dt, decimation = (_positive(timing.get(name)) for name in ("dt", "decimation"))
    rate = 1 / (dt * decimation) if dt and decimation else None
    turned = [path for path, entry in fields.items() if path.startswith("obs/") and path.endswith("_quat") and entry.width == 4]
    names = [path.removeprefix("obs/") for path in turned]
    meaning = {name: (KnownComponent(name.rpartition("/")[2], "other", ("w", "x", "y", "z")),) for name in names}
    evidence = ["Isaac Lab's recorder", f"env_name {arguments['env_name']}" if arguments.get("env_name") else ""]
    evidence += ["processed_actions" if "processed_actions" in fields else "", "no env_kwargs"]
    reason = "Isaac Lab's recorder: the scale of the actions and what opens the gripper are the environment's, so they are kept"
    reason += "".join(f"; {name} is kept with w first, as Isaac Lab writes quaternions" for name in names)
    note = FieldNote("env_args", "left out", "", reason)
    robot = KnownRobot("isaaclab", state=meaning)
    return Hdf5Recognition(robot, rate, ", ".join(word for word in evidence if word), False, (note,))


class _NoEvidence(Exception):
    """Why a file is not known to hold robosuite's changes of pose."""


def _reach(kind: Any, options: Mapping[str, Any]) -> tuple[float, float]:
    """The meters and radians that an action of 1 moves. Raises `_NoEvidence` unless the controller says so."""
    if kind not in (None, ROBOSUITE):
        raise _NoEvidence(f"env_args has type {kind!r}, which is not robosuite's")
    controller = options.get("controller_configs")
    if not isinstance(controller, dict):
        raise _NoEvidence("env_args has no controller_configs")
    parts = controller.get("body_parts")
    if isinstance(parts, dict):  # robosuite 1.5
        arms = parts.get("arms") if isinstance(parts.get("arms"), dict) else parts
        controller = arms.get("right") if isinstance(arms, dict) and "left" not in arms else None
    if not isinstance(controller, dict) or controller.get("type") != "OSC_POSE":
        found = controller.get("type") if isinstance(controller, dict) else None
        raise _NoEvidence(f"its controller is {found or 'not of one right arm'}, not OSC_POSE")
    if controller.get("control_delta", controller.get("input_type") == "delta") is not True:
        raise _NoEvidence("its controller does not say that it takes changes of pose (control_delta, input_type)")
    if controller.get("input_type", "delta") != "delta":
        raise _NoEvidence(f"its controller has input_type {controller['input_type']!r}")
    limits = [_six(controller.get(name, usual)) for name, usual in (("input_max", 1), ("input_min", -1), ("output_max", None))]
    inputs, reach = limits[:2], limits[2]
    if inputs != [[1.0] * 6, [-1.0] * 6] or reach is None or any(a != b for a, b in (*pairwise(reach[:3]), *pairwise(reach[3:]))):
        raise _NoEvidence("its controller has other limits than −1..1 to one output_max each for position and rotation")
    if _six(controller.get("output_min", [-value for value in reach])) != [-value for value in reach]:
        raise _NoEvidence("its controller's output_min is not −output_max")
    if min(reach) <= 0:
        raise _NoEvidence("its controller's output_max is not above 0")
    return reach[0], reach[3]


def _six(value: Any) -> list[float] | None:
    values = value if isinstance(value, list) else [value] * 6
    plain = len(values) == 6 and all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)
    return [float(one) for one in values] if plain else None


def _positive(value: Any) -> float | None:
    plain = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value) and value > 0
    return float(value) if plain else None


def _of_pictures(fields: Mapping[str, Entry], flip: bool | None, name: str) -> list[FieldNote]:
    known = ("agentview_rgb", "eye_in_hand_rgb")
    suspect = [path for path in fields if name == "libero" or path.rpartition("/")[2] in known]
    pictures = [path for path in suspect if path.startswith("obs/") and fields[path].kind == "color"]
    if flip is not None or not pictures:
        return []
    reason = "no macros_image_convention says that they are upside down, as LIBERO's are; turn them with --set flip=true"
    return [FieldNote(path, f"camera {path.rpartition('/')[2]}", "rows not flipped", reason) for path in pictures]


def first_of(data: Any) -> str | None:
    """The first demonstration of a ``data`` group in natural order; None if it has none."""
    return next(iter(sorted(data, key=natural)), None)
