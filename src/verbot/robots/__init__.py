"""Robots in real time, by name. One file registers one; a robot of your own is an entry point of the group ``verbot.robots``.

All of them keep `verbot.contracts.Robot`. ``examples/own_robot.py`` shows one from outside and the loop that drives any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from verbot.contracts import Robot
from verbot.registry import Registry

robots: Registry[Callable[..., Robot]] = Registry("robot", package="verbot.robots", group="verbot.robots")


def make_robot(name: str, **options: Any) -> Robot:
    """A robot by name, not yet connected.

    Args:
        options: options of the robot; of ``"simulated"``: see `verbot.robots.simulated.SimulatedRobot`.

    Raises `UnknownNameError` when no robot has this name.

    Example:
        >>> robot = make_robot("simulated", env="navigation", request={"task": "go"})
        >>> robot.connect()
        >>> robot.observe().images["top"].shape
        (64, 64, 3)
        >>> robot.close()
    """
    robot: Robot = robots.build(name, **options)
    return robot
