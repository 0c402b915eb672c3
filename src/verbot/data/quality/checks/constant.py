"""Dimensions that never, or hardly ever, change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from verbot.data.quality.checks import lint_checks
from verbot.data.quality.config import LintConfig
from verbot.data.quality.episode import VECTORS, DatasetOverview, EpisodeData, components
from verbot.data.quality.report import FramePlace, LintFinding, listed

ROUND_OFF = 1e-6


@lint_checks.register("constant")
class Constant:
    """Constant and near-constant dimensions, and those that use next to nothing of their declared range (a wrong unit)."""

    def measure(self, episode: EpisodeData, config: LintConfig) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in VECTORS:
            values, scale = episode.vector(name).astype(float), episode.scales[name]
            values = np.where(np.isfinite(values), values, scale.median)
            tolerance = np.maximum(1e-3 * (scale.highest - scale.lowest), ROUND_OFF)
            away = abs(values - scale.median) > tolerance  # (t, d)
            found[name] = values.min(axis=0), values.max(axis=0), away.sum(axis=0), away.argmax(axis=0)
        return found

    def judge(self, measured: Sequence[tuple[int, Any]], dataset: DatasetOverview, config: LintConfig) -> Iterator[LintFinding]:
        for name in VECTORS:
            names = dataset.names(name)
            if not names:
                continue
            low = np.min([found[name][0] for _, found in measured], axis=0)
            high = np.max([found[name][1] for _, found in measured], axis=0)
            away = np.sum([found[name][2] for _, found in measured], axis=0)
            still = high - low <= ROUND_OFF * np.maximum(1, abs(low))
            if still.any():
                axes = listed([f"{names[i]} ({low[i]:.4g})" for i in np.flatnonzero(still)])
                text = f"{still.sum()} of {len(names)} dimensions of the {name} never change: {axes}"
                yield LintFinding("warning", "constant", text, details={"dimensions": [names[i] for i in np.flatnonzero(still)]})
            for dim in np.flatnonzero(~still & (away < config.near_constant * dataset.frames)):
                rows = [(number, int(found[name][3][dim]), int(found[name][2][dim])) for number, found in measured]
                places = [FramePlace(number, frame, count) for number, frame, count in rows if count]
                rare = f"leaves {dataset.scales[name].median[dim]:.4g} in {away[dim]} of {dataset.frames} frames only"
                found_ = LintFinding("warning", "constant", f"{name} {names[dim]} {rare}", signal=(name, int(dim)))
                yield found_.at(places, config.places, int(away[dim]))
            yield from self._unused_range(name, high - low, still, dataset, config)

    @staticmethod
    def _unused_range(
        name: str, used: np.ndarray, still: np.ndarray, dataset: DatasetOverview, config: LintConfig
    ) -> Iterator[LintFinding]:
        declared = [high - low for c in components(dataset.spec, name) for low, high in zip(c.low, c.high, strict=True)]
        for dim, (width, kind) in enumerate(zip(declared, dataset.kinds(name), strict=True)):
            if not still[dim] and kind not in ("quaternion", "other") and used[dim] < config.declared_range * width:
                axis = f"{name} {dataset.names(name)[dim]}"
                text = f"{axis} uses {used[dim]:.3g} of a declared range of {width:.3g}: is its unit right?"
                yield LintFinding("warning", "constant", text, signal=(name, dim))
