"""Learning while deployed: a policy meets a shifted world and goes on learning there from its own episodes, without an expert.

In rounds: the policy acts; of its episodes those are kept that went well as far as it can tell; the same loop trains it on them
beside the demonstrations that it comes from, so that the nominal world stays. What an own episode tells anew is *hindsight*
(`verbot.data.hindsight`): where the hand closed on something and let go is where it should have looked from the first frame on,
in pictures of that world (the idea of a task of one's own at deployment is that of Hansen et al. 2021, "Self-Supervised Policy
Adaptation during Deployment"; filtered imitation of oneself is Oh et al. 2018, "Self-Imitation Learning").

No episode holds anything of the simulator's state: pictures, state, actions, the calibration of the cameras, the words. With
``keep="grasped"`` the filter is what the fingers felt; with ``"success"`` it is the world's own test of success.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from verbot.collection import Attempt, attempts, stamped
from verbot.configuration import to_plain
from verbot.contracts import Agent, Env, observation_from_env
from verbot.data import DatasetWriter, EpisodeRecord, open_dataset
from verbot.data.hindsight import grasped
from verbot.envs import make_env
from verbot.errors import ConfigError, TrainingError
from verbot.spec import Observation, RobotSpec
from verbot.training.config import TrainConfig
from verbot.training.loop import TrainResult, train

EXPERIENCE = "experience"


@dataclass(frozen=True)
class AdaptConfig:
    """Where the policy is deployed, and how it learns from that.

    Args:
        env: the world, made with `options`; one place of it with ``options={"place": 3}``.
        axes: randomization axis to strength: how the world is shifted.
        rounds: of acting and learning.
        episodes: acted in each round.
        samples: trained on in each round.
        keep: ``"grasped"`` keeps episodes in which every closing of the gripper held something (nothing but the robot's own
            state tells); ``"success"`` those that the world's test of success ended; ``"all"`` every one.
        replay: the share of samples that comes from demonstrations.
        execute: actions of each chunk that are carried out.
        seed: of the scenes, which are neither those of demonstrations nor of tests.
        workers: processes that act.
    """

    env: str = "tabletop-starter"
    options: Mapping[str, Any] = field(default_factory=dict)
    axes: Mapping[str, int] = field(default_factory=dict)
    rounds: int = 2
    episodes: int = 150
    samples: int = 10_000
    keep: Literal["grasped", "success", "all"] = "grasped"
    replay: float = 0.5
    execute: int = 1
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        for name in ("rounds", "episodes", "samples", "execute", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not 0 <= self.replay < 1:
            raise ConfigError(f"replay is the share of demonstrations, at least 0 and below 1; got {self.replay:g}")


@dataclass(frozen=True)
class AdaptRound:
    """What one round came to: of `acted` episodes `kept` were trained on, `errors` were the simulator's."""

    acted: int
    kept: int
    errors: int
    result: TrainResult


def adapt(config: TrainConfig, deployed: AdaptConfig, out: str | Path, progress: bool = True) -> list[AdaptRound]:
    """Let the start of `config` act and learn; each round's folder in `out` holds its ``experience`` and its ``policy``.

    Called again it continues where it was interrupted.

    Args:
        config: how it learns; its `datasets` are the demonstrations that are replayed, its budget is replaced.
        deployed: where, how often and from what.

    Raises `ConfigError` where there is no start, `TrainingError` where a round keeps nothing, and as `train` does.
    """
    if config.start is None:
        raise ConfigError("who is deployed? Give the config a start, the policy that adapts")
    rounds: list[AdaptRound] = []
    for number in range(deployed.rounds):
        start = rounds[-1].result.policy if rounds else config.start
        folder = Path(out) / f"round-{number + 1}"
        acted, kept, errors = experience(deployed, start, folder / EXPERIENCE, number)
        told = round_config(config, deployed, [Path(out) / f"round-{i + 1}" for i in range(number + 1)], start)
        rounds.append(AdaptRound(acted, kept, errors, train(told, folder, progress=progress)))
    return rounds


