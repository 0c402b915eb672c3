"""Parallel episodes in worker processes: a vectorized environment for reinforcement learning."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from verbot.contracts import Leveled, TaskEnv, expert_of
from verbot.data.samples.episode_arrays import goal_points
from verbot.data.samples.keypoints import project, projections
from verbot.envs import make_env
from verbot.parallel.workers import Worker, cores
from verbot.rollout.collect import CollectConfig, request_for
from verbot.rollout.episode import EpisodeRunner
from verbot.rollout.worker import open_workers
from verbot.spec import FloatArray, Observation, RobotSpec
from verbot.training.rl.config import ReinforceConfig
from verbot.training.rl.curriculum import Curriculum

SAMPLE_STEPS = 2  # control steps of each episode during perception warm-up
NOISE = 0.8  # maximum fraction of random steps of the expert before a warm-up sample
OFF_TRAJECTORY, TURNING = 16, 0.3  # upper bound of the number of random steps after it; fraction of them with a new action
REPORTED = ("instruction", "success", "final_error_m", "state_text", "error", "first_contact", "target_object")  # keys of info


@dataclass(frozen=True)
class GroundedObservation:
    """An observation with the image positions of the objects in the instruction and in grounding queries.

    Args:
        points: float32 (1 + q, v, 3, 2): target, receptacle and reference, x right and y down in [-1, 1], until the first
            contact. The first entry is that of the instruction, then come those of the queries.
        known: bool (1 + q, v, 3); False for positions that are unknown or outside the image.
        queries: q instructions of other goals of this scene.
    """

    observation: Observation
    points: FloatArray
    known: npt.NDArray[np.bool_]
    queries: tuple[str, ...] = ()


@dataclass(frozen=True)
class VecTransition:
    """One control step of one env, which starts its next episode automatically.

    Args:
        observation: the latest one; the first of the next episode if this one ended.
        info: the env's `REPORTED` values, of the episode to which the step belongs.
        final: the last observation of an episode that ended; None while it continues.
        truncated: whether the time limit or a fault ended the episode.
        reset_info: the info of the next episode; None while one continues.
    """

    observation: GroundedObservation
    reward: float
    info: Mapping[str, Any]
    final: GroundedObservation | None = None
    truncated: bool = False
    reset_info: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class EnvRunnerPlan:
    """Settings of all env runners.

    Args:
        played: episodes that each of them has completed before.
        grounding_queries: number of random other goals of the scene in each observation.
        curriculum: draws the levels; None leaves them to the env.
        warmup_tasks: the tasks of perception warm-up; None uses all tasks.
    """

    played: int = 0
    grounding_queries: int = 0
    curriculum: Curriculum | None = None
    warmup_tasks: tuple[str, ...] | None = None


@dataclass(frozen=True)
class RunState:
    """The state of a run that the env runners need.

    Args:
        reached: task to the level that it has reached.
        warmup: whether this is perception warm-up: a few steps of many episodes, each starting at a random time of an expert's
            trajectory. Perception needs many scenes and all phases of a task; a hundred frames of one scene are worth hardly
            more than one.
    """

    reached: Mapping[str, int] = field(default_factory=dict)
    warmup: bool = False


class EnvRunner:
    """One env that starts the next training episode automatically.

    Args:
        number, count: it uses every `count`-th scene, starting at `number`.

    `run_state` can be changed at any time; it applies from the next episode on.
    """

    def __init__(self, env: TaskEnv, config: CollectConfig, number: int, count: int, plan: EnvRunnerPlan):
        self._env, self._config, self._number, self._count, self._plan = env, config, number, count, plan
        self._tasks, self._levels = config.tasks or env.tasks, env.levels if isinstance(env, Leveled) else 1
        self._played, self._steps = plan.played, 0
        self._constant_info: dict[str, Any] = {}
        self.run_state = RunState()

    def begin(self) -> tuple[GroundedObservation, dict[str, Any]]:
        """The first observation of the next episode, and its info."""
        tasks = (self._plan.warmup_tasks if self.run_state.warmup else None) or self._tasks
        request = request_for(self._config, tasks, self._number + self._count * self._played)
        self._rng = np.random.default_rng((self._config.seed, self._number, self._played))
        self._played, self._steps, self._constant_info = self._played + 1, 0, {"task": request["task"]}
        if self._plan.curriculum is not None and not self.run_state.warmup:
            request["level"] = self._plan.curriculum.draw(self.run_state.reached.get(request["task"], 0), self._levels, self._rng)
        if "level" in request:
            self._constant_info["level"] = request["level"]
        self._episode = EpisodeRunner(self._env, request, self._config.seed)
        if self.run_state.warmup:
            self._episode = self._advanced(self._episode)
        return self._grounded(), self._reported()

    def _advanced(self, episode: EpisodeRunner) -> EpisodeRunner:
        """Advance the episode to a random time: a noisy expert acts first, then random actions leave its trajectory.

        An exploring policy is off the expert's trajectory most of the time. If the next target were always close to the robot,
        perception would learn to expect it there.
        """
        expert, left_m = expert_of(self._env, NOISE * self._rng.random()), self._rng.random() * episode.info["final_error_m"]
        low, high = self._env.robot_spec.action_low(), self._env.robot_spec.action_high()
        off_steps, action, actions = self._rng.integers(OFF_TRAJECTORY), low, list[FloatArray]()
        while (coming := episode.info["final_error_m"] > left_m) or off_steps:
            if coming:
                action = expert.act(episode.observation)
            else:
                left_m, off_steps = np.inf, off_steps - 1
                turns = self._rng.random() < TURNING
                action = self._rng.uniform(low, high).astype(np.float32) if turns else action
            actions.append(action)
            if episode.step(action).over:  # repeat the actions without the one that ended the episode
                shorter = EpisodeRunner(self._env, episode.request, self._config.seed)
                for earlier in actions[:-1]:
                    shorter.step(earlier)
                return shorter
        return episode

    def step(self, action: FloatArray) -> VecTransition:
        transition = self._episode.step(action)
        self._steps += 1
        observation, info = self._grounded(), self._reported()
        truncated = transition.truncated or (self.run_state.warmup and self._steps >= SAMPLE_STEPS)
        if not (transition.terminated or truncated):
            return VecTransition(observation, transition.reward, info)
        following, reset_info = self.begin()
        ended = truncated and not transition.terminated
        return VecTransition(following, transition.reward, info, observation, ended, reset_info)

    def _grounded(self) -> GroundedObservation:
        spec, count, observation, info = (
            self._env.robot_spec,
            self._plan.grounding_queries,
            self._episode.observation,
            self._episode.info,
        )
        points, queries = np.full((1 + count, 3, 3), np.nan), [""] * count
        if (grounding := info.get("grounding")) and not info.get("moved", info["first_contact"] is not None):
            others = self._rng.permutation(len(grounding) - 1)[:count] + 1
            for place, goal in enumerate([grounding[0], *(grounding[i] for i in others)]):
                points[place] = goal_points(goal)
                if place:
                    queries[place - 1] = goal["instructions"][self._rng.integers(len(goal["instructions"]))]
        matrices = projections(observation.state[None], spec, info.get("calibration", {}), spec.color_names)
        places, known = project(np.repeat(matrices, 1 + count, 0), points)
        return GroundedObservation(observation, places, known, tuple(queries))

    def _reported(self) -> dict[str, Any]:
        info = self._episode.info
        return {**self._constant_info, **{name: info[name] for name in REPORTED if name in info}}


@dataclass(frozen=True)
class StepAll:
    """Request: one control step of each of a worker's envs, with one action (a,) each."""

    actions: Sequence[FloatArray]


