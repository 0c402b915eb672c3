"""What a guard reports: the rules, the events, and what it gave instead of an action."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from verbot.errors import ConfigError
from verbot.ranges import COUNT, POSITIVE, check_ranges
from verbot.spec import FloatArray, RobotSpec

MAX_AGE_S = 1.0  # of an observation, for a robot whose spec does not say
# In the order in which they are checked. Up to "workspace" a number is changed; from "age" on the robot is held.
RULES = (
    "finite",  # a number is NaN or infinite: the robot is held
    "shape",  # it is no array of the right size: the robot is held
    "range",  # outside the range of the action component
    "position",  # the target would leave its box, or could not stop before its edge
    "lead",  # the target would be too far from the measured value
    "step",
    "velocity",
    "acceleration",
    "jerk",
    "workspace",  # the end effector would leave its box, or could not stop before its edge
    "age",  # the observation is too old
    "order",  # the observation is older than the one before
    "deadline",  # the action was computed too late
    "repeated",  # too many actions in a row were changed
    "latch",  # held until a person resets it
)
SEVERE = frozenset({"finite", "shape", "repeated"})
HOLDING = frozenset({"finite", "shape", "age", "order", "deadline", "repeated", "latch"})


@dataclass(frozen=True, slots=True)
class GuardEvent:
    """One change that a guard made.

    Args:
        rule: one of `RULES`.
        component: of the action; ``""`` for what concerns the whole action.
        axis: its axis that was changed most; None for what concerns the whole.
        requested, given: numbers of the action, or of the rule, such as seconds; a text where there is no number.
        time_s: `Observation.time_s`.
    """

    rule: str
    component: str
    axis: str | None
    requested: float | str
    given: float | str
    time_s: float

    def to_json(self) -> dict[str, Any]:
        """Plain data; numbers that are not finite are texts."""
        record = {name: getattr(self, name) for name in GuardEvent.__slots__}
        return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}

    def __str__(self) -> str:
        where = f" {self.component}{'' if self.axis is None else f'.{self.axis}'}" if self.component else ""
        return f"{self.rule}{where}: {_short(self.requested)} → {_short(self.given)}"


@dataclass(frozen=True, slots=True)
class GuardResult:
    """What a robot may execute.

    Args:
        action: float32 (a,); the very array that was requested, if nothing was changed. None if the robot can only be stopped.
        events: what was changed, and why.
        held: the rule for which the robot is held, or ``""``.
    """

    action: FloatArray | None
    events: tuple[GuardEvent, ...] = ()
    held: str = ""


@dataclass(frozen=True)
class GuardConfig:
    """When a guard holds the robot, and when for good.

    Args:
        max_age_s: the oldest observation from which the robot may move; None takes that of the robot's spec.
        deadline_s: the longest that an action may take, from observation to command; None has no limit of its own.
        patience: after so many changed actions in a row the robot is held.
        hold_s: for so long.
        latch_after: after so many severe events (`SEVERE`) the robot is held until a person resets the latch. Episodes do not
            begin the count anew.
    """

    max_age_s: float | None = None
    deadline_s: float | None = None
    patience: int = 20
    hold_s: float = 1.0
    latch_after: int = 3

    def __post_init__(self) -> None:
        check_ranges(self, patience=COUNT, hold_s=POSITIVE, latch_after=COUNT)
        for name in ("max_age_s", "deadline_s"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} is {value}; expected seconds, more than 0, or none")


def with_max_age(config: GuardConfig, spec: RobotSpec) -> GuardConfig:
    """`config` with a limit of age: its own, that of the robot's spec, otherwise `MAX_AGE_S`, and three control periods at least.

    Example:
        >>> with_max_age(GuardConfig(), RobotSpec("slow", 1.0, (), (), ())).max_age_s
        3.0
    """
    if config.max_age_s is not None or spec.max_age_s is not None:
        return config
    return replace(config, max_age_s=max(MAX_AGE_S, 3.0 / spec.rate_hz))


def count_rules(events: Iterable[GuardEvent]) -> dict[str, int]:
    """Rule to its number of events, in the order of `RULES`.

    Example:
        >>> count_rules([GuardEvent("step", "move", "x", 1.0, 0.1, 0.0)] * 2)
        {'step': 2}
    """
    counts = dict.fromkeys(RULES, 0)
    for event in events:
        counts[event.rule] += 1
    return {rule: count for rule, count in counts.items() if count}


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
