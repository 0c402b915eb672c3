"""Teleoperating and recording a robot by name: the robot, a leader arm, a policy and the page, put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from verbot.agents import ChunkAgent, HoldAgent
from verbot.contracts import Agent, LeaderArm, Robot
from verbot.errors import ConfigError
from verbot.robots import SceneRobot, leaders, robots
from verbot.robots.options import from_words
from verbot.spec import FloatArray, RobotSpec
from verbot.teleop.robot_run import RobotDrivingConfig, RobotRecordConfig, drive_robot, record_robot
from verbot.teleop.run import TeleopResult
from verbot.workflows.load_policy import open_policy
from verbot.workflows.robot import check_same_robot, connected


@dataclass(frozen=True)
class RobotByName:
    """A robot and what drives it, by their names.

    Args:
        name, words: the robot and its options, as ``["env=navigation"]``.
        leader, leader_words: a leader arm and its options; None drives by keys.
        policy, execute: what drives until a person takes over, and how many actions of each chunk it executes.
    """

    name: str
    words: Sequence[str] = ()
    leader: str | None = None
    leader_words: Sequence[str] = ()
    policy: str | None = None
    execute: int = 1

    def __post_init__(self) -> None:
        if self.leader is not None and self.policy is not None:
            raise ConfigError("a leader arm and a policy cannot both drive: give --leader or --policy")
        if self.leader is None and self.leader_words:
            raise ConfigError("--leader-set has options of a leader arm: give --leader too")

    @contextmanager
    def opened(self) -> Iterator[tuple[Robot, Callable[[], FloatArray] | None]]:
        """The robot, connected, and what reads the leader arm. The robot is closed first."""
        with ExitStack() as stack:
            robot = from_words(robots, self.name, self.words)
            arm: LeaderArm | None = None if self.leader is None else from_words(leaders, self.leader, self.leader_words)
            if arm is not None:
                stack.callback(arm.close)
                arm.connect()
            yield stack.enter_context(connected(robot)), None if arm is None else arm.read

    def agent(self, spec: RobotSpec) -> Agent | None:
        """The policy's agent. While it does not answer in time, the robot is held. Raises `ConfigError` for another robot's."""
        if self.policy is None:
            return None
        policy = open_policy(self.policy)
        check_same_robot(spec, policy.spec, self.policy)
        return HoldAgent(ChunkAgent(policy, self.execute))


def teleoperate_by_name(named: RobotByName, config: RobotDrivingConfig) -> float:
    """Drive without recording; returns the seconds that passed. Raises as `drive_robot` does."""
    with named.opened() as (robot, read):
        return drive_robot(robot, config, read)


def record_by_name(named: RobotByName, path: str | Path, config: RobotRecordConfig, driving: RobotDrivingConfig) -> TeleopResult:
    """Record episodes at `path`. Raises as `record_robot` does.

    What a policy drives is recorded as a whole, also where the person took over.
    """
    by = named.leader or named.policy or driving.by
    config = replace(config, by=by, whole=named.policy is not None)
    with named.opened() as (robot, read):
        scene = robot.next_scene if isinstance(robot, SceneRobot) else None
        return record_robot(robot, path, config, driving, read, named.agent(robot.spec), scene)
