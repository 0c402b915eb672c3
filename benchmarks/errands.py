"""What PPO makes of the navigation world when nothing need be seen: places are given as numbers, words as words.

Run it as ``python benchmarks/errands.py --steps 500000 --ratchet 0.5``. A network of two layers is told the state, the three
points of what was named (as ``info["grounding"]`` says them) and the sentence, as the mean of its words' embeddings; the
algorithm, the reward and the world are those of the recipe ``navigation-ppo``. It plays several times as many control steps a
second, so that rewards and rates can be tried before pixels are: what fails here fails there. One line of JSON for every ten
updates: success of the last 600 episodes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import time
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.distributions import Categorical

from verbot.envs import make_env

TASKS, LONGEST, WORDS = ("go", "around", "follow"), 24, 1500
POINTS = ("target_base_m", "receptacle_base_m", "reference_base_m")
MIDDLE_M = 1.6


@dataclass(frozen=True)
class Arguments:
    """How to learn."""

    tasks: tuple[str, ...] = TASKS
    steps: int = 500_000
    worlds: int = 64
    rollout: int = 64
    batch: int = 512
    epochs: int = 4
    learning_rate: float = 5e-4
    discount: float = 0.95
    trace: float = 0.5
    headway: float = 2.0
    ratchet: float = 0.5
    penalty: float = 0.0
    entropy: float = 0.002
    value_weight: float = 3.0
    noise_m: float = 0.0  # standard deviation of every place
    wide: int = 0  # places and state are drawn out to so many numbers by a layer, as tokens are
    seed: int = 0


class Network(nn.Module):
    def __init__(self, numbers: int, wide: int):
        super().__init__()
        self.words = nn.Embedding(WORDS, 64, padding_idx=0)
        self.norm = nn.LayerNorm(64)
        self.drawn = nn.Linear(numbers, wide) if wide else nn.Identity()
        self.trunk = nn.Sequential(nn.Linear((wide or numbers) + 64, 384), nn.GELU(), nn.Linear(384, 384), nn.GELU())
        self.choice, self.value = nn.Linear(384, 7), nn.Linear(384, 1)
        nn.init.zeros_(self.value.weight)
        nn.init.normal_(self.choice.weight, std=5e-4)

    def forward(self, numbers: Tensor, words: Tensor) -> tuple[Categorical, Tensor]:
        said = (words > 0).float().unsqueeze(-1)
        told = (self.norm(self.words(words)) * said).sum(1) / said.sum(1).clamp(min=1)
        x = self.trunk(torch.cat([self.drawn(numbers), told], 1))
        return Categorical(logits=self.choice(x)), self.value(x)[:, 0]


class Player:
    """One world that begins anew by itself, and what its last step was worth."""

    ids: dict[str, int] = {}

    def __init__(self, arguments: Arguments, number: int):
        self._told, self._number, self._played = arguments, number, 0
        self._env = make_env("navigation-compass", tasks=TASKS, penalty=arguments.penalty, render_cameras=False)
        self._rng = np.random.default_rng((arguments.seed, number))
        self.begin()

    def begin(self) -> None:
        index = self._number + self._told.worlds * self._played
        task = self._told.tasks[index % len(self._told.tasks)]
        self._record, self._info = self._env.reset(seed=self._told.seed, options={"task": task, "index": index, "split": "train"})
        self.task, self._played = task, self._played + 1
        self._left_m = self._least_m = self._info["final_error_m"]

    def step(self, action: int) -> tuple[float, bool, bool]:
        """The reward, whether the episode has ended, and whether time ended it."""
        self._record, reward, terminated, truncated, self._info = self._env.step(action)
        left_m, told = self._info["final_error_m"], self._told
        least_m = min(self._least_m, left_m)
        won_m = (1 - told.ratchet) * (self._left_m - left_m) + told.ratchet * (self._least_m - least_m)
        self._left_m, self._least_m = left_m, least_m
        return reward + told.headway * won_m, terminated or truncated, truncated and not terminated

    @property
    def success(self) -> bool:
        return bool(self._info["success"])

    def look(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers (12,) and words (`LONGEST`,)."""
        goal, state = self._info["grounding"][0], self._record["state"]
        places = np.array([goal[name][:2] for name in POINTS]).ravel() + self._told.noise_m * self._rng.normal(size=6)
        words = [self.ids.setdefault(w, len(self.ids) + 1) for w in self._record["instruction"].lower().replace(",", "").split()]
        numbers = np.concatenate([state[:2] - MIDDLE_M, state[2:], places - MIDDLE_M])
        return numbers.astype(np.float32), np.array((words + [0] * LONGEST)[:LONGEST])


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)
    players = [Player(arguments, number) for number in range(arguments.worlds)]
    network = Network(len(players[0].look()[0]), arguments.wide)
    optimizer = torch.optim.Adam(network.parameters(), lr=arguments.learning_rate, eps=1e-5)
    ended: deque[tuple[str, bool]] = deque(maxlen=600)
    began, size = time.monotonic(), arguments.worlds * arguments.rollout
    for update in range(1, arguments.steps // size + 1):
        left = max(0.0, 1 - (update - 1) * size / arguments.steps)
        optimizer.param_groups[0]["lr"] = arguments.learning_rate * left
        learn(network, optimizer, arguments, play(network, players, arguments, ended))
        if update % 10 == 0:
            success = {task: round(float(np.mean([won for t, won in ended if t == task] or [0])), 3) for task in arguments.tasks}
            speed = round(update * size / (time.monotonic() - began))
            print(json.dumps({"steps": update * size, "steps_per_s": speed, **success}), flush=True)


def play(network: Network, players: list[Player], arguments: Arguments, ended: deque[tuple[str, bool]]) -> list[Tensor]:
    """A rollout: numbers, words, actions, their log-probabilities, advantages and returns, each with (t · worlds) rows."""
    count, steps = len(players), arguments.rollout
    seen, values = [], np.zeros((steps + 1, count), np.float32)
    rewards, over = np.zeros((steps, count), np.float32), np.zeros((steps, count), bool)
    for t in range(steps + 1):
        looks = [torch.as_tensor(np.stack(x)) for x in zip(*(player.look() for player in players), strict=True)]
        with torch.no_grad():
            chances, worth = network(*looks)
        values[t] = worth.numpy()
        if t == steps:
            break
        actions = chances.sample()
        seen.append((*looks, actions, chances.log_prob(actions)))
        for i, (player, action) in enumerate(zip(players, actions.tolist(), strict=True)):
            rewards[t, i], over[t, i], late = player.step(action)
            if over[t, i]:
                if late:
                    numbers, words = (torch.as_tensor(x).unsqueeze(0) for x in player.look())
                    with torch.no_grad():
                        rewards[t, i] += arguments.discount * float(network(numbers, words)[1])
                ended.append((player.task, player.success))
                player.begin()
    advantages, carried = np.zeros_like(rewards), np.zeros(count, np.float32)
    for t in reversed(range(steps)):
        goes_on = arguments.discount * ~over[t]
        carried = rewards[t] + goes_on * values[t + 1] - values[t] + goes_on * arguments.trace * carried
        advantages[t] = carried
    flat = [torch.cat(x) for x in zip(*seen, strict=True)]
    return [*flat, *(torch.as_tensor(x.ravel()) for x in (advantages, advantages + values[:-1]))]


def learn(network: Network, optimizer: torch.optim.Optimizer, arguments: Arguments, rollout: list[Tensor]) -> None:
    """PPO's clipped objective, as Stable-Baselines3 has it."""
    for _ in range(arguments.epochs):
        for rows in torch.randperm(len(rollout[0])).split(arguments.batch):
            numbers, words, actions, before, gained, returns = (x[rows] for x in rollout)
            chances, values = network(numbers, words)
            ratio = (chances.log_prob(actions) - before).exp()
            gained = (gained - gained.mean()) / (gained.std() + 1e-8)
            loss = -torch.min(ratio * gained, ratio.clamp(0.8, 1.2) * gained).mean()
            loss = (
                loss - arguments.entropy * chances.entropy().mean() + arguments.value_weight * (values - returns).square().mean()
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()


if __name__ == "__main__":
    main()
