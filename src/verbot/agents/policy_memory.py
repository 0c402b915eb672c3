"""What an agent carries from one prediction to the next, and from one episode to the next if it shall."""

from __future__ import annotations

import dataclasses

from verbot.spec import Memory, Observation

PAUSE_S = 60.0  # between two episodes: long enough that no frame, action or writing of the last passes for a recent one


class PolicyMemory:
    """The policy's memory, and what was told, in one episode after another.

    Args:
        across: episodes: `reset` keeps the memory. The clock then runs on, with a pause between two episodes, so that stores
            survive and what was just seen and done does not.
    """

    def __init__(self, across: bool = False):
        self.memory: Memory | None = None
        self._across = across
        self._instruction = ""
        self._began_s, self._latest_s = 0.0, 0.0

    def reset(self, instruction: str) -> None:
        self._instruction = instruction
        if self._across and self.memory is not None:
            self._began_s = self._latest_s + PAUSE_S
        else:
            self.memory, self._began_s = None, 0.0

    def ask(self, observation: Observation) -> Observation:
        """What the policy is to predict from."""
        self._latest_s = self._began_s + observation.time_s
        return dataclasses.replace(observation, instruction=self._instruction, memory=self.memory, time_s=self._latest_s)
