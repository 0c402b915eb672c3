"""The level that a task has reached is the level that its env plays: through the run, the workers and the env's options."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))
from toy_world import LIMIT, ToyEnv

from verbot.parallel.signals import StopRequest
from verbot.rollout.collect import CollectConfig
from verbot.training.log import Log
from verbot.training.rl import ReinforceConfig, envs
from verbot.training.rl import ppo as running
from verbot.training.rl.config import EnvConfig, PPOConfig, ReinforceParallelismConfig
from verbot.training.rl.curriculum import Curriculum, CurriculumState
from verbot.training.rl.envs import EnvRunner, EnvRunnerPlan, EnvRunners, EnvRunnerSetup, RunState, StepAll

LEVELS = 5
SEPARATE = Curriculum((0.5,) * (LEVELS - 1), episodes=2, review=0.0)
PLAYS = CollectConfig(env="toy", seed=0)
STILL = np.zeros(1, np.float32)
CONFIG = ReinforceConfig(
    env=EnvConfig("toy", num_envs=2),
    ppo=PPOConfig(num_steps=4, batch_size=8),
    curriculum=SEPARATE,
    parallelism=ReinforceParallelismConfig(workers=1),
)


class LeveledEnv(ToyEnv):
    """The toy with levels; remembers which it was asked for."""

    levels = LEVELS

    def __init__(self):
        super().__init__()
        self.played: list[tuple[str, int | None]] = []

    def reset(self, *, seed=None, options=None):
        found = super().reset(seed=seed, options=options)
        self.played.append((self.request.task, self.request.level))
        return found


def episode(step):
    """The transition with which an episode ends, without any motion."""
    for _ in range(LIMIT):
        transition = step()
        if transition.final is not None:
            return transition
    raise AssertionError("the episode does not end")


def test_an_env_runner_requests_the_level_that_the_task_has_reached():
    """Kills the mutations that draw a level and leave it out of the request, or out of the info of the episode."""
    env = LeveledEnv()
    runner = EnvRunner(env, PLAYS, 0, 1, EnvRunnerPlan(curriculum=SEPARATE))
    _, info = runner.begin()
    assert env.played[-1] == ("go", 0) and info["level"] == 0
    runner.run_state = RunState({"go": 3, "visit": 1})
    for _ in range(4):
        transition = episode(lambda: runner.step(STILL))
        task, level = env.played[-1]
        assert level == {"go": 3, "visit": 1}[task] == transition.reset_info["level"]
    assert {task for task, _ in env.played} == {"go", "visit"}


def test_without_a_curriculum_the_env_chooses_the_level():
    env = LeveledEnv()
    _, info = EnvRunner(env, PLAYS, 0, 1, EnvRunnerPlan()).begin()
    assert env.played == [("go", None)] and "level" not in info


def test_a_worker_passes_the_stage_on_to_all_its_envs(monkeypatch):
    """Kills the mutations in which a worker drops the stage of the run, or passes it to one of its envs alone."""
    made: list[LeveledEnv] = []
    monkeypatch.setattr(envs, "make_env", lambda name, **options: made.append(LeveledEnv()) or made[-1])
    with EnvRunnerSetup(PLAYS, (0, 1, 2), 3, EnvRunnerPlan(curriculum=SEPARATE)).open() as service:
        requests = [RunState({"go": 2, "visit": 2}), *(StepAll([STILL] * 3) for _ in range(LIMIT))]
        list(service.answers(iter(requests)))
    assert [[level for _, level in env.played] for env in made] == [[0, 2]] * 3


class IdleWorker:
    """A worker process that never started: keeps what it is sent."""

    def __init__(self, setup):
        self.setup, self.sent = setup, []

    def send(self, message):
        self.sent.append(message)


def test_every_worker_gets_the_curriculum_and_the_stage(monkeypatch):
    """Kills the mutations in which the curriculum or the stage stays in the process that learns."""
    idle: list[IdleWorker] = []

    def open_workers(setups, name):
        idle.extend(map(IdleWorker, setups))
        return contextlib.nullcontext(idle)

    monkeypatch.setattr(envs, "open_workers", open_workers)
    EnvRunners(dataclasses.replace(CONFIG, parallelism=ReinforceParallelismConfig(workers=2))).set_run_state(RunState({"go": 2}))
    assert len(idle) == 2
    for worker in idle:
        assert worker.setup.plan.curriculum == SEPARATE
        assert worker.sent == [RunState({"go": 2})]


class RecordedStages:
    """Env runners that record the stages that they get."""

    def __init__(self):
        self.stages = []

    def set_run_state(self, stage):
        self.stages.append(dict(stage.reached))


def test_a_run_sends_its_env_runners_each_new_level(tmp_path):
    """Kills the mutations in which a run never sends its stage, or sends it only at the beginning."""
    course, runners = CurriculumState(SEPARATE, LEVELS, ["go"], {"reached": {"go": 1}, "recent": {}}), RecordedStages()
    callback = running._RunCallback(CONFIG, tmp_path, None, Log(None, 0, 1, False), {}, runners, course, StopRequest())
    assert runners.stages == [{"go": 1}], "a run that goes on begins where it was"
    for level, success in ((1, True), (1, True), (1, True), (2, False)):
        ended = {"terminal_observation": None, "task": "go", "level": level, "success": success}
        callback.locals = {"infos": [ended, {}]}
        assert callback._on_step()
    assert runners.stages == [{"go": 1}, {"go": 2}]
