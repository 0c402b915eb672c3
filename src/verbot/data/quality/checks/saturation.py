"""Dimensions at the ends of their range, and grippers that rest where they should move."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from verbot.data.quality.checks import lint_checks
from verbot.data.quality.config import LintConfig
from verbot.data.quality.episode import CHANGING, VECTORS, DatasetOverview, EpisodeData, of_kinds
from verbot.data.quality.report import FramePlace, LintFinding, plural
from verbot.spec import BoolArray

AT_END = 1e-3  # of the range
TWO_VALUES = 0.95  # a dimension with more of its frames at its ends is a switch
MIN_FRAMES = 50  # of the dataset, before a fraction of them means something
MIN_EPISODES = 5  # of a task, before one of them is an exception


@lint_checks.register("saturation")
class Saturation:
    """Many frames at one end of the range: clipped values, or a sensor at its limit. A gripper that closes but is not seen to."""

    def measure(self, episode: EpisodeData, config: LintConfig) -> dict[str, Any]:
        found: dict[str, Any] = {"task": episode.task}
        for name in VECTORS:
            values, scale = episode.vector(name), episode.scales[name]
            width = scale.highest - scale.lowest
            low, high = (values <= scale.lowest + AT_END * width), (values >= scale.highest - AT_END * width)
            ends = low if low.sum() > high.sum() else high
            found[name] = low.sum(axis=0), high.sum(axis=0), ends.argmax(axis=0)
            gripper = of_kinds(episode.spec, name, ["gripper"])
            used = np.ptp(np.nan_to_num(values[:, gripper]), axis=0) / np.maximum(width[gripper], 1e-9)
            found[f"{name} gripper"] = float(used.max()) if used.size else None
        return found

    def judge(self, measured: Sequence[tuple[int, Any]], dataset: DatasetOverview, config: LintConfig) -> Iterator[LintFinding]:
        for name in VECTORS:
            if dataset.names(name) and dataset.frames >= MIN_FRAMES:
                yield from self._ends(name, measured, dataset, config)
        for name in VECTORS:
            yield from self._resting(name, measured, config)
        yield from self._unresponsive(measured, dataset)

    @staticmethod
    def _ends(
        name: str, measured: Sequence[tuple[int, Any]], dataset: DatasetOverview, config: LintConfig
    ) -> Iterator[LintFinding]:
        low, high = (np.sum([found[name][i] for _, found in measured], axis=0) / dataset.frames for i in (0, 1))
        scale = dataset.scales[name]
        shares, skip = np.maximum(low, high), _switches(name, low + high, dataset)
        for dim in np.flatnonzero((shares > config.saturated) & ~skip & (scale.highest > scale.lowest)):
            end = scale.lowest[dim] if low[dim] > high[dim] else scale.highest[dim]
            at = 0 if low[dim] > high[dim] else 1
            places = [FramePlace(n, int(found[name][2][dim]), int(found[name][at][dim])) for n, found in measured]
            places = [place for place in places if place.size]
            text = f"{name} {dataset.names(name)[dim]} is at {end:.4g}, the end of its range, in {shares[dim]:.0%} of all frames"
            # A command at its limit is common: an expert goes as fast as it may.
            severity: Any = "warning" if name == "state" else "info"
            count = int(sum(place.size for place in places))
            yield LintFinding(severity, "saturation", text, signal=(name, int(dim))).at(places, config.places, count)

    @staticmethod
    def _resting(name: str, measured: Sequence[tuple[int, Any]], config: LintConfig) -> Iterator[LintFinding]:
        tasks: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        for number, found in measured:
            if found[f"{name} gripper"] is not None:
                tasks[found["task"]].append((number, found[f"{name} gripper"]))
        resting = []
        for rows in tasks.values():
            rest = [number for number, used in rows if used < 0.02]
            if len(rows) >= MIN_EPISODES and 0 < len(rest) <= (1 - config.gripper_uses) * len(rows):
                resting += rest
        if resting:
            text = f"the gripper of the {name} rests in {plural(len(resting), 'episode')} of tasks in which it moves otherwise"
            yield LintFinding("warning", "saturation", text).at([FramePlace(number, 0) for number in resting], config.places)

    @staticmethod
    def _unresponsive(measured: Sequence[tuple[int, Any]], dataset: DatasetOverview) -> Iterator[LintFinding]:
        rows = [(found["action gripper"], found["state gripper"]) for _, found in measured]
        used = [seen for asked, seen in rows if asked is not None and seen is not None and asked > 0.5]
        grippers = of_kinds(dataset.spec, "state", ["gripper"])
        width = (dataset.scales["state"].highest - dataset.scales["state"].lowest)[grippers]
        if used and width.size and (max(used) < 0.02 or width.max() < 1e-3):
            text = f"the gripper is commanded to move in {plural(len(used), 'episode')}, but the state never shows that it does"
            yield LintFinding("error", "saturation", text)


def _switches(name: str, at_ends: np.ndarray, dataset: DatasetOverview) -> BoolArray:
    return of_kinds(dataset.spec, name, (*CHANGING, "quaternion")) | (at_ends > TWO_VALUES)
