"""Worlds to act in: Gymnasium environments that know their robot, their tasks and an expert.

Importing this package loads no simulator; `make_env` does. Gymnasium knows the tabletop as ``verbot/Tabletop-v0`` and the
navigation world as ``verbot/Navigation-v0``.
"""

from __future__ import annotations

from typing import Any

import gymnasium

from verbot.contracts import Env
from verbot.registry import Registry

envs: Registry = Registry("env", package="verbot.envs.tabletop.suites", group="verbot.envs")


def make_env(name: str, **options: Any) -> Env:
    """An environment by name: a suite of the tabletop, such as ``"tabletop-starter"``, or one that a plug-in adds.

    Args:
        options: of the tabletop: see `verbot.envs.tabletop.env.TabletopEnv`; of ``"navigation"``: see
            `verbot.envs.navigation.env.NavigationEnv`.

    Raises:
        UnknownNameError: when no env has this name.
        MissingDependencyError: when the simulator or an OpenGL library is not installed.

    Example:
        >>> env = make_env("tabletop-starter", tasks=("pick",))
        >>> observation, info = env.reset(seed=0)
        >>> observation["images"]["front"].shape, observation["state"].shape, info["target_object"] in info["instruction"]
        ((64, 64, 3), (8,), True)
        >>> env.close()
    """
    return envs.get(name)(**options)


def make_tabletop(suite: str, **options: Any) -> Env:
    """The tabletop with this suite. Raises `MissingDependencyError` where there is no simulator."""
    from verbot.errors import MissingDependencyError

    try:
        import mujoco  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(f"the tabletop needs the simulator: pip install 'verbot[sim]' ({error})") from error
    from verbot.envs.tabletop.env import TabletopEnv

    return TabletopEnv(suite=suite, **options)


@envs.register("tabletop")
def tabletop(**options: Any) -> Env:
    """The full suite, by its short name."""
    return make_tabletop("tabletop-full", **options)


@envs.register("navigation")
def make_navigation(**options: Any) -> Env:
    """A robot on wheels, seen from above; needs no simulator."""
    from verbot.envs.navigation.env import NavigationEnv

    return NavigationEnv(**options)


@envs.register("navigation-compass")
def make_navigation_compass(**options: Any) -> Env:
    """The same scenes and errands, with moves up, down, left and right in the picture."""
    return make_navigation(steering="compass", **options)


def register_gymnasium() -> None:
    """Make ``gymnasium.make("verbot/Tabletop-v0", suite=…)`` and ``gymnasium.make("verbot/Navigation-v0", …)`` work."""
    for name, entry in (
        ("verbot/Tabletop-v0", "verbot.envs.tabletop.env:TabletopEnv"),
        ("verbot/Navigation-v0", "verbot.envs.navigation.env:NavigationEnv"),
    ):
        if name not in gymnasium.registry:
            gymnasium.register(name, entry)


register_gymnasium()
