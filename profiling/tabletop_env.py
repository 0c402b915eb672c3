"""Measures the speed of the tabletop env on one core, and the success rate of its expert.

Run it as ``python profiling/tabletop_env.py --episodes 300``. Times are CPU seconds of this process, so that a busy machine
hardly changes them. The rendering libraries use one thread.
"""

from __future__ import annotations

import os

os.environ.setdefault("LP_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import contextlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from verbot.contracts import expert_of
from verbot.envs import make_env
from verbot.errors import SimulationError
from verbot.rollout.episode import EpisodeRunner


@dataclass(frozen=True)
class Arguments:
    """Options of the measurement."""

    suite: str = "tabletop-starter"
    episodes: int = 300  # per task
    noise: float = 0.15  # of the expert; 0.15 is what demonstrations use
    split: str = "train"
    seed: int = 0
    out: Path | None = None  # writes the figures as JSON


@dataclass(frozen=True)
class TaskFigures:
    """The expert's success with its Wilson 95 % interval, its mean number of steps, and its rate of correct first contacts."""

    success: float
    low: float
    high: float
    n: int
    steps_mean: float
    named_first: float
    errors: int


def main() -> None:
    arguments = tyro.cli(Arguments)
    speed = measure_speed(arguments)
    for name, value in speed.items():
        print(f"{name:28s} {value:10.3f}")
    figures = {task: run_expert(arguments, task) for task in make_env(arguments.suite).tasks}
    print(f"\n{'task':16s} {'success':>8s} {'95 % interval':>16s} {'n':>5s} {'steps':>6s} {'named first':>12s} {'errors':>7s}")
    for task, f in figures.items():
        interval = f"{f.low:.3f}–{f.high:.3f}"
        print(f"{task:16s} {f.success:8.3f} {interval:>16s} {f.n:5d} {f.steps_mean:6.1f} {f.named_first:12.3f} {f.errors:7d}")
    if arguments.out is not None:
        record = {"arguments": {**asdict(arguments), "out": str(arguments.out)}, "speed": speed}
        record["expert"] = {task: asdict(f) for task, f in figures.items()}
        arguments.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def measure_speed(arguments: Arguments) -> dict[str, float]:
    """Milliseconds of each part, and steps per second of one core with and without cameras."""
    env: Any = make_env(arguments.suite)
    env.reset(seed=arguments.seed, options={"index": 0})
    data, renderer, expert = env.physics.data, env._renderer, env.expert(arguments.noise)
    cameras = env.robot_spec.camera_names
    figures = {
        "reset, ms": 1e3 * _cpu_seconds(lambda: env.reset(), 100),
        "physics of a step, ms": 1e3 * _cpu_seconds(lambda: env.physics.step(np.zeros(7)), 300),
        "two 64×64 images, ms": 1e3 * _cpu_seconds(lambda: renderer.render(data, cameras, 64, 64), 300),
        "expert's action, ms": 1e3 * _cpu_seconds(expert.act, 300),
    }
    for label, shown in (("steps/s with cameras", True), ("steps/s without cameras", False)):
        episode = EpisodeRunner(make_env(arguments.suite, render_cameras=shown, max_seconds=60.0), {"index": 0}, arguments.seed)
        expert = expert_of(episode.env, arguments.noise)
        figures[label] = 1.0 / _cpu_seconds(lambda e=episode, t=expert: e.step(t.act()), 300)  # type: ignore[misc]
    return figures


def run_expert(arguments: Arguments, task: str) -> TaskFigures:
    """The expert in `arguments.episodes` scenes of `task`."""
    env = make_env(arguments.suite, render_cameras=False)
    expert = expert_of(env, arguments.noise, arguments.seed)
    ends, lengths = [], []
    for index in range(arguments.episodes):
        episode = EpisodeRunner(env, {"task": task, "split": arguments.split, "index": index}, arguments.seed)
        expert.reset(episode.instruction)
        with contextlib.suppress(SimulationError):  # it is counted among the errors
            for _ in episode.run(expert):
                pass
        ends.append(episode.info)
        lengths.append(episode.steps)
    successes = sum(info["success"] for info in ends)
    low, high = wilson(successes, len(ends))
    return TaskFigures(
        success=successes / len(ends),
        low=low,
        high=high,
        n=len(ends),
        steps_mean=float(np.mean(lengths)),
        named_first=float(np.mean([info["target_object"] in (None, info["first_contact"]) for info in ends])),
        errors=sum(info["error"] is not None for info in ends),
    )


def wilson(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion."""
    share, spread = successes / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def _cpu_seconds(action: Callable[[], object], count: int) -> float:
    action()
    start = time.process_time()
    for _ in range(count):
        action()
    return (time.process_time() - start) / count


if __name__ == "__main__":
    main()
