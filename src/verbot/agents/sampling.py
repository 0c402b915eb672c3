"""Random actions of a policy: every prediction is drawn from the distribution of the policy's head."""

from __future__ import annotations

import dataclasses
import zlib

from verbot.agents.interrupting import interrupt, lost
from verbot.contracts import ChunkedAgent
from verbot.spec import ActionChunk, FloatArray, Observation


class SamplingAgent:
    """Wraps an agent; its policy draws actions instead of predicting the most likely ones.

    A draw is a function of (seed, control step), whatever else is predicted in the same batch.

    Args:
        agent: asks the policy, and executes what was drawn.
        seed: seed of this episode.

    Raises:
        PolicyError: when the policy's head has no distribution.

    Example:
        >>> from verbot.agents import ChunkAgent
        >>> agent = SamplingAgent(ChunkAgent(policy), seed=3)  # doctest: +SKIP
    """

    def __init__(self, agent: ChunkedAgent, seed: int):
        self.policy, self._agent, self._seed, self._step = agent.policy, agent, seed, 0

    def reset(self, instruction: str) -> None:
        self._step = 0
        self._agent.reset(instruction)

    def interrupt(self) -> None:
        """Raises `ConfigError` if the wrapped agent cannot."""
        interrupt(self._agent)

    def lost(self) -> None:
        """Raises `ConfigError` if the wrapped agent cannot wait."""
        lost(self._agent)

    def next_query(self, observation: Observation) -> Observation | None:
        query = self._agent.next_query(observation)
        if query is None:
            return None
        return dataclasses.replace(query, sample_seed=zlib.crc32(f"{self._seed} {self._step}".encode()))

    def receive(self, chunk: ActionChunk) -> None:
        self._agent.receive(chunk)

    def act(self, observation: Observation) -> FloatArray:
        query = self.next_query(observation)
        if query is not None:
            self.receive(self.policy.predict([query])[0])
        self._step += 1
        return self._agent.act(observation)
