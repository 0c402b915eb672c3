"""Run a policy on a robot: policy, agent, guard, loop and recording put together."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from verbot.agents import (
    ChunkAgent,
    EnsembleAgent,
    Guard,
    GuardConfig,
    GuardedAgent,
    HoldAgent,
    OverlappingAgent,
    RealTimeAgent,
)
from verbot.agents.guard_events import with_max_age
from verbot.agents.overlapping import DEADLINE_S
from verbot.configuration import nested
from verbot.contracts import Policy, Robot
from verbot.deploy.loop import ControlLoop, LoopConfig, LoopTime, oldest_s
from verbot.deploy.loop_recording import RunRecorder
from verbot.deploy.loop_report import LoopSummary
from verbot.deploy.matching import check_matching
from verbot.errors import ConfigError, UnknownNameError
from verbot.files import hold
from verbot.parallel.progress import Progress
from verbot.robots import make_robot, robots
from verbot.robots.options import checked
from verbot.robots.simulated import SimulatedRobot
from verbot.robots.simulated_process import SimulatedProcess
from verbot.spec import Observation
from verbot.workflows.load_policy import fitting, open_policy

AGENTS = ("chunk", "ensemble")
SIMULATED, SUITE = ("simulated", "simulated-process"), "tabletop-starter"


@dataclass(frozen=True)
class RunConfig:
    """A policy, a robot, and how one drives the other.

    Args:
        policy: a policy's folder, ``"starter"``, or a server's ``ws://`` address.
        robot: a registered robot's name; `options` are its own.
        instruction: in plain words.
        seconds: None runs until a signal or until the simulated episode ends.
        record: a dataset that gets the run.
        out: folder for ``run.jsonl``.
        agent: ``"chunk"`` executes `execute` actions of each chunk; ``"ensemble"`` averages the chunks of all steps.
        timeout_s: how long a step waits for the policy; None is one control period. With `real_time` no step waits, and it is the
            time limit of a prediction; None is a second.
        unguarded: accept a robot without motion limits.
        guard: when the guard holds and latches.
        device: of a policy in this process.
        real_time: method of `RealTimeAgent`: the policy predicts in a thread while the robot moves. None waits for the policy.
    """

    policy: str
    robot: str
    instruction: str
    options: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    record: Path | None = None
    out: Path | None = None
    agent: Literal["chunk", "ensemble"] = "chunk"
    execute: int = 1
    timeout_s: float | None = None
    unguarded: bool = False
    guard: GuardConfig | None = None
    device: str = "cpu"
    real_time: str | None = None


@dataclass(frozen=True)
class RunResult:
    """The figures of the loop, and of a simulated robot whether it succeeded."""

    summary: LoopSummary
    success: bool | None = None
    recorded: int = 0
    problem: str = ""  # of the recording

    def table(self) -> str:
        lines = [self.summary.table()]
        if self.success is not None:
            lines.append(f"the simulated task: {'success' if self.success else 'not solved'}")
        if self.recorded or self.problem:
            lines.append(f"recorded: {self.recorded} episode(s){f'; {self.problem}' if self.problem else ''}")
        return "\n".join(lines)


def run(config: RunConfig, progress: bool = True, times: LoopTime | None = None) -> RunResult:
    """Run a policy on a robot until the time is over, a signal comes, or something fails; the robot is then stopped and closed.

    Raises:
        ConfigError: policy and robot do not fit, the robot has no limits and is not `unguarded`, or an option is wrong.
        RobotError, WireError, PolicyError: a fault of the robot, of the server or of the policy.

    Example:
        >>> run(RunConfig("starter", "simulated", "put the red cube in the blue box")).summary.misses  # doctest: +SKIP
        0
    """
    robot = _robot(config)
    with contextlib.closing(robot), _policy(config) as policy, _folder(config.out):
        check_matching(policy.spec, robot.spec, config.policy)
        guard = Guard(robot.spec, with_max_age(config.guard or GuardConfig(), robot.spec), config.unguarded)
        held = _agent(config, policy)
        agent = GuardedAgent(held, guard, oldest_s(robot))
        about = {"policy": config.policy, "robot": config.robot, "agent": config.agent, "execute": config.execute}
        about |= {"real_time": config.real_time} if config.real_time else {}
        recorder = None if config.record is None else RunRecorder(config.record, robot.spec, config.instruction, about)
        simulated = robot if isinstance(robot, SimulatedRobot | SimulatedProcess) else None
        total = None if config.seconds is None else max(1, round(config.seconds * robot.spec.rate_hz))
        finished = _never if simulated is None else (lambda: simulated.is_over)
        with Progress("run", total, "steps", enabled=progress) as bar:
            loop = LoopConfig(
                config.instruction, config.seconds, config.out, about, _warmed(policy, config.instruction), finished, bar.update
            )
            summary = ControlLoop(robot, agent, held, recorder, times).run(loop)
        success = None if simulated is None else _success(simulated.info, config.instruction)
        return RunResult(summary, success, recorder.episodes if recorder else 0, recorder.problem if recorder else "")


def _never() -> bool:
    return False


def _success(info: Mapping[str, Any], instruction: str) -> bool | None:
    """Of a simulated episode; None if the instruction is not the one that it judges."""
    known = {str(info.get("instruction", "")), *map(str, info.get("instructions", ()))}
    return bool(info.get("success")) if instruction in known else None


def _robot(config: RunConfig) -> Robot:
    """A simulated one has pictures of the size that the policy was trained on."""
    options = nested(config.options)
    if config.robot in SIMULATED and "options" not in options and isinstance(options.get("env", SUITE), str):
        options["options"] = fitting(config.policy, options.get("env", SUITE))
    return make_robot(config.robot, **checked(f"robot {config.robot!r}", robots.get(config.robot), options))


@contextlib.contextmanager
def _policy(config: RunConfig) -> Iterator[Policy]:
    policy = open_policy(config.policy, config.device)
    try:
        yield policy
    finally:
        if isinstance(policy, contextlib.AbstractContextManager):  # a connection
            policy.__exit__(None, None, None)


def _folder(out: Path | None) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext() if out is None else hold(out, "another run writes here")


def _agent(config: RunConfig, policy: Policy) -> HoldAgent | OverlappingAgent:
    """Holds the robot while it has no action."""
    if config.agent not in AGENTS:
        raise UnknownNameError("agent", config.agent, AGENTS)
    if config.agent == "ensemble" and config.execute != 1:
        raise ConfigError("--execute does not apply: the agent ensemble predicts at every step")
    if config.real_time is not None:
        if config.agent != "chunk":
            raise ConfigError(f"--real-time does not apply: the agent {config.agent} waits for each prediction")
        deadline_s = DEADLINE_S if config.timeout_s is None else config.timeout_s
        return OverlappingAgent(RealTimeAgent(policy, config.execute, config.real_time), deadline_s)
    acting = EnsembleAgent(policy) if config.agent == "ensemble" else ChunkAgent(policy, config.execute)
    return HoldAgent(acting, config.timeout_s)


def _warmed(policy: Policy, instruction: str) -> Callable[[Observation], None]:
    """Predicts once while the robot rests, so that the first step does not wait for what is loaded at first use."""

    def warm(observation: Observation) -> None:
        policy.predict([dataclasses.replace(observation, instruction=instruction)])

    return warm
