"""The datasets of a run as those of one robot: opened, selected, matched, their ranges checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from verbot.contracts.scenes import SCENE_COLUMN
from verbot.data import Dataset, open_dataset
from verbot.data.samples.matching import DatasetMatching, MatchedDataset, MatchedEpisode
from verbot.data.storage.episode_statistics import episode_statistics
from verbot.data.storage.joining import join_specs, spec_difference
from verbot.data.storage.reader import Episode, read_info
from verbot.data.storage.resample import assumed_absolute
from verbot.errors import ConfigError, DataError, UnknownNameError
from verbot.spec import RobotSpec
from verbot.statistics import Statistics
from verbot.training.imitation.out_of_range import checked_ranges, first_not_finite
from verbot.training.imitation.records import DataConfig, Selection
from verbot.training.imitation.selection import selected

NEW_IMPORT = "import one of them again with the names and units of the other (`verbot data import --spec`)"


@dataclass(frozen=True)
class Recording:
    """A dataset of a run.

    Args:
        dataset: as recorded.
        matching: how its episodes are read.
        numbers: the episodes that the run uses.
    """

    dataset: Dataset
    matching: DatasetMatching
    numbers: Sequence[int]

    def __iter__(self) -> Iterator[Episode | MatchedEpisode]:
        """The episodes that the run uses, read one by one to save memory."""
        source = self.source
        return (source[number] for number in self.numbers)

    @property
    def source(self) -> Dataset | MatchedDataset:
        """The dataset as the run reads it."""
        return MatchedDataset(self.dataset, self.matching) if self.matching.changes else self.dataset


@dataclass(frozen=True)
class Recordings:
    """The datasets of a run.

    Args:
        spec: the robot of all of them, with the cameras of the policy.
        every: the datasets, in the order of `DataConfig.datasets`.
        notes: what is done with them that a person should know, a sentence each.
        known: statistics of the episodes of the only dataset, if nothing is left out.
    """

    spec: RobotSpec
    every: tuple[Recording, ...]
    notes: tuple[str, ...]
    known: Statistics | None = None

    @staticmethod
    def open(config: DataConfig) -> Recordings:
        """Open the datasets of a run.

        Raises `ConfigError` if they cannot be trained together, or if data lie outside the robot's ranges and
        ``config.out_of_range`` does not say what to do; errors of `open_dataset` and `selected`.
        """
        datasets = [opened(config, path) for path in config.datasets]
        chosen = [
            selected(Selection() if config.selections is None else config.selections[number], dataset)
            for number, dataset in enumerate(datasets)
        ]
        known = [_statistics(dataset, numbers) for dataset, numbers in zip(datasets, chosen, strict=True)]
        pairs = zip(datasets, chosen, known, strict=True)
        checked = [checked_ranges(*each, config.out_of_range) for each in pairs]
        joined = _joined(datasets, [each.spec for each in checked], config.rate_hz)
        notes = [f"{d.root}: has names of its own, which the map of features leaves" for d in datasets if _is_own(config, d)]
        notes += [note for each in checked for note in each.notes]
        recordings = []
        for dataset, ranges, numbers in zip(datasets, checked, chosen, strict=True):
            recordings.append(Recording(dataset, DatasetMatching(ranges.spec, joined), numbers))
        notes += _matching_notes(recordings)
        spec = with_cameras(joined, config.cameras)
        notes += _camera_notes(spec, datasets)
        return Recordings(
            spec, tuple(recordings), tuple(notes), known[0] if len(known) == 1 and config.selections is None else None
        )

    def __iter__(self) -> Iterator[Episode | MatchedEpisode]:
        """All episodes of the run."""
        return (episode for recording in self.every for episode in recording)

    def add(self, dataset: Dataset) -> Recording:
        """Another dataset of the robot, such as corrections of the policy."""
        spec = dataset.spec
        if (found := spec_difference(self.spec, spec, ("the run's datasets", str(dataset.root)))) is not None:
            raise ConfigError(f"{dataset.root} is of another robot than the datasets of the run: {found}")
        return Recording(dataset, DatasetMatching(spec, self.spec), range(len(dataset)))

    def statistics(self) -> Statistics:
        """Statistics of the states and actions that are trained on."""
        if self.known is not None and not self.every[0].matching.changes:
            return self.known
        with _naming([(recording.dataset, recording.numbers) for recording in self.every]):
            frames = sum(int(recording.source.lengths[list(recording.numbers)].sum()) for recording in self.every)
            return episode_statistics(lambda: self, frames, self.spec.state_size + self.spec.action_size)

    def image_sizes(self) -> set[tuple[int, int]]:
        """(height, width) of the images of the policy's cameras in all datasets; (0, 0) for a dataset without any of them."""
        found = set()
        for recording in self.every:
            own = {c.name: (c.height, c.width) for c in recording.dataset.spec.cameras}
            found |= {own[name] for name in self.spec.color_names if name in own} or {(0, 0)}
        return found


