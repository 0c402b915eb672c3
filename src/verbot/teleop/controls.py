"""Converts a user's motion command to an action of the robot: pure functions of the robot's spec, numpy only."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from verbot.errors import ConfigError, RobotError
from verbot.spec import Component, Float64Array, FloatArray, Observation, RobotSpec

UNDERSTOOD = ("position_delta", "rotation_delta", "gripper", "discrete")
SPEEDS = {"fine": 0.2, "normal": 0.5, "fast": 1.0}  # fractions of the largest motion of a control step
DEAD_ZONE = 0.12  # of a gamepad's stick; smaller deflections count as rest
_AXES = ("x", "y", "z")


@dataclass(frozen=True)
class MotionCommand:
    """The commanded motion at one instant, in directions of the camera image; each of the six in [-1, 1].

    Args:
        right, away, up: translation; `away` is into the image, which instructions of the tabletop call backward.
        lean_right, lean_away: tilt of the end effector.
        turn: rotation about the vertical, counterclockwise seen from above.
        digit: number of a discrete action, from 1 on; 0 selects none.
    """

    right: float = 0.0
    away: float = 0.0
    up: float = 0.0
    lean_right: float = 0.0
    lean_away: float = 0.0
    turn: float = 0.0
    digit: int = 0

    @property
    def moves(self) -> bool:
        return self != MotionCommand()


@dataclass(frozen=True)
class Basis:
    """Horizontal unit vectors (3,) in the base frame: to the right in the image, and away from the camera."""

    right: Float64Array = field(default_factory=lambda: np.array([1.0, 0.0, 0.0]))
    away: Float64Array = field(default_factory=lambda: np.array([0.0, 1.0, 0.0]))


def basis_of(calibration: Mapping[str, Any]) -> Basis:
    """The directions of the first static camera; x to the right and y away if none is calibrated.

    Example:
        >>> front = [0, 0.7, -0.7, 1, 1, 0, 0, 0, 0, -0.7, -0.7, 1, 0, 0, 0, 1]  # looks along −x, and down
        >>> basis_of({"front": {"extrinsics": front, "frame": "base"}}).away.round(3).tolist()
        [-1.0, 0.0, 0.0]
    """
    for camera in calibration.values():
        if camera["frame"] != "base":
            continue
        across = np.reshape(camera["extrinsics"], (4, 4))[:3, 0] * (1.0, 1.0, 0.0)  # OpenCV's x: right in the image
        length = float(np.linalg.norm(across))
        if length > 1e-6:
            right = across / length
            return Basis(right, np.array([-right[1], right[0], 0.0]))
    return Basis()


def check_drivable(spec: RobotSpec) -> None:
    """Raise `ConfigError` unless every component of the action can be teleoperated."""
    for component in spec.action:
        problem = None
        if component.kind not in UNDERSTOOD:
            problem = f"of kind {component.kind!r}"
        elif component.kind in ("position_delta", "rotation_delta") and not set(component.axes) <= set(_AXES):
            problem = f"with axes {', '.join(component.axes)} (expected {', '.join(_AXES)})"
        elif component.kind in ("gripper", "discrete") and component.size != 1:
            problem = f"of {component.size} numbers (expected 1)"
        if problem:
            raise ConfigError(
                f"{component.name!r} of robot {spec.name!r} cannot be teleoperated: it is {problem}; "
                f"supported are {', '.join(UNDERSTOOD)}"
            )


def action_of(
    spec: RobotSpec,
    motion: MotionCommand,
    closed: Collection[str] = (),
    speed: float = 1.0,
    basis: Basis | None = None,
    active: str | None = None,
) -> FloatArray:
    """The action (a,) in the units of `spec`, within its range.

    Args:
        closed: the end effectors whose gripper is to be closed.
        speed: fraction of the largest motion of a control step, up to 1.
        basis: the directions of the image; if None, x is right and y away.
        active: the end effector that moves; the others keep still. By default the first.
    """
    owners = {name: tool.name for tool in spec.end_effectors for name in tool.action}
    active = active or next((tool.name for tool in spec.end_effectors), None)
    parts = []
    for component in spec.action:
        low, high = np.array(component.low), np.array(component.high)
        owner = owners.get(component.name, active)
        if component.kind in ("position_delta", "rotation_delta"):
            # Only components in the base frame can follow the directions of the image.
            directions = basis if basis is not None and component.frame == "base" else Basis()
            own = motion if owner == active else MotionCommand()
            part = _scaled(_vector(component.kind, own, directions), component, speed)
        elif component.kind == "gripper":
            part = low if owner in closed else high
        else:
            part = low + max(0, motion.digit - 1)
        parts.append(np.clip(part, low, high))
    return np.concatenate(parts).astype(np.float32).clip(spec.action_low(), spec.action_high())


def motion_of(held: frozenset[str], axes: Sequence[float] = (), buttons: Sequence[float] = ()) -> MotionCommand:
    """The motion command of the held keys and a gamepad's state (the browser's "standard" mapping), added together.

    Args:
        held: keys by their `KeyboardEvent.code`, e.g. ``"KeyW"``.
        axes: left stick x and y, right stick x and y, each in [-1, 1]; y is positive down.
        buttons: each in [0, 1]; 12 to 15 are the D-pad: up, down, left, right.
    """
    stick = [live(axis) for axis in (*axes[:4], *(0.0,) * (4 - len(axes[:4])))]
    cross = [float(button > 0.5) for button in (*buttons[12:16], *(0.0,) * (4 - len(buttons[12:16])))]
    sums = {
        "right": stick[0],
        "away": -stick[1],
        "up": -stick[3],
        "turn": -stick[2],
        "lean_right": cross[3] - cross[2],
        "lean_away": cross[0] - cross[1],
    }
    for code in held:
        if code in MOTIONS:
            name, sign = MOTIONS[code]
            sums[name] += sign
    digits = [int(code[-1]) for code in held if code in DIGITS]
    # The last addition removes negative zeros of a stick at rest, which would differ from zero in comparisons of bytes.
    return MotionCommand(**{name: min(1.0, max(-1.0, value)) + 0.0 for name, value in sums.items()}, digit=max(digits, default=0))


MOTIONS = {
    "KeyW": ("away", 1), "KeyS": ("away", -1), "KeyA": ("right", -1), "KeyD": ("right", 1), "KeyR": ("up", 1), "KeyF": ("up", -1),
    "KeyQ": ("turn", 1), "KeyE": ("turn", -1), "ArrowLeft": ("lean_right", -1), "ArrowRight": ("lean_right", 1),
    "ArrowUp": ("lean_away", 1), "ArrowDown": ("lean_away", -1),
}  # fmt: skip
DIGITS = tuple(f"Digit{i}" for i in range(1, 10))


def live(value: float) -> float:
    """A stick's position rescaled beyond its dead zone: 0 within it, ±1 at the ends.

    Example:
        >>> live(0.1), live(1.0), round(live(-0.56), 6)
        (0.0, 1.0, -0.5)
    """
    beyond = abs(value) - DEAD_ZONE
    return 0.0 if beyond <= 0 else float(np.copysign(min(1.0, beyond / (1.0 - DEAD_ZONE)), value))


class Operator(Protocol):
    """Whatever turns a person's input into actions: keys and sticks (`Teleoperator`), or a leader arm (`HandsOff`)."""

    motion: MotionCommand
    by_keys: bool  # whether keys and sticks move the robot
    active: str | None
    speed: str

    @property
    def closed(self) -> bool: ...

    def reset(self, instruction: str = "") -> None: ...

    def act(self, observation: Observation | None = None) -> FloatArray: ...

    def switch_gripper(self) -> None: ...

    def switch_end_effector(self) -> None: ...

    def switch_speed(self) -> None: ...

    def take_over(self, action: FloatArray) -> None: ...


