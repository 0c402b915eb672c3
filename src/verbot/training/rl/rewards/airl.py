"""Adversarial inverse reinforcement learning: a reward is learned from demonstrations while it trains the policy."""

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
from verbot.rollout.episode import RunningEpisode
from verbot.spec import FloatArray, Observation
from verbot.training.optimizer_state import PREFIX, flat, nested
from verbot.training.rl.config import ReinforceConfig
from verbot.training.rl.envs import GroundedObservation, VecTransition
from verbot.training.rl.rewards.base import LogProbs, Rewards, rewards


@dataclass(frozen=True)
class ExpertTrajectory:
    """One demonstration.

    Args:
        instruction: of the episode.
        observations: (t + 1).
        states: descriptions of the state in words (t + 1).
        actions: (t, a), in the robot's units.
        clean: (t,), whether the action was the expert's clean one.
    """

    instruction: str
    observations: tuple[GroundedObservation, ...]
    states: tuple[str, ...]
    actions: FloatArray
    clean: np.ndarray


@dataclass(frozen=True)
class Step:
    """The input of the discriminator: an instruction and the states before and after a step.

    `over` marks a step of the absorbing state, in which both states are the end of the episode.
    """

    instruction: str
    before: str
    after: str
    over: bool = False


@dataclass(frozen=True)
class ExpertData:
    """Whose demonstrations the reward is recovered from. The fields are options of the reward.

    Args:
        demonstrations: of the expert in training scenes of `seed`, with `noise` in its actions; only its clean actions are used.
    """

    demonstrations: int = 100
    seed: int = 1
    noise: float = 0.15


@dataclass(frozen=True)
class Discriminator:
    """How large the discriminator is, and how it learns. The fields are options of the reward.

    Args:
        width: of the discriminator.
        learning_rate, decay: of AdamW.
        updates: after each rollout.
        groups, each: episodes of either side in an update, and the steps of each.
        ended: fraction of those that are ends.
    """

    width: int = 64
    learning_rate: float = 2e-3
    decay: float = 1e-2
    updates: int = 16
    groups: int = 8
    each: int = 8
    ended: float = 0.25


EXPERT, DISCRIMINATOR = ExpertData(), Discriminator()


def demonstrate(config: ReinforceConfig, by: ExpertData) -> list[ExpertTrajectory]:
    """The expert's successful episodes in training scenes: those that `verbot collect` records with the same seed.

    Raises `ConfigError` for an env that does not describe its state in words.
    """
    shown: list[ExpertTrajectory] = []
    plays = CollectConfig(env=config.env.name, tasks=config.env.tasks, seed=by.seed)
    with closing(make_env(config.env.name, **config.env.options)) as env:
        if not isinstance(env, Described):
            raise ConfigError(f"env {config.env.name!r} does not describe its state in words (see verbot.contracts.Described)")
        for number in range(2 * by.demonstrations):
            episode = RunningEpisode(env, request_for(plays, config.env.tasks or env.tasks, number), by.seed)
            expert = expert_of(env, noise=by.noise, seed=int(np.random.SeedSequence([by.seed, number]).generate_state(1)[0]))
            expert.reset(episode.instruction)
            seen, states = [_ungrounded(env, episode.observation)], [episode.info["state_text"]]
            actions, clean = [], []
            for step in episode.run(expert):
                seen.append(_ungrounded(env, step.next_observation))
                states.append(step.info["state_text"])
                actions.append(step.action)
                clean.append(bool(np.array_equal(step.label, step.action)))  # type: ignore[arg-type]
            if episode.info["success"]:
                instruction = seen[0].observation.instruction
                shown.append(ExpertTrajectory(instruction, tuple(seen), tuple(states), np.stack(actions), np.array(clean)))
            if len(shown) == by.demonstrations:
                return shown
    raise ConfigError(
        f"the expert of {config.env.name!r} succeeded {len(shown)} times in {2 * by.demonstrations}; "
        f"{by.demonstrations} were requested"
    )


def _ungrounded(env: Env, observation: Observation) -> GroundedObservation:
    """An observation without keypoints."""
    shape = (1, len(env.robot_spec.camera_names), len(POINTS))
    return GroundedObservation(observation, np.zeros((*shape, 2), np.float32), np.zeros(shape, bool))


