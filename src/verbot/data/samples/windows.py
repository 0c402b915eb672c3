"""Training samples: for each recorded frame its past, its future actions and its instruction, as plain arrays."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verbot.contracts import POINTS
from verbot.data.samples.decks import ClipDeck, Deck, ShuffledDeck
from verbot.data.samples.episode_arrays import Caption
from verbot.data.samples.episode_table import EpisodeTable, EpisodeTables
from verbot.data.samples.frame_source import FrameSource
from verbot.data.samples.keypoints import project
from verbot.data.samples.labels import MaskedArray
from verbot.data.samples.matching import MatchedDataset
from verbot.data.samples.window_batch import WindowBatch as WindowBatch
from verbot.data.samples.window_batch import without
from verbot.data.samples.window_config import WindowConfig
from verbot.data.storage.frame_cache import FeatureArray, FeatureCache, FrameCache
from verbot.data.storage.reader import Dataset
from verbot.errors import ConfigError, DataError
from verbot.spec import BoolArray, Camera, FloatArray, Int64Array, UInt8Array, moves
from verbot.transforms import FitImage

DRAWS = 3  # random numbers that a window needs: which wording, whether another goal, which goal; further ones say how far ahead
CLIP, BLOCK = 16, 256  # frames in a clip and clips in a block, where the episodes are not in memory and the frames are


class Windows:
    """Every frame of a dataset as a training sample.

    Args:
        source: an open dataset, as it is now. To use episodes that are saved later, open it again.
        config: the content of a window.
        episodes: numbers of the episodes to use; all if None. No others are read.
        cache: where frames come from (see `verbot.data.samples.frame_source.open_frames`); if None, a `FrameCache` is opened and
            filled.
        features: features of the frames, which replace the images.
        views: cameras of other sources of the same mixture: their kind, and the size of their pictures in a batch. What `source`
            lacks of `config.cameras` has these.

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
        cache: FrameSource | None = None,
        features: FeatureCache | None = None,
        views: Sequence[Camera] = (),
    ):
        self.config = config or WindowConfig()
        self.spec = source.spec
        recorded = source.recorded if isinstance(source, MatchedDataset) else source
        named = tuple(source.camera_names if self.config.cameras is None else self.config.cameras)
        self._views = {camera.name: camera for camera in views}
        deep = {camera.name for camera in (*views, *recorded.spec.cameras) if camera.kind == "depth"}
        self.cameras = tuple(camera for camera in named if camera not in deep)
        self.depth_cameras = tuple(camera for camera in named if camera in deep)
        self._lengths = source.lengths
        self._choose(None if episodes is None else np.asarray(episodes, np.int64))
        self._tables = EpisodeTables(source, self.config, self.cameras, self._chosen)
        present = [camera for camera in named if camera in source.camera_names]
        self._matched = source if isinstance(source, MatchedDataset) else None
        self._source: FrameSource = cache or FrameCache(recorded, present)
        self._present = frozenset(camera for camera in present if camera in self._source.cameras)
        self._features = features
        self._size, self._depth_size = self._size_of(self.cameras), self._size_of(self.depth_cameras)

    def __len__(self) -> int:
        return int(self._stops[-1]) if len(self._stops) else 0

    def choosing(self, episodes: Sequence[int], relabel: float = 0.0, grounding_queries: int = 0) -> Windows:
        """Windows of some of these episodes, which are in memory only once; other arguments as in `WindowConfig`."""
        if unread := sorted(set(np.asarray(episodes).tolist()) - set(self._tables.numbers.tolist())):
            raise ConfigError(f"these windows are not of episode {unread[0]}: name it when they are created")
        other = copy.copy(self)
        other._choose(np.asarray(episodes, np.int64))
        other.config = dataclasses.replace(self.config, relabel=relabel, grounding_queries=grounding_queries)
        return other

    def _choose(self, episodes: Int64Array | None) -> None:
        self._chosen = np.arange(len(self._lengths)) if episodes is None else episodes
        self._stops = np.cumsum(self._lengths[self._chosen])

    def locate(self, indices: Int64Array) -> tuple[Int64Array, Int64Array]:
        """The episode of each window, and the frame in it."""
        place = np.searchsorted(self._stops, indices, side="right")
        episodes = self._chosen[place]
        return episodes, indices - self._stops[place] + self._lengths[episodes]

    @property
    def lookahead(self) -> int:
        """How many windows ahead of their use frames should be asked for (`prefetch`); 0 where they are at hand."""
        return 0 if self._source.random_access else self._source.clip * self._source.block

    def prefetch(self, indices: Int64Array) -> None:
        """Begin to decode the frames of these windows."""
        episodes, rows = self.locate(indices)
        self._source.prefetch(episodes, self._recorded(episodes, rows))

    def _recorded(self, episodes: Int64Array, rows: Int64Array) -> Int64Array:
        """The recorded rows of the rows of a resampled source."""
        return rows if self._matched is None else self._matched.recorded_rows(episodes, rows)

    def close(self) -> None:
        """End the processes that decode frames, if there are any."""
        self._source.close()

    @property
    def dealt_in_blocks(self) -> bool:
        """Whether windows are shuffled in blocks of clips, because neither frames nor episodes may be read at random."""
        return not (self._source.random_access and self._tables.in_memory)

    def deck(self, seed: int) -> Deck:
        """The order of an epoch."""
        if not self.dealt_in_blocks:
            return ShuffledDeck(len(self), seed)
        clip, block = (CLIP, BLOCK) if self._source.random_access else (self._source.clip, self._source.block)
        clip = clip if self._matched is None else max(1, int(clip / self._matched.matching.stride))
        return ClipDeck(self._lengths[self._chosen], clip, block, seed)

    @property
    def shape(self) -> tuple[object, ...]:
        """What sources of one mixture must have in common."""
        own = dataclasses.replace(self.config, cameras=self.cameras, keypoints="hindsight", relabel=0.0, tasks=())
        return (
            *dataclasses.astuple(own),
            self.depth_cameras,
            *self._size,
            *self._depth_size,
            self.spec.state_size,
            self.spec.action_size,
        )

    def batch(self, indices: npt.ArrayLike, rng: np.random.Generator) -> WindowBatch:
        """The windows with these numbers; `rng` draws their wording and, with `relabel`, their goal."""
        chosen = np.asarray(indices, np.int64)
        return self.gather(chosen, rng.random((len(chosen), self.draws)))

    @property
    def draws(self) -> int:
        """How many random numbers a window needs."""
        return DRAWS + self.config.offsets

    def gather(self, indices: Int64Array, draws: npt.NDArray[np.float64]) -> WindowBatch:
        """As `batch`, with random numbers (b, `draws`) in [0, 1) given: the same numbers, the same windows."""
        stride, sequence = self.config.stride, self.config.sequence
        episodes, frames = self.locate(np.asarray(indices, np.int64))
        table = self._tables.of(episodes)
        now = table.rows(episodes, frames)
        if sequence == 1:
            return self._gather(table, indices, now, draws)
        place = table.places(now)
        rows = now[:, None] - stride * np.arange(sequence - 1, -1, -1)  # (b, q)
        first, last = (np.repeat(bound[place, None], sequence, 1) for bound in (table.starts, table.stops - 1))
        revisits, half = np.flatnonzero(table.visit_before[place] >= 0), sequence // 2
        before = table.visit_before[place[revisits], None]
        rows[revisits, :half] = before + stride * np.arange(half)
        first[revisits, :half], last[revisits, :half] = before, table.stops[table.places(before)] - 1
        absent, rows = (rows < first) | (rows > last), np.clip(rows, first, last)
        repeated = np.repeat(indices, sequence), rows.ravel(), np.repeat(draws, sequence, 0)
        return without(self._gather(table, *repeated), absent.ravel())

    def _gather(self, table: EpisodeTable, indices: Int64Array, now: Int64Array, draws: npt.NDArray[np.float64]) -> WindowBatch:
        config, place = self.config, table.places(now)
        first, end = table.starts[place], table.stops[place]
        past = now[:, None] + config.stride * np.arange(1 - config.history, 1)  # (b, t)
        future = now[:, None] + np.arange(config.chunk)  # (b, k)
        past_mask = past >= first[:, None]
        past = np.maximum(past, first[:, None])
        future_mask = future < end[:, None]
        future = np.minimum(future, end[:, None] - 1)
        frames = self._frames(table.numbers[place], past - first[:, None], now - first, end - first - 1)
        images, features, images_mask = self._images(frames, past_mask)
        depth, depth_mask = self._depth(frames, past_mask)
        segment = table.segments(now)
        wording = (draws[:, 0] * table.wording_counts[segment]).astype(np.int64)
        instructions = [table.wordings[s][w] for s, w in zip(segment.tolist(), wording.tolist(), strict=True)]
        targets = {name: target.take(now) for name, target in table.targets.items()}
        untouched = now - first < table.untouched[place]
        others = np.flatnonzero((draws[:, 1] < config.relabel) & untouched & (table.goal_counts[place] > 0))
        if len(others):
            places, places_mask = self._relabel(table, instructions, now, others, draws)
            for target in targets.values():
                target.mask[others] = places_mask if target.of_goal else False
                if target.of_goal:
                    target.values[others] = places
            future_mask[others] = False
        queries, query_keypoints = self._ask(table, now, untouched, draws)
        before = table.actions[np.maximum(now - 1, first)] if config.previous_action else np.empty((len(now), 0), np.float32)
        return WindowBatch(
            images=images,
            images_mask=images_mask,
            state=table.states[past],
            state_mask=past_mask,
            actions=table.actions[future],
            actions_mask=future_mask,
            instructions=instructions,
            targets={name: self._fitted(target) for name, target in targets.items()},
            grounding_queries=queries,
            query_keypoints=self._fitted(query_keypoints),
            index=np.asarray(indices, np.int64),
            goal=self._goal_images(frames),
            goal_mask=np.full(len(now), config.goals and self.cameras[0] in self._present),
            previous_action=before,
            previous_action_mask=(now > first) & config.previous_action,
            features=features,
            captions=self._name(table, place, untouched, draws),
            depth=depth,
            depth_mask=depth_mask,
            text_tasks=[None] * len(now),
            **self._ahead(table, now, end, draws[:, DRAWS:], future_mask[:, 0]),
        )

    def _ahead(
        self, table: EpisodeTable, now: Int64Array, end: Int64Array, draws: npt.NDArray[np.float64], acts: BoolArray
    ) -> dict[str, npt.NDArray[Any]]:
        """States and actions from some later moments on; nothing is known beyond the `end` of the episode."""
        offsets = self.config.offsets
        steps = 1 + ((np.arange(offsets) + draws[:, :offsets]) / max(offsets, 1) * self.config.ahead).astype(np.int64)  # (b, m)
        later = np.minimum(now[:, None] + steps, end[:, None] - 1)
        states = np.repeat(table.states[now, None], offsets, 1)
        for move in moves(self.spec) if offsets else ():
            if move.action.kind == "gripper":
                moved = later > now[:, None]
                states[..., move.of_state][moved] = table.actions[later[moved] - 1, move.of_action]
            else:
                states[..., move.of_state] = table.states[later, move.of_state]
        future = (now[:, None] + steps)[..., None] + np.arange(self.config.chunk)  # (b, m, k)
        mask = (future < end[:, None, None]) & acts[:, None, None]
        return {"ahead": states, "ahead_actions": table.actions[np.minimum(future, end[:, None, None] - 1)], "ahead_mask": mask}

    def _frames(self, episodes: Int64Array, past: Int64Array, now: Int64Array, last: Int64Array) -> Frames:
        earlier = self._recorded(np.repeat(episodes, past.shape[1]), past.ravel()).reshape(past.shape)
        return Frames(episodes, earlier, self._recorded(episodes, now), self._recorded(episodes, last))

    def _fitted(self, target: MaskedArray) -> MaskedArray:
        """Image points (…, v, p, 2), moved along with the pictures of their views; those outside are masked."""
        fits = {view: self._source.fits[camera] for view, camera in enumerate(self.cameras) if camera in self._source.fits}
        if target.space != "image_points" or all(fit.source == fit.target for fit in fits.values()):
            return target
        values, mask = target.values.copy(), target.mask.copy()
        for view, fit in fits.items():
            values[..., view, :, :] = fit.points(values[..., view, :, :])
            mask[..., view, :] &= (np.abs(values[..., view, :, :]) <= 1).all(-1)
        return dataclasses.replace(target, values=values, mask=mask)

    def _goal_images(self, frames: Frames) -> UInt8Array:
        if not self.config.goals or self.cameras[0] not in self._present:
            size = self._size if self.config.goals else (0, 0)
            return np.zeros((len(frames.now), *size, 3), np.uint8)
        goals: UInt8Array = self._source.take(self.cameras[0], frames.episodes, frames.last, frames.last)
        return goals

    def _relabel(
        self,
        table: EpisodeTable,
        instructions: list[str],
        now: Int64Array,
        others: Int64Array,
        draws: npt.NDArray[np.float64],
    ) -> tuple[FloatArray, BoolArray]:
        """Give the windows `others` the instruction of another goal. Returns where its points are, and which can be seen."""
        place = table.places(now)
        chosen = (draws[others, 2] * table.goal_counts[place[others]]).astype(np.int64)
        points = np.empty((len(others), len(POINTS), 3))
        for i, (row, goal) in enumerate(zip(others.tolist(), chosen.tolist(), strict=True)):
            goals = table.goals[place[row]]
            points[i], words = goals.points[goal], goals.instructions[goal]
            instructions[row] = words[int(draws[row, 0] * len(words))]
        return project(table.matrices[now[others]], points)

    def _name(
        self, table: EpisodeTable, place: Int64Array, untouched: BoolArray, draws: npt.NDArray[np.float64]
    ) -> list[tuple[Caption, ...]]:
        """Captions that follow one another in the order of the recording; none after the first contact."""
        said: list[tuple[Caption, ...]] = [()] * len(place)
        for row in np.flatnonzero(untouched) if self.config.captions else ():
            known = table.captions[place[row]]
            first = int(draws[row, 2] * len(known))
            said[row] = tuple(known[(first + i) % len(known)] for i in range(min(self.config.captions, len(known))))
        return said

    def _ask(
        self, table: EpisodeTable, now: Int64Array, untouched: BoolArray, draws: npt.NDArray[np.float64]
    ) -> tuple[list[tuple[str, ...]], MaskedArray]:
        """Goals that follow one another in the order of the recording, in which neighbors name different objects."""
        place, views, most = table.places(now), len(self.cameras), self.config.grounding_queries
        points = np.full((len(now), most, len(POINTS), 3), np.nan)
        queries: list[tuple[str, ...]] = [()] * len(now)
        for row in np.flatnonzero(untouched & (table.goal_counts[place] > 0)) if most else ():
            goals, words = table.goals[place[row]], []
            count = len(goals.points)
            for number in range(min(most, count)):
                goal = (int(draws[row, 2] * count) + number) % count
                points[row, number] = goals.points[goal]
                said = goals.instructions[goal]
                words.append(said[int(draws[row, 1] * len(said))])
            queries[row] = tuple(words)
        flat = points.reshape(len(now), -1, 3)
        keypoints, mask = project(table.matrices[now], flat)  # (b, v, m·3, 2)
        keypoints = keypoints.reshape(len(now), views, most, len(POINTS), 2)
        mask = mask.reshape(keypoints.shape[:-1])
        return queries, MaskedArray(keypoints.swapaxes(1, 2), mask.swapaxes(1, 2), "image_points", of_goal=True, visible=True)

    def _images(self, frames: Frames, mask: BoolArray) -> tuple[UInt8Array, FeatureArray, BoolArray]:
        """Images, or the features that stand for them, and where there are some."""
        shape = (*mask.shape, len(self.cameras))
        known = self._features
        seen = [(view, camera) for view, camera in enumerate(self.cameras) if camera in self._present]
        places = known.row if known else (0, 0)
        images = np.zeros((*shape, *self._size, 0 if known else 3), np.uint8)
        features, images_mask = np.zeros((*shape, *places), np.float16), np.zeros(shape, bool)
        for view, camera in seen:
            if known:
                features[:, :, view] = known.features(camera)[known.starts[frames.episodes[:, None]] + frames.past]
            else:
                images[:, :, view] = self._source.take(camera, frames.episodes[:, None], frames.past, frames.now[:, None])
            images_mask[:, :, view] = mask
        return images, features, images_mask

    def _depth(self, frames: Frames, mask: BoolArray) -> tuple[FloatArray, BoolArray]:
        """Depth of the depth cameras, and where there is some."""
        shape, seen = (*mask.shape, len(self.depth_cameras)), [c for c in self.depth_cameras if c in self._present]
        size = self._depth_size if self.depth_cameras else (0, 0)
        depth, depth_mask = np.zeros((*shape, *size), np.float32), np.zeros(shape, bool)
        for camera in seen:
            view = self.depth_cameras.index(camera)
            depth[:, :, view] = self._source.take(camera, frames.episodes[:, None], frames.past, frames.now[:, None])
            depth_mask[:, :, view] = mask
        return depth, depth_mask

    def _size_of(self, cameras: Sequence[str]) -> tuple[int, int]:
        """The size of the pictures of all these cameras, of one kind; (1, 1) where nothing says it."""
        sizes = {camera: self._source.shape(camera)[:2] for camera in cameras if camera in self._present}
        if len(set(sizes.values())) > 1:
            raise DataError(
                f"the cameras of one batch need one image size; they have {sizes}: set network.image_size, to which every "
                f"camera is then resized"
            )
        lacking = [(view.height, view.width) for name in cameras if (view := self._views.get(name)) is not None]
        height, width = next(iter((*sizes.values(), *lacking)), (1, 1))
        return height, width


@dataclass(frozen=True)
class Frames:
    """The frames that windows show, counted in their episodes.

    Args:
        episodes: numbers of the episodes (b,).
        past: the frames (b, t), the latest last.
        now: the latest frame (b,), whose clip holds them.
        last: the last frame of the episode (b,).
    """

    episodes: Int64Array
    past: Int64Array
    now: Int64Array
    last: Int64Array


def fits_of(
    cameras: Sequence[Camera], size: tuple[int, int] | None, fit: str = "crop", always: bool = False
) -> dict[str, FitImage]:
    """How the pictures of `cameras` are fitted to a network's image size (height, width) by `fit`, where that is worth it.

    Pictures that are all alike and no larger than `size` keep their size unless `always`: the network's own fitting enlarges
    them later.

    Example:
        >>> sorted(fits_of([Camera("front", 480, 640), Camera("wrist", 96, 128)], (96, 128)))
        ['front', 'wrist']
    """
    if size is None:
        return {}
    alike = len({(camera.height, camera.width) for camera in cameras}) == 1
    if alike and not always and all(camera.height * camera.width <= size[0] * size[1] for camera in cameras):
        return {}
    return {camera.name: FitImage((camera.height, camera.width), size, fit) for camera in cameras}
