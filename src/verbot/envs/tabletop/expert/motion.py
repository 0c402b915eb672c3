"""What experts are made of: motions decided from the present state alone, so that they can correct any state."""

from __future__ import annotations

import numpy as np

from verbot.envs.tabletop.simulation import arm
from verbot.envs.tabletop.simulation.physics import POSITION_UNIT_M, ROTATION_UNIT_RAD, Physics
from verbot.spec import Float64Array

HOVER_M = 0.065  # above the goal while travelling; the fingers clear everything that stands on the table
LIFT_HEIGHT_M = 0.16
CARRY_HEIGHT_M = 0.125
_LOW_M, _FREE_M = 0.055, 0.080  # between these heights sideways motion fades in
_SLOPE = 4.0  # of the funnel above a goal
NEAR_M = 0.010
_GAIN = 0.8  # the tool lags behind its target by half a step: the full way would overshoot
_UP = 2


def action(physics: Physics, delta: Float64Array, yaw: float, is_open: bool, speed_m: float = POSITION_UNIT_M) -> Float64Array:
    """Move by `delta` (3,) at most `speed_m` a step, turn the tool upright to `yaw`, and open or close."""
    length = float(np.abs(delta).max())
    out = np.zeros(7)
    out[:3] = delta * min(1.0, speed_m / max(length, 1e-9))
    turn = arm.vector_from_rotation(arm.rotation_about_z(yaw) @ physics.tool_rotation.T)
    out[3:6] = np.clip(turn, -ROTATION_UNIT_RAD, ROTATION_UNIT_RAD)
    out[6] = 1.0 if is_open else 0.0
    return out


def travel(
    physics: Physics, goal: Float64Array, carried: Float64Array | None = None, hover_m: float = HOVER_M, near_m: float = NEAR_M
) -> Float64Array:
    """The delta (3,) that brings the tool, or what it carries, to `goal` (3,): up, across, and down a funnel."""
    place = physics.tool_position if carried is None else carried
    delta = goal - place
    across = float(np.hypot(delta[0], delta[1]))
    delta[2] += min(hover_m, _SLOPE * max(0.0, across - near_m))
    if across > near_m + 2 * NEAR_M:
        delta[:2] *= np.clip((physics.tool_position[2] - _LOW_M) / (_FREE_M - _LOW_M), 0.0, 1.0)
    return _GAIN * delta


def grasp_yaw(physics: Physics, name: str) -> float:
    """The smallest turn of the tool at which its pads meet two opposite faces (cube) or sides (lying cylinder)."""
    shape, rotation = physics.layout.object(name).shape, physics.rotation(name)
    if shape == "ball" or (shape == "cylinder" and abs(rotation[_UP, 2]) > 0.7):
        return 0.0
    axis = rotation[:, 2] if shape == "cylinder" else rotation[:, int(np.argmin(np.abs(rotation[_UP])))]
    period = np.pi if shape == "cylinder" else np.pi / 2
    yaw = float(np.arctan2(axis[1], axis[0]))
    return (yaw + period / 2) % period - period / 2


def grasp(physics: Physics, name: str) -> Float64Array:
    """Go over a movable, down to it, and close on it."""
    goal, yaw = physics.position(name).copy(), grasp_yaw(physics, name)
    goal[2] = max(goal[2], 0.020)
    offset, turn = goal - physics.tool_position, abs(yaw - physics.tool_yaw)
    if np.hypot(offset[0], offset[1]) < NEAR_M and abs(offset[2]) < 0.010 and turn < 0.2:
        return action(physics, offset, yaw, is_open=False)
    if physics.opening < 0.6:  # it closed on nothing: open above the object before going down again
        goal[2] += HOVER_M
    return action(physics, travel(physics, goal), yaw, is_open=True)


def raise_to(physics: Physics, height_m: float, is_open: bool) -> Float64Array:
    """Straight up (or down) to a height, keeping the tool's yaw."""
    delta = np.array((0.0, 0.0, height_m - physics.tool_position[2]))
    return action(physics, delta, physics.tool_yaw, is_open)


def carry(physics: Physics, name: str, goal: Float64Array, near_m: float = NEAR_M) -> Float64Array:
    """Bring a grasped movable's center to `goal` (3,) through the air, and open there: going down begins at `near_m`."""
    place = physics.position(name)
    offset = goal - place
    if np.hypot(offset[0], offset[1]) < near_m + 0.5 * NEAR_M and abs(offset[2]) < 0.008:
        return action(physics, np.zeros(3), physics.tool_yaw, is_open=True)
    delta = travel(physics, goal, place, CARRY_HEIGHT_M - goal[2], near_m)
    return action(physics, delta, physics.tool_yaw, is_open=False)


def release(physics: Physics) -> Float64Array:
    """Open fully, then leave straight up."""
    if physics.opening < 0.8:
        return action(physics, np.zeros(3), physics.tool_yaw, is_open=True)
    return raise_to(physics, LIFT_HEIGHT_M, is_open=True)
