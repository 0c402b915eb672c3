"""Many episodes at once, played by worker processes: what Stable-Baselines3 calls a vectorized environment."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from verbot.configuration import to_plain
from verbot.contracts import Leveled, TaskEnv, expert_of, observation_from_env
from verbot.data.samples.episode_arrays import goal_points
from verbot.data.samples.keypoints import project, projections
from verbot.envs import make_env
from verbot.parallel.workers import Worker, cores, workers
from verbot.rollout.collect import CollectConfig, request_for
from verbot.spec import FloatArray, Observation, RobotSpec
from verbot.training.rl.config import ReinforceConfig
from verbot.training.rl.curriculum import Curriculum

GLANCE = 2  # steps of each episode while a run only looks
ERRING = 0.8  # at most: share of the expert's steps that are drawn at random, on its way to where a glance is taken
ASTRAY, TURNING = 16, 0.3  # less than so many random steps more, of which this share differs from the one before
TOLD = ("instruction", "success", "final_error_m", "state_text", "error", "first_contact", "target_object")  # of an env's info


@dataclass(frozen=True)
class Look:
    """An observation, and where in its views is what the command is about.

    Args:
        points: float32 (1 + q, v, 3, 2): target, receptacle and reference, x right and y down in [-1, 1], until something is
            touched.
        known: bool (1 + q, v, 3); False for what is unknown or out of the picture.
        asked: q sentences that could have been said of this scene instead; the first points are the command's, then come theirs.
    """

    observation: Observation
    points: FloatArray
    known: npt.NDArray[np.bool_]
    asked: tuple[str, ...] = ()


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


@dataclass(frozen=True)
class Plan:
    """What every world is to know beside its scenes.

    Args:
        played: episodes that each has behind it.
        questions: how many of a scene's other goals each look tells, drawn at random.
        curriculum: by which levels are drawn; None leaves them to the env.
        glanced: the tasks that are drawn while a run only looks; None draws those that are tried.
    """

    played: int = 0
    questions: int = 0
    curriculum: Curriculum | None = None
    glanced: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Stage:
    """How far a run has come.

    Args:
        reached: task to the level that it has come to.
        looking: whether it only looks yet: a few steps of many episodes, each from somewhere along an expert's way. What is seen
            is learned from scenes, and a hundred frames of one are hardly more than one; but what is half done looks otherwise.
    """

    reached: Mapping[str, int] = field(default_factory=dict)
    looking: bool = False


class World:
    """One env that begins the next training episode by itself.

    Args:
        number, count: this one plays every `count`-th scene, from `number` on.
        stage: may be changed at any time.
    """

    def __init__(self, env: TaskEnv, config: CollectConfig, number: int, count: int, plan: Plan):
        self._env, self._config, self._number, self._count, self._plan = env, config, number, count, plan
        self._tasks, self._levels = config.tasks or env.tasks, env.levels if isinstance(env, Leveled) else 1
        self._played, self._steps = plan.played, 0
        self._told_always: dict[str, Any] = {}
        self.stage = Stage()

    def begin(self) -> tuple[Look, dict[str, Any]]:
        """The first look at the next episode, and what was told of it."""
        tasks = (self._plan.glanced if self.stage.looking else None) or self._tasks
        request = request_for(self._config, tasks, self._number + self._count * self._played)
        self._rng = np.random.default_rng((self._config.seed, self._number, self._played))
        self._played, self._steps, self._told_always = self._played + 1, 0, {"task": request["task"]}
        if self._plan.curriculum is not None and not self.stage.looking:
            request["level"] = self._plan.curriculum.draw(self.stage.reached.get(request["task"], 0), self._levels, self._rng)
        if "level" in request:
            self._told_always["level"] = request["level"]
        record, info = self._env.reset(seed=self._config.seed, options=request)
        if self.stage.looking:
            record, info = self._along(request, record, info)
        return self._look(record, info), self._told(info)

    def _along(
        self, request: dict[str, Any], record: dict[str, Any], info: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The same episode somewhere along the way of an expert who errs now and then or mostly, and astray from it.

        Who tries wanders about more than an expert does. If what is to be done next were always beside the robot, that is where
        it would be looked for.
        """
        expert, left_m = expert_of(self._env, ERRING * self._rng.random()), self._rng.random() * info["final_error_m"]
        low, high = self._env.robot_spec.action_low(), self._env.robot_spec.action_high()
        astray, way = self._rng.integers(ASTRAY), [low]
        while (coming := info["final_error_m"] > left_m) or astray:
            if coming:
                way.append(expert.act(observation_from_env(record)))
            else:
                left_m, astray = np.inf, astray - 1
                turns = self._rng.random() < TURNING
                way.append(self._rng.uniform(low, high).astype(np.float32) if turns else way[-1])
            record, _, terminated, truncated, info = self._env.step(way[-1])
            if terminated or truncated:  # the last look before the end, where the same way leads
                record, info = self._env.reset(seed=self._config.seed, options=request)
                for action in way[1:-1]:
                    record, _, _, _, info = self._env.step(action)
                return record, info
        return record, info

    def step(self, action: FloatArray) -> Turn:
        record, reward, terminated, truncated, info = self._env.step(action)
        self._steps += 1
        seen, told = self._look(record, info), self._told(info)
        truncated = truncated or (self.stage.looking and self._steps >= GLANCE)
        if not (terminated or truncated):
            return Turn(seen, float(reward), told)
        following, begun = self.begin()
        return Turn(following, float(reward), told, seen, truncated and not terminated, begun)

    def _look(self, record: Mapping[str, Any], info: Mapping[str, Any]) -> Look:
        spec, count = self._env.robot_spec, self._plan.questions
        observation = observation_from_env(record, self._steps / spec.rate_hz)
        points, asked = np.full((1 + count, 3, 3), np.nan), [""] * count
        if (grounding := info.get("grounding")) and not info.get("moved", info["first_contact"] is not None):
            others = self._rng.permutation(len(grounding) - 1)[:count] + 1
            for place, goal in enumerate([grounding[0], *(grounding[i] for i in others)]):
                points[place] = goal_points(goal)
                if place:
                    asked[place - 1] = goal["instructions"][self._rng.integers(len(goal["instructions"]))]
        matrices = projections(observation.state[None], spec, info.get("calibration", {}), spec.camera_names)
        places, known = project(np.repeat(matrices, 1 + count, 0), points)
        return Look(observation, places, known, tuple(asked))

    def _told(self, info: Mapping[str, Any]) -> dict[str, Any]:
        return {**self._told_always, **{name: info[name] for name in TOLD if name in info}}


