"""Cameras that see nothing, stand still, or repeat their pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from verbot.data.quality.checks import lint_checks
from verbot.data.quality.config import LintConfig
from verbot.data.quality.episode import DatasetOverview, EpisodeData, Pictures
from verbot.data.quality.report import FramePlace, LintFinding
from verbot.spec import BASE, BoolArray

MIN_PAIRS, MIN_REPEATS = 8, 3  # pictures of the dataset that must be looked at, and be repeated
STEP = 0.02  # ranges that the state moves between two pictures that must then differ


@lint_checks.register("dark_camera")
class DarkCamera:
    """Cameras that are dark, overexposed or covered for part of an episode; depth cameras that measure nothing."""

    def measure(self, episode: EpisodeData, config: LintConfig) -> dict[str, Any] | None:
        found = {}
        for name, pictures in episode.pictures.items():
            bad = _dark(pictures, config)
            if bad.any() and bad.mean() >= config.dark_share:
                brightness = float(pictures.images[bad].mean())
                found[name] = int(pictures.rows[bad.argmax()]), float(bad.mean()), brightness
        return found or None

    def judge(self, measured: Sequence[tuple[int, Any]], dataset: DatasetOverview, config: LintConfig) -> Iterator[LintFinding]:
        for name in dataset.cameras:
            rows = [(number, *found[name]) for number, found in measured if name in found]
            if rows:
                places = [FramePlace(number, frame, share) for number, frame, share, _ in rows]
                brightness = np.mean([row[3] for row in rows])
                many = f"{len(rows)} of {len(dataset.lengths)} episodes"
                text = f"camera {name} shows nothing in {many} (mean brightness {brightness:.0f} of 255)"
                yield LintFinding("warning", "dark_camera", text, camera=name).at(places, config.places)


@lint_checks.register("frozen_camera")
class FrozenCamera:
    """Cameras that show one picture while the robot moves."""

    def measure(self, episode: EpisodeData, config: LintConfig) -> dict[str, Any] | None:
        found = {}
        for name, pictures in episode.pictures.items():
            runs = _runs(pictures, config)
            if episode.states.shape[1]:
                moved = [(_moved(episode, name, first, last), first, last) for first, last in runs]
                best = max((run for run in moved if run[0] > config.frozen_motion), default=None)
            else:  # nothing says whether the robot moves
                whole = len(episode) - 2 * config.picture_step
                best = max(((1.0, first, last) for first, last in runs if last - first >= whole > 0), default=None)
            if best is not None:
                found[name] = best
        return found or None

    def judge(self, measured: Sequence[tuple[int, Any]], dataset: DatasetOverview, config: LintConfig) -> Iterator[LintFinding]:
        for name in dataset.cameras:
            rows = [(number, *found[name]) for number, found in measured if name in found]
            if rows:
                number, moved, first, last = max(rows, key=lambda row: row[1])
                places = [FramePlace(n, start, path) for n, path, start, _ in rows]
                text = (
                    f"camera {name} is frozen in {len(rows)} of {len(dataset.lengths)} episodes, in episode {number} from frame "
                    f"{first} to {last}, while most dimensions of the state move by {moved:.0%} of their range or more"
                )
                yield LintFinding("error", "frozen_camera", text, camera=name).at(places, config.places)


@lint_checks.register("repeated_pictures")
class RepeatedPictures:
    """Successive pictures that are identical while the robot moves: a camera slower than the recorder."""

    def measure(self, episode: EpisodeData, config: LintConfig) -> dict[str, Any]:
        found = {}
        for name, pictures in episode.pictures.items():
            pairs = np.flatnonzero(np.diff(pictures.rows) == 1)
            rows = pictures.rows[pairs]
            moving = np.array([_moved(episode, name, row, row + 1) > STEP for row in rows], bool)
            same = _unchanged(pictures, config)
            same = same[pairs] & ~np.append(same, False)[pairs + 1]  # not frozen: the picture changes afterwards
            both = moving & same
            found[name] = int(moving.sum()), int(both.sum()), int(rows[both.argmax()]) + 1 if both.any() else -1
        return found

    def judge(self, measured: Sequence[tuple[int, Any]], dataset: DatasetOverview, config: LintConfig) -> Iterator[LintFinding]:
        for name in dataset.cameras:
            looked = sum(found[name][0] for _, found in measured)
            places = [FramePlace(number, found[name][2], found[name][1]) for number, found in measured if found[name][1]]
            count = int(sum(place.size for place in places))
            if looked >= MIN_PAIRS and count >= max(MIN_REPEATS, config.repeated_pictures * looked):
                text = f"camera {name} repeats the picture before in {count} of {looked} pairs during motion: is it slower?"
                yield LintFinding("warning", "repeated_pictures", text, camera=name).at(places, config.places, count)


def _unchanged(pictures: Pictures, config: LintConfig) -> BoolArray:
    """Whether each picture (n − 1,) is the same as the next one; not of a camera that shows nothing."""
    return (pictures.changed(config.pixel_change) <= config.frozen_pixels) & ~_dark(pictures, config)[:-1]


def _runs(pictures: Pictures, config: LintConfig) -> Iterator[tuple[int, int]]:
    """(first, last) frame of each run of unchanged pictures."""
    same, start = np.append(_unchanged(pictures, config), False), 0
    for i in np.flatnonzero(~same[: len(pictures.rows)]):
        if i > start:
            yield int(pictures.rows[start]), int(pictures.rows[i])
        start = int(i) + 1


def _moved(episode: EpisodeData, camera: str, first: int, last: int) -> float:
    """How far the state moves in these frames, as a fraction of its range: the median dimension.

    For a camera on an end effector, that end effector's dimensions count. One that stands in the scene may not see what moves.
    """
    spec, width = episode.spec, episode.scales["state"].width
    frame = next((each.frame for each in spec.cameras if each.name == camera), BASE)
    owner = spec.end_effector(frame)
    names = [c.name for c in spec.state for _ in c.axes]
    chosen = (width > 1e-9) & np.array([owner is None or name in owner.state for name in names], bool)
    if not chosen.any():
        return 0.0
    moved = np.ptp(np.nan_to_num(episode.states[first : last + 1, chosen].astype(float)), axis=0) / width[chosen]
    return float(np.median(moved))


def _dark(pictures: Pictures, config: LintConfig) -> BoolArray:
    """Which pictures (n,) show nothing."""
    flat = pictures.images.reshape(len(pictures.rows), -1)
    if pictures.depth:
        return (flat > 0).mean(axis=1) < 0.01
    mean, contrast = flat.mean(axis=1), pictures.images.std(axis=(1, 2)).max(axis=-1)
    return (mean < config.dark) | (mean > 255 - config.dark) | (contrast < config.plain)
