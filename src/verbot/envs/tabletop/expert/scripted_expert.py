"""The scripted expert: the action of the task, with noise on the executed action but not on the label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from verbot.envs.tabletop.simulation.physics import POSITION_UNIT_M, ROTATION_UNIT_RAD
from verbot.spec import FloatArray

BURST_PROBABILITY, BURST_STEPS, BURST_FACTOR = 0.03, 3, 4.0
_UNIT = np.array([POSITION_UNIT_M] * 3 + [ROTATION_UNIT_RAD] * 3)


class TabletopExpert:
    """Implements `verbot.contracts.Expert` for the episode that its env is in.

    Args:
        clean: the task's action (7,) for the env's present state.
        stream: a generator for the env's present episode, from a seed.
        noise: standard deviation of the noise, as a part of the action unit; now and then a burst four times as strong
            lasts three steps, so that demonstrations also show how to come back.
        seed: seed of the noise.
    """

    def __init__(self, clean: Callable[[], FloatArray], stream: Callable[[int], Any], noise: float, seed: int):
        self._clean, self._stream, self._noise, self._seed = clean, stream, noise, seed
        self._rng, self._burst = stream(seed), 0

    def reset(self, instruction: str = "") -> None:
        """Begin the env's present episode; the goal is the env's, whatever the words."""
        self._rng, self._burst = self._stream(self._seed), 0

    def act(self, observation: object = None) -> FloatArray:
        """The action to execute (7,), clean plus noise. It reads the simulator, not the observation."""
        action = self._clean()
        if self._noise == 0.0:
            return action
        if self._burst == 0 and self._rng.random() < BURST_PROBABILITY:
            self._burst = BURST_STEPS
        scale = self._noise * (BURST_FACTOR if self._burst else 1.0)
        self._burst = max(0, self._burst - 1)
        action[:6] = np.clip(action[:6] + self._rng.normal(0.0, scale, 6) * _UNIT, -_UNIT, _UNIT)
        return action

    def label(self) -> FloatArray:
        """The clean action (7,) for the env's present state, whoever brought it there."""
        return self._clean()
