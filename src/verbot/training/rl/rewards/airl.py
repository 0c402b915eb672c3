"""Inverse reinforcement learning: what a step is worth is found out from demonstrations, while a policy learns by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from verbot.contracts import POINTS, Described, Env, expert_of
from verbot.envs import make_env
from verbot.errors import ConfigError
from verbot.models.reward_models.matcher import Matcher
from verbot.rollout.collect import CollectConfig, request_for
from verbot.rollout.episode import Episode
from verbot.spec import FloatArray, Observation
from verbot.training.optimizer_state import MOMENTS, flat, nested
from verbot.training.rl.config import ReinforceConfig
from verbot.training.rl.envs import GroundedObservation, VecTransition
from verbot.training.rl.rewards.base import Judge, Rewards, rewards


@dataclass(frozen=True)
class Shown:
    """One demonstration.

    Args:
        told: its instruction.
        looks: observations (t + 1).
        states: descriptions of the state in words (t + 1).
        actions: (t, a), in the robot's units.
        clean: (t,), whether the action was the expert's clean one.
    """

    told: str
    looks: tuple[GroundedObservation, ...]
    states: tuple[str, ...]
    actions: FloatArray
    clean: np.ndarray


@dataclass(frozen=True)
class Step:
    """What a discriminator judges: a sentence, the state before and after, and whether the episode was over already, so that both
    are its end."""

    told: str
    before: str
    after: str
    over: bool = False


def demonstrate(config: ReinforceConfig, episodes: int, seed: int, noise: float) -> list[Shown]:
    """The expert's successful episodes in training scenes: those that `verbot collect` records with the same seed.

    Raises `ConfigError` for an env that does not describe its state in words.
    """
    shown: list[Shown] = []
    plays = CollectConfig(env=config.env, tasks=config.tasks, seed=seed)
    with closing(make_env(config.env, **config.options)) as env:
        if not isinstance(env, Described):
            raise ConfigError(f"env {config.env!r} does not describe its state in words (see verbot.contracts.Described)")
        for number in range(2 * episodes):
            episode = Episode(env, request_for(plays, config.tasks or env.tasks, number), seed)
            expert = expert_of(env, noise=noise, seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
            expert.reset(episode.instruction)
            looks, states = [_ungrounded(env, episode.observation)], [episode.info["state_text"]]
            actions, clean = [], []
            for step in episode.run(expert):
                looks.append(_ungrounded(env, step.next_observation))
                states.append(step.info["state_text"])
                actions.append(step.action)
                clean.append(bool(np.array_equal(step.label, step.action)))  # type: ignore[arg-type]
            if episode.info["success"]:
                told = looks[0].observation.instruction
                shown.append(Shown(told, tuple(looks), tuple(states), np.stack(actions), np.array(clean)))
            if len(shown) == episodes:
                return shown
    raise ConfigError(f"the expert of {config.env!r} succeeded {len(shown)} times in {2 * episodes}; {episodes} were asked for")


def _ungrounded(env: Env, observation: Observation) -> GroundedObservation:
    """An observation without the places of objects."""
    shape = (1, len(env.robot_spec.camera_names), len(POINTS))
    return GroundedObservation(observation, np.zeros((*shape, 2), np.float32), np.zeros(shape, bool))


@rewards.register("adversarial")
class AdversarialReward:
    """Adversarial inverse reinforcement learning (AIRL, Fu, Luo and Levine 2018), on states told in words.

    A discriminator tells the expert's steps from the policy's by D = exp f / (exp f + π(a|s)), with f = g(s′) + γh(s′) − h(s): g
    is the reward that is recovered, h a potential. g and h are the two outputs of a `Matcher` that begins at random and reads
    the description and the sentence. The policy earns g(s′) + h(s′) − h(s), cut off at ± `reach` and divided by it, without the γ
    of f: a critic that has learned a potential takes it out of every advantage again. The entropy bonus stands for the −log π of
    the paper.

    Episodes end when the robot has committed itself, and what never ends earns more than what ends, or less, by the sign of its
    reward alone. So an end counts as a state that stays (Kostrikov et al. 2019): steps from an end to itself are judged too, and
    who comes there earns `stays` of them at once.

    Args:
        demonstrations: of the expert in training scenes of `seed`, with `noise` in what it does; only what it meant is judged.
        updates: of the discriminator, after each rollout.
        groups, each: episodes of either side in an update, and steps of each.
        ended: share of those that are ends.
        learning_rate, decay: of AdamW.
        reach: of what is earned.
        stays: control steps.
        width: of the discriminator.
    """

    def __init__(
        self,
        config: ReinforceConfig,
        demonstrations: int = 100,
        seed: int = 1,
        noise: float = 0.15,
        updates: int = 16,
        groups: int = 8,
        each: int = 8,
        ended: float = 0.25,
        learning_rate: float = 2e-3,
        decay: float = 1e-2,
        reach: float = 5.0,
        stays: float = 8.0,
        width: int = 64,
    ):
        self._discount, self._updates, self._groups, self._each, self._ended = config.discount, updates, groups, each, ended
        self._reach, self._stays = reach, stays
        self._shown = demonstrate(config, demonstrations, seed, noise)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.matcher = Matcher(width).eval()
        self._optimizer = torch.optim.AdamW(self.matcher.parameters(), lr=learning_rate, weight_decay=decay)
        self._rng = np.random.default_rng([config.seed, 3])
        self._states, self._goals = [""] * config.worlds, [""] * config.worlds
        self._played: list[
            list[tuple[Step, bool]]
        ] = []  # of each control step, of each world: the step and whether it was the last

    def begin(self, worlds: Sequence[int], infos: Sequence[Mapping[str, object]], seen: Sequence[GroundedObservation]) -> None:
        for world, info in zip(worlds, infos, strict=True):
            self._states[world], self._goals[world] = str(info["state_text"]), str(info["instruction"])

    def __call__(self, transitions: Sequence[VecTransition], actions: FloatArray) -> Rewards:
        after = [str(transition.info["state_text"]) for transition in transitions]
        steps = [Step(*known) for known in zip(self._goals, self._states, after, strict=True)]
        last = [transition.final is not None and not transition.truncated for transition in transitions]
        ends = [Step(step.told, step.after, step.after, over=True) for step, over in zip(steps, last, strict=True) if over]
        with torch.no_grad():
            worth = self._advantage([*steps, *ends], 1.0).clamp(-self._reach, self._reach).numpy().astype(np.float64)
        earned: Rewards = worth[: len(steps)] / self._reach
        earned[np.array(last)] += self._stays / self._reach * worth[len(steps) :]
        self._played.append(list(zip(steps, last, strict=True)))
        self._states = after
        return earned

    def learn(self, judge: Judge, log_probs: FloatArray) -> dict[str, float]:
        figures = [self._update(judge, log_probs) for _ in range(self._updates)]
        self._played.clear()
        return {name: float(np.mean([figure[name] for figure in figures])) for name in figures[0]}

    def save(self, folder: Path) -> None:
        """``reward.safetensors``: g and h, as `Matcher.load` reads them."""
        self.matcher.save(folder / "reward.safetensors", {"discount": self._discount})

    def state(self) -> dict[str, Tensor]:
        weights = {name: p.detach().clone() for name, p in self.matcher.state_dict().items()}
        return {**weights, **flat(self._optimizer.state_dict()["state"])}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.matcher.load_state_dict({name: value for name, value in state.items() if not name.startswith(MOMENTS)})
        kept = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": nested(state), "param_groups": kept})
        self.matcher.eval()  # forgets what the old weights made of words

    def _advantage(self, steps: Sequence[Step], discount: float) -> Tensor:
        """g(s′) + `discount` · h(s′) − h(s) of each step (n,)."""
        told = [step.told for step in steps]
        both = self.matcher([*(s.before for s in steps), *(s.after for s in steps)], told * 2).unflatten(0, (2, -1))
        f: Tensor = both[1, :, 0] + discount * both[1, :, 1] - both[0, :, 1]
        return f

    def _update(self, judge: Judge, log_probs: FloatArray) -> dict[str, float]:
        expert, theirs = self._expert(judge)
        policy, ours = self._policy(log_probs)
        logits = self._advantage([*expert, *policy], self._discount) - torch.as_tensor(
            np.concatenate([theirs, ours]), dtype=torch.float32
        )
        real = torch.cat([torch.ones(len(expert)), torch.zeros(len(policy))])
        weight = torch.where(real > 0, 0.5 / len(expert), 0.5 / len(policy))
        loss = (weight * F.binary_cross_entropy_with_logits(logits, real, reduction="none")).sum()
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.matcher.parameters(), 1.0)
        self._optimizer.step()
        self.matcher.eval()
        right = (logits > 0) == (real > 0)
        return {
            "discriminator loss": float(loss.detach()),
            "expert known": float(right[: len(expert)].float().mean()),
            "policy known": float(right[len(expert) :].float().mean()),
        }

    def _expert(self, judge: Judge) -> tuple[list[Step], FloatArray]:
        """Steps of demonstrations, and the logarithm of the policy's chance of each."""
        steps, looks, actions, asked = [], [], [], []
        for number in self._rng.integers(len(self._shown), size=self._groups):
            shown = self._shown[number]
            meant = np.flatnonzero(shown.clean)
            for _ in range(self._each):
                over = self._rng.random() < self._ended
                place = len(shown.actions) if over else int(self._rng.choice(meant))
                after = min(place + 1, len(shown.actions))
                asked.append(not over)
                steps.append(Step(shown.told, shown.states[place], shown.states[after], over))
                if not over:
                    looks.append(shown.looks[place])
                    actions.append(shown.actions[place])
        chances = np.zeros(len(steps), np.float32)
        if looks:
            chances[asked] = judge(looks, np.stack(actions))
        return steps, chances

    def _policy(self, log_probs: FloatArray) -> tuple[list[Step], FloatArray]:
        """Steps just played, and the logarithm of the chance of each; ends as often as among the expert's, if there are any."""
        ends = [step for row in self._played for step, last in row if last]
        steps, chances = [], []
        for world in self._rng.integers(len(self._goals), size=self._groups):
            for _ in range(self._each):
                if ends and self._rng.random() < self._ended:
                    end = ends[int(self._rng.integers(len(ends)))]
                    steps.append(Step(end.told, end.after, end.after, over=True))
                    chances.append(0.0)
                else:
                    time = int(self._rng.integers(len(self._played)))
                    steps.append(self._played[time][world][0])
                    chances.append(float(log_probs[time, world]))
        return steps, np.array(chances, np.float32)