@dataclass(frozen=True)
class EnvRunnerSetup:
    """A worker that runs the envs with these `numbers` among `count`.

    Its first message is the result of `EnvRunner.begin` for each env. The answer to `StepAll` is a `VecTransition` for each env;
    a `RunState` applies to later episodes and has no answer.
    """

    config: CollectConfig
    numbers: tuple[int, ...]
    count: int
    plan: EnvRunnerPlan

    @contextlib.contextmanager
    def open(self) -> Iterator[EnvRunnerService]:
        with contextlib.ExitStack() as opened:
            config = self.config
            envs = [opened.enter_context(closing(make_env(config.env, **config.options))) for _ in self.numbers]
            pairs = zip(envs, self.numbers, strict=True)
            yield EnvRunnerService([EnvRunner(env, config, number, self.count, self.plan) for env, number in pairs])


class EnvRunnerService:
    """The service of an `EnvRunnerSetup`."""

    def __init__(self, runners: Sequence[EnvRunner]):
        self._runners = runners

    def answers(self, requests: Iterator[StepAll | RunState]) -> Iterator[list[Any]]:
        yield [runner.begin() for runner in self._runners]
        for request in requests:
            if isinstance(request, RunState):
                for runner in self._runners:
                    runner.run_state = request
            else:
                yield [runner.step(action) for runner, action in zip(self._runners, request.actions, strict=True)]


