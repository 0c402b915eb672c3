"""Press the button and keep it down for a moment."""

from __future__ import annotations

import numpy as np

from verbot.contracts import Goal
from verbot.envs.tabletop.expert import motion
from verbot.envs.tabletop.simulation.layout import Layout
from verbot.envs.tabletop.simulation.physics import Physics
from verbot.envs.tabletop.tasks import Grounding, tasks
from verbot.spec import Float64Array

PRESSED_M = 0.006
_TOP_M, _PRESSED_M = 0.075, 0.034  # the tool's height above the cap before the gripper closes, and where it pushes to
_SPEED_M = 0.03  # a step


@tasks.register("press_button")
class PressButton:
    variants: tuple[Goal, ...] = ({},)
    hold_s = 0.5
    is_compositional = False
    max_seconds = 6.0

    def goals(self, layout: Layout) -> list[Goal]:
        return [{"verb": "press_button", "object": "button"}] if "button" in layout.fixtures else []

    def target_object(self, goal: Goal) -> str:
        return str(goal["object"])

    def grounding(self, layout: Layout, goal: Goal) -> Grounding:
        button = layout.fixtures["button"]
        return Grounding(np.array((button.x, button.y, _TOP_M)), np.array((button.x, button.y, _PRESSED_M)))

    def satisfied(self, physics: Physics, goal: Goal) -> bool:
        return self.error_m(physics, goal) <= 0.0

    def error_m(self, physics: Physics, goal: Goal) -> float:
        return max(0.0, PRESSED_M - physics.fixture_position("button"))

    def act(self, physics: Physics, goal: Goal) -> Float64Array:
        """Close above the cap, then press it down and stay."""
        button = physics.layout.fixtures["button"]
        offset = np.array((button.x, button.y, _PRESSED_M)) - physics.tool_position
        is_shut, is_above = physics.opening < 0.3, np.hypot(offset[0], offset[1]) < 0.016
        if is_shut and is_above:
            return motion.action(physics, offset, 0.0, is_open=False, speed_m=_SPEED_M)
        above = np.array((button.x, button.y, _TOP_M))
        is_near = is_above and physics.tool_position[2] < _TOP_M + 0.02
        return motion.action(physics, motion.travel(physics, above), 0.0, is_open=not (is_shut or is_near))
