"""Pick up an object: it must be 5 cm above where it rested."""

from __future__ import annotations

import numpy as np

from verbot.contracts import Goal
from verbot.envs.tabletop.expert import motion
from verbot.envs.tabletop.simulation.layout import Layout
from verbot.envs.tabletop.simulation.physics import Physics
from verbot.envs.tabletop.tasks import Grounding, tasks
from verbot.spec import Float64Array

LIFTED_M = 0.05


@tasks.register("pick")
class Pick:
    variants: tuple[Goal, ...] = ({},)
    hold_s = 0.5
    is_compositional = True
    max_seconds = 6.0

    def goals(self, layout: Layout) -> list[Goal]:
        return [{"verb": "pick", "object": obj.id} for obj in layout.movables]

    def target_object(self, goal: Goal) -> str:
        return str(goal["object"])

    def grounding(self, layout: Layout, goal: Goal) -> Grounding:
        obj = layout.object(goal["object"])
        return Grounding(obj.middle_m, np.array((obj.x, obj.y, motion.LIFT_HEIGHT_M)))

    def satisfied(self, physics: Physics, goal: Goal) -> bool:
        return self.error_m(physics, goal) <= 0.0 and not physics.touches(goal["object"], "table")

    def error_m(self, physics: Physics, goal: Goal) -> float:
        name = goal["object"]
        return max(0.0, float(physics.starts[name][2] + LIFTED_M - physics.position(name)[2]))

    def act(self, physics: Physics, goal: Goal) -> Float64Array:
        if physics.grasped(goal["object"]):
            return motion.raise_to(physics, motion.LIFT_HEIGHT_M, is_open=False)
        return motion.grasp(physics, goal["object"])
