"""What the action is: a target or a difference, of which frame, in which frame of reference. Compared with what is declared."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from verbot.data.quality.checks import lint_checks
from verbot.data.quality.config import LintConfig
from verbot.data.quality.episode import DatasetOverview, EpisodeData
from verbot.data.quality.report import LintFinding, listed
from verbot.data.samples.keypoints import rotation_matrices
from verbot.spec import BASE, Component, EndEffector, Float64Array, FloatArray, RobotSpec

ABSOLUTE, DELTA = "absolute", "delta"
# Explanations of action t, with the frame: the state at t + frame, or the step from t + frame to the frame after.
EXPLANATIONS = tuple((kind, frame) for kind, frames in ((ABSOLUTE, (0, 1, 2, 3)), (DELTA, (-1, 0, 1, 2))) for frame in frames)
EXPECTED = {
    "position": ABSOLUTE, "joint_position": ABSOLUTE, "quaternion": ABSOLUTE,
    "position_delta": DELTA, "rotation_delta": DELTA, "joint_velocity": DELTA, "velocity": DELTA,
}  # fmt: skip
# The kinds of the state that an action of a kind moves; any other may be explained by everything.
MOVES = {
    "position": "position", "position_delta": "position", "velocity": "position",
    "joint_position": "joint_position", "joint_velocity": "joint_position",
    "quaternion": "quaternion", "rotation_delta": "quaternion", "gripper": "gripper",
}  # fmt: skip
SUGGEST = {ABSOLUTE: "position or joint_position", DELTA: "position_delta, rotation_delta or a velocity"}
MIN_FRAMES = 30  # for a regression
SURE = 0.9  # explained variance from which a declared kind is contradicted
UNIT = (0.8, 1.25)  # slopes of equal units


@dataclass(frozen=True)
class Sums:
    """Sums for regressions of each y (…, s) on each x (…, a), which add up over episodes. There is one an episode: float32."""

    n: int
    x: FloatArray
    y: FloatArray
    xx: FloatArray
    yy: FloatArray
    xy: FloatArray

    @staticmethod
    def of(x: Float64Array, y: Float64Array) -> Sums:
        good = np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1)
        x, y = x[good], y[good]
        sums = (x.sum(axis=0), y.sum(axis=0), (x * x).sum(axis=0), (y * y).sum(axis=0), x.T @ y)
        return Sums(len(x), *(part.astype(np.float32) for part in sums))

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(self)))

    def fit(self) -> tuple[Float64Array, Float64Array]:
        """(r², slope of y on x), each (a, s); 0 where x or y is constant."""
        n = max(self.n, 1)
        x, y = self.x.astype(float)[:, None], self.y.astype(float)[None]
        xx = self.xx.astype(float)[:, None] - x * x / n
        yy = self.yy.astype(float)[None] - y * y / n
        xy = self.xy.astype(float) - x * y / n
        varied = (xx > 1e-6 * n) & (yy > 1e-6 * n)  # x and y are in units of their ranges
        r2 = np.where(varied, xy * xy / np.where(varied, xx * yy, 1.0), 0.0)
        return np.minimum(r2, 1.0), np.where(varied, xy / np.where(varied, xx, 1.0), 0.0)


@dataclass(frozen=True)
class StateFit:
    """How well one explanation fits one dimension: its r², the slope in the units of state and action, the state's dimension."""

    kind: str
    frame: int
    r2: float
    slope: float
    state: int

    def words(self, names: Sequence[str]) -> str:
        when = f"t{self.frame:+d}" if self.frame else "t"
        after = f"t{self.frame + 1:+d}" if self.frame + 1 else "t"
        what = f"the state at {when}" if self.kind == ABSOLUTE else f"the step of the state from {when} to {after}"
        return f"{what} ({names[self.state]}, R² {self.r2:.2f}, slope {self.slope:.3g})"


