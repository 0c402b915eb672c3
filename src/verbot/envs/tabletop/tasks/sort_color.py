"""Put everything of one color in the box, one thing after another; they may lean on each other there."""

from __future__ import annotations

from collections import Counter

import numpy as np

from verbot.envs.tabletop.expert import motion
from verbot.envs.tabletop.expert.placing import carry_straight
from verbot.envs.tabletop.simulation.arm import HOME_TOOL_M, Array
from verbot.envs.tabletop.simulation.layout import BOX_HEIGHT_M, BOX_INNER_M, Layout, Thing
from verbot.envs.tabletop.simulation.physics import Physics
from verbot.envs.tabletop.tasks import Goal, Grounding, tasks

_CORNER_M = np.array((0.027, 0.020))  # from the box's middle: two things lie across a diagonal, with a finger's width to spare
_WITHIN_M = BOX_INNER_M - 0.010
_ABOVE_M = 0.006  # the box's rim, when a thing is let go: lowered further, it could jam on a wall


@tasks.register("sort_color")
class SortColor:
    variants: tuple[Goal, ...] = ({},)
    hold_s = 0.5
    is_compositional = False
    max_seconds = 16.0

    def goals(self, layout: Layout) -> list[Goal]:
        counts = Counter(thing.color for thing in layout.movables)
        return [
            {"verb": "sort_color", "color": color, "receptacle": place.id, "preposition": "in"}
            for color, count in counts.items()
            for place in layout.receptacles
            if count == 2 and place.shape == "box"
        ]

    def target_object(self, goal: Goal) -> str | None:
        return None  # whichever of the color comes first

    def grounding(self, layout: Layout, goal: Goal) -> Grounding:
        place = layout.thing(goal["receptacle"])
        first = min(_wanted(layout, goal), key=lambda thing: np.linalg.norm(thing.middle_m - HOME_TOOL_M))
        release = np.array((place.x + _CORNER_M[0], place.y + _CORNER_M[1], _drop_height_m(first)))
        return Grounding(first.middle_m, release, place.middle_m)

    def satisfied(self, physics: Physics, goal: Goal) -> bool:
        place = physics.layout.thing(goal["receptacle"])
        return all(
            _is_inside(physics, thing, place)
            and not physics.touches(thing.id, "gripper")
            and not physics.touches(thing.id, "table")
            for thing in _wanted(physics.layout, goal)
        )

    def error_m(self, physics: Physics, goal: Goal) -> float:
        """The sum over the things that are not in the box yet."""
        place = physics.position(goal["receptacle"])
        errors = [np.abs(physics.position(thing.id) - place)[:2] - _WITHIN_M for thing in _wanted(physics.layout, goal)]
        return float(sum(np.linalg.norm(np.maximum(0.0, error)) for error in errors))

    def act(self, physics: Physics, goal: Goal) -> Array:
        """The thing in the hand first, then whatever is nearest to the hand and not in the box."""
        place = physics.layout.thing(goal["receptacle"])
        things = _wanted(physics.layout, goal)
        for thing in things:
            if physics.grasped(thing.id):
                return carry_straight(physics, thing.id, _spot(physics, thing, things, place))
        left = [thing for thing in things if not _is_over(physics, thing, place)]
        if not left or any(physics.touches(thing.id) for thing in things if thing not in left):
            return motion.release(physics)
        return motion.grasp(physics, min(left, key=lambda t: np.linalg.norm(physics.position(t.id) - physics.tool_position)).id)


def _wanted(layout: Layout, goal: Goal) -> list[Thing]:
    return [thing for thing in layout.movables if thing.color == goal["color"]]


def _drop_height_m(thing: Thing) -> float:
    return BOX_HEIGHT_M + thing.rest_height_m + _ABOVE_M


def _is_inside(physics: Physics, thing: Thing, place: Thing) -> bool:
    """Its lower half below the box's rim."""
    return _is_over(physics, thing, place) and bool(physics.position(thing.id)[2] < BOX_HEIGHT_M + thing.rest_height_m)


def _is_over(physics: Physics, thing: Thing, place: Thing) -> bool:
    """Inside the box, or falling into it."""
    x, y, z = np.abs(physics.position(thing.id) - (place.x, place.y, 0.0))
    return bool(max(x, y) < _WITHIN_M and z < _drop_height_m(thing) + 0.010)


def _spot(physics: Physics, thing: Thing, things: list[Thing], place: Thing) -> Array:
    """Above the corner of the box (3,) that is farthest from what lies there; the same one at first, whatever the thing."""
    middle = np.array((place.x, place.y))
    inside = [physics.position(other.id)[:2] for other in things if other is not thing and _is_over(physics, other, place)]
    side = np.where(inside[0] < middle, 1.0, -1.0) if inside else np.ones(2)
    return np.array((*(middle + side * _CORNER_M), _drop_height_m(thing)))
