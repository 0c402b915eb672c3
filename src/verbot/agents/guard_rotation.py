"""Keeps a commanded orientation a unit quaternion that turns no faster than its limit. Numpy only."""

from __future__ import annotations

import math

import numpy as np

from verbot.errors import ConfigError
from verbot.spec import Component, Float64Array, RobotSpec

_UNIT = 1e-3  # how far from 1 the length of a quaternion may be


class TurnLimiter:
    """One component of kind ``"quaternion"``.

    Args:
        spec: its limit is the smallest number of `step` or of `velocity` / rate, as an angle in rad.
        component: the component.
        place: of the component in the action.
    """

    def __init__(self, spec: RobotSpec, component: Component, place: slice):
        limit = next((each for each in spec.limits if each.component == component.name), None)
        steps = [math.pi] if limit is None else [*(limit.step or ()), *(v / spec.rate_hz for v in limit.velocity or ())]
        if not steps:
            raise ConfigError(f"component {component.name!r} is a quaternion; expected limits of step or velocity, in rad")
        self.rule = "step" if limit is None or limit.step else "velocity"
        self.place, self.component, self._most = place, component.name, min(steps)
        self._last: Float64Array | None = None

    def rebase(self) -> None:
        self._last = None

    def turn(self, request: Float64Array, measured: Float64Array | None) -> Float64Array | None:
        """What to give instead of `request`; None if nothing.

        A quaternion and its negative are one orientation: the nearer one counts. What has no direction, such as zeros, gives
        the orientation before.
        """
        last = measured if self._last is None else self._last
        length = float(np.linalg.norm(request))
        if length < 0.5:
            given = np.array([1.0, 0.0, 0.0, 0.0]) if last is None else last
            self._last = given
            return given
        unit = request / length
        dot = 1.0 if last is None else float(unit @ last) / max(float(np.linalg.norm(last)), 1e-9)
        angle = 2.0 * math.acos(min(1.0, abs(dot)))
        if angle <= self._most * (1 + 1e-3) + 1e-3:
            self._last = unit
            return unit if abs(length - 1.0) > _UNIT else None
        assert last is not None
        start = last / np.linalg.norm(last)
        end = unit if dot >= 0 else -unit
        half, share = 0.5 * angle, self._most / angle
        given = (math.sin((1 - share) * half) * start + math.sin(share * half) * end) / math.sin(half)
        self._last = given
        return given
