"""Commands about robots: list, check, calibrate, teleoperate, record, replay."""

from __future__ import annotations

import json as json_module
from pathlib import Path

from tyro.conf import Positional


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


def robot_replay_command(
    name: Positional[str],
    dataset: Positional[Path],
    episode: Positional[int],
    robot_set: tuple[str, ...] = (),
    steps: int | None = None,
    unguarded: bool = False,
    json: bool = False,
) -> int:
    """Play the recorded actions of an episode on a robot, at its rate and through its guard.

    The robot must stand as it stood in the beginning of the episode.

    Example: verbot robot replay so101 outputs/mine 0 --robot-set port=/dev/ttyACM0

    Args:
        name: the robot; see `verbot robot list`.
        dataset: the dataset's folder.
        episode: number of the episode.
        robot_set: options of the robot, as name=value.
        steps: only so many actions.
        unguarded: accept a robot whose spec has no limits.
        json: print the result as JSON.
    """
    import dataclasses

    from verbot.robots import robots
    from verbot.robots.options import from_words
    from verbot.workflows.robot import replay_episode

    result = replay_episode(from_words(robots, name, robot_set), dataset, episode, steps, unguarded)
    if json:
        print(json_module.dumps(dataclasses.asdict(result), indent=1))
    else:
        print(*result.lines(), sep="\n")
    return 0
