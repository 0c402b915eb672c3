"""The numbers of some episodes as arrays with one row for each frame: all episodes of a dataset, or those of one batch."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verbot.data.samples.episode_arrays import Caption, EpisodeArrays, Goals
from verbot.data.samples.labels import MaskedArray, labels
from verbot.data.samples.matching import MatchedDataset
from verbot.data.samples.window_config import WindowConfig
from verbot.data.storage.reader import Dataset
from verbot.errors import DataError
from verbot.spec import FloatArray, Int64Array

IN_MEMORY_FRAMES = 2_000_000  # a dataset with more is not held in memory: about 0.5 kB a frame
RECENT_FRAMES = 200_000  # frames of the episodes that are kept after their use, in a dataset that is not


@dataclass(frozen=True)
class EpisodeTable:
    """`n` episodes with `f` frames in all, one after another.

    Args:
        numbers: numbers of the episodes, ascending: int64 (n,).
        starts, stops: first row of each episode, and the one after its last: int64 (n,).
        states, actions, matrices: as in `EpisodeArrays`, (f, …).
        targets: the labels, each with f rows.
        segment_starts: first row of each instruction: int64 (m,), m at least n.
        wordings: the wordings of each instruction, and `wording_counts` how many there are: int64 (m,).
        goals, captions: of each episode; `goal_counts` int64 (n,).
        untouched: number of frames of each episode that show the scene untouched: int64 (n,).
        visit_before: for each episode the row where the one before began, if both are of one scene; else −1: int64 (n,).
    """

    numbers: Int64Array
    starts: Int64Array
    stops: Int64Array
    states: FloatArray
    actions: FloatArray
    matrices: npt.NDArray[np.floating]
    targets: dict[str, MaskedArray]
    segment_starts: Int64Array
    wordings: Sequence[tuple[str, ...]]
    wording_counts: Int64Array
    goals: Sequence[Goals]
    goal_counts: Int64Array
    captions: Sequence[tuple[Caption, ...]]
    untouched: Int64Array
    visit_before: Int64Array

    @staticmethod
    def of(episodes: Sequence[LabeledEpisode]) -> EpisodeTable:
        """The table of `episodes`, at least one, in ascending order of their numbers."""
        recorded = [episode.arrays for episode in episodes]
        numbers = np.array([episode.number for episode in episodes], np.int64)
        ends = np.cumsum([0, *(len(each.states) for each in recorded)])
        segments = [(start, segment) for start, each in zip(ends, recorded, strict=False) for segment in each.segments]
        names = episodes[0].targets
        return EpisodeTable(
            numbers=numbers,
            starts=ends[:-1],
            stops=ends[1:],
            states=np.concatenate([each.states for each in recorded]),
            actions=np.concatenate([each.actions for each in recorded]),
            matrices=np.concatenate([each.matrices for each in recorded]),
            targets={name: MaskedArray.concatenate([episode.targets[name] for episode in episodes]) for name in names},
            segment_starts=np.array([start + segment.start for start, segment in segments], np.int64),
            wordings=[segment.wordings for _, segment in segments],
            wording_counts=np.array([len(segment.wordings) for _, segment in segments]),
            goals=[each.goals for each in recorded],
            goal_counts=np.array([len(each.goals.points) for each in recorded]),
            captions=[each.captions for each in recorded],
            untouched=np.array([min(each.first_contact, each.unseen) for each in recorded]),
            visit_before=_visits_before(recorded, numbers, ends),
        )

    def rows(self, episodes: Int64Array, frames: Int64Array) -> Int64Array:
        """The rows of these frames of these episodes, which must be in the table."""
        return self.starts[np.searchsorted(self.numbers, episodes)] + frames

    def places(self, rows: Int64Array) -> Int64Array:
        """The episode of each row, counted in the table."""
        return np.searchsorted(self.stops, rows, side="right")

    def segments(self, rows: Int64Array) -> Int64Array:
        """The instruction of each row, counted in the table."""
        return np.searchsorted(self.segment_starts, rows, side="right") - 1


@dataclass(frozen=True)
class LabeledEpisode:
    """An episode in memory: its number, its arrays, and its labels by name."""

    number: int
    arrays: EpisodeArrays
    targets: dict[str, MaskedArray]


class EpisodeTables:
    """Tables of some episodes of a dataset: one of all of them that stays in memory if they are few, else one for each request.

    Args:
        cameras: the views of the labels, in order.
        numbers: numbers of the episodes; no others are read.

    Raises `DataError` for a dataset without episodes, and for a label of the wrong shape.
    """

    def __init__(self, dataset: Dataset | MatchedDataset, config: WindowConfig, cameras: Sequence[str], numbers: Iterable[int]):
        self._dataset, self._config, self._cameras = dataset, config, cameras
        self.numbers = np.unique(np.fromiter(numbers, np.int64))
        self._functions = {name: labels.get(name) for name in config.labels}
        if not len(dataset):
            raise DataError(f"{dataset.root} has no episodes yet")
        self._recent: OrderedDict[int, LabeledEpisode] = OrderedDict()
        self._whole: EpisodeTable | None = None
        self._recent_frames, self._lock = 0, threading.Lock()
        if len(self.numbers) and int(dataset.lengths[self.numbers].sum()) <= IN_MEMORY_FRAMES:
            known: dict[str, str] = {}  # a sentence of many episodes is kept once
            self._whole = EpisodeTable.of([self._read(number, known) for number in self.numbers.tolist()])

    @property
    def in_memory(self) -> bool:
        """Whether all of these episodes are in memory."""
        return self._whole is not None

    def of(self, episodes: Int64Array) -> EpisodeTable:
        """A table with these episodes, and with those before them where sequences reach into the visit before."""
        if self._whole is not None:
            return self._whole
        wanted = np.unique(episodes)
        if self._config.sequence > 1:
            wanted = np.unique(np.concatenate([wanted, np.intersect1d(wanted - 1, self.numbers)]))
        with self._lock:
            return EpisodeTable.of([self._held(int(number)) for number in wanted])

    def _held(self, number: int) -> LabeledEpisode:
        found = self._recent.pop(number, None)
        if found is None:
            found = self._read(number, {})
            self._recent_frames += len(found.arrays.states)
        self._recent[number] = found
        while self._recent_frames > RECENT_FRAMES and len(self._recent) > 1:
            _, oldest = self._recent.popitem(last=False)
            self._recent_frames -= len(oldest.arrays.states)
        return found

    def _read(self, number: int, known: dict[str, str]) -> LabeledEpisode:
        arrays = EpisodeArrays.of(self._dataset[number], self._config, self._cameras, known)
        targets = {name: _checked(name, label(arrays), arrays) for name, label in self._functions.items()}
        return LabeledEpisode(number, dataclasses.replace(arrays, extras={}, scenes=()), targets)


def _checked(name: str, label: MaskedArray, episode: EpisodeArrays) -> MaskedArray:
    count, axes = len(episode.states), label.mask.ndim
    if len(label.values) != count or label.mask.dtype != bool or label.values.shape[:axes] != label.mask.shape:
        raise DataError(
            f"the label {name!r} gave values {label.values.shape} with a mask {label.mask.shape} of {label.mask.dtype} for an "
            f"episode of {count} frames; expected a row for each frame, and a bool mask over the first axes of the values"
        )
    return label


def _visits_before(recorded: Iterable[EpisodeArrays], numbers: Int64Array, ends: Int64Array) -> Int64Array:
    rows, before = np.full(len(numbers), -1), None
    for place, episode in enumerate(recorded):
        follows = place > 0 and numbers[place - 1] == numbers[place] - 1
        if before is not None and follows and episode.visit and episode.request == before.request:
            rows[place] = ends[place - 1]
        before = episode
    return rows
