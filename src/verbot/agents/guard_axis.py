"""Keeps the commanded target of one axis within its box and its velocity, acceleration and jerk. The arithmetic of the guard.

In plain numbers: a robot has few axes, for which arrays are slower. An axis has a target p, its velocity v and the last change of
v. In a step of length T the next velocity w is chosen from

- box: w T + (the distance to stop from w) ≤ the distance to the edge, on either side;
- velocity: the range of velocities; acceleration: |w − v| ≤ a T; jerk: |(w − v) − (v − the velocity before)| ≤ j T².

Full braking from v is always in the first three: the step before left the distance to stop, and rest is in every range. So they
never conflict, and hold at every step. Jerk is the last: it is kept where the others leave a choice. A target that begins outside
its box, because the robot was measured there, only moves inward, within the other limits.

What is commanded is not where the robot is. A rate, such as a change of position, moves a target that only the robot knows, and
that may follow a robot which is pushed or blocked. Where such an axis is measured outside its box, it is therefore led inward: by
`PULL` of the distance in a step, or faster, within the other limits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from verbot.agents.guard_table import NONE, AxisTable, stopping

ROUNDING = float(np.finfo(np.float32).eps)  # relative: actions and states are float32
PULL = 0.5


@dataclass(slots=True)
class AxisLimiter:
    """One axis of the action; positions in the component's unit, velocities in units a second.

    Args:
        rate_hz: steps a second.
        gain: velocity of a rate of 1; of a target that of a distance of 1.
        scale: distance that a rate of 1 moves the target.
        is_rate: whether the action is a rate, not the target itself.
        is_measured: whether the state holds where the axis is.
        low, high: box of the target; `NONE` is none.
        slowest, fastest: range of velocities.
        brake: largest change of velocity in a step; `onset` the largest change of that.
        lead: how far the target may be from the measured value.
        low_rule, high_rule, speed_rule: the rules of `low`, of `high` and of the velocity.
    """

    rate_hz: float
    gain: float
    scale: float
    is_rate: bool
    is_measured: bool
    low: float
    high: float
    slowest: float
    fastest: float
    brake: float
    onset: float
    lead: float
    low_rule: str
    high_rule: str
    speed_rule: str
    target: float = 0.0
    velocity: float = 0.0
    change: float = 0.0
    # What `check` found: the velocity to aim at, its bounds with and without jerk, and the first rule that the request broke.
    aim: float = 0.0
    bottom: float = 0.0
    top: float = 0.0
    hard_bottom: float = 0.0
    hard_top: float = 0.0
    rule: str = ""
    is_pulled: bool = False
    needed: float = 0.0  # room in which any velocity can stop

    def __post_init__(self) -> None:
        limit = np.array([max(self.fastest, -self.slowest)])
        self.needed = float((limit / self.rate_hz + stopping(limit, np.array([self.brake]), 1.0 / self.rate_hz))[0])

    @classmethod
    def of_table(cls, table: AxisTable, rate_hz: float) -> list[AxisLimiter]:
        """All axes of a robot."""
        names = ("gain", "scale", "low", "high", "slowest", "fastest", "brake", "onset", "lead")
        columns: dict[str, list[Any]] = {name: getattr(table, name).tolist() for name in names}
        columns |= {"is_rate": (table.is_target == 0.0).tolist(), "is_measured": table.measured.tolist()}
        columns |= {"low_rule": [*table.low_rules], "high_rule": [*table.high_rules], "speed_rule": [*table.speed_rules]}
        return [cls(rate_hz, **{name: column[i] for name, column in columns.items()}) for i in range(len(table.gain))]

    def anchor(self, request: float, measured: float, is_known: bool = False) -> None:
        """The axis rests. An unmeasured target that is not known, such as some grippers, begins where it is first commanded."""
        if self.is_measured:
            self.target = measured
        elif not is_known:
            self.target = 0.0 if self.is_rate else min(max(request, self.low), self.high)
        self.velocity = self.change = 0.0

    def check(self, request: float, measured: float, is_hold: bool = False) -> bool:
        """Whether the request, a finite number, keeps all limits as it is; one that `is_hold` is led nowhere."""
        p, v, rate = self.target, self.velocity, self.rate_hz
        above, below, above_rule, below_rule = self.high - p, p - self.low, self.high_rule, self.low_rule
        self.rule, self.is_pulled = "", False
        if self.is_rate:
            wanted, goal, rounding = request * self.gain, request * self.scale + p, abs(p) * ROUNDING
            loose = (abs(wanted) + abs(v)) * ROUNDING + 1e-12
            near = min(max(goal, min(self.low, p)), max(self.high, p))  # one that is outside goes no further out
            if self.is_measured:
                above, below = self.high - max(p, measured), min(p, measured) - self.low
        else:
            wanted, goal, rounding = (request - p) * rate, request, 0.0
            loose = ((abs(request) + abs(p)) * rate + abs(wanted) + abs(v)) * ROUNDING + 1e-12
            near = self.low if self.low > goal else goal
            near = self.high if self.high < near else near
        if near != goal and abs(near - goal) > rounding:
            self.rule = above_rule if goal > near else below_rule
        if not self.is_rate and self.lead < NONE:
            least, most = measured - self.lead, measured + self.lead
            led = min(max(near, min(p, least)), max(p, most))
            if led != near:
                near, self.rule = led, self.rule or "lead"
            if most - p < above:
                above, above_rule = most - p, "lead"
            if p - least < below:
                below, below_rule = p - least, "lead"
        self.aim = (near - p) * rate if self.rule else wanted
        fastest, slowest, brake, onset = self.fastest, self.slowest, self.brake, self.onset
        upper = NONE if above >= self.needed else self._stoppable(above)
        lower = -NONE if below >= self.needed else -self._stoppable(below)
        # Comparisons instead of min and max, whose calls would cost more than the rest.
        top, bottom, above, below = fastest, slowest, v + brake, v - brake
        top = upper if upper < top else top
        self.hard_top = top = above if above < top else top
        bottom = lower if lower > bottom else bottom
        self.hard_bottom = bottom = below if below > bottom else bottom
        above, below = v + self.change + onset, v + self.change - onset
        self.top = top = top if top < above else above
        self.bottom = bottom = bottom if bottom > below else below
        if self.is_rate and self.is_measured and not is_hold and not self.low <= measured <= self.high:
            self._pull(wanted, measured)
        if self.rule:
            return False
        if bottom - loose <= wanted <= top + loose:
            return True
        if wanted > fastest + loose or wanted < slowest - loose:
            self.rule = self.speed_rule
        elif wanted > upper + loose or wanted < lower - loose:
            self.rule = above_rule if wanted > upper + loose else below_rule
        elif abs(wanted - v) > brake + loose:
            self.rule = "acceleration"
        else:
            self.rule = "jerk"
        return False

    def velocity_of(self, action: float) -> float:
        return action * self.gain if self.is_rate else (action - self.target) * self.rate_hz

    def action_of(self, velocity: float) -> float:
        return velocity / self.gain if self.is_rate else velocity / self.rate_hz + self.target

    def limited(self) -> float:
        """The velocity to give instead, when `check` found that the request does not keep all limits."""
        v, given, brake, onset = self.velocity, self.aim, self.brake, self.onset
        smooth = v + self.change
        for least, most in (
            (smooth - onset, smooth + onset),
            (self.hard_bottom, self.hard_top),
            (v - brake, v + brake),  # where no command led out of the box
        ):
            given = least if least > given else given
            given = most if most < given else given
        return given

    def remember(self, velocity: float, measured: float) -> bool:
        """The velocity that is given. Returns whether the target follows what was measured."""
        self.change, self.velocity = velocity - self.velocity, velocity
        self.target = target = self.target + velocity / self.rate_hz
        if self.is_rate and self.is_measured:
            self.target = min(max(target, measured - self.lead), measured + self.lead)
        return self.target != target

    def _stoppable(self, room: float) -> float:
        """The highest velocity from which the target can stop within `room`, if not any can.

        With n steps of motion left, n = ⌈(√(1 + 8 d / (a T²)) − 1) / 2⌉, w = d / (n T) + a T (n − 1) / 2 covers the distance d.
        """
        if room <= 0.0:
            return 0.0
        steps = max(math.ceil(0.5 * math.sqrt(8.0 * room * self.rate_hz / self.brake + 1.0) - 0.5), 1)
        return room * self.rate_hz / steps + 0.5 * self.brake * (steps - 1)

    def _pull(self, wanted: float, measured: float) -> None:
        beyond = measured - self.high if measured > self.high else measured - self.low
        inward = -PULL * beyond * self.rate_hz
        if (wanted - inward) * beyond > 0.0:
            self.rule, self.is_pulled = self.high_rule if beyond > 0.0 else self.low_rule, True
            self.aim = min(self.aim, inward) if beyond > 0.0 else max(self.aim, inward)
