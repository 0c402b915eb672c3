"""Place an object next to another object, or to the left or right of it: on the table, close by, let go."""

from __future__ import annotations

import numpy as np

from verbot.contracts import Goal
from verbot.envs.tabletop.expert.placing import DROP_M, ROUGHLY_M, first_free, place, stands_free, ways
from verbot.envs.tabletop.language.vocabulary import DIRECTIONS
from verbot.envs.tabletop.simulation.layout import Layout, SceneObject
from verbot.envs.tabletop.simulation.physics import Physics
from verbot.envs.tabletop.tasks import Grounding, tasks
from verbot.spec import Float64Array

GAP_M = 0.060  # the most between the edges of two objects that are next to each other
_BESIDE_M = 0.040  # between the edges where the expert puts it: room for an open finger
_TURNS_RAD = tuple(side * turn for turn in np.arange(0.0, np.pi, 0.4) for side in (1, -1))

# Preposition to the only way from the other object to the object; None if any will do.
WAYS: dict[str, Float64Array | None] = {
    "next to": None,
    "left of": np.array(DIRECTIONS["left"][:2]),
    "right of": np.array(DIRECTIONS["right"][:2]),
}


@tasks.register("place_next_to")
class PlaceNextTo:
    variants: tuple[Goal, ...] = tuple({"preposition": preposition} for preposition in WAYS)
    hold_s = 0.5
    is_compositional = True
    max_seconds = 8.0

    def goals(self, layout: Layout) -> list[Goal]:
        return [
            {"verb": "place_next_to", "object": obj.id, "receptacle": other.id, "preposition": preposition}
            for obj in layout.movables
            for other in layout
            for preposition in WAYS
            if obj is not other
            and _spot(layout, obj, other, preposition) is not None
            and _error_m(obj, other, np.array((obj.x - other.x, obj.y - other.y)), preposition) > 0.02
        ]

    def target_object(self, goal: Goal) -> str:
        return str(goal["object"])

    def grounding(self, layout: Layout, goal: Goal) -> Grounding:
        obj, other = layout.object(goal["object"]), layout.object(goal["receptacle"])
        spot = _spot(layout, obj, other, goal["preposition"])
        assert spot is not None, "goals() offers only goals that have a free spot"
        return Grounding(obj.middle_m, np.array((*spot, obj.rest_height_m + DROP_M)), other.middle_m)

    def satisfied(self, physics: Physics, goal: Goal) -> bool:
        return self.error_m(physics, goal) <= 0.0 and stands_free(physics, goal["object"])

    def error_m(self, physics: Physics, goal: Goal) -> float:
        obj, other = physics.layout.object(goal["object"]), physics.layout.object(goal["receptacle"])
        offset = physics.position(obj.id) - physics.position(other.id)
        return _error_m(obj, other, offset[:2], goal["preposition"])

    def act(self, physics: Physics, goal: Goal) -> Float64Array:
        """The spot follows from where the object is now, not from where it started: a picture does not show that."""
        obj, other = physics.layout.object(goal["object"]), physics.layout.object(goal["receptacle"])
        middle = physics.position(other.id)[:2]
        spot = _spot(physics.layout, obj, other, goal["preposition"], physics.position(obj.id)[:2] - middle)
        spot = _spot(physics.layout, obj, other, goal["preposition"]) if spot is None else spot
        assert spot is not None, "goals() offers only goals that have a free spot"
        shift = middle - (other.x, other.y)
        return place(physics, obj.id, np.array((*(spot + shift), obj.rest_height_m + DROP_M)), ROUGHLY_M)


def _error_m(obj: SceneObject, other: SceneObject, offset: Float64Array, preposition: str) -> float:
    """How far an offset (2,) from the other object is from close enough and, for a side, within 45° of it."""
    excess = max(0.0, float(np.linalg.norm(offset)) - obj.radius_m - other.radius_m - GAP_M)
    way = WAYS[preposition]
    if way is None:
        return excess
    along = float(offset @ way)
    aside = float(np.linalg.norm(offset - along * way))
    return float(np.hypot(excess, max(0.0, aside - along)))


def _spot(
    layout: Layout, obj: SceneObject, other: SceneObject, preposition: str, straight: Float64Array | None = None
) -> Float64Array | None:
    """The free place (2,) beside `other`; where any side will do, the one nearest to the way `straight` (2,) to the object."""
    way = WAYS[preposition]
    if straight is None:
        straight = np.array((obj.x - other.x, obj.y - other.y))
    directions = ways(straight, _TURNS_RAD) if way is None else way[None]
    distance = other.radius_m + obj.radius_m + _BESIDE_M
    return first_free(layout, obj, np.array((other.x, other.y)) + directions * distance)
