"""Measures the speed of the navigation env on one core, and the success rates of its expert and of random actions.

Run it as ``python profiling/navigation_env.py --episodes 300``. Times are CPU seconds of this process.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tyro

from verbot.contracts import Agent, expert_of
from verbot.envs import make_env
from verbot.evaluation.protocol.intervals import wilson
from verbot.evaluation.report.summary import format_estimate
from verbot.rollout.baselines import RandomAgent
from verbot.rollout.episode import EpisodeRunner
from verbot.rollout.episode import play as transitions


@dataclass(frozen=True)
class Arguments:
    """Options of the measurement."""

    episodes: int = 300  # per task and agent
    split: str = "test"
    steering: str = "turns"  # or "compass"
    seed: int = 0


def main() -> None:
    arguments = tyro.cli(Arguments)
    for name, value in measure_speed(arguments.seed).items():
        print(f"{name:36s} {value:10.3f}")
    print(f"\n{'agent':22s} {'task':8s} {'success [95 %]':>28s} {'n':>5s} {'steps':>6s}")
    for agent_name, task in itertools.product(("expert", "expert, noise 0.15", "random"), make_env("navigation").tasks):
        successes, steps = play(agent_name, task, arguments)
        found = wilson(successes, arguments.episodes)
        print(f"{agent_name:22s} {task:8s} {format_estimate('success_rate', found):>28s} {found.n:5d} {steps:6.1f}")


def measure_speed(seed: int) -> dict[str, float]:
    """Milliseconds of each part, and steps per second of one core with and without pictures."""
    env = make_env("navigation")
    env.reset(seed=seed)
    figures = {"reset, ms": _cpu_ms(env.reset, 200)}
    for label, shown in (("with pictures", True), ("without pictures", False)):
        endless = make_env("navigation", render_cameras=shown, discrete=True, reward="shaped", max_seconds=1e6)
        episode, rng = EpisodeRunner(endless, {"index": 0}, seed), np.random.default_rng(seed)
        figures[f"step {label}, ms"] = _cpu_ms(lambda e=episode, r=rng: e.step(np.array([r.integers(6)])), 3000)  # type: ignore[misc]
        figures[f"steps/s {label}"] = 1e3 / figures[f"step {label}, ms"]
    return figures


def play(agent_name: str, task: str, arguments: Arguments) -> tuple[int, float]:
    """Successes, and the mean number of steps of an episode."""
    env = make_env("navigation", render_cameras=False, steering=arguments.steering)
    agent: Agent = RandomAgent(env.robot_spec, arguments.seed)
    if agent_name != "random":
        agent = expert_of(env, 0.15 * ("noise" in agent_name))
    successes, steps = 0, 0
    for index in range(arguments.episodes):
        request = {"task": task, "split": arguments.split, "index": index}
        for step in transitions(env, agent, request, arguments.seed):
            steps, successes = steps + 1, successes + step.info["success"]
    return successes, steps / arguments.episodes


def _cpu_ms(action: Callable[[], object], count: int) -> float:
    action()
    start = time.process_time()
    for _ in range(count):
        action()
    return 1e3 * (time.process_time() - start) / count


if __name__ == "__main__":
    main()
