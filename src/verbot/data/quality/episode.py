"""What checks see of a dataset: one episode at a time, and the ranges of the whole."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from verbot.data.quality.config import LintConfig
from verbot.data.samples.episode_arrays import task_of
from verbot.data.storage.reader import Dataset, Episode
from verbot.data.storage.segments import InstructionSegment
from verbot.errors import DataError
from verbot.spec import BoolArray, Component, Float64Array, FloatArray, FloatingArray, Int64Array, RobotSpec

Vector = Literal["state", "action"]
VECTORS: tuple[Vector, Vector] = ("state", "action")
MAX_ROWS = 100_000  # of the sample that ranges are computed from
DEPTH_M = 10.0  # as bright as white
CHANGING = ("gripper", "discrete")  # kinds that change at once


@dataclass(frozen=True)
class Scale:
    """The distribution of one vector's dimensions over a sample of the dataset; each array is float64 (d,).

    Args:
        lowest, highest: the extremes.
        low, high: the 1 % and 99 % quantiles.
        deviation: a robust standard deviation, from the quartiles' neighborhood; 0 for a dimension that hardly varies.
        step: the 95 % quantile of the absolute difference of successive frames.
    """

    lowest: Float64Array
    highest: Float64Array
    low: Float64Array
    median: Float64Array
    high: Float64Array
    deviation: Float64Array
    step: Float64Array

    @property
    def width(self) -> Float64Array:
        """The range between the 1 % and the 99 % quantile."""
        return self.high - self.low

    @staticmethod
    def of(values: FloatingArray, steps: FloatingArray) -> Scale:
        """Of a sample of values (n, d) and of steps (m, d); rows with numbers that are not finite are ignored."""
        size = values.shape[1]
        values = values[np.isfinite(values).all(axis=1)].astype(float)
        steps = abs(steps[np.isfinite(steps).all(axis=1)].astype(float))
        if not len(values):
            return Scale(*np.zeros((7, size)))
        lowest, low, fifth, median, top, high, highest = np.quantile(values, (0, 0.01, 0.05, 0.5, 0.95, 0.99, 1), axis=0)
        deviation = np.maximum(1.4826 * np.median(abs(values - median), axis=0), (top - fifth) / 2.5)
        step: Float64Array = np.quantile(steps, 0.95, axis=0) if len(steps) else np.zeros(size)
        return Scale(lowest, highest, low, median, high, deviation, step)


@dataclass(frozen=True)
class Pictures:
    """Some pictures of one camera in one episode, thinned out.

    Args:
        rows: int64 (n,), their frames: pairs of successive frames.
        images: float32 (n, h, w, c): brightness of 255 by channel; of a depth camera, c is 1 and 255 is 10 m.
        depth: whether the camera measures depth, 0 where unknown.
    """

    rows: Int64Array
    images: FloatArray
    depth: bool = False

    def changed(self, level: float, step: int = 1) -> FloatArray:
        """Fraction of pixels that change by more than `level` from each picture to the one `step` later: float32 (n − step,)."""
        difference = abs(self.images[step:] - self.images[:-step]).max(axis=-1) if len(self.rows) > step else np.zeros((0, 1, 1))
        return (difference > level).mean(axis=(1, 2)).astype(np.float32)


@dataclass(frozen=True)
class EpisodeData:
    """One episode as checks see it.

    Args:
        states, actions: float32 (t, s) and (t, a), as recorded.
        times: float64 (t,) seconds, as recorded.
        task: as recorded, else the first sentence.
        pictures: by camera.
        scales: of ``"state"`` and ``"action"``, over the dataset.
    """

    number: int
    spec: RobotSpec
    states: FloatArray
    actions: FloatArray
    times: Float64Array
    segments: tuple[InstructionSegment, ...]
    task: str
    pictures: Mapping[str, Pictures]
    scales: Mapping[str, Scale]

    def __len__(self) -> int:
        return len(self.actions)

    def vector(self, name: str) -> FloatArray:
        """``"state"`` or ``"action"``."""
        return self.states if name == "state" else self.actions

    @functools.cached_property
    def motion(self) -> Float64Array:
        """How far the state moves to the next frame, as a fraction of its range, by the dimension that moves most: (t − 1,)."""
        width = self.scales["state"].width
        moving = width > 1e-9
        if not moving.any() or len(self) < 2:
            return np.zeros(max(len(self) - 1, 0))
        return np.nan_to_num(abs(np.diff(self.states[:, moving].astype(float), axis=0)) / width[moving]).max(axis=1)


@dataclass(frozen=True)
class DatasetOverview:
    """What is known of the whole dataset when checks judge.

    Args:
        lengths: int64 (n,), frames of each linted episode.
        numbers: int64 (n,), the numbers of these episodes.
    """

    spec: RobotSpec
    scales: Mapping[str, Scale]
    lengths: Int64Array
    numbers: Int64Array
    cameras: Sequence[str]

    @property
    def frames(self) -> int:
        return int(self.lengths.sum())

    def names(self, vector: str) -> list[str]:
        """``"ee_position.x"`` for each dimension."""
        return dimension_names(self.spec, vector)

    def kinds(self, vector: str) -> list[str]:
        """The kind of each dimension."""
        return [component.kind for component in components(self.spec, vector) for _ in component.axes]


def components(spec: RobotSpec, vector: str) -> tuple[Component, ...]:
    return spec.state if vector == "state" else spec.action


def dimension_names(spec: RobotSpec, vector: str) -> list[str]:
    """``"ee_position.x"`` for each dimension; the component's own name if it has only one."""
    return [c.name if c.size == 1 else f"{c.name}.{axis}" for c in components(spec, vector) for axis in c.axes]


