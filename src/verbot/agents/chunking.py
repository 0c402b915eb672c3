"""Chunk execution: execute n of the k predicted actions, then predict again."""

from __future__ import annotations

from collections import deque

from verbot.agents.policy_memory import PolicyMemory
from verbot.contracts import Policy
from verbot.errors import ConfigError, PolicyError
from verbot.spec import ActionChunk, FloatArray, Observation


class ChunkAgent:
    """Executes the first `execute` actions of each chunk open loop, then requests the next chunk.

    Args:
        policy: predicts the chunks; shared with other agents and never changed.
        execute: number of actions executed per chunk; 1 predicts at every control step.
        across_episodes: keep the policy's memory at `reset`, for another instruction in the same place.

    Raises:
        PolicyError: when a chunk holds fewer than `execute` actions.
    """

    def __init__(self, policy: Policy, execute: int = 1, across_episodes: bool = False):
        if execute < 1:
            raise ConfigError(f"execute is {execute}; expected at least 1 action per chunk")
        self.policy = policy
        self._execute = execute
        self._left: deque[FloatArray] = deque()
        self._memory = PolicyMemory(across_episodes)

    def reset(self, instruction: str) -> None:
        self._left.clear()
        self._memory.reset(instruction)

    def next_query(self, observation: Observation) -> Observation | None:
        if self._left:
            return None
        return self._memory.query(observation)

    def receive(self, chunk: ActionChunk) -> None:
        if len(chunk.values) < self._execute:
            raise PolicyError(
                f"the policy predicts {len(chunk.values)} actions at a time, but execute is {self._execute}; "
                f"choose execute between 1 and {len(chunk.values)}"
            )
        self._left, self._memory.value = deque(chunk.values[: self._execute]), chunk.memory

    def act(self, observation: Observation) -> FloatArray:
        query = self.next_query(observation)
        if query is not None:
            self.receive(self.policy.predict([query])[0])
        return self._left.popleft()
