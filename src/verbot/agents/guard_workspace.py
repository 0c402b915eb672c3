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
        self.place, self._axes, middle = chain.place, tuple(axes), 0.5 * (chain.low + chain.high)
        self._kinematics = chain.kinematics.seen_from(middle)
        self._reach: list[float] = chain.kinematics.reach.tolist()
        self._brakes = [axis.brake for axis in axes]
        self._half: list[float] = (0.5 * (chain.high - chain.low) - _MARGIN_M).tolist()
        self._period, self._counts = 1.0 / axes[0].rate_hz, np.arange(-1.0, 15.0)
        self._bends = [0.5 * brake * self._period for brake in self._brakes]
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
        braked = []
        for axis, brake in zip(self._axes, self._brakes, strict=True):
            v = axis.velocity
            braked.append(v - brake if v > brake else v + brake if v < -brake else 0.0)
        for share in _SHARES:
            tried = [rest + share * (w - rest) for rest, w in zip(braked, asked, strict=True)]
            moved, way = self._way(tried)
            if way < self._room:
                return tried, moved
        return braked, self._way(braked)[0]

    def _way(self, velocities: list[float]) -> tuple[float, float]:
        """How far, in m, the end effector moves at most in this step, and until rest."""
        moved = stopped = 0.0
        for w, brake, reach in zip(velocities, self._brakes, self._reach, strict=True):
            speed = abs(w)
            moved += reach * speed
            if speed >= brake:
                steps = speed // brake
                stopped += reach * steps * (speed - 0.5 * brake * (steps + 1.0))
        return moved * self._period, (moved + stopped) * self._period

    def _look(self, velocities: list[float]) -> tuple[float, bool]:
        """How far from the edge the end effector is, in m, and whether it stays inside until rest, or comes no further out.

        A joint that has gone on for n steps after this one is at p + (|w| - a n / 2) (n + 1) T, in the direction of w.
        """
        rows, most, period = [], 0.0, self._period
        for w, axis, brake, bend in zip(velocities, self._axes, self._brakes, self._bends, strict=True):
            step, steps = w * period, abs(w) / brake // 1.0
            most = steps if steps > most else most
            bend = bend if w >= 0.0 else -bend
            rows.append((steps, axis.target + step, step - bend, bend))
        counts = self._counts[: int(most) + 2] if most < 14.0 else np.arange(-1.0, most + 1.0)
        limits, starts, slopes, bends = np.array(rows).T[:, :, None]
        # (axes, points): steps before the first velocity is left, none, and after; an axis rests when it has braked.
        taken = np.minimum(counts, limits)
        path = starts + taken * (slopes - taken * bends)
        places = np.abs(self._kinematics.positions(path.T))  # from the middle of the box
        flat: list[float] = places.ravel().tolist()
        x, y, z = self._half
        now = max(flat[0] - x, flat[1] - y, flat[2] - z)
        farthest = max(max(flat[::3]) - x, max(flat[1::3]) - y, max(flat[2::3]) - z)
        return -now, farthest <= max(now, 0.0) + 1e-9
