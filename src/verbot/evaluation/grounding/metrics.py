"""Does it look at what is named? Heatmaps, and objects painted over, held against what each pixel shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from verbot.contracts import EpisodeRequest, Policy, Segmentation, Segmented, TaskEnv, observation_from_env
from verbot.errors import ConfigError
from verbot.evaluation.protocol.intervals import RESAMPLES, Estimate, mcnemar, mean, proportion
from verbot.rollout.episode import request_options
from verbot.spec import ActionChunk, FloatArray, Observation, RobotSpec, UInt8Array

Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[Any]  # rows and columns (n, 2)

MAPS = ("target", "receptacle", "reference")  # what the heatmaps in a chunk's extras look for, in this order
TOLERANCE_PX = 2.0  # half a cell where heatmaps have a cell for every 4×4 pixels
LEAST_PX = 8  # a thing of which a camera shows fewer pixels counts as unseen there
EDGE_PX = 2  # painted around a thing: its outline is mixed with what is behind
ALIKE = 1.5  # painted areas may differ by this factor, where a camera shows only one of the two
HALF_PX = 0.71  # from a pixel's middle to its corner
TABLE, SCENERY = "table", ("robot", "table", "screen")


class SegmentedEnv(TaskEnv, Segmented, Protocol):
    """An env with tasks that renders segmentation masks."""


@dataclass(frozen=True)
class Looked:
    """Where a policy looked, over many scenes.

    Args:
        rows: "camera map" to figure to estimate, e.g. ``rows["front target"]["pointing_game"]``.
        by_task: task to the pointing game of the first camera's target map.
        causal: of objects painted over; `p` is the exact sign test's.
        painted_px: mean pixels painted over, of the named and of the other object.
    """

    scenes: int
    seed: int
    tolerance_px: float
    rows: Mapping[str, Mapping[str, Estimate]]
    by_task: Mapping[str, Estimate]
    causal: Mapping[str, Estimate]
    p: float | None
    painted_px: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        record = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        rows = {name: {key: e.to_json() for key, e in row.items()} for name, row in self.rows.items()}
        flat = {label: {key: e.to_json() for key, e in getattr(self, label).items()} for label in ("by_task", "causal")}
        return {**record, "rows": rows, **flat}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Looked:
        """Inverse of `to_json`; fields beside its own are left out."""

        def estimates(row: Mapping[str, Any]) -> dict[str, Estimate]:
            return {key: Estimate(**e) for key, e in row.items()}

        plain = {key: record[key] for key in ("scenes", "seed", "tolerance_px", "p")}
        return Looked(
            **plain,
            rows={name: estimates(row) for name, row in record["rows"].items()},
            by_task=estimates(record["by_task"]),
            causal=estimates(record["causal"]),
            painted_px=record["painted_px"] and tuple(record["painted_px"]),
        )

    def lines(self) -> list[tuple[str, str, str, str]]:
        """(where, figure, value [95 % interval], n), for a table."""
        found = [(name, key, written(e), str(e.n)) for name, row in self.rows.items() for key, e in row.items()]
        found += [(f"{task} (first camera, target)", "pointing_game", written(e), str(e.n)) for task, e in self.by_task.items()]
        found += [("all cameras", key, written(e), str(e.n)) for key, e in self.causal.items()]
        return found

    def table(self) -> str:
        """Markdown."""
        rows = ["| where | figure | value [95 % interval] | n |", "|---|---|---|---|"]
        rows += [f"| {where} | `{figure}` | {value} | {n} |" for where, figure, value, n in self.lines()]
        if self.p is not None:
            rows.append(f"| all cameras | sign test of `causal_occlusion` | p = {self.p:.2g} | |")
        return "\n".join(rows)


def written(estimate: Estimate) -> str:
    """Example:
    >>> written(Estimate(0.5, 0.41, 0.59, 100))
    '0.5 [0.41, 0.59]'
    """
    if estimate.value is None:
        return "–"
    return f"{estimate.value:.3g} [{estimate.low or 0.0:.3g}, {estimate.high or 0.0:.3g}]"


# One map and one mask.


def attribution_share(heat: FloatArray, mask: Mask) -> float:
    """The share of a map (h, w) that lies on the pixels of `mask` (h, w)."""
    return float(heat[mask].sum() / heat.sum())


def attribution_lift(heat: FloatArray, mask: Mask) -> float:
    """That share, over the mask's share of all pixels: 1 for a map that looks everywhere alike."""
    return attribution_share(heat, mask) / float(mask.mean())


