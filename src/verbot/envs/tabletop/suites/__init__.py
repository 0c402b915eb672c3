"""Suites: which tasks, and what their scenes hold. One file a suite; a new file that registers itself is enough.

Importing this package loads no simulator: the names of all envs are known without one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from verbot.envs.tabletop.simulation.layout import SceneConfig, SceneConstraints
from verbot.registry import Registry


@dataclass(frozen=True)
class Show:
    """Episodes begin with a look at objects whose colors are then covered. The arm is locked meanwhile: its actions do nothing.

    Args:
        tasks: whose scenes begin so; the others' are as ever.
        steps: least and most control steps until the covering; each scene draws its own.
        still_steps: how long the arm stays locked after it, so that what was decided before cannot be carried out.
    """

    tasks: tuple[str, ...]
    steps: tuple[int, int] = (10, 14)
    still_steps: int = 4


@dataclass(frozen=True)
class Suite:
    """Which tasks there are, and what their scenes hold and show.

    Args:
        scene: what is compiled in.
        cameras: those that the env can have; all of them unless its option `cameras` chooses.
        show: a look at objects before they are covered.
        scenes_of: the suite with the same scenes, goals and instructions; its own if None. This name seeds the random streams:
            renaming it changes every scene.
        several_sentences: commands are of two or three sentences, of which one is about something else.
        relations: goals single out what is to be handled by where it stands to other objects (see `relations`).
        most_goals: so many of the goals that a scene admits are offered; all if None.
    """

    name: str
    tasks: tuple[str, ...]
    scene: SceneConfig = field(default_factory=SceneConfig)
    constraints: SceneConstraints = field(default_factory=SceneConstraints)
    cameras: tuple[str, ...] = ("front", "wrist")
    show: Show | None = None
    scenes_of: str | None = None
    several_sentences: bool = False
    relations: bool = False
    most_goals: int | None = None


suites: Registry[Callable[[], Suite]] = Registry("suite", package="verbot.envs.tabletop.suites")
# Former names of suites, read for one version.
RENAMED = {"tabletop-again": "tabletop-revisit", "tabletop-right": "tabletop-other-robot"}
for _old, _new in RENAMED.items():
    suites.alias(_old, _new)


def register(suite: Suite) -> Suite:
    """Make `suite` known; the env of its name is registered by `verbot.envs.factories.tabletop`."""

    def get() -> Suite:
        return suite

    get.__qualname__ = suite.name
    suites.register(suite.name)(get)
    return suite


def find(name: str) -> Suite:
    """The suite called `name`; ``"tabletop"`` is the full one."""
    return suites.get("tabletop-full" if name == "tabletop" else name)()
