"""The episodes of one recording as those of a mixture: columns in its order, rows at its rate."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from verbot.data.storage.joining import column_order
from verbot.data.storage.reader import Dataset, Episode
from verbot.data.storage.resample import Resampled, resample, resampled_rows
from verbot.data.storage.segments import InstructionSegment
from verbot.spec import FloatArray, Int64Array, RobotSpec, UInt8Array


@dataclass(frozen=True, eq=False)
class DatasetMatching:
    """How the episodes of a recording are read.

    Args:
        recorded: the robot as recorded.
        joined: the robot of the mixture (see `verbot.data.storage.joining.join_specs`).

    Example:
        >>> spec = RobotSpec("arm", 10.0, (), (), ())
        >>> DatasetMatching(spec, spec).changes
        False
    """

    recorded: RobotSpec
    joined: RobotSpec

    @property
    def resamples(self) -> bool:
        return abs(self.recorded.rate_hz / self.joined.rate_hz - 1) > 1e-6

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

    @property
    def stride(self) -> float:
        """Recorded rows in a row of the mixture."""
        return self.recorded.rate_hz / self.joined.rate_hz

    @functools.lru_cache(maxsize=4096)  # noqa: B019  # a run has one for each dataset
    def rows(self, length: int) -> Int64Array:
        """The recorded row of each row of an episode with `length` recorded ones: int64 (t,)."""
        return resampled_rows(length, self.recorded.rate_hz, self.joined.rate_hz) if self.resamples else np.arange(length)


class MatchedDataset:
    """A recording as `matching` reads it; attributes as of `verbot.data.Dataset`.

    Args:
        recorded: the dataset.
    """

    def __init__(self, recorded: Dataset, matching: DatasetMatching):
        self.recorded, self.matching, self.root, self.spec = recorded, matching, recorded.root, matching.spec

    def __len__(self) -> int:
        return len(self.recorded)

    def __getitem__(self, index: int) -> MatchedEpisode:
        return MatchedEpisode(self.recorded[index], self)

    @property
    def camera_names(self) -> tuple[str, ...]:
        return self.recorded.camera_names

    @functools.cached_property
    def lengths(self) -> Int64Array:
        """Number of rows of each episode: int64 (n,)."""
        recorded, places = np.unique(self.recorded.lengths, return_inverse=True)
        return np.array([len(self.matching.rows(length)) for length in recorded.tolist()], np.int64)[places]

    def recorded_rows(self, episodes: Int64Array, rows: Int64Array) -> Int64Array:
        """The recorded rows of these rows of these episodes, arrays of one shape."""
        if not self.matching.resamples:
            return rows
        lengths, out = self.recorded.lengths[episodes], np.empty_like(rows)
        for length in np.unique(lengths).tolist():
            here = lengths == length
            out[here] = self.matching.rows(length)[rows[here]]
        return out


@dataclass(frozen=True)
class MatchedEpisode:
    """An episode of a mixture; attributes as of `verbot.data.Episode`."""

    recorded: Episode = field(repr=False)
    dataset: MatchedDataset = field(repr=False)

    @property
    def matching(self) -> DatasetMatching:
        return self.dataset.matching

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def _resampled(self) -> Resampled:
        """The rows, states and actions, columns as recorded."""
        states, actions, matching = self.recorded.states, self.recorded.actions, self.matching
        if not matching.resamples:
            return Resampled(np.arange(len(actions)), states, actions)
        times = np.arange(len(actions)) / matching.recorded.rate_hz
        return resample(times, states, actions, matching.recorded, matching.joined.rate_hz)

    @property
    def rows(self) -> Int64Array:
        """(t,), the recorded row of each row."""
        return self._resampled.rows

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
        return _ordered(self._resampled.states, self.matching.orders[0])

    @property
    def actions(self) -> FloatArray:
        return _ordered(self._resampled.actions, self.matching.orders[1])

    @functools.cached_property
    def extras(self) -> Mapping[str, Any]:
        """As recorded; numbers of frames (``first_contact_frame``, …) count the rows of this episode."""
        return {key: self._row_at(value) if _is_frame(key, value) else value for key, value in self.recorded.extras.items()}

    @property
    def segments(self) -> tuple[InstructionSegment, ...]:
        moved = ((self._row_at(s.start), self._row_at(s.stop), s.wordings) for s in self.recorded.segments)
        return tuple(InstructionSegment(*each) for each in moved if each[0] < each[1])

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        return {name: values[self.rows] for name, values in self.recorded.columns.items()}

    def images(self, camera: str, rows: Sequence[int] | None = None) -> UInt8Array:
        """As `Episode.images`; a recorded frame may stand for several rows."""
        wanted = self.rows if rows is None else self.rows[np.asarray(rows, np.int64)]
        distinct, places = np.unique(wanted, return_inverse=True)
        return self.recorded.images(camera, distinct.tolist())[places]

    def _row_at(self, frame: int) -> int:
        """The first row at or after a recorded frame."""
        return int(np.searchsorted(self.rows, frame))


def _ordered(values: FloatArray, order: Int64Array | None) -> FloatArray:
    return values if order is None else np.ascontiguousarray(values[:, order])


def _is_frame(key: str, value: Any) -> bool:
    return key.endswith("_frame") and isinstance(value, int) and not isinstance(value, bool)
