"""The last observations of an episode, for published policies that read several."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from verbot.errors import SpecError
from verbot.policy.memory import get_array
from verbot.spec import Memory, Observation, RobotSpec

LARGEST = 4096 * 4096  # pixels of an image whose size is not known


@dataclass(frozen=True)
class FrameHistory:
    """Keeps the last `count` observations in `ActionChunk.memory`.

    An observation that was not seen, because the policy was not asked in that control step, is replaced by the nearest before it;
    the first one is repeated at the start of an episode, as published code does.

    Args:
        count: observations, the latest included.
        spec: of the policy.
        step_s: seconds between two control steps.
        resized: images may have other sizes than the spec's.
    """

    count: int
    spec: RobotSpec
    step_s: float
    resized: bool = True

    @property
    def most_bytes(self) -> int:
        pixels = sum(3 * (LARGEST if self.resized else camera.height * camera.width) for camera in self.spec.cameras)
        return 0 if self.count == 1 else self.count * (8 + 4 * self.spec.state_size + pixels)

    def episode(self, latest: Observation) -> tuple[Observation, ...]:
        """The observations up to `latest`, oldest first. Raises `SpecError` for the memory of another policy."""
        if self.count == 1:
            return (latest,)
        past = self._past(latest)
        found = []
        for steps in range(self.count - 1, 0, -1):
            wanted = latest.time_s - steps * self.step_s
            before = [each for each in past if each.time_s <= wanted + 0.5 * self.step_s]
            found.append(before[-1] if before else past[0] if past else latest)
        return (*found, latest)

    def kept(self, latest: Observation) -> Memory | None:
        """The memory after `latest`."""
        if self.count == 1:
            return None
        rows = [*self._past(latest), latest][-self.count :]
        memory: dict[str, Any] = {
            "time_s": np.array([row.time_s for row in rows]),
            "state": np.stack([row.state for row in rows]).astype(np.float32),
        }
        for name in latest.images:
            memory[f"images.{name}"] = np.stack([row.images[name] for row in rows])
        return memory

    def _past(self, latest: Observation) -> list[Observation]:
        memory = latest.memory
        if memory is None:
            return []
        times, states = get_array(memory, "time_s"), get_array(memory, "state")
        images = {name: get_array(memory, f"images.{name}") for name in latest.images}
        shapes = {name: (len(times), *image.shape) for name, image in latest.images.items()}
        if times.ndim != 1 or not len(times) or states.shape != (len(times), *latest.state.shape):
            raise SpecError(f"this memory is of another policy: its states are {states.shape}, at {times.shape} times")
        for name, shape in shapes.items():
            if images[name].shape != shape or images[name].dtype != np.uint8:
                raise SpecError(f"this memory is of another policy: its images of {name!r} are {images[name].shape}, not {shape}")
        return [
            dataclasses.replace(
                latest, images={n: i[row] for n, i in images.items()}, state=states[row], time_s=float(times[row]), memory=None
            )
            for row in range(len(times))
        ]
