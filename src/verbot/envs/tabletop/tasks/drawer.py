"""Open and close the drawer. It slides along +x; a closed gripper hooks its handle from above, or pushes it in from outside."""

from __future__ import annotations

import numpy as np

from verbot.contracts import Goal
from verbot.envs.tabletop.expert import motion
from verbot.envs.tabletop.simulation.layout import Layout
from verbot.envs.tabletop.simulation.physics import Physics
from verbot.envs.tabletop.simulation.scene import DRAWER_TRAVEL_M
from verbot.envs.tabletop.tasks import Grounding, tasks
from verbot.spec import Float64Array

OPEN_M, CLOSED_M = 0.070, 0.012  # open at least, closed at most
_MARGIN_M = 0.008  # beyond which the expert stops
_INSIDE_M, _OUTSIDE_M, _HEIGHT_M = 0.0195, 0.085, 0.036  # from the drawer's face to the tool; above the table
_SPEED_M = 0.025  # a step
_HOVER = np.array((0.0, 0.0, motion.HOVER_M))


@tasks.register("open_drawer")
class OpenDrawer:
    variants: tuple[Goal, ...] = ({},)
    hold_s = 0.5
    is_compositional = False
    max_seconds = 6.0

    def goals(self, layout: Layout) -> list[Goal]:
        return _goals(layout, "open_drawer", opening_01=0.0)

    def target_object(self, goal: Goal) -> str:
        return str(goal["object"])

    def grounding(self, layout: Layout, goal: Goal) -> Grounding:
        hook = _ahead(layout, 0.0, _INSIDE_M)
        return Grounding(hook + _HOVER, _ahead(layout, DRAWER_TRAVEL_M, _INSIDE_M))

    def satisfied(self, physics: Physics, goal: Goal) -> bool:
        return self.error_m(physics, goal) <= 0.0

    def error_m(self, physics: Physics, goal: Goal) -> float:
        return max(0.0, OPEN_M - physics.fixture_position("drawer"))

    def act(self, physics: Physics, goal: Goal) -> Float64Array:
        opened = physics.fixture_position("drawer") > OPEN_M + _MARGIN_M
        return _drive(physics, _INSIDE_M, 0.0 if opened else _SPEED_M)


@tasks.register("close_drawer")
class CloseDrawer:
    variants: tuple[Goal, ...] = ({},)
    hold_s = 0.5
    is_compositional = False
    max_seconds = 6.0

    def goals(self, layout: Layout) -> list[Goal]:
        return _goals(layout, "close_drawer", opening_01=1.0)

    def target_object(self, goal: Goal) -> str:
        return str(goal["object"])

    def grounding(self, layout: Layout, goal: Goal) -> Grounding:
        outside = _ahead(layout, DRAWER_TRAVEL_M, _OUTSIDE_M)
        return Grounding(outside + _HOVER, _ahead(layout, 0.0, _OUTSIDE_M))

    def satisfied(self, physics: Physics, goal: Goal) -> bool:
        return self.error_m(physics, goal) <= 0.0

    def error_m(self, physics: Physics, goal: Goal) -> float:
        return max(0.0, physics.fixture_position("drawer") - CLOSED_M)

    def act(self, physics: Physics, goal: Goal) -> Float64Array:
        closed = physics.fixture_position("drawer") < CLOSED_M - _MARGIN_M
        return _drive(physics, _OUTSIDE_M, 0.0 if closed else -_SPEED_M)


def _goals(layout: Layout, verb: str, opening_01: float) -> list[Goal]:
    drawer = layout.fixtures.get("drawer")
    return [{"verb": verb, "object": "drawer"}] if drawer and drawer.opening_01 == opening_01 else []


def _ahead(layout: Layout, opening_m: float, ahead_m: float) -> Float64Array:
    """Where the tool is (3,) ahead of the middle of the drawer's face."""
    drawer = layout.fixtures["drawer"]
    return np.array((drawer.x + opening_m + ahead_m, drawer.y, _HEIGHT_M))


def _drive(physics: Physics, ahead_m: float, speed_m: float) -> Float64Array:
    """Close above a point ahead of the drawer's face, go down, and move the handle along x."""
    start = _ahead(physics.layout, physics.fixture_position("drawer"), ahead_m)
    x, y, z = physics.tool_position - start
    is_shut, is_above = physics.opening < 0.3, np.hypot(x, y) < 0.012 and z < motion.HOVER_M + 0.02
    # Before contact the tool is at the start; in contact, up to the handle's depth beyond it.
    if is_shut and abs(y) < 0.03 and z < 0.012 and abs(x) < 0.030:
        return motion.action(physics, np.array((speed_m, -y, -z)), 0.0, is_open=False)
    if not is_shut:
        start += _HOVER
    return motion.action(physics, motion.travel(physics, start), 0.0, is_open=not (is_shut or is_above))