class Worlds:
    """`config.worlds` of them, shared out among processes; closed on the way out.

    Args:
        played: episodes that each world has behind it.
    """

    def __init__(self, config: ReinforceConfig, played: int = 0):
        self._opened = contextlib.ExitStack()
        plan = Plan(played, config.questions, config.curriculum, config.looking.tasks if config.looking else None)
        count = min(config.workers or cores(), config.worlds)
        self._shares = [list(range(config.worlds))[i::count] for i in range(count)]
        self._team: list[Worker] = self._opened.enter_context(workers("verbot.training.rl.env_worker", count, "player"))
        plays = CollectConfig(env=config.env, options=config.options, tasks=config.tasks, axes=config.axes, seed=config.seed)
        for worker, share in zip(self._team, self._shares, strict=True):
            worker.send({"config": to_plain(plays), "numbers": share, "count": config.worlds, "plan": to_plain(plan)})
        self.count = config.worlds

    def begin(self) -> list[tuple[Look, dict[str, Any]]]:
        """The first look at every world, and what it told."""
        return self._gather()

    def step(self, actions: Sequence[FloatArray]) -> list[Turn]:
        """One control step of every world, with an action (a,) in the robot's units each."""
        for worker, share in zip(self._team, self._shares, strict=True):
            worker.send([actions[i] for i in share])
        return self._gather()

    def tell(self, stage: Stage) -> None:
        """For the episodes that begin from now on."""
        for worker in self._team:
            worker.send(to_plain(stage))

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
            for goal in info.get("grounding", ())[1:] if config.questions else ():
                sentences.update(dict.fromkeys(goal["instructions"]))
            for _ in range(20 if number < 100 else 0):
                states.append(record["state"])
                record, _, terminated, truncated, _ = env.step(rng.uniform(low, high).astype(np.float32))
                if terminated or truncated:
                    break
    return spec, np.stack(states), list(sentences)
