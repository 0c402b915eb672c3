"""What a policy predicts, seen from beside it: heatmaps for the page, and how long predictions take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from verbot.contracts import Policy
from verbot.spec import ActionChunk, FloatArray, Observation, RobotSpec

TIMED = 200  # latest predictions, of which the percentiles are


class ObservedPolicy:
    """Implements `verbot.contracts.Policy`: `policy`, or `attributed` while heatmaps are wanted; their actions are the same.

    Args:
        attributed: the same policy, whose chunks have ``extras["heatmaps"]``, {camera: float32 (3, h, w)}.
        clock: seconds, monotonic.
    """

    def __init__(self, policy: Policy, attributed: Policy | None = None, clock: Callable[[], float] = time.perf_counter):
        self._policy, self._attributed, self._clock = policy, attributed, clock
        self.wants_heat = False
        self._seconds: deque[float] = deque(maxlen=TIMED)
        self._latest: ActionChunk | None = None

    @property
    def spec(self) -> RobotSpec:
        return self._policy.spec

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        asked = self._attributed if self.wants_heat and self._attributed is not None else self._policy
        began = self._clock()
        chunks = asked.predict(observations)
        self._seconds.append(self._clock() - began)
        self._latest = chunks[-1] if chunks else None
        return chunks

    @property
    def has_heat(self) -> bool:
        """Whether heatmaps can be asked for."""
        return self._attributed is not None

    def heat(self) -> Mapping[str, FloatArray]:
        """{camera: (3, h, w)} of the latest prediction; empty if it has none."""
        found = self._latest.extras.get("heatmaps", {}) if self._latest is not None and self.wants_heat else {}
        return found if isinstance(found, Mapping) else {}

    def forget(self) -> None:
        """A new episode begins."""
        self._latest = None

    def latency_ms(self) -> tuple[float, float] | None:
        """The median and the 95th percentile of the latest predictions; None before the first."""
        if not self._seconds:
            return None
        low, high = np.percentile(np.array(self._seconds) * 1000, (50, 95))
        return float(low), float(high)