@lint_checks.register("action_space")
class ActionSpace:
    """Regression of states and of their steps on the action, by dimension; for poses in the base's and in the tool's frame."""

    def measure(self, episode: EpisodeData, config: LintConfig) -> dict[Any, Sums] | None:
        if not episode.states.shape[1] or len(episode) < 6:
            return None
        state, action = episode.scales["state"], episode.scales["action"]
        x = (episode.actions.astype(float) - action.median) / _positive(action.width)
        y = (episode.states.astype(float) - state.median) / _positive(state.width)
        found: dict[Any, Sums] = {}
        for kind, frame in EXPLANATIONS:
            rows = np.arange(1, len(episode) - 3)  # the same rows for every explanation, so that they can be compared
            target = y[rows + frame] if kind == ABSOLUTE else y[rows + frame + 1] - y[rows + frame]
            found[kind, frame] = Sums.of(x[rows], target)
        for key, steps in _pose_steps(episode.states, episode.spec).items():
            found[key] = Sums.of(x[: len(steps)], steps)
        return found

    def judge(self, measured: Sequence[tuple[int, Any]], dataset: DatasetOverview, config: LintConfig) -> Iterator[LintFinding]:
        totals: dict[Any, Sums] = {}
        for _, found in measured:
            for key, sums in found.items():
                totals[key] = totals[key] + sums if key in totals else sums
        if not totals or next(iter(totals.values())).n < MIN_FRAMES:
            return
        fits = {key: sums.fit() for key, sums in totals.items()}
        start = 0
        for component in dataset.spec.action:
            dims = range(start, start + component.size)
            start += component.size
            yield from _of_component(component, list(dims), fits, dataset, config)
            yield from _of_frame(component, list(dims), fits, dataset.spec, config)


def _positive(width: Float64Array) -> Float64Array:
    return np.where(width > 1e-9, width, 1.0)


def _of_component(
    component: Component, dims: Sequence[int], fits: dict[Any, Any], dataset: DatasetOverview, config: LintConfig
) -> Iterator[LintFinding]:
    if component.kind in ("discrete", "rotation_delta"):  # the steps of a rotation are compared by `_of_frame`
        return
    names, states = dataset.names("action"), dataset.names("state")
    best = {dim: _explanations(component, dim, fits, dataset) for dim in dims}
    best = {dim: found for dim, found in best.items() if found}
    verdicts = {dim: _verdict(found, config) for dim, found in best.items()}
    details = {
        names[dim]: {f"{e.kind} {e.frame:+d}": round(e.r2, 4) for e in sorted(found, key=lambda e: -e.r2)}
        for dim, found in best.items()
    }
    clear = {dim: verdict for dim, verdict in verdicts.items() if verdict is not None}
    label = f"action {component.name} (declared {component.kind})"
    if component.kind == "gripper":
        yield from _polarity(component, dims, fits, dataset, details)
        return
    if not clear:
        if best and component.kind != "other":
            yield LintFinding(
                "info", "action_space", f"{label} is explained neither by states nor by their steps", details=details
            )
        return
    expected = EXPECTED.get(component.kind)
    against = {dim: e for dim, e in clear.items() if expected not in (None, e.kind) and _contradicts(e)}
    dim, found = max((against or clear).items(), key=lambda item: item[1].r2)
    text, signal = f"{label}: {names[dim]} follows {found.words(states)}", ("action", dim)
    if len(against) * 2 > len(clear):
        text = f"{text}: it is {found.kind}, not {expected}; declare its kind as {SUGGEST[found.kind]}"
        yield LintFinding("error", "action_space", text, len(against), signal=signal, details=details)
    elif expected is None:
        yield LintFinding("info", "action_space", _suggestion(component, clear, names), signal=signal, details=details)
    else:
        yield LintFinding("info", "action_space", f"{text}: {found.kind}, as declared", signal=signal, details=details)
    yield from _late(clear, best, label, details, config)


