"""The training data of a run: demonstrations and corrections as one seeded stream of batches, and a validation set."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from verbot.data import Dataset, Loader, Mixture, WindowBatch, WindowConfig, Windows, open_dataset
from verbot.data.samples.episode_arrays import task_of
from verbot.data.samples.frame_source import FrameOptions, FrameSource, open_frames
from verbot.data.samples.windows import fits_of
from verbot.data.storage.frame_cache import FrameSelection
from verbot.data.storage.reader import Episode, statistics_of
from verbot.errors import ConfigError, UnknownNameError
from verbot.models.network import NetworkConfig
from verbot.parallel.workers import cores
from verbot.spec import FloatArray, RobotSpec
from verbot.statistics import Statistics
from verbot.training.imitation.augment import augment, numbers
from verbot.training.imitation.config import TrainConfig
from verbot.training.imitation.dagger import folder
from verbot.training.imitation.frozen_features import FrozenFeatureExtractor
from verbot.training.imitation.records import AugmentConfig, DataConfig, Selection

MANY_CHUNKS = 20_000
CPU = torch.device("cpu")


class TrainingData:
    """The batches of one process, each a function of (seed, micro-batch index, rank). A context manager.

    Args:
        dagger_rounds: completed rounds of corrections, which are included.
        rank: rank of this process; it determines its part of each batch.
        device: computes cached features.
        show_progress: show the progress of that.

    Raises `ConfigError` if the datasets are of different robots.
    """

    def __init__(
        self,
        config: TrainConfig,
        out: Path,
        dagger_rounds: int,
        rank: int,
        device: torch.device = CPU,
        show_progress: bool = False,
    ):
        self._out, self._rank, self.augment, self._data = out, rank, config.augment, config.data
        self._config = config
        self._parallelism, self._dagger_weight, self._seed = config.parallelism, config.dagger.weight, config.seed
        self._accumulation, self.validation_batches = config.optimizer.accumulation, config.validation.batches
        datasets = [open_dataset(path) for path in config.data.datasets]
        self.spec = _with_cameras(datasets[0].spec, config.data.cameras)
        self._extractor = _extractor(config.data, config.network, self.spec, device, show_progress)
        for dataset in datasets[1:]:
            if (dataset.spec.state, dataset.spec.action) != (self.spec.state, self.spec.action):
                raise ConfigError(f"{dataset.root} is of another robot ({dataset.spec.name!r}) than {datasets[0].root}")
        chosen = [_chosen(config.data, number, dataset) for number, dataset in enumerate(datasets)]
        self._chosen = list(zip(datasets, chosen, strict=True))
        self.statistics: Statistics = (
            datasets[0].statistics()
            if len(datasets) == 1 and config.data.selections is None
            else statistics_of([(e.states, e.actions) for e in self._episodes()])
        )
        captioned = config.augment.captions > 0
        if captioned and not any(e.extras.get("captions") for e in self._episodes()):
            raise ConfigError(
                f"augment.captions needs captions, and {', '.join(config.data.datasets)} has none: record them with "
                f"`verbot collect --captions 16`"
            )
        instructions = (words for e in self._episodes() for words in (*e.instructions, *_other_words(e.extras, captioned)))
        self.instructions = sorted(set(instructions))
        self.network = _with_tasks(config.network, self._episodes(), config.data.datasets)
        splits = [_split(config.validation.share, config.seed, number, each) for number, each in enumerate(chosen)]
        self._train = [
            self._windows(dataset, train_episodes, config.augment, used)
            for dataset, (train_episodes, _), used in zip(datasets, splits, chosen, strict=True)
        ]
        validation_windows = [
            windows.choosing(validation_episodes)
            for windows, (_, validation_episodes) in zip(self._train, splits, strict=True)
            if validation_episodes
        ]
        self._held_out = self._loader(Mixture(tuple(validation_windows)), config.seed + 1) if validation_windows else None
        self._corrections: list[Windows] = []
        self._stream: Iterator[WindowBatch] | None = None
        self._next = 0
        self.add_correction_rounds(dagger_rounds)

    @staticmethod
    def prepare(config: TrainConfig, device: torch.device = CPU, show_progress: bool = False) -> None:
        """Decode the frames of all datasets and compute cached features, once for all processes.

        Raises `DataError` for an unreadable dataset.
        """
        datasets = [open_dataset(path) for path in config.data.datasets]
        spec = _with_cameras(datasets[0].spec, config.data.cameras)
        extractor = _extractor(config.data, config.network, spec, device, show_progress)
        for number, dataset in enumerate(datasets):
            if extractor is not None:
                extractor.features(dataset, spec.camera_names)
            else:
                frame_source(config, spec, dataset, _chosen(config.data, number, dataset), 0, show_progress).close()

    def __enter__(self) -> TrainingData:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()
        for windows in (*self._train, *self._corrections):
            windows.close()

    @property
    def validates(self) -> bool:
        return self._held_out is not None and self.validation_batches > 0

    def add_correction_rounds(self, rounds: int) -> None:
        """Include the corrections of the first `rounds` rounds, from the next batch on."""
        for number in range(len(self._corrections), rounds):
            dataset = open_dataset(folder(self._out, number))
            self._corrections.append(self._windows(dataset, range(len(dataset)), self.augment, range(len(dataset))))
        lengths = [float(len(w)) for w in self._train]
        shares = [w * sum(lengths) for w in self._data.weights] if self._data.weights else lengths
        shares += [len(w) * self._dagger_weight for w in self._corrections]
        self._loader_now = self._loader(Mixture((*self._train, *self._corrections), tuple(shares)), self._seed)
        self._stop()

    def chunks(self) -> FloatArray | None:
        """At most `MANY_CHUNKS` complete action chunks (n, k, a), for a head that is fitted to them; None for other heads."""
        network = self.network
        if not network.learns_from_chunks:
            return None
        every = [sliding_window_view(e.actions, network.chunk, 0) for e in self._episodes() if len(e.actions) >= network.chunk]
        if not every:
            raise ConfigError(f"no episode is as long as a chunk of {network.chunk} actions")
        chunks = np.concatenate(every).swapaxes(1, 2)
        return chunks[:: -(-len(chunks) // MANY_CHUNKS)].astype(np.float32)

    def batch(self, step: int, micro: int) -> WindowBatch:
        """This process's part of micro-batch `micro` of `step`, augmented."""
        number = step * self._accumulation + micro
        if self._stream is None or number != self._next:
            self._stop()
            self._stream = self._loader_now.iterate(number)
        self._next = number + 1
        rng = numbers(self._seed, 2, number)
        frames = self.network.sequence
        return augment(next(self._stream), self.augment, rng, self._rank, self._parallelism.processes, frames)

    def held_out(self) -> Iterator[WindowBatch]:
        """Validation batches, the same at every call."""
        assert self._held_out is not None
        return (self._held_out.batch(number) for number in range(self.validation_batches))

    def _episodes(self) -> Iterator[Episode]:
        """All episodes of training and validation, read one by one to save memory."""
        return (dataset[number] for dataset, taken in self._chosen for number in taken)

    def _windows(self, dataset: Dataset, episodes: Sequence[int], sampling: AugmentConfig, used: Sequence[int]) -> Windows:
        """Windows of `episodes`, with the frames of all episodes that are `used` in training or validation."""
        network = self.network
        config = WindowConfig(
            history=network.history, chunk=network.chunk, stride=network.stride, sequence=network.sequence,
            goals=network.goal is not None, previous_action=network.previous_action is not None, cameras=self.spec.camera_names,
            labels=network.labels, tasks=network.head_tasks or (), relabel=sampling.relabel,
            grounding_queries=sampling.grounding_queries, captions=self.augment.captions,
        )  # fmt: skip
        if self._extractor is not None:
            features = self._extractor.features(dataset, self.spec.camera_names)
            return Windows(dataset, config, episodes=episodes, cache=features.frames, features=features)
        workers = self._parallelism.loader_threads or max(1, cores() // self._parallelism.processes)
        return Windows(dataset, config, episodes=episodes, cache=frame_source(self._config, self.spec, dataset, used, workers))

    def _loader(self, source: Mixture, seed: int) -> Loader:
        sequences, parallelism = self._data.batch_size // self.network.sequence, self._parallelism
        return Loader(source, sequences, seed, self._rank, parallelism.processes, parallelism.loader_threads)

    def _stop(self) -> None:
        if self._stream is not None:
            with closing(self._stream):  # type: ignore[type-var]  # a generator, whose threads end with it
                self._stream = None


def frame_source(
    config: TrainConfig, spec: RobotSpec, dataset: Dataset, episodes: Sequence[int], workers: int, show: bool = False
) -> FrameSource:
    """The frames of these episodes, of the cameras in `spec`, at the size of the network where that is smaller.

    Args:
        workers: processes that decode, if frames are decoded on the fly.
    """
    data, network = config.data, config.network
    sizes = {(camera.height, camera.width) for camera in spec.cameras}
    size = network.image_size or (next(iter(sizes)) if len(sizes) == 1 else None)
    names = tuple(camera for camera in spec.camera_names if camera in dataset.camera_names)
    several = len(data.datasets) > 1
    fits = fits_of([camera for camera in dataset.spec.cameras if camera.name in names], size, always=several)
    whole = len(episodes) == len(dataset)
    selection = FrameSelection(names, None if whole else tuple(sorted(episodes)), fits)
    sources = len(data.datasets) + config.dagger.rounds
    options = FrameOptions(data.frames, data.cache, data.cache_limit_gb, workers, sources, show)
    reach = (network.history - 1) * network.stride + (network.sequence - 1) * network.stride
    return open_frames(dataset, selection, options, reach)


def _extractor(
    data: DataConfig, network: NetworkConfig, spec: RobotSpec, device: torch.device, show_progress: bool
) -> FrozenFeatureExtractor | None:
    return FrozenFeatureExtractor(network, spec, device, show_progress, data.cache) if data.cache_features else None


def _with_cameras(spec: RobotSpec, cameras: Sequence[str] | None) -> RobotSpec:
    """The robot with a selection of its cameras."""
    if cameras is None:
        return spec
    cameras_by_name = {camera.name: camera for camera in spec.cameras}
    for name in cameras:
        if name not in cameras_by_name:
            raise UnknownNameError(f"camera of robot {spec.name!r}", name, cameras_by_name)
    return dataclasses.replace(spec, cameras=tuple(cameras_by_name[name] for name in cameras))


def _with_tasks(network: NetworkConfig, episodes: Iterable[Episode], datasets: Sequence[str]) -> NetworkConfig:
    """The network with the tasks of the episodes, for a head with one module per task that has none yet.

    Raises `ConfigError` if no task is recorded, or one that the head does not have.
    """
    head_tasks = network.head_tasks
    if head_tasks is None:
        return network
    recorded_tasks = sorted({task for episode in episodes if (task := task_of(episode)) is not None})
    if not recorded_tasks:
        raise ConfigError(
            f"the head {network.head.name!r} needs the task of an episode, and no episode of "
            f"{', '.join(datasets)} records it: add extras with a request's task or a goal's verb"
        )
    if head_tasks and (unknown_tasks := sorted(set(recorded_tasks) - set(head_tasks))):
        raise ConfigError(f"the head has the tasks {', '.join(head_tasks)}; the episodes also have {', '.join(unknown_tasks)}")
    return network if head_tasks else network.with_tasks(recorded_tasks)


def _chosen(config: DataConfig, number: int, dataset: Dataset) -> list[int]:
    """The selected episodes of dataset `number`. Raises `ConfigError` if there are fewer than requested."""
    selection = config.selections[number] if config.selections is not None else Selection()
    episodes = list(range(len(dataset)))
    if selection.tasks is not None:
        recorded = [(episode.extras.get("request") or {}).get("task") for episode in dataset]
        for task in selection.tasks:
            if task not in recorded:
                raise UnknownNameError(f"task in {dataset.root}", task, sorted({str(each) for each in recorded if each}))
        episodes = [i for i in episodes if recorded[i] in selection.tasks]
    if selection.episodes is not None and selection.episodes > len(episodes):
        raise ConfigError(f"{dataset.root} has {len(episodes)} of the selected episodes; {selection.episodes} were requested")
    return episodes[: selection.episodes]


def _split(share: float, seed: int, number: int, episodes: Sequence[int]) -> tuple[list[int], list[int]]:
    """Episodes for training and validation; at least one of each if there are two and `share` is positive."""
    count = len(episodes)
    order = np.asarray(episodes, np.int64)[numbers(seed, 3, number).permutation(count)]
    validation_count = min(count - 1, max(1, round(share * count))) if share else 0
    return sorted(order[validation_count:].tolist()), sorted(order[:validation_count].tolist())


def _other_words(extras: Mapping[str, Any], captions: bool) -> Iterator[str]:
    """The instructions of other goals, for `relabel` and `grounding_queries`, and the `captions`."""
    yield from (words for goal in extras.get("grounding") or () for words in goal.get("instructions") or ())
    for caption in (extras.get("captions") or ()) if captions else ():
        yield from (caption["true"], caption["false"])
