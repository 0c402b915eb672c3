"""Suites: which tasks, and what their scenes hold."""

from __future__ import annotations

from dataclasses import dataclass, field

from verbot.envs.tabletop.layout import Wishes
from verbot.envs.tabletop.scene import SceneConfig
from verbot.errors import UnknownNameError


@dataclass(frozen=True)
class Suite:
    name: str
    tasks: tuple[str, ...]
    scene: SceneConfig = field(default_factory=SceneConfig)
    wishes: Wishes = field(default_factory=Wishes)


STARTER = Suite("tabletop-starter", ("pick", "push", "put"))
FULL = Suite(
    "tabletop-full",
    (
        "pick", "push", "put", "stack", "place_next_to", "move_away", "open_drawer", "close_drawer", "press_button",
        "lift_and_hold", "sort_color",
    ),
    SceneConfig(fixtures=("drawer", "button")),
    Wishes(receptacles=(1, 1), repeat_color=0.4, fixtures=("drawer", "button")),
)  # fmt: skip
SUITES = {suite.name: suite for suite in (STARTER, FULL)}


def find(name: str) -> Suite:
    """The suite called `name`; ``"tabletop"`` is the full one."""
    if name == "tabletop":
        return FULL
    if name not in SUITES:
        raise UnknownNameError("suite", name, (*SUITES, "tabletop"))
    return SUITES[name]
