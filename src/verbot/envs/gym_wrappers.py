"""Wrappers for libraries that learn from vectors, such as Stable-Baselines3 and RLlib."""

from __future__ import annotations

import zlib
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from verbot.spec import FloatArray


class FlatObservation(gymnasium.ObservationWrapper[FloatArray, Any, dict[str, Any]]):
    """The observation as one vector: the state, the words of the instruction, and the pixels.

    Float32 (n,), in this order: the state in the robot's units; with `words`, for each bucket how many of the instruction's words
    fall into it, at most `words_at_most`; with `images`, every camera's pixels, 0 to 1, cameras by name, row by row.

    Args:
        env: one of verbot's, e.g. ``gymnasium.make("verbot/Tabletop-v0", suite="tabletop-starter", image_size=32)``.
        words: buckets for the words, by their checksum; two words may share one. 0 leaves the instruction out.
        images: False leaves the pixels out.

    Example:
        >>> import verbot
        >>> env = FlatObservation(gymnasium.make("verbot/Navigation-v0", image_size=16))
        >>> observation, info = env.reset(seed=0)
        >>> observation.shape, env.observation_space.contains(observation)
        ((838,), True)
    """

    words_at_most = 8

    def __init__(self, env: gymnasium.Env[dict[str, Any], Any], words: int = 64, images: bool = True):
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, spaces.Dict)
        state, pictures = space["state"], space["images"]
        assert isinstance(state, spaces.Box) and isinstance(pictures, spaces.Dict)
        colors = [name for name, each in pictures.spaces.items() if each.dtype == np.uint8]  # not depth
        self._words, self._cameras = words, sorted(colors) if images else []
        pixels = sum(int(np.prod(pictures[name].shape or ())) for name in self._cameras)
        most = np.concatenate([np.full(words, self.words_at_most), np.ones(pixels)])
        low = np.concatenate([state.low, np.zeros_like(most)]).astype(np.float32)
        self.observation_space = spaces.Box(low, np.concatenate([state.high, most]).astype(np.float32), dtype=np.float32)

    def observation(self, observation: dict[str, Any]) -> FloatArray:
        """One vector (n,), float32."""
        counts = np.zeros(self._words, np.float32)
        for word in observation["instruction"].split() if self._words else ():
            counts[zlib.crc32(word.encode()) % self._words] += 1
        pixels = [observation["images"][name].astype(np.float32).ravel() / 255 for name in self._cameras]
        return np.concatenate([observation["state"].astype(np.float32), np.minimum(counts, self.words_at_most), *pixels])
