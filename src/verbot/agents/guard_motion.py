"""Keeps a commanded target within the limits of its axes and the boxes of its end effectors. Numpy only.

`verbot.agents.guard_axis` says what is kept of each axis, `verbot.agents.guard_workspace` of an end effector that joints move.
The axes of a component are slowed down together.
"""

from __future__ import annotations

import numpy as np

from verbot.agents.guard_axis import AxisLimiter
from verbot.agents.guard_table import AxisTable, ChainBox
from verbot.agents.guard_workspace import WorkspaceLimiter


class MotionLimiter:
    """The targets of a robot, and which next ones are allowed.

    Args:
        table: the limits.
        rate_hz: steps a second.
        chains: workspaces of end effectors that joints move.
    """

    def __init__(self, table: AxisTable, rate_hz: float, chains: tuple[ChainBox, ...] = ()):
        self.axes = AxisLimiter.of_table(table, rate_hz)
        self._workspaces = [WorkspaceLimiter(chain, self.axes[chain.place]) for chain in chains]
        self._wide = [place for component, place in table.groups if component.size > 1]
        self.is_anchored = self._is_known = False

    def rebase(self, forget: bool = True) -> None:
        """The robot rests where it is measured next; `forget` what is not measured, such as how far it has turned."""
        self.is_anchored = False
        self._is_known = self._is_known and not forget

    def move(
        self, request: list[float], measured: list[float], is_hold: bool = False
    ) -> tuple[list[float] | None, list[str] | None]:
        """The action to give instead of `request`, and for each axis the broken rule or ``""``. None, None: no change.

        Args:
            request: a finite number for each axis.
            measured: where the robot is.
            is_hold: the robot is to rest, also where it is outside its box.
        """
        axes = self.axes
        if not self.is_anchored:
            for axis, number, place in zip(axes, request, measured, strict=True):
                axis.anchor(number, place, self._is_known)
            self._forget()
            self.is_anchored = self._is_known = True
        kept = [axis.check(number, place, is_hold) for axis, number, place in zip(axes, request, measured, strict=True)]
        given = [axis.aim if fine else axis.limited() for axis, fine in zip(axes, kept, strict=True)]
        if changed := not all(kept):
            self._along(given, kept)
        for workspace in self._workspaces:
            asked = given[workspace.place]
            if (slowed := workspace.limit(asked)) is not asked:
                given[workspace.place], changed = slowed, True
                for axis, before, after in zip(axes[workspace.place], asked, slowed, strict=True):
                    axis.rule = "workspace" if before != after else axis.rule
        if not changed:
            self._remember(given, measured)
            return None, None
        # Rounded to float32, as the box is: a target does not leave it by rounding.
        actions = [axis.action_of(velocity) for axis, velocity in zip(axes, given, strict=True)]
        rounded: list[float] = np.array(actions, np.float32).tolist()
        self._remember([axis.velocity_of(action) for axis, action in zip(axes, rounded, strict=True)], measured)
        return rounded, [axis.rule for axis in axes]

    def _along(self, given: list[float], kept: list[bool]) -> None:
        """Slow the axes of a component down together where limits permit, so that it moves on the line that was requested."""
        for place in self._wide:
            axes = self.axes[place.start : place.stop]
            if all(kept[place.start : place.stop]) or any(axis.is_pulled for axis in axes):
                continue
            aims = [axis.aim for axis in axes]
            shares = [velocity / aim for aim, velocity in zip(aims, given[place.start : place.stop], strict=True) if aim]
            share = max(min(shares, default=1.0), 0.0)
            slowed = []
            for axis, aim in zip(axes, aims, strict=True):
                velocity = aim * share
                if not axis.bottom - 1e-12 <= velocity <= axis.top + 1e-12:
                    break
                slowed.append(velocity)
            else:
                given[place.start : place.stop] = slowed

    def _remember(self, velocities: list[float], measured: list[float]) -> None:
        followed = False
        for axis, velocity, place in zip(self.axes, velocities, measured, strict=True):
            followed = axis.remember(velocity, place) or followed
        if followed:
            self._forget()

    def _forget(self) -> None:
        for workspace in self._workspaces:
            workspace.forget()
