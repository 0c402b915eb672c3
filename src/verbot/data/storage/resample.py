"""An episode at another rate: which rows are kept, and what the actions between them amount to."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from verbot.errors import ConfigError, DataError
from verbot.spec import Component, Float64Array, FloatArray, FloatingArray, Int64Array, RobotSpec

SNAP = 1e-4  # of a period: times this close are one instant, since timestamps are often float32
DELTAS, VELOCITIES = ("position_delta", "rotation_delta"), ("joint_velocity", "velocity")
_SCALED_RADIANS = re.compile(r"(\d*\.?\d*(?:e[-+]?\d+)?) ?rad")  # as in "0.5 rad"


@dataclass(frozen=True)
class Resampled:
    """`n` rows at regular instants, from the first timestamp on, until the last recorded action has ended.

    Args:
        rows: int64 (n,), the recorded row nearest in time to each instant; ascending. Images are those of these rows.
        states: float32 (n, s), those of `rows`.
        actions: float32 (n, a), what was commanded from each instant to the next.
    """

    rows: Int64Array
    states: FloatArray
    actions: FloatArray


def resample(times_s: FloatingArray, states: FloatArray, actions: FloatArray, spec: RobotSpec, rate_hz: float) -> Resampled:
    """The rows of one episode at `rate_hz`.

    Actions follow their kind. A recorded action holds from its own timestamp to the next one.

    | kind | action from one instant to the next |
    |---|---|
    | position_delta | the sum; of an action that lies in two intervals, each gets its share of the time |
    | rotation_delta, three axes in rad | the composed rotation, shares as above; earlier rotations act first |
    | rotation_delta, other | the sum, shares as above |
    | joint_velocity, velocity | the average over time |
    | every other | the last recorded action that began before the next instant |

    Position deltas in the frame of a tool that also turns are summed as if it did not: the error is at most their length times
    the angle of the interval in rad.

    Args:
        times_s: (t,), ascending.
        states, actions: (t, s) and (t, a), in the order of `spec`.
        spec: the robot; `resampled_spec` is the one of the result.

    Raises `ConfigError` for a rate that is not positive, and `DataError` for an episode without rows, with timestamps that do not
    ascend, or with a gap in which an instant is farther than a period from every row.

    Example:
        >>> joint = Component("joint", "joint_position", ("a",), "rad", "base", (-9.0,), (9.0,))
        >>> spec = RobotSpec("arm", 30.0, (), (joint,), (joint,))
        >>> rows = np.arange(6, dtype=np.float32)[:, None]
        >>> found = resample(np.arange(6) / 30, rows, rows + 1, spec, 10.0)
        >>> found.rows.tolist(), found.actions.ravel().tolist()
        ([0, 3], [3.0, 6.0])
    """
    times = _checked(times_s, states, actions, rate_hz)
    period = float(np.median(np.diff(times))) if len(times) > 1 else 1 / spec.rate_hz
    snap = SNAP * min(period, 1 / rate_hz)
    instants, rows = _instants(times, period, rate_hz)
    distance = np.abs(times[rows] - instants)
    worst, limit = int(distance.argmax()), max(period, 1 / rate_hz)
    if distance[worst] > limit:
        raise DataError(
            f"resampling to {rate_hz:g} Hz: no row within {limit:g} s of {instants[worst]:g} s, the nearest is row {rows[worst]} "
            f"at {times[rows[worst]]:g} s: split the episode at this gap"
        )
    bounds = np.append(times, times[-1] + period)  # of the recorded actions
    starts, stops = instants, np.minimum(instants + 1 / rate_hz, bounds[-1])
    last = np.maximum(np.searchsorted(times, instants + 1 / rate_hz - snap) - 1, 0)
    out = np.array(actions[last], np.float32)
    for component, place in ((c, spec.action_slices()[c.name]) for c in spec.action):
        combine = _combination(component, fixed=spec.end_effector(component.frame) is None)
        if combine is not None:
            out[:, place] = combine(np.asarray(actions[:, place], np.float64), bounds, starts, stops)
    return Resampled(rows, np.asarray(states[rows], np.float32), out)


def resampled_spec(spec: RobotSpec, rate_hz: float) -> RobotSpec:
    """The robot at another rate. The ranges of deltas grow with the period; a composed rotation is at most its angles together.

    Example:
        >>> move = Component("move", "position_delta", ("x",), "m", "base", (-0.5,), (0.25,))
        >>> resampled_spec(RobotSpec("arm", 30.0, (), (), (move,)), 10.0).action[0].low
        (-1.5,)
    """
    factor = spec.rate_hz / rate_hz
    return dataclasses.replace(spec, rate_hz=rate_hz, action=tuple(_scaled(c, factor) for c in spec.action))


def assumed_absolute(spec: RobotSpec) -> tuple[str, ...]:
    """Names of the action components of kind ``"other"``, which `resample` treats as absolute: wrong where they are deltas."""
    return tuple(c.name for c in spec.action if c.kind == "other")


def _checked(times_s: FloatingArray, states: FloatArray, actions: FloatArray, rate_hz: float) -> Float64Array:
    if not (np.isfinite(rate_hz) and rate_hz > 0):
        raise ConfigError(f"the new rate is {rate_hz} Hz; expected more than 0")
    times = np.asarray(times_s, np.float64)
    if not len(times) or len(times) != len(states) or len(times) != len(actions):
        raise DataError(
            f"resampling needs a timestamp, a state and an action for each row; got {len(times)}, {len(states)} and "
            f"{len(actions)}"
        )
    steps = np.diff(times)
    if len(steps) and not steps.min() > 0:
        row = int(np.flatnonzero(~(steps > 0))[0])
        raise DataError(f"resampling needs ascending timestamps; row {row + 1} has {times[row + 1]:g} s after {times[row]:g} s")
    return times


def _instants(times: Float64Array, period: float, rate_hz: float) -> tuple[Float64Array, Int64Array]:
    """The instants at `rate_hz` until the last action has ended, and the row nearest to each."""
    snap = SNAP * min(period, 1 / rate_hz)
    instants = times[0] + np.arange(int(np.ceil((times[-1] + period - times[0] - snap) * rate_hz))) / rate_hz
    return instants, _nearest(times, instants, snap)


def _nearest(times: Float64Array, instants: Float64Array, snap: float) -> Int64Array:
    """The earlier one of two rows that are equally near."""
    after = np.searchsorted(times, instants).clip(0, len(times) - 1)
    before = np.maximum(after - 1, 0)
    earlier = np.abs(instants - times[before]) <= np.abs(times[after] - instants) + snap
    return np.where(earlier, before, after).astype(np.int64)


# Actions (t, d) of which number i lasts from bounds[i] to bounds[i + 1]; starts and stops (n,) of the intervals -> (n, d).
Combination = Callable[[Float64Array, Float64Array, Float64Array, Float64Array], Float64Array]


def _combination(component: Component, fixed: bool) -> Combination | None:
    """What the actions of an interval amount to; None for absolute ones.

    Args:
        fixed: the axes of a rotation do not turn with the tool.
    """
    if component.kind in VELOCITIES:
        return _average
    if component.kind not in DELTAS:
        return None
    scale = _radians(component)
    if component.kind == "position_delta" or scale is None:
        return _sum
    return functools.partial(_turn, fixed=fixed, scale=scale)


def _sum(values: Float64Array, bounds: Float64Array, starts: Float64Array, stops: Float64Array) -> Float64Array:
    total = np.concatenate([np.zeros((1, values.shape[1])), values.cumsum(0)])
    return np.stack([np.interp(stops, bounds, column) - np.interp(starts, bounds, column) for column in total.T], 1)


def _average(values: Float64Array, bounds: Float64Array, starts: Float64Array, stops: Float64Array) -> Float64Array:
    return _sum(values * np.diff(bounds)[:, None], bounds, starts, stops) / (stops - starts)[:, None]


def _turn(
    values: Float64Array, bounds: Float64Array, starts: Float64Array, stops: Float64Array, fixed: bool, scale: float
) -> Float64Array:
    out = np.empty((len(starts), 3))
    for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        first, last = np.searchsorted(bounds, start, side="right") - 1, np.searchsorted(bounds, stop)
        inside = np.clip(bounds[first : last + 1], start, stop)
        shares = np.diff(inside) / np.diff(bounds[first : last + 1])
        out[row] = _composed(values[first:last] * shares[:, None] * scale, fixed) / scale
    return out


def _radians(component: Component) -> float | None:
    """The size of the unit of a rotation vector in rad; None for another unit or another number of axes."""
    found = _SCALED_RADIANS.fullmatch(component.unit)
    return float(found[1] or 1) if found and component.size == 3 else None


def _composed(vectors: Float64Array, fixed: bool) -> Float64Array:
    """The rotation vector (3,) of rotations (t, 3) one after another, about `fixed` axes or about those of the turned tool."""
    total = np.array([1.0, 0.0, 0.0, 0.0])
    for vector in vectors[np.abs(vectors).any(1)]:
        angle = float(np.linalg.norm(vector))
        turn = np.append(np.cos(angle / 2), np.sin(angle / 2) * vector / angle)
        total = _product(turn, total) if fixed else _product(total, turn)
    total = -total if total[0] < 0 else total
    sine = float(np.linalg.norm(total[1:]))
    return total[1:] * (2 * np.arctan2(sine, total[0]) / sine) if sine else np.zeros(3)


def _product(p: Float64Array, q: Float64Array) -> Float64Array:
    """The quaternion of rotation `q` followed by `p`."""
    return np.append(p[0] * q[0] - p[1:] @ q[1:], p[0] * q[1:] + q[0] * p[1:] + np.cross(p[1:], q[1:]))


def _scaled(component: Component, factor: float) -> Component:
    if component.kind not in DELTAS:
        return component
    low, high = (np.multiply(bound, factor) for bound in (component.low, component.high))
    scale = _radians(component) if component.kind == "rotation_delta" else None
    if scale is not None:
        angle = min(float(np.linalg.norm(np.maximum(np.abs(low), np.abs(high)))), np.pi / scale)
        low, high = np.full(3, -angle), np.full(3, angle)
    return dataclasses.replace(component, low=tuple(low.tolist()), high=tuple(high.tolist()))
