"""Steps between successive frames that no motion makes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from verbot.data.quality.checks import lint_checks
from verbot.data.quality.config import LintConfig
from verbot.data.quality.episode import CHANGING, VECTORS, DatasetOverview, EpisodeData, components, of_kinds
from verbot.data.quality.report import FramePlace, LintFinding, plural
from verbot.spec import Float64Array, FloatArray, RobotSpec

# Kinds that may change at once; deltas and velocities of an action do.
ABRUPT = {
    "state": CHANGING,
    "action": (*CHANGING, "position_delta", "rotation_delta", "joint_velocity", "velocity"),
}
TURN, NEAR_TURN = 2 * np.pi, 0.35


@lint_checks.register("jumps")
class Jumps:
    """Jumps of the state and of absolute actions: lost frames, angles that wrap, quaternions that change sign."""

    def measure(self, episode: EpisodeData, config: LintConfig) -> dict[str, Any] | None:
        found: dict[Any, Any] = {}
        for name in VECTORS:
            scale = episode.scales[name]
            values, flips = _continuous(episode.vector(name), episode.spec, name)
            if len(flips):
                found[name, "flip"] = len(flips), int(flips[0]), 0.0
            steps: Float64Array = abs(np.diff(values.astype(float), axis=0))
            limit = np.maximum(config.jump_steps * scale.step, config.jump_range * scale.width)
            still = (scale.step <= 1e-9) | (scale.width <= 1e-9)
            _join_quaternions(steps, limit, episode.spec, name)
            jumps = (steps > limit) & ~of_kinds(episode.spec, name, ABRUPT[name]) & ~still
            for dim in np.flatnonzero(jumps.any(axis=0)):
                frame = int(np.where(jumps[:, dim], steps[:, dim], 0).argmax())
                found[name, int(dim)] = int(jumps[:, dim].sum()), frame + 1, float(steps[frame, dim])
        return found or None

    def judge(self, measured: Sequence[tuple[int, Any]], dataset: DatasetOverview, config: LintConfig) -> Iterator[LintFinding]:
        for name, dim in sorted({key for _, found in measured for key in found}, key=str):
            rows = [(number, *found[name, dim]) for number, found in measured if (name, dim) in found]
            count, worst = sum(row[1] for row in rows), max(rows, key=lambda row: row[3])
            places = [FramePlace(number, frame, size) for number, _, frame, size in rows]
            if dim == "flip":
                text = f"a quaternion of the {name} changes its sign {plural(count, 'time')}: make it continuous before training"
                yield LintFinding("warning", "jumps", text).at(places, config.places, count)
                continue
            scale, axis = dataset.scales[name], f"{name} {dataset.names(name)[dim]}"
            if abs(worst[3] - TURN) < NEAR_TURN and scale.width[dim] > np.pi:
                text = f"{axis} wraps by about 2π {plural(count, 'time')}: unwrap it, or store sine and cosine"
            else:
                usual = f"95 % of its steps are below {scale.step[dim]:.3g}"
                text = f"{axis} jumps by up to {worst[3]:.4g} between two frames, {plural(count, 'time')}; {usual}"
            yield LintFinding("warning", "jumps", text, signal=(name, dim)).at(places, config.places, count)


def _join_quaternions(steps: Float64Array, limit: Float64Array, spec: RobotSpec, name: str) -> None:
    """Judge a quaternion as one number, its length of steps, in its first dimension: alone, w hardly moves and then jumps."""
    start = 0
    for component in components(spec, name):
        where = slice(start, start + component.size)
        start += component.size
        if component.kind == "quaternion":
            joined = np.linalg.norm(steps[:, where], axis=1)
            steps[:, where], steps[:, where.start] = 0.0, joined
            limit[where.start] = np.linalg.norm(limit[where])


def _continuous(values: FloatArray, spec: RobotSpec, name: str) -> tuple[FloatArray, np.ndarray]:
    """The vector with quaternions of continuous sign, and the frames at which a sign changed."""
    values, flipped, start = values.copy(), np.zeros(max(len(values), 1), bool), 0
    for component in components(spec, name):
        where = slice(start, start + component.size)
        start += component.size
        if component.kind == "quaternion" and len(values) > 1:
            turned = (values[1:, where] * values[:-1, where]).sum(axis=1) < 0
            values[1:, where] *= np.where(np.cumsum(turned) % 2, -1, 1)[:, None]
            flipped[1:] |= turned
    return values, np.flatnonzero(flipped)
