"""Temporal ensembling: predict at every step and average all predictions of the current action.

Source: Zhao et al., "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware" (ACT), 2023, section IV-B.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from verbot.agents.malformed import is_malformed, keeping_gripper
from verbot.agents.policy_memory import PolicyMemory
from verbot.agents.timing import DatedQueries, TimedChunk, late
from verbot.contracts import Policy
from verbot.errors import ConfigError
from verbot.spec import ActionChunk, FloatArray, Observation


class EnsembleAgent:
    """Averages every prediction of this step's action with weights ``exp(-decay · i)``, where i = 0 is the *oldest* one.

    The oldest chunk has the largest weight. A larger `decay` gives old predictions more weight and reacts more slowly.
    Row i of a chunk is for the time of its observation plus i control periods; predictions for another time are not averaged.

    Args:
        policy: predicts the chunks; shared with other agents and never changed.
        decay: m in the paper; 0 gives equal weights.
        across_episodes: keep the policy's memory at `reset`, for another instruction in the same place.

    Raises:
        PolicyError: when a chunk cannot be executed, or is for a time that has passed.
    """

    def __init__(self, policy: Policy, decay: float = 0.01, across_episodes: bool = False):
        if decay < 0:
            raise ConfigError(f"decay is {decay}; expected 0 or more")
        self.policy = policy
        self._decay = decay
        self._chunks: list[TimedChunk] = []  # oldest first
        self._current = False
        self._last: FloatArray | None = None
        self._memory = PolicyMemory(across_episodes)
        self._queries = DatedQueries(self._memory)

    def reset(self, instruction: str) -> None:
        self.interrupt()
        self._last = None
        self._memory.reset(instruction)

    def interrupt(self) -> None:
        self._chunks, self._current = [], False
        self._queries.clear()

    def next_query(self, observation: Observation) -> Observation | None:
        if self._current and any(chunk.due(observation.time_s) is not None for chunk in self._chunks):
            return None
        return self._queries.ask(observation)

    def receive(self, chunk: ActionChunk) -> None:
        timed = self._queries.receive(chunk, self.policy.spec)
        if is_malformed(chunk):  # a hold is not averaged with what was to be done
            held = keeping_gripper(timed.values[:1], self.policy.spec, self._last)
            self._chunks, timed = [], dataclasses.replace(timed, values=held)
        self._chunks.append(timed)
        self._current = True

    def act(self, observation: Observation) -> FloatArray:
        query, now_s = self.next_query(observation), observation.time_s
        if query is not None:
            self._queries.only_latest()
            self.receive(self.policy.predict([query])[0])
        latest = self._chunks[-1]
        self._chunks = [chunk for chunk in self._chunks if chunk.due(now_s) is not None]
        self._current = False
        if not self._chunks:
            raise late(latest, now_s)
        rows = [row for chunk in self._chunks if (row := chunk.take(now_s)) is not None]
        action = ensemble_weights(len(rows), self._decay) @ np.stack(rows)
        self._last = action.astype(np.float32)
        return self._last


def ensemble_weights(count: int, decay: float) -> npt.NDArray[np.float64]:
    """Weights of `count` predictions, oldest first, summing to 1.

    Example:
        >>> ensemble_weights(3, 0.5).round(3).tolist()
        [0.506, 0.307, 0.186]
    """
    weights = np.exp(-decay * np.arange(count))
    return weights / weights.sum()
