"""The episodes of one recording as those of a mixture: columns in its order, rows at its rate."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from verbot.data.storage.joining import SAME_RATE, column_order
from verbot.data.storage.moved import moved_extras, moved_segments
from verbot.data.storage.reader import Dataset, Episode
from verbot.data.storage.resample import SNAP, Resampled, resample
from verbot.data.storage.segments import InstructionSegment
from verbot.spec import FloatArray, Int64Array, RobotSpec, UInt8Array


@dataclass(frozen=True, eq=False)
class DatasetMatching:
    """How the episodes of a recording are read.

    Args:
        recorded: the robot as recorded.
        joined: the robot of the mixture (see `verbot.data.storage.joining.join_specs`).

    Example:
        >>> slow, fast = RobotSpec("arm", 10.0, (), (), ()), RobotSpec("arm", 30.0, (), (), ())
        >>> matching = DatasetMatching(fast, slow)
        >>> matching.length(np.array([20])).tolist(), matching.rows(np.arange(7), np.array([20])).tolist()
        ([7], [0, 3, 6, 9, 12, 15, 18])
    """

    recorded: RobotSpec
    joined: RobotSpec

    @property
    def resamples(self) -> bool:
        return abs(self.stride - 1) > SAME_RATE

    @property
    def reorders(self) -> bool:
        return any(order is not None for order in self.orders)

    @property
    def changes(self) -> bool:
        """Whether any episode is read otherwise than it was recorded."""
        return self.resamples or self.reorders

    @functools.cached_property
    def orders(self) -> tuple[Int64Array | None, Int64Array | None]:
        """The recorded column of each column of state and action of the mixture; None where they are in order."""
        pairs = ((self.joined.state, self.recorded.state), (self.joined.action, self.recorded.action))
        state, action = (column_order(ours, own) for ours, own in pairs)
        return state, action

    @functools.cached_property
    def spec(self) -> RobotSpec:
        """The robot of the mixture, with the cameras as this recording has them."""
        frames = tuple(dict.fromkeys((*self.joined.frames, *self.recorded.frames)))
        return replace(self.joined, cameras=self.recorded.cameras, frames=frames)

    def length(self, recorded: Int64Array) -> Int64Array:
        """Rows of episodes that have so many `recorded` rows."""
        if not self.resamples:
            return recorded
        return np.ceil((recorded - SNAP * min(1.0, self.stride)) / self.stride).astype(np.int64)

    def rows(self, rows: Int64Array, recorded: Int64Array) -> Int64Array:
        """The recorded rows nearest to `rows` of episodes of `recorded` rows; arrays of one shape."""
        if not self.resamples:
            return rows
        nearest = np.ceil(rows * self.stride - 0.5 - SNAP).astype(np.int64)
        return np.minimum(nearest, recorded - 1)

    @property
    def stride(self) -> float:
        """Recorded rows in a row of the mixture."""
        return self.recorded.rate_hz / self.joined.rate_hz


class MatchedDataset:
    """A recording as a source of a mixture; what is here is as in `verbot.data.Dataset`.

    Args:
        recorded: the dataset as recorded.
    """

    def __init__(self, recorded: Dataset, matching: DatasetMatching):
        self.recorded, self.matching = recorded, matching
        self.root, self.spec = recorded.root, matching.spec

    def __len__(self) -> int:
        return len(self.recorded)

    def __getitem__(self, number: int) -> MatchedEpisode:
        return MatchedEpisode(self.recorded[number], self)

    def __iter__(self) -> Iterator[MatchedEpisode]:
        return (self[number] for number in range(len(self)))

    @property
    def camera_names(self) -> tuple[str, ...]:
        return self.recorded.camera_names

    @functools.cached_property
    def lengths(self) -> Int64Array:
        """Number of rows of each episode: int64 (n,)."""
        return self.matching.length(self.recorded.lengths)

    def recorded_rows(self, episodes: Int64Array, rows: Int64Array) -> Int64Array:
        """The recorded rows of these rows of these episodes, arrays of one shape."""
        return self.matching.rows(rows, self.recorded.lengths[episodes])


@dataclass(frozen=True)
class MatchedEpisode:
    """An episode of a mixture; attributes as of `verbot.data.Episode`."""

    recorded: Episode = field(repr=False)
    dataset: MatchedDataset = field(repr=False)

    def __len__(self) -> int:
        return int(self.dataset.matching.length(np.array(len(self.recorded))))

    @functools.cached_property
    def rows(self) -> Int64Array:
        """(t,), the recorded row of each row."""
        return self.dataset.matching.rows(np.arange(len(self)), np.array(len(self.recorded)))

    @functools.cached_property
    def _resampled(self) -> Resampled:
        """The rows, states and actions, columns as recorded."""
        states, actions, matching = self.recorded.states, self.recorded.actions, self.dataset.matching
        if not matching.resamples:
            return Resampled(np.arange(len(actions)), states, actions)
        times = np.arange(len(actions)) / matching.recorded.rate_hz
        return resample(times, states, actions, matching.recorded, matching.joined.rate_hz)

    @property
    def index(self) -> int:
        return self.recorded.index

    @property
    def length(self) -> int:
        return len(self)

    @property
    def identity(self) -> str:
        return self.recorded.identity

    @property
    def tasks(self) -> Sequence[str]:
        return self.recorded.tasks

    @property
    def calibration(self) -> Mapping[str, Any]:
        return self.recorded.calibration

    @property
    def instruction(self) -> str:
        return self.recorded.instruction

    @property
    def instructions(self) -> tuple[str, ...]:
        return self.recorded.instructions

    @property
    def states(self) -> FloatArray:
        return _ordered(self._resampled.states, self.dataset.matching.orders[0])

    @property
    def actions(self) -> FloatArray:
        return _ordered(self._resampled.actions, self.dataset.matching.orders[1])

    @functools.cached_property
    def extras(self) -> Mapping[str, Any]:
        """As recorded; numbers of frames (``first_contact_frame``, …) count the rows of this episode (see
        `verbot.data.storage.moved.moved_extras`)."""
        return moved_extras(self.recorded.extras, self.rows) if self.dataset.matching.resamples else self.recorded.extras

    @property
    def segments(self) -> tuple[InstructionSegment, ...]:
        return moved_segments(self.recorded.segments, self.rows)

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        return {name: values[self.rows] for name, values in self.recorded.columns.items()}

    def images(self, camera: str, rows: Sequence[int] | None = None) -> UInt8Array:
        """As `Episode.images`; a recorded frame may stand for several rows."""
        wanted = self.rows if rows is None else self.rows[np.asarray(rows, np.int64)]
        distinct, places = np.unique(wanted, return_inverse=True)
        return self.recorded.images(camera, distinct.tolist())[places]


def _ordered(values: FloatArray, order: Int64Array | None) -> FloatArray:
    return values if order is None else np.ascontiguousarray(values[:, order])
