"""Grounding metrics: heatmaps and the effect of occluded objects, compared with the segmentation of the images."""

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

MAPS = ("target", "receptacle", "reference")  # the queries of the heatmaps in a chunk's extras, in this order
TOLERANCE_PX = 2.0  # half a cell of heatmaps with one cell per 4×4 pixels
LEAST_PX = 8  # an object with fewer pixels in a camera's image counts as not visible there
EDGE_PX = 2  # margin painted around an object, because its outline is blended with the background
ALIKE = 1.5  # largest ratio of two painted areas, if a camera shows only one of the objects
HALF_PX = 0.71  # from a pixel's center to its corner
TABLE, SCENERY = "table", ("robot", "table", "screen")
RENAMED = {"pointing_game_told_otherwise": "pointing_game_other_instruction"}  # keys of verbot 0.1


class SegmentedEnv(TaskEnv, Segmented, Protocol):
    """An env with tasks that renders segmentation masks."""


@dataclass(frozen=True)
class GroundingMetrics:
    """Grounding metrics of a policy over many scenes.

    Args:
        rows: estimates by "camera map" and metric, e.g. ``rows["front target"]["pointing_game"]``.
        by_task: the pointing game of the first camera's target map by task.
        causal: metrics of painted objects.
        p: p-value of the exact sign test of `causal`.
        painted_px: mean number of painted pixels, for the named and for the other object.
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
    def from_json(record: Mapping[str, Any]) -> GroundingMetrics:
        """Inverse of `to_json`; other fields are ignored, and the keys of verbot 0.1 are read."""

        def estimates(row: Mapping[str, Any]) -> dict[str, Estimate]:
            return {RENAMED.get(key, key): Estimate(**e) for key, e in dict(row).items()}

        plain = {key: record[key] for key in ("scenes", "seed", "tolerance_px", "p")}
        return GroundingMetrics(
            **plain,
            rows={name: estimates(row) for name, row in dict(record["rows"]).items()},
            by_task=estimates(record["by_task"]),
            causal=estimates(record["causal"]),
            painted_px=record["painted_px"] and tuple(record["painted_px"]),
        )

    def lines(self) -> list[tuple[str, str, str, str]]:
        """(place, metric, value [95 % interval], n), for a table."""
        found = [(name, key, format_share(e), str(e.n)) for name, row in self.rows.items() for key, e in row.items()]
        found += [
            (f"{task} (first camera, target)", "pointing_game", format_share(e), str(e.n)) for task, e in self.by_task.items()
        ]
        found += [("all cameras", key, format_share(e), str(e.n)) for key, e in self.causal.items()]
        return found

    def table(self) -> str:
        """The metrics as a Markdown table."""
        rows = ["| place | metric | value [95 % interval] | n |", "|---|---|---|---|"]
        rows += [f"| {place} | `{metric}` | {value} | {n} |" for place, metric, value, n in self.lines()]
        if self.p is not None:
            rows.append(f"| all cameras | sign test of `causal_occlusion` | p = {self.p:.2g} | |")
        return "\n".join(rows)


def format_share(estimate: Estimate) -> str:
    """Example:
    >>> format_share(Estimate(0.5, 0.41, 0.59, 100))
    '0.5 [0.41, 0.59]'
    """
    if estimate.value is None:
        return "–"
    return f"{estimate.value:.3g} [{estimate.low or 0.0:.3g}, {estimate.high or 0.0:.3g}]"


# One map and one mask.


def attribution_share(heat: FloatArray, mask: Mask) -> float:
    """The fraction of a map (h, w) on the pixels of `mask` (h, w)."""
    return float(heat[mask].sum() / heat.sum())


def attribution_lift(heat: FloatArray, mask: Mask) -> float:
    """`attribution_share` divided by the mask's fraction of all pixels: 1 for a uniform map."""
    return attribution_share(heat, mask) / float(mask.mean())


def peak(heat: FloatArray) -> FloatArray:
    """Row and column (2,) in pixels of a map's maximum: the mean of all pixels with that value, such as those of one cell."""
    return np.argwhere(heat >= heat.max()).mean(0)


def points_at(heat: FloatArray, mask: Mask, tolerance_px: float = TOLERANCE_PX) -> bool:
    """Whether the maximum lies within `tolerance_px` of the center of a pixel of `mask`.

    A maximum on the corner of a pixel counts as on that pixel. Source: the pointing game, Zhang et al. 2018.
    """
    return bool(mask.any()) and bool(_distance(peak(heat)[None], np.argwhere(mask))[0] <= max(tolerance_px, HALF_PX))


