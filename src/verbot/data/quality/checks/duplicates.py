"""Frames and episodes that are recorded twice."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from verbot.data.quality.checks import lint_checks
from verbot.data.quality.config import LintConfig
from verbot.data.quality.episode import DatasetOverview, EpisodeData
from verbot.data.quality.report import FramePlace, LintFinding, plural
from verbot.spec import BoolArray, FloatArray

Int16Array = npt.NDArray[np.int16]
SIDE, ALIKE = 8, 24  # pixels of each side to compare, and by how much they may differ, of 255: the noise of a video


@lint_checks.register("duplicates")
class Duplicates:
    """Equal rows of the state amid motion (a sensor slower than the recorder, dropped messages), and equal episodes."""

    def measure(self, episode: EpisodeData, config: LintConfig) -> tuple[int, int, bytes, Int16Array]:
        frames = np.flatnonzero(_repeated(episode.states, config.duplicate_run))
        numbers = hashlib.blake2b(episode.states.tobytes() + episode.actions.tobytes(), digest_size=16).digest()
        return len(frames), int(frames[0]) if len(frames) else -1, numbers, _first_pictures(episode)

    def judge(self, measured: Sequence[tuple[int, Any]], dataset: DatasetOverview, config: LintConfig) -> Iterator[LintFinding]:
        count = sum(found[0] for _, found in measured)
        if count > config.duplicates * dataset.frames:
            places = [FramePlace(number, frame, repeats) for number, (repeats, frame, *_) in measured if repeats]
            share = f"{count / dataset.frames:.0%} of all frames repeat the state of the frame before while the robot moves"
            text = f"{share}: is the sensor slower than the recorder?"
            signal = ("state", int(dataset.scales["state"].width.argmax()))
            yield LintFinding("warning", "duplicates", text, signal=signal).at(places, config.places, count)
        twice = list(_equal([(number, found[2], found[3]) for number, found in measured]))
        if twice:
            places = [FramePlace(number, 0, -index) for index, numbers in enumerate(twice) for number in numbers[1:]]
            pairs = "; ".join(" = ".join(map(str, numbers[: config.places])) for numbers in twice[: config.places])
            text = f"{plural(len(places), 'episode')} with the states and actions of another one: {pairs}"
            finding = LintFinding("warning", "duplicates", text, details={"equal_episodes": twice})
            yield finding.at(places, config.places)


def _equal(episodes: Sequence[tuple[int, bytes, Int16Array]]) -> Iterator[list[int]]:
    """Numbers of episodes with equal states and actions, whose first pictures look alike too."""
    groups: defaultdict[bytes, list[tuple[int, Int16Array]]] = defaultdict(list)
    for number, digest, seen in episodes:
        groups[digest].append((number, seen))
    for (first, shown), *others in groups.values():
        same = [number for number, seen in others if seen.shape == shown.shape and not (abs(seen - shown) > ALIKE).any()]
        if same:
            yield [first, *same]


def _first_pictures(episode: EpisodeData) -> Int16Array:
    """Some pixels of the first picture of each camera."""
    shown = [pictures.images[0] for pictures in episode.pictures.values()]
    some = [image[:: max(1, image.shape[0] // SIDE), :: max(1, image.shape[1] // SIDE)] for image in shown]
    return np.concatenate([np.zeros(0), *(image.ravel() for image in some)]).astype(np.int16)


def _repeated(states: FloatArray, run: int) -> BoolArray:
    """Frames (t,) whose row equals the one before, in runs of at most `run` with motion on both sides."""
    out = np.zeros(len(states), bool)
    if not states.shape[1] or len(states) < 3:
        return out
    same = np.concatenate([[False], (states[1:] == states[:-1]).all(axis=1)])
    edges = np.diff(np.concatenate([[False], same, [False]]).astype(int))
    for start, stop in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True):
        if stop - start <= run and start >= 2 and stop < len(states):
            out[start:stop] = True
    return out
