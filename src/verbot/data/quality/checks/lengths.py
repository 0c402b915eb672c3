"""Episodes of an unusual length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from verbot.data.quality.checks import lint_checks
from verbot.data.quality.config import LintConfig
from verbot.data.quality.episode import DatasetOverview, EpisodeData
from verbot.data.quality.report import FramePlace, LintFinding, plural

MIN_EPISODES = 5  # before a median means something


@lint_checks.register("lengths")
class Lengths:
    """Episodes much longer or shorter than the median: a forgotten stop button, a recording that was cut."""

    def measure(self, episode: EpisodeData, config: LintConfig) -> int:
        return len(episode)

    def judge(self, measured: Sequence[tuple[int, Any]], dataset: DatasetOverview, config: LintConfig) -> Iterator[LintFinding]:
        median = float(np.median([frames for _, frames in measured]))
        few = [FramePlace(number, 0, config.min_frames - frames) for number, frames in measured if frames < config.min_frames]
        if few:
            text = f"{plural(len(few), 'episode')} with fewer than {config.min_frames} frames"
            yield LintFinding("warning", "lengths", text).at(few, config.places)
        if len(measured) < MIN_EPISODES:
            return
        for word, factor in (("longer", 1.0), ("shorter", -1.0)):
            ratios = [(number, frames, (frames / median) ** factor) for number, frames in measured]
            rows = [row for row in ratios if row[2] > config.length_ratio and row[1] >= config.min_frames]
            if rows:
                number, frames, _ = max(rows, key=lambda row: row[2])
                where = f"episode {number} has {frames} frames, the median is {median:g}"
                text = f"{plural(len(rows), 'episode')} more than {config.length_ratio:g} times {word} than usual: {where}"
                places = [FramePlace(n, 0, size) for n, _, size in rows]
                yield LintFinding("warning", "lengths", text).at(places, config.places)
