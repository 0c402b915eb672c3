"""Move an object away from another thing: farther by 7 cm than it was, on the table, let go."""

from __future__ import annotations

import numpy as np

from verbot.envs.tabletop.arm import Array
from verbot.envs.tabletop.layout import Layout, Thing
from verbot.envs.tabletop.physics import Physics
from verbot.envs.tabletop.placing import DROP_M, nearest_free, place, stands_free
from verbot.envs.tabletop.tasks import Goal, Grounding, tasks

FARTHER_M = 0.07
NEAR_M = 0.20  # only what starts this near can be asked to leave
_AWAY_M = 0.10  # what the expert aims at
_TURNS_RAD = (0.0, 0.5, -0.5, 1.0, -1.0)  # from straight away, as far as is needed to find room


@tasks.register("move_away")
class MoveAway:
    variants: tuple[Goal, ...] = ({},)
    hold_s = 0.5
    is_compositional = True
    max_seconds = 8.0

    def goals(self, layout: Layout) -> list[Goal]:
        return [
            {"verb": "move_away", "object": thing.id, "receptacle": other.id, "preposition": "away from"}
            for thing in layout.movables
            for other in layout
            if thing is not other and _spot(layout, thing, other) is not None
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
        distance = float(np.linalg.norm((physics.position(thing.id) - physics.position(other.id))[:2]))
        return max(0.0, _distance_m(thing, other) + FARTHER_M - distance)

    def act(self, physics: Physics, goal: Goal) -> Array:
        thing, spot = physics.layout.thing(goal["object"]), _goal_spot(physics.layout, goal)
        return place(physics, thing.id, np.array((*spot, thing.rest_height_m + DROP_M)))


def _distance_m(thing: Thing, other: Thing) -> float:
    return float(np.hypot(thing.x - other.x, thing.y - other.y))


def _goal_spot(layout: Layout, goal: Goal) -> Array:
    spot = _spot(layout, layout.thing(goal["object"]), layout.thing(goal["receptacle"]))
    assert spot is not None, "goals() offers only goals that have a free spot"
    return spot


def _spot(layout: Layout, thing: Thing, other: Thing) -> Array | None:
    """The first free place (2,) that is far enough, turning from straight away; None where there is none."""
    distance = _distance_m(thing, other)
    if distance > NEAR_M:
        return None
    straight = np.arctan2(thing.y - other.y, thing.x - other.x)
    for turn in _TURNS_RAD:
        way = np.array((np.cos(straight + turn), np.sin(straight + turn)))
        spot = np.array((other.x, other.y)) + way * (distance + _AWAY_M)
        free = nearest_free(layout, thing, spot[None])
        if free is not None:
            return free
    return None
