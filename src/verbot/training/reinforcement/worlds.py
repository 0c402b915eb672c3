"""Many episodes at once, played by worker processes: what Stable-Baselines3 calls a vectorized environment."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verbot.collection import CollectConfig, request_for
from verbot.configuration import to_plain
from verbot.contracts import Env, observation_from_env
from verbot.data.hindsight import project, projections
from verbot.data.windows import goal_points
from verbot.envs import make_env
from verbot.processes import Worker, cores, workers
from verbot.spec import FloatArray, Observation, RobotSpec
from verbot.training.reinforcement.config import ReinforceConfig

TOLD = ("instruction", "success", "final_error_m", "state_text", "error", "engaged", "named")  # of an env's info


@dataclass(frozen=True)
class Look:
    """An observation, and where in its views is what the command is about.

    Args:
        points: float32 (v, 3, 2): target, receptacle and reference, x right and y down in [-1, 1], until something is touched.
        known: bool (v, 3); False for what is unknown or out of the picture.
    """

    observation: Observation
    points: FloatArray
    known: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Turn:
    """What one control step of one world led to.

    Args:
        look: the present one; of the next episode where one is over.
        info: some of what the env told (`TOLD`), of the episode that the step belongs to.
        last: the look that an episode ended with, None while it goes on.
        truncated: whether it was the time limit, or a fault, that ended it.
        begun: the info of the episode that begins, None while one goes on.
    """

    look: Look
    reward: float
    info: Mapping[str, Any]
    last: Look | None = None
    truncated: bool = False
    begun: Mapping[str, Any] | None = None


class World:
    """One env that begins the next training episode by itself.

    Args:
        number, count: this one plays every `count`-th scene, from `number` on.
        played: episodes that it has behind it.
    """

    def __init__(self, env: Env, config: CollectConfig, number: int, count: int, played: int = 0):
        self._env, self._config, self._number, self._count, self._played = env, config, number, count, played
        self._tasks = config.tasks or env.tasks
        self._steps, self._task = 0, ""

    def begin(self) -> tuple[Look, dict[str, Any]]:
        """The first look at the next episode, and what was told of it."""
        request = request_for(self._config, self._tasks, self._number + self._count * self._played)
        self._played, self._steps, self._task = self._played + 1, 0, request["task"]
        record, info = self._env.reset(seed=self._config.seed, options=request)
        return self._look(record, info), self._told(info)

    def step(self, action: FloatArray) -> Turn:
        record, reward, terminated, truncated, info = self._env.step(action)
        self._steps += 1
        seen, told = self._look(record, info), self._told(info)
        if not (terminated or truncated):
            return Turn(seen, float(reward), told)
        following, begun = self.begin()
        return Turn(following, float(reward), told, seen, truncated and not terminated, begun)

    def _look(self, record: Mapping[str, Any], info: Mapping[str, Any]) -> Look:
        spec = self._env.robot_spec
        observation = observation_from_env(record, self._steps / spec.rate_hz)
        grounding = info.get("grounding")
        points = goal_points(grounding[0]) if grounding and info["engaged"] is None else np.full((3, 3), np.nan)
        matrices = projections(observation.state[None], spec, info.get("calibration", {}), spec.camera_names)
        places, known = project(matrices, points[None])
        return Look(observation, places[0], known[0])

    def _told(self, info: Mapping[str, Any]) -> dict[str, Any]:
        return {"task": self._task, **{name: info[name] for name in TOLD if name in info}}


class Worlds:
    """`config.worlds` of them, shared out among processes; closed on the way out.

    Args:
        played: episodes that each world has behind it.
    """

    def __init__(self, config: ReinforceConfig, played: int = 0):
        self._opened = contextlib.ExitStack()
        count = min(config.workers or cores(), config.worlds)
        self._shares = [list(range(config.worlds))[i::count] for i in range(count)]
        self._team: list[Worker] = self._opened.enter_context(workers("verbot.training.reinforcement.player", count, "player"))
        plays = CollectConfig(env=config.env, options=config.options, tasks=config.tasks, axes=config.axes, seed=config.seed)
        for worker, share in zip(self._team, self._shares, strict=True):
            worker.send({"config": to_plain(plays), "numbers": share, "count": config.worlds, "played": played})
        self.count = config.worlds

    def begin(self) -> list[tuple[Look, dict[str, Any]]]:
        """The first look at every world, and what it told."""
        return self._gather()

    def step(self, actions: Sequence[FloatArray]) -> list[Turn]:
        """One control step of every world, with an action (a,) in the robot's units each."""
        for worker, share in zip(self._team, self._shares, strict=True):
            worker.send([actions[i] for i in share])
        return self._gather()

    def close(self) -> None:
        self._opened.close()

    def _gather(self) -> list[Any]:
        found: list[Any] = [None] * self.count
        for worker, share in zip(self._team, self._shares, strict=True):
            for place, answer in zip(share, worker.receive(), strict=True):
                found[place] = answer
        return found


def survey(config: ReinforceConfig, scenes: int = 300, seconds: float = 20.0) -> tuple[RobotSpec, FloatArray, list[str]]:
    """The robot, states (n, s) met by acting at random, and the sentences of `scenes` training scenes."""
    rng = np.random.default_rng(config.seed)
    plays = CollectConfig(env=config.env, tasks=config.tasks, axes=config.axes, seed=config.seed)
    states, sentences = [], dict[str, None]()
    with closing(make_env(config.env, **config.options)) as env:
        spec, low, high = env.robot_spec, env.robot_spec.action_low(), env.robot_spec.action_high()
        for number in range(scenes):
            record, info = env.reset(seed=config.seed, options=request_for(plays, config.tasks or env.tasks, number))
            sentences.update(dict.fromkeys(info["instructions"]))
            for _ in range(20 if number < 100 else 0):
                states.append(record["state"])
                record, _, terminated, truncated, _ = env.step(rng.uniform(low, high).astype(np.float32))
                if terminated or truncated:
                    break
    return spec, np.stack(states), list(sentences)
