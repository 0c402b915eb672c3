"""Driving and recording a robot from the page: the loop in real time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verbot.agents.guard import Guard
from verbot.agents.guard_events import GuardConfig, with_max_age
from verbot.contracts import Agent, Robot
from verbot.data import DatasetWriter, open_dataset
from verbot.errors import ConfigError
from verbot.parallel.progress import Progress
from verbot.ranges import COUNT_OR_NONE, PORT, POSITIVE, check_ranges
from verbot.spec import RobotSpec
from verbot.teleop.controls import HandsOff, Operator, Teleoperator
from verbot.teleop.inputs import Inputs
from verbot.teleop.robot_episode import DrivenRobot, FreeDrive, RobotEpisode
from verbot.teleop.run import BY, RealTime, TeleopResult, greeting, resumed
from verbot.teleop.server import PageServer
from verbot.teleop.session import Phase, TeleopPlan, TeleopSession

SHOWN_HZ = 15.0  # pictures a second on the page, at most
Opened = Callable[[PageServer], None]


@dataclass(frozen=True)
class RobotDrivingConfig:
    """Who drives a robot, and from where.

    Args:
        by: ``"keyboard"`` or ``"gamepad"`` (keys then work too); recorded with every episode.
        unguarded: accept a robot without limits.
        host, port: address of the page; port 0 takes a free one.
        seconds: time limit of an episode, or of driving without recording; 0 is none for the latter.
    """

    by: str = "keyboard"
    unguarded: bool = False
    host: str = "127.0.0.1"
    port: int = 0
    seconds: float = 60.0

    def __post_init__(self) -> None:
        check_ranges(self, port=PORT)
        if self.by not in BY:
            raise ConfigError(f"by is {self.by!r}; expected one of {', '.join(BY)}")
        if not 0 <= self.seconds < 86400:
            raise ConfigError(f"seconds is {self.seconds}; expected at least 0 and less than a day")


@dataclass(frozen=True)
class RobotRecordConfig:
    """What is recorded on a robot.

    Args:
        instruction: of the episodes; the person may say another one for each.
        episodes: number of episodes to save, including those of earlier sessions; None continues until the person quits.
        by: recorded with every episode, e.g. ``"keyboard"`` or the name of a leader arm.
        whole: record every step of an episode whoever drives, instead of the person's only.
        images: how color images are stored, as in `verbot.data.DatasetWriter`.
    """

    instruction: str
    episodes: int | None = None
    by: str = "keyboard"
    whole: bool = False
    images: str | None = None

    def __post_init__(self) -> None:
        check_ranges(self, episodes=COUNT_OR_NONE)
        if not self.instruction.strip():
            raise ConfigError("an episode needs an instruction; say what is to be done")


def operator_for(spec: RobotSpec, read: Callable[[], Any] | None, has_policy: bool) -> Operator:
    """A leader arm that is `read`; otherwise keys, where they can move this robot, or nobody beside a policy."""
    if read is not None:
        return HandsOff(read)
    try:
        return Teleoperator(spec)
    except ConfigError:
        if not has_policy:
            raise
        return HandsOff()


def drive_robot(
    robot: Robot,
    config: RobotDrivingConfig,
    read: Callable[[], Any] | None = None,
    opened: Opened = lambda page: print(f"open {page.url} (keep the address to yourself)"),
) -> float:
    """Let a person drive a connected robot in a browser page, without recording; returns the seconds that passed.

    Args:
        read: the action (a,) of a leader arm, in place of keys.
        opened: called with the page once.

    Raises `ConfigError` if a person cannot drive this robot, or it lacks limits.
    """
    spec, inputs = robot.spec, Inputs(gamepad=config.by == "gamepad")
    driven = DrivenRobot(robot, Guard(spec, with_max_age(GuardConfig(), spec), config.unguarded), operator_for(spec, read, False))
    drive, begun_s = FreeDrive(driven), time.monotonic()
    with PageServer(inputs, greeting(spec, "drive", config.by == "gamepad"), config.host, config.port) as page:
        opened(page)
        for _ in _steps(page, drive.interrupt, lambda: _show(page, drive.view(), driven), spec.rate_hz):
            given = inputs.take()
            driven.control.operator.motion = given.motion
            drive.tick([command.name for command in given.commands], given.motion.moves)
            if drive.done or 0 < config.seconds <= time.monotonic() - begun_s:
                break
    return time.monotonic() - begun_s


def record_robot(
    robot: Robot,
    path: str | Path,
    config: RobotRecordConfig,
    driving: RobotDrivingConfig,
    read: Callable[[], Any] | None = None,
    policy: Agent | None = None,
    next_scene: Callable[[bool], None] | None = None,
    opened: Opened = lambda page: print(f"open {page.url} (keep the address to yourself)"),
) -> TeleopResult:
    """Record episodes of a connected robot at `path`, from a browser page with the keys of `verbot.teleop.teleoperate`.

    Saved episodes survive a crash, and a later call adds to them. The robot rests between episodes and while no page is open.

    Args:
        read: the action (a,) of a leader arm, in place of keys.
        policy: drives until the person takes over.
        next_scene: sets the next scene up, or the same again; without one a person does.
        opened: called with the page once.

    Raises:
        ConfigError: nobody can drive this robot, or it lacks limits.
        DataError: `path` holds something else.
        RobotError: the robot failed; what was saved is whole.
    """
    check_ranges(driving, seconds=POSITIVE)
    begun_s, spec, inputs = time.monotonic(), robot.spec, Inputs(gamepad=driving.by == "gamepad")
    scene, saved, errors = resumed(Path(path))
    if config.episodes is not None and saved >= config.episodes:
        return TeleopResult(str(path), saved, len(open_dataset(path)), errors, 0.0)
    operator = operator_for(spec, read, policy is not None)
    driven = DrivenRobot(robot, Guard(spec, with_max_age(GuardConfig(), spec), driving.unguarded), operator, policy)
    visits = list[int]()

    def start(request: Mapping[str, Any]) -> RobotEpisode:
        if visits and next_scene is not None:
            next_scene(request["index"] == visits[-1])
        visits.append(request["index"])
        return RobotEpisode(driven, request.get("text") or config.instruction, driving.seconds, config.whole)

    plan = TeleopPlan(lambda number: {"index": number}, 0, config.by, config.episodes, scene, saved, errors)
    hello = greeting(spec, "teleop", driving.by == "gamepad", policy is not None)
    with (
        DatasetWriter(path, spec, images=config.images) as writer,
        PageServer(inputs, hello, driving.host, driving.port) as page,
        Progress("record", config.episodes, "episodes", saved) as bar,
    ):
        session = TeleopSession(start, operator, writer.save_episode, plan, policy is not None)
        opened(page)
        for _ in _steps(page, session.interrupt, lambda: _show(page, session.view(), driven), spec.rate_hz):
            session.tick(inputs.take())
            bar.update(session.saved)
            if session.phase == Phase.DONE:
                break
        page.show(session.view(), {})
        return TeleopResult(str(path), session.saved, len(writer), session.errors, time.monotonic() - begun_s)


def _steps(page: PageServer, interrupt: Callable[[], None], show: Callable[[], None], rate_hz: float) -> Iterator[None]:
    """One control step after the other while a page is open; without one nobody drives."""
    pace, every, count = RealTime(rate_hz), max(1, round(rate_hz / SHOWN_HZ)), 0
    while True:
        if page.connected:
            if count % every == 0:
                show()
            count += 1
            pace(page)
            yield
        else:
            interrupt()
            time.sleep(0.02)
            if not page.connected:
                yield


def _show(page: PageServer, view: Mapping[str, Any], driven: DrivenRobot) -> None:
    images = driven.look().images
    page.show(view, {name: image for name, image in images.items() if image.ndim == 3})
