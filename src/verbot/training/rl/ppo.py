"""Proximal policy optimization (PPO) of a policy, with Stable-Baselines3."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from torch import Tensor

from verbot.configuration import build, differences, dump_yaml, former_names, load_yaml
from verbot.contracts import Leveled
from verbot.envs import make_env
from verbot.errors import ConfigError, CorruptFileError
from verbot.files import hold, read_record, write_atomic
from verbot.models.format_1 import weight_name
from verbot.models.network import Part
from verbot.parallel import signals
from verbot.policy.identity import policy_identity
from verbot.policy.policy import VLAPolicy
from verbot.policy.storage import policy_folder
from verbot.statistics import Statistics
from verbot.training.distributed.device import find_device
from verbot.training.log import BUSY, Log
from verbot.training.optimizer_state import flat, nested
from verbot.training.rl.actor_critic import ActorCritic, ObservationEncoder, PolicyVecEnv
from verbot.training.rl.config import PerceptionWarmup, ReinforceConfig
from verbot.training.rl.curriculum import CurriculumState
from verbot.training.rl.envs import EnvRunners, RunState, sample_env_statistics
from verbot.training.rl.rewards.base import LearnedReward, PinsFileHashes, Reward, make_reward, rewards

if not TYPE_CHECKING:
    __getattr__ = former_names(__name__, reinforce="train_ppo")

CHECKPOINT, CONFIG, RESULT, POLICY = "checkpoint.safetensors", "config.yaml", "result.json", "policy"
RECENT = 400  # number of episodes in the success rate of the progress line


@dataclass(frozen=True)
class ReinforceResult:
    """The result of a run of PPO: `steps` control steps, `episodes` that ended, and the success rate of the last `RECENT` of
    them, with sampled actions."""

    policy: str
    steps: int
    episodes: int
    success: float | None
    errors: int
    seconds: float


def train_ppo(
    config: ReinforceConfig,
    out: str | Path,
    *,
    reward: Reward | None = None,
    resume: bool = True,
    progress: bool = True,
    card: str = "",
) -> ReinforceResult:
    """Train by PPO; writes ``policy/``, ``config.yaml``, ``log.jsonl`` and ``result.json`` into `out`.

    A repeated call resumes from the last checkpoint, with new episodes (unlike `train_policy`, not to the bit).

    Args:
        reward: replaces the reward of `config`.
        card: Markdown for the policy's card.

    Raises:
        ConfigError: the policy cannot be trained by PPO, or `out` holds another run.
        DataError: another process trains in `out`.
    """
    out, config = Path(out), with_content_hashes(config)
    _check_tasks(config)
    with hold(out, BUSY):
        return _train(config, out, reward, resume, progress, card)


def _train(config: ReinforceConfig, out: Path, reward: Reward | None, resume: bool, progress: bool, card: str) -> ReinforceResult:
    done = _claim(config, out, resume)
    if done is not None:
        return done
    curriculum_state = _make_curriculum_state(config, _progress(out).get("course"))
    torch.set_num_threads(config.parallelism.threads)
    with torch.random.fork_rng(devices=[]), _algorithm(config, out, reward) as (algorithm, policy, runners):
        state = _restore(out, algorithm)
        with Log(out, algorithm.num_timesteps, config.steps, progress) as log, signals.deferred() as request:
            callback = _RunCallback(config, out, policy, log, state, runners, curriculum_state, request)
            left = config.steps - algorithm.num_timesteps
            if left > 0:
                algorithm.learn(left, callback=callback, reset_num_timesteps=False)
        policy.network.eval().requires_grad_(True)
        policy.save(out / POLICY, card=card)
        learned = algorithm.get_env().reward  # type: ignore[union-attr]
        if isinstance(learned, LearnedReward):
            learned.save(out)
        result = ReinforceResult(str(out / POLICY), algorithm.num_timesteps, callback.episodes, callback.success(),
                                 callback.errors, round(callback.seconds, 1))  # fmt: skip
        write_atomic(out / RESULT, json.dumps(asdict(result), indent=1))
    return result


def with_content_hashes(config: ReinforceConfig) -> ReinforceConfig:
    """`config` with the content hashes of the initial policy and of the files that the reward reads.

    Raises `ConfigError` if one differs from a hash that `config` has already.
    """
    factory, options = rewards.get(config.reward.name), config.reward.options
    if isinstance(factory, PinsFileHashes):
        config = dataclasses.replace(config, reward=Part(config.reward.name, factory.fit(config, options)))
    init = config.init
    if init.init_from is None:
        return config
    sha256 = policy_identity(policy_folder(init.init_from))
    if init.sha256 not in (None, sha256):
        raise ConfigError(
            f"the policy {init.init_from} is not the one that this run started from: its sha256 is {sha256}, not {init.sha256}; "
            f"restore that policy, or start a new run in another folder"
        )
    return dataclasses.replace(config, init=dataclasses.replace(init, sha256=sha256))


def initial_policy(config: ReinforceConfig) -> VLAPolicy:
    """The policy to train: the one in ``config.init``, or a new one."""
    start = config.init.init_from
    if start is not None:
        policy = VLAPolicy.load(start)
        remembers = policy.network.backbone.initial(1) is not None
        if policy.config.history > 1 or remembers or policy.config.previous_action or policy.config.goal:
            raise ConfigError(f"{start} reads more than one frame and its instruction; reinforcement cannot start from it yet")
        return policy
    spec, states, sentences = sample_env_statistics(config)
    rng = np.random.default_rng(config.seed)
    actions = rng.uniform(spec.action_low(), spec.action_high(), (4096, spec.action_size))
    statistics = Statistics.of({"state": states, "action": actions})
    return VLAPolicy.create(config.network, spec, statistics, sentences, seed=config.seed)


@contextmanager
def _algorithm(config: ReinforceConfig, out: Path, reward: Reward | None) -> Iterator[tuple[PPO, VLAPolicy, EnvRunners]]:
    policy = initial_policy(config)
    device, ppo, envs = find_device(config.parallelism.device), config.ppo, config.env.num_envs
    policy.network.to(device)
    encoder = ObservationEncoder(policy, config.grounding_queries, config.perception_warmup is not None)
    runners = EnvRunners(config, _progress(out).get("episodes", 0) // envs)
    reward = make_reward(config) if reward is None else reward
    vec_env = PolicyVecEnv(runners, policy, encoder, reward)
    share = config.samples_per_update / config.steps
    try:
        algorithm = PPO(
            ActorCritic,  # type: ignore[arg-type]
            vec_env,
            learning_rate=lambda left: ppo.learning_rate * (max(left, 0.0) + share),  # `left` is updated after a rollout
            n_steps=ppo.num_steps,
            batch_size=ppo.batch_size,
            n_epochs=ppo.epochs,
            gamma=ppo.gamma,
            gae_lambda=ppo.gae_lambda,
            clip_range=ppo.clip,
            ent_coef=ppo.entropy_coef,
            vf_coef=ppo.value_coef,
            max_grad_norm=ppo.clip_norm,
            target_kl=ppo.target_kl,
            policy_kwargs={"policy": policy, "encoder": encoder, "config": config},
            seed=config.seed,
            device=device,
        )
        algorithm.set_logger(Logger(None, []))
        yield algorithm, policy, runners
    finally:
        vec_env.close()


class _RunCallback(BaseCallback):
    """Counts episodes, writes the log, updates a learned reward, and saves checkpoints."""

    def __init__(
        self,
        config: ReinforceConfig,
        out: Path,
        policy: VLAPolicy,
        log: Log,
        state: dict[str, Any],
        runners: EnvRunners,
        curriculum_state: CurriculumState | None,
        request: signals.StopRequest,
    ):
        super().__init__()
        self._request = request
        self._runners, self._curriculum_state = runners, curriculum_state
        self._config, self._out, self._policy, self._log = config, out, policy, log
        self.updates: int = state.get("updates", 0)
        self.episodes: int = state.get("episodes", 0)
        self.errors: int = state.get("errors", 0)
        self.seconds: float = state.get("seconds", 0.0)
        self._ended: deque[dict[str, Any]] = deque(state.get("ended", []), RECENT)
        self._resumed, self._started = self.seconds, time.monotonic()
        self._kept: dict[str, Any] = state  # as the current rollout began
        self._broadcast_run_state()

    def _broadcast_run_state(self) -> None:
        """Report the state of the run to the env runners."""
        reached = {} if self._curriculum_state is None else self._curriculum_state.reached
        self._runners.set_run_state(RunState(reached, self._warming_up()))

    def _warming_up(self) -> bool:
        warmup = self._config.perception_warmup
        return warmup is not None and self.updates < warmup.updates

    def success(self) -> float | None:
        return float(np.mean([e["success"] for e in self._ended])) if self._ended else None

    def _on_rollout_start(self) -> None:
        self._kept = self._state()
        actor: Any = self.model.policy
        actor.train_critic_only(self.updates < self._config.ppo.critic_warmup)
        self._anneal_entropy()
        if self._config.perception_warmup is not None:
            self._set_warmup(self._config.perception_warmup)
        if self.updates and self.updates % self._config.checkpoint_every == 0:
            self._save()

    def _anneal_entropy(self) -> None:
        """Set the weight of the entropy bonus in the coming update."""
        first, last = self._config.ppo.entropy_coef, self._config.ppo.entropy_coef_end
        model: Any = self.model
        if last is not None:
            model.ent_coef = first + (last - first) * min(self.num_timesteps / self._config.steps, 1.0)

    def _set_warmup(self, warmup: PerceptionWarmup) -> None:
        """Set the losses, batch size and learning rate of the coming update."""
        model: Any = self.model
        warming_up = self._warming_up()
        model.policy.train_perception(only=warming_up)
        model.batch_size = warmup.batch_size if warming_up else self._config.ppo.batch_size
        if warming_up:
            rate = warmup.rate(self.updates)
            model.lr_schedule = lambda left: rate
        else:
            model.lr_schedule = model.learning_rate
        if self.updates == warmup.updates:
            self._broadcast_run_state()

    def _on_step(self) -> bool:
        if self._request.number:
            self._save()
            raise signals.Stopped(self._request.number, f" after {self._kept['steps']} steps, with a checkpoint")
        for info in self.locals["infos"]:
            if "terminal_observation" in info:
                self.episodes += 1
                self.errors += info.get("error") is not None
                reported = {name: info[name] for name in ("task", "level", "length") if name in info}
                self._ended.append({**reported, "success": bool(info["success"])})
                curriculum_state = self._curriculum_state
                if curriculum_state and curriculum_state.record_episode(info["task"], info["level"], bool(info["success"])):
                    self._broadcast_run_state()
        return True

    def _on_rollout_end(self) -> None:
        self.updates += 1
        learned = self._learn()
        self.seconds = self._resumed + time.monotonic() - self._started
        metrics = {name.split("/")[1]: float(value) for name, value in self.logger.name_to_value.items() if "/" in name}
        by_task: dict[str, list[bool]] = {}
        for episode in self._ended:
            by_task.setdefault(episode["task"], []).append(episode["success"])
        actor: Any = self.model.policy
        if actor.keypoint_errors:
            metrics["keypoint_l1"] = float(np.mean(actor.keypoint_errors))
            actor.keypoint_errors.clear()
        success = {f"success {task}": float(np.mean(wins)) for task, wins in sorted(by_task.items())}
        if self._curriculum_state is not None:
            metrics |= {f"level {task}": float(level) for task, level in self._curriculum_state.reached.items()}
        reward = float(np.mean(self.model.rollout_buffer.rewards))  # type: ignore[attr-defined]
        self._log.record("reinforce", self.num_timesteps, episodes=self.episodes, reward=reward, **success, **learned, **metrics)
        progress_text = ", ".join(f"{name} {100 * value:.0f} %" for name, value in success.items())
        self._log.advance(self.num_timesteps, self._config.steps, progress_text or "no episode has ended yet")

    def _learn(self) -> dict[str, float]:
        """Update a learned reward with the latest rollout; the policy is still the one that produced it."""
        vec_env: Any = self.training_env
        if not isinstance(vec_env.reward, LearnedReward):
            return {}
        actor: Any = self.model.policy
        log_probs = self.model.rollout_buffer.log_probs  # type: ignore[attr-defined]
        return vec_env.reward.learn(lambda seen, actions: vec_env.log_probs(actor, seen, actions), log_probs)

    def _state(self) -> dict[str, Any]:
        curriculum = self._curriculum_state.state() if self._curriculum_state is not None else None
        return {"steps": self.num_timesteps, "updates": self.updates, "episodes": self.episodes, "errors": self.errors,
                "seconds": self.seconds, "ended": list(self._ended), "course": curriculum}  # fmt: skip

    def _save(self) -> None:
        """Save the state of the rollout's beginning: what has happened in it happens again when the run is resumed."""
        actor = self.model.policy
        tensors = {f"actor.{name}": value for name, value in actor.state_dict().items()}
        tensors |= flat(actor.optimizer.state_dict()["state"])
        vec_env: Any = self.training_env
        if isinstance(vec_env.reward, LearnedReward):
            tensors |= {f"reward.{name}": value for name, value in vec_env.reward.state().items()}
        plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        write_atomic(self._out / CHECKPOINT, save(plain, {"state": json.dumps(self._kept)}))


