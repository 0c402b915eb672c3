"""Tasks: what an instruction can ask for. One file a task; a new file that registers itself is enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from verbot.contracts import Goal
from verbot.envs.tabletop.simulation.layout import Layout
from verbot.envs.tabletop.simulation.physics import Physics
from verbot.registry import Registry
from verbot.spec import Float64Array


@dataclass(frozen=True)
class Grounding:
    """Where a goal's words point (3,), m.

    Args:
        target_base_m: the tool's position where the gripper closes.
        receptacle_base_m: the tool's position where it opens or ends.
        reference_base_m: the object that the goal is given relative to ("left of the blue box"), if there is one.
    """

    target_base_m: Float64Array
    receptacle_base_m: Float64Array
    reference_base_m: Float64Array | None = None


class TabletopTask(Protocol):
    """What one verb means. Stateless: everything is a function of the layout or of the physics' present state.

    Attributes:
        variants: partial goals, e.g. one per direction; one is drawn before scenes are, so that none is rare.
        hold_s: how long `satisfied` must stay true.
        max_seconds: after this the episode is truncated.
        is_compositional: whether goals name a color and a shape, some pairs of which are kept from training.
    """

    variants: tuple[Goal, ...]
    hold_s: float
    max_seconds: float
    is_compositional: bool

    def goals(self, layout: Layout) -> list[Goal]:
        """Every goal of this verb that `layout` admits."""
        ...

    def target_object(self, goal: Goal) -> str | None:
        """The id of the object that must be touched first; None if several would do."""
        ...

    def grounding(self, layout: Layout, goal: Goal) -> Grounding: ...

    def satisfied(self, physics: Physics, goal: Goal) -> bool: ...

    def error_m(self, physics: Physics, goal: Goal) -> float:
        """How far the state is from satisfying the goal; 0 when it does."""
        ...

    def act(self, physics: Physics, goal: Goal) -> Float64Array:
        """The expert's action (7,) in any state, also after mistakes."""
        ...


tasks: Registry[type] = Registry("task", package="verbot.envs.tabletop.tasks")
