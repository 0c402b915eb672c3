"""The meaning of the numbers in known datasets: component names, kinds, units, frames, ranges and rates.

An unknown field becomes one component of kind ``"other"`` with the range of the data. Values are kept, with two exceptions that
follow verbot's conventions: a gripper is 0 closed and 1 open, and a quaternion has w first.

Sources: the DROID dataset page and the code of its teleoperation stack; BridgeData V2's page and OpenVLA's configurations of
Open X-Embodiment; ACT's and ALOHA's recording scripts; robosuite's controller documentation; LIBERO's ``create_dataset.py``.
Facts that these sources leave open are noted at each robot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import pi

import numpy as np

from verbot.errors import DataError, UnknownNameError
from verbot.spec import BASE, TOOL, Camera, Component, EndEffector, FloatArray, RobotSpec
from verbot.text import clean_names, repaired_text

XYZ, RPY = ("x", "y", "z"), ("roll", "pitch", "yaw")

CONVERSION_TEXTS = {
    "same": "",
    "closedness": "1 - x: 0 is closed, 1 is open",
    "closing": "(1 - x) / 2: 0 is closed, 1 is open",
    "xyzw": "w first instead of last",
}
CONVERSIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "same": lambda values: values,
    "closedness": lambda values: 1 - values,  # 0 open, 1 closed
    "closing": lambda values: (1 - values) / 2,  # −1 opens, 1 closes
    "xyzw": lambda values: values[:, [3, 0, 1, 2]],
}


@dataclass(frozen=True)
class KnownComponent:
    """A component whose range may be unknown.

    Args:
        low, high: the range; None takes it from the data.
        of: the conversion from the recorded values, a key of `CONVERSIONS`.
        typical: the range of most recorded values: evidence for this robot, not a limit.
    """

    name: str
    kind: str
    axes: tuple[str, ...]
    unit: str = ""
    frame: str = ""
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    of: str = "same"
    typical: tuple[float, float] | None = None


Meaning = Mapping[str, tuple[KnownComponent, ...]]


@dataclass(frozen=True)
class KnownRobot:
    """The meaning of the fields of a recording.

    Args:
        state, action: the components of each field, in order.
        cameras: the camera's name by field.
        wrist: cameras that move with the tool of a robot with one end effector.
        carried: the end effector that carries a camera, by the camera's name.
        groups: the end effectors of a robot with several; those without a component in the recording are left out.
        frames: further frames of cameras.
        views: further known properties of cameras, by name.
        state_fields, action_fields, camera_fields: the default fields; if empty, the source decides.
    """

    name: str
    rate_hz: float | None = None
    state: Meaning = field(default_factory=dict)
    action: Meaning = field(default_factory=dict)
    cameras: Mapping[str, str] = field(default_factory=dict)
    wrist: tuple[str, ...] = ()
    carried: Mapping[str, str] = field(default_factory=dict)
    groups: tuple[EndEffector, ...] = ()
    frames: tuple[str, ...] = ()
    views: Mapping[str, Camera] = field(default_factory=dict)
    state_fields: tuple[str, ...] = ()
    action_fields: tuple[str, ...] = ()
    camera_fields: tuple[str, ...] = ()


def parts_of(meaning: Meaning, fields: Mapping[str, np.ndarray], axes: Mapping[str, tuple[str, ...]]) -> list[KnownComponent]:
    """The components of `fields`; an unknown field is one component. Raises `DataError` if a known field has another size."""
    parts = [part for name, values in fields.items() for part in field_parts(meaning, name, values, axes.get(name, ()))]
    if len({part.name for part in parts}) != len(parts):
        raise DataError(f"two fields would have the same name: {', '.join(part.name for part in parts)}")
    clean = clean_names(part.name for part in parts)
    return [replace(part, name=clean[part.name]) for part in parts]


def field_parts(meaning: Meaning, name: str, values: np.ndarray, axes: tuple[str, ...]) -> tuple[KnownComponent, ...]:
    """The components of one field (t, …). Raises `DataError` if a known field has another size, or any field has none."""
    size, known = _matrix(values).shape[1], meaning.get(name)
    if not size:
        raise DataError(f"field {name!r} has no numbers")
    if known is None:
        return (KnownComponent(name.rpartition("/")[2], "other", axes if len(axes) == size else _numbered(size)),)
    expected = sum(len(part.axes) for part in known)
    if expected != size:
        raise DataError(
            f"field {name!r} has {size} numbers a frame; this robot's has {expected} (--robot generic accepts any size)"
        )
    return known


def vector(fields: Mapping[str, np.ndarray], parts: list[KnownComponent]) -> FloatArray:
    """`fields` concatenated and converted to verbot's conventions: float32 (t, d)."""
    if not fields:
        return np.zeros((0, 0), np.float32)
    columns, out, start = np.concatenate([_matrix(values) for values in fields.values()], axis=1), [], 0
    if columns.shape[1] != sum(len(part.axes) for part in parts):
        raise DataError(f"has {columns.shape[1]} numbers a frame; expected {sum(len(part.axes) for part in parts)}")
    for part in parts:
        out.append(CONVERSIONS[part.of](columns[:, start : start + len(part.axes)]))
        start += len(part.axes)
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which the importer names
        return np.concatenate(out, axis=1).astype(np.float32)


