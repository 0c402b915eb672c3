"""The interface of rewards, the env's own reward, and reward shaping."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import Tensor

from verbot.errors import ConfigError
from verbot.registry import Registry
from verbot.spec import FloatArray
from verbot.training.rl.config import ReinforceConfig, RewardShaping, renamed_options
from verbot.training.rl.envs import GroundedObservation, VecTransition

Rewards = npt.NDArray[np.float64]


class Reward(Protocol):
    """Batched reward function for a vectorized env."""

    def reset(
        self, env_ids: Sequence[int], infos: Sequence[Mapping[str, Any]], observations: Sequence[GroundedObservation]
    ) -> None:
        """Start episodes in the envs `env_ids`, which have these infos and first observations."""
        ...

    def __call__(self, transitions: Sequence[VecTransition], actions: FloatArray) -> Rewards:
        """Rewards (n,) of one control step with actions (n, a), in the robot's units."""
        ...


# Log-probabilities (n,) that the policy gives to actions (n, a).
LogProbs = Callable[[Sequence[GroundedObservation], FloatArray], FloatArray]


@runtime_checkable
class LearnedReward(Reward, Protocol):
    """A reward that is trained together with the policy, before each of its updates."""

    def learn(self, policy: LogProbs, log_probs: FloatArray) -> dict[str, float]:
        """Train on all steps since the last call, whose actions had the `log_probs` (t, envs). Returns metrics for the log."""
        ...

    def save(self, folder: Path) -> None:
        """Save the trained reward in the folder of the run."""
        ...

    def state(self) -> dict[str, Tensor]:
        """The state to store in a checkpoint."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None: ...


@runtime_checkable
class PinsFileHashes(Protocol):
    """A factory of rewards whose `fit` adds the sha256 of the files that it reads to the options."""

    @staticmethod
    def fit(config: ReinforceConfig, options: Mapping[str, Any], /) -> Mapping[str, Any]: ...


# Factories are called with the configuration of the run and their options.
rewards: Registry[Any] = Registry("reward", package="verbot.training.rl.rewards", group="verbot.rewards")


@rewards.register("world")
def env_reward(config: ReinforceConfig) -> Reward:
    """The env's own reward with ``config.reward_shaping``."""
    return shaped_reward(config.reward_shaping, config.ppo.gamma, config.env.num_envs)


def make_reward(config: ReinforceConfig) -> Reward:
    """The reward of `config`. Raises `ConfigError` for unknown options."""
    try:
        options = renamed_options(config.reward.name, config.reward.options)
        reward: Reward = rewards.build(config.reward.name, config, **options)
    except TypeError as error:
        raise ConfigError(f"reward {config.reward.name!r} does not take these options: {error}") from error
    return reward


class EnvReward:
    """The env's own reward."""

    def reset(
        self, env_ids: Sequence[int], infos: Sequence[Mapping[str, Any]], observations: Sequence[GroundedObservation]
    ) -> None:
        pass

    def __call__(self, transitions: Sequence[VecTransition], actions: FloatArray) -> Rewards:
        return np.array([transition.reward for transition in transitions])


class PotentialReward:
    """Potential-based shaping: the env's reward + γΦ(after) − Φ(before), with Φ = −`weight` · ``final_error_m``, 0 at the end.

    The optimal policy does not depend on Φ (Ng, Harada and Russell 1999).
    """

    def __init__(self, weight: float, gamma: float, num_envs: int):
        self._weight, self._gamma = weight, gamma
        self._before = np.zeros(num_envs)

    def reset(
        self, env_ids: Sequence[int], infos: Sequence[Mapping[str, Any]], observations: Sequence[GroundedObservation]
    ) -> None:
        for env, info in zip(env_ids, infos, strict=True):
            self._before[env] = self._potential(info)

    def __call__(self, transitions: Sequence[VecTransition], actions: FloatArray) -> Rewards:
        after = np.array([self._potential(transition.info) for transition in transitions])
        ended = np.array([transition.final is not None and not transition.truncated for transition in transitions])
        own = np.array([transition.reward for transition in transitions])
        rewards = own + self._gamma * np.where(ended, 0.0, after) - self._before
        self._before = after
        return rewards

    def _potential(self, info: Mapping[str, Any]) -> float:
        return -self._weight * float(info["final_error_m"])


class ProgressReward:
    """The env's reward plus `weight` for each meter of progress, the decrease of ``final_error_m``.

    A critic can cancel potential-based shaping once it has learned the potential, but not this reward. Over an episode the
    rewards sum to the total progress. So the optimal policy is the same if success means an error of 0; discounting only favors
    speed.

    The fraction `best_so_far_share` rewards only progress beyond the best value of the episode so far, so a step back costs
    nothing. Without it, a policy that is undecided between two equally good paths (left or right around an object) moves back
    and forth: gains and losses cancel, and nothing favors a decision.
    """

    def __init__(self, weight: float, num_envs: int, best_so_far_share: float = 0.0):
        self._weight, self._share = weight, best_so_far_share
        self._error_m, self._least_m = np.zeros(num_envs), np.zeros(num_envs)

    def reset(
        self, env_ids: Sequence[int], infos: Sequence[Mapping[str, Any]], observations: Sequence[GroundedObservation]
    ) -> None:
        for env, info in zip(env_ids, infos, strict=True):
            self._error_m[env] = self._least_m[env] = float(info["final_error_m"])

    def __call__(self, transitions: Sequence[VecTransition], actions: FloatArray) -> Rewards:
        error_m = np.array([float(transition.info["final_error_m"]) for transition in transitions])
        least_m = np.minimum(self._least_m, error_m)
        progress_m = (1 - self._share) * (self._error_m - error_m) + self._share * (self._least_m - least_m)
        self._error_m, self._least_m = error_m, least_m
        rewards: Rewards = np.array([transition.reward for transition in transitions]) + self._weight * progress_m
        return rewards


def shaped_reward(shaping: RewardShaping, gamma: float, num_envs: int) -> Reward:
    """The env's own reward with the shaping, if there is any."""
    if shaping.potential_weight:
        return PotentialReward(shaping.potential_weight, gamma, num_envs)
    if shaping.progress_weight:
        return ProgressReward(shaping.progress_weight, num_envs, shaping.best_so_far_share)
    return EnvReward()
