"""Learning by trying: proximal policy optimization of a whole policy, by Stable-Baselines3."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from verbot.configuration import dump_yaml, load_yaml, to_plain
from verbot.contracts import Leveled
from verbot.envs import make_env
from verbot.errors import ConfigError
from verbot.models.format_1 import weight_name
from verbot.models.network import Part
from verbot.policy.identity import policy_identity
from verbot.policy.policy import Policy
from verbot.policy.storage import policy_folder
from verbot.statistics import Statistics
from verbot.training.checkpoint import replace_durably
from verbot.training.distributed.device import find_device
from verbot.training.log import Log
from verbot.training.optimizer_state import flat, nested
from verbot.training.rl.actor_critic import Actor, PolicyVecEnv, Senses
from verbot.training.rl.config import Looking, ReinforceConfig
from verbot.training.rl.curriculum import Course
from verbot.training.rl.envs import EnvRunners, RunStage, survey
from verbot.training.rl.rewards.base import FittedReward, LearnedReward, Reward, make_reward, rewards

CHECKPOINT, CONFIG, RESULT, POLICY = "checkpoint.safetensors", "config.yaml", "result.json", "policy"
RECENT = 400  # episodes whose success the progress line tells


@dataclass(frozen=True)
class ReinforceResult:
    """What came of a run: `steps` control steps, `episodes` that ended, and the success of the last `RECENT` of them, as played
    with random actions."""

    policy: str
    steps: int
    episodes: int
    success: float | None
    errors: int
    seconds: float


def reinforce(
    config: ReinforceConfig,
    out: str | Path,
    *,
    reward: Reward | None = None,
    resume: bool = True,
    progress: bool = True,
    card: str = "",
) -> ReinforceResult:
    """Train by PPO; leaves ``policy/``, ``config.yaml``, ``log.jsonl`` and ``result.json`` in `out`.

    Called again it goes on from its last checkpoint, with new episodes (unlike `train`, not to the bit).

    Args:
        reward: in place of the one that `config` names.
        card: Markdown for the policy's card.

    Raises:
        ConfigError: the policy cannot be learned so, or `out` holds another run.
    """
    out, config = Path(out), identified(config)
    _check_tasks(config)
    done = _claim(config, out, resume)
    if done is not None:
        return done
    course = _course(config, _progress(out).get("course"))
    torch.set_num_threads(config.threads)
    with torch.random.fork_rng(devices=[]), _playing(config, out, reward) as (algorithm, policy, worlds):
        state = _restore(out, algorithm)
        with Log(out, algorithm.num_timesteps, config.steps, progress) as log:
            watch = _Watch(config, out, policy, log, state, worlds, course)
            left = config.steps - algorithm.num_timesteps
            if left > 0:
                algorithm.learn(left, callback=watch, reset_num_timesteps=False)
        policy.network.eval().requires_grad_(True)
        policy.save(out / POLICY, card=card)
        learned = algorithm.get_env().reward  # type: ignore[union-attr]
        if isinstance(learned, LearnedReward):
            learned.save(out)
        result = ReinforceResult(str(out / POLICY), algorithm.num_timesteps, watch.episodes, watch.success(), watch.errors,
                                 round(watch.seconds, 1))  # fmt: skip
        replace_durably(out / RESULT, json.dumps(asdict(result), indent=1).encode())
    return result


def identified(config: ReinforceConfig) -> ReinforceConfig:
    """`config` with the identities of the policy that it begins with and of what its reward is read from.

    Raises `ConfigError` where one is another than `config` says already.
    """
    factory, options = rewards.get(config.reward.name), config.reward.options
    if isinstance(factory, FittedReward):
        config = dataclasses.replace(config, reward=Part(config.reward.name, factory.fit(config, options)))
    if config.policy is None:
        return config
    sha256 = policy_identity(policy_folder(config.policy))
    if config.policy_sha256 not in (None, sha256):
        raise ConfigError(
            f"the policy {config.policy} is another one than this run began with: sha256 {sha256}, not {config.policy_sha256}; "
            f"put that one back, or begin a new run in another folder"
        )
    return dataclasses.replace(config, policy_sha256=sha256)


def beginning(config: ReinforceConfig) -> Policy:
    """The policy that is trained: the one that `config` names, or a new one."""
    if config.policy is not None:
        policy = Policy.load(config.policy)
        if policy.config.history > 1 or policy.config.memory or policy.config.previous_action or policy.config.goal:
            raise ConfigError(f"{config.policy} sees more than one frame and its words; reinforcement cannot go on from it yet")
        return policy
    spec, states, sentences = survey(config)
    rng = np.random.default_rng(config.seed)
    actions = rng.uniform(spec.action_low(), spec.action_high(), (4096, spec.action_size))
    statistics = Statistics.of({"state": states, "action": actions})
    return Policy.create(config.network, spec, statistics, sentences, seed=config.seed)


@contextmanager
def _playing(config: ReinforceConfig, out: Path, reward: Reward | None) -> Iterator[tuple[PPO, Policy, EnvRunners]]:
    policy = beginning(config)
    device = find_device(config.device)
    policy.network.to(device)
    senses = Senses(policy, config.questions, config.looking is not None)
    worlds = EnvRunners(config, _progress(out).get("episodes", 0) // config.worlds)
    reward = make_reward(config) if reward is None else reward
    vec_env = PolicyVecEnv(worlds, policy, senses, reward)
    share = config.worlds * config.rollout / config.steps
    try:
        algorithm = PPO(
            Actor,  # type: ignore[arg-type]
            vec_env,
            learning_rate=lambda left: config.learning_rate * (max(left, 0.0) + share),  # `left` is told after a rollout
            n_steps=config.rollout,
            batch_size=config.batch_size,
            n_epochs=config.epochs,
            gamma=config.discount,
            gae_lambda=config.trace,
            clip_range=config.clip,
            ent_coef=config.entropy,
            vf_coef=config.value_weight,
            max_grad_norm=config.clip_norm,
            target_kl=config.target_kl,
            policy_kwargs={"policy": policy, "senses": senses, "config": config},
            seed=config.seed,
            device=device,
        )
        algorithm.set_logger(Logger(None, []))
        yield algorithm, policy, worlds
    finally:
        vec_env.close()


class _Watch(BaseCallback):
    """Counts, writes the log, lets a reward learn that does, and keeps checkpoints."""

    def __init__(
        self,
        config: ReinforceConfig,
        out: Path,
        policy: Policy,
        log: Log,
        state: dict[str, Any],
        worlds: EnvRunners,
        course: Course | None = None,
    ):
        super().__init__()
        self._worlds, self._course = worlds, course
        self._config, self._out, self._policy, self._log = config, out, policy, log
        self.updates: int = state.get("updates", 0)
        self.episodes: int = state.get("episodes", 0)
        self.errors: int = state.get("errors", 0)
        self.seconds: float = state.get("seconds", 0.0)
        self._ended: deque[dict[str, Any]] = deque(state.get("ended", []), RECENT)
        self._resumed, self._started = self.seconds, time.monotonic()
        self._tell()

    def _tell(self) -> None:
        """What the worlds are to know of how far the run has come."""
        reached = {} if self._course is None else self._course.reached
        self._worlds.set_stage(RunStage(reached, self._looking()))

    def _looking(self) -> bool:
        return self._config.looking is not None and self.updates < self._config.looking.updates

    def success(self) -> float | None:
        return float(np.mean([e["success"] for e in self._ended])) if self._ended else None

    def _on_rollout_start(self) -> None:
        actor: Any = self.model.policy
        actor.learn_only_values(self.updates < self._config.warmup)
        self._diversify()
        if self._config.looking is not None:
            self._look(self._config.looking)
        if self.updates and self.updates % self._config.checkpoint_every == 0:
            self._save()

    def _diversify(self) -> None:
        """The weight of the entropy in the coming update."""
        first, last = self._config.entropy, self._config.entropy_end
        model: Any = self.model
        if last is not None:
            model.ent_coef = first + (last - first) * min(self.num_timesteps / self._config.steps, 1.0)

    def _look(self, first: Looking) -> None:
        """How the coming update learns."""
        model: Any = self.model
        looking = self._looking()
        model.policy.look(only=looking)
        model.batch_size = first.batch_size if looking else self._config.batch_size
        if looking:
            rate = first.rate(self.updates)
            model.lr_schedule = lambda left: rate
        else:
            model.lr_schedule = model.learning_rate
        if self.updates == first.updates:
            self._tell()

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "terminal_observation" in info:
                self.episodes += 1
                self.errors += info.get("error") is not None
                told = {name: info[name] for name in ("task", "level", "length") if name in info}
                self._ended.append({**told, "success": bool(info["success"])})
                if self._course is not None and self._course.note(info["task"], info["level"], bool(info["success"])):
                    self._tell()
        return True

    def _on_rollout_end(self) -> None:
        self.updates += 1
        learned = self._learn()
        self.seconds = self._resumed + time.monotonic() - self._started
        told = {name.split("/")[1]: float(value) for name, value in self.logger.name_to_value.items() if "/" in name}
        by_task: dict[str, list[bool]] = {}
        for episode in self._ended:
            by_task.setdefault(episode["task"], []).append(episode["success"])
        actor: Any = self.model.policy
        if actor.astray:
            told["keypoint_l1"] = float(np.mean(actor.astray))
            actor.astray.clear()
        success = {f"success {task}": float(np.mean(wins)) for task, wins in sorted(by_task.items())}
        if self._course is not None:
            told |= {f"level {task}": float(level) for task, level in self._course.reached.items()}
        reward = float(np.mean(self.model.rollout_buffer.rewards))  # type: ignore[attr-defined]
        self._log.record("reinforce", self.num_timesteps, episodes=self.episodes, reward=reward, **success, **learned, **told)
        note = ", ".join(f"{name} {100 * value:.0f} %" for name, value in success.items())
        self._log.advance(self.num_timesteps, self._config.steps, note or "no episode has ended yet")

    def _learn(self) -> dict[str, float]:
        """What a reward that learns makes of the steps just played; the policy is still the one that played them."""
        vec_env: Any = self.training_env
        if not isinstance(vec_env.reward, LearnedReward):
            return {}
        actor: Any = self.model.policy
        log_probs = self.model.rollout_buffer.log_probs  # type: ignore[attr-defined]
        return vec_env.reward.learn(lambda looks, actions: vec_env.judge(actor, looks, actions), log_probs)

    def _save(self) -> None:
        state = {"steps": self.num_timesteps, "updates": self.updates, "episodes": self.episodes, "errors": self.errors,
                 "seconds": self.seconds, "ended": list(self._ended),
                 "course": self._course.state() if self._course is not None else None}  # fmt: skip
        actor = self.model.policy
        tensors = {f"actor.{name}": value for name, value in actor.state_dict().items()}
        tensors |= flat(actor.optimizer.state_dict()["state"])
        vec_env: Any = self.training_env
        if isinstance(vec_env.reward, LearnedReward):
            tensors |= {f"reward.{name}": value for name, value in vec_env.reward.state().items()}
        plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        replace_durably(self._out / CHECKPOINT, save(plain, {"state": json.dumps(state)}))


def _check_tasks(config: ReinforceConfig) -> None:
    """Raises `ConfigError` for tasks, to be tried or glanced at, that the env does not have."""
    told = (*(config.tasks or ()), *((config.looking and config.looking.tasks) or ()))
    if not told:
        return
    with closing(make_env(config.env, **config.options)) as env:
        for name in told:
            if name not in env.tasks:
                raise ConfigError(f"{config.env} has no task {name!r}; it has {', '.join(env.tasks)}")


def _course(config: ReinforceConfig, state: Mapping[str, Any] | None) -> Course | None:
    if config.curriculum is None:
        return None
    with closing(make_env(config.env, **config.options)) as env:
        return Course(config.curriculum, env.levels if isinstance(env, Leveled) else 1, config.tasks or env.tasks, state)


def _progress(out: Path) -> dict[str, Any]:
    """What the last checkpoint says of the run; nothing where there is none."""
    path = out / CHECKPOINT
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    found: dict[str, Any] = json.loads(header["__metadata__"]["state"])
    return found


def _restore(out: Path, algorithm: PPO) -> dict[str, Any]:
    state = _progress(out)
    if state:
        tensors = load((out / CHECKPOINT).read_bytes())
        actor = algorithm.policy
        actor.load_state_dict({weight_name(n).removeprefix("actor."): t for n, t in tensors.items() if n.startswith("actor.")})
        kept = actor.optimizer.state_dict()
        actor.optimizer.load_state_dict({"state": nested(tensors), "param_groups": kept["param_groups"]})
        algorithm.num_timesteps = state["steps"]
        reward = algorithm.get_env().reward  # type: ignore[union-attr]
        if isinstance(reward, LearnedReward):
            reward.restore({n.removeprefix("reward."): t for n, t in tensors.items() if n.startswith("reward.")})
    return state


def _claim(config: ReinforceConfig, out: Path, resume: bool) -> ReinforceResult | None:
    """Make `out` this run's folder; its result where it is there already. Raises `ConfigError` where it holds another's."""
    path = out / CONFIG
    if path.exists():
        if not resume:
            raise ConfigError(f"{out} holds a run already; choose another folder, or resume it")
        theirs, ours = to_plain(load_yaml(ReinforceConfig, path)), to_plain(config)
        if differing := [name for name in ours if ours[name] != theirs[name] and name not in ("workers", "threads", "device")]:
            raise ConfigError(f"{out} holds a run with another {', '.join(differing)}; a new one needs another folder")
        if (out / RESULT).is_file():
            return ReinforceResult(**json.loads((out / RESULT).read_text()))
    out.mkdir(parents=True, exist_ok=True)
    dump_yaml(config, path)
    return None
