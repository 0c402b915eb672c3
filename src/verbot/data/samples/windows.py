"""Training samples: for each recorded frame its past, its future actions and its instruction, as plain arrays."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verbot.contracts import POINTS
from verbot.data.samples.episode_arrays import Caption, EpisodeArrays
from verbot.data.samples.keypoints import project
from verbot.data.samples.labels import MaskedArray, labels
from verbot.data.samples.matching import MatchedDataset, MatchedEpisode
from verbot.data.samples.window_config import WindowConfig
from verbot.data.storage.frame_cache import FeatureArray, FeatureCache, FrameCache
from verbot.data.storage.reader import Dataset
from verbot.errors import DataError
from verbot.spec import BoolArray, FloatArray, Int64Array, UInt8Array
from verbot.transforms import FitImage

DRAWS = 3  # random numbers that a window needs: which wording, whether another goal, which goal


@dataclass(frozen=True)
class WindowBatch:
    """`b` windows, in the robot's own units.

    Args:
        images: uint8 (b, t, v, h, w, 3) RGB, the latest frame last. Frames before the start of an episode are its first frame,
            masked. Of shape (b, t, v, h, w, 0) if `features` replace them.
        images_mask: bool (b, t, v); False for padding and for a camera that the dataset lacks.
        state: float32 (b, t, s), with `state_mask` bool (b, t).
        actions: float32 (b, k, a), from the latest frame on. After the end of an episode its last action, masked.
        actions_mask: bool (b, k); all False if the instruction is not that of the executed goal.
        instructions: one per window.
        targets: the labels of the latest frames by name (see `verbot.data.samples.labels`), one row per window.
        grounding_queries: instructions of other goals that the scene admits, at most `m` per window.
        query_keypoints: image points float32 (b, m, v, 3, 2) of the target, receptacle and reference of each query.
        captions: pairs of a true and a false sentence about the image, at most `WindowConfig.captions` per window.
        index: int64 (b,), numbers of the windows.
        goal: uint8 (b, h, w, 3), the last image of the episode from the first camera; of size 0 without goals.
        goal_mask: bool (b,); False without a goal image.
        previous_action: float32 (b, a), the recorded action before the latest frame, without noise of the expert, as `actions`.
            a is 0 if `WindowConfig.previous_action` is False.
        previous_action_mask: bool (b,); False at the start of an episode.
        features: float16 (b, t, v, p, d), features of the images from a frozen encoder; p and d are 0 without them.
    """

    images: UInt8Array
    images_mask: BoolArray
    state: FloatArray
    state_mask: BoolArray
    actions: FloatArray
    actions_mask: BoolArray
    instructions: list[str]
    targets: dict[str, MaskedArray]
    grounding_queries: list[tuple[str, ...]]
    query_keypoints: MaskedArray
    index: Int64Array
    goal: UInt8Array
    goal_mask: BoolArray
    previous_action: FloatArray
    previous_action_mask: BoolArray
    features: FeatureArray
    captions: list[tuple[Caption, ...]]

    def __len__(self) -> int:
        return len(self.index)

    def take(self, order: Int64Array) -> WindowBatch:
        """The windows at these places, in this order."""
        return WindowBatch(**{field.name: _taken(getattr(self, field.name), order) for field in dataclasses.fields(self)})

    @staticmethod
    def concatenate(parts: Sequence[WindowBatch]) -> WindowBatch:
        """All windows of `parts`, one after another."""
        names = [field.name for field in dataclasses.fields(WindowBatch)]
        return WindowBatch(**{name: _joined([getattr(part, name) for part in parts]) for name in names})


def _taken(value: Any, order: Int64Array) -> Any:
    if isinstance(value, list):
        return [value[i] for i in order]
    if isinstance(value, dict):
        return {name: target.take(order) for name, target in value.items()}
    return value.take(order) if isinstance(value, MaskedArray) else value[order]


def _joined(values: Sequence[Any]) -> Any:
    if isinstance(values[0], list):
        return [item for value in values for item in value]
    if isinstance(values[0], dict):
        return {name: MaskedArray.concatenate([value[name] for value in values]) for name in values[0]}
    return MaskedArray.concatenate(values) if isinstance(values[0], MaskedArray) else np.concatenate(values)


class Windows:
    """Every frame of a dataset as a training sample.

    Args:
        source: an open dataset, as it is now, or as a mixture reads it. To use episodes that are saved later, open it again.
        config: the content of a window.
        episodes: numbers of the episodes to use; all if None.
        cache: the decoded frames; if None, it is opened and filled.
        features: features of the frames, which replace the images.

    Example:
        >>> import tempfile
        >>> from verbot.data.storage.reader import open_dataset
        >>> from verbot.data.storage.writer import example_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     windows = Windows(open_dataset(example_dataset(folder)), WindowConfig(history=2, chunk=5))
        ...     batch = windows.batch(np.array([0, 11]), np.random.default_rng(0))
        >>> batch.images.shape, batch.images_mask[:, :, 0].tolist(), batch.actions_mask.sum(axis=1).tolist()
        ((2, 2, 1, 32, 32, 3), [[False, True], [True, True]], [5, 1])
    """

    def __init__(
        self,
        source: Dataset | MatchedDataset,
        config: WindowConfig | None = None,
        *,
        episodes: Sequence[int] | None = None,
        cache: FrameCache | None = None,
        features: FeatureCache | None = None,
    ):
        self.config = config or WindowConfig()
        self.spec = source.spec
        self.cameras = tuple(source.camera_names if self.config.cameras is None else self.config.cameras)
        if not len(source):
            raise DataError(f"{source.root} has no episodes yet")
        recorded, self._targets, self._recorded_rows = _read(source, self.config, self.cameras)
        self._ends = ends = np.cumsum([0, *(len(episode.states) for episode in recorded)])
        self._index = self._frames_of(range(len(recorded)) if episodes is None else episodes)
        self._first, self._end = (np.repeat(bound, np.diff(ends)) for bound in (ends[:-1], ends[1:]))
        self._episode = np.repeat(np.arange(len(recorded)), np.diff(ends))
        self._visit_before = np.repeat(_visits_before(recorded, ends), np.diff(ends))
        self._states = np.concatenate([episode.states for episode in recorded])
        self._actions = np.concatenate([episode.actions for episode in recorded])
        self._words = [episode.instructions for episode in recorded]
        self._word_counts = np.array([len(words) for words in self._words])
        present = [camera for camera in self.cameras if camera in source.camera_names]
        cache = cache or FrameCache(source.recorded if isinstance(source, MatchedDataset) else source, present)
        self._frames = {camera: cache.frames(camera) for camera in present}
        self._features = {camera: features.features(camera) for camera in present} if features else {}
        self._size = self._image_size()
        sizes = {camera.name: (camera.height, camera.width) for camera in source.spec.cameras}
        self._fits = [_fit(self.config, *sizes[camera]) if camera in present else None for camera in self.cameras]
        for target in self._targets.values():
            if target.space == "image_points":
                self._move(target.values, target.mask)
        self._matrices = np.concatenate([episode.matrices for episode in recorded])
        self._goals = [episode.goals for episode in recorded]
        self._captions = [episode.captions for episode in recorded]
        self._goal_counts = np.array([len(goals.points) for goals in self._goals])
        untouched = np.array([min(episode.first_contact, episode.unseen) for episode in recorded])
        self._untouched = np.arange(ends[-1]) - self._first < untouched[self._episode]

    def __len__(self) -> int:
        return len(self._index)

    def choosing(self, episodes: Sequence[int], relabel: float = 0.0, grounding_queries: int = 0) -> Windows:
        """Windows of other episodes of the same recording, which is in memory only once; arguments as in `WindowConfig`."""
        other = copy.copy(self)
        other._index = self._frames_of(episodes)
        other.config = dataclasses.replace(self.config, relabel=relabel, grounding_queries=grounding_queries)
        return other

    def _frames_of(self, episodes: Sequence[int]) -> Int64Array:
        frames = [np.arange(self._ends[e], self._ends[e + 1]) for e in episodes]
        return np.concatenate(frames) if frames else np.empty(0, np.int64)

    @property
    def shape(self) -> tuple[object, ...]:
        """What sources of one mixture must have in common."""
        own = dataclasses.replace(self.config, cameras=self.cameras, keypoints="hindsight", relabel=0.0, tasks=())
        return (*dataclasses.astuple(own), *self._size, self.spec.state_size, self.spec.action_size)

    def batch(self, indices: npt.ArrayLike, rng: np.random.Generator) -> WindowBatch:
        """The windows with these numbers; `rng` draws their wording and, with `relabel`, their goal."""
        chosen = np.asarray(indices, np.int64)
        return self.gather(chosen, rng.random((len(chosen), DRAWS)))

    def gather(self, indices: Int64Array, draws: npt.NDArray[np.float64]) -> WindowBatch:
        """As `batch`, with random numbers (b, `DRAWS`) in [0, 1) given: the same numbers, the same windows."""
        now, stride, sequence = self._index[indices], self.config.stride, self.config.sequence
        if sequence == 1:
            return self._gather(indices, now, draws)
        rows = now[:, None] - stride * np.arange(sequence - 1, -1, -1)  # (b, q)
        first, last = (np.repeat(bound[now, None], sequence, 1) for bound in (self._first, self._end - 1))
        revisits, half = np.flatnonzero(self._visit_before[now] >= 0), sequence // 2
        before = self._visit_before[now[revisits], None]
        rows[revisits, :half] = before + stride * np.arange(half)
        first[revisits, :half], last[revisits, :half] = before, self._end[before] - 1
        absent, rows = (rows < first) | (rows > last), np.clip(rows, first, last)
        repeated = np.repeat(indices, sequence), rows.ravel(), np.repeat(draws, sequence, 0)
        return _without(self._gather(*repeated), absent.ravel())

    def _gather(self, indices: Int64Array, now: Int64Array, draws: npt.NDArray[np.float64]) -> WindowBatch:
        config = self.config
        past = now[:, None] + config.stride * np.arange(1 - config.history, 1)  # (b, t)
        future = now[:, None] + np.arange(config.chunk)  # (b, k)
        past_mask = past >= self._first[now, None]
        past = np.maximum(past, self._first[now, None])
        future_mask = future < self._end[now, None]
        future = np.minimum(future, self._end[now, None] - 1)
        images, features, images_mask = self._images(past, past_mask)
        episode = self._episode[now]
        wording = (draws[:, 0] * self._word_counts[episode]).astype(np.int64)
        instructions = [self._words[e][w] for e, w in zip(episode.tolist(), wording.tolist(), strict=True)]
        targets = {name: target.take(now) for name, target in self._targets.items()}
        others = np.flatnonzero((draws[:, 1] < config.relabel) & self._untouched[now] & (self._goal_counts[episode] > 0))
        if len(others):
            places, places_mask = self._relabel(instructions, now, others, draws)
            for target in targets.values():
                target.mask[others] = places_mask if target.of_goal else False
                if target.of_goal:
                    target.values[others] = places
            future_mask[others] = False
        queries, query_keypoints = self._ask(now, draws)
        first, goals = self._first[now], config.goals
        before = self._actions[np.maximum(now - 1, first)] if config.previous_action else np.empty((len(now), 0), np.float32)
        return WindowBatch(
            images=images,
            images_mask=images_mask,
            state=self._states[past],
            state_mask=past_mask,
            actions=self._actions[future],
            actions_mask=future_mask,
            instructions=instructions,
            targets=targets,
            grounding_queries=queries,
            query_keypoints=query_keypoints,
            index=np.asarray(indices, np.int64),
            goal=self._goal_images(now) if goals else np.empty((len(now), 0, 0, 3), np.uint8),
            goal_mask=np.full(len(now), goals and self.cameras[0] in self._frames),
            previous_action=before,
            previous_action_mask=(now > first) & config.previous_action,
            features=features,
            captions=self._name(now, draws),
        )

    def _relabel(
        self, instructions: list[str], now: Int64Array, others: Int64Array, draws: npt.NDArray[np.float64]
    ) -> tuple[FloatArray, BoolArray]:
        """Give the windows `others` the instruction of another goal. Returns where its points are, and which can be seen."""
        episode = self._episode[now]
        chosen = (draws[others, 2] * self._goal_counts[episode[others]]).astype(np.int64)
        points = np.empty((len(others), len(POINTS), 3))
        for i, (row, goal) in enumerate(zip(others.tolist(), chosen.tolist(), strict=True)):
            goals = self._goals[episode[row]]
            points[i], words = goals.points[goal], goals.instructions[goal]
            instructions[row] = words[int(draws[row, 0] * len(words))]
        return self._move(*project(self._matrices[now[others]], points))

    def _name(self, now: Int64Array, draws: npt.NDArray[np.float64]) -> list[tuple[Caption, ...]]:
        """Captions that follow one another in the order of the recording; none after the first contact."""
        said: list[tuple[Caption, ...]] = [()] * len(now)
        for row in np.flatnonzero(self._untouched[now]) if self.config.captions else ():
            known = self._captions[self._episode[now[row]]]
            first = int(draws[row, 2] * len(known))
            said[row] = tuple(known[(first + i) % len(known)] for i in range(min(self.config.captions, len(known))))
        return said

    def _ask(self, now: Int64Array, draws: npt.NDArray[np.float64]) -> tuple[list[tuple[str, ...]], MaskedArray]:
        """Goals that follow one another in the order of the recording, in which neighbors name different objects."""
        episode, views, most = self._episode[now], len(self.cameras), self.config.grounding_queries
        points = np.full((len(now), most, len(POINTS), 3), np.nan)
        queries: list[tuple[str, ...]] = [()] * len(now)
        for row in np.flatnonzero(self._untouched[now] & (self._goal_counts[episode] > 0)) if most else ():
            goals, words = self._goals[episode[row]], []
            count = len(goals.points)
            for place in range(min(most, count)):
                goal = (int(draws[row, 2] * count) + place) % count
                points[row, place] = goals.points[goal]
                said = goals.instructions[goal]
                words.append(said[int(draws[row, 1] * len(said))])
            queries[row] = tuple(words)
        flat = points.reshape(len(now), -1, 3)
        keypoints, mask = self._move(*project(self._matrices[now], flat))  # (b, v, m·3, 2)
        keypoints = keypoints.reshape(len(now), views, most, len(POINTS), 2)
        mask = mask.reshape(keypoints.shape[:-1])
        return queries, MaskedArray(keypoints.swapaxes(1, 2), mask.swapaxes(1, 2), "image_points", of_goal=True, visible=True)

    def _images(self, past: Int64Array, mask: BoolArray) -> tuple[UInt8Array, FeatureArray, BoolArray]:
        """Images, or the features that stand for them, and where there are some."""
        shape = (*past.shape, len(self.cameras))
        places = next(iter(self._features.values())).shape[1:] if self._features else (0, 0)
        images = np.zeros((*shape, *self._size, 0 if self._features else 3), np.uint8)
        past = self._rows(past)
        features, images_mask = np.zeros((*shape, *places), np.float16), np.zeros(shape, bool)
        for view, camera in enumerate(self.cameras):
            if camera in self._frames:
                if self._features:
                    features[:, :, view] = self._features[camera][past]
                else:
                    images[:, :, view] = self._fitted(self._frames[camera][past])
                images_mask[:, :, view] = mask
        return images, features, images_mask

    def _goal_images(self, now: Int64Array) -> UInt8Array:
        """The last images of the episodes, from the first camera; black if the dataset lacks it."""
        camera = self.cameras[0]
        if camera not in self._frames:
            return np.zeros((len(now), *self._size, 3), np.uint8)
        return self._fitted(self._frames[camera][self._rows(self._end[now] - 1)])

    def _rows(self, rows: Int64Array) -> Int64Array:
        """The recorded frames of rows of the episodes."""
        return rows if self._recorded_rows is None else self._recorded_rows[rows]

    def _fitted(self, frames: UInt8Array) -> UInt8Array:
        fit = _fit(self.config, *frames.shape[-3:-1])
        return frames if fit is None else fit.forward(frames)

    def _move(self, points: FloatArray, mask: BoolArray) -> tuple[FloatArray, BoolArray]:
        """Points (n, v, …, 2) of the cameras' images become those of the resized ones, in place; those outside are masked."""
        for view, fit in enumerate(self._fits):
            if fit is not None:
                points[:, view] = fit.points(points[:, view])
                mask[:, view] &= (np.abs(points[:, view]) <= 1).all(-1)
        return points, mask

    def _image_size(self) -> tuple[int, int]:
        if self.config.image_size is not None:
            return self.config.image_size
        sizes = {camera: frames.shape[1:3] for camera, frames in self._frames.items()}
        if len(set(sizes.values())) > 1:
            raise DataError(f"the cameras of one batch need one image size; they have {sizes}")
        height, width = next(iter(sizes.values()), (1, 1))
        return height, width


