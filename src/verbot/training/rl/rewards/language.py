"""The reward of a language reward model, which reads a description of the state and the instruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from verbot.errors import ConfigError
from verbot.models.registries import Part
from verbot.models.reward_models import FittedRewardModel, LanguageRewardModel, reward_models
from verbot.spec import FloatArray
from verbot.training.rl.config import ReinforceConfig, renamed_options
from verbot.training.rl.envs import GroundedObservation, VecTransition
from verbot.training.rl.rewards.base import Rewards, rewards


@rewards.register("language")
class LanguageReward:
    """The change of the reward model's progress at every step, and its probability of success at the end of an episode.

    The rewards of an episode sum to `weight` times the total progress, plus the probability of success, minus `cost` times the
    probability of failure if the episode ends before the time limit. The env's own reward is not used.

    Args:
        reward_model: a name with options, or the path of a trained model.
        weight: weight of the progress; 0 rewards only success.
        cost: penalty of a failure before the time limit.

    Raises `ConfigError`, at the first episode, for an env that does not describe its state in words.
    """

    def __init__(
        self,
        config: ReinforceConfig,
        reward_model: str | Mapping[str, Any] | LanguageRewardModel,
        weight: float = 8.0,
        cost: float = 0.5,
    ):
        self._model: LanguageRewardModel = _made(reward_model) if isinstance(reward_model, (str, Mapping)) else reward_model
        self._weight, self._cost, self._env = weight, cost, config.env.name
        self._before, self._goals = np.zeros(config.env.num_envs), [""] * config.env.num_envs

    @staticmethod
    def fit(config: ReinforceConfig, options: Mapping[str, Any]) -> dict[str, Any]:
        """`options` with the sha256 of the reward model, if it has one."""
        options = renamed_options("language", options)
        if "reward_model" not in options:
            raise ConfigError("reward 'language' needs a reward_model: the path of a trained one, or a name with options")
        part = _part(options["reward_model"])
        factory = reward_models.get(part.name)
        fitted = factory.fit(part.options) if isinstance(factory, FittedRewardModel) else dict(part.options)
        return {**options, "reward_model": {"name": part.name, "options": fitted}}

    def reset(
        self, env_ids: Sequence[int], infos: Sequence[Mapping[str, Any]], observations: Sequence[GroundedObservation]
    ) -> None:
        if not env_ids:
            return
        for env, info in zip(env_ids, infos, strict=True):
            if "state_text" not in info:
                raise ConfigError(f"env {self._env!r} does not describe its state in words: its info has no state_text")
            self._goals[env] = info["instruction"]
        scores = self._model.score([info["state_text"] for info in infos], [self._goals[env] for env in env_ids])
        self._before[list(env_ids)] = self._weight * scores[:, 0]

    def __call__(self, transitions: Sequence[VecTransition], actions: FloatArray) -> Rewards:
        scores = self._model.score([transition.info["state_text"] for transition in transitions], self._goals).astype(np.float64)
        over = np.array([transition.final is not None for transition in transitions])
        ended = over & ~np.array([transition.truncated for transition in transitions])
        progress, success_prob = scores.T
        outcome: Rewards = over * success_prob - self._cost * ended * (1 - success_prob)
        after = self._weight * progress
        earned: Rewards = outcome + after - self._before
        self._before = after
        return earned


def _made(model: str | Mapping[str, Any]) -> LanguageRewardModel:
    part = _part(model)
    made: LanguageRewardModel = reward_models.build(part.name, **part.options)
    return made


def _part(model: str | Mapping[str, Any]) -> Part:
    if isinstance(model, str):
        return Part("matcher", {"path": model})
    if set(model) - {"name", "options"} or "name" not in model:
        raise ConfigError(f"a reward model is a path, or a name with options; got {dict(model)}")
    return Part(model["name"], model.get("options", {}))
