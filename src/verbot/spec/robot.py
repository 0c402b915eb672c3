"""What a robot is, sees and does: plain frozen data, numpy only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from verbot.errors import SpecError
from verbot.spec.arrays import FloatArray
from verbot.spec.checks import check_camera, check_members, check_name, check_range, check_rate, check_texts
from verbot.spec.kinematics import KinematicChain, check_chains
from verbot.spec.limits import MotionLimits, Workspace, check_age, check_limits

BASE = "base"  # the frame of the robot's base
TOOL = "tool"  # the frame of the end effector of a robot that has one
# Kinds of components that belong to the end effector of a spec without groups.
_TOOL_STATE = ("position", "quaternion", "gripper")
_TOOL_ACTION = ("position", "quaternion", "position_delta", "rotation_delta", "joint_position", "joint_velocity", "gripper")

_OPTIONAL = ("groups", "frames", "limits", "workspaces", "max_age_s", "chains")

CAMERA_KINDS = ("color", "depth")
KINDS = (
    "position",  # absolute position, m
    "position_delta",  # m
    "rotation_delta",  # rotation vector, rad
    "quaternion",  # unit, w first
    "joint_position",  # rad or m
    "joint_velocity",
    "velocity",  # linear and angular
    "gripper",  # opening: 0 closed, 1 open
    "discrete",
    "other",
)


@dataclass(frozen=True)
class Component:
    """A named contiguous slice of the state or action vector.

    Args:
        name: unique within the vector, e.g. ``"ee_position"``; like every name of a spec letters, digits, ``_``, ``-`` and ``.``.
        kind: one of `KINDS`; heads and transforms choose their treatment by it.
        axes: one name per dimension.
        unit: e.g. ``"m"``, ``"rad"``, ``"1"``.
        frame: the frame the values are expressed in, e.g. ``"base"``.
        low, high: the range of each dimension, in `unit`: finite.
    """

    name: str
    kind: str
    axes: tuple[str, ...]
    unit: str
    frame: str
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        check_name("component", self.name)
        if self.kind not in KINDS:
            raise SpecError(f"component {self.name!r} has kind {self.kind!r}; expected one of {', '.join(KINDS)}")
        check_range(self.name, self.axes, self.low, self.high)
        check_texts(f"an axis, the unit or the frame of component {self.name!r}", (*self.axes, self.unit, self.frame))

    @property
    def size(self) -> int:
        return len(self.axes)


@dataclass(frozen=True)
class Camera:
    """A camera: its name, image size in pixels and, where known, its calibration.

    Args:
        intrinsics: 3×3 row-major pinhole matrix in pixels (origin at the top left corner of the image).
        extrinsics: 4×4 row-major pose of the camera in `frame` (x right, y down, z forward: OpenCV's convention).
        frame: ``"base"`` for a fixed camera; the name of an end effector for one that moves with it, or ``"tool"`` where there is
            one; or another frame of `RobotSpec.frames`.
        kind: ``"color"``, or ``"depth"``, whose images are float32 (h, w) in meters along the optical axis, 0 where unknown.
    """

    name: str
    height: int
    width: int
    intrinsics: tuple[float, ...] | None = None
    extrinsics: tuple[float, ...] | None = None
    frame: str = "base"
    kind: str = "color"

    def __post_init__(self) -> None:
        check_name("camera", self.name)
        if self.kind not in CAMERA_KINDS:
            raise SpecError(f"camera {self.name!r} has kind {self.kind!r}; expected one of {', '.join(CAMERA_KINDS)}")
        check_camera(self.name, (self.height, self.width), self.intrinsics, self.extrinsics)


@dataclass(frozen=True)
class EndEffector:
    """A gripper or hand and the arm that carries it: a group of components.

    Args:
        name: also the name of its frame, e.g. ``"left"``.
        state: names of its state components. The first of kind ``"position"`` with three axes and the first ``"quaternion"`` are
            its pose in the base frame; the first ``"gripper"`` is its opening.
        action: names of its action components.
    """

    name: str
    state: tuple[str, ...] = ()
    action: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name or self.name == BASE:
            raise SpecError(f"an end effector is called {self.name!r}; expected a name of its own, such as 'left'")
        check_name("end effector", self.name)
        if not self.state and not self.action:
            raise SpecError(f"end effector {self.name!r} has no components; expected names of state or action components")


@dataclass(frozen=True)
class RobotSpec:
    """The cameras, the state and the action of a robot; part of every dataset, env and policy.

    Args:
        groups: one or several end effectors. Without any, `end_effectors` finds the one that the components make up.
        frames: further frames that cameras are mounted in, e.g. ``"head"``, whose pose no state component holds.
        limits, workspaces: how far and how fast it may be commanded. They do not make it another robot: equality leaves them out.
        max_age_s: a robot is held rather than moved by an older observation.
        chains: where the joints are, for the position of an end effector that joints move. Equality leaves this out too.

    Example:
        >>> gripper = Component("gripper", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
        >>> spec = RobotSpec("toy", 10.0, (Camera("front", 64, 64),), (gripper,), (gripper,))
        >>> spec.action_size, RobotSpec.from_json(spec.to_json()) == spec
        (1, True)
    """

    name: str
    rate_hz: float
    cameras: tuple[Camera, ...]
    state: tuple[Component, ...]
    action: tuple[Component, ...]
    groups: tuple[EndEffector, ...] = ()
    frames: tuple[str, ...] = ()
    limits: tuple[MotionLimits, ...] = field(default=(), compare=False)
    workspaces: tuple[Workspace, ...] = field(default=(), compare=False)
    max_age_s: float | None = field(default=None, compare=False)
    chains: tuple[KinematicChain, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        check_texts("the name of the robot", (self.name,))
        check_rate(self.name, self.rate_hz)
        for frame in self.frames:
            check_name("frame", frame)
        for label, items in (
            ("camera", self.cameras), ("state", self.state), ("action", self.action), ("end effector", self.groups),
        ):  # fmt: skip
            names = [item.name for item in items]
            if len(set(names)) != len(names):
                raise SpecError(f"robot {self.name!r} has a {label} name twice: {', '.join(names)}")
        for label, parts in (("state", self.state), ("action", self.action)):
            members = [(group.name, group.state if label == "state" else group.action) for group in self.groups]
            check_members(self.name, label, [part.name for part in parts], members)
        known = self.frame_names
        for camera in self.cameras:
            if camera.frame not in known:
                raise SpecError(
                    f"camera {camera.name!r} of robot {self.name!r} is in frame {camera.frame!r}; "
                    f"its frames are {', '.join(known)}"
                )
        sizes = {component.name: component.size for component in self.action}
        end_effectors = [each.name for each in self.end_effectors]
        check_limits(self.name, sizes, end_effectors, self.limits, self.workspaces)
        check_chains(self.name, {c.name: (c.kind, c.unit, c.axes) for c in self.action}, end_effectors, self.chains)
        check_age(self.name, self.max_age_s)

    @property
    def state_size(self) -> int:
        return sum(c.size for c in self.state)

    @property
    def action_size(self) -> int:
        return sum(c.size for c in self.action)

    @property
    def camera_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.cameras)

    @property
    def color_cameras(self) -> tuple[Camera, ...]:
        """The views of a network."""
        return tuple(c for c in self.cameras if c.kind == "color")

    @property
    def color_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.color_cameras)

    @property
    def depth_cameras(self) -> tuple[Camera, ...]:
        return tuple(c for c in self.cameras if c.kind == "depth")

    def color_only(self) -> RobotSpec:
        """The same robot without its depth cameras."""
        return dataclasses.replace(self, cameras=self.color_cameras) if self.depth_cameras else self

    @property
    def end_effectors(self) -> tuple[EndEffector, ...]:
        """The groups. A spec without any has one end effector, ``"tool"``: its first pose and gripper, and what moves them.

        Empty for a robot without an arm or gripper.
        """
        if self.groups:
            return self.groups
        state = tuple(c.name for kind in _TOOL_STATE for c in _of_kind(self.state, kind)[:1])
        action = tuple(c.name for c in self.action if c.kind in _TOOL_ACTION)
        return (EndEffector(TOOL, state, action),) if state or action else ()

    @property
    def frame_names(self) -> tuple[str, ...]:
        """The frames that a camera may be in; ``"tool"`` is one of them unless there are several end effectors."""
        tool = (TOOL,) if len(self.groups) < 2 else ()
        return tuple(dict.fromkeys((BASE, *tool, *(group.name for group in self.groups), *self.frames)))

    def end_effector(self, frame: str) -> EndEffector | None:
        """The end effector that carries `frame`: the one of this name, or for ``"tool"`` the only one."""
        found = [e for e in self.end_effectors if e.name == frame]
        only = self.end_effectors if frame == TOOL and len(self.end_effectors) == 1 else ()
        return next(iter((*found, *only)), None)

    def state_of(self, end_effector: EndEffector, kind: str) -> tuple[Component, slice] | None:
        """The first state component of this kind of an end effector, and its place in the state vector."""
        return _placed(self.state, end_effector.state, kind)

    def action_of(self, end_effector: EndEffector, kind: str) -> tuple[Component, slice] | None:
        """The first action component of this kind of an end effector, and its place in the action vector."""
        return _placed(self.action, end_effector.action, kind)

    def state_slices(self) -> dict[str, slice]:
        """Where each state component lies in the state vector."""
        return _slices(self.state)

    def action_slices(self) -> dict[str, slice]:
        """Where each action component lies in the action vector."""
        return _slices(self.action)

    def action_low(self) -> FloatArray:
        return np.array([x for c in self.action for x in c.low], np.float32)

    def action_high(self) -> FloatArray:
        return np.array([x for c in self.action for x in c.high], np.float32)

    def to_json(self) -> dict[str, Any]:
        """Plain data; omits what is empty after `action`, and the kind ``"color"``, for old files."""
        record = dataclasses.asdict(self)
        for camera in record["cameras"]:
            if camera["kind"] == "color":
                del camera["kind"]
        return {key: value for key, value in record.items() if value or key not in _OPTIONAL}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> RobotSpec:
        """Inverse of `to_json`. Raises `SpecError` on a missing or unknown field."""
        try:
            return RobotSpec(
                name=record["name"],
                rate_hz=float(record["rate_hz"]),
                cameras=tuple(Camera(**_tuples(c)) for c in record["cameras"]),
                state=tuple(Component(**_tuples(c)) for c in record["state"]),
                action=tuple(Component(**_tuples(c)) for c in record["action"]),
                groups=tuple(EndEffector(**_tuples(group)) for group in dict(record).get("groups", ())),
                frames=tuple(dict(record).get("frames", ())),
                limits=tuple(MotionLimits(**_tuples(each)) for each in dict(record).get("limits", ())),
                workspaces=tuple(Workspace(**_tuples(each)) for each in dict(record).get("workspaces", ())),
                max_age_s=dict(record).get("max_age_s"),
                chains=tuple(KinematicChain.from_json(each) for each in dict(record).get("chains", ())),
            )
        except SpecError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise SpecError(f"not a robot spec: {error}; expected the fields of RobotSpec.to_json()") from error


def _of_kind(components: Sequence[Component], kind: str) -> list[Component]:
    """Positions in the plane are no poses of a tool."""
    return [c for c in components if c.kind == kind and (kind != "position" or c.size == 3)]


def _placed(components: tuple[Component, ...], members: tuple[str, ...], kind: str) -> tuple[Component, slice] | None:
    slices = _slices(components)
    return next(((c, slices[c.name]) for c in _of_kind(components, kind) if c.name in members), None)


def _slices(components: tuple[Component, ...]) -> dict[str, slice]:
    out, start = {}, 0
    for component in components:
        out[component.name] = slice(start, start + component.size)
        start += component.size
    return out


def _tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in dict(record).items()}
