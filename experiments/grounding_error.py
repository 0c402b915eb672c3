"""Grounding error: the distance of predicted keypoints to the true ones, for each feasible goal of unseen scenes.

Run it as ``python experiments/grounding_error.py outputs/demo/policy --env tabletop-starter``. It takes seconds and shows which
words are misunderstood; it does not measure success in closed loop. In the navigation environment observations change along a
trajectory: ``--env navigation-compass --along policy`` measures every step of the policy's own trajectory, or of an expert's
with random actions, separately for each quarter of the trajectory.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro

import verbot
from verbot.agents import ChunkAgent, SamplingAgent
from verbot.contracts import POINTS, Agent, expert_of
from verbot.data.samples.keypoints import project, projections
from verbot.envs import make_env
from verbot.rollout.episode import EpisodeRunner
from verbot.spec import Observation

TOGETHER = 64  # predictions
ERRING = 0.15  # share of an expert's actions that are drawn at random

MakeAgent = Callable[[int], Agent]  # from the number of the scene


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    policy: tyro.conf.Positional[Path]
    env: str = "tabletop-full"
    scenes: int = 150
    along: Literal["expert", "policy"] | None = None  # whose trajectory; None: every goal, in the first frame
    tasks: tuple[str, ...] = ("follow",)  # along a trajectory
    far_px: float = 6.0  # of the image's width in pixels; an object is about this wide in 64
    out: Path | None = None  # writes the figures as JSON


@dataclass(frozen=True)
class Query:
    """A goal's instruction in an observation, and the positions of its points in each view, as `project` returns them."""

    verb: str
    observation: Observation
    places: np.ndarray
    seen: np.ndarray


def main() -> None:
    arguments = tyro.cli(Arguments)
    policy = verbot.load_policy(arguments.policy)
    torch.manual_seed(0)
    with closing(make_env(arguments.env)) as env:
        if arguments.along is None:
            asked = [query for index in range(arguments.scenes) for query in queries(env, index)]
        else:
            drawn: MakeAgent = lambda index: SamplingAgent(ChunkAgent(policy), index)  # noqa: E731
            agents: MakeAgent = drawn if arguments.along == "policy" else lambda index: expert_of(env, ERRING)
            where = [(task, index) for task in arguments.tasks for index in range(arguments.scenes)]
            asked = [query for task, index in where for query in on_the_way(env, task, index, agents(index))]
    errors: dict[tuple[str, str], list[float]] = defaultdict(list)
    for start in range(0, len(asked), TOGETHER):
        batch = asked[start : start + TOGETHER]
        for query, chunk in zip(batch, policy.predict([q.observation for q in batch]), strict=True):
            width = next(iter(query.observation.images.values())).shape[1]
            away = np.linalg.norm(chunk.extras["keypoints"] - query.places, axis=-1)[0] * width / 2  # of the first view
            for number, name in enumerate(POINTS):
                if query.seen[0, number]:
                    errors["all", name].append(float(away[number]))
                    errors[query.verb, name].append(float(away[number]))
    figures = {" ".join(key): summary(values, arguments.far_px) for key, values in sorted(errors.items())}
    for name, figure in figures.items():
        far = f"farther than {arguments.far_px:g} px {figure['far']:6.1%}"
        print(f"{name:28s} median {figure['median_px']:5.2f} px, {far}, n={figure['n']}")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def queries(env: verbot.contracts.Env, index: int) -> Iterator[Query]:
    episode = EpisodeRunner(env, {"split": "test", "index": index, "wording": "canonical"})
    spec, seen, info = env.robot_spec, episode.observation, episode.info
    matrices = projections(seen.state[None], spec, info["calibration"], spec.camera_names)
    for goal, grounding in zip(info["feasible"], info["grounding"], strict=True):
        points = [grounding[f"{name}_base_m"] or [np.nan] * 3 for name in POINTS]
        places, mask = project(matrices, np.array([points], float))
        given = Observation(seen.images, seen.state, grounding["instructions"][0], time_s=seen.time_s)
        yield Query(goal["verb"], given, places[0], mask[0])


def on_the_way(env: verbot.contracts.Env, task: str, index: int, agent: Agent) -> Iterator[Query]:
    """The instruction at every step, labeled with the quarter of the trajectory by the remaining distance (m)."""
    episode = EpisodeRunner(env, {"task": task, "split": "test", "index": index, "wording": "seen"})
    agent.reset(episode.instruction)
    spec, way_m = env.robot_spec, episode.info["final_error_m"]
    for step in episode.run(agent):
        seen, info = step.observation, step.previous_info
        points = [info["grounding"][0].get(f"{name}_base_m") or [np.nan] * 3 for name in POINTS]
        matrices = projections(seen.state[None], spec, info.get("calibration", {}), spec.camera_names)
        places, mask = project(matrices, np.array([points], float))
        quarter = min(max(int(4 * (1 - info["final_error_m"] / way_m)), 0), 3)
        yield Query(f"{task}, quarter {quarter + 1},", seen, places[0], mask[0])


def summary(values: list[float], far_px: float) -> dict[str, float]:
    found = np.array(values)
    return {"median_px": float(np.median(found)), "far": float((found > far_px).mean()), "n": len(found)}


if __name__ == "__main__":
    main()