def peak(heat: FloatArray) -> FloatArray:
    """Row and column (2,) in pixels of a map's maximum: the middle of all pixels that share it, as those of one cell do."""
    return np.argwhere(heat >= heat.max()).mean(0)


def points_at(heat: FloatArray, mask: Mask, tolerance_px: float = TOLERANCE_PX) -> bool:
    """Whether the maximum is no farther than this from the middle of a pixel of `mask`; one on a pixel's corner is on that pixel.

    Source: the pointing game, Zhang et al. 2018.
    """
    return bool(mask.any()) and bool(_distance(peak(heat)[None], np.argwhere(mask))[0] <= max(tolerance_px, HALF_PX))


def _distance(places: Places, targets: Places) -> FloatArray:
    """From each place (n, 2) to the nearest of `targets` (m, 2)."""
    return np.asarray(np.sqrt(((places[:, None] - targets[None]) ** 2).sum(-1).min(1)))


# Painting over.


def grown(mask: Mask, count: int, allowed: Mask) -> Mask:
    """`mask` and the pixels of `allowed` that are nearest to it, `count` in all where there are as many."""
    free = np.argwhere(allowed & ~mask)
    out = mask.copy()
    if not mask.any() or not len(free):
        return out
    nearest = free[np.argsort(_distance(free, np.argwhere(mask)), kind="stable")[: max(0, count - int(mask.sum()))]]
    out[tuple(nearest.T)] = True
    return out


def painted(image: UInt8Array, mask: Mask, ground: Mask) -> UInt8Array:
    """`image` (h, w, 3) with each pixel of `mask` in the color of the nearest pixel of `ground` outside it."""
    places, sources = np.argwhere(mask), np.argwhere(ground & ~mask)
    out = image.copy()
    if len(places) and len(sources):
        nearest = sources[((places[:, None] - sources[None]) ** 2).sum(-1).argmin(1)]
        out[tuple(places.T)] = image[tuple(nearest.T)]
    return out


def change(one: FloatArray, other: FloatArray, spec: RobotSpec) -> float:
    """The mean difference of two chunks (k, a), each action number as a share of its range."""
    return float((np.abs(one - other) / (spec.action_high() - spec.action_low())).mean())


def paired_ratio(pairs: Sequence[tuple[float, float]]) -> Estimate:
    """Mean of the first over mean of the second, with a percentile bootstrap over pairs (2000 resamples, fixed seed)."""
    if not pairs or not sum(second for _, second in pairs):
        return Estimate(None, None, None, len(pairs))
    sample = np.asarray(pairs, dtype=float)
    draws = np.random.default_rng(0).integers(0, len(sample), (RESAMPLES, len(sample)))
    top, bottom = sample[draws].mean(1).T
    low, high = np.quantile(top / np.maximum(bottom, 1e-12), (0.025, 0.975))
    return Estimate(float(sample[:, 0].mean() / sample[:, 1].mean()), float(low), float(high), len(sample))


# Words left out.


def without_word(instruction: str, number: int) -> str:
    """Example:
    >>> without_word("pick up the red cube", 3)
    'pick up the cube'
    """
    words = instruction.split()
    return " ".join(words[:number] + words[number + 1 :])


def leave_one_out(policy: Policy, observation: Observation) -> tuple[ActionChunk, list[ActionChunk]]:
    """What it predicts when told everything, and when each word in turn is left out of the sentence.

    Left out of the text, before any encoder: a token that is masked later may have told its neighbors already.
    """
    words = observation.instruction.split()
    texts = [observation.instruction, *(without_word(observation.instruction, i) for i in range(len(words)))]
    whole, *others = policy.predict([dataclasses.replace(observation, instruction=text) for text in texts])
    return whole, others


