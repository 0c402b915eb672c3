"""Chunk execution: carry out n of the k predicted actions, then predict again."""

from __future__ import annotations

from collections import deque

from verbot.agents.policy_memory import PolicyMemory
from verbot.contracts import Policy
from verbot.errors import ConfigError, PolicyError
from verbot.spec import ActionChunk, FloatArray, Observation


class ChunkAgent:
    """Executes the first `execute` actions of each chunk open loop, then asks for the next chunk.

    Args:
        policy: predicts the chunks; shared with other agents, never changed.
        execute: actions carried out per chunk; 1 predicts anew at every control step.
        across_episodes: what the policy has stored is kept at `reset`, for another command in the same place.

    Raises:
        PolicyError: when a chunk holds fewer than `execute` actions.
    """

    def __init__(self, policy: Policy, execute: int = 1, across_episodes: bool = False):
        if execute < 1:
            raise ConfigError(f"execute is {execute}; expected at least 1 action per chunk")
        self.policy = policy
        self._execute = execute
        self._left: deque[FloatArray] = deque()
        self._carried = PolicyMemory(across_episodes)

    def reset(self, instruction: str) -> None:
        self._left.clear()
        self._carried.reset(instruction)

    def next_query(self, observation: Observation) -> Observation | None:
        if self._left:
            return None
        return self._carried.ask(observation)

    def receive(self, chunk: ActionChunk) -> None:
        if len(chunk.values) < self._execute:
            raise PolicyError(
                f"the policy predicts {len(chunk.values)} actions at a time but {self._execute} were to be executed; "
                f"choose execute between 1 and {len(chunk.values)}"
            )
        self._left, self._carried.memory = deque(chunk.values[: self._execute]), chunk.memory

    def act(self, observation: Observation) -> FloatArray:
        asked = self.next_query(observation)
        if asked is not None:
            self.receive(self.policy.predict([asked])[0])
        return self._left.popleft()
