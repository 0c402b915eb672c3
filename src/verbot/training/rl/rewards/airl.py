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
from verbot.ranges import COUNT, COUNT_OR_NONE, FRACTION, NOT_NEGATIVE, SEED, check_ranges
from verbot.rollout.collect import CollectConfig, request_for
from verbot.rollout.episode import EpisodeRunner
from verbot.spec import FloatArray, Observation
from verbot.training.optimizer_state import PREFIX, flat, nested
from verbot.training.rl.config import ReinforceConfig
from verbot.training.rl.envs import GroundedObservation, VecTransition
from verbot.training.rl.rewards.base import LogProbs, Rewards, rewards


@dataclass(frozen=True)
class ExpertTrajectory:
    """One demonstration.

    Args:
        instruction: the instruction of the episode.
        observations: observations (t + 1).
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

    `is_absorbing` marks a step of the absorbing state, in which both states are the end of the episode.
    """

    instruction: str
    before: str
    after: str
    is_absorbing: bool = False


@dataclass(frozen=True)
class ExpertData:
    """The demonstrations from which the reward is recovered. The fields are options of the reward.

    Args:
        demonstrations: number of successful episodes of the expert.
        seed: seed of their training scenes.
        noise: noise of the expert's actions; only its clean actions are used.
    """

    demonstrations: int = 100
    seed: int = 1
    noise: float = 0.15

    def __post_init__(self) -> None:
        check_ranges(self, demonstrations=COUNT, seed=SEED, noise=NOT_NEGATIVE)


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The size of the discriminator and its training. The fields are options of the reward.

    Args:
        width: width of the discriminator.
        learning_rate, decay: learning rate and weight decay of AdamW.
        updates: number of updates after each rollout.
        episodes_per_side: number of episodes of the expert, and of the policy, in one update.
        steps_per_episode: number of steps that are sampled from each of these episodes.
        absorbing_fraction: fraction of these steps that are steps of the absorbing state.
    """

    width: int = 64
    learning_rate: float = 2e-3
    decay: float = 1e-2
    updates: int = 16
    episodes_per_side: int = 8
    steps_per_episode: int = 8
    absorbing_fraction: float = 0.25

    def __post_init__(self) -> None:
        check_ranges(
            self, width=COUNT, learning_rate=NOT_NEGATIVE, decay=NOT_NEGATIVE, updates=COUNT_OR_NONE, episodes_per_side=COUNT,
            steps_per_episode=COUNT, absorbing_fraction=FRACTION,
        )  # fmt: skip


EXPERT, DISCRIMINATOR = ExpertData(), DiscriminatorConfig()


def demonstrate(config: ReinforceConfig, by: ExpertData) -> list[ExpertTrajectory]:
    """The expert's successful episodes in training scenes: those that `verbot collect` records with the same seed.

    Raises `ConfigError` for an env that does not describe its state in words.
    """
    trajectories: list[ExpertTrajectory] = []
    collect_config = CollectConfig(env=config.env.name, tasks=config.env.tasks, seed=by.seed)
    with closing(make_env(config.env.name, **config.env.options)) as env:
        if not isinstance(env, Described):
            raise ConfigError(f"env {config.env.name!r} does not describe its state in words (see verbot.contracts.Described)")
        for number in range(2 * by.demonstrations):
            episode = EpisodeRunner(env, request_for(collect_config, config.env.tasks or env.tasks, number), by.seed)
            expert = expert_of(env, noise=by.noise, seed=int(np.random.SeedSequence([by.seed, number]).generate_state(1)[0]))
            expert.reset(episode.instruction)
            observations, states = [_ungrounded(env, episode.observation)], [episode.info["state_text"]]
            actions, clean = [], []
            for step in episode.run(expert):
                observations.append(_ungrounded(env, step.next_observation))
                states.append(step.info["state_text"])
                actions.append(step.action)
                clean.append(bool(np.array_equal(step.expert_action, step.action)))  # type: ignore[arg-type]
            if episode.info["success"]:
                instruction = observations[0].observation.instruction
                trajectories.append(
                    ExpertTrajectory(instruction, tuple(observations), tuple(states), np.stack(actions), np.array(clean))
                )
            if len(trajectories) == by.demonstrations:
                return trajectories
    raise ConfigError(
        f"the expert of {config.env.name!r} succeeded {len(trajectories)} times in {2 * by.demonstrations}; "
        f"{by.demonstrations} were requested"
    )


def _ungrounded(env: Env, observation: Observation) -> GroundedObservation:
    """An observation without keypoints."""
    shape = (1, len(env.robot_spec.color_names), len(POINTS))
    return GroundedObservation(observation, np.zeros((*shape, 2), np.float32), np.zeros(shape, bool))


@rewards.register("adversarial")
class AdversarialReward:
    """Adversarial inverse reinforcement learning (AIRL, Fu, Luo and Levine 2018), on descriptions of states in words.

    A discriminator separates the expert's steps from the policy's by D = exp f / (exp f + π(a|s)), with
    f = g(s′) + γh(s′) − h(s): g is the recovered reward, h a potential. g and h are the two outputs of a `Matcher` with random
    initial weights; it reads the description and the instruction. The policy earns g(s′) + h(s′) − h(s), clipped to
    ± `reward_clip` and divided by it, without the γ of f: a critic that has learned a discounted potential removes
    it from every advantage. The entropy bonus replaces the −log π of the paper.

    An episode that never ends would earn more than one that ends, or less, by the sign of the reward alone. So the end of an
    episode is an absorbing state (Kostrikov et al. 2019): the discriminator reads steps from an end to itself too, and reaching
    an end earns `absorbing_steps` of them at once.

    Args:
        expert: the demonstrations.
        discriminator: the size of the discriminator and its training.
        reward_clip: bound of the reward, before scaling to ±1.
        absorbing_steps: number of steps of the absorbing state that reaching an end earns.
    """

    def __init__(
        self,
        config: ReinforceConfig,
        expert: ExpertData = EXPERT,
        discriminator: DiscriminatorConfig = DISCRIMINATOR,
        reward_clip: float = 5.0,
        absorbing_steps: float = 8.0,
    ):
        self._gamma, self._discriminator = config.ppo.gamma, discriminator
        self._reward_clip, self._absorbing_steps = reward_clip, absorbing_steps
        self._trajectories = demonstrate(config, expert)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.matcher = Matcher(discriminator.width).eval()
        parameters = self.matcher.parameters()
        self._optimizer = torch.optim.AdamW(parameters, lr=discriminator.learning_rate, weight_decay=discriminator.decay)
        self._rng = np.random.default_rng([config.seed, 3])
        self._states, self._goals = [""] * config.env.num_envs, [""] * config.env.num_envs
        self._rollout: list[list[tuple[Step, bool]]] = []  # per control step and env: the step and whether it was the last

    def reset(
        self, env_ids: Sequence[int], infos: Sequence[Mapping[str, object]], observations: Sequence[GroundedObservation]
    ) -> None:
        for env, info in zip(env_ids, infos, strict=True):
            self._states[env], self._goals[env] = str(info["state_text"]), str(info["instruction"])

    def __call__(self, transitions: Sequence[VecTransition], actions: FloatArray) -> Rewards:
        after = [str(transition.info["state_text"]) for transition in transitions]
        steps = [Step(*fields) for fields in zip(self._goals, self._states, after, strict=True)]
        last = [transition.final is not None and not transition.truncated for transition in transitions]
        ends = [
            Step(step.instruction, step.after, step.after, is_absorbing=True)
            for step, is_last in zip(steps, last, strict=True)
            if is_last
        ]
        with torch.no_grad():
            shaped = self._shaped_reward([*steps, *ends], 1.0)
        clipped = shaped.clamp(-self._reward_clip, self._reward_clip).numpy().astype(np.float64)
        rewards: Rewards = clipped[: len(steps)] / self._reward_clip
        rewards[np.array(last)] += self._absorbing_steps / self._reward_clip * clipped[len(steps) :]
        self._rollout.append(list(zip(steps, last, strict=True)))
        self._states = after
        return rewards

    def learn(self, policy: LogProbs, log_probs: FloatArray) -> dict[str, float]:
        metrics = [self._update(policy, log_probs) for _ in range(self._discriminator.updates)]
        self._rollout.clear()
        return {name: float(np.mean([update[name] for update in metrics])) for name in metrics[0]}

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

    def _shaped_reward(self, steps: Sequence[Step], discount: float) -> Tensor:
        """AIRL's f of each step (n,): the reward g(s′) and its shaping, `discount` · h(s′) − h(s)."""
        goals = [step.instruction for step in steps]
        both = self.matcher([*(s.before for s in steps), *(s.after for s in steps)], goals * 2).unflatten(0, (2, -1))
        f: Tensor = both[1, :, 0] + discount * both[1, :, 1] - both[0, :, 1]
        return f

    def _update(self, policy: LogProbs, log_probs: FloatArray) -> dict[str, float]:
        expert, expert_log_probs = self._expert(policy)
        sampled, policy_log_probs = self._policy(log_probs)
        logits = self._shaped_reward([*expert, *sampled], self._gamma) - torch.as_tensor(
            np.concatenate([expert_log_probs, policy_log_probs]), dtype=torch.float32
        )
        is_expert = torch.cat([torch.ones(len(expert)), torch.zeros(len(sampled))])
        weight = torch.where(is_expert > 0, 0.5 / len(expert), 0.5 / len(sampled))
        loss = (weight * F.binary_cross_entropy_with_logits(logits, is_expert, reduction="none")).sum()
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.matcher.parameters(), 1.0)
        self._optimizer.step()
        self.matcher.eval()
        correct = (logits > 0) == (is_expert > 0)
        return {
            "discriminator loss": float(loss.detach()),
            "discriminator_accuracy/expert": float(correct[: len(expert)].float().mean()),
            "discriminator_accuracy/policy": float(correct[len(expert) :].float().mean()),
        }

    def _expert(self, policy: LogProbs) -> tuple[list[Step], FloatArray]:
        """Steps of demonstrations, with their log-probabilities under the policy."""
        steps, observations, actions, has_action = [], [], [], []
        for number in self._rng.integers(len(self._trajectories), size=self._discriminator.episodes_per_side):
            trajectory = self._trajectories[number]
            clean_steps = np.flatnonzero(trajectory.clean)
            for _ in range(self._discriminator.steps_per_episode):
                is_absorbing = self._rng.random() < self._discriminator.absorbing_fraction
                index = len(trajectory.actions) if is_absorbing else int(self._rng.choice(clean_steps))
                after = min(index + 1, len(trajectory.actions))
                has_action.append(not is_absorbing)
                steps.append(Step(trajectory.instruction, trajectory.states[index], trajectory.states[after], is_absorbing))
                if not is_absorbing:
                    observations.append(trajectory.observations[index])
                    actions.append(trajectory.actions[index])
        log_probs = np.zeros(len(steps), np.float32)
        if observations:
            log_probs[has_action] = policy(observations, np.stack(actions))
        return steps, log_probs

    def _policy(self, log_probs: FloatArray) -> tuple[list[Step], FloatArray]:
        """Steps of the rollout, with their log-probabilities; ends are as frequent as for the expert, if there are any."""
        ends = [step for row in self._rollout for step, last in row if last]
        steps, step_log_probs = [], []
        for env in self._rng.integers(len(self._goals), size=self._discriminator.episodes_per_side):
            for _ in range(self._discriminator.steps_per_episode):
                if ends and self._rng.random() < self._discriminator.absorbing_fraction:
                    end = ends[int(self._rng.integers(len(ends)))]
                    steps.append(Step(end.instruction, end.after, end.after, is_absorbing=True))
                    step_log_probs.append(0.0)
                else:
                    time = int(self._rng.integers(len(self._rollout)))
                    steps.append(self._rollout[time][env][0])
                    step_log_probs.append(float(log_probs[time, env]))
        return steps, np.array(step_log_probs, np.float32)
