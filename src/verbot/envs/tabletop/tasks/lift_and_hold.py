"""Lift an object high and hold it there: 12 cm above where it rested, for 1.5 s."""

from __future__ import annotations

import numpy as np

from verbot.contracts import Goal
from verbot.envs.tabletop.expert import motion
from verbot.envs.tabletop.simulation.layout import Layout
from verbot.envs.tabletop.simulation.physics import Physics
from verbot.envs.tabletop.tasks import Grounding, tasks
from verbot.spec import Float64Array

LIFTED_M = 0.12
_HOLD_HEIGHT_M = 0.20


@tasks.register("lift_and_hold")
class LiftAndHold:
    variants: tuple[Goal, ...] = ({},)
    hold_s = 1.5
    is_compositional = True
    max_seconds = 8.0

    def goals(self, layout: Layout) -> list[Goal]:
        return [{"verb": "lift_and_hold", "object": obj.id} for obj in layout.movables]

    def target_object(self, goal: Goal) -> str:
        return str(goal["object"])

    def grounding(self, layout: Layout, goal: Goal) -> Grounding:
        obj = layout.object(goal["object"])
        return Grounding(obj.middle_m, np.array((obj.x, obj.y, _HOLD_HEIGHT_M)))

    def satisfied(self, physics: Physics, goal: Goal) -> bool:
        return self.error_m(physics, goal) <= 0.0 and physics.grasped(goal["object"])

    def error_m(self, physics: Physics, goal: Goal) -> float:
        name = goal["object"]
        return max(0.0, float(physics.starts[name][2] + LIFTED_M - physics.position(name)[2]))

    def act(self, physics: Physics, goal: Goal) -> Float64Array:
        if physics.grasped(goal["object"]):
            return motion.raise_to(physics, _HOLD_HEIGHT_M, is_open=False)
        return motion.grasp(physics, goal["object"])
