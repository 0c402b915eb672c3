"""Chunk execution: execute n of the k predicted actions, then predict again."""

from __future__ import annotations

import dataclasses

from verbot.agents.malformed import is_malformed, keeping_gripper
from verbot.agents.policy_memory import PolicyMemory
from verbot.agents.timing import DatedQueries, TimedChunk, late
from verbot.contracts import Policy
from verbot.errors import ConfigError, PolicyError
from verbot.spec import ActionChunk, FloatArray, Observation


class ChunkAgent:
    """Executes the first `execute` actions of each chunk open loop, then requests the next chunk.

    Row i of a chunk is for the time of its observation plus i control periods. Rows whose time has passed are not executed.

    Args:
        policy: predicts the chunks; shared with other agents and never changed.
        execute: number of actions executed per chunk; 1 predicts at every control step.
        across_episodes: keep the policy's memory at `reset`, for another instruction in the same place.

    Raises:
        PolicyError: when a chunk holds fewer than `execute` actions, cannot be executed, or is for a time that has passed.
    """

    def __init__(self, policy: Policy, execute: int = 1, across_episodes: bool = False):
        if execute < 1:
            raise ConfigError(f"execute is {execute}; expected at least 1 action per chunk")
        self.policy = policy
        self._execute = execute
        self._chunk: TimedChunk | None = None
        self._last: FloatArray | None = None
        self._memory = PolicyMemory(across_episodes)
        self._queries = DatedQueries(self._memory)

    def reset(self, instruction: str) -> None:
        self.interrupt()
        self._last = None
        self._memory.reset(instruction)

    def interrupt(self) -> None:
        self._chunk = None
        self._queries.clear()

    def next_query(self, observation: Observation) -> Observation | None:
        if self._chunk is not None and self._chunk.due(observation.time_s) is not None:
            return None
        return self._queries.ask(observation)

    def receive(self, chunk: ActionChunk) -> None:
        timed = self._queries.receive(chunk, self.policy.spec)
        if len(timed.values) < self._execute:
            raise PolicyError(
                f"the policy predicts {len(timed.values)} actions at a time, but execute is {self._execute}; "
                f"choose execute between 1 and {len(timed.values)}"
            )
        held = keeping_gripper(timed.values, self.policy.spec, self._last) if is_malformed(chunk) else timed.values
        self._chunk = dataclasses.replace(timed, values=held[: self._execute])

    def act(self, observation: Observation) -> FloatArray:
        query = self.next_query(observation)
        if query is not None:
            self._queries.only_latest()
            self.receive(self.policy.predict([query])[0])
        assert self._chunk is not None
        action = self._chunk.take(observation.time_s)
        if action is None:
            raise late(self._chunk, observation.time_s)
        self._last = action
        return action