class EnvRunners:
    """`config.env.num_envs` env runners, distributed among processes; `close` ends them.

    Args:
        played: episodes that each of them has completed before.
    """

    def __init__(self, config: ReinforceConfig, played: int = 0):
        self._opened = contextlib.ExitStack()
        env, warmup = config.env, config.perception_warmup
        plan = EnvRunnerPlan(played, config.grounding_queries, config.curriculum, warmup.tasks if warmup else None)
        count = min(config.parallelism.workers or cores(), env.num_envs)
        self._shares = [tuple(range(env.num_envs))[i::count] for i in range(count)]
        collect_config = CollectConfig(env=env.name, options=env.options, tasks=env.tasks, axes=env.axes, seed=config.seed)
        setups = [EnvRunnerSetup(collect_config, share, env.num_envs, plan) for share in self._shares]
        self._workers: list[Worker] = self._opened.enter_context(open_workers(setups, "env worker"))
        self.count = env.num_envs

    def begin(self) -> list[tuple[GroundedObservation, dict[str, Any]]]:
        """The first observation and info of every env."""
        return self._gather()

    def step(self, actions: Sequence[FloatArray]) -> list[VecTransition]:
        """One control step of every env, with one action (a,) each, in the robot's units."""
        for worker, share in zip(self._workers, self._shares, strict=True):
            worker.send(StepAll([actions[i] for i in share]))
        return self._gather()

    def set_run_state(self, run_state: RunState) -> None:
        """Set the state of the run for all later episodes."""
        for worker in self._workers:
            worker.send(run_state)

    def close(self) -> None:
        self._opened.close()

    def _gather(self) -> list[Any]:
        found: list[Any] = [None] * self.count
        for worker, share in zip(self._workers, self._shares, strict=True):
            for place, answer in zip(share, worker.receive(), strict=True):
                found[place] = answer
        return found


def sample_env_statistics(config: ReinforceConfig, scenes: int = 300) -> tuple[RobotSpec, FloatArray, list[str]]:
    """The robot, states (n, s) reached by random actions, and the instructions of `scenes` training scenes."""
    rng = np.random.default_rng(config.seed)
    collect_config = CollectConfig(env=config.env.name, tasks=config.env.tasks, axes=config.env.axes, seed=config.seed)
    states, instructions = [], dict[str, None]()
    with closing(make_env(config.env.name, **config.env.options)) as env:
        spec, low, high = env.robot_spec, env.robot_spec.action_low(), env.robot_spec.action_high()
        for number in range(scenes):
            episode = EpisodeRunner(env, request_for(collect_config, config.env.tasks or env.tasks, number), config.seed)
            instructions.update(dict.fromkeys(episode.info["instructions"]))
            for goal in episode.info.get("grounding", ())[1:] if config.grounding_queries else ():
                instructions.update(dict.fromkeys(goal["instructions"]))
            for _ in range(20 if number < 100 else 0):
                states.append(episode.observation.state)
                if episode.step(rng.uniform(low, high).astype(np.float32)).over:
                    break
    return spec, np.stack(states), list(instructions)
