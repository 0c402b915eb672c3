"""Matches the image size of an env to the cameras of a policy."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

from verbot.contracts import Env
from verbot.spec import RobotSpec


def fitting_options(make: Callable[..., Env], spec: RobotSpec) -> dict[str, Any]:
    """Options of an env that give it the depth cameras and the image size of `spec`, the robot for which a policy was trained.

    No size if the sizes match already, or if the env cannot match them: ``image_size`` sets one size of square images.

    Args:
        make: builds the env; called with ``depth`` where needed, and with ``image_size=pixels``.

    Example:
        >>> from functools import partial
        >>> from verbot.envs import make_env
        >>> from verbot.envs.navigation.env import robot_spec
        >>> fitting_options(partial(make_env, "navigation"), robot_spec(48))
        {'image_size': 48}
    """
    expected, depth = _sizes(spec), {"depth": True} if spec.depth_cameras else {}
    sides = {side for size in expected.values() for side in size}
    with closing(make(**depth)) as env:
        actual = _sizes(env.robot_spec)
    if len(sides) != 1 or all(actual.get(name, size) == size for name, size in expected.items()):
        return depth
    options = {"image_size": sides.pop(), **depth}
    try:
        make(**options).close()
    except TypeError:
        return depth
    return options


def _sizes(spec: RobotSpec) -> dict[str, tuple[int, int]]:
    return {camera.name: (camera.height, camera.width) for camera in spec.cameras}
