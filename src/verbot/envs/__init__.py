"""Environments: Gymnasium envs with a robot spec, tasks and a scripted expert.

Importing this package loads no simulator; `make_env` does. Each file of `factories/` registers envs by name.
Gymnasium knows the tabletop as ``verbot/Tabletop-v0`` and the navigation env as ``verbot/Navigation-v0``.
"""

from __future__ import annotations

from typing import Any

from verbot import gymnasium_ids
from verbot.contracts import TaskEnv
from verbot.registry import Registry

envs: Registry = Registry("env", package="verbot.envs.factories", group="verbot.envs")


def make_env(name: str, **options: Any) -> TaskEnv:
    """An environment by name: a suite of the tabletop, such as ``"tabletop-starter"``, or one that a plug-in adds.

    Args:
        options: those of the env. For the tabletop see `verbot.envs.tabletop.env.TabletopEnv`, for ``"navigation"`` see
            `verbot.envs.navigation.env.NavigationEnv`. Where these take a record, the options are its fields.

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
    env: TaskEnv = envs.build(name, **options)
    return env


gymnasium_ids.register()
