"""Move an object away from another object: farther by 7 cm than it was, on the table, let go."""

from __future__ import annotations

import numpy as np

from verbot.contracts import Goal
from verbot.envs.tabletop.expert.placing import DROP_M, ROUGHLY_M, first_free, place, stands_free, ways
from verbot.envs.tabletop.simulation.layout import CLEARANCE_M, Layout, SceneObject
from verbot.envs.tabletop.simulation.physics import Physics
from verbot.envs.tabletop.tasks import Grounding, tasks
from verbot.spec import Float64Array

FARTHER_M = 0.07
_NEAR_M = 0.05  # only what starts this near, beyond the clearance between any two objects, can be asked to leave
_SPARE_M = 0.025
_TURNS_RAD = (0.0, 0.4, -0.4, 0.8, -0.8, 1.2, -1.2)  # from straight away, as far as is needed to find room


@tasks.register("move_away")
class MoveAway:
    variants: tuple[Goal, ...] = ({},)
    hold_s = 0.5
    is_compositional = True
    max_seconds = 8.0

    def goals(self, layout: Layout) -> list[Goal]:
        return [
            {"verb": "move_away", "object": obj.id, "receptacle": other.id, "preposition": "away from"}
            for obj in layout.movables
            for other in layout
            if obj is not other and _distance_m(obj, other) <= _near_m(obj, other) and _spot(layout, obj, other) is not None
        ]

    def target_object(self, goal: Goal) -> str:
        return str(goal["object"])

    def grounding(self, layout: Layout, goal: Goal) -> Grounding:
        obj, other = layout.object(goal["object"]), layout.object(goal["receptacle"])
        spot = _spot(layout, obj, other)
        assert spot is not None, "goals() offers only goals that have a free spot"
        return Grounding(obj.middle_m, np.array((*spot, obj.rest_height_m + DROP_M)), other.middle_m)

    def satisfied(self, physics: Physics, goal: Goal) -> bool:
        return self.error_m(physics, goal) <= 0.0 and stands_free(physics, goal["object"])

    def error_m(self, physics: Physics, goal: Goal) -> float:
        obj, other = physics.layout.object(goal["object"]), physics.layout.object(goal["receptacle"])
        distance = float(np.linalg.norm((physics.position(obj.id) - physics.position(other.id))[:2]))
        return max(0.0, _distance_m(obj, other) + FARTHER_M - distance)

    def act(self, physics: Physics, goal: Goal) -> Float64Array:
        """The spot follows from where the object is now, not from where it started: a picture does not show that."""
        obj, other = physics.layout.object(goal["object"]), physics.layout.object(goal["receptacle"])
        spot = _spot(physics.layout, obj, other, (physics.position(obj.id) - physics.position(other.id))[:2])
        spot = _spot(physics.layout, obj, other) if spot is None else spot
        assert spot is not None, "goals() offers only goals that have a free spot"
        return place(physics, obj.id, np.array((*spot, obj.rest_height_m + DROP_M)), ROUGHLY_M)


def _distance_m(obj: SceneObject, other: SceneObject) -> float:
    return float(np.hypot(obj.x - other.x, obj.y - other.y))


def _near_m(obj: SceneObject, other: SceneObject) -> float:
    """The greatest distance of two objects that are near each other."""
    return obj.radius_m + other.radius_m + CLEARANCE_M + _NEAR_M


def _spot(layout: Layout, obj: SceneObject, other: SceneObject, straight: Float64Array | None = None) -> Float64Array | None:
    """The first free place (2,) that is far enough from wherever near `other` the object started; None if there is none.

    It turns from the way `straight` (2,) from the other object to the object.
    """
    if straight is None:
        straight = np.array((obj.x - other.x, obj.y - other.y))
    distance = _near_m(obj, other) + FARTHER_M + _SPARE_M
    return first_free(layout, obj, np.array((other.x, other.y)) + ways(straight, _TURNS_RAD) * distance)