def _distance(places: Places, targets: Places) -> FloatArray:
    """The distance (n,) of each place (n, 2) to the nearest of `targets` (m, 2)."""
    return np.asarray(np.sqrt(((places[:, None] - targets[None]) ** 2).sum(-1).min(1)))


# Occlusion by painting.


def grown(mask: Mask, count: int, allowed: Mask) -> Mask:
    """`mask` extended by the nearest pixels of `allowed` to `count` pixels, if there are as many."""
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
    """The mean absolute difference of two chunks (k, a), each dimension as a fraction of its range."""
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


# Omitted words.


def without_word(instruction: str, number: int) -> str:
    """Example:
    >>> without_word("pick up the red cube", 3)
    'pick up the cube'
    """
    words = instruction.split()
    return " ".join(words[:number] + words[number + 1 :])


def leave_one_out(policy: Policy, observation: Observation) -> tuple[ActionChunk, list[ActionChunk]]:
    """The prediction for the complete instruction, and the predictions with each word omitted in turn.

    The word is removed from the text, before any encoder. A token masked later may already have influenced its neighbors.
    """
    words = observation.instruction.split()
    texts = [observation.instruction, *(without_word(observation.instruction, i) for i in range(len(words)))]
    whole, *others = policy.predict([dataclasses.replace(observation, instruction=text) for text in texts])
    return whole, others


def heat_of(chunk: ActionChunk, camera: str, name: str = "target") -> FloatArray | None:
    """The map (h, w) in a chunk's extras; None if the policy provides none."""
    maps = chunk.extras.get("heatmaps", {}).get(camera)
    return None if maps is None else np.asarray(maps[MAPS.index(name)])


def moved(one: FloatArray, other: FloatArray) -> float:
    """Total variation distance of two maps, from 0 (equal) to 1 (disjoint)."""
    return float(0.5 * np.abs(one / one.sum() - other / other.sum()).sum())


# Many scenes.