def _read(
    source: Dataset | MatchedDataset, config: WindowConfig, cameras: Sequence[str]
) -> tuple[list[EpisodeArrays], dict[str, MaskedArray], Int64Array | None]:
    """Every episode, the labels of all their frames, and the recorded frame of each frame; None if they are the same."""
    known: dict[str, str] = {}  # a sentence of many episodes is kept once
    functions = {name: labels.get(name) for name in config.labels}
    recorded, found, rows, first = [], {name: list[MaskedArray]() for name in functions}, [], 0
    for episode in source:
        arrays = EpisodeArrays.of(episode, config, cameras, known)
        for name, label in functions.items():
            found[name].append(_checked(name, label(arrays), arrays))
        recorded.append(dataclasses.replace(arrays, extras={}))
        if isinstance(episode, MatchedEpisode):
            rows.append(first + episode.rows)
            first += len(episode.recorded)
    joined = {name: MaskedArray.concatenate(parts) for name, parts in found.items()}
    return recorded, joined, np.concatenate(rows) if rows else None


def _fit(config: WindowConfig, height: int, width: int) -> FitImage | None:
    """How images of this size are resized; None if they are not."""
    return (
        None if config.image_size in (None, (height, width)) else FitImage((height, width), config.image_size, config.image_fit)
    )


