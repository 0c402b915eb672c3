"""Keeps an end effector that joints move within its box: the arithmetic of the guard. Numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verbot.agents.guard_axis import AxisLimiter
from verbot.agents.guard_table import ChainBox

_SHARES = (0.5, 0.125)  # of the request, tried before full braking
_MARGIN_M = 1e-3  # of the box, for what lies between two steps
_SLACK_M = 1e-6  # for rounding, each time that a distance is taken off


class WorkspaceLimiter:
    """Lets through a velocity with which the end effector is in its box after the step, and on each step of the way to rest.

    Otherwise the axes brake: fully, for the way to rest was in the box when the step before was chosen; or less, if that leads
    no further than the edge is away, whichever way it leads.

    Args:
        chain: the box, and the joints that move the end effector.
        axes: the limiters of those joints, which hold where they are and how fast.
    """

    def __init__(self, chain: ChainBox, axes: Sequence[AxisLimiter]):
        self.place, self._axes, self._kinematics = chain.place, tuple(axes), chain.kinematics
        self._reach: list[float] = chain.kinematics.reach.tolist()
        self._middle, self._half = 0.5 * (chain.low + chain.high), 0.5 * (chain.high - chain.low) - _MARGIN_M
        self._period = 1.0 / axes[0].rate_hz
        self._brake = np.array([axis.brake for axis in axes])
        self._half_brake, self._counts = 0.5 * self._brake, np.arange(-1.0, 15.0)[:, None]
        self._room = -1.0  # how far the end effector is from its edge, at least, in m

    def forget(self) -> None:
        """The joints are not where they were commanded."""
        self._room = -1.0

    def limit(self, asked: list[float]) -> list[float]:
        """The velocities (axes) to give: `asked` itself, or slower ones."""
        moved, way = self._way(asked)
        if way >= self._room:  # the edge is near
            self._room, is_inside = self._look(asked)
            if not is_inside:
                asked, moved = self._slower(asked)
        self._room -= moved + _SLACK_M
        return asked

    def _slower(self, asked: list[float]) -> tuple[list[float], float]:
        speeds = [(axis.velocity, axis.brake) for axis in self._axes]
        braked = [v - min(max(v, -brake), brake) for v, brake in speeds]
        for share in _SHARES:
            tried = [rest + share * (w - rest) for rest, w in zip(braked, asked, strict=True)]
            moved, way = self._way(tried)
            if way < self._room:
                return tried, moved
        return braked, self._way(braked)[0]

    def _way(self, velocities: list[float]) -> tuple[float, float]:
        """How far, in m, the end effector moves at most in this step, and until rest."""
        moved = stopped = 0.0
        for w, axis, reach in zip(velocities, self._axes, self._reach, strict=True):
            speed = abs(w)
            steps = speed // axis.brake
            moved += reach * speed
            stopped += reach * steps * (speed - 0.5 * axis.brake * (steps + 1.0))
        return moved * self._period, (moved + stopped) * self._period

    def _look(self, velocities: list[float]) -> tuple[float, bool]:
        """How far from the edge the end effector is, in m, and whether it stays inside until rest, or comes no further out."""
        w = np.array(velocities)
        speed = np.abs(w)
        steps = np.floor(speed / self._brake)
        most = int(steps.max())
        counts = self._counts[: most + 2] if most < 14 else np.arange(-1.0, most + 1.0)[:, None]
        # (points, axes): steps before the first velocity is left, none, and after; an axis rests when it has braked.
        taken = np.minimum(counts, steps)
        path = (speed - self._half_brake * taken) * (taken + 1.0) * np.copysign(self._period, w)
        path += [axis.target for axis in self._axes]
        beyond = np.abs(self._kinematics.positions(path) - self._middle) - self._half
        now = float(beyond[0].max())
        return -now, float(beyond.max()) <= max(now, 0.0) + 1e-9
