"""The spec file of a ROS 2 robot: which topics are its cameras, its state and its action. Checked when it is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from verbot.configuration import build
from verbot.errors import ConfigError, SpecError
from verbot.ranges import IMAGE_SIZE, POSITIVE, RATE_HZ, check_ranges
from verbot.robots.ros2.network import DdsNetwork
from verbot.spec import Camera, Component, EndEffector, MotionLimits, RobotSpec, Workspace
from verbot.yaml_values import read_yaml

IMAGE: Final = "sensor_msgs/msg/Image"
JOINT_STATE: Final = "sensor_msgs/msg/JointState"
POSE, STRING = "geometry_msgs/msg/PoseStamped", "std_msgs/msg/String"
TRAJECTORY, ARRAY = "trajectory_msgs/msg/JointTrajectory", "std_msgs/msg/Float64MultiArray"
TWIST, TWIST_STAMPED = "geometry_msgs/msg/Twist", "geometry_msgs/msg/TwistStamped"
TWIST_FIELDS = tuple(f"{part}.{axis}" for part in ("linear", "angular") for axis in "xyz")

Reliability = Literal["best_effort", "reliable"]
Durability = Literal["volatile", "transient_local"]
ComponentKind = Literal[
    "position", "position_delta", "rotation_delta", "quaternion", "joint_position", "joint_velocity", "velocity", "gripper",
    "discrete", "other",
]  # fmt: skip
TOPIC = re.compile(r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")
UNITS = {
    "position": "m", "position_delta": "m", "rotation_delta": "rad", "quaternion": "1", "joint_position": "rad",
    "joint_velocity": "rad/s", "velocity": "m/s, rad/s", "gripper": "1", "discrete": "1", "other": "1",
}  # fmt: skip
ZERO_IS_REST = ("velocity", "joint_velocity", "position_delta", "rotation_delta")


def topic_name(name: str) -> str:
    """The absolute name of a topic, as ``"/joint_states"``. Raises `ConfigError` for what is no name of ROS 2."""
    if not TOPIC.fullmatch(name) or "__" in name:
        raise ConfigError(
            f"topic is {name!r:.200}; expected a name of ROS 2 such as '/camera/image_raw': letters, digits and single '_', "
            "parts between '/' that begin with no digit"
        )
    return "/" + name.removeprefix("/")


@dataclass(frozen=True)
class CameraTopic:
    """A topic of pictures.

    Args:
        name: the camera of the spec.
        height, width: of the spec's pictures, in pixels.
        kind: ``"depth"`` gives meters (16UC1 in millimeters, 32FC1 in meters, unless `meters_per_unit` says otherwise).
        fit: what is done with pictures of another size: ``"exact"`` refuses them, ``"resize"`` scales both sides, ``"crop"`` cuts
            the middle to the shape, then scales.
        intrinsics, extrinsics, frame: of the spec's pictures, as in `verbot.spec.Camera`.
        color: the order of colors where the encoding does not state it (8UC3, 8UC4).
    """

    name: str
    topic: str
    height: int
    width: int
    type: Literal["sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"] = IMAGE
    kind: Literal["color", "depth"] = "color"
    fit: Literal["exact", "resize", "crop"] = "exact"
    color: Literal["rgb", "bgr"] | None = None
    meters_per_unit: float | None = None
    intrinsics: tuple[float, ...] | None = None
    extrinsics: tuple[float, ...] | None = None
    frame: str = "base"
    reliability: Reliability = "best_effort"
    durability: Durability = "volatile"

    def __post_init__(self) -> None:
        object.__setattr__(self, "topic", topic_name(self.topic))
        check_ranges(self, height=IMAGE_SIZE, width=IMAGE_SIZE, meters_per_unit=POSITIVE)

    def camera(self) -> Camera:
        return Camera(self.name, self.height, self.width, self.intrinsics, self.extrinsics, self.frame, self.kind)


@dataclass(frozen=True)
class StateTopic:
    """A component of the state: some joints of a JointState, or the position or orientation of a PoseStamped.

    Args:
        low, high: range of each axis, after `scale` and `offset`; −1 to 1 of an orientation.
        field: of a JointState ``"position"``, ``"velocity"`` or ``"effort"``; of a pose ``"position"`` or ``"orientation"``.
        kind: of the component; by default what `field` is.
        joints: names in the JointState, in the order of the component.
        frame_id: the frame that poses must state; others are refused.
        scale, offset: per axis; the component is scale × message + offset.
    """

    name: str
    topic: str
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    type: Literal["sensor_msgs/msg/JointState", "geometry_msgs/msg/PoseStamped"] = JOINT_STATE
    field: Literal["position", "velocity", "effort", "orientation"] = "position"
    kind: ComponentKind | None = None
    joints: tuple[str, ...] = ()
    unit: str | None = None
    frame: str = "base"
    frame_id: str | None = None
    scale: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()
    reliability: Reliability = "best_effort"
    durability: Durability = "volatile"

    def __post_init__(self) -> None:
        object.__setattr__(self, "topic", topic_name(self.topic))
        fields = ("position", "velocity", "effort") if self.type == JOINT_STATE else ("position", "orientation")
        if self.field not in fields:
            raise ConfigError(f"field is {self.field!r}; a message {self.type} has {', '.join(fields)}")
        if bool(self.joints) != (self.type == JOINT_STATE):
            raise ConfigError(f"joints is {list(self.joints)}; expected the names of joints for {JOINT_STATE}, none for {POSE}")
        _check_axes(self.joints, "joints")
        if self.field == "orientation" and not (self.low or self.high):
            object.__setattr__(self, "low", (-1.0,) * 4)
            object.__setattr__(self, "high", (1.0,) * 4)
        _check_scale(self, len(self.axes))

    @property
    def axes(self) -> tuple[str, ...]:
        return self.joints or (("w", "x", "y", "z") if self.field == "orientation" else ("x", "y", "z"))

    @property
    def has_positions(self) -> bool:
        """Whether this measures where joints are."""
        return self.type == JOINT_STATE and self.field == "position"

    def component(self) -> Component:
        joints = {"position": "joint_position", "velocity": "joint_velocity", "effort": "other"}
        default = joints[self.field] if self.joints else "quaternion" if self.field == "orientation" else "position"
        kind = self.kind or default
        return Component(self.name, kind, self.axes, self.unit or UNITS[kind], self.frame, self.low, self.high)


@dataclass(frozen=True)
class ActionTopic:
    """A component of the action. Several may share a topic: their values are sent together, in the order of the file.

    Args:
        low, high: range of each axis; commands are clipped to it.
        kind: by default ``"velocity"`` of a twist and ``"joint_position"`` else.
        joints: names for a JointTrajectory, or of the numbers of a Float64MultiArray.
        fields: of a twist, such as ``["linear.x", "angular.z"]``; the others are 0.
        frame_id: frame in the header of a TwistStamped.
        scale, offset: per axis; the component is scale × message + offset, as of the state.
        duration_s: how long a trajectory takes to its point; by default a control period.
        hold: what `stop` sends: the ``"measured"`` positions of `joints`, the ``"last"`` command, or ``"zero"``. By default
            velocities and deltas are zero, joints are held where they are, and a gripper keeps its grip.
        require_subscriber: it is an error while nobody subscribes.
    """

    name: str
    topic: str
    type: Literal[
        "trajectory_msgs/msg/JointTrajectory", "geometry_msgs/msg/TwistStamped", "geometry_msgs/msg/Twist",
        "std_msgs/msg/Float64MultiArray",
    ]  # fmt: skip
    low: tuple[float, ...]
    high: tuple[float, ...]
    kind: ComponentKind | None = None
    joints: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    unit: str | None = None
    frame: str = "base"
    frame_id: str = ""
    scale: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()
    duration_s: float | None = None
    hold: Literal["measured", "last", "zero"] | None = None
    require_subscriber: bool = True
    reliability: Reliability = "reliable"
    durability: Durability = "volatile"

    def __post_init__(self) -> None:
        object.__setattr__(self, "topic", topic_name(self.topic))
        check_ranges(self, duration_s=POSITIVE)
        kinds = {TRAJECTORY: ("joint_position", "joint_velocity", "gripper"), ARRAY: tuple(UNITS)}.get(self.type, ("velocity",))
        if self.kind_of not in kinds:
            raise ConfigError(f"kind is {self.kind_of!r}; a message {self.type} carries {', '.join(kinds)}")
        if self.is_twist:
            for each in self.fields:
                if each not in TWIST_FIELDS:
                    raise ConfigError(f"fields is {list(self.fields)}; expected some of {', '.join(TWIST_FIELDS)}")
        if not self.axes or (self.is_twist and self.joints) or (self.fields and not self.is_twist):
            needed = "fields, such as [linear.x, angular.z]" if self.is_twist else "joints, a name for each number"
            raise ConfigError(f"type is {self.type}, which needs {needed}; got joints {self.joints} and fields {self.fields}")
        _check_axes(self.axes, "fields" if self.is_twist else "joints")
        _check_scale(self, len(self.axes))

    @property
    def is_twist(self) -> bool:
        return self.type in (TWIST, TWIST_STAMPED)

    @property
    def axes(self) -> tuple[str, ...]:
        return self.fields if self.is_twist else self.joints

    @property
    def kind_of(self) -> ComponentKind:
        return self.kind or ("velocity" if self.is_twist else "joint_position")

    @property
    def hold_of(self) -> Literal["measured", "last", "zero"]:
        if self.hold:
            return self.hold
        return "zero" if self.kind_of in ZERO_IS_REST else "measured" if self.kind_of == "joint_position" else "last"

    def component(self) -> Component:
        kind = self.kind_of
        return Component(self.name, kind, self.axes, self.unit or UNITS[kind], self.frame, self.low, self.high)


@dataclass(frozen=True)
class InstructionTopic:
    """A topic of sentences (std_msgs String). Its qos is the one of ``ros2 topic pub``."""

    topic: str
    reliability: Reliability = "reliable"
    durability: Durability = "volatile"

    def __post_init__(self) -> None:
        object.__setattr__(self, "topic", topic_name(self.topic))


@dataclass(frozen=True)
class Ros2Config:
    """A ROS 2 robot.

    Args:
        rate_hz: of the control loop.
        state, action: the components, in the order of the vectors.
        groups, frames, limits, workspaces, max_age_s: as in `RobotSpec`.
        connect_timeout_s: how long `connect` waits for a first message of each topic.
        use_stamps: whether ages count the stamps of headers: the differences to the fastest message of the last seconds, so
            clocks need not agree. Switch it off where stamps do not run in real time (a simulation).
    """

    name: str
    rate_hz: float
    state: tuple[StateTopic, ...]
    action: tuple[ActionTopic, ...]
    cameras: tuple[CameraTopic, ...] = ()
    instruction: InstructionTopic | None = None
    network: DdsNetwork = field(default_factory=DdsNetwork)
    groups: tuple[EndEffector, ...] = ()
    frames: tuple[str, ...] = ()
    limits: tuple[MotionLimits, ...] = ()
    workspaces: tuple[Workspace, ...] = ()
    max_age_s: float | None = 0.5
    connect_timeout_s: float = 10.0
    use_stamps: bool = True

    def __post_init__(self) -> None:
        check_ranges(self, rate_hz=RATE_HZ, connect_timeout_s=POSITIVE)
        if not self.action:
            raise ConfigError("action is empty; expected at least one component that commands the robot")
        _check_shared([*self.cameras, *self.state, *([self.instruction] if self.instruction else [])], ("type",))
        _check_shared(self.action, ("type", "frame_id", "duration_s", "require_subscriber"))
        measured = {joint for each in self.state if each.has_positions for joint in each.joints}
        for each in self.action:
            unknown = [joint for joint in each.axes if joint not in measured] if each.hold_of == "measured" else []
            if unknown:
                raise ConfigError(
                    f"action {each.name!r} is held at the measured positions of its joints, and no state has the position of "
                    f"{', '.join(unknown)}; add it to a state of {JOINT_STATE}, or set hold to 'last' or 'zero'"
                )
        self.spec()

    def spec(self) -> RobotSpec:
        """Raises `SpecError` for what makes no robot, such as a range that is empty."""
        return RobotSpec(
            self.name,
            self.rate_hz,
            tuple(each.camera() for each in self.cameras),
            tuple(each.component() for each in self.state),
            tuple(each.component() for each in self.action),
            self.groups,
            self.frames,
            self.limits,
            self.workspaces,
            self.max_age_s,
        )


def read_ros2_config(source: str | Path | Mapping[str, Any] | Ros2Config) -> Ros2Config:
    """The configuration in a file (YAML or JSON), or of plain values. Raises `ConfigError` naming the file and the field."""
    if isinstance(source, Ros2Config):
        return source
    where = "the configuration of the ROS 2 robot"
    record = source
    if not isinstance(source, Mapping):
        where, record = str(source), read_yaml(source, where)
    try:
        if not isinstance(record, Mapping):
            raise ConfigError(f"it holds {type(record).__name__}; expected the fields of Ros2Config: name, rate_hz, state, …")
        return build(Ros2Config, record)
    except (ConfigError, SpecError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _check_axes(names: Sequence[str], label: str) -> None:
    if len(set(names)) != len(names):
        raise ConfigError(f"{label} is {list(names)}; expected each name once")


def _check_scale(topic: StateTopic | ActionTopic, axes: int) -> None:
    for label, values, neutral in (("scale", topic.scale, 1.0), ("offset", topic.offset, 0.0)):
        if values and len(values) != axes:
            raise ConfigError(f"{label} is {list(values)}; expected {axes} numbers, one per axis")
        if label == "scale" and 0.0 in values:
            raise ConfigError(f"scale is {list(values)}; expected numbers other than 0")
        object.__setattr__(topic, label, values or (neutral,) * axes)


def _check_shared(topics: Sequence[Any], alike: Sequence[str]) -> None:
    """Raise `ConfigError` where two records of one topic contradict each other, or command the same joint."""
    first: dict[str, Any] = {}
    taken = set[tuple[str, str]]()
    for each in topics:
        other = first.setdefault(each.topic, each)
        if type(other) is not type(each):
            raise ConfigError(f"topic {each.topic} is both a {type(other).__name__} and a {type(each).__name__}")
        for label in (*alike, "reliability", "durability") if other is not each else ():
            if vars(other)[label] != vars(each)[label]:
                raise ConfigError(
                    f"{label} of topic {each.topic} is {vars(other)[label]!r} for {other.name!r} and {vars(each)[label]!r} for "
                    f"{each.name!r}; expected the same"
                )
        if isinstance(each, CameraTopic) and other is not each:
            raise ConfigError(f"topic {each.topic} is the one of two cameras, {other.name!r} and {each.name!r}")
        for axis in each.axes if isinstance(each, ActionTopic) else ():
            if (each.topic, axis) in taken:
                raise ConfigError(f"{axis} of topic {each.topic} is in two components of the action")
            taken.add((each.topic, axis))
        mixed = isinstance(each, ActionTopic) and (each.kind_of == "joint_velocity") != (other.kind_of == "joint_velocity")
        if mixed and each.type == TRAJECTORY:
            raise ConfigError(f"topic {each.topic} has components of positions and of velocities; expected one of them")
