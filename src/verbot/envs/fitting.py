"""Matches the image size of an env to the cameras of a policy."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

from verbot.contracts import Env
from verbot.spec import RobotSpec


def fitting_options(make: Callable[..., Env], spec: RobotSpec) -> dict[str, Any]:
    """Options of an env that give its cameras the image size of `spec`, the robot for which a policy was trained.

    Empty if the sizes match already, or if the env cannot match them: ``image_size`` sets one size of square images.

    Args:
        make: builds the env; called without arguments, and with ``image_size=pixels``.

    Example:
        >>> from functools import partial
        >>> from verbot.envs import make_env
        >>> from verbot.envs.navigation.env import robot_spec
        >>> fitting_options(partial(make_env, "navigation"), robot_spec(48))
        {'image_size': 48}
    """
    expected = _sizes(spec)
    sides = {side for size in expected.values() for side in size}
    with closing(make()) as env:
        actual = _sizes(env.robot_spec)
    if len(sides) != 1 or all(actual.get(name, size) == size for name, size in expected.items()):
        return {}
    options = {"image_size": sides.pop()}
    try:
        make(**options).close()
    except TypeError:
        return {}
    return options


def _sizes(spec: RobotSpec) -> dict[str, tuple[int, int]]:
    return {camera.name: (camera.height, camera.width) for camera in spec.cameras}
