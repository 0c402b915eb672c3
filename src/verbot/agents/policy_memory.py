"""The memory that an agent passes from one prediction to the next, and optionally from one episode to the next."""

from __future__ import annotations

import dataclasses

from verbot.spec import Memory, Observation

PAUSE_S = 60.0  # added to the clock between episodes; after it no stored frame or action counts as recent


class PolicyMemory:
    """The policy's memory and the instruction, over successive episodes.

    Args:
        across_episodes: `reset` keeps the memory. The clock then continues, with a pause between two episodes. Long-term
            stores therefore survive, and recent frames and actions do not.
    """

    def __init__(self, across_episodes: bool = False):
        self.value: Memory | None = None
        self._across_episodes = across_episodes
        self._instruction = ""
        self._began_s, self._latest_s = 0.0, 0.0

    def reset(self, instruction: str) -> None:
        self._instruction = instruction
        if self._across_episodes and self.value is not None:
            self._began_s = self._latest_s + PAUSE_S
        else:
            self.value, self._began_s = None, 0.0

    def query(self, observation: Observation) -> Observation:
        """`observation` with the instruction, the memory and the clock, as the policy's input."""
        self._latest_s = self._began_s + observation.time_s
        return dataclasses.replace(observation, instruction=self._instruction, memory=self.value, time_s=self._latest_s)
