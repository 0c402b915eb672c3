"""What a step is worth: the world's own reward, alone or with a potential that does not change what is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from verbot.spec import FloatArray
from verbot.training.reinforcement.worlds import Look, Turn

Rewards = npt.NDArray[np.float64]


class Reward(Protocol):
    """Of all worlds at once."""

    def begin(self, worlds: Sequence[int], infos: Sequence[Mapping[str, Any]], seen: Sequence[Look]) -> None:
        """Episodes begin in `worlds`."""
        ...

    def __call__(self, turns: Sequence[Turn], actions: FloatArray) -> Rewards:
        """(n,) of one control step, with the actions (n, a) that led to it, in the robot's units."""
        ...


class OwnReward:
    """What the world gives."""

    def begin(self, worlds: Sequence[int], infos: Sequence[Mapping[str, Any]], seen: Sequence[Look]) -> None:
        pass

    def __call__(self, turns: Sequence[Turn], actions: FloatArray) -> Rewards:
        return np.array([turn.reward for turn in turns])


class Shaped:
    """The world's reward and γΦ(after) − Φ(before), with Φ = −`weight` · ``final_error_m``, and 0 where an episode truly ends.

    Which policy is best stays the same, whatever Φ is (Ng, Harada and Russell 1999).
    """

    def __init__(self, weight: float, discount: float, worlds: int):
        self._weight, self._discount = weight, discount
        self._before = np.zeros(worlds)

    def begin(self, worlds: Sequence[int], infos: Sequence[Mapping[str, Any]], seen: Sequence[Look]) -> None:
        for world, info in zip(worlds, infos, strict=True):
            self._before[world] = self._potential(info)

    def __call__(self, turns: Sequence[Turn], actions: FloatArray) -> Rewards:
        after = np.array([self._potential(turn.info) for turn in turns])
        ended = np.array([turn.last is not None and not turn.truncated for turn in turns])
        own = np.array([turn.reward for turn in turns])
        rewards = own + self._discount * np.where(ended, 0.0, after) - self._before
        self._before = after
        return rewards

    def _potential(self, info: Mapping[str, Any]) -> float:
        return -self._weight * float(info["final_error_m"])
