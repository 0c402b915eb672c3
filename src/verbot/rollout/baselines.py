"""The agents of an evaluation: the policy and its baselines."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from verbot.contracts import Agent, ChunkedAgent, Env, Policy, continuation_of, expert_of
from verbot.spec import ActionChunk, FloatArray, Observation, RobotSpec

POLICY_FREE_AGENTS = ("random", "expert")  # agents that need no policy and no images
AgentFactory = Callable[[Policy], ChunkedAgent]


@dataclass(frozen=True)
class PolicySource:
    """How a worker process loads the policy; `load` must support pickling, e.g. ``functools.partial(load_policy, path)``.

    Args:
        name: name of the policy in reports.
        identity: a digest of the policy, so that results of different policies are never mixed.
        spec: the robot for which it was trained, if known before loading; it determines the image size of the env.
    """

    name: str
    load: Callable[[], Policy]
    identity: str = ""
    spec: RobotSpec | None = None

    def blinded(self) -> PolicySource:
        """The language-blind copy of the policy."""
        name, load = f"{self.name}, blind to language", functools.partial(_load_blind, self.load)
        return PolicySource(name, load, self.identity + " blind", self.spec)


@dataclass(frozen=True)
class BlindPolicy:
    """A policy that always gets an empty instruction: the baseline without language."""

    policy: Policy

    @property
    def spec(self) -> RobotSpec:
        return self.policy.spec

    @property
    def continuation(self) -> str:
        return continuation_of(self.policy)

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        return self.policy.predict([dataclasses.replace(o, instruction="") for o in observations])


class RandomAgent:
    """Uniform actions within the robot's range; every class of a discrete component is equally likely."""

    def __init__(self, spec: RobotSpec, seed: int):
        self._low, self._high = spec.action_low(), spec.action_high()
        self._classes = np.array([c.kind == "discrete" for c in spec.action for _ in c.axes], bool)
        self._rng = np.random.default_rng(seed)

    def reset(self, instruction: str) -> None:
        """There is no state per episode; the random stream continues."""

    def act(self, observation: Observation) -> FloatArray:
        drawn = self._rng.uniform(self._low, self._high)
        # Rounding would give the first and last class half the probability.
        share = (drawn - self._low) / (self._high - self._low)
        chosen = self._low + np.floor(share * (self._high - self._low + 1))
        return np.where(self._classes, np.minimum(chosen, self._high), drawn).astype(np.float32)


def scripted(name: str, env: Env, key: str) -> Agent | None:
    """The scripted agent `name`, or None if it needs a policy. Its randomness is a function of the episode's `key`."""
    seed = zlib.crc32(key.encode())
    if name == "expert":
        return expert_of(env, noise=0.0, seed=seed)
    if name == "random":
        return RandomAgent(env.robot_spec, seed)
    return None


def _load_blind(load: Callable[[], Policy]) -> Policy:
    return BlindPolicy(load())
