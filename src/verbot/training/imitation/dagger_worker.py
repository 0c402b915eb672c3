"""The worker of DAgger: the policy acts for a random time, then the expert completes the episode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from verbot.agents import ChunkAgent
from verbot.contracts import Policy, TaskEnv
from verbot.envs import make_env
from verbot.policy.policy import VLAPolicy
from verbot.rollout.collect import Demonstration, LeadIn, demonstrate
from verbot.training.imitation.augment import numbers
from verbot.training.imitation.records import DaggerConfig

FIRST_INDEX = 10_000_000  # scenes of corrections, disjoint from those of demonstrations
STRIDE = 1_000_000  # scenes between rounds


@dataclass(frozen=True)
class CorrectionSetup:
    """A worker that records corrections. A request is the index of an episode, the answer its `Demonstration`.

    Args:
        policy: the folder of the policy that is corrected.
        round: 0 for the first one.
    """

    config: DaggerConfig
    seed: int
    policy: str
    round: int

    @contextlib.contextmanager
    def open(self) -> Iterator[DaggerWorker]:
        policy = VLAPolicy.load(self.policy)
        with closing(make_env(self.config.env, **self.config.options)) as env:
            yield DaggerWorker(self, policy, env)


class DaggerWorker:
    """The service of a `CorrectionSetup`."""

    def __init__(self, setup: CorrectionSetup, policy: Policy, env: TaskEnv):
        self._setup, self._env, self._agent = setup, env, ChunkAgent(policy, setup.config.execute)

    def answers(self, requests: Iterator[int]) -> Iterator[Demonstration]:
        for index in requests:
            yield self._correct(index)

    def _correct(self, index: int) -> Demonstration:
        """Episode `index`, a function of (seed, round, index)."""
        setup, env, config = self._setup, self._env, self._setup.config
        rng = numbers(setup.seed, setup.round, index)
        request = {
            "task": env.tasks[int(rng.integers(len(env.tasks)))],
            "split": "train",
            "index": FIRST_INDEX + STRIDE * setup.round + index,
            "wording": "seen",
            "axes": dict(config.axes),
        }
        lead_in = LeadIn(self._agent, int(rng.integers(config.max_steps + 1)))
        return demonstrate(env, request, config.noise, setup.seed, index, lead_in)
