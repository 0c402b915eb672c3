"""How far and how fast a robot may be commanded: what its guard enforces. Plain frozen data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verbot.errors import SpecError
from verbot.spec.checks import check_name, is_finite

_BOUNDS = ("step", "velocity", "acceleration", "jerk", "lead")


@dataclass(frozen=True)
class MotionLimits:
    """Limits of one action component, one number per axis in the component's unit; None is no limit.

    They concern the *target*: of an absolute component the commanded value; of a delta or a velocity the sum of what was
    commanded, from the measured value on; of a rotation, which no component measures alike, from 0 on.

    Args:
        component: name of the action component.
        low, high: the box that the target stays in.
        step: its largest change in one control step.
        velocity: in units a second.
        acceleration: in units a second².
        jerk: in units a second³.
        lead: how far the target may be from the measured value. An absolute target is kept that near. Of a delta or a velocity
            it says how far the robot lets its target run ahead; None stands for twice the distance that it needs to stop.
    """

    component: str
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    step: tuple[float, ...] | None = None
    velocity: tuple[float, ...] | None = None
    acceleration: tuple[float, ...] | None = None
    jerk: tuple[float, ...] | None = None
    lead: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_name("component", self.component)
        given = {name: value for name in ("low", "high", *_BOUNDS) if (value := getattr(self, name)) is not None}
        if not given:
            raise SpecError(
                f"the limits of component {self.component!r} limit nothing; expected one of low, {', '.join(_BOUNDS)}"
            )
        if (self.low is None) != (self.high is None):
            raise SpecError(f"the limits of component {self.component!r} have only one of low and high; expected both or none")
        for name, value in given.items():
            _check_numbers(f"{name} of the limits of component {self.component!r}", value, positive=name in _BOUNDS)
        if len({len(value) for value in given.values()}) != 1:
            raise SpecError(f"the limits of component {self.component!r} differ in their number of axes: {given}")
        check_box(f"the limits of component {self.component!r}", self.low, self.high)

    @property
    def size(self) -> int:
        """Number of axes."""
        return next(len(value) for name in ("low", *_BOUNDS) if (value := getattr(self, name)) is not None)


@dataclass(frozen=True)
class Workspace:
    """The box, in meters in the base frame, that the position of an end effector stays in."""

    end_effector: str
    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def __post_init__(self) -> None:
        check_name("end effector", self.end_effector)
        for name, value in (("low", self.low), ("high", self.high)):
            what = f"{name} of the workspace of end effector {self.end_effector!r}"
            _check_numbers(what, value)
            if len(value) != 3:
                raise SpecError(f"{what} has {len(value)} numbers; expected x, y and z")
        check_box(f"the workspace of end effector {self.end_effector!r}", self.low, self.high)


def check_limits(
    robot: str, sizes: Mapping[str, int], end_effectors: Sequence[str], limits: Sequence[MotionLimits], boxes: Sequence[Workspace]
) -> None:
    """Raise `SpecError` unless limits belong to the components of the action (name: number of axes), boxes to end effectors."""
    for limit in limits:
        if sizes.get(limit.component) != limit.size:
            raise SpecError(
                f"robot {robot!r} has limits for {limit.size} axes of component {limit.component!r}; its action has "
                f"{', '.join(f'{name!r} of {size}' for name, size in sizes.items())}"
            )
    for box in boxes:
        if box.end_effector not in end_effectors:
            known = ", ".join(map(repr, end_effectors)) or "none"
            raise SpecError(
                f"robot {robot!r} has a workspace of end effector {box.end_effector!r}; its end effectors are {known}"
            )
    for what, names in (("limits", [e.component for e in limits]), ("a workspace", [e.end_effector for e in boxes])):
        if len(set(names)) != len(names):
            raise SpecError(f"robot {robot!r} has {what} twice for one of {', '.join(names)}")


def check_age(robot: str, max_age_s: Any) -> None:
    """Raise `SpecError` unless the oldest usable observation is None or positive seconds."""
    if max_age_s is not None and not (is_finite(max_age_s) and max_age_s > 0):
        raise SpecError(f"robot {robot!r} has max_age_s {max_age_s!r}; expected seconds, more than 0, or None")


def check_box(what: str, low: Sequence[float] | None, high: Sequence[float] | None) -> None:
    """Raise `SpecError` for a box with a low that is not below its high."""
    if low is not None and high is not None and any(bottom >= top for bottom, top in zip(low, high, strict=True)):
        raise SpecError(f"{what} have a low that is not below its high: {tuple(low)} and {tuple(high)}")


def _check_numbers(what: str, values: Any, positive: bool = False) -> None:
    if not isinstance(values, tuple) or not values or not all(is_finite(value) and math.isfinite(value) for value in values):
        raise SpecError(f"{what} is {values!r:.80}; expected finite numbers, one per axis")
    if positive and min(values) <= 0:
        raise SpecError(f"{what} is {values!r:.80}; expected numbers above 0")
