"""The navigation env: a wheeled robot seen from above; needs no simulator."""

from __future__ import annotations

from typing import Any

from verbot.contracts import TaskEnv
from verbot.envs import envs


@envs.register("navigation")
def make_navigation(**options: Any) -> TaskEnv:
    """Actions relative to the robot's heading: forward, back, left, right."""
    from verbot.envs.navigation.env import make

    return make(**options)


@envs.register("navigation-compass")
def make_navigation_compass(**options: Any) -> TaskEnv:
    """The same scenes and tasks, with moves up, down, left and right in the image."""
    return make_navigation(steering="compass", **options)
