"""Put an object in a box or on a plate: it must rest there, and the gripper must have let go."""

from __future__ import annotations

import numpy as np

from verbot.contracts import Goal
from verbot.envs.tabletop.expert import motion
from verbot.envs.tabletop.language.vocabulary import RECEPTACLES
from verbot.envs.tabletop.simulation.layout import (
    BOX_FLOOR_M,
    BOX_HEIGHT_M,
    BOX_INNER_M,
    PLATE_HEIGHT_M,
    PLATE_RADIUS_M,
    Layout,
    SceneObject,
)
from verbot.envs.tabletop.simulation.physics import Physics
from verbot.envs.tabletop.tasks import Grounding, tasks
from verbot.spec import Float64Array

_TIP_M = 0.012  # from the tool's origin down to the fingertips


@tasks.register("put")
class Put:
    variants: tuple[Goal, ...] = tuple({"preposition": preposition} for preposition in RECEPTACLES.values())
    hold_s = 0.5
    is_compositional = True
    max_seconds = 8.0

    def goals(self, layout: Layout) -> list[Goal]:
        return [
            {"verb": "put", "object": obj.id, "receptacle": place.id, "preposition": RECEPTACLES[place.shape]}
            for obj in layout.movables
            for place in layout.receptacles
        ]

    def target_object(self, goal: Goal) -> str:
        return str(goal["object"])

    def grounding(self, layout: Layout, goal: Goal) -> Grounding:
        obj, place = layout.object(goal["object"]), layout.object(goal["receptacle"])
        release = np.array((place.x, place.y, release_height_m(obj, place)))
        return Grounding(obj.middle_m, release, place.middle_m)

    def satisfied(self, physics: Physics, goal: Goal) -> bool:
        obj = physics.layout.object(goal["object"])
        return rests_in(physics, obj.id, goal["receptacle"]) and not physics.touches(obj.id, "gripper")

    def error_m(self, physics: Physics, goal: Goal) -> float:
        obj, place = physics.layout.object(goal["object"]), physics.layout.object(goal["receptacle"])
        rest = np.array((place.x, place.y, _floor_m(place) + obj.rest_height_m))
        offset = np.abs(physics.position(obj.id) - rest)
        return float(np.linalg.norm(np.maximum(0.0, offset - (*[_margin_m(place)] * 2, 0.012))))

    def act(self, physics: Physics, goal: Goal) -> Float64Array:
        obj, place = physics.layout.object(goal["object"]), physics.layout.object(goal["receptacle"])
        height = release_height_m(obj, place)
        if physics.grasped(obj.id):
            return motion.carry(physics, obj.id, np.array((place.x, place.y, height)))
        position = physics.position(obj.id)
        if np.hypot(position[0] - place.x, position[1] - place.y) < _margin_m(place) and position[2] < height + 0.015:
            return motion.release(physics)
        return motion.grasp(physics, obj.id)


def release_height_m(obj: SceneObject, place: SceneObject) -> float:
    """Where the object's center is let go: as low as the plate allows, or with the open fingers clear of the box's walls."""
    low = _floor_m(place) + obj.rest_height_m + 0.004
    return low if place.shape == "plate" else max(low, BOX_HEIGHT_M + _TIP_M + 0.006)


def rests_in(physics: Physics, name: str, receptacle: str) -> bool:
    """Whether a movable stands within the receptacle's edge, at the height of its floor, and off the table."""
    place = physics.layout.object(receptacle)
    x, y, z = physics.position(name) - (place.x, place.y, 0.0)
    if place.shape == "plate":
        within = np.hypot(x, y) < _margin_m(place)
    else:
        within = max(abs(x), abs(y)) < _margin_m(place)
    high = _floor_m(place) + physics.layout.object(name).rest_height_m + 0.012
    return bool(within and z < high and not physics.touches(name, "table"))


def _floor_m(place: SceneObject) -> float:
    return PLATE_HEIGHT_M if place.shape == "plate" else BOX_FLOOR_M


def _margin_m(place: SceneObject) -> float:
    """How far from the middle an object's center may be."""
    return PLATE_RADIUS_M - 0.010 if place.shape == "plate" else BOX_INNER_M - 0.010
