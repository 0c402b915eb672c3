"""Commands about robots: list, check, calibrate, teleoperate, record, replay."""

from __future__ import annotations

import json as json_module
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from verbot.cli.options import PAGE, PageOptions, Storage


@dataclass(frozen=True)
class DeviceOptions:
    """The robot.

    Args:
        robot_set: options of the robot, as name=value.
        unguarded: accept a robot whose spec has no limits.
    """

    robot_set: tuple[str, ...] = ()
    unguarded: bool = False


@dataclass(frozen=True)
class DriverOptions:
    """Who drives.

    Args:
        by: keyboard, or gamepad (keys work too), in the page that opens at the printed address.
        leader: a leader arm, in place of keys; see `verbot robot list`.
        leader_set: options of the leader arm, as name=value.
    """

    by: Literal["keyboard", "gamepad"] = "keyboard"
    leader: str | None = None
    leader_set: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecordedPolicyOptions:
    """What is recorded.

    Args:
        policy: drives until the person takes over: a folder, "starter" or a server's ws:// address. Everything is recorded.
        execute: number of actions of each of the policy's chunks to execute.
        seconds: time limit of an episode. Its pictures are kept in memory until it is saved.
        images: how color images are stored: video, or image (PNG, without loss); otherwise video.
    """

    policy: str | None = None
    execute: int = 1
    seconds: float = 60.0
    images: Storage | None = None


DEVICE, DRIVER, POLICY = DeviceOptions(), DriverOptions(), RecordedPolicyOptions()


def robot_list_command(json: bool = False) -> int:
    """List robots, leader arms and cameras, and what to install for those that cannot be used here.

    Example: verbot robot list

    Args:
        json: print the table as JSON.
    """
    from verbot.workflows.robot import robot_table

    table = robot_table()
    if json:
        print(json_module.dumps(table, indent=1))
    else:
        for row in table:
            print(f"{row['kind']:<8}{row['name']:<20}{row['install']}".rstrip())
    return 0


def robot_check_command(name: Positional[str], robot_set: tuple[str, ...] = (), seconds: float = 3.0, json: bool = False) -> int:
    """Connect a robot, watch its rate and the age of what it shows, and find missing limits. Commands nothing.

    Exits with 1 if something is wrong. Missing limits are reported, and a guard refuses the robot until they are known.

    Example: verbot robot check simulated-process --robot-set env=tabletop-starter rate_hz=50 --seconds 5

    Args:
        name: the robot; see `verbot robot list`.
        robot_set: options of the robot, as name=value.
        seconds: how long to watch.
        json: print the measurements as JSON.
    """
    from verbot.robots import robots
    from verbot.robots.options import from_words
    from verbot.workflows.robot import check_robot

    result = check_robot(from_words(robots, name, robot_set), seconds)
    if json:
        print(json_module.dumps(result.to_json(), indent=1))
    else:
        print(*result.lines(), sep="\n")
    return 1 if result.problems else 0


def robot_calibrate_command(name: Positional[str], leader: bool = False, robot_set: tuple[str, ...] = ()) -> int:
    """Measure and store the calibration of a robot or of a leader arm, step by step.

    Example: verbot robot calibrate so101 --robot-set port=/dev/ttyACM0

    Args:
        name: the robot, or with --leader the leader arm.
        leader: calibrate a leader arm.
        robot_set: options of it, as name=value.
    """
    from verbot.workflows.robot import calibrate_device

    def ask(text: str) -> None:
        input(f"{text} Press Enter when it is done. ")

    print(calibrate_device(name, robot_set, ask, leader))
    return 0


def robot_teleoperate_command(
    name: Positional[str],
    robot: DeviceOptions = DEVICE,
    driver: DriverOptions = DRIVER,
    seconds: float = 0.0,
    page: PageOptions = PAGE,
) -> int:
    """Drive a robot from a browser page, or with a leader arm, without recording.

    Example: verbot robot teleoperate so101 --leader so101 --leader-set port=/dev/ttyACM1

    Args:
        name: the robot; see `verbot robot list`.
        seconds: end after so many seconds; 0 goes on until Esc.
    """
    from verbot.teleop.robot_run import RobotDrivingConfig
    from verbot.workflows.robot_driving import RobotByName, teleoperate_by_name

    named = RobotByName(name, robot.robot_set, driver.leader, driver.leader_set)
    config = RobotDrivingConfig(driver.by, robot.unguarded, page.host, page.port, seconds)
    print(f"{teleoperate_by_name(named, config):.0f} s")
    return 0


def robot_record_command(
    name: Positional[str],
    out: Path,
    instruction: str,
    episodes: int | None = None,
    robot: DeviceOptions = DEVICE,
    driver: DriverOptions = DRIVER,
    acting: RecordedPolicyOptions = POLICY,
    page: PageOptions = PAGE,
) -> int:
    """Record episodes of a robot: by keys, with a leader arm, or of a policy. A later call continues.

    A browser page shows the cameras. Enter ends an episode and saves it, Backspace takes it again, X discards it, K keeps it as
    a failure.

    Example: verbot robot record so101 --out outputs/mine --instruction "fold the cloth" --episodes 20 --leader so101

    Args:
        name: the robot; see `verbot robot list`.
        out: the dataset's folder.
        instruction: what is done in the episodes; the page takes another one for each.
        episodes: number of episodes to save; otherwise until the person quits.
    """
    from verbot.teleop.robot_run import RobotDrivingConfig, RobotRecordConfig
    from verbot.workflows.robot_driving import RobotByName, record_by_name

    named = RobotByName(name, robot.robot_set, driver.leader, driver.leader_set, acting.policy, acting.execute)
    driving = RobotDrivingConfig(driver.by, robot.unguarded, page.host, page.port, acting.seconds)
    result = record_by_name(named, out, RobotRecordConfig(instruction, episodes, images=acting.images), driving)
    print(f"{result.attempts} attempts in {result.episodes} episodes: {result.path}")
    return 0


def robot_replay_command(
    name: Positional[str],
    dataset: Positional[Path],
    episode: Positional[int],
    robot: DeviceOptions = DEVICE,
    steps: int | None = None,
    json: bool = False,
) -> int:
    """Play the recorded actions of an episode on a robot, at its rate and through its guard.

    The robot must stand as it stood in the beginning of the episode.

    Example: verbot robot replay so101 outputs/mine 0 --robot-set port=/dev/ttyACM0

    Args:
        name: the robot; see `verbot robot list`.
        dataset: the dataset's folder.
        episode: number of the episode.
        steps: only so many actions.
        json: print the result as JSON.
    """
    import dataclasses

    from verbot.robots import robots
    from verbot.robots.options import from_words
    from verbot.workflows.robot import replay_episode

    result = replay_episode(from_words(robots, name, robot.robot_set), dataset, episode, steps, robot.unguarded)
    if json:
        print(json_module.dumps(dataclasses.asdict(result), indent=1))
    else:
        print(*result.lines(), sep="\n")
    return 0
