"""Putting an object down at a chosen spot: where there is room, how the expert does it, and whether it stands there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verbot.envs.tabletop.expert import motion
from verbot.envs.tabletop.simulation.layout import CLEARANCE_M, WORKSPACE_M, Layout, SceneObject
from verbot.envs.tabletop.simulation.physics import Physics
from verbot.spec import Float64Array

DROP_M = 0.003  # the object's center is let go this much above where it will rest
ROUGHLY_M = 0.013  # near enough to a spot that is one of many
_ON_SPOT_M, _LOW_M, _PRECISE_M = 0.020, 0.015, 0.012


def ways(straight: Float64Array, turns_rad: Sequence[float]) -> Float64Array:
    """Unit vectors (n, 2): the direction of `straight` (2,), turned by each angle."""
    angle = np.arctan2(straight[1], straight[0]) + np.asarray(turns_rad)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def first_free(layout: Layout, obj: SceneObject, spots: Float64Array) -> Float64Array | None:
    """The first spot (2,) of (n, 2) where `obj` has room, whatever else stands where it started; None if there is none."""
    low, high = np.array(WORKSPACE_M).T
    for spot in spots:
        inside = (low <= spot).all() and (spot <= high).all()
        if inside and all(
            np.hypot(x - spot[0], y - spot[1]) > radius + obj.radius_m + CLEARANCE_M
            for x, y, radius in layout.obstacles()
            if (x, y) != (obj.x, obj.y)
        ):
            return np.asarray(spot)
    return None


def place(physics: Physics, name: str, goal: Float64Array, near_m: float = motion.NEAR_M) -> Float64Array:
    """The expert's action (7,) that takes a movable's center to `goal` (3,), lets go and leaves.

    Args:
        near_m: it goes down and lets go this near to it. The rougher, the less a policy that sees 1 cm in a pixel hesitates.
    """
    if physics.grasped(name):
        return motion.carry(physics, name, goal, near_m)
    offset = physics.position(name) - goal
    if np.hypot(offset[0], offset[1]) < max(_ON_SPOT_M, 1.5 * near_m) and abs(offset[2]) < _LOW_M:
        return motion.release(physics)
    return motion.grasp(physics, name)


def carry_straight(physics: Physics, name: str, goal: Float64Array) -> Float64Array:
    """As `motion.carry`, but turning the tool to yaw 0 on the way and letting go only within 12 mm of the spot."""
    offset = goal - physics.position(name)
    if np.linalg.norm(offset) < _PRECISE_M:
        return motion.action(physics, np.zeros(3), 0.0, is_open=True)
    delta = motion.travel(physics, goal, physics.position(name), motion.CARRY_HEIGHT_M - goal[2])
    return motion.action(physics, delta, 0.0, is_open=False)


def stands_free(physics: Physics, name: str) -> bool:
    """Whether a movable is on the table and let go."""
    return physics.touches(name, "table") and not physics.touches(name, "gripper")
