"""What a robot perceives and what a policy answers: plain frozen data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from verbot.errors import SpecError
from verbot.spec.arrays import FloatArray, Memory, UInt8Array
from verbot.spec.checks import check_depth
from verbot.spec.robot import RobotSpec

MAX_ROWS = 4096  # of one chunk of actions


@dataclass(frozen=True)
class Observation:
    """What a robot perceives at one instant.

    Args:
        images: camera name to uint8 RGB (h, w, 3), or float32 (h, w) in meters of a depth camera, 0 where unknown.
        state: float32 (s,), in the units of the spec's state components.
        instruction: in plain words; may be empty.
        goal_image: uint8 RGB (h, w, 3) of the goal state, if an image specifies the goal.
        time_s: seconds since the episode began.
        memory: the policy's own, from its last chunk in this episode; None before the first.
        planned: float32 (n, a), the actions that the robot would execute from now on, one per control step, from earlier chunks;
            None before the first. A policy may make its answer fit them (real-time chunking).
        committed: the first so many rows of `planned` will be executed whatever the policy answers.
        previous_state: float32 (s,), the state one control step earlier; None if it is unknown. With `committed` it says where
            the robot will be.
        sample_seed: the policy draws its actions from its head's distribution, with this seed; None predicts the most likely.
    """

    images: Mapping[str, UInt8Array]
    state: FloatArray
    instruction: str = ""
    goal_image: UInt8Array | None = None
    time_s: float = 0.0
    memory: Memory | None = None
    sample_seed: int | None = None
    planned: FloatArray | None = None
    committed: int = 0
    previous_state: FloatArray | None = None

    def check(self, spec: RobotSpec) -> None:
        """Raise `SpecError` unless this observation is what `spec` promises."""
        for camera in spec.cameras:
            if camera.name not in self.images:
                raise SpecError(
                    f"the observation lacks camera {camera.name!r} of robot {spec.name!r}; "
                    f"it has {', '.join(self.images) or 'no cameras'}"
                )
            image = self.images[camera.name]
            if camera.kind == "depth":
                check_depth(image, camera.name, camera.height, camera.width)
            elif image.dtype != np.uint8 or image.shape != (camera.height, camera.width, 3):
                raise SpecError(
                    f"camera {camera.name!r} gave {image.dtype} {image.shape}; "
                    f"expected uint8 ({camera.height}, {camera.width}, 3)"
                )
        if self.state.shape != (spec.state_size,):
            raise SpecError(f"the state has shape {self.state.shape}; robot {spec.name!r} expects ({spec.state_size},)")
        if not np.isfinite(self.state).all():
            raise SpecError(f"the state of robot {spec.name!r} is not finite: {self.state.tolist()}")
        if not math.isfinite(self.time_s):
            raise SpecError(f"the observation has the time {self.time_s}; expected seconds since the episode began")
        previous = self.previous_state
        if previous is not None and (previous.shape != self.state.shape or not np.isfinite(previous).all()):
            raise SpecError(f"the previous state is {previous.tolist()}; expected {spec.state_size} finite numbers, as the state")
        self._check_planned(spec)

    def _check_planned(self, spec: RobotSpec) -> None:
        rows = 0 if self.planned is None else len(self.planned)
        if self.planned is not None:
            ActionChunk(self.planned).check(spec)
        if type(self.committed) is not int or not 0 <= self.committed <= rows:
            raise SpecError(f"the observation has {self.committed!r} committed actions; expected 0 to {rows}, the planned ones")


MALFORMED_ANSWER = "malformed"  # in the extras of a chunk: the policy's answer meant no actions, and the chunk holds the robot


@dataclass(frozen=True)
class ActionChunk:
    """Actions for the next `k` control steps.

    Args:
        values: float32 (k, a), in the units of the spec's action components; row 0 is for now.
        time_s: timestamp of the input observation.
        extras: other predictions, e.g. ``{"keypoints": (v, n, 2)}``; needed to act only by the policy's corrector.
        memory: the memory of a policy with memory, for the next observation of the same episode.
        value: value of a policy with a value head: γ^(control steps that are left until success, as predicted), in (0, 1).
    """

    values: FloatArray
    time_s: float = 0.0
    extras: Mapping[str, Any] = field(default_factory=dict)
    memory: Memory | None = None
    value: float | None = None

    def check(self, spec: RobotSpec) -> None:
        """Raise `SpecError` unless a robot of `spec` can execute this: 1 to `MAX_ROWS` rows of its size, finite throughout.

        The memory is checked too: arrays of plain numbers, finite. Ranges are not: who executes it clips to them.
        """
        values = self.values
        if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind != "f":
            shown = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
            raise SpecError(f"a chunk of actions is {shown}; expected floating point (k, {spec.action_size})")
        if not 1 <= len(values) <= MAX_ROWS or values.shape[1] != spec.action_size:
            raise SpecError(
                f"a chunk of actions has shape {values.shape}; "
                f"robot {spec.name!r} expects 1 to {MAX_ROWS} rows of {spec.action_size}"
            )
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0, 0])
            raise SpecError(f"row {row} of a chunk of actions is not finite: {values[row].tolist()}")
        if not math.isfinite(self.time_s):
            raise SpecError(f"a chunk of actions has the time {self.time_s}; expected seconds since the episode began")
        check_memory(self.memory)


def check_memory(memory: Memory | None) -> None:
    """Raise `SpecError` unless `memory` holds arrays of plain numbers, finite throughout."""
    for name, array in (memory or {}).items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            shown = str(array.dtype) if isinstance(array, np.ndarray) else type(array).__name__
            raise SpecError(f"memory {name!r} is {shown}; expected an array of plain numbers")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise SpecError(f"memory {name!r} is not finite")
