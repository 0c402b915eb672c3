"""Bounds of the special suites: success by guessing without memory, the visibility of targets behind a screen, and the time of
goal images.

Run it as ``python experiments/suite_bounds.py --episodes 200``. The experts' own figures are those of
``profiling/tabletop_env.py``.
"""

from __future__ import annotations

import os

os.environ.setdefault("LP_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro

from verbot.envs import make_env
from verbot.envs.tabletop.env import STILL
from verbot.envs.tabletop.expert.placing import DROP_M, place
from verbot.envs.tabletop.simulation.layout import WORKSPACE_M
from verbot.evaluation.protocol.intervals import wilson
from verbot.rollout.episode import EpisodeRunner, final
from verbot.spec import FloatArray, Observation


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    episodes: int = 200  # per task
    seed: int = 0
    split: str = "test"


def main() -> None:
    arguments = tyro.cli(Arguments)
    print("memory: success with the full current state and no memory")
    for task in make_env("tabletop-memory").tasks:
        guess_bound(arguments, task)
    print("occluded: share of episodes in which the target object is visible at the start, and its median pixels of 64×64")
    visibility(arguments)
    print("goal images: milliseconds of a reset")
    for suite in ("tabletop-starter", "tabletop-full"):
        goal_images(arguments, suite)


@dataclass(frozen=True)
class Guess:
    """An agent whose action is a function of the simulator's state."""

    choose: Callable[[], FloatArray]

    def reset(self, instruction: str) -> None:
        """It has no state."""

    def act(self, observation: Observation) -> FloatArray:
        return self.choose()


def guess_bound(arguments: Arguments, task: str) -> None:
    """Success of an agent that acts as the expert, with a random covered object or a random place."""
    env: Any = make_env("tabletop-memory", render_cameras=False)
    rng, solved, chance = np.random.default_rng(arguments.seed), [], []
    for index in range(arguments.episodes):
        episode = EpisodeRunner(env, {"task": task, "split": arguments.split, "index": index}, arguments.seed)
        objects = [obj.id for obj in env.physics.layout.movables]
        act = _elsewhere(env, rng) if task == "put_back" else _other(env, str(rng.choice(objects)))
        solved.append(final(episode.run(Guess(act))).info["success"])
        chance.append(1 / len(objects))
    found = wilson(sum(solved), len(solved))
    bound = "" if task == "put_back" else f"  1/n {np.mean(chance):.3f}"
    print(f"  {task:10s} {found.value:.3f} ({found.low:.3f}–{found.high:.3f}), n {len(solved)}{bound}")


def _other(env: Any, name: str) -> Callable[[], np.ndarray]:
    """What the expert would do, were `name` the object that is meant."""
    episode = env._current()
    goal = {**episode.goal, "object": name}
    return lambda: STILL if env._steps < episode.locked_steps else episode.task.act(env.physics, goal)


def _elsewhere(env: Any, rng: np.random.Generator) -> Callable[[], np.ndarray]:
    """What the expert does until the visit; then it puts the object where there is room, for all one can see."""
    episode, (low, high) = env._current(), np.array(WORKSPACE_M).T
    name, layout = episode.goal["object"], episode.layout
    obj = layout.object(name)
    while True:
        spot = rng.uniform(low, high)
        rest = [(x, y, r) for x, y, r in layout.obstacles() if (x, y) != (obj.x, obj.y)]
        if all(np.hypot(x - spot[0], y - spot[1]) > r + obj.radius_m + 0.038 for x, y, r in rest):
            break
    goal = np.array((*spot, obj.rest_height_m + DROP_M))

    def act() -> np.ndarray:
        if episode.goal["receptacle"] in env.physics.visited[name]:
            return place(env.physics, name, goal)
        return np.asarray(episode.task.act(env.physics, episode.goal))

    return act


def visibility(arguments: Arguments) -> None:
    """By segmentation of the first pictures: 64×64 as policies get them, and 256×256 for what is too small there."""
    env: Any = make_env("tabletop-occluded")
    pixels: dict[tuple[str, int], list[int]] = {}
    for index in range(arguments.episodes):
        _, info = env.reset(seed=arguments.seed, options={"split": arguments.split, "index": index})
        for size in (64, 256):
            seen = env.segmentation(size)
            for camera in env.robot_spec.camera_names:
                pixels.setdefault((camera, size), []).append(int(seen.mask(camera, info["target_object"]).sum()))
    for camera in env.robot_spec.camera_names:
        small, large = np.array(pixels[camera, 64]), np.array(pixels[camera, 256])
        shares = f"{np.mean(small > 0):.3f} (at 256×256 {np.mean(large > 0):.3f})"
        print(f"  {camera:6s} {shares}, {np.median(small):.0f} pixels, n {len(small)}")


def goal_images(arguments: Arguments, suite: str) -> None:
    env = make_env(suite)
    for wording in ("blank", "image"):
        errors, start = 0, time.process_time()
        for index in range(arguments.episodes):
            try:
                env.reset(seed=arguments.seed, options={"split": arguments.split, "index": index, "wording": wording})
            except Exception as error:
                errors += 1
                print(f"  {error}")
        spent = 1e3 * (time.process_time() - start) / arguments.episodes
        print(f"  {suite:18s} {wording:6s} {spent:7.1f} ms, {errors} errors, n {arguments.episodes}")


if __name__ == "__main__":
    main()
