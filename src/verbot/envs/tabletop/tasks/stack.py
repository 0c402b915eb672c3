"""Stack an object on another: it must stand there by itself. Balls do neither."""

from __future__ import annotations

import numpy as np

from verbot.contracts import Goal
from verbot.envs.tabletop.expert.placing import DROP_M, place
from verbot.envs.tabletop.simulation.layout import Layout, SceneObject
from verbot.envs.tabletop.simulation.physics import Physics
from verbot.envs.tabletop.tasks import Grounding, tasks
from verbot.spec import Float64Array

FLAT = ("cube", "cylinder")
ASIDE_M, ABOVE_M = 0.020, 0.008  # how far the upper center may be from where it belongs


@tasks.register("stack")
class Stack:
    variants: tuple[Goal, ...] = ({},)
    hold_s = 0.5
    is_compositional = True
    max_seconds = 8.0

    def goals(self, layout: Layout) -> list[Goal]:
        flat = [obj.id for obj in layout.movables if obj.shape in FLAT]
        return [
            {"verb": "stack", "object": name, "receptacle": other, "preposition": "on"}
            for name in flat
            for other in flat
            if name != other
        ]

    def target_object(self, goal: Goal) -> str:
        return str(goal["object"])

    def grounding(self, layout: Layout, goal: Goal) -> Grounding:
        obj, other = layout.object(goal["object"]), layout.object(goal["receptacle"])
        release = np.array((other.x, other.y, _height_m(obj, other) + DROP_M))
        return Grounding(obj.middle_m, release, other.middle_m)

    def satisfied(self, physics: Physics, goal: Goal) -> bool:
        name = goal["object"]
        return self.error_m(physics, goal) <= 0.0 and not physics.touches(name, "gripper") and not physics.touches(name, "table")

    def error_m(self, physics: Physics, goal: Goal) -> float:
        x, y, z = physics.position(goal["object"]) - _top(physics, goal)
        return float(np.hypot(max(0.0, np.hypot(x, y) - ASIDE_M), max(0.0, abs(z) - ABOVE_M)))

    def act(self, physics: Physics, goal: Goal) -> Float64Array:
        return place(physics, goal["object"], _top(physics, goal) + np.array((0.0, 0.0, DROP_M)))


def _height_m(obj: SceneObject, other: SceneObject) -> float:
    return 2 * other.rest_height_m + obj.rest_height_m


def _top(physics: Physics, goal: Goal) -> Float64Array:
    """Where the upper object's center belongs (3,): the lower one stands."""
    obj, other = physics.layout.object(goal["object"]), physics.layout.object(goal["receptacle"])
    x, y, _ = physics.position(other.id)
    return np.array((x, y, _height_m(obj, other)))
