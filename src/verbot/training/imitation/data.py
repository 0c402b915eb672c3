"""The training data of a run: demonstrations and corrections as one seeded stream of batches, and a validation set."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from verbot.data import Loader, Mixture, WindowBatch, WindowConfig, Windows, open_dataset
from verbot.data.samples.episode_arrays import scenes_of, task_of
from verbot.data.samples.frame_source import FrameOptions, FrameSource, open_frames
from verbot.data.samples.matching import MatchedEpisode
from verbot.data.samples.windows import fits_of
from verbot.data.storage.frame_cache import FrameSelection
from verbot.data.storage.reader import Episode
from verbot.errors import ConfigError
from verbot.models.network import NetworkConfig
from verbot.parallel.workers import cores
from verbot.spec import Camera, FloatArray, ForwardModel, RobotSpec
from verbot.statistics import Statistics
from verbot.training.imitation.augment import augment, numbers
from verbot.training.imitation.config import TrainConfig
from verbot.training.imitation.dagger import folder
from verbot.training.imitation.forward_fit import fit_forward
from verbot.training.imitation.frozen_features import FrozenFeatureExtractor
from verbot.training.imitation.mixing import Recording, Recordings, scene_notes
from verbot.training.imitation.records import AugmentConfig, DataConfig
from verbot.training.imitation.text_rows import TextRows
from verbot.transforms import FitImage

MANY_CHUNKS = 20_000
SCENES_PER_EPISODE = 4  # whose texts a vocabulary is fitted to
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
        self._parallelism, self._dagger_weight, self._seed = config.parallelism, config.dagger.weight, config.seed
        self._accumulation, self.validation_batches = config.optimizer.accumulation, config.validation.batches
        self._recordings = _recordings(config)
        self.spec = self._recordings.spec
        network = config.network.with_image_size(self.spec)
        self.notes = (*self._recordings.notes, *_size_notes(config.network, network, self._recordings))
        self._config = dataclasses.replace(config, network=network)
        self._extractor = _extractor(config.data, network, self.spec, device, show_progress)
        self.statistics: Statistics = self._recordings.statistics()
        captioned = config.augment.captions > 0
        if captioned and not any(e.extras.get("captions") for e in self._recordings):
            raise ConfigError(
                f"augment.captions needs captions, and {', '.join(config.data.datasets)} has none: record them with "
                f"`verbot collect --captions 16`"
            )
        instructions = (words for e in self._recordings for words in (*_sentences(e), *_other_words(e.extras, captioned)))
        self.instructions = sorted(set(instructions))
        self.texts = TextRows(config.data.text, self.spec)
        if config.data.text.needs_scenes:
            self.notes = (*self.notes, *scene_notes(self._recordings))
        self.network = _with_tasks(network, self._recordings, config.data.datasets)
        splits = [_split(config.validation.share, config.seed, i, r.numbers) for i, r in enumerate(self._recordings.every)]
        self._train = [
            self._windows(recording, train_episodes, config.augment)
            for recording, (train_episodes, _) in zip(self._recordings.every, splits, strict=True)
        ]
        self.validation_windows = [
            windows.choosing(validation_episodes)
            for windows, (_, validation_episodes) in zip(self._train, splits, strict=True)
            if validation_episodes
        ]
        held_out = tuple(self.validation_windows)
        self._held_out = self._loader(Mixture(held_out), config.seed + 1) if held_out else None
        self._corrections: list[Windows] = []
        self._stream: Iterator[WindowBatch] | None = None
        self._next = 0
        self.add_correction_rounds(dagger_rounds)

    @staticmethod
    def prepare(config: TrainConfig, device: torch.device = CPU, show_progress: bool = False) -> None:
        """Decode the frames of all datasets and compute cached features, once for all processes.

        Raises `DataError` for an unreadable dataset.
        """
        recordings = _recordings(config)
        spec, network = recordings.spec, config.network.with_image_size(recordings.spec)
        if show_progress:
            for note in (*recordings.notes, *_size_notes(config.network, network, recordings)):
                print(note, file=sys.stderr)
        extractor = _extractor(config.data, network, spec, device, show_progress)
        for recording in recordings.every:
            sized = dataclasses.replace(config, network=network)
            if extractor is not None:
                extractor.features(recording.dataset, _frames_used(sized, spec.color_only(), recording))
            else:
                frame_source(sized, spec, recording, 0, show_progress).close()

    def __enter__(self) -> TrainingData:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()
        for windows in (*self._train, *self._corrections):
            windows.close()

    @property
    def training_windows(self) -> Sequence[Windows]:
        """Of every dataset, without corrections."""
        return self._train

    @property
    def validates(self) -> bool:
        return self._held_out is not None and self.validation_batches > 0

    def add_correction_rounds(self, rounds: int) -> None:
        """Include the corrections of the first `rounds` rounds, from the next batch on."""
        for number in range(len(self._corrections), rounds):
            dataset = open_dataset(folder(self._out, number), depth=self._data.depth)
            recording = self._recordings.add(dataset)
            self._corrections.append(self._windows(recording, recording.numbers, self.augment))
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
        every = [sliding_window_view(e.actions, network.chunk, 0) for e in self._recordings if len(e.actions) >= network.chunk]
        if not every:
            raise ConfigError(f"no episode is as long as a chunk of {network.chunk} actions")
        chunks = np.concatenate(every).swapaxes(1, 2)
        return chunks[:: -(-len(chunks) // MANY_CHUNKS)].astype(np.float32)

    def forward(self) -> ForwardModel | None:
        """How the robot follows its actions, for a network that reads where it will be; None for other networks."""
        return fit_forward(self.spec, ((e.states, e.actions) for e in self._recordings)) if self.network.ahead else None

    def batch(self, step: int, micro: int) -> WindowBatch:
        """This process's part of micro-batch `micro` of `step`, augmented."""
        number = step * self._accumulation + micro
        if self._stream is None or number != self._next:
            self._stop()
            self._stream = self._loader_now.iterate(number)
        self._next = number + 1
        rng = numbers(self._seed, 2, number)
        frames = self.network.sequence
        part = self._rank, self._parallelism.processes, frames
        return self.texts.fill(augment(next(self._stream), self.augment, rng, *part), (self._seed, 7, number), *part)

    def corpus(self, scenes: int = 2000) -> list[str]:
        """All instructions, and the texts of at most so many recorded scenes, for a vocabulary that is fitted."""
        recorded = (truths for e in self._recordings if (truths := scenes_of(e)))
        found = [text for truths in recorded for text in truths[:: max(1, len(truths) // SCENES_PER_EPISODE)]]
        texts = self.texts.corpus(found[:: -(-len(found) // scenes)] if found else (), self._seed)
        return list(dict.fromkeys((*self.instructions, *texts)))

    def held_out(self) -> Iterator[WindowBatch]:
        """Validation batches, the same at every call."""
        assert self._held_out is not None
        part = self._rank, self._parallelism.processes, self.network.sequence
        batches = ((number, self._held_out.batch(number)) for number in range(self.validation_batches))
        return (self.texts.fill(batch, (self._seed, 8, number), *part) for number, batch in batches)

    def _windows(self, recording: Recording, episodes: Sequence[int], sampling: AugmentConfig) -> Windows:
        """Windows of `episodes`, with the frames of all episodes that are used in training or validation."""
        network = self.network
        config = WindowConfig(
            history=network.history, chunk=network.chunk, stride=network.stride, sequence=network.sequence,
            goals=network.goal is not None, previous_action=network.previous_action is not None, cameras=self.spec.camera_names,
            labels=(*network.labels, *self.texts.labels), tasks=network.head_tasks or (), relabel=sampling.relabel,
            grounding_queries=sampling.grounding_queries, captions=self.augment.captions, ahead=network.ahead,
        )  # fmt: skip
        frames: FrameSource
        features = None
        if self._extractor is not None:
            used = _frames_used(self._config, self.spec.color_only(), recording)
            frames = features = self._extractor.features(recording.dataset, used)
        else:
            workers = self._parallelism.loader_threads or max(1, cores() // self._parallelism.processes)
            frames = frame_source(self._config, self.spec, recording, workers)
        views = _views(self._config, self.spec)
        every = Windows(recording.source, config, episodes=recording.numbers, cache=frames, features=features, views=views)
        return every.choosing(episodes, sampling.relabel, sampling.grounding_queries)

    def _loader(self, source: Mixture, seed: int) -> Loader:
        sequences, parallelism = self._data.batch_size // self.network.sequence, self._parallelism
        return Loader(source, sequences, seed, self._rank, parallelism.processes, parallelism.loader_threads)

    def _stop(self) -> None:
        if self._stream is not None:
            with closing(self._stream):  # type: ignore[type-var]  # a generator, whose threads end with it
                self._stream = None


def _recordings(config: TrainConfig) -> Recordings:
    """The datasets of a run, without depth cameras where the network has no encoder of depth."""
    found = Recordings.open(config.data)
    names = [camera.name for camera in found.spec.depth_cameras]
    if not names or config.network.depth is not None:
        return found
    note = f"depth camera {', '.join(names)} is not used: set network.depth=depth_conv to train with it"
    return dataclasses.replace(found, spec=found.spec.color_only(), notes=(*found.notes, note))


def frame_source(config: TrainConfig, spec: RobotSpec, recording: Recording, workers: int, show: bool = False) -> FrameSource:
    """The frames of the episodes of a recording, of the cameras in `spec`, at the size of the network where that is smaller.

    Args:
        workers: processes that decode, if frames are decoded on the fly.
    """
    data, network = config.data, config.network
    sources = len(data.datasets) + config.dagger.rounds
    options = FrameOptions(data.frames, data.cache, data.cache_limit_gb, workers, sources, show)
    reach = (network.history - 1) * network.stride + (network.sequence - 1) * network.stride
    selection = _frames_used(config, spec, recording)
    return open_frames(recording.dataset, selection, options, math.ceil(reach * recording.matching.stride))


def _frames_used(config: TrainConfig, spec: RobotSpec, recording: Recording) -> FrameSelection:
    """The frames of a recording that a run uses, of the cameras in `spec`."""
    dataset = recording.dataset
    names = tuple(camera for camera in spec.camera_names if camera in dataset.camera_names)
    fits = _fits(config, spec, [camera for camera in dataset.spec.cameras if camera.name in names])
    whole = len(recording.numbers) == len(dataset)
    return FrameSelection(names, None if whole else tuple(sorted(recording.numbers)), fits)


def _fits(config: TrainConfig, spec: RobotSpec, cameras: Sequence[Camera]) -> dict[str, FitImage]:
    sizes = {(camera.height, camera.width) for camera in spec.color_cameras}
    size = config.network.image_size or (next(iter(sizes)) if len(sizes) == 1 else None)
    return fits_of(cameras, size, config.network.image_fit, always=len(config.data.datasets) > 1)


def _views(config: TrainConfig, spec: RobotSpec) -> list[Camera]:
    """The cameras of a run with the size that their pictures have in a batch."""
    fits = _fits(config, spec, spec.cameras)
    sizes = {camera.name: fits[camera.name].target for camera in spec.cameras if camera.name in fits}
    pairs = ((camera, sizes.get(camera.name, (camera.height, camera.width))) for camera in spec.cameras)
    return [dataclasses.replace(camera, height=height, width=width) for camera, (height, width) in pairs]


def _extractor(
    data: DataConfig, network: NetworkConfig, spec: RobotSpec, device: torch.device, show_progress: bool
) -> FrozenFeatureExtractor | None:
    return FrozenFeatureExtractor(network, spec, device, show_progress, data.cache) if data.cache_features else None


def _size_notes(config: NetworkConfig, sized: NetworkConfig, recordings: Recordings) -> list[str]:
    """What a default image size was chosen for."""
    if config.image_size == sized.image_size or sized.image_size is None:
        return []
    sizes = ", ".join(f"{height}×{width}" for height, width in sorted(recordings.image_sizes()) if height)
    height, width = sized.image_size
    return [
        f"camera images of {sizes} are resized to {height}×{width}, {sized.image_fit} where the aspect ratio differs: set "
        f"network.image_size and network.image_fit (crop or letterbox) for another size"
    ]


def _sentences(episode: Episode | MatchedEpisode) -> Iterator[str]:
    """Every wording of every instruction of an episode."""
    yield from episode.instructions
    for segment in episode.segments:
        yield from segment.wordings


def _with_tasks(network: NetworkConfig, episodes: Iterable[Episode | MatchedEpisode], datasets: Sequence[str]) -> NetworkConfig:
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
