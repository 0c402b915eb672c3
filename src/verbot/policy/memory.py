"""The memory of a policy: plain arrays of the episode so far, which the caller passes on with each observation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from verbot.errors import SpecError
from verbot.spec import FloatArray, Memory, Observation, RobotSpec, UInt8Array


@dataclass(frozen=True)
class ProcessedObservation:
    """A preprocessed observation: images (v, h, w, 3), their mask (v,), the normalized state (s,) and the time.

    For a network that reads depth also depth images (d, h, w) in meters and their mask (d,); otherwise of size 0.
    """

    images: UInt8Array
    images_mask: npt.NDArray[np.bool_]
    state: FloatArray
    time_s: float
    depth: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))
    depth_mask: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))


DEPTH = ("depth", "depth_mask")


def look_back(memory: Memory | None, now_s: float, count: int, step_s: float) -> list[ProcessedObservation | None]:
    """The observations `count` … 1 steps ago, oldest first: the nearest within half a step, or None.

    Raises `SpecError` for the memory of another policy.

    Example:
        >>> images, mask = np.zeros((1, 2, 2, 3), np.uint8), np.ones(1, bool)
        >>> seen = [ProcessedObservation(images, mask, np.array([x], np.float32), x) for x in (0.0, 0.5)]
        >>> memory = keep(keep(None, seen[0], 1.0), seen[1], 1.0)
        >>> [one and one.time_s for one in look_back(memory, 0.96, 3, 0.5)]
        [None, 0.0, 0.5]
    """
    if memory is None or not count:
        return [None] * count
    times = get_array(memory, "time_s")
    observations: list[ProcessedObservation | None] = []
    for steps in range(count, 0, -1):
        distance = np.abs(times - (now_s - steps * step_s))
        nearest = int(distance.argmin())
        if distance[nearest] > 0.5 * step_s:
            observations.append(None)
            continue
        images, mask, state = (memory[name][nearest] for name in ("images", "images_mask", "state"))
        depth = {name: memory[name][nearest] for name in DEPTH if name in memory}
        observations.append(ProcessedObservation(images, mask, state, float(times[nearest]), **depth))
    return observations


def stacked(rows: Sequence[Sequence[ProcessedObservation | None]]) -> dict[str, npt.NDArray[Any]]:
    """The frames of several episodes, the latest last, as arrays (b, t, …) by field, with ``state_mask``; zeros where missing."""
    shape, like = (len(rows), len(rows[0])), rows[0][-1]
    assert like is not None
    arrays = {name: np.asarray(getattr(like, name)) for name in ("images", "images_mask", "state", *DEPTH)}
    out = {name: np.zeros((*shape, *one.shape), one.dtype) for name, one in arrays.items()}
    present = np.zeros(shape, bool)
    for row, frames in enumerate(rows):
        for frame, one in enumerate(frames):
            if one is not None:
                present[row, frame] = True
                for name in (name for name, array in out.items() if array.size):
                    out[name][row, frame] = getattr(one, name)
    return {**out, "state_mask": present}


def keep(memory: Memory | None, latest: ProcessedObservation, seconds: float) -> Memory:
    """Add `latest` to the memory, and remove what is more than `seconds` older."""
    names = ("images", "images_mask", "state", "time_s", *(DEPTH if latest.depth.size else ()))
    arrays = {name: np.asarray(getattr(latest, name))[None] for name in names}
    if memory is None:
        return arrays
    recent = get_array(memory, "time_s") >= latest.time_s - seconds - 1e-6
    return {name: np.concatenate([memory[name][recent], value]) for name, value in arrays.items()}


def keep_chunk(memory: Memory | None, values: FloatArray, time_s: float) -> Memory:
    """Add a chunk (k, a) in the robot's units and its start time, from which `last_actions` finds the previous action."""
    return {**(memory or {}), "last_chunk": values.copy(), "last_chunk_s": np.asarray(time_s, np.float64)}


def last_actions(observations: Sequence[Observation], spec: RobotSpec) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """The previous action of each observation (b, a), and which of them are known (b,).

    It is the row of the stored chunk for the control step before, whatever number of actions was executed. It is unknown at the
    start of an episode, after the end of the chunk, and for observations without a time.

    Raises `SpecError` for the memory of another policy.
    """
    values, known = np.zeros((len(observations), spec.action_size), np.float32), np.zeros(len(observations), bool)
    for i, seen in enumerate(observations):
        if seen.memory is None:
            continue
        chunk, since_s = get_array(seen.memory, "last_chunk"), seen.time_s - float(get_array(seen.memory, "last_chunk_s"))
        periods = since_s * spec.rate_hz
        if 0 < periods < len(chunk) + 1 and 0 <= (row := round(periods) - 1) < len(chunk):
            values[i], known[i] = chunk[row], True
    return values, known


def get_array(memory: Memory, name: str) -> npt.NDArray[Any]:
    """The array `name` of `memory`. Raises `SpecError` if there is none."""
    if name not in memory:
        raise SpecError(f"this memory is of another policy: it has no {name!r} but {', '.join(memory) or 'nothing'}")
    return memory[name]
