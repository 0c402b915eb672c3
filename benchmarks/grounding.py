"""Where a policy looks in scenes that it never saw, when it is told each of the goals that a scene admits.

Run it as ``python benchmarks/grounding.py outputs/demo/policy --env tabletop-starter``. It takes seconds and says which word was
misunderstood; whether the robot would have done it only closed loop can say.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

import verbot
from verbot.contracts import observation_from_env
from verbot.data.hindsight import project, projections
from verbot.data.windows import POINTS
from verbot.envs import make_env
from verbot.spec import Observation, RobotSpec

TOGETHER = 64  # predictions


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    policy: tyro.conf.Positional[Path]
    env: str = "tabletop-full"
    scenes: int = 150
    far_px: float = 6.0  # of the image's width in pixels; an object is about this wide in 64
    out: Path | None = None  # writes the figures as JSON


@dataclass(frozen=True)
class Question:
    """A goal told in its scene's first frame, and where its points are in each view, as `project` gives them."""

    verb: str
    observation: Observation
    places: np.ndarray
    seen: np.ndarray


def main() -> None:
    arguments = tyro.cli(Arguments)
    policy = verbot.load_policy(arguments.policy)
    with closing(make_env(arguments.env)) as env:
        asked = [question for index in range(arguments.scenes) for question in questions(env, index)]
    errors: dict[tuple[str, str], list[float]] = defaultdict(list)
    for start in range(0, len(asked), TOGETHER):
        batch = asked[start : start + TOGETHER]
        for question, chunk in zip(batch, policy.predict([q.observation for q in batch]), strict=True):
            width = next(iter(question.observation.images.values())).shape[1]
            away = np.linalg.norm(chunk.extras["keypoints"] - question.places, axis=-1)[0] * width / 2  # of the first view
            for number, name in enumerate(POINTS):
                if question.seen[0, number]:
                    errors["all", name].append(float(away[number]))
                    errors[question.verb, name].append(float(away[number]))
    figures = {" ".join(key): summary(values, arguments.far_px) for key, values in sorted(errors.items())}
    for name, figure in figures.items():
        far = f"farther than {arguments.far_px:g} px {figure['far']:6.1%}"
        print(f"{name:28s} median {figure['median_px']:5.2f} px, {far}, n={figure['n']}")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def questions(env: verbot.contracts.Env, index: int) -> Iterator[Question]:
    record, info = env.reset(seed=0, options={"split": "test", "index": index, "wording": "canonical"})
    spec: RobotSpec = env.robot_spec
    seen = observation_from_env(record)
    matrices = projections(seen.state[None], spec, info["calibration"], spec.camera_names)
    for goal, grounding in zip(info["feasible"], info["grounding"], strict=True):
        points = [grounding[f"{name}_base_m"] or [np.nan] * 3 for name in POINTS]
        places, mask = project(matrices, np.array([points], float))
        told = Observation(seen.images, seen.state, grounding["instructions"][0], time_s=seen.time_s)
        yield Question(goal["verb"], told, places[0], mask[0])


def summary(values: list[float], far_px: float) -> dict[str, float]:
    found = np.array(values)
    return {"median_px": float(np.median(found)), "far": float((found > far_px).mean()), "n": len(found)}


if __name__ == "__main__":
    main()
