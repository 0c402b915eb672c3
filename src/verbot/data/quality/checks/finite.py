"""Numbers that are not finite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from verbot.data.quality.checks import lint_checks
from verbot.data.quality.config import LintConfig
from verbot.data.quality.episode import VECTORS, DatasetOverview, EpisodeData
from verbot.data.quality.report import FramePlace, LintFinding, listed, plural


@lint_checks.register("finite")
class Finite:
    """NaN and infinity in states and actions: one such number in a batch makes every weight NaN."""

    def measure(self, episode: EpisodeData, config: LintConfig) -> dict[str, Any] | None:
        found: dict[str, Any] = {}
        for name in VECTORS:
            frames, dims = np.nonzero(~np.isfinite(episode.vector(name)))
            if len(frames):
                found[name] = (int(frames[0]), len(frames), sorted(set(dims.tolist())))
        return found or None

    def judge(self, measured: Sequence[tuple[int, Any]], dataset: DatasetOverview, config: LintConfig) -> Iterator[LintFinding]:
        for name in VECTORS:
            rows = [(number, *found[name]) for number, found in measured if name in found]
            if rows:
                dims = sorted({dim for *_, some in rows for dim in some})
                count = sum(row[2] for row in rows)
                axes = listed([dataset.names(name)[dim] for dim in dims])
                numbers = plural(count, "number")
                message = f"{numbers} of the {name} not finite, in {axes}; training would end with NaN"
                places = [FramePlace(number, frame, size) for number, frame, size, _ in rows]
                yield LintFinding("error", "finite", message, signal=(name, dims[0])).at(places, config.places, count)