def round_config(config: TrainConfig, deployed: AdaptConfig, folders: Sequence[Path], start: str) -> TrainConfig:
    """How a round is trained: on the experience of all rounds so far, frame by frame alike, and on replayed demonstrations.

    Example:
        >>> later = round_config(TrainConfig(("demos",), steps=1), AdaptConfig(replay=0.6), [Path("a"), Path("b")], "a/policy")
        >>> later.datasets, later.weights, later.samples
        (('demos', 'a/experience', 'b/experience'), (0.6, 0.2, 0.2), 10000)
    """
    lived = tuple(str(folder / EXPERIENCE) for folder in folders)
    shown = config.datasets if deployed.replay else ()
    weights = (*(deployed.replay / len(shown) for _ in shown), *((1 - deployed.replay) / len(lived) for _ in lived))
    return dataclasses.replace(
        config, datasets=(*shown, *lived), weights=weights, selections=None, steps=None, minutes=None,
        samples=deployed.samples, start=start, start_sha256=None,
    )  # fmt: skip


def experience(deployed: AdaptConfig, policy: str, path: Path, number: int) -> tuple[int, int, int]:
    """Let `policy` act in round `number` and save at `path` what is kept; an interrupted round goes on.

    Returns episodes acted, kept and ended by errors. Raises `TrainingError` where nothing was kept.
    """
    with closing(make_env(deployed.env, **deployed.options)) as env:
        spec = env.robot_spec
    done, errors = 0, 0
    if path.exists() and len(before := open_dataset(path)):
        done, errors = (before[len(before) - 1].extras["collection"][name] for name in ("attempt", "errors"))
        done += 1
    briefing = {"config": to_plain(deployed), "policy": str(policy), "round": number}
    with DatasetWriter(path, spec) as writer:
        for attempt in attempts(briefing, range(done, deployed.episodes), deployed.workers, "verbot.training.deployed"):
            errors += attempt.error is not None
            if attempt.record is not None:
                writer.save_episode(stamped(attempt.record, attempt=attempt.index, errors=errors))
    kept = len(open_dataset(path))
    if not kept:
        raise TrainingError(
            f"of {deployed.episodes} episodes the policy kept none (keep={deployed.keep!r}): in this world it has nothing to "
            "learn from itself; begin in a less shifted one"
        )
    return deployed.episodes, kept, errors


def live(env: Env, agent: Agent, request: Mapping[str, Any], keep: str, seed: int, index: int) -> Attempt:
    """One episode of the agent's own. The attempt holds a record where it is one to keep."""
    record, info = env.reset(seed=seed, options=dict(request))
    calibration = info["calibration"]
    agent.reset(info["instruction"])
    seen: list[Observation] = []
    actions: list[np.ndarray] = []
    over = False
    while not over:
        seen.append(observation_from_env(record, len(actions) / env.robot_spec.rate_hz))
        actions.append(np.asarray(agent.act(seen[-1]), np.float32))
        record, _, terminated, truncated, info = env.step(actions[-1])
        over = terminated or truncated
    if info["error"]:
        return Attempt(index, None, info["error"])
    kept = experienced(env.robot_spec, seen, actions, calibration, keep, bool(info["success"]))
    return Attempt(index, None if kept is None else dataclasses.replace(kept, extras={**kept.extras, "request": dict(request)}))


def experienced(
    spec: RobotSpec,
    seen: Sequence[Observation],
    actions: Sequence[np.ndarray],
    calibration: Mapping[str, Any],
    keep: str,
    success: bool,
) -> EpisodeRecord | None:
    """An own episode as it is saved; None where it is not one to keep.

    Where nothing was held from the first closing on, hindsight would point where the hand closed in vain or began to push:
    without a calibration no point is known, and only the actions teach.

    Raises `ConfigError` where a camera gave no picture.
    """
    states, moves = np.stack([o.state for o in seen]), np.stack(actions)
    felt = grasped(states, moves, spec)
    if not {"grasped": felt, "success": success, "all": True}[keep]:
        return None
    if lost := [name for name in spec.camera_names if not all(name in o.images for o in seen)]:
        raise ConfigError(f"camera {lost[0]!r} gave no picture in some steps, and an episode to learn from has one of each")
    return EpisodeRecord(
        instruction=seen[0].instruction,
        states=states,
        actions=moves,
        images={name: np.stack([o.images[name] for o in seen]) for name in spec.camera_names},
        calibration=calibration if felt else {},
        extras={"instructions": [seen[0].instruction], **({"success": success} if keep == "success" else {})},
    )