def _check_tasks(config: ReinforceConfig) -> None:
    """Raise `ConfigError` for tasks, of training or of the warm-up, that the env does not have."""
    env_config, warmup = config.env, config.perception_warmup
    names = (*(env_config.tasks or ()), *((warmup and warmup.tasks) or ()))
    if not names:
        return
    with closing(make_env(env_config.name, **env_config.options)) as env:
        for name in names:
            if name not in env.tasks:
                raise ConfigError(f"{env_config.name} has no task {name!r}; it has {', '.join(env.tasks)}")


def _make_curriculum_state(config: ReinforceConfig, state: Mapping[str, Any] | None) -> CurriculumState | None:
    if config.curriculum is None:
        return None
    with closing(make_env(config.env.name, **config.env.options)) as env:
        levels = env.levels if isinstance(env, Leveled) else 1
        return CurriculumState(config.curriculum, levels, config.env.tasks or env.tasks, state)


def _progress(out: Path) -> dict[str, Any]:
    """The state of the run in the last checkpoint; empty without a checkpoint."""
    path = out / CHECKPOINT
    if not path.is_file():
        return {}
    try:
        with safe_open(path, "pt") as file:
            found: dict[str, Any] = json.loads((file.metadata() or {})["state"])
        if not isinstance(found, dict) or not isinstance(found.get("steps"), int):
            raise ValueError("it counts no steps")
        return found
    except (OSError, SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise CorruptFileError(path, f"is a damaged checkpoint ({error}); delete it to train from the beginning") from error


def _restore(out: Path, algorithm: PPO) -> dict[str, Any]:
    state = _progress(out)
    if state:
        try:
            _load_tensors(load((out / CHECKPOINT).read_bytes()), algorithm)
        except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:  # the last: weights of other shapes
            reason = f"cannot be restored ({' '.join(str(error).split()):.200}); delete it to train from the beginning"
            raise CorruptFileError(out / CHECKPOINT, reason) from error
        algorithm.num_timesteps = state["steps"]
    return state


def _load_tensors(tensors: Mapping[str, Tensor], algorithm: PPO) -> None:
    actor = algorithm.policy
    actor.load_state_dict({weight_name(n).removeprefix("actor."): t for n, t in tensors.items() if n.startswith("actor.")})
    kept = actor.optimizer.state_dict()
    actor.optimizer.load_state_dict({"state": nested(tensors), "param_groups": kept["param_groups"]})
    reward = algorithm.get_env().reward  # type: ignore[union-attr]
    if isinstance(reward, LearnedReward):
        reward.restore({n.removeprefix("reward."): t for n, t in tensors.items() if n.startswith("reward.")})


def _claim(config: ReinforceConfig, out: Path, resume: bool) -> ReinforceResult | None:
    """Make `out` the folder of this run; return its result if complete. Raises `ConfigError` if it contains another run."""
    path = out / CONFIG
    if path.exists():
        if not resume:
            raise ConfigError(f"{out} holds a run already; choose another folder, or resume it")
        found = differences(load_yaml(ReinforceConfig, path), config)
        if differing := [name for name in found if not name.startswith("parallelism.")]:
            raise ConfigError(f"{out} holds a run with another {', '.join(differing)}; a new one needs another folder")
        if (out / RESULT).is_file():
            return build(ReinforceResult, read_record(out / RESULT))
    out.mkdir(parents=True, exist_ok=True)
    dump_yaml(config, path)
    return None
