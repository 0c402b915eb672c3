"""Statistics of the states and actions of many episodes, in memory that does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np

from verbot.errors import DataError
from verbot.spec import FloatArray
from verbot.statistics import QUANTILES, FeatureStatistics, Statistics

EXACT = 2**24  # numbers up to which quantiles are exact
SAMPLES = 2**20  # frames, evenly spaced, that quantiles come from beyond that


class RecordedVectors(Protocol):
    """What `episode_statistics` reads of an episode."""

    @property
    def index(self) -> int: ...
    @property
    def states(self) -> FloatArray: ...
    @property
    def actions(self) -> FloatArray: ...


def statistics_of(vectors: Sequence[tuple[FloatArray, FloatArray]]) -> Statistics:
    """Statistics of the states (t, s) and actions (t, a) of some episodes."""
    states, actions = (np.concatenate(arrays) for arrays in zip(*vectors, strict=True))
    return Statistics.of({"state": states, "action": actions} if states.shape[1] else {"action": actions})


def episode_statistics(episodes: Callable[[], Iterable[RecordedVectors]], frames: int, size: int) -> Statistics:
    """Statistics of ``"state"`` and ``"action"`` over all frames of some episodes.

    Minimum, maximum, mean and deviation are exact. Quantiles are exact for up to 2**24 numbers; of more numbers they are those of
    2**20 evenly spaced frames, whose rank is off by at most about a thousandth.

    Args:
        episodes: returns the episodes; called twice if there are many numbers.
        frames: how many frames they have.
        size: numbers of a frame.

    Raises `DataError` that names the episode and the frame of a number that is not finite.
    """
    if frames * size <= EXACT:
        vectors = []
        for episode in episodes():
            check_finite(episode)
            vectors.append((episode.states, episode.actions))
        return statistics_of(vectors)
    step = -(-frames // SAMPLES)
    running, start = [RunningStatistics(step), RunningStatistics(step)], 0
    for episode in episodes():
        check_finite(episode)
        for each, values in zip(running, (episode.states, episode.actions), strict=True):
            each.add(values, start)
        start += len(episode.actions)
    for episode in episodes():
        for each, values in zip(running, (episode.states, episode.actions), strict=True):
            each.add_deviations(values)
    named = {name: each for name, each in zip(("state", "action"), running, strict=True) if each.total.size}
    return Statistics({name: each.statistics() for name, each in named.items()})


def check_finite(episode: RecordedVectors) -> None:
    """Raise `DataError` that names episode, frame and dimension unless all numbers of an episode are finite."""
    for name, values in (("states", episode.states), ("actions", episode.actions)):
        if not np.isfinite(values).all():
            frame, dimension = np.argwhere(~np.isfinite(values))[0]
            raise DataError(
                f"the {name} of episode {episode.index} are not finite: {values[frame, dimension]} at frame {frame}, "
                f"dimension {dimension}"
            )


class RunningStatistics:
    """Statistics of one vector over blocks (t, d) of frames; every `step`-th frame is kept for the quantiles.

    Pass every block to `add`, then every block to `add_deviations`.
    """

    def __init__(self, step: int):
        self._step, self._count, self._kept = step, 0, list[np.ndarray]()
        self._low = self._high = self._squares = self.total = np.zeros(0)

    def add(self, values: np.ndarray, start: int) -> None:
        """`start` is the number of the first frame."""
        self._kept.append(values[-start % self._step :: self._step].copy())
        values = values.astype(np.float64)
        low, high, total = values.min(axis=0), values.max(axis=0), values.sum(axis=0)
        first = not self._count
        self._low = low if first else np.minimum(self._low, low)
        self._high = high if first else np.maximum(self._high, high)
        self.total = total if first else self.total + total
        self._squares = np.zeros_like(total)
        self._count += len(values)

    def add_deviations(self, values: np.ndarray) -> None:
        self._squares += ((values.astype(np.float64) - self.total / self._count) ** 2).sum(axis=0)

    def statistics(self) -> FeatureStatistics:
        constant = self._low == self._high
        kept = np.concatenate(self._kept).astype(np.float64)
        return FeatureStatistics(
            mean=np.where(constant, self._low, self.total / self._count),
            std=np.where(constant, 0.0, np.sqrt(self._squares / self._count)),
            min=self._low,
            max=self._high,
            quantiles=dict(zip(QUANTILES, np.quantile(kept, QUANTILES, axis=0), strict=True)),
            count=self._count,
        )