@rewards.register("adversarial")
class AdversarialReward:
    """Adversarial inverse reinforcement learning (AIRL, Fu, Luo and Levine 2018), on descriptions of states in words.

    A discriminator separates the expert's steps from the policy's by D = exp f / (exp f + π(a|s)), with
    f = g(s′) + γh(s′) − h(s): g is the recovered reward, h a potential. g and h are the two outputs of a `Matcher` with random
    initial weights; it reads the description and the instruction. The policy earns g(s′) + h(s′) − h(s), clipped to ± `reach`
    and divided by it, without the γ of f: a critic that has learned a discounted potential removes it from every advantage.
    The entropy bonus replaces the −log π of the paper.

    An episode that never ends would earn more than one that ends, or less, by the sign of the reward alone. So the end of an
    episode is an absorbing state (Kostrikov et al. 2019): the discriminator reads steps from an end to itself too, and reaching
    an end earns `stays` of them at once.

    Args:
        expert: the demonstrations.
        discriminator: how large it is, and how it learns.
        reach: bound of the reward, before scaling to ±1.
        stays: control steps that reaching an end counts for.
    """

    def __init__(
        self,
        config: ReinforceConfig,
        expert: ExpertData = EXPERT,
        discriminator: Discriminator = DISCRIMINATOR,
        reach: float = 5.0,
        stays: float = 8.0,
    ):
        self._gamma, self._discriminator, self._reach, self._stays = config.ppo.gamma, discriminator, reach, stays
        self._shown = demonstrate(config, expert)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.matcher = Matcher(discriminator.width).eval()
        parameters = self.matcher.parameters()
        self._optimizer = torch.optim.AdamW(parameters, lr=discriminator.learning_rate, weight_decay=discriminator.decay)
        self._rng = np.random.default_rng([config.seed, 3])
        self._states, self._goals = [""] * config.env.num_envs, [""] * config.env.num_envs
        self._played: list[list[tuple[Step, bool]]] = []  # per control step and env: the step and whether it was the last

    def begin(self, envs: Sequence[int], infos: Sequence[Mapping[str, object]], seen: Sequence[GroundedObservation]) -> None:
        for env, info in zip(envs, infos, strict=True):
            self._states[env], self._goals[env] = str(info["state_text"]), str(info["instruction"])

    def __call__(self, transitions: Sequence[VecTransition], actions: FloatArray) -> Rewards:
        after = [str(transition.info["state_text"]) for transition in transitions]
        steps = [Step(*known) for known in zip(self._goals, self._states, after, strict=True)]
        last = [transition.final is not None and not transition.truncated for transition in transitions]
        ends = [Step(step.instruction, step.after, step.after, over=True) for step, over in zip(steps, last, strict=True) if over]
        with torch.no_grad():
            worth = self._advantage([*steps, *ends], 1.0).clamp(-self._reach, self._reach).numpy().astype(np.float64)
        earned: Rewards = worth[: len(steps)] / self._reach
        earned[np.array(last)] += self._stays / self._reach * worth[len(steps) :]
        self._played.append(list(zip(steps, last, strict=True)))
        self._states = after
        return earned

    def learn(self, policy: LogProbs, log_probs: FloatArray) -> dict[str, float]:
        figures = [self._update(policy, log_probs) for _ in range(self._discriminator.updates)]
        self._played.clear()
        return {name: float(np.mean([figure[name] for figure in figures])) for name in figures[0]}

    def save(self, folder: Path) -> None:
        """``reward.safetensors``: g and h, as `Matcher.load` reads them."""
        self.matcher.save(folder / "reward.safetensors", {"discount": self._gamma})

    def state(self) -> dict[str, Tensor]:
        weights = {name: p.detach().clone() for name, p in self.matcher.state_dict().items()}
        return {**weights, **flat(self._optimizer.state_dict()["state"])}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.matcher.load_state_dict({name: value for name, value in state.items() if not name.startswith(PREFIX)})
        kept = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": nested(state), "param_groups": kept})
        self.matcher.eval()  # clears the cache of encoded words

    def _advantage(self, steps: Sequence[Step], discount: float) -> Tensor:
        """g(s′) + `discount` · h(s′) − h(s) of each step (n,)."""
        goals = [step.instruction for step in steps]
        both = self.matcher([*(s.before for s in steps), *(s.after for s in steps)], goals * 2).unflatten(0, (2, -1))
        f: Tensor = both[1, :, 0] + discount * both[1, :, 1] - both[0, :, 1]
        return f

    def _update(self, policy: LogProbs, log_probs: FloatArray) -> dict[str, float]:
        expert, theirs = self._expert(policy)
        sampled, ours = self._policy(log_probs)
        logits = self._advantage([*expert, *sampled], self._gamma) - torch.as_tensor(
            np.concatenate([theirs, ours]), dtype=torch.float32
        )
        real = torch.cat([torch.ones(len(expert)), torch.zeros(len(sampled))])
        weight = torch.where(real > 0, 0.5 / len(expert), 0.5 / len(sampled))
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

    def _expert(self, policy: LogProbs) -> tuple[list[Step], FloatArray]:
        """Steps of demonstrations, with their log-probabilities under the policy."""
        steps, seen, actions, has_action = [], [], [], []
        for number in self._rng.integers(len(self._shown), size=self._discriminator.groups):
            shown = self._shown[number]
            meant = np.flatnonzero(shown.clean)
            for _ in range(self._discriminator.each):
                over = self._rng.random() < self._discriminator.ended
                place = len(shown.actions) if over else int(self._rng.choice(meant))
                after = min(place + 1, len(shown.actions))
                has_action.append(not over)
                steps.append(Step(shown.instruction, shown.states[place], shown.states[after], over))
                if not over:
                    seen.append(shown.observations[place])
                    actions.append(shown.actions[place])
        chances = np.zeros(len(steps), np.float32)
        if seen:
            chances[has_action] = policy(seen, np.stack(actions))
        return steps, chances

    def _policy(self, log_probs: FloatArray) -> tuple[list[Step], FloatArray]:
        """Steps of the rollout, with their log-probabilities; ends are as frequent as for the expert, if there are any."""
        ends = [step for row in self._played for step, last in row if last]
        steps, chances = [], []
        for env in self._rng.integers(len(self._goals), size=self._discriminator.groups):
            for _ in range(self._discriminator.each):
                if ends and self._rng.random() < self._discriminator.ended:
                    end = ends[int(self._rng.integers(len(ends)))]
                    steps.append(Step(end.instruction, end.after, end.after, over=True))
                    chances.append(0.0)
                else:
                    time = int(self._rng.integers(len(self._played)))
                    steps.append(self._played[time][env][0])
                    chances.append(float(log_probs[time, env]))
        return steps, np.array(chances, np.float32)
