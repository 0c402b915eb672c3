"""Single numbers far from all others of their dimension."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from verbot.data.quality.checks import lint_checks
from verbot.data.quality.config import LintConfig
from verbot.data.quality.episode import CHANGING, VECTORS, DatasetOverview, EpisodeData, of_kinds
from verbot.data.quality.report import FramePlace, LintFinding, plural


@lint_checks.register("outliers")
class Outliers:
    """Numbers many robust deviations from the median, by dimension. They set the range that normalization uses."""

    def measure(self, episode: EpisodeData, config: LintConfig) -> dict[str, Any] | None:
        found: dict[Any, Any] = {}
        for name in VECTORS:
            values, scale = episode.vector(name), episode.scales[name]
            skip = of_kinds(episode.spec, name, (*CHANGING, "quaternion")) | (scale.deviation <= 1e-9)
            z = np.where(skip, 0.0, abs(values - scale.median) / np.maximum(scale.deviation, 1e-9))
            far = np.isfinite(z) & (z > config.outlier_z)
            for dim in np.flatnonzero(far.any(axis=0)):
                frame = int(np.where(far[:, dim], z[:, dim], 0).argmax())
                found[name, int(dim)] = int(far[:, dim].sum()), frame, float(z[frame, dim]), float(values[frame, dim])
        return found or None

    def judge(self, measured: Sequence[tuple[int, Any]], dataset: DatasetOverview, config: LintConfig) -> Iterator[LintFinding]:
        for name, dim in sorted({key for _, found in measured for key in found}):
            rows = [(number, *found[name, dim]) for number, found in measured if (name, dim) in found]
            count, worst = sum(row[1] for row in rows), max(rows, key=lambda row: row[3])
            axis, scale = f"{name} {dataset.names(name)[dim]}", dataset.scales[name]
            places = [FramePlace(number, frame, z) for number, _, frame, z, _ in rows]
            usual = f"98 % of all frames lie in {scale.low[dim]:.4g} to {scale.high[dim]:.4g}"
            if count > config.outlier_share * dataset.frames:
                text = f"{axis} has long tails: {count} frames beyond {config.outlier_z:g} deviations; {usual}"
                yield LintFinding("info", "outliers", text, signal=(name, dim)).at(places, config.places, count)
                continue
            away = f"{worst[3]:.0f} robust deviations from the median"
            text = f"{axis} is {worst[4]:.4g} at worst, {away}, and far away in {plural(count, 'frame')}; {usual}"
            yield LintFinding("warning", "outliers", text, signal=(name, dim)).at(places, config.places, count)
