"""Put everything of one color in the box, one object after another; they may lean on each other there."""

from __future__ import annotations

from collections import Counter

import numpy as np

from verbot.contracts import Goal
from verbot.envs.tabletop.expert import motion
from verbot.envs.tabletop.expert.placing import carry_straight
from verbot.envs.tabletop.simulation.arm import HOME_TOOL_M
from verbot.envs.tabletop.simulation.layout import BOX_HEIGHT_M, BOX_INNER_M, Layout, SceneObject
from verbot.envs.tabletop.simulation.physics import Physics
from verbot.envs.tabletop.tasks import Grounding, tasks
from verbot.spec import Float64Array

_CORNER_M = np.array((0.027, 0.020))  # from the box's middle: two objects lie across a diagonal, with a finger's width to spare
_WITHIN_M = BOX_INNER_M - 0.010
_ABOVE_M = 0.006  # the box's rim, when an object is let go: lowered further, it could jam on a wall


@tasks.register("sort_color")
class SortColor:
    variants: tuple[Goal, ...] = ({},)
    hold_s = 0.5
    is_compositional = False
    max_seconds = 16.0

    def goals(self, layout: Layout) -> list[Goal]:
        counts = Counter(obj.color for obj in layout.movables)
        return [
            {"verb": "sort_color", "color": color, "receptacle": place.id, "preposition": "in"}
            for color, count in counts.items()
            for place in layout.receptacles
            if count == 2 and place.shape == "box"
        ]

    def target_object(self, goal: Goal) -> str | None:
        return None  # whichever of the color comes first

    def grounding(self, layout: Layout, goal: Goal) -> Grounding:
        place = layout.object(goal["receptacle"])
        first = min(_wanted(layout, goal), key=lambda obj: np.linalg.norm(obj.middle_m - HOME_TOOL_M))
        release = np.array((place.x + _CORNER_M[0], place.y + _CORNER_M[1], _drop_height_m(first)))
        return Grounding(first.middle_m, release, place.middle_m)

    def satisfied(self, physics: Physics, goal: Goal) -> bool:
        place = physics.layout.object(goal["receptacle"])
        return all(
            _is_inside(physics, obj, place) and not physics.touches(obj.id, "gripper") and not physics.touches(obj.id, "table")
            for obj in _wanted(physics.layout, goal)
        )

    def error_m(self, physics: Physics, goal: Goal) -> float:
        """The sum over the objects that are not in the box yet."""
        place = physics.position(goal["receptacle"])
        errors = [np.abs(physics.position(obj.id) - place)[:2] - _WITHIN_M for obj in _wanted(physics.layout, goal)]
        return float(sum(np.linalg.norm(np.maximum(0.0, error)) for error in errors))

    def act(self, physics: Physics, goal: Goal) -> Float64Array:
        """The object in the hand first, then whatever is nearest to the hand and not in the box."""
        place = physics.layout.object(goal["receptacle"])
        objects = _wanted(physics.layout, goal)
        for obj in objects:
            if physics.grasped(obj.id):
                return carry_straight(physics, obj.id, _spot(physics, obj, objects, place))
        left = [obj for obj in objects if not _is_over(physics, obj, place)]
        if not left or any(physics.touches(obj.id) for obj in objects if obj not in left):
            return motion.release(physics)
        return motion.grasp(physics, min(left, key=lambda t: np.linalg.norm(physics.position(t.id) - physics.tool_position)).id)


def _wanted(layout: Layout, goal: Goal) -> list[SceneObject]:
    return [obj for obj in layout.movables if obj.color == goal["color"]]


def _drop_height_m(obj: SceneObject) -> float:
    return BOX_HEIGHT_M + obj.rest_height_m + _ABOVE_M


def _is_inside(physics: Physics, obj: SceneObject, place: SceneObject) -> bool:
    """Its lower half below the box's rim."""
    return _is_over(physics, obj, place) and bool(physics.position(obj.id)[2] < BOX_HEIGHT_M + obj.rest_height_m)


def _is_over(physics: Physics, obj: SceneObject, place: SceneObject) -> bool:
    """Inside the box, or falling into it."""
    x, y, z = np.abs(physics.position(obj.id) - (place.x, place.y, 0.0))
    return bool(max(x, y) < _WITHIN_M and z < _drop_height_m(obj) + 0.010)


def _spot(physics: Physics, obj: SceneObject, objects: list[SceneObject], place: SceneObject) -> Float64Array:
    """Above the corner of the box (3,) that is farthest from what lies there; the same one at first, whatever the object."""
    middle = np.array((place.x, place.y))
    inside = [physics.position(other.id)[:2] for other in objects if other is not obj and _is_over(physics, other, place)]
    side = np.where(inside[0] < middle, 1.0, -1.0) if inside else np.ones(2)
    return np.array((*(middle + side * _CORNER_M), _drop_height_m(obj)))