def of_kinds(spec: RobotSpec, vector: str, kinds: Sequence[str]) -> BoolArray:
    """Which dimensions have one of these kinds: bool (d,)."""
    return np.array([c.kind in kinds for c in components(spec, vector) for _ in c.axes], bool)


def spread(count: int, at_most: int) -> Int64Array:
    """At most so many of the numbers 0 to `count` − 1, evenly spread.

    Example:
        >>> spread(10, 4).tolist(), spread(3, 10).tolist()
        ([0, 3, 6, 9], [0, 1, 2])
    """
    return np.unique(np.linspace(0, count - 1, min(count, at_most)).round().astype(np.int64)) if count else np.zeros(0, np.int64)


def scales_of(dataset: Dataset, numbers: Sequence[int], config: LintConfig) -> dict[str, Scale]:
    """The scales of state and action from some of the episodes `numbers`."""
    chosen = [numbers[i] for i in spread(len(numbers), config.scale_episodes)]
    values: dict[str, list[FloatArray]] = {name: [] for name in VECTORS}
    steps: dict[str, list[FloatArray]] = {name: [] for name in VECTORS}
    each = max(2, MAX_ROWS // max(len(chosen), 1))
    for number in chosen:
        try:
            arrays = dataset[number].states, dataset[number].actions
        except DataError:
            continue  # reported when its pictures are read
        for name, array in zip(VECTORS, arrays, strict=True):
            values[name].append(array[spread(len(array), each)])
            difference = np.diff(array, axis=0)
            steps[name].append(difference[spread(len(difference), each)])
    none = {
        "state": np.zeros((0, dataset.spec.state_size), np.float32),
        "action": np.zeros((0, dataset.spec.action_size), np.float32),
    }
    return {name: Scale.of(*(np.concatenate([none[name], *parts[name]]) for parts in (values, steps))) for name in VECTORS}


def episode_data(episode: Episode, scales: Mapping[str, Scale], config: LintConfig) -> EpisodeData:
    """Read one episode, with some of its pictures. Raises `DataError` for one that cannot be read."""
    spec, segments = episode.dataset.spec, episode.segments
    cameras = {camera.name: camera.kind == "depth" for camera in spec.cameras}
    return EpisodeData(
        number=episode.index,
        spec=spec,
        states=episode.states,
        actions=episode.actions,
        times=episode.timestamps,
        segments=segments,
        task=task_of(episode) or segments[0].wordings[0],
        pictures={name: _pictures(episode, name, cameras.get(name, False), config) for name in episode.dataset.camera_names},
        scales=scales,
    )


def _pictures(episode: Episode, camera: str, depth: bool, config: LintConfig) -> Pictures:
    starts = np.arange(0, len(episode), config.picture_step)
    rows = np.unique(np.concatenate([starts, starts + 1]))
    rows = rows[rows < len(episode)]
    images = episode.images(camera, rows.tolist())
    thin = max(1, min(images.shape[1:3]) // config.picture_side_px)
    thinned = images[:, ::thin, ::thin].astype(np.float32)
    return Pictures(rows, thinned[..., None] * np.float32(255 / DEPTH_M) if depth else thinned, depth)
