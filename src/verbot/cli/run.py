"""The command that runs a policy on a robot."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from verbot.cli.options import Method


@dataclass(frozen=True)
class RobotOptions:
    """The robot.

    Args:
        robot: its name; see `verbot list robots`.
        robot_set: its options, each as FIELD=VALUE, e.g. env=navigation.
        unguarded: run a robot whose spec has no motion limits. Limits that there are stay in force.
    """

    robot: str = "simulated"
    robot_set: tuple[str, ...] = ()
    unguarded: bool = False


@dataclass(frozen=True)
class RunOptions:
    """How the policy acts.

    Args:
        agent: chunk executes some actions of each chunk; ensemble predicts at every step and averages.
        execute: number of actions of each chunk to execute.
        real_time: predict while the robot moves, by this method of real-time chunking; otherwise steps wait for the policy.
        timeout_s: seconds that a step waits for the policy, after which the robot is held; otherwise one control period. With
            --real-time no step waits: the time limit of a prediction, otherwise a second.
        max_age_s: the oldest observation that the robot may be moved by; otherwise that of its spec, or a second.
        device: the device of a policy in this process: cpu, cuda, cuda:N, mps or auto.
    """

    agent: Literal["chunk", "ensemble"] = "chunk"
    execute: int = 1
    real_time: Method | None = None
    timeout_s: float | None = None
    max_age_s: float | None = None
    device: str = "cpu"


ROBOT, RUNNING = RobotOptions(), RunOptions()


def run_command(
    policy: Positional[str],
    instruction: str,
    robot: RobotOptions = ROBOT,
    seconds: float | None = None,
    acting: RunOptions = RUNNING,
    record: Path | None = None,
    out: Path = Path("outputs/run_robot"),
) -> int:
    """Run a policy on a robot, guarded, at the robot's rate; Ctrl-C, a fault or a lost server holds the robot.

    Example: verbot run starter --robot simulated --instruction "put the red cube in the blue box" --seconds 20

    Args:
        policy: a policy's folder, "starter" (the one that came with verbot), or a server's ws:// address.
        instruction: what the robot is to do, in plain words.
        seconds: length of the run; otherwise until Ctrl-C, or until the simulated episode ends.
        record: a dataset, new or of the same robot, that the run is added to.
        out: gets run.jsonl: guard events, holds, missed deadlines, and the figures of the run.
    """
    from verbot.agents import GuardConfig
    from verbot.configuration import assignments
    from verbot.parallel.signals import Stopped
    from verbot.workflows.run import RunConfig, run

    config = RunConfig(
        policy, robot.robot, instruction, assignments(robot.robot_set), seconds, record, out, acting.agent, acting.execute,
        acting.timeout_s, robot.unguarded, GuardConfig(max_age_s=acting.max_age_s), acting.device, acting.real_time,
    )  # fmt: skip
    result = run(config)
    print(result.table(), out / "run.jsonl", sep="\n")
    if result.problem:
        print(f"error: {result.problem}", file=sys.stderr)
    if result.summary.signal:
        raise Stopped(result.summary.signal, "; the robot was stopped")
    return 1 if result.problem or result.summary.latched else 0
