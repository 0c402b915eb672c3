"""A new agent in one file: what decides, from a policy's chunks, which action the robot executes next.

An agent wraps a policy and needs no registration. Run it: python examples/own_agent.py
"""

from __future__ import annotations

import numpy as np

import verbot
from verbot.agents import ChunkAgent
from verbot.contracts import Policy
from verbot.rollout.episode import EpisodeRunner
from verbot.spec import ActionChunk, FloatArray, Observation


class SmoothAgent:
    """Executes a moving average of the policy's actions.

    Args:
        policy: predicts the chunks.
        share: weight of the newest action, above 0 and at most 1.
    """

    def __init__(self, policy: Policy, share: float = 0.5):
        self._inner, self._share = ChunkAgent(policy), share
        self._last: FloatArray | None = None

    def reset(self, instruction: str) -> None:
        self._inner.reset(instruction)
        self._last = None

    def next_query(self, observation: Observation) -> Observation | None:
        """What the policy should predict from now; None if the agent can act without a prediction."""
        return self._inner.next_query(observation)

    def receive(self, chunk: ActionChunk) -> None:
        self._inner.receive(chunk)

    def act(self, observation: Observation) -> FloatArray:
        action = self._inner.act(observation)
        self._last = action if self._last is None else self._share * action + (1 - self._share) * self._last
        return self._last


def main(share: float = 0.5) -> list[FloatArray]:
    """One episode of the policy that ships with verbot, smoothed."""
    episode = EpisodeRunner(verbot.make_env("tabletop-starter"), {"index": 0}, seed=0)
    agent = SmoothAgent(verbot.load_policy("starter"), share)
    agent.reset(episode.instruction)
    actions = [step.action for step in episode.run(agent)]
    change = np.abs(np.diff(actions, axis=0)).mean()
    print(f"{episode.instruction}: success {episode.info['success']}, mean change of the action {change:.4f}")
    return actions


if __name__ == "__main__":
    main()
