"""The limits of a robot as arrays, one number per axis of the action: what the guard's arithmetic reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from verbot.agents.kinematics import ForwardKinematics
from verbot.errors import ConfigError
from verbot.spec import BASE, BoolArray, Component, EndEffector, Float64Array, Int64Array, MotionLimits, RobotSpec, Workspace
from verbot.spec.holding import RATES, TARGETS, measured_slice

NONE = 1e9  # stands for no limit; finite, so that arithmetic stays free of NaN
DELTAS = frozenset({"position_delta", "rotation_delta"})
MOVING = (RATES | TARGETS) - {"gripper"}  # components that need limits
_MEASURED_AS = {"joint_velocity": "joint_position", "velocity": "position"}


@dataclass(frozen=True)
class AxisTable:
    """Arrays (a,) in float64; positions in the component's unit, velocities in units a second.

    Args:
        gain: velocity of a rate of 1; of a target that of a distance of 1.
        scale: distance that an action of 1 moves the target.
        is_target: 1 where the action is the target itself, 0 where it is a rate.
        low, high: box of the target; `NONE` is none.
        slowest, fastest: range of velocities.
        brake: largest change of velocity in a step; `onset` the largest change of that.
        lead: how far the target may be from the measured value.
        sources: place of the measured value in the state; 0 where `measured` is False.
        rules: (4, a): the rules of `low`, `high`, of the velocity and, of rates, of the first.
        groups: component to its place; its axes are slowed down together.
    """

    gain: Float64Array
    scale: Float64Array
    is_target: Float64Array
    low: Float64Array
    high: Float64Array
    slowest: Float64Array
    fastest: Float64Array
    brake: Float64Array
    onset: Float64Array
    lead: Float64Array
    sources: Int64Array
    measured: BoolArray
    low_rules: tuple[str, ...]
    high_rules: tuple[str, ...]
    speed_rules: tuple[str, ...]
    groups: tuple[tuple[Component, slice], ...]


@dataclass(frozen=True)
class ChainBox:
    """A workspace that joints must keep: `kinematics` of the axes at `place`, and the box (3,) and (3,)."""

    kinematics: ForwardKinematics
    place: slice
    low: Float64Array
    high: Float64Array


def check_covered(spec: RobotSpec) -> None:
    """Raise `ConfigError` that says what is missing unless `spec` limits each component that moves the robot."""
    limits = {limit.component: limit for limit in spec.limits}
    moving = [c for c in spec.action if c.kind in MOVING]
    bare = [c.name for c in moving if c.name not in limits] or ([] if spec.limits else [c.name for c in spec.action])
    if bare:
        raise ConfigError(
            f"robot {spec.name!r} has no motion limits for {', '.join(map(repr, bare))}: give its spec MotionLimits "
            "(RobotSpec.limits), or say that it may move unguarded (--unguarded; Guard(unguarded=True))"
        )
    for component in moving:
        limit = limits[component.name]
        if component.kind in TARGETS and limit.step is None and limit.velocity is None:
            raise ConfigError(
                f"the limits of component {component.name!r} of robot {spec.name!r} have neither step nor velocity; "
                "expected one of them, for a target can be anywhere"
            )


def axis_table(spec: RobotSpec) -> AxisTable:
    """The table of a robot. Raises `ConfigError` for limits that cannot be kept."""
    limits = {limit.component: limit for limit in spec.limits}
    rows = [_rows(spec, component, limits.get(component.name)) for component in spec.action]
    names = ("gain", "scale", "is_target", "low", "high", "slowest", "fastest", "brake", "onset", "lead")
    arrays = {name: np.concatenate([row[name] for row in rows]) for name in names}
    sources = [measured_slice_of(spec, component) for component in spec.action]
    low_rules, high_rules = ["position"] * spec.action_size, ["position"] * spec.action_size
    for box in spec.workspaces:
        place = _cartesian(spec, box)
        if place is None:
            continue
        for axis, index in enumerate(range(place.start, place.stop)):
            low, high = float(np.float32(box.low[axis])), float(np.float32(box.high[axis]))
            if low > arrays["low"][index]:
                arrays["low"][index], low_rules[index] = low, "workspace"
            if high < arrays["high"][index]:
                arrays["high"][index], high_rules[index] = high, "workspace"
            if arrays["low"][index] >= arrays["high"][index]:
                raise ConfigError(f"the workspace and the limits of robot {spec.name!r} have nothing in common on axis {axis}")
    return AxisTable(
        **arrays,
        sources=np.concatenate(
            [np.arange(s.start, s.stop) if s else np.zeros(c.size, int) for c, s in zip(spec.action, sources, strict=True)]
        ),
        measured=np.concatenate([np.full(c.size, s is not None) for c, s in zip(spec.action, sources, strict=True)]),
        low_rules=tuple(low_rules),
        high_rules=tuple(high_rules),
        speed_rules=tuple(str(rule) for row in rows for rule in row["rules"]),
        groups=tuple((component, spec.action_slices()[component.name]) for component in spec.action),
    )


def chain_boxes(spec: RobotSpec) -> tuple[ChainBox, ...]:
    """The workspaces of end effectors that joints move. Raises `ConfigError` for one without a chain."""
    boxes = []
    chains = {chain.end_effector: chain for chain in spec.chains}
    components = {component.name: component for component in spec.action}
    for box in spec.workspaces:
        if _cartesian(spec, box) is not None:
            continue
        chain = chains.get(box.end_effector)
        if chain is None:
            raise ConfigError(
                f"robot {spec.name!r} has a workspace of end effector {box.end_effector!r}, but no action component of its "
                "position in the base frame, and no KinematicChain (RobotSpec.chains)"
            )
        component = components[chain.component]
        kinematics = ForwardKinematics(chain, component.axes, component.unit)
        boxes.append(ChainBox(kinematics, spec.action_slices()[component.name], np.array(box.low), np.array(box.high)))
    return tuple(boxes)


def measured_slice_of(spec: RobotSpec, component: Component) -> slice | None:
    """Where the state holds the measured value of what an action component moves; None if that is not clear."""
    if component.kind in TARGETS:
        return measured_slice(spec, component)
    if component.kind == "position_delta" and component.frame == BASE:
        for end_effector in spec.end_effectors:
            placed = spec.state_of(end_effector, "position") if component.name in end_effector.action else None
            if placed is not None and placed[0].size == component.size and placed[0].frame == BASE:
                return placed[1]
    kind = _MEASURED_AS.get(component.kind)
    found = [c for c in spec.state if c.kind == kind and (c.axes, c.frame) == (component.axes, component.frame)]
    return spec.state_slices()[found[0].name] if len(found) == 1 else None


def _rows(spec: RobotSpec, component: Component, limit: MotionLimits | None) -> Mapping[str, Float64Array]:
    """The arrays of one component."""
    size, rate = component.size, spec.rate_hz
    is_rate, is_delta = component.kind in RATES, component.kind in DELTAS
    given = {
        name: _array(getattr(limit, name) if limit else None, size)
        for name in ("low", "high", "step", "velocity", "acceleration", "jerk", "lead")
    }
    if limit is not None and limit.low is None:
        given["low"] = -given["high"]
    if limit is None:
        given["low"] = np.full(size, -NONE)
    is_boxed = is_rate and component.kind != "rotation_delta" and limit is not None
    if is_boxed and limit is not None and limit.low is not None and measured_slice_of(spec, component) is None:
        raise ConfigError(
            f"component {component.name!r} of robot {spec.name!r} is a {component.kind} with a box, but no state component "
            "measures what it moves; leave low and high out"
        )
    if component.kind == "quaternion" and limit is not None and any((limit.low, limit.acceleration, limit.jerk, limit.lead)):
        raise ConfigError(f"component {component.name!r} is a quaternion; expected limits of step or velocity alone, in rad")
    scale = 1.0 if is_delta or not is_rate else 1.0 / rate
    gain = scale * rate
    ranges = np.array([component.low, component.high], np.float32).astype(float)
    # Rounded as an action is, so that an action at its limit is not above it.
    stride = np.minimum(given["step"], given["velocity"] / rate)
    speed = (stride / scale).astype(np.float32).astype(float) * gain
    rules = np.where(given["step"] <= given["velocity"] / rate, "step", "velocity")
    slowest, fastest, low, high = -speed, speed, given["low"], given["high"]
    if is_rate:
        rules = np.where(np.maximum(-ranges[0], ranges[1]) * gain <= speed, "range", rules)
        slowest, fastest = np.maximum(slowest, ranges[0] * gain), np.minimum(fastest, ranges[1] * gain)
    else:
        low, high = np.maximum(low.astype(np.float32), ranges[0]), np.minimum(high.astype(np.float32), ranges[1])
        if (low >= high).any():
            raise ConfigError(f"the limits and the range of component {component.name!r} have nothing in common")
    if component.kind == "quaternion":
        low, high, slowest, fastest = np.full(4, -NONE), np.full(4, NONE), np.full(4, -NONE), np.full(4, NONE)
    brake, onset = given["acceleration"] / rate, given["jerk"] / rate**2
    most = np.maximum(fastest, -slowest)
    lead, needed = given["lead"], most / rate + stopping(most, brake, 1.0 / rate)
    if is_rate:
        if (lead < needed * (1 - 1e-6)).any():
            raise ConfigError(
                f"the lead of component {component.name!r} of robot {spec.name!r} is {lead.tolist()}; expected at least "
                f"{needed.round(6).tolist()}, the distance that it needs to stop"
            )
        lead = np.minimum(2.0 * needed, NONE) if limit is None or limit.lead is None else lead
    ones = np.ones(size)
    return {
        "gain": gain * ones, "scale": scale * ones, "is_target": ones * (not is_rate), "low": low, "high": high,
        "slowest": slowest, "fastest": fastest, "brake": brake, "onset": onset, "lead": lead, "rules": rules,
    }  # fmt: skip


def stopping(velocity: Float64Array, brake: Float64Array, period_s: float) -> Float64Array:
    """The distance (a,) that is covered after this step until rest, where each step takes `brake` off the velocity.

    Example:
        >>> abs(stopping(np.array([0.5, 0.25]), np.array([0.2, 1.0]), 0.1)).round(6).tolist()  # 0.3 and 0.1 m/s, and none
        [0.04, 0.0]
    """
    speed = np.abs(velocity)
    steps = np.floor(speed / brake)
    distance: Float64Array = period_s * steps * (speed - 0.5 * brake * (steps + 1.0))
    return distance


def _array(values: tuple[float, ...] | None, size: int) -> Float64Array:
    return np.full(size, NONE) if values is None else np.array(values, float)


def _cartesian(spec: RobotSpec, box: Workspace) -> slice | None:
    """The place of the action component whose target is the position of the box's end effector."""
    end_effector = spec.end_effector(box.end_effector)
    return None if end_effector is None else _position(spec, end_effector)


def _position(spec: RobotSpec, end_effector: EndEffector) -> slice | None:
    for kind in ("position", "position_delta"):
        placed = spec.action_of(end_effector, kind)
        if placed is not None and placed[0].size == 3 and placed[0].frame == BASE:
            return placed[1] if kind == "position" or measured_slice_of(spec, placed[0]) is not None else None
    return None
