"""Take an object to a receptacle and put it back: it must have been held over the one and stand again where it stood."""

from __future__ import annotations

import numpy as np

from verbot.contracts import Goal
from verbot.envs.tabletop.expert import motion
from verbot.envs.tabletop.expert.placing import DROP_M, place, stands_free
from verbot.envs.tabletop.simulation.layout import Layout
from verbot.envs.tabletop.simulation.physics import OVER_M, Physics
from verbot.envs.tabletop.tasks import Grounding, tasks
from verbot.spec import Float64Array

BACK_M, AWAY_M = 0.03, 0.08
_HEIGHT_M = 0.14


@tasks.register("put_back")
class PutBack:
    """Unlike others, its expert remembers: `Physics` tells it where the object stood and whether it was at the receptacle."""

    variants: tuple[Goal, ...] = ({},)
    hold_s = 0.5
    is_compositional = True
    max_seconds = 10.0

    def goals(self, layout: Layout) -> list[Goal]:
        return [
            {"verb": "put_back", "object": obj.id, "receptacle": there.id}
            for obj in layout.movables
            for there in layout.receptacles
            if np.hypot(obj.x - there.x, obj.y - there.y) > AWAY_M + OVER_M
        ]

    def target_object(self, goal: Goal) -> str:
        return str(goal["object"])

    def grounding(self, layout: Layout, goal: Goal) -> Grounding:
        obj, there = layout.object(goal["object"]), layout.object(goal["receptacle"])
        return Grounding(obj.middle_m, np.add(obj.middle_m, (0.0, 0.0, DROP_M)), there.middle_m)

    def satisfied(self, physics: Physics, goal: Goal) -> bool:
        return self.error_m(physics, goal) <= 0.0 and stands_free(physics, goal["object"])

    def error_m(self, physics: Physics, goal: Goal) -> float:
        """The way that is left: to the receptacle, if it was not there yet, and back."""
        name, there = goal["object"], physics.layout.object(goal["receptacle"])
        position, middle = physics.position(name)[:2], np.array((there.x, there.y))
        home = physics.starts[name][:2]
        if there.id not in physics.visited[name] or physics.farthest[name] < AWAY_M:
            return float(np.linalg.norm(middle - position) + np.linalg.norm(home - middle))
        return max(0.0, float(np.linalg.norm(home - position)) - BACK_M)

    def act(self, physics: Physics, goal: Goal) -> Float64Array:
        name, there = goal["object"], physics.layout.object(goal["receptacle"])
        if there.id in physics.visited[name]:
            return place(physics, name, np.add(physics.starts[name], (0.0, 0.0, DROP_M)))
        if not physics.grasped(name):
            return motion.grasp(physics, name)
        delta = motion.travel(physics, np.array((there.x, there.y, _HEIGHT_M)), physics.position(name), 0.0)
        return motion.action(physics, delta, physics.tool_yaw, is_open=False)
