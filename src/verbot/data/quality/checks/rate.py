"""The recorded times of frames against the control rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from verbot.data.quality.checks import lint_checks
from verbot.data.quality.config import LintConfig
from verbot.data.quality.episode import DatasetOverview, EpisodeData
from verbot.data.quality.report import FramePlace, LintFinding, plural
from verbot.spec import Float64Array

GAP = 1.5  # control periods between two frames from which at least one is missing


@lint_checks.register("rate")
class Rate:
    """Irregular time steps, missing frames, and another rate than the declared one."""

    def measure(self, episode: EpisodeData, config: LintConfig) -> dict[str, Any] | None:
        periods = np.diff(episode.times) * episode.spec.rate_hz  # (t − 1,), 1 if regular
        periods = np.nan_to_num(periods, nan=0.0, posinf=1e9, neginf=-1e9)
        if not len(periods):
            return None
        rounding = _rounding(episode.times) * episode.spec.rate_hz
        irregular = abs(periods - np.median(periods)) > config.jitter + rounding
        backward, gaps = periods <= 0, periods > GAP
        return {
            "steps": len(periods),
            "rate": float(np.median(periods)),
            "rounding": rounding,
            "deviation": float(abs(periods - 1).max()),
            **{
                name: _where(found, periods) for name, found in (("irregular", irregular), ("backward", backward), ("gaps", gaps))
            },
        }

    def judge(self, measured: Sequence[tuple[int, Any]], dataset: DatasetOverview, config: LintConfig) -> Iterator[LintFinding]:
        steps, rate = sum(found["steps"] for _, found in measured), dataset.spec.rate_hz
        if not steps:
            return
        slow = [(n, found["rate"]) for n, found in measured if abs(found["rate"] - 1) > config.jitter + found["rounding"]]
        if slow:
            number, period = max(slow, key=lambda row: abs(row[1] - 1))
            real = f"{rate / period:.4g} Hz" if period > 0 else "no rate"
            text = f"{plural(len(slow), 'episode')} recorded at another rate than {rate:g} Hz; episode {number} at {real}"
            yield LintFinding("error", "rate", text).at([FramePlace(n, 0, abs(p - 1)) for n, p in slow], config.places)
        for name, words in (
            ("backward", "time does not advance at {count} of {steps} steps"),
            ("gaps", "{count} of {steps} steps take more than 1.5 control periods, the longest {worst:.1f}: frames are missing"),
            ("irregular", "{count} of {steps} time steps differ from the usual one by more than {jitter:.0%}"),
        ):
            rows = [(number, *found[name]) for number, found in measured if found[name][0]]
            count = sum(row[1] for row in rows)
            if count and (name != "irregular" or count > config.jitter_share * steps):
                places = [FramePlace(number, frame, size) for number, _, frame, size in rows]
                worst = max(1 + place.size for place in places)
                text = words.format(count=count, steps=steps, worst=worst, jitter=config.jitter)
                yield LintFinding("error" if name == "backward" else "warning", "rate", text).at(places, config.places, count)


def _where(found: np.ndarray, periods: np.ndarray) -> tuple[int, int, float]:
    """(count, the worst frame, its deviation in periods)."""
    sizes = np.where(found, abs(periods - 1), -1.0)
    return int(found.sum()), int(sizes.argmax()) + 1, float(sizes.max())


def _rounding(times: Float64Array) -> float:
    """The error of a difference of two times in seconds. Many datasets store 32 bits, which are coarse late in long episodes."""
    short = np.nan_to_num(times).astype(np.float32)
    return 2 * float(np.spacing(abs(short).max())) if np.array_equal(short, times) else 0.0
