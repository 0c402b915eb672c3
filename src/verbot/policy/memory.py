"""What a policy keeps of an episode so far, as plain arrays that travel with its observations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verbot.errors import SpecError
from verbot.spec import FloatArray, Memory, Observation, RobotSpec, UInt8Array


@dataclass(frozen=True)
class ProcessedObservation:
    """One observation as a network takes it: images (v, h, w, 3) with their mask (v,), the normalized state (s,), and when."""

    images: UInt8Array
    images_mask: npt.NDArray[np.bool_]
    state: FloatArray
    time_s: float


def look_back(memory: Memory | None, now_s: float, count: int, step_s: float) -> list[ProcessedObservation | None]:
    """What was seen `count` … 1 steps ago, oldest first: the nearest within half a step, None where there is nothing.

    Raises `SpecError` for the memory of another policy.

    Example:
        >>> images, mask = np.zeros((1, 2, 2, 3), np.uint8), np.ones(1, bool)
        >>> seen = [ProcessedObservation(images, mask, np.array([x], np.float32), x) for x in (0.0, 0.5)]
        >>> memory = keep(keep(None, seen[0], 1.0), seen[1], 1.0)
        >>> [sight and sight.time_s for sight in look_back(memory, 0.96, 3, 0.5)]
        [None, 0.0, 0.5]
    """
    if memory is None or not count:
        return [None] * count
    times = field(memory, "time_s")
    sights: list[ProcessedObservation | None] = []
    for steps in range(count, 0, -1):
        distance = np.abs(times - (now_s - steps * step_s))
        nearest = int(distance.argmin())
        if distance[nearest] > 0.5 * step_s:
            sights.append(None)
            continue
        images, mask, state = (memory[name][nearest] for name in ("images", "images_mask", "state"))
        sights.append(ProcessedObservation(images, mask, state, float(times[nearest])))
    return sights


def keep(memory: Memory | None, sight: ProcessedObservation, seconds: float) -> Memory:
    """With `sight` added and without what is older than `seconds` before it."""
    latest = {name: np.asarray(getattr(sight, name))[None] for name in ("images", "images_mask", "state", "time_s")}
    if memory is None:
        return latest
    recent = field(memory, "time_s") >= sight.time_s - seconds - 1e-6
    return {name: np.concatenate([memory[name][recent], value]) for name, value in latest.items()}


def keep_chunk(memory: Memory | None, values: FloatArray, time_s: float) -> Memory:
    """With a chunk (k, a) in the robot's units, and when it began: in it `last_actions` finds the action of the step before."""
    return {**(memory or {}), "last_chunk": values.copy(), "last_chunk_s": np.asarray(time_s, np.float64)}


def last_actions(observations: Sequence[Observation], spec: RobotSpec) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """The action of the control step before each observation (b, a), and which are known (b,).

    It is the row of the chunk kept whose turn was then, the nearest within half a step, however many have been carried out. There
    is none at an episode's start, where the chunk had ended before, and between observations that have no time.

    Raises `SpecError` for the memory of another policy.
    """
    values, known = np.zeros((len(observations), spec.action_size), np.float32), np.zeros(len(observations), bool)
    for i, seen in enumerate(observations):
        if seen.memory is None:
            continue
        chunk, since_s = field(seen.memory, "last_chunk"), seen.time_s - float(field(seen.memory, "last_chunk_s"))
        row = round(since_s * spec.rate_hz) - 1
        if 0 <= row < len(chunk):
            values[i], known[i] = chunk[row], True
    return values, known


def field(memory: Memory, name: str) -> npt.NDArray[Any]:
    """An array of `memory`. Raises `SpecError` where it has none of that name."""
    if name not in memory:
        raise SpecError(f"this memory is of another policy: it has no {name!r} but {', '.join(memory) or 'nothing'}")
    return memory[name]