def plain(fields: Mapping[str, np.ndarray], length: int) -> FloatArray:
    """`fields` concatenated without conversion: float32 (t, d)."""
    matrices = [_matrix(values) for values in fields.values()]
    with np.errstate(over="ignore"):
        return np.concatenate([np.zeros((length, 0)), *matrices], axis=1).astype(np.float32)


def components(parts: list[KnownComponent], low: np.ndarray, high: np.ndarray) -> tuple[Component, ...]:
    """Components with ranges: their own if known, otherwise those of the data, `low` and `high` (d,)."""
    out, start = [], 0
    for part in parts:
        place = slice(start, start := start + len(part.axes))
        top = np.asarray(high[place] if part.high is None else part.high, float)
        bottom = np.asarray(low[place] if part.low is None else part.low, float)
        bottom = np.minimum(bottom, top - 1e-6 * np.maximum(1, np.abs(top)))  # a range is not a point
        axes = tuple(map(repaired_text, part.axes))
        out.append(Component(part.name, part.kind, axes, part.unit, part.frame, tuple(bottom.tolist()), tuple(top.tolist())))
    return tuple(out)


def camera(robot: KnownRobot, name: str, height: int, width: int, kind: str = "color") -> Camera:
    view = robot.views.get(name)
    if view is not None and (view.height, view.width, view.kind) == (height, width, kind):
        return view
    return Camera(name, height, width, frame=robot.carried.get(name, TOOL if name in robot.wrist else BASE), kind=kind)


def spec_of(
    robot: KnownRobot, rate_hz: float, cameras: tuple[Camera, ...], state: tuple[Component, ...], action: tuple[Component, ...]
) -> RobotSpec:
    """The spec of a recording of `robot`, with the groups that its components leave."""
    groups = []
    for group in robot.groups:
        felt = tuple(c.name for c in state if c.name in group.state)
        moved = tuple(c.name for c in action if c.name in group.action)
        if felt or moved:
            groups.append(EndEffector(group.name, felt, moved))
    missing = {group.name for group in robot.groups} - {group.name for group in groups}
    frames = (*robot.frames, *(name for name in dict.fromkeys(robot.carried.values()) if name in missing))
    return RobotSpec(robot.name, rate_hz, cameras, state, action, tuple(groups), frames)


def robot_of_spec(spec: RobotSpec) -> KnownRobot:
    """The robot of a recording with verbot's own spec, as its exporter writes it: a field per state, and one for all actions."""

    def part(c: Component) -> KnownComponent:
        return KnownComponent(c.name, c.kind, c.axes, c.unit, c.frame, c.low, c.high)

    return KnownRobot(
        spec.name,
        spec.rate_hz,
        state={c.name: (part(c),) for c in spec.state},
        action={"actions": tuple(map(part, spec.action))},
        cameras={f"{c.name}_image": c.name for c in spec.cameras},
        carried={c.name: c.frame for c in spec.cameras},
        groups=spec.groups,
        frames=spec.frames,
        views={c.name: c for c in spec.cameras},
        state_fields=tuple(c.name for c in spec.state),
        camera_fields=tuple(f"{c.name}_image" for c in spec.cameras),
    )


def known(name: str) -> KnownRobot:
    """The known robot called `name`. Raises `UnknownNameError` with the nearest name."""
    if name not in ROBOTS:
        raise UnknownNameError("known robot", name, ROBOTS)
    return ROBOTS[name]