def _statistics(dataset: Dataset, numbers: Sequence[int]) -> Statistics | None:
    """Those of a dataset of which no episode is left out."""
    if len(numbers) < len(dataset):
        return None
    with _naming([(dataset, numbers)]):
        return dataset.statistics()


@contextmanager
def _naming(used: Sequence[tuple[Dataset, Sequence[int]]]) -> Iterator[None]:
    """Say where the number is whose statistics cannot be computed."""
    try:
        yield
    except DataError as error:
        found = (first_not_finite(dataset, numbers) for dataset, numbers in used)
        where = next((each for each in found if each is not None), None)
        if where is not None:
            raise DataError(where) from error
        raise


def _is_own(config: DataConfig, dataset: Dataset) -> bool:
    return config.features is not None and "verbot" in dataset.info


def opened(config: DataConfig, path: str) -> Dataset:
    """A dataset of a run, read as the configuration says."""
    return open_mapped(path, config.features, config.depth, config.origin)


def open_mapped(
    path: str | Path, features: Mapping[str, Sequence[str]] | None, depth: bool = False, origin: str | None = None
) -> Dataset:
    """As `open_dataset`; `features` and `origin` are not for a dataset of verbot, which may be mixed with a foreign one."""
    if (features is not None or origin is not None) and "verbot" in read_info(Path(path)):
        features = origin = None
    return open_dataset(path, features=features, depth=depth, origin=origin)


def with_cameras(spec: RobotSpec, cameras: Sequence[str] | None) -> RobotSpec:
    """The robot with a selection of its cameras."""
    if cameras is None:
        return spec
    cameras_by_name = {camera.name: camera for camera in spec.cameras}
    for name in cameras:
        if name not in cameras_by_name:
            raise UnknownNameError(f"camera of robot {spec.name!r}", name, cameras_by_name)
    return dataclasses.replace(spec, cameras=tuple(cameras_by_name[name] for name in cameras))


def _joined(datasets: Sequence[Dataset], specs: Sequence[RobotSpec], rate_hz: float | None) -> RobotSpec:
    names = [str(dataset.root) for dataset in datasets]
    try:
        return join_specs(specs, names, rate_hz)
    except ConfigError as error:
        for spec, name in zip(specs[1:], names[1:], strict=True):
            if spec_difference(specs[0], spec) is not None:
                other = f"cotraining=[{{robot: {spec.name}, datasets: [{name}]}}]"
                raise ConfigError(
                    f"{error}; {NEW_IMPORT}, or train two robots that share weights, each with a policy of its own: "
                    f"`--data {names[0]} --embodiments {name}`, in a configuration {other}"
                ) from None
        raise ConfigError(
            f"{error}; resample them to one rate: --set data.rate_hz={min(spec.rate_hz for spec in specs):g}"
        ) from None


def _matching_notes(recordings: Sequence[Recording]) -> list[str]:
    notes = []
    for recording in recordings:
        matching, root = recording.matching, recording.dataset.root
        if matching.reorders:
            notes.append(f"{root}: its numbers are in another order than those of {recordings[0].dataset.root}, matched by name")
        if matching.resamples:
            assumed = assumed_absolute(matching.recorded)
            caution = f"; {', '.join(assumed)} of kind 'other' taken as absolute, not as deltas" if assumed else ""
            notes.append(
                f"{root}: resampled from {matching.recorded.rate_hz:g} to {matching.joined.rate_hz:g} Hz: the nearest rows, "
                f"deltas added up, velocities averaged, of other actions the last of each interval{caution}"
            )
    return notes


def _camera_notes(spec: RobotSpec, datasets: Sequence[Dataset]) -> list[str]:
    notes = []
    for dataset in datasets:
        if lacking := [name for name in spec.camera_names if name not in dataset.camera_names]:
            notes.append(f"{dataset.root}: has no camera {', '.join(lacking)}, which is masked there")
    if not spec.cameras:
        notes.append("there are no cameras: the policy sees only the instruction and the state")
    if not spec.state:
        notes.append("there is no state: the policy sees only the images and the instruction")
    return notes


def scene_notes(recordings: Recordings) -> list[str]:
    """Which datasets have no truth of their scenes. Raises `ConfigError` if none has."""
    lacking = [str(each.dataset.root) for each in recordings.every if SCENE_COLUMN not in each.dataset.info["features"]]
    if len(lacking) == len(recordings.every):
        raise ConfigError(
            f"data.text.question, caption and reasoning need the truth of scenes, and {', '.join(lacking)} has none: record it "
            f"with `verbot collect --truth`"
        )
    return [f"{root}: has no truth of its scenes, so all of its samples are actions" for root in lacking]
