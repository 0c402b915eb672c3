"""Ranges of states and actions: found in the data where nobody declared them, and compared with the data where somebody did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from verbot.spec import Component, Float64Array, FloatArray, RobotSpec

TOLERANCE = 1e-5  # of a range: rounding to float32, and quaternions whose length is not exactly 1, are not outside
POINT = 1e-6  # half the range of a dimension that never changes, relative to its value where that is above 1


class RecordedEpisode(Protocol):
    """What `out_of_range` reads of an episode."""

    @property
    def index(self) -> int: ...
    @property
    def states(self) -> FloatArray: ...
    @property
    def actions(self) -> FloatArray: ...


@dataclass(frozen=True)
class OutOfRange:
    """The numbers of one dimension that lie outside its declared range.

    Args:
        vector: ``"state"`` or ``"action"``.
        component, axis: the dimension, as the spec names it.
        count, total: numbers outside, and numbers in all.
        worst: the number furthest outside.
        low, high: the declared range, in the component's `unit`.
        episode, frame: where the first one is.
    """

    vector: str
    component: str
    axis: str
    count: int
    total: int
    worst: float
    low: float
    high: float
    unit: str
    episode: int
    frame: int

    @property
    def excess(self) -> float:
        """How far `worst` is outside, in the component's unit."""
        return max(self.low - self.worst, self.worst - self.high)

    def __str__(self) -> str:
        unit = "" if self.unit in ("", "1") else f" {self.unit}"
        return (
            f"{self.vector} {self.component}.{self.axis}: {self.count} of {self.total} numbers are outside "
            f"{self.low:g} to {self.high:g}{unit}, the worst {self.worst:g} (by {self.excess:.3g}); "
            f"the first in episode {self.episode}, frame {self.frame}"
        )


class RangeCounter:
    """Counts numbers outside the ranges of a spec, episode by episode.

    Example:
        >>> grip = Component("grip", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
        >>> counter = RangeCounter(RobotSpec("toy", 10.0, (), (), (grip,)))
        >>> counter.add(0, np.zeros((2, 0), np.float32), np.array([[0.5], [1.5]], np.float32))
        >>> print(*counter.found)
        action grip.open: 1 of 2 numbers are outside 0 to 1, the worst 1.5 (by 0.5); the first in episode 0, frame 1
    """

    def __init__(self, spec: RobotSpec):
        self._vectors = tuple(_Outside(name, components) for name, components in (("state", spec.state), ("action", spec.action)))

    def add(self, episode: int, states: FloatArray, actions: FloatArray) -> None:
        """Count the numbers of one episode: (t, s) and (t, a). Numbers that are not finite are not counted."""
        for vector, values in zip(self._vectors, (states, actions), strict=True):
            vector.add(values, episode)

    @property
    def found(self) -> tuple[OutOfRange, ...]:
        """The dimensions with numbers outside; state before action, in the order of the spec."""
        return tuple(each for vector in self._vectors for each in vector.found())


def out_of_range(episodes: Iterable[RecordedEpisode], spec: RobotSpec) -> tuple[OutOfRange, ...]:
    """Every dimension of `spec` with numbers outside its range in `episodes`: a dataset, or some episodes of it."""
    counter = RangeCounter(spec)
    for episode in episodes:
        counter.add(episode.index, episode.states, episode.actions)
    return counter.found


def range_of(low: npt.ArrayLike, high: npt.ArrayLike) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The range of a component whose data go from `low` to `high` (d,). Only a point is widened, because a range is not a point.

    Example:
        >>> range_of([-2.0, 5.0], [3.0, 5.0])
        ((-2.0, 4.999995), (3.0, 5.000005))
    """
    bottom, top = np.asarray(low, np.float64).reshape(-1), np.asarray(high, np.float64).reshape(-1)
    half = np.where(top - bottom < POINT * np.maximum(1, np.abs(top)), POINT * np.maximum(1, np.abs(top)), 0.0)
    return tuple((bottom - half).tolist()), tuple((top + half).tolist())


class _Outside:
    """The numbers of one vector outside their ranges."""

    def __init__(self, name: str, components: Sequence[Component]):
        self._name, self._components = name, components
        self._low = np.array([x for c in components for x in c.low], np.float64)
        self._high = np.array([x for c in components for x in c.high], np.float64)
        self._allowed = TOLERANCE * (self._high - self._low)
        size = len(self._low)
        self._count, self._worst, self._total = np.zeros(size, np.int64), np.zeros(size), 0
        self._first = np.zeros((size, 2), np.int64)

    def add(self, values: FloatArray, episode: int) -> None:
        self._total += len(values)
        excess = self._excess(values.astype(np.float64)) - self._allowed
        outside = excess > 0
        for dimension in np.flatnonzero(outside.any(axis=0)):
            rows = np.flatnonzero(outside[:, dimension])
            if not self._count[dimension]:
                self._first[dimension] = episode, rows[0]
            worst = float(values[rows[np.argmax(excess[rows, dimension])], dimension])
            if not self._count[dimension] or self._excess(worst)[dimension] > self._excess(self._worst)[dimension]:
                self._worst[dimension] = worst
            self._count[dimension] += len(rows)

    def _excess(self, values: Float64Array | float) -> Float64Array:
        return np.maximum(self._low - values, values - self._high)

    def found(self) -> list[OutOfRange]:
        names = [(c.name, axis, c.unit) for c in self._components for axis in c.axes]
        return [
            OutOfRange(
                self._name, component, axis, int(self._count[i]), self._total, float(self._worst[i]),
                float(self._low[i]), float(self._high[i]), unit, int(self._first[i, 0]), int(self._first[i, 1]),
            )
            for i, (component, axis, unit) in enumerate(names)
            if self._count[i]
        ]  # fmt: skip
