"""State-based PPO in the navigation environment: object positions instead of images.

Run it as ``python experiments/ppo_state_based.py --steps 1000000``. The input of a network of two layers is the state, the three
points of the goal (from ``info["grounding"]``) and the mean of the instruction's word embeddings. The algorithm, the reward and
the environment are those of the recipe ``navigation-ppo``. It runs several times as many control steps per second, so that
rewards and learning rates can be tried before training from pixels: what fails here fails there. It prints one line of JSON for
every ten updates: success in the last 600 episodes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import functools
import json
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

from verbot.data.samples.episode_arrays import goal_points
from verbot.envs import make_env
from verbot.rollout.episode import EpisodeRunner
from verbot.spec import Observation
from verbot.training.rl.config import RewardShaping
from verbot.training.rl.envs import GroundedObservation, VecTransition
from verbot.training.rl.rewards.base import shaped_reward

TASKS, LONGEST, WORDS, MIDDLE_M = ("go", "around", "follow"), 24, 1500, 1.6
NOTHING = Observation({}, np.zeros(1, np.float32))
UNSEEN = GroundedObservation(NOTHING, np.zeros((1, 0, 3, 2), np.float32), np.zeros((1, 0, 3), bool))


@dataclass(frozen=True)
class Arguments:
    """How to learn."""

    tasks: tuple[str, ...] = TASKS
    steps: int = 500_000
    num_envs: int = 64
    num_steps: int = 64
    batch: int = 512
    learning_rate: float = 5e-4
    gamma: float = 0.95
    gae_lambda: float = 0.5
    progress_weight: float = 2.0
    best_so_far_share: float = 0.8
    penalty: float = 0.0
    entropy_coef: float = 0.002
    value_coef: float = 3.0
    noise_m: float = 0.0  # standard deviation of every place
    seed: int = 0


class StateEnv(gymnasium.Env):
    """An env with numbers (12,) and words (`LONGEST`,) as observations, in training scenes that no other env uses."""

    ids: dict[str, int] = {}

    def __init__(self, arguments: Arguments, number: int):
        self._arguments, self._number, self._played = arguments, number, 0
        self._env = make_env("navigation-compass", tasks=TASKS, penalty=arguments.penalty, render_cameras=False)
        shaping = RewardShaping(progress_weight=arguments.progress_weight, best_so_far_share=arguments.best_so_far_share)
        self._reward = shaped_reward(shaping, arguments.gamma, 1)
        self._rng = np.random.default_rng((arguments.seed, number))
        self.observation_space = spaces.Dict(
            {"numbers": spaces.Box(-np.inf, np.inf, (12,), np.float32), "words": spaces.Box(0, WORDS, (LONGEST,), np.int64)}
        )
        self.action_space = spaces.Discrete(7)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        index = self._number + self._arguments.num_envs * self._played
        self._task, self._played = self._arguments.tasks[index % len(self._arguments.tasks)], self._played + 1
        self._episode = EpisodeRunner(self._env, {"task": self._task, "index": index, "split": "train"}, self._arguments.seed)
        self._reward.reset([0], [self._episode.info], [UNSEEN])
        return self._observation(), {}

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        step = self._episode.step(np.array([action], np.float32))
        earned = float(self._reward([VecTransition(UNSEEN, step.reward, step.info)], np.zeros((1, 1), np.float32))[0])
        return self._observation(), earned, step.terminated, step.truncated, {"task": self._task, "success": step.info["success"]}

    def _observation(self) -> dict[str, Any]:
        observation, info = self._episode.observation, self._episode.info
        state, places = observation.state, goal_points(info["grounding"][0])[:, :2].ravel()
        places = places + self._arguments.noise_m * self._rng.normal(size=6)
        words = [self.ids.setdefault(w, len(self.ids) + 1) for w in observation.instruction.lower().replace(",", "").split()]
        numbers = np.concatenate([state[:2] - MIDDLE_M, state[2:], places - MIDDLE_M]).astype(np.float32)
        return {"numbers": numbers, "words": np.array((words + [0] * LONGEST)[:LONGEST])}


class Reader(BaseFeaturesExtractor):
    """Numbers as they are, beside the mean of the words' embeddings."""

    def __init__(self, observation_space: spaces.Dict):
        super().__init__(observation_space, 12 + 64)
        self.words, self.norm = nn.Embedding(WORDS, 64, padding_idx=0), nn.LayerNorm(64)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        words = observations["words"].long()
        said = (words > 0).float().unsqueeze(-1)
        sentence = (self.norm(self.words(words)) * said).sum(1) / said.sum(1).clamp(min=1)
        return torch.cat([observations["numbers"], sentence], 1)


class SuccessCallback(BaseCallback):
    """Prints how the last 600 episodes ended."""

    def __init__(self, tasks: tuple[str, ...]):
        super().__init__()
        self._tasks, self._ended, self._updates = tasks, deque[tuple[str, bool]](maxlen=600), 0
        self._began = time.monotonic()

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "terminal_observation" in info:
                self._ended.append((info["task"], bool(info["success"])))
        return True

    def _on_rollout_end(self) -> None:
        self._updates += 1
        if self._updates % 10 == 0:
            success = {task: float(np.mean([won for t, won in self._ended if t == task] or [False])) for task in self._tasks}
            speed = round(self.num_timesteps / (time.monotonic() - self._began))
            print(json.dumps({"steps": self.num_timesteps, "steps_per_s": speed, **success}), flush=True)


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    torch.set_num_threads(1)
    envs = DummyVecEnv([functools.partial(StateEnv, arguments, number) for number in range(arguments.num_envs)])
    algorithm = PPO(
        "MultiInputPolicy", envs, learning_rate=lambda left: arguments.learning_rate * left, n_steps=arguments.num_steps,
        batch_size=arguments.batch, n_epochs=4, gamma=arguments.gamma, gae_lambda=arguments.gae_lambda,
        ent_coef=arguments.entropy_coef, vf_coef=arguments.value_coef, max_grad_norm=1.0, seed=arguments.seed, device="cpu",
        policy_kwargs={"features_extractor_class": Reader, "net_arch": [384, 384], "activation_fn": nn.GELU},
    )  # fmt: skip
    algorithm.learn(arguments.steps, callback=SuccessCallback(arguments.tasks))


if __name__ == "__main__":
    main()