def heat_of(chunk: ActionChunk, camera: str, name: str = "target") -> FloatArray | None:
    """The map (h, w) in a chunk's extras; None where the policy shows none."""
    maps = chunk.extras.get("heatmaps", {}).get(camera)
    return None if maps is None else np.asarray(maps[MAPS.index(name)])


def moved(one: FloatArray, other: FloatArray) -> float:
    """How much of one map lies elsewhere in the other, from 0 (the same) to 1 (nothing in common)."""
    return float(0.5 * np.abs(one / one.sum() - other / other.sum()).sum())


# Many scenes.


def measure(
    policy: Policy,
    env: SegmentedEnv,
    scenes: int = 150,
    seed: int = 0,
    tolerance_px: float = TOLERANCE_PX,
) -> Looked:
    """The first pictures of `scenes` test scenes, fixed by (suite, task, index, seed); tasks take turns.

    In `Looked.rows`, for each camera and map, over the scenes where it shows at least `LEAST_PX` pixels of what is named:

    - ``attribution_lift``, ``attribution_share``: see the functions; ``pixel_share`` is what an even map would have.
    - ``pointing_game``: share of scenes whose maximum is within `tolerance_px` of it; ``pointing_game_exact``: on it.
    - ``pointing_game_told_otherwise``: the same thing, in the same picture, when told of another: what the words do not decide.

    In `Looked.causal`: how much the chunk changes when the named object is painted over with the table around it
    (``change_named``), or another object, of the same number of pixels (``change_other``); ``causal_occlusion`` is their ratio,
    ``named_matters_more`` the share of scenes in which the named one's change is greater.

    Raises `ConfigError` for an env that does not know what each pixel shows.
    """
    if not isinstance(env, Segmented):
        raise ConfigError("where a policy looks is measured in an env with segmentation masks, such as tabletop-starter")
    plan = ((env.tasks[i % len(env.tasks)], i // len(env.tasks)) for i in range(scenes))
    glances = [_glance(policy, env, task, index, seed, tolerance_px) for task, index in plan]
    rows: dict[str, dict[str, list[float]]] = {}
    for glance in glances:
        for name, row in glance.rows.items():
            for key, value in row.items():
                rows.setdefault(name, {}).setdefault(key, []).append(value)
    first = f"{policy.spec.camera_names[0]} target"
    tasks = {
        task: [bool(g.rows[first]["pointing_game"]) for g in glances if g.task == task and first in g.rows] for task in env.tasks
    }
    changes = [g.changes for g in glances if g.changes is not None]
    causal = {
        "causal_occlusion": paired_ratio(changes),
        "change_named": mean([named for named, _ in changes]),
        "change_other": mean([other for _, other in changes]),
        "named_matters_more": proportion([named > other for named, other in changes]),
    }
    areas = [g.painted_px for g in glances if g.changes is not None]
    return Looked(
        scenes,
        seed,
        tolerance_px,
        {name: {key: _estimate(key, values) for key, values in row.items()} for name, row in rows.items()},
        {task: proportion(hits) for task, hits in tasks.items() if hits},
        causal,
        mcnemar([(named > other, other > named) for named, other in changes]) if changes else None,
        (float(np.mean([a for a, _ in areas])), float(np.mean([b for _, b in areas]))) if areas else None,
    )


def _estimate(key: str, values: Sequence[float]) -> Estimate:
    return proportion([bool(v) for v in values]) if key.startswith("pointing") else mean(values)


@dataclass(frozen=True)
class _Glance:
    """One scene: figures by "camera map"; the chunk's changes (named, other) and the pixels painted for each."""

    task: str
    rows: Mapping[str, Mapping[str, float]]
    changes: tuple[float, float] | None
    painted_px: tuple[int, int]


def _glance(policy: Policy, env: SegmentedEnv, task: str, index: int, seed: int, tolerance_px: float) -> _Glance:
    request = EpisodeRequest(task=task, index=index)
    _, other = env.reset(seed=seed, options=request_options(dataclasses.replace(request, goal=1)))
    record, info = env.reset(seed=seed, options=request_options(request))
    observation, shown = observation_from_env(record), env.segmentation()
    cameras = [camera for camera in policy.spec.camera_names if camera in observation.images]
    covers = _covers(shown, cameras, info)
    asked = [observation, dataclasses.replace(observation, instruction=other["instruction"])]
    for cover in covers or ():
        images = {c: painted(observation.images[c], cover[c], shown.mask(c, TABLE)) for c in cameras}
        asked.append(dataclasses.replace(observation, images={**observation.images, **images}))
    told, otherwise, *hidden = policy.predict(asked)
    rows: dict[str, dict[str, float]] = {}
    for name, thing in (("target", info["target_object"]), ("receptacle", info["goal"].get("receptacle"))):
        for camera in cameras:
            heat, elsewhere = heat_of(told, camera, name), heat_of(otherwise, camera, name)
            if heat is None or elsewhere is None or thing not in shown.names:
                continue
            mask = shown.mask(camera, thing)
            if mask.sum() >= LEAST_PX:
                row = rows[f"{camera} {name}"] = _figures(heat, mask, tolerance_px)
                if name == "target" and other["target_object"] not in (None, thing):
                    row["pointing_game_told_otherwise"] = points_at(elsewhere, mask, tolerance_px)
    if covers is None:
        return _Glance(task, rows, None, (0, 0))
    changed, other_changed = (change(told.values, chunk.values, policy.spec) for chunk in hidden)
    area, other_area = (sum(int(cover[c].sum()) for c in cameras) for cover in covers)
    return _Glance(task, rows, (changed, other_changed), (area, other_area))


def _figures(heat: FloatArray, mask: Mask, tolerance_px: float) -> dict[str, float]:
    return {
        "attribution_lift": attribution_lift(heat, mask),
        "attribution_share": attribution_share(heat, mask),
        "pixel_share": float(mask.mean()),
        "pointing_game": points_at(heat, mask, tolerance_px),
        "pointing_game_exact": points_at(heat, mask, 0.0),
    }


def _covers(shown: Segmentation, cameras: Sequence[str], info: Mapping[str, Any]) -> list[dict[str, Mask]] | None:
    """What to paint over, by camera: the named object, and that other object which needs the most nearly equal area.

    None where nothing is named or seen, or no other object is alike in size. What the goal speaks of is no other object.
    """
    named = info["target_object"]
    if named not in shown.names:
        return None
    needed = {named, *SCENERY, *(value for value in info["goal"].values() if isinstance(value, str))}
    found = []
    for name in shown.names:
        if name in needed:
            continue
        pair = _alike(shown, cameras, named, name)
        sizes = [sum(int(cover[c].sum()) for c in cameras) for cover in pair]
        seen = min(sum(int(shown.mask(c, thing).sum()) for c in cameras) for thing in (named, name))
        if seen >= LEAST_PX and max(sizes) <= ALIKE * min(sizes):
            found.append((max(sizes) / min(sizes), pair))
    return min(found, key=lambda item: item[0])[1] if found else None


def _alike(shown: Segmentation, cameras: Sequence[str], *things: str) -> list[dict[str, Mask]]:
    """The things' pixels with their edges, grown over the table to one count in every camera that shows them all."""
    covers: list[dict[str, Mask]] = [{} for _ in things]
    for camera in cameras:
        table, own = shown.mask(camera, TABLE), [shown.mask(camera, thing) for thing in things]
        edged = [_edged(mask, table) for mask in own]
        count = max(int(mask.sum()) for mask in edged)
        for cover, mask in zip(covers, edged, strict=True):
            cover[camera] = grown(mask, count, table)
    return covers


def _edged(mask: Mask, table: Mask) -> Mask:
    """`mask` and the table's pixels within `EDGE_PX` of it."""
    free, out = np.argwhere(table), mask.copy()
    if mask.any() and len(free):
        near = free[_distance(free, np.argwhere(mask)) <= EDGE_PX]
        out[tuple(near.T)] = True
    return out