def _numbered(size: int) -> tuple[str, ...]:
    return tuple(map(str, range(size)))


def _matrix(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), int(np.prod(values.shape[1:], dtype=int)))


def _gripper(name: str = "gripper", of: str = "same", bounded: bool = True) -> KnownComponent:
    return KnownComponent(name, "gripper", ("open",), "1", "tool", (0.0,) if bounded else None, (1.0,) if bounded else None, of)


def _panda_joints(name: str = "joint_position") -> KnownComponent:
    """A Franka Panda's seven joints, with the limits of Franka's documentation."""
    low = (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973)
    high = (2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973)
    return KnownComponent(name, "joint_position", tuple(f"joint{i}" for i in range(1, 8)), "rad", "base", low, high)


def _pose(position: str = "ee_position", angles: str = "ee_euler") -> tuple[KnownComponent, ...]:
    """The reachable positions of a Panda's flange (0.855 m from its shoulder), and roll, pitch, yaw about fixed axes."""
    reachable = KnownComponent(position, "position", XYZ, "m", "base", (-1.2, -1.2, -0.6), (1.2, 1.2, 1.3))
    return (reachable, KnownComponent(angles, "other", RPY, "rad", "base", (-pi,) * 3, (pi,) * 3))


def _droid() -> KnownRobot:
    """DROID: a Panda with a Robotiq gripper at 15 Hz; its gripper is 0 open and 1 closed.

    `cartesian_position` is the pose of the flange, not of the gripper, according to the authors. Other projects read the angles
    as roll, pitch and yaw. The velocities are commands of the teleoperation stack and are documented as normalized to −1..1;
    their unit is therefore 1.
    """
    joints = tuple(f"joint{i}" for i in range(1, 8))
    closing = KnownComponent("gripper_velocity", "other", ("closing",), "1", "tool")
    speed = KnownComponent("cartesian_velocity", "velocity", (*XYZ, *RPY), "1", "base", (-1.0,) * 6, (1.0,) * 6)
    turning = KnownComponent("joint_velocity", "joint_velocity", joints, "1", "base", (-1.0,) * 7, (1.0,) * 7)
    return KnownRobot(
        "droid",
        15.0,
        state={
            "observation/cartesian_position": _pose(),
            "observation/gripper_position": (_gripper(of="closedness"),),
            "observation/joint_position": (_panda_joints(),),
        },
        action={
            "action_dict/joint_position": (_panda_joints(),),
            "action_dict/gripper_position": (_gripper(of="closedness"),),
            "action_dict/cartesian_position": _pose(),
            "action_dict/cartesian_velocity": (speed,),
            "action_dict/joint_velocity": (turning,),
            "action_dict/gripper_velocity": (closing,),
        },
        cameras={
            "observation/exterior_image_1_left": "exterior_1",
            "observation/exterior_image_2_left": "exterior_2",
            "observation/wrist_image_left": "wrist",
        },
        wrist=("wrist",),
        state_fields=("observation/cartesian_position", "observation/gripper_position", "observation/joint_position"),
        action_fields=("action_dict/joint_position", "action_dict/gripper_position"),
        camera_fields=("observation/exterior_image_1_left", "observation/exterior_image_2_left", "observation/wrist_image_left"),
    )


def _bridge() -> KnownRobot:
    """BridgeData V2 (``bridge_orig``): a WidowX at 5 Hz; `image_0` is the fixed camera, the only one in every episode.

    The state is position, roll, pitch, yaw and gripper (1 open). The action is the change of position and angles, and the
    gripper's opening. The changes of the angles are small, so that they equal a rotation vector to first order.
    """
    delta = (
        KnownComponent("position_delta", "position_delta", XYZ, "m", "base", typical=(-0.1, 0.1)),
        KnownComponent("rotation_delta", "rotation_delta", RPY, "rad", "base", typical=(-0.6, 0.6)),
    )
    pose = (
        KnownComponent("ee_position", "position", XYZ, "m", "base", typical=(-1.0, 1.0)),  # a WidowX reaches 0.65 m
        KnownComponent("ee_euler", "other", RPY, "rad", "base", typical=(-2 * pi, 2 * pi)),
    )
    names = {f"observation/image_{i}": f"image_{i}" for i in range(4)}
    return KnownRobot(
        "widowx",
        5.0,
        state={"observation/state": (*pose, replace(_gripper(bounded=False), typical=(-0.2, 1.3)))},
        action={"action": (*delta, _gripper())},
        cameras=names,
        wrist=("image_3",),
        state_fields=("observation/state",),
        action_fields=("action",),
        camera_fields=("observation/image_0",),
    )