class HandsOff:
    """An operator without keys: a leader arm moves the robot, or only a policy does.

    Args:
        read: the action (a,) of the leader arm; without one nobody can take over from the policy.
    """

    by_keys, closed, speed = False, False, "-"

    def __init__(self, read: Callable[[], FloatArray] | None = None):
        self.motion, self._read = MotionCommand(), read
        self.active: str | None = None

    def reset(self, instruction: str = "") -> None:
        """It has no state."""

    def act(self, observation: Observation | None = None) -> FloatArray:
        if self._read is None:
            raise RobotError("nobody drives: there is neither a leader arm nor a policy")
        return self._read()

    def switch_gripper(self) -> None:
        """The leader arm has a handle of its own."""

    def switch_end_effector(self) -> None:
        """It moves all at once."""

    def switch_speed(self) -> None:
        """The person's own."""

    def take_over(self, action: FloatArray) -> None:
        """The leader arm is where it is."""


class Teleoperator:
    """A user's input as an `Agent`: set `motion`, then call `act`. It keeps the grippers, the speed and the active end effector.

    Raises `ConfigError` for a robot that cannot be teleoperated.
    """

    by_keys = True

    def __init__(self, spec: RobotSpec, basis: Basis | None = None):
        check_drivable(spec)
        self.spec, self.basis, self.speed = spec, basis or Basis(), "normal"
        self._names = tuple(tool.name for tool in spec.end_effectors)
        self.active = self._names[0] if self._names else None
        self.motion, self._closed = MotionCommand(), set[str]()

    @property
    def closed(self) -> bool:
        """Whether the active end effector's gripper is commanded to be closed."""
        return self.active in self._closed

    def reset(self, instruction: str = "") -> None:
        """No motion, all grippers open. The speed and the active end effector stay."""
        self.motion, self._closed = MotionCommand(), set()

    def act(self, observation: Observation | None = None) -> FloatArray:
        return action_of(self.spec, self.motion, self._closed, SPEEDS[self.speed], self.basis, self.active)

    def switch_gripper(self) -> None:
        """Close or open the active end effector's gripper."""
        if self.active is not None:
            self._closed ^= {self.active}

    def switch_end_effector(self) -> None:
        """Drive the next end effector; the others keep still and hold what they hold."""
        if self.active is not None:
            self.active = _after(self._names, self.active)

    def switch_speed(self) -> None:
        self.speed = _after(tuple(SPEEDS), self.speed)

    def take_over(self, action: FloatArray) -> None:
        """Keep each gripper as in the last `action` (a,) of another agent, so that a takeover drops no object."""
        self._closed = set()
        for tool in self.spec.end_effectors:
            if gripper := self.spec.action_of(tool, "gripper"):
                component, place = gripper
                if action[place.start] < (component.low[0] + component.high[0]) / 2:
                    self._closed.add(tool.name)


def _after(names: tuple[str, ...], name: str) -> str:
    return names[(names.index(name) + 1) % len(names)]


def _vector(kind: str, motion: MotionCommand, basis: Basis) -> Float64Array:
    """The commanded translation or rotation vector (3,), in units of the largest."""
    up = np.array([0.0, 0.0, 1.0])
    if kind == "position_delta":
        return motion.right * basis.right + motion.away * basis.away + motion.up * up
    # Right-handed: a rotation about `away` moves the gripper's top to the right, one about `right` toward the camera.
    return motion.turn * up + motion.lean_right * basis.away - motion.lean_away * basis.right


def _scaled(vector: Float64Array, component: Component, speed: float) -> Float64Array:
    """The axes of `vector` (3,) that `component` has, in its units: 1 is its upper limit, −1 its lower limit."""
    chosen = np.clip(vector[[_AXES.index(axis) for axis in component.axes]], -1.0, 1.0)
    return speed * chosen * np.where(chosen >= 0, component.high, -np.array(component.low)) + 0.0
