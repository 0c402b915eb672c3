"""The tabletop: one env for each suite."""

from __future__ import annotations

from typing import Any

from verbot.contracts import TaskEnv
from verbot.envs import envs
from verbot.envs.tabletop.suites import RENAMED, suites
from verbot.errors import MissingDependencyError


def make_tabletop(suite: str, **options: Any) -> TaskEnv:
    """The tabletop with this suite. Raises `MissingDependencyError` without MuJoCo."""
    try:
        import mujoco  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(f"the tabletop needs the simulator: pip install 'verbot[sim]' ({error})") from error
    from verbot.envs.tabletop.env import make

    return make(suite=suite, **options)


@envs.register("tabletop", needs=("mujoco",))
def tabletop(**options: Any) -> TaskEnv:
    """The full suite, by its short name."""
    return make_tabletop("tabletop-full", **options)


def _register(suite: str) -> None:
    def make(**options: Any) -> TaskEnv:
        return make_tabletop(suite, **options)

    make.__qualname__ = suite
    envs.register(suite, needs=("mujoco",))(make)


for name in suites.names():
    _register(name)
for old, new in RENAMED.items():
    envs.alias(old, new)