def _checked(name: str, label: MaskedArray, episode: EpisodeArrays) -> MaskedArray:
    count, axes = len(episode.states), label.mask.ndim
    if len(label.values) != count or label.mask.dtype != bool or label.values.shape[:axes] != label.mask.shape:
        raise DataError(
            f"the label {name!r} gave values {label.values.shape} with a mask {label.mask.shape} of {label.mask.dtype} for an "
            f"episode of {count} frames; expected a row for each frame, and a bool mask over the first axes of the values"
        )
    return label


def _without(batch: WindowBatch, absent: BoolArray) -> WindowBatch:
    """The same, with nothing to see and nothing to learn in the rows that are `absent`."""
    masks = [batch.images_mask, batch.state_mask, batch.actions_mask, batch.previous_action_mask, batch.query_keypoints.mask]
    for mask in (*masks, *(target.mask for target in batch.targets.values())):
        mask[absent] = False
    queries = [() if gone else asked for gone, asked in zip(absent.tolist(), batch.grounding_queries, strict=True)]
    captions = [() if gone else said for gone, said in zip(absent.tolist(), batch.captions, strict=True)]
    goal_mask = batch.goal_mask & ~absent
    return dataclasses.replace(batch, grounding_queries=queries, captions=captions, goal_mask=goal_mask)


def _visits_before(recorded: Sequence[EpisodeArrays], ends: Int64Array) -> Int64Array:
    """For each episode the row where the one before began, if both are of one scene; else -1."""
    rows = np.full(len(recorded), -1)
    for number, (before, episode) in enumerate(itertools.pairwise(recorded), start=1):
        if episode.visit and episode.request == before.request:
            rows[number] = ends[number - 1]
    return rows
