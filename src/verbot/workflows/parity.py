"""Does a policy act as another? The difference of their actions on recorded observations, and how much of it is allowed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from verbot.contracts import Policy
from verbot.data import open_dataset
from verbot.errors import ConfigError
from verbot.rollout.collect import collect
from verbot.spec import Observation
from verbot.workflows.load_policy import fitting

if TYPE_CHECKING:
    from verbot.data import Dataset

BATCH = 20
FrameNumbers = npt.NDArray[np.int64]  # their numbers, counted over all episodes
CALIBRATION = 64  # observations at most
FRAMES = 25  # of an expert's episode, at least; for how many episodes are collected


@dataclass(frozen=True)
class Parity:
    """The difference of actions, as a share of the range of each dimension.

    Args:
        mean, p99, most: over all actions and dimensions of all chunks.
    """

    mean: float
    p99: float
    most: float
    observations: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def beyond(self, limit: ParityLimit) -> str:
        """What is above the limit, in words; empty if nothing is."""
        values = {"mean": (self.mean, limit.mean), "p99": (self.p99, limit.p99), "most": (self.most, limit.most)}
        return ", ".join(f"{name} {found:.2g} above {most:.2g}" for name, (found, most) in values.items() if not found <= most)


@dataclass(frozen=True)
class ParityLimit:
    """The most that `Parity` may be."""

    mean: float
    p99: float
    most: float = 1.0


# A gripper's opening jumps where it is decided, so a single number of an action may differ as much as it can; the mean and the
# 99th percentile say whether the policy is the same.
LIMITS = {
    "fp32": ParityLimit(1e-4, 1e-4, 1e-4),
    "bf16": ParityLimit(0.005, 0.05),
    "int8-dynamic": ParityLimit(0.01, 0.1),
    "int8-static": ParityLimit(0.01, 0.1),
    "int8-weights": ParityLimit(0.01, 0.1),
}
PRUNED = ParityLimit(0.03, 0.3)


def limit_of(precision: str, pruned: bool) -> ParityLimit:
    """The limit for a precision; of a pruned policy, which is meant to be another, at least that of pruning."""
    limit = LIMITS[precision]
    return ParityLimit(max(limit.mean, PRUNED.mean), max(limit.p99, PRUNED.p99)) if pruned else limit


def parity(first: Policy, second: Policy, observations: Sequence[Observation]) -> Parity:
    """The difference of two policies of one robot on the same observations."""
    spans = np.maximum(first.spec.action_high() - first.spec.action_low(), 1e-12)
    errors = []
    for start in range(0, len(observations), BATCH):
        part = observations[start : start + BATCH]
        chunks = zip(first.predict(part), second.predict(part), strict=True)
        errors += [np.abs(one.values.astype(np.float64) - other.values) / spans for one, other in chunks]
    found = np.concatenate(errors).ravel()
    return Parity(float(found.mean()), float(np.quantile(found, 0.99)), float(found.max()), len(observations))


def compared_and_others(total: int, count: int, most: int = CALIBRATION) -> tuple[FrameNumbers, FrameNumbers]:
    """Up to `count` of `total` frames, evenly spaced, and up to `most` of the others.

    Of too few frames a quarter, and one at least, is left to the others.

    Raises `ConfigError` for fewer than two frames.

    Example:
        >>> compared_and_others(8, 4), compared_and_others(3, 200)
        ((array([0, 2, 4, 6]), array([1, 3, 5, 7])), (array([0, 1]), array([2])))
    """
    if total < 2:
        raise ConfigError(f"the dataset holds {total} frames; expected two at least, one to compare and one to calibrate with")
    count = min(count, total - min(most, max(1, total // 4)))
    compared = np.arange(count) * total // count
    others = np.setdiff1d(np.arange(total), compared)
    return compared, others[np.arange(min(most, len(others))) * len(others) // min(most, len(others))]


def recorded_observations(dataset: Dataset, wanted: FrameNumbers) -> list[Observation]:
    """The observations of the frames `wanted`, counted over all episodes and in ascending order."""
    lengths = dataset.lengths
    starts = np.cumsum(lengths) - lengths
    found = []
    for number in np.unique(np.searchsorted(starts, wanted, "right") - 1).tolist():
        episode, rows = dataset[number], (wanted - starts[number])[(wanted >= starts[number])]
        own = [int(row) for row in rows if row < episode.length]
        cameras = {camera: episode.images(camera, own) for camera in dataset.camera_names}
        states, segments = episode.states, episode.segments
        for place, row in enumerate(own):
            text = next(each.wordings[0] for each in segments if each.start <= row < each.stop)
            found.append(Observation({camera: images[place] for camera, images in cameras.items()}, states[row], text))
    return found


def observations_of(
    policy: str, data: Path | None, suite: str, count: int, seed: int, progress: bool
) -> tuple[list[Observation], list[Observation]]:
    """`count` recorded observations to compare policies on, and up to `CALIBRATION` others to calibrate with.

    They are of the dataset `data`, or of the suite's expert, as a function of `seed`. Raises `ConfigError` for too few.
    """
    if data is not None:
        return _chosen(open_dataset(data), count)
    with tempfile.TemporaryDirectory(prefix="verbot-parity-") as folder:
        episodes = max(2, -(-(count + CALIBRATION) // FRAMES))
        options = fitting(policy, suite)
        collect(suite, Path(folder) / "data", episodes, seed, workers=1, images="image", options=options, progress=progress)
        return _chosen(open_dataset(Path(folder) / "data"), count)


def _chosen(dataset: Dataset, count: int) -> tuple[list[Observation], list[Observation]]:
    compared, others = compared_and_others(int(dataset.lengths.sum()), count)
    return recorded_observations(dataset, compared), recorded_observations(dataset, others)
