"""An env that shows what a policy was trained on: the size of its pictures follows the policy's cameras."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

from verbot.contracts import Env
from verbot.spec import RobotSpec


def fitting_options(make: Callable[..., Env], spec: RobotSpec) -> dict[str, Any]:
    """Options of an env under which its cameras are as large as those of `spec`, the robot that a policy was trained for.

    Empty where they are already, and where the env cannot: its option ``image_size`` is of square images, of one size.

    Args:
        make: makes the env; called without arguments, and with ``image_size=pixels``.

    Example:
        >>> from functools import partial
        >>> from verbot.envs import make_env
        >>> from verbot.envs.navigation.env import robot_spec
        >>> fitting_options(partial(make_env, "navigation"), robot_spec(48))
        {'image_size': 48}
    """
    wanted = _sizes(spec)
    sides = {side for size in wanted.values() for side in size}
    with closing(make()) as env:
        there = _sizes(env.robot_spec)
    if len(sides) != 1 or all(there.get(name, size) == size for name, size in wanted.items()):
        return {}
    options = {"image_size": sides.pop()}
    try:
        make(**options).close()
    except TypeError:
        return {}
    return options


def _sizes(spec: RobotSpec) -> dict[str, tuple[int, int]]:
    return {camera.name: (camera.height, camera.width) for camera in spec.cameras}
