"""Temporal ensembling: predict at every step and average all predictions of the current action.

Source: Zhao et al., "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware" (ACT), 2023, section IV-B.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from verbot.agents.policy_memory import PolicyMemory
from verbot.contracts import Policy
from verbot.errors import ConfigError
from verbot.spec import ActionChunk, FloatArray, Observation


class EnsembleAgent:
    """Averages every prediction of this step's action with weights ``exp(-decay · i)``, where i = 0 is the *oldest* one.

    The oldest chunk has the largest weight. A larger `decay` gives old predictions more weight and reacts more slowly.

    Args:
        policy: predicts the chunks; shared with other agents and never changed.
        decay: m in the paper; 0 gives equal weights.
        across_episodes: keep the policy's memory at `reset`, for another instruction in the same place.
    """

    def __init__(self, policy: Policy, decay: float = 0.01, across_episodes: bool = False):
        if decay < 0:
            raise ConfigError(f"decay is {decay}; expected 0 or more")
        self.policy = policy
        self._decay = decay
        self._chunks: list[FloatArray] = []  # oldest first; row 0 of each is the current action
        self._current = False
        self._memory = PolicyMemory(across_episodes)

    def reset(self, instruction: str) -> None:
        self._chunks, self._current = [], False
        self._memory.reset(instruction)

    def next_query(self, observation: Observation) -> Observation | None:
        if self._current:
            return None
        return self._memory.query(observation)

    def receive(self, chunk: ActionChunk) -> None:
        self._chunks.append(chunk.values)
        self._current, self._memory.value = True, chunk.memory

    def act(self, observation: Observation) -> FloatArray:
        query = self.next_query(observation)
        if query is not None:
            self.receive(self.policy.predict([query])[0])
        weights = ensemble_weights(len(self._chunks), self._decay)
        action = weights @ np.stack([chunk[0] for chunk in self._chunks])
        self._chunks = [chunk[1:] for chunk in self._chunks if len(chunk) > 1]
        self._current = False
        return action.astype(np.float32)


def ensemble_weights(count: int, decay: float) -> npt.NDArray[np.float64]:
    """Weights of `count` predictions, oldest first, summing to 1.

    Example:
        >>> ensemble_weights(3, 0.5).round(3).tolist()
        [0.506, 0.307, 0.186]
    """
    weights = np.exp(-decay * np.arange(count))
    return weights / weights.sum()
