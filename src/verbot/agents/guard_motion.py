"""Keeps a commanded target within its box and its velocity, acceleration and jerk: the arithmetic of the guard. Numpy only.

Every axis has a target p, its velocity v and the last change of v. In a step of length T the next velocity w is chosen from

- box: w T + (the distance to stop from w) ≤ the distance to the edge, on either side;
- velocity: the range of velocities; acceleration: |w − v| ≤ a T; jerk: |(w − v) − (v − the velocity before)| ≤ j T².

Full braking from v is always in the first three: the step before left the distance to stop, and rest is in every range. So they
never conflict, and hold at every step. Jerk is the last: it is kept where the others leave a choice. A target that begins outside
its box, because the robot was measured there, only moves inward, within the other limits.
"""

from __future__ import annotations

import numpy as np

from verbot.agents.guard_table import NONE, AxisTable, ChainBox, stopping
from verbot.spec import BoolArray, Float64Array

ROUNDING = float(np.finfo(np.float32).eps)  # relative: actions and states are float32
_SHARES = np.array([1.0, 0.5, 0.125])[:, None]  # of the request, tried before full braking
_BRAKING = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])[
    :, None, None
]  # shares of the path to rest at which an end effector is checked
_COUNTS = np.arange(len(_BRAKING), dtype=float)[:, None, None]
_MARGIN_M = 1e-3  # of the box of an end effector, for what lies between them
_SIGNS = np.array([[1.0], [-1.0]])


