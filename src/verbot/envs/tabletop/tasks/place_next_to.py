"""Place an object next to another thing, or to the left or right of it: on the table, close by, let go."""

from __future__ import annotations

import numpy as np

from verbot.envs.tabletop.arm import Array
from verbot.envs.tabletop.layout import Layout, Thing
from verbot.envs.tabletop.physics import Physics
from verbot.envs.tabletop.placing import DROP_M, nearest_free, place, stands_free
from verbot.envs.tabletop.tasks import Goal, Grounding, tasks
from verbot.envs.tabletop.vocabulary import DIRECTIONS

GAP_M = 0.060  # the most between the edges of two things that are next to each other
_BESIDE_M = 0.064  # from the other thing's edge to the object's center: room for an open finger

# Preposition to the ways from the other thing to the object; more ways are tried from the object's own side on.
WAYS: dict[str, Array] = {
    "next to": np.array([(np.cos(a), np.sin(a)) for a in np.arange(8) * np.pi / 4]),
    "left of": np.array([DIRECTIONS["left"][:2]]),
    "right of": np.array([DIRECTIONS["right"][:2]]),
}


@tasks.register("place_next_to")
class PlaceNextTo:
    variants: tuple[Goal, ...] = tuple({"preposition": preposition} for preposition in WAYS)
    hold_s = 0.5
    is_compositional = True
    max_seconds = 8.0

    def goals(self, layout: Layout) -> list[Goal]:
        return [
            {"verb": "place_next_to", "object": thing.id, "receptacle": other.id, "preposition": preposition}
            for thing in layout.movables
            for other in layout
            for preposition in WAYS
            if thing is not other
            and _spot(layout, thing, other, preposition) is not None
            and _error_m(thing, other, np.array((thing.x - other.x, thing.y - other.y)), preposition) > 0.02
        ]

    def named(self, goal: Goal) -> str:
        return str(goal["object"])

    def grounding(self, layout: Layout, goal: Goal) -> Grounding:
        thing, spot = layout.thing(goal["object"]), _goal_spot(layout, goal)
        target = np.array((thing.x, thing.y, thing.rest_height_m))
        return Grounding(target, np.array((*spot, thing.rest_height_m + DROP_M)))

    def satisfied(self, physics: Physics, goal: Goal) -> bool:
        return self.error_m(physics, goal) <= 0.0 and stands_free(physics, goal["object"])

    def error_m(self, physics: Physics, goal: Goal) -> float:
        thing, other = physics.layout.thing(goal["object"]), physics.layout.thing(goal["receptacle"])
        offset = physics.position(thing.id) - physics.position(other.id)
        return _error_m(thing, other, offset[:2], goal["preposition"])

    def act(self, physics: Physics, goal: Goal) -> Array:
        thing, other = physics.layout.thing(goal["object"]), physics.layout.thing(goal["receptacle"])
        shift = physics.position(other.id)[:2] - (other.x, other.y)
        spot = _goal_spot(physics.layout, goal) + shift
        return place(physics, thing.id, np.array((*spot, thing.rest_height_m + DROP_M)))


def _error_m(thing: Thing, other: Thing, offset: Array, preposition: str) -> float:
    """How far an offset (2,) from the other thing is from close enough and, for a side, within 45° of it."""
    excess = max(0.0, float(np.linalg.norm(offset)) - thing.radius_m - other.radius_m - GAP_M)
    ways = WAYS[preposition]
    if len(ways) > 1:
        return excess
    along = float(offset @ ways[0])
    aside = float(np.linalg.norm(offset - along * ways[0]))
    return float(np.hypot(excess, max(0.0, aside - along)))


def _goal_spot(layout: Layout, goal: Goal) -> Array:
    spot = _spot(layout, layout.thing(goal["object"]), layout.thing(goal["receptacle"]), goal["preposition"])
    assert spot is not None, "goals() offers only goals that have a free spot"
    return spot


def _spot(layout: Layout, thing: Thing, other: Thing, preposition: str) -> Array | None:
    """The free place (2,) beside `other` that is nearest to where the object starts."""
    spots = np.array((other.x, other.y)) + WAYS[preposition] * (other.radius_m + _BESIDE_M)
    return nearest_free(layout, thing, spots)
