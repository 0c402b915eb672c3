"""The scripted expert: the action of the task, sometimes replaced by another one, which is executed but no label."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from verbot.envs.navigation.world import STOP
from verbot.spec import FloatArray


class NavigationExpert:
    """Implements `verbot.contracts.Expert` for the episode that its env is in.

    Args:
        clean: the action for the env's present state.
        stream: a generator for the env's present episode, from a seed.
        noise: this share of the executed actions is drawn at random, of all but ``stop``, so that demonstrations also show how
            to come back.
        seed: seed of the noise.
    """

    def __init__(self, clean: Callable[[], int], stream: Callable[[int], np.random.Generator], noise: float = 0.0, seed: int = 0):
        self._clean, self._stream, self._noise, self._seed = clean, stream, noise, seed
        self._rng = stream(seed)

    def reset(self, instruction: str = "") -> None:
        """Begin the env's present episode; the goal is the env's, whatever the words."""
        self._rng = self._stream(self._seed)

    def act(self, observation: object = None) -> FloatArray:
        """The action to execute (1,). It reads the world, not the observation."""
        if self._noise and self._rng.random() < self._noise:
            return np.array([self._rng.integers(STOP)], np.float32)
        return self.label()

    def label(self) -> FloatArray:
        """The clean action (1,) for the env's present state, whoever brought it there."""
        return np.array([self._clean()], np.float32)
