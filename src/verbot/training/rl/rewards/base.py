"""What a step is worth: the world's own reward, alone or with a potential that does not change what is best, or another's."""

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
from verbot.training.rl.config import ReinforceConfig
from verbot.training.rl.envs import GroundedObservation, VecTransition

Rewards = npt.NDArray[np.float64]


class Reward(Protocol):
    """Of all worlds at once."""

    def begin(self, worlds: Sequence[int], infos: Sequence[Mapping[str, Any]], seen: Sequence[GroundedObservation]) -> None:
        """Episodes begin in `worlds`."""
        ...

    def __call__(self, transitions: Sequence[VecTransition], actions: FloatArray) -> Rewards:
        """(n,) of one control step, with the actions (n, a) that led to it, in the robot's units."""
        ...


Judge = Callable[
    [Sequence[GroundedObservation], FloatArray], FloatArray
]  # logarithms (n,) of the policy's chances of actions (n, a)


@runtime_checkable
class LearnedReward(Reward, Protocol):
    """One that changes while the policy does, between two of its updates."""

    def learn(self, judge: Judge, log_probs: FloatArray) -> dict[str, float]:
        """From every step since it learned last, whose actions had the `log_probs` (t, worlds). Returns figures for the log."""
        ...

    def save(self, folder: Path) -> None:
        """Leave in the folder of the run what was learned."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must keep."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None: ...


@runtime_checkable
class FittedReward(Protocol):
    """A factory of rewards that adds the identities of the files that its options name."""

    @staticmethod
    def fit(config: ReinforceConfig, options: Mapping[str, Any], /) -> Mapping[str, Any]: ...


# Each is called with the run's configuration and its own options.
rewards: Registry[Any] = Registry("reward", package="verbot.training.rl.rewards", group="verbot.rewards")


@rewards.register("world")
def own(config: ReinforceConfig) -> Reward:
    """The world's, with the potential that `config.shaping` weighs or the headway that `config.headway` does."""
    return made(config.shaping, config.headway, config.discount, config.worlds, config.ratchet)


def make_reward(config: ReinforceConfig) -> Reward:
    """The one that `config` names. Raises `ConfigError` for options that it does not take."""
    factory = rewards.get(config.reward.name)
    try:
        reward: Reward = factory(config, **config.reward.options)
    except TypeError as error:
        raise ConfigError(f"reward {config.reward.name!r} does not take these options: {error}") from error
    return reward


class OwnReward:
    """What the world gives."""

    def begin(self, worlds: Sequence[int], infos: Sequence[Mapping[str, Any]], seen: Sequence[GroundedObservation]) -> None:
        pass

    def __call__(self, transitions: Sequence[VecTransition], actions: FloatArray) -> Rewards:
        return np.array([transition.reward for transition in transitions])


class Shaped:
    """The world's reward and γΦ(after) − Φ(before), with Φ = −`weight` · ``final_error_m``, and 0 where an episode truly ends.

    Which policy is best stays the same, whatever Φ is (Ng, Harada and Russell 1999).
    """

    def __init__(self, weight: float, discount: float, worlds: int):
        self._weight, self._discount = weight, discount
        self._before = np.zeros(worlds)

    def begin(self, worlds: Sequence[int], infos: Sequence[Mapping[str, Any]], seen: Sequence[GroundedObservation]) -> None:
        for world, info in zip(worlds, infos, strict=True):
            self._before[world] = self._potential(info)

    def __call__(self, transitions: Sequence[VecTransition], actions: FloatArray) -> Rewards:
        after = np.array([self._potential(transition.info) for transition in transitions])
        ended = np.array([transition.final is not None and not transition.truncated for transition in transitions])
        own = np.array([transition.reward for transition in transitions])
        rewards = own + self._discount * np.where(ended, 0.0, after) - self._before
        self._before = after
        return rewards

    def _potential(self, info: Mapping[str, Any]) -> float:
        return -self._weight * float(info["final_error_m"])


class Headway:
    """The world's reward and `weight` for every meter of way made good: ``final_error_m`` before − after.

    Unlike a potential it is not canceled by a critic that has learned it. What is best stays so where success means that no
    way is left: over an episode it adds up to the way made good in all, and a discount only makes sooner better.

    Of that, the share `ratchet` counts only what is nearer than the episode ever was, and going back costs nothing of it. Where
    two ways are as good, as left or right around a thing, a policy that is still undecided goes to and fro: then each move
    loses what the other wins, and nothing tells it to decide.
    """

    def __init__(self, weight: float, worlds: int, ratchet: float = 0.0):
        self._weight, self._ratchet = weight, ratchet
        self._left_m, self._least_m = np.zeros(worlds), np.zeros(worlds)

    def begin(self, worlds: Sequence[int], infos: Sequence[Mapping[str, Any]], seen: Sequence[GroundedObservation]) -> None:
        for world, info in zip(worlds, infos, strict=True):
            self._left_m[world] = self._least_m[world] = float(info["final_error_m"])

    def __call__(self, transitions: Sequence[VecTransition], actions: FloatArray) -> Rewards:
        left_m = np.array([float(transition.info["final_error_m"]) for transition in transitions])
        least_m = np.minimum(self._least_m, left_m)
        won_m = (1 - self._ratchet) * (self._left_m - left_m) + self._ratchet * (self._least_m - least_m)
        self._left_m, self._least_m = left_m, least_m
        rewards: Rewards = np.array([transition.reward for transition in transitions]) + self._weight * won_m
        return rewards


def made(shaping: float, headway: float, discount: float, worlds: int, ratchet: float = 0.0) -> Reward:
    """The world's own reward, with the weight of a potential or of headway where there is one. Raises `ConfigError` for both."""
    if shaping and headway:
        raise ConfigError(f"shaping and headway tell the same in two ways; choose one (they are {shaping:g} and {headway:g})")
    if shaping:
        return Shaped(shaping, discount, worlds)
    return Headway(headway, worlds, ratchet) if headway else OwnReward()
