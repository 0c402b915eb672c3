"""Time in which the robot rests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from verbot.data.quality.checks import lint_checks
from verbot.data.quality.config import LintConfig
from verbot.data.quality.episode import DatasetOverview, EpisodeData
from verbot.data.quality.report import FramePlace, LintFinding, Severity
from verbot.spec import BoolArray

PARTS = {"start": "at the start", "end": "at the end", "middle": "within the episode"}
USUAL = 0.1  # of all episodes: a part that so many share is a warning


@lint_checks.register("idle")
class Idle:
    """Rest at the start, at the end, and within episodes. A policy learns to stand still from it."""

    def measure(self, episode: EpisodeData, config: LintConfig) -> dict[str, Any] | None:
        resting = episode.motion * episode.spec.rate_hz < config.idle_speed  # (t − 1,)
        if not episode.states.shape[1] or not len(resting):
            return None
        moving = np.flatnonzero(~resting)
        if not len(moving):
            return {"total": len(resting), "start": (0, len(resting))}
        first, last = int(moving[0]), int(moving[-1])
        found = {"total": int(resting.sum()), "start": (0, first), "end": (last + 1, len(resting) - 1 - last)}
        return found | {"middle": _longest(resting, first, last)}

    def judge(self, measured: Sequence[tuple[int, Any]], dataset: DatasetOverview, config: LintConfig) -> Iterator[LintFinding]:
        rate = dataset.spec.rate_hz
        total = sum(found["total"] for _, found in measured) / max(dataset.frames, 1)
        for part, words in PARTS.items():
            rows = [(number, *found[part]) for number, found in measured if part in found]
            places = [FramePlace(number, frame, frames) for number, frame, frames in rows if frames >= config.idle_s * rate]
            if places:
                longest, share = max(place.size for place in places) / rate, len(places) / len(dataset.lengths)
                many = f"{len(places)} of {len(dataset.lengths)} episodes"
                text = f"the robot rests {words} for {config.idle_s:g} s or more in {many}, for up to {longest:.1f} s"
                severity: Severity = "warning" if share > USUAL and total > config.idle_share else "info"
                details = {"idle_share_of_all_frames": round(total, 4)}
                yield LintFinding(severity, "idle", text, details=details).at(places, config.places)


def _longest(resting: BoolArray, first: int, last: int) -> tuple[int, int]:
    """(start, frames) of the longest rest between two frames."""
    edges = np.diff(np.concatenate([[False], resting[first : last + 1], [False]]).astype(int))
    starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    if not len(starts):
        return first, 0
    best = int((stops - starts).argmax())
    return first + int(starts[best]), int(stops[best] - starts[best])
