"""Robots in real time, by name. One file registers one; a robot of your own is an entry point of the group ``verbot.robots``.

All of them keep `verbot.contracts.Robot`. ``examples/own_robot.py`` shows one from outside and the loop that drives any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from verbot.contracts import LeaderArm, Robot
from verbot.registry import Registry

robots: Registry[Callable[..., Robot]] = Registry("robot", package="verbot.robots", group="verbot.robots")
# Arms that a person moves by hand; one of your own is an entry point of the group ``verbot.leaders``.
leaders: Registry[Callable[..., LeaderArm]] = Registry("leader arm", package="verbot.robots", group="verbot.leaders")


@runtime_checkable
class SceneRobot(Robot, Protocol):
    """A robot that sets up its own scene, as a simulated one does. Between episodes of others a person does."""

    def next_scene(self, repeat: bool = False) -> None:
        """Set up the next scene, or the same again. Raises `RobotError` if it is not connected, or cannot."""
        ...


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


def make_leader(name: str, **options: Any) -> LeaderArm:
    """A leader arm by name, not yet connected. Raises `UnknownNameError` when none has this name."""
    leader: LeaderArm = leaders.build(name, **options)
    return leader