def measure_grounding(
    policy: Policy,
    env: SegmentedEnv,
    scenes: int = 150,
    seed: int = 0,
    tolerance_px: float = TOLERANCE_PX,
) -> GroundingMetrics:
    """Measure grounding on the first images of `scenes` test scenes, fixed by (suite, task, index, seed); tasks alternate.

    `GroundingMetrics.rows` has, for each camera and map, over the scenes with at least `LEAST_PX` pixels of the named object:

    - ``attribution_lift``, ``attribution_share``: see the functions; ``pixel_share`` is the share of a uniform map.
    - ``pointing_game``: fraction of scenes whose maximum is within `tolerance_px` of the object; ``pointing_game_exact``: on it.
    - ``pointing_game_other_instruction``: the same for the same object and image under an instruction that names another
      object. It measures the part that the instruction does not determine.

    `GroundingMetrics.causal` measures the change of the chunk when an object is painted over with the surrounding table:
    ``change_named`` for the named object, ``change_other`` for another object with the same number of pixels.
    ``causal_occlusion`` is their ratio. ``named_matters_more`` is the fraction of scenes in which the first is larger.

    Raises `ConfigError` for an env without segmentation.
    """
    check_sees(policy)
    if not isinstance(env, Segmented):
        raise ConfigError("grounding metrics need an env with segmentation masks, such as tabletop-starter")
    plan = ((env.tasks[i % len(env.tasks)], i // len(env.tasks)) for i in range(scenes))
    measured = [_measure_scene(policy, env, task, index, seed, tolerance_px) for task, index in plan]
    rows: dict[str, dict[str, list[float]]] = {}
    for scene in measured:
        for name, row in scene.rows.items():
            for key, value in row.items():
                rows.setdefault(name, {}).setdefault(key, []).append(value)
    first = f"{policy.spec.color_names[0]} target"
    tasks = {
        task: [bool(s.rows[first]["pointing_game"]) for s in measured if s.task == task and first in s.rows] for task in env.tasks
    }
    changes = [s.changes for s in measured if s.changes is not None]
    causal = {
        "causal_occlusion": paired_ratio(changes),
        "change_named": mean([named for named, _ in changes]),
        "change_other": mean([other for _, other in changes]),
        "named_matters_more": proportion([named > other for named, other in changes]),
    }
    areas = [s.painted_px for s in measured if s.changes is not None]
    return GroundingMetrics(
        scenes,
        seed,
        tolerance_px,
        {name: {key: _estimate(key, values) for key, values in row.items()} for name, row in rows.items()},
        {task: proportion(hits) for task, hits in tasks.items() if hits},
        causal,
        mcnemar([(named > other, other > named) for named, other in changes]) if changes else None,
        (float(np.mean([a for a, _ in areas])), float(np.mean([b for _, b in areas]))) if areas else None,
    )


def check_sees(policy: Policy) -> None:
    """Raise `ConfigError` for a policy without cameras: its instruction is not grounded in images."""
    if not policy.spec.cameras:
        raise ConfigError(f"this policy of robot {policy.spec.name!r} sees no images in which its instruction could be found")


def _estimate(key: str, values: Sequence[float]) -> Estimate:
    return proportion([bool(v) for v in values]) if key.startswith("pointing") else mean(values)


@dataclass(frozen=True)
class _SceneMetrics:
    """One scene: metrics by "camera map", the changes of the chunk (named, other), and the pixels painted for each."""

    task: str
    rows: Mapping[str, Mapping[str, float]]
    changes: tuple[float, float] | None
    painted_px: tuple[int, int]


def _measure_scene(policy: Policy, env: SegmentedEnv, task: str, index: int, seed: int, tolerance_px: float) -> _SceneMetrics:
    request = EpisodeRequest(task=task, index=index)
    _, other = env.reset(seed=seed, options=request_options(dataclasses.replace(request, goal=1)))
    record, info = env.reset(seed=seed, options=request_options(request))
    observation, shown = observation_from_env(record), env.segmentation()
    cameras = [camera for camera in policy.spec.color_names if camera in observation.images]
    covers = _covers(shown, cameras, info)
    queries = [observation, dataclasses.replace(observation, instruction=other["instruction"])]
    for cover in covers or ():
        images = {c: painted(observation.images[c], cover[c], shown.mask(c, TABLE)) for c in cameras}
        queries.append(dataclasses.replace(observation, images={**observation.images, **images}))
    given, other_given, *occluded = policy.predict(queries)
    rows: dict[str, dict[str, float]] = {}
    for name, target in (("target", info["target_object"]), ("receptacle", info["goal"].get("receptacle"))):
        for camera in cameras:
            heat, other_heat = heat_of(given, camera, name), heat_of(other_given, camera, name)
            if heat is None or other_heat is None or target not in shown.names:
                continue
            mask = shown.mask(camera, target)
            if mask.sum() >= LEAST_PX:
                row = rows[f"{camera} {name}"] = _map_metrics(heat, mask, tolerance_px)
                if name == "target" and other["target_object"] not in (None, target):
                    row["pointing_game_other_instruction"] = points_at(other_heat, mask, tolerance_px)
    if covers is None:
        return _SceneMetrics(task, rows, None, (0, 0))
    changed, other_changed = (change(given.values, chunk.values, policy.spec) for chunk in occluded)
    area, other_area = (sum(int(cover[c].sum()) for c in cameras) for cover in covers)
    return _SceneMetrics(task, rows, (changed, other_changed), (area, other_area))


def _map_metrics(heat: FloatArray, mask: Mask, tolerance_px: float) -> dict[str, float]:
    return {
        "attribution_lift": attribution_lift(heat, mask),
        "attribution_share": attribution_share(heat, mask),
        "pixel_share": float(mask.mean()),
        "pointing_game": points_at(heat, mask, tolerance_px),
        "pointing_game_exact": points_at(heat, mask, 0.0),
    }


def _covers(shown: Segmentation, cameras: Sequence[str], info: Mapping[str, Any]) -> list[dict[str, Mask]] | None:
    """The pixels to paint, by camera: of the named object, and of the other object with the most similar area.

    None if no object is named or visible, or no other object has a similar size. Objects of the goal are not candidates.
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
        visible = min(sum(int(shown.mask(c, each).sum()) for c in cameras) for each in (named, name))
        if visible >= LEAST_PX and max(sizes) <= ALIKE * min(sizes):
            found.append((max(sizes) / min(sizes), pair))
    return min(found, key=lambda item: item[0])[1] if found else None


def _alike(shown: Segmentation, cameras: Sequence[str], *objects: str) -> list[dict[str, Mask]]:
    """The objects' pixels with their margins, grown over the table to equal counts in every camera that shows them all."""
    covers: list[dict[str, Mask]] = [{} for _ in objects]
    for camera in cameras:
        table, own = shown.mask(camera, TABLE), [shown.mask(camera, name) for name in objects]
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