def _suggestion(component: Component, clear: dict[int, StateFit], names: Sequence[str]) -> str:
    parts = []
    for kind in (ABSOLUTE, DELTA):
        dims = [dim for dim, found in clear.items() if found.kind == kind]
        if dims:
            fit = np.median([clear[dim].r2 for dim in dims])
            axes = listed([names[dim] for dim in dims])
            parts.append(f"{axes} {'is' if len(dims) == 1 else 'are'} {kind} (R² {fit:.2f}): declare {SUGGEST[kind]}")
    return f"action {component.name} has kind other; {'; '.join(parts)}"


def _explanations(component: Component, dim: int, fits: dict[Any, Any], dataset: DatasetOverview) -> list[StateFit]:
    """Every explanation of one dimension of the action, with the state's dimension that fits best; its namesake if nearly so."""
    kinds, names = np.array(dataset.kinds("state")), dataset.names("state")
    wanted = MOVES.get(component.kind)
    allowed = np.flatnonzero(kinds == wanted) if wanted else np.arange(len(names))
    if not len(allowed):
        return []
    own = [i for i in allowed if names[i].rpartition(".")[2] == dataset.names("action")[dim].rpartition(".")[2]]
    if wanted and len(own) == 1:
        allowed = np.array(own)
    scale = dataset.scales["state"].width / _positive(dataset.scales["action"].width)[dim]
    found = []
    for kind, frame in EXPLANATIONS:
        r2, slope = (part[dim, allowed] for part in fits[kind, frame])
        r2 = np.where(slope > 0, r2, 0.0)
        state = int(allowed[int((r2 + 0.05 * np.isin(allowed, own)).argmax())])
        at = int(np.flatnonzero(allowed == state)[0])
        found.append(StateFit(kind, frame, float(r2[at]), float(slope[at] * scale[state]), state))
    return found


def _verdict(found: Sequence[StateFit], config: LintConfig) -> StateFit | None:
    """The explanation that fits clearly better than any of the other kind, or None."""
    best = {kind: max((e for e in found if e.kind == kind), key=lambda e: e.r2) for kind in (ABSOLUTE, DELTA)}
    ranked = sorted(best.values(), key=lambda e: -e.r2)
    clear = ranked[0].r2 >= config.action_r2 and ranked[0].r2 >= ranked[1].r2 + config.action_margin
    return ranked[0] if clear else None


def _contradicts(found: StateFit) -> bool:
    """Whether a kind other than the declared one is sure. A controller makes deltas depend on the state, but not one to one."""
    return found.kind == DELTA or (found.r2 > SURE and UNIT[0] < found.slope < UNIT[1])


def _late(
    clear: dict[int, StateFit], best: dict[int, list[StateFit]], label: str, details: Any, config: LintConfig
) -> Iterator[LintFinding]:
    """Actions that describe the past: those of the frame itself, or of the step before it."""
    late = []
    for dim, found in clear.items():
        r2 = {(e.kind, e.frame): e.r2 for e in best[dim]}
        same = found.kind == ABSOLUTE and 1 - r2[ABSOLUTE, 0] < 0.5 * (1 - r2[ABSOLUTE, 1]) and r2[ABSOLUTE, 0] > 0.999
        before = found.kind == DELTA and found.frame == -1 and 1 - found.r2 < 0.5 * (1 - r2[DELTA, 0])
        if same or before:
            late.append(dim)
    if late and 2 * len(late) > len(clear):
        what = "the state of its own frame" if clear[late[0]].kind == ABSOLUTE else "the step that led to its frame"
        text = f"{label} is {what}: shift actions to one frame earlier, otherwise a policy learns to stay where it is"
        yield LintFinding("warning", "action_space", text, len(late), signal=("action", late[0]), details=details)


def _polarity(
    component: Component, dims: Sequence[int], fits: dict[Any, Any], dataset: DatasetOverview, details: Any
) -> Iterator[LintFinding]:
    """A gripper that opens when it is commanded to close."""
    owner = next((e for e in dataset.spec.end_effectors if component.name in e.action), None)
    where = None if owner is None else dataset.spec.state_of(owner, "gripper")
    if where is None:
        return
    for frame in (1, 2):
        r2, slope = (part[dims[0], where[1].start] for part in fits[ABSOLUTE, frame])
        if r2 > 0.3 and slope < 0:
            text = f"action {component.name} opens where the state {where[0].name} closes (R² {r2:.2f}): one of them is reversed"
            yield LintFinding("error", "action_space", text, signal=("action", dims[0]), details=details)
            return