class MotionLimiter:
    """The targets of a robot, and which next ones are allowed.

    Arrays (2, a) hold upper bounds in their first row and lower ones, negated, in their second.

    Args:
        table: the limits.
        rate_hz: steps a second.
        chains: workspaces of end effectors that joints move.
    """

    def __init__(self, table: AxisTable, rate_hz: float, chains: tuple[ChainBox, ...] = ()):
        self._table, self._rate, self._period = table, rate_hz, 1.0 / rate_hz
        self._chains = chains
        size = len(table.gain)
        self._is_rate = table.is_target == 0.0
        self._pull, self._kept = table.is_target * rate_hz, 1.0 - table.is_target
        self._loose = 2.0 * NONE * table.is_target
        self._near = np.where(self._is_rate, NONE, table.lead)
        self._follows = self._is_rate & table.measured
        self._has_follows = bool(self._follows.any())
        self._has_near = bool((self._near < NONE).any())
        self._box = np.array([table.high, -table.low])
        # What a velocity must not be above, or below: its range, the edges of the box, acceleration, jerk.
        self._bounds = np.zeros((4, 2, size))
        self._bounds[0] = table.fastest, -table.slowest
        limit = np.max(self._bounds[0], axis=0)
        self._needed = limit * self._period + stopping(limit, table.brake, self._period)
        self._narrowing, self._half_brake = 8.0 * rate_hz / table.brake, 0.5 * table.brake
        self._pull_rounding, self._kept_rounding = ROUNDING * self._pull, ROUNDING * self._kept
        self._wide = [place for component, place in table.groups if component.size > 1]
        self.target, self.velocity, self._change = np.zeros(size), np.zeros(size), np.zeros(size)
        self._rooms = [-1.0] * len(chains)  # how far each end effector is from its edge, at least, in m
        self.is_anchored = False

    def rebase(self) -> None:
        """The robot rests where it is measured next."""
        self.is_anchored = False

    def _anchor(self, request: Float64Array, measured: Float64Array) -> None:
        """An unmeasured target, such as some grippers, begins where it is first commanded."""
        table = self._table
        first = np.where(self._is_rate, 0.0, np.minimum(np.maximum(request, table.low), table.high))
        self.target = np.where(table.measured, measured, first)
        self.velocity, self._change = np.zeros(len(first)), np.zeros(len(first))
        self._rooms = [-1.0] * len(self._chains)
        self.is_anchored = True

    def move(self, request: Float64Array, measured: Float64Array) -> tuple[Float64Array | None, list[str] | None]:
        """The action (a,) to give instead of `request`, and for each axis the broken rule or ``""``. None, None: no change.

        Args:
            request: (a,), finite.
            measured: (a,), where the robot is.
        """
        if not self.is_anchored:
            self._anchor(request, measured)
        table, p, v = self._table, self.target, self.velocity
        goal = request * table.scale + p * self._kept
        wanted = request * table.gain - p * self._pull
        boxed = near = self._boxed(goal, p)
        if self._has_near:
            near = np.minimum(np.maximum(boxed, np.minimum(p, measured - self._near)), np.maximum(p, measured + self._near))
        signed, speeds, bounds = _SIGNS * wanted, _SIGNS * v, self._bounds
        is_led = self._edges(p, measured, bounds[1])
        np.add(speeds, table.brake, out=bounds[2])
        np.add(speeds, _SIGNS * self._change + table.onset, out=bounds[3])
        loose = (np.abs(request) + np.abs(p)) * self._pull_rounding + (np.abs(wanted) + np.abs(v)) * ROUNDING + 1e-12
        outside = np.abs(near - goal) > np.abs(p) * self._kept_rounding
        tightest = bounds.min(0)
        if (signed <= tightest + loose).all() and not outside.any():
            if not self._chains or (given := self._in_workspace(wanted)) is wanted:
                self._remember(wanted, measured)
                return None, None
            return self._give(given, measured), _workspace_codes(wanted, given)
        codes = self._codes(goal - boxed, near - boxed, signed > bounds + loose, is_led)
        aim = np.where(outside, (near - p) * self._rate, wanted)
        given = np.minimum(np.maximum(aim, -bounds[3, 1]), bounds[3, 0])
        hard = bounds[:3].min(0)
        given = np.minimum(np.maximum(given, -hard[1]), hard[0])
        given = np.minimum(np.maximum(given, -bounds[2, 1]), bounds[2, 0])  # where no command led out of the box
        self._along(aim, given, tightest)
        if self._chains and (kept := self._in_workspace(given)) is not given:
            codes = [b or a for a, b in zip(codes, _workspace_codes(given, kept), strict=True)]
            given = kept
        return self._give(given, measured), codes

    def _boxed(self, goal: Float64Array, p: Float64Array) -> Float64Array:
        """The goal within the box; one that is measured outside goes no further out."""
        low, high = np.minimum(self._table.low, p + self._loose), np.maximum(self._table.high, p - self._loose)
        boxed: Float64Array = np.minimum(np.maximum(goal, low), high)
        return boxed

    def _edges(self, p: Float64Array, measured: Float64Array, out: Float64Array) -> BoolArray | None:
        """Write the velocities (2, a) from which the target can stop before either edge of its box.

        With n steps of motion left, n = ⌈(√(1 + 8 d / (a T²)) − 1) / 2⌉, w = d / (n T) + a T (n − 1) / 2 covers the distance d.
        A target that must stay near the measured value has edges there too; returns where these are the nearer ones.
        """
        room, is_led = self._box - _SIGNS * p, None
        if self._has_near:
            led = self._near + _SIGNS * (measured - p)
            is_led = led < room
            np.minimum(room, led, out=room)
        if (room >= self._needed).all():
            out[:] = NONE
            return None
        np.maximum(room, 0.0, out=room)
        steps = np.maximum(np.ceil(0.5 * np.sqrt(room * self._narrowing + 1.0) - 0.5), 1.0)
        np.add(room * self._rate / steps, self._half_brake * (steps - 1.0), out=out)
        return is_led

    def _along(self, aim: Float64Array, given: Float64Array, tightest: Float64Array) -> None:
        """Slow the axes of a component down together where limits permit, so that it moves on the line that was requested."""
        changed: list[bool] = (given != aim).tolist()
        for place in self._wide:
            if True not in changed[place]:
                continue
            wanted = aim[place]
            shares = np.ones(len(wanted))
            np.divide(given[place], wanted, out=shares, where=wanted != 0.0)
            slowed = wanted * max(float(shares.min()), 0.0)
            if (_SIGNS * slowed <= tightest[:, place] + 1e-12).all():
                given[place] = slowed

    def _give(self, velocity: Float64Array, measured: Float64Array) -> Float64Array:
        """The action for a velocity, rounded to float32, as the box is: a target does not leave it by rounding."""
        action = (velocity + self.target * self._pull) / self._table.gain
        rounded = action.astype(np.float32).astype(float)
        self._remember(rounded * self._table.gain - self.target * self._pull, measured)
        return rounded

    def _remember(self, velocity: Float64Array, measured: Float64Array) -> None:
        self._change, self.velocity = velocity - self.velocity, velocity
        self.target = self.target + velocity * self._period
        if self._has_follows:
            lead = self._table.lead
            near = np.minimum(np.maximum(self.target, measured - lead), measured + lead)
            followed = np.where(self._follows, near, self.target)
            if self._chains and (followed != self.target).any():
                self._rooms = [-1.0] * len(self._chains)
            self.target = followed

    def _codes(self, beyond: Float64Array, pulled: Float64Array, broken: BoolArray, is_led: BoolArray | None) -> list[str]:
        """The first rule, in their order, that the request broke on each axis."""
        table, codes = self._table, [""] * len(beyond)
        rounding = np.abs(self.target) * self._kept_rounding
        low, high, led = (mask.tolist() for mask in (beyond < -rounding, beyond > rounding, pulled != 0.0))
        rows: list[list[list[bool]]] = broken.transpose(2, 0, 1).tolist()
        for i, (speed, edges, hard, smooth) in enumerate(rows):
            if low[i] or high[i]:
                codes[i] = (table.low_rules if low[i] else table.high_rules)[i]
            elif led[i]:
                codes[i] = "lead"
            elif True in speed:
                codes[i] = table.speed_rules[i]
            elif True in edges:
                nearer = is_led is not None and bool(is_led[edges.index(True), i])
                codes[i] = "lead" if nearer else (table.high_rules if edges[0] else table.low_rules)[i]
            elif True in hard:
                codes[i] = "acceleration"
            elif True in smooth:
                codes[i] = "jerk"
        return codes

    def _in_workspace(self, velocity: Float64Array) -> Float64Array:
        """The velocity itself, or the next slower ones for which the end effector is, and can stop, in its box.

        The last is full braking, whose path was in the box when the step before was chosen.
        """
        out = velocity
        for i, chain in enumerate(self._chains):
            asked, reach = out[chain.place], chain.kinematics.reach
            brake = self._table.brake[chain.place]
            moved = float(reach @ np.abs(asked)) * self._period
            left = self._rooms[i] - moved
            if left > 0.0 and float(reach @ stopping(asked, brake, self._period)) < left:  # far from the edge: no transform
                self._rooms[i] -= moved + 1e-6
                continue
            v = self.velocity[chain.place]
            braked = v - np.minimum(np.maximum(v, -brake), brake)
            tried = braked + _SHARES * (asked - braked)
            inside, room = self._is_inside(chain, tried, brake)
            self._rooms[i] = room - moved - 1e-6
            if not inside[0]:
                out = out.copy()
                out[chain.place] = tried[inside.index(True)] if True in inside else braked
                self._rooms[i] = -1.0
        return out

    def _is_inside(self, chain: ChainBox, velocities: Float64Array, brake: Float64Array) -> tuple[list[bool], float]:
        """For velocities (k, axes), whether the end effector stays in its box until rest, or comes no further out of it.

        Also how far from the edge it is now, in m.
        """
        p, speed = self.target[chain.place], np.abs(velocities)
        steps = np.floor(speed / brake)
        most = int(steps.max())  # of the slowest axis to rest; of a short path each step is checked
        counts = np.floor(_BRAKING * most) if most >= len(_BRAKING) else _COUNTS[: most + 1]
        taken = np.minimum(counts, steps)  # (points, k, axes): each axis rests when it has braked
        braked = np.copysign(taken * (speed - 0.5 * brake * (taken + 1.0)), velocities)
        path = p + self._period * (velocities + braked)
        places = chain.kinematics.positions(np.concatenate([p[None], path.reshape(-1, len(p))]))
        beyond = np.maximum(chain.low + _MARGIN_M - places, places - chain.high + _MARGIN_M).max(1)
        excess = np.maximum(beyond, 0.0)
        inside: list[bool] = (excess[1:].reshape(len(counts), -1) <= excess[0] + 1e-9).all(0).tolist()
        return inside, -float(beyond[0])


def _workspace_codes(before: Float64Array, after: Float64Array) -> list[str]:
    return ["workspace" if a != b else "" for a, b in zip(before.tolist(), after.tolist(), strict=True)]
