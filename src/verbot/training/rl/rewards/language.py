"""Reward by language: a scorer reads the state, told in words, and the sentence; no other reward is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from verbot.errors import ConfigError
from verbot.models.registries import Part
from verbot.models.reward_models import FittedScorer, Scorer, scorers
from verbot.spec import FloatArray
from verbot.training.rl.config import ReinforceConfig
from verbot.training.rl.envs import GroundedObservation, VecTransition
from verbot.training.rl.rewards.base import Rewards, rewards


@rewards.register("language")
class LanguageReward:
    """How much nearer the scorer says that the state has come to what was asked for, at every step, and its verdict at the end.

    Over an episode this adds up to `weight` times what was gained from the first state to the last, and the chance that it is
    done, less `cost` times the chance that it is not where an episode ends before its time: who commits itself wrongly loses
    something. The world is asked for nothing but the words, and whether the episode goes on.

    Args:
        scorer: by name with its options, or a path of a trained one.
        weight: of what is gained; 0 leaves the verdict alone.
        cost: of an end that is not what was asked for.

    Raises `ConfigError`, at the first episode, for a world that does not describe its state in words.
    """

    def __init__(self, config: ReinforceConfig, scorer: str | Mapping[str, Any] | Scorer, weight: float = 8.0, cost: float = 0.5):
        self._scorer: Scorer = _made(scorer) if isinstance(scorer, (str, Mapping)) else scorer
        self._weight, self._cost, self._env = weight, cost, config.env
        self._before, self._goals = np.zeros(config.worlds), [""] * config.worlds

    @staticmethod
    def fit(config: ReinforceConfig, options: Mapping[str, Any]) -> dict[str, Any]:
        """`options` with the identity of the scorer, where it has one."""
        if "scorer" not in options:
            raise ConfigError("reward 'language' needs a scorer: a path of a trained one, or a name with options")
        part = _part(options["scorer"])
        factory = scorers.get(part.name)
        fitted = factory.fit(part.options) if isinstance(factory, FittedScorer) else dict(part.options)
        return {**options, "scorer": {"name": part.name, "options": fitted}}

    def begin(self, worlds: Sequence[int], infos: Sequence[Mapping[str, Any]], seen: Sequence[GroundedObservation]) -> None:
        if not worlds:
            return
        for world, info in zip(worlds, infos, strict=True):
            if "state_text" not in info:
                raise ConfigError(f"env {self._env!r} does not describe its state in words: its info has no state_text")
            self._goals[world] = info["instruction"]
        scores = self._scorer.score([info["state_text"] for info in infos], [self._goals[world] for world in worlds])
        self._before[list(worlds)] = self._weight * scores[:, 0]

    def __call__(self, transitions: Sequence[VecTransition], actions: FloatArray) -> Rewards:
        scores = self._scorer.score([transition.info["state_text"] for transition in transitions], self._goals).astype(np.float64)
        over = np.array([transition.final is not None for transition in transitions])
        ended = over & ~np.array([transition.truncated for transition in transitions])
        near, done = scores.T
        verdict: Rewards = over * done - self._cost * ended * (1 - done)
        after = self._weight * near
        earned: Rewards = verdict + after - self._before
        self._before = after
        return earned


def _made(scorer: str | Mapping[str, Any]) -> Scorer:
    part = _part(scorer)
    made: Scorer = scorers.get(part.name)(**part.options)
    return made


def _part(scorer: str | Mapping[str, Any]) -> Part:
    if isinstance(scorer, str):
        return Part("matcher", {"path": scorer})
    if set(scorer) - {"name", "options"} or "name" not in scorer:
        raise ConfigError(f"a scorer is a path, or a name with options; got {dict(scorer)}")
    return Part(scorer["name"], scorer.get("options", {}))