def _of_frame(
    component: Component, dims: Sequence[int], fits: dict[Any, Any], spec: RobotSpec, config: LintConfig
) -> Iterator[LintFinding]:
    """A delta in another frame of reference than the declared one."""
    owner = next((e for e in spec.end_effectors if component.name in e.action), None)
    if owner is None or len(dims) != 3 or component.kind not in ("position_delta", "rotation_delta"):
        return
    kind = component.kind.removesuffix("_delta")
    found = {frame: fits.get((owner.name, kind, frame)) for frame in (BASE, "tool")}
    if any(each is None for each in found.values()):
        return
    r2 = {
        frame: float(np.mean([fit[0][dim, axis] if fit[1][dim, axis] > 0 else 0.0 for axis, dim in enumerate(dims)]))
        for frame, fit in found.items()
        if fit is not None
    }
    declared = BASE if component.frame == BASE else "tool"
    other = "tool" if declared == BASE else BASE
    fitted = f"R² {r2[BASE]:.2f} in the base's frame, {r2['tool']:.2f} in the tool's"
    if r2[other] >= config.action_r2 and r2[other] > r2[declared] + config.action_margin:
        text = f"action {component.name} is declared in frame {component.frame!r}, but follows the {other}'s: {fitted}"
        yield LintFinding("error", "action_space", text, signal=("action", dims[0]))
    elif component.kind == "rotation_delta":
        clear = max(r2.values()) >= config.action_r2
        follows = "follows" if clear else "hardly follows"
        text = f"action {component.name} (declared rotation_delta) {follows} the step of the rotation: {fitted}"
        yield LintFinding("info", "action_space", text, signal=("action", dims[0]))


def _pose_steps(states: FloatArray, spec: RobotSpec) -> dict[tuple[str, str, str], Float64Array]:
    """Steps (t − 1, 3) of each end effector's pose, by (its name, position or rotation, frame of reference)."""
    found = {}
    for tool in spec.end_effectors:
        position, quaternion = spec.state_of(tool, "position"), spec.state_of(tool, "quaternion")
        if quaternion is None or not _acts(tool, spec):
            continue
        rotations = np.nan_to_num(rotation_matrices(states[:, quaternion[1]].astype(float)))
        before, after = rotations[:-1], rotations[1:]
        found[tool.name, "rotation", BASE] = _vectors(after @ before.transpose(0, 2, 1)) * 10
        found[tool.name, "rotation", "tool"] = _vectors(before.transpose(0, 2, 1) @ after) * 10
        if position is not None:
            moved = np.diff(states[:, position[1]].astype(float), axis=0) * 100  # hundredths, for the limit of `Sums.fit`
            found[tool.name, "position", BASE] = moved
            found[tool.name, "position", "tool"] = np.einsum("tji,tj->ti", before, moved)
    return found


def _acts(tool: EndEffector, spec: RobotSpec) -> bool:
    return any(spec.action_of(tool, kind) for kind in ("position_delta", "rotation_delta"))


def _vectors(rotations: Float64Array) -> Float64Array:
    """Rotation vectors (n, 3) in radians of small rotations (n, 3, 3)."""
    skew = np.stack([rotations[:, 2, 1] - rotations[:, 1, 2], rotations[:, 0, 2] - rotations[:, 2, 0],
                     rotations[:, 1, 0] - rotations[:, 0, 1]], axis=1) / 2  # fmt: skip
    sine = np.linalg.norm(skew, axis=1)
    angle = np.arctan2(sine, (np.trace(rotations, axis1=1, axis2=2) - 1) / 2)
    return skew * np.where(sine > 1e-9, angle / np.maximum(sine, 1e-9), 1.0)[:, None]