def _open_x() -> KnownRobot:
    """Open X-Embodiment: the field names that its datasets share; fields with other names are generic.

    `gripper_closedness_action` is relative in some datasets and absolute in others, so it is of kind ``"other"``.
    """
    return KnownRobot(
        "generic",
        action={
            "action/world_vector": (KnownComponent("position_delta", "position_delta", XYZ, "m", "base"),),
            "action/rotation_delta": (KnownComponent("rotation_delta", "rotation_delta", RPY, "rad", "base"),),
            "action/open_gripper": (_gripper(),),
        },
        wrist=("wrist_image", "hand_image", "rgb_gripper", "eye_in_hand_rgb", "image_wrist", "wrist45_image"),
    )


def _aloha() -> KnownRobot:
    """ALOHA: two ViperX arms at 50 Hz, the left one first, each with six joints and the gripper's normalized opening."""
    joints = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")

    def arms() -> tuple[KnownComponent, ...]:
        parts: list[KnownComponent] = []
        for side in ("left", "right"):
            parts.append(KnownComponent(f"{side}_arm", "joint_position", joints, "rad", f"{side}_base"))
            parts.append(_gripper(f"{side}_gripper", bounded=False))
        return tuple(parts)

    def group(side: str) -> EndEffector:
        names = (f"{side}_arm", f"{side}_gripper")
        return EndEffector(side, names, names)

    carried = {f"cam_{side}_wrist": side for side in ("left", "right")}
    groups = (group("left"), group("right"))
    return KnownRobot("aloha", 50.0, {"qpos": arms()}, {"action": arms()}, carried=carried, groups=groups, state_fields=("qpos",))


def robosuite(name: str, rate_hz: float, position_m: float = 0.05, rotation_rad: float = 0.5) -> KnownRobot:
    """robomimic and LIBERO: a Panda in robosuite, by default at 20 Hz, with an operational-space controller.

    An action is a change of pose between −1 and 1. The value 1 is `position_m` and `rotation_rad` (the controller's
    ``output_max``), which the unit states. The gripper opens at −1 and closes at 1. robosuite's quaternions have w last.
    """
    step = KnownComponent("position_delta", "position_delta", XYZ, f"{position_m:g} m", "base", (-1.0,) * 3, (1.0,) * 3)
    turn = KnownComponent("rotation_delta", "rotation_delta", XYZ, f"{rotation_rad:g} rad", "base", (-1.0,) * 3, (1.0,) * 3)
    position = KnownComponent("ee_position", "position", XYZ, "m", "base")
    turned = KnownComponent("ee_rotation_vector", "other", XYZ, "rad", "base")
    quaternion = KnownComponent("ee_quaternion", "quaternion", ("w", *XYZ), "1", "base", (-1.0,) * 4, (1.0,) * 4, "xyzw")
    fingers = KnownComponent("fingers", "joint_position", ("left", "right"), "m", "tool")
    joints = _panda_joints()
    return KnownRobot(
        name,
        rate_hz,
        state={
            "robot0_eef_pos": (position,),
            "robot0_eef_quat": (quaternion,),
            "robot0_gripper_qpos": (fingers,),
            "robot0_joint_pos": (joints,),
            "ee_states": (position, turned),
            "ee_pos": (position,),
            "ee_ori": (turned,),
            "gripper_states": (fingers,),
            "joint_states": (joints,),
        },
        action={"actions": (step, turn, _gripper(of="closing"))},
        cameras={"agentview_rgb": "agentview", "eye_in_hand_rgb": "eye_in_hand"},
        wrist=("eye_in_hand", "robot0_eye_in_hand_image", "robot0_eye_in_hand"),
    )


ROBOTS: dict[str, KnownRobot] = {
    "generic": KnownRobot("generic"),
    "droid": _droid(),
    "bridge": _bridge(),
    "open_x": _open_x(),
    "aloha": _aloha(),
    "robomimic": robosuite("robomimic", 20.0),
    "libero": robosuite("libero", 20.0),
}
