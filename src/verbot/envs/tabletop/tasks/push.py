"""Push an object some way in a direction: 6 cm at least, mainly that way, without lifting it."""

from __future__ import annotations

import numpy as np

from verbot.contracts import Goal
from verbot.envs.tabletop.expert import motion
from verbot.envs.tabletop.language.vocabulary import DIRECTIONS
from verbot.envs.tabletop.simulation.layout import CLEARANCE_M, REACH_M, Layout, SceneObject
from verbot.envs.tabletop.simulation.physics import Physics
from verbot.envs.tabletop.tasks import Grounding, tasks
from verbot.spec import Float64Array

PUSHED_M = 0.06
SIDEWAYS = 0.6  # the most that may go sideways, relative to the way along the direction
LIFTED_M = 0.03
STROKE_M = 0.15  # room that a push needs: it goes on, slowly, until the goal was held
SPEED_M = 0.016  # a step
_BEHIND_M = 0.066  # from the object's center to the tool before contact
_CONTACT_M = 0.030  # from there to the tool when the object has just been moved
_HEIGHT_M = 0.022


@tasks.register("push")
class Push:
    variants: tuple[Goal, ...] = tuple({"direction": direction} for direction in DIRECTIONS)
    hold_s = 0.5
    is_compositional = True
    max_seconds = 6.0

    def goals(self, layout: Layout) -> list[Goal]:
        return [
            {"verb": "push", "object": obj.id, "direction": direction}
            for obj in layout.movables
            for direction in DIRECTIONS
            if _is_free(layout, obj, np.array(DIRECTIONS[direction][:2]))
        ]

    def target_object(self, goal: Goal) -> str:
        return str(goal["object"])

    def grounding(self, layout: Layout, goal: Goal) -> Grounding:
        obj, way = layout.object(goal["object"]), np.array(DIRECTIONS[goal["direction"]])
        place = np.array((obj.x, obj.y, _HEIGHT_M))
        return Grounding(place - way * _CONTACT_M, place + way * (STROKE_M - _BEHIND_M))

    def satisfied(self, physics: Physics, goal: Goal) -> bool:
        name = goal["object"]
        lifted = physics.highest[name] - physics.starts[name][2] > LIFTED_M
        return self.error_m(physics, goal) <= 0.0 and not lifted

    def error_m(self, physics: Physics, goal: Goal) -> float:
        way = np.array(DIRECTIONS[goal["direction"]])
        moved = physics.position(goal["object"]) - physics.starts[goal["object"]]
        along = float(moved @ way)
        sideways = float(np.linalg.norm((moved - along * way)[:2]))
        return float(np.hypot(max(0.0, PUSHED_M - along), max(0.0, sideways - SIDEWAYS * max(along, 0.0))))

    def act(self, physics: Physics, goal: Goal) -> Float64Array:
        """Close above a point behind the object, go down, and push slowly without an end: how far it went cannot be seen."""
        way, place = np.array(DIRECTIONS[goal["direction"]]), physics.position(goal["object"]).copy()
        place[2] = _HEIGHT_M
        offset = physics.tool_position - place
        along = float(offset @ way)
        aside = offset - along * way
        height, aside[2] = aside[2], 0.0
        is_shut = physics.opening < 0.3
        is_behind = -1.6 * _BEHIND_M < along < -0.015 and np.linalg.norm(aside) < 0.02
        if is_shut and is_behind and height < 0.02:
            return motion.action(physics, SPEED_M * way - aside - (0.0, 0.0, height), 0.0, is_open=False)
        start = place - way * _BEHIND_M
        across = physics.tool_position - start
        is_above = float(np.hypot(across[0], across[1])) < 0.015 and height < motion.HOVER_M + 0.02
        if not is_shut:
            start[2] += motion.HOVER_M  # open fingers would hit the object on the way down
        return motion.action(physics, motion.travel(physics, start), 0.0, is_open=not (is_shut or is_above))


def _is_free(layout: Layout, obj: SceneObject, way: Float64Array) -> bool:
    """Whether nothing stands in the way of the object or behind it, where the gripper goes down, and it stays in the picture."""
    start = np.array((obj.x, obj.y))
    end = start + way * STROKE_M
    if any(not low <= value <= high for value, (low, high) in zip(end, REACH_M, strict=True)):
        return False
    tail = start - way * (_BEHIND_M + CLEARANCE_M)
    length = float((end - tail) @ way)
    for x, y, radius in layout.obstacles():
        offset = np.array((x, y)) - tail
        if (x, y) == (obj.x, obj.y):
            continue
        nearest = tail + way * np.clip(offset @ way, 0.0, length)
        if np.hypot(x - nearest[0], y - nearest[1]) < radius + obj.radius_m + 0.008:
            return False
    return True
