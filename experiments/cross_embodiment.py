"""Co-training: navigation, manipulation, detection and grasping alone, all of one robot, and all of both robots.

Run it as ``python experiments/cross_embodiment.py outputs/demos outputs/floor``, on the demonstrations of the recipes `starter`
and `navigation`. Every arm uses the same number of samples of each robot, in batches of 64. It prints one line of JSON per arm,
then a table. A repeated call resumes.

Detection is the share of named objects whose predicted keypoint is within 3 pixels of 64, in the first frame of unseen scenes,
given the instruction of one of the scene's goals. Grasping is the distance to the expert's grasp in the same frames; the table
also has the error of a constant prediction of the mean.
"""

from __future__ import annotations

import os

os.environ.setdefault("LP_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import verbot
from multitask import tell
from verbot.contracts import expert_of
from verbot.data.samples.episode_arrays import goal_points
from verbot.data.samples.keypoints import project, projections
from verbot.data.samples.labels.grasp_state import grasps
from verbot.envs import make_env
from verbot.evaluation.protocol.intervals import Estimate, proportion, quantile
from verbot.evaluation.report.summary import format_estimate
from verbot.models.network import Objective
from verbot.policy.policy import VLAPolicy
from verbot.recipes.config import Recipe, resolve
from verbot.recipes.overrides import override
from verbot.rollout.episode import EpisodeRunner
from verbot.spec import FloatArray, Observation
from verbot.training import AugmentConfig

ARM, ROVER, FOLDER = "tabletop-starter", "navigation-compass", "policy-navigation-rover"
PIXELS, NEAR = 64, 3
PLACES = {"keypoints": 1.0, "grounding_queries": 1.0}
TASKS: dict[str, dict[str, Any]] = {  # of the arm, each as weights of objectives
    "manipulation": {"action": 1.0},
    "detection": PLACES,
    "grasping": {"grasp_state": 1.0},
    "arm-graspless": {"action": 1.0, **PLACES},
    "arm": {"action": 1.0, **PLACES, "grasp_state": 1.0},
    "navigation": {"action": 1.0},
    "rover-detection": PLACES,
    "rover": {"action": 1.0, **PLACES},
}


@dataclass(frozen=True)
class Arguments:
    """What to measure. Arms are tasks and robots alone, and both robots, weights ``equal``, ``learned`` or the recipe's."""

    table: tyro.conf.Positional[Path]
    floor: tyro.conf.Positional[Path]
    out: Path = Path("outputs/robots")
    arms: tuple[str, ...] = (*TASKS, "equal", "learned", "recipe")
    samples: int = 40_000  # of each robot
    episodes: int = 99
    scenes: int = 300  # for detection and grasping
    seed: int = 0


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    tell(arguments.arms, lambda arm: measure(arguments, arm), cell)


def cell(name: str, found: Estimate) -> str:
    return f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]" if "(" in name else format_estimate("success_rate", found)


def measure(arguments: Arguments, arm: str) -> dict[str, Any]:
    """One arm, trained as far as it is not yet, and what it can by name."""
    run, out = configured(arguments, arm), arguments.out / arm
    data = {"navigation": [arguments.floor], "rover-detection": [arguments.floor], "rover": [arguments.floor]}.get(arm)
    data = data or ([arguments.table] if arm in TASKS else [arguments.table, arguments.floor])
    verbot.train(run, data=data, out=out, seed=arguments.seed, progress=False)
    found: dict[str, Estimate] = {}
    network = run.training.network
    if data[0] == arguments.table:
        policy = VLAPolicy.load(str(out / "policy"))
        if network.is_trained("keypoints"):
            found["detection, arm"] = pointed(policy, ARM, arguments.scenes)
        if network.is_trained("grasp_state"):
            found |= grasped(policy, arguments.scenes)
        if network.is_trained("action"):
            found["manipulation"] = played(arguments, out / "policy", ARM)["success_rate"]
    if data[-1] == arguments.floor:
        folder = out / (FOLDER if len(data) > 1 else "policy")
        if len(data) > 1 or network.is_trained("keypoints"):
            found["detection, rover"] = pointed(VLAPolicy.load(str(folder)), ROVER, arguments.scenes)
        if len(data) > 1 or network.is_trained("action"):
            metrics = played(arguments, folder, ROVER)
            found |= {
                "navigation": metrics["success_rate"], "came to something": metrics["engagement_rate"],
                "came to the named": metrics["language_following"],
            }  # fmt: skip
    return {name: estimate.to_json() for name, estimate in found.items()}


def configured(arguments: Arguments, arm: str) -> Recipe:
    """The recipe `multi-task-net`, or one of its robots, with the losses of this arm."""
    whole = resolve("multi-task-net")
    training = override(whole.training, {"samples": arguments.samples, "processes": 1})
    (rover,) = training.cotraining
    assert rover.network is not None
    if arm == "recipe":
        return whole.with_training(training)
    if arm not in TASKS:
        how: Any = "uncertainty" if arm == "learned" else "fixed"
        network = dataclasses.replace(training.network.with_objectives(grasp_state=1.0), loss_weighting=how)
        theirs = dataclasses.replace(rover.network.with_objectives(action=1.0, **PLACES), loss_weighting=how)
        cotraining = (dataclasses.replace(rover, network=theirs),)
        return whole.with_training(dataclasses.replace(training, network=network, cotraining=cotraining))
    weights = TASKS[arm]
    network, augment = training.network, training.augment
    if arm in ("navigation", "rover-detection", "rover"):
        network, augment = rover.network, rover.augment
    if "keypoints" not in weights:
        augment = without_questions(augment)
    network = dataclasses.replace(network, objectives={name: Objective(weight) for name, weight in weights.items()})
    return whole.with_training(dataclasses.replace(training, network=network, augment=augment, cotraining=()))


def without_questions(augment: AugmentConfig) -> AugmentConfig:
    return dataclasses.replace(augment, grounding_queries=0)


def played(arguments: Arguments, policy: Path, suite: str) -> dict[str, Estimate]:
    summary = verbot.evaluate(
        policy, suite, out=policy.with_name(f"evaluation-{suite}"), episodes=arguments.episodes, baselines=False, videos=0,
        conditions=(), latency_calls=1, workers=1, progress=False,
    )  # fmt: skip
    return dict(summary.metrics)


def pointed(policy: VLAPolicy, suite: str, count: int) -> Estimate:
    """The share of goals of unseen scenes whose target is pointed at within `NEAR` pixels, in the first camera."""
    env, hits = make_env(suite), []
    for number in range(count):
        options = {"task": env.tasks[number % len(env.tasks)], "index": number // len(env.tasks), "goal": number % 2}
        record, info = env.reset(seed=0, options=options)
        target = goal_points(info["grounding"][options["goal"]])[:1]
        matrices = projections(record["state"][None], env.robot_spec, info["calibration"], policy.spec.camera_names[:1])
        place, known = project(matrices, target[None])
        if known[0, 0, 0]:
            seen = Observation(record["images"], record["state"], record["instruction"])
            points = policy.predict_extras([seen])[0]["keypoints"]
            apart = np.linalg.norm((points[0, 0] - place[0, 0, 0]) * PIXELS / 2)
            hits.append(bool(apart <= NEAR))
    return proportion(hits)


def grasped(policy: VLAPolicy, count: int) -> dict[str, Estimate]:
    """Median errors of the predicted grasp against the expert's, and of the mean of all grasps."""
    env = make_env(ARM, tasks=("pick", "put"))
    predicted, true = [], []
    for number in range(count):
        episode = EpisodeRunner(env, {"task": ("pick", "put")[number % 2], "index": number // 2})
        seen = episode.observation
        grasp = expert_grasp(episode)
        if grasp is not None:
            predicted.append(policy.predict_extras([seen])[0]["grasp"])
            true.append(grasp)
    found, errors = np.array(predicted), dict[str, Estimate]()
    for name, said in (("", found), (", the mean", np.broadcast_to(np.mean(true, 0), found.shape))):
        apart = 1000 * np.linalg.norm(said[:, :3] - np.array(true)[:, :3], axis=1)
        turned = np.degrees(np.abs(yaw(said) - yaw(np.array(true))))
        errors |= {f"grasp (mm{name})": quantile(apart.tolist(), 0.5), f"grasp (°{name})": quantile(turned.tolist(), 0.5)}
    return errors


def expert_grasp(episode: EpisodeRunner) -> FloatArray | None:
    """The state in which the expert grasps, in the episode that has just started; None where it does not."""
    steps = list(episode.run(expert_of(episode.env)))
    states, actions = (np.array(rows, np.float32) for rows in ([s.observation.state for s in steps], [s.action for s in steps]))
    label = grasps(states, actions, episode.env.robot_spec)
    found, mask = label.values, label.mask
    return found[0] if mask[0] else None


def yaw(states: FloatArray) -> FloatArray:
    return 2 * np.arctan2(states[:, 6], states[:, 3])


if __name__ == "__main__":
    main()
