"""Teleoperation from beginning to end: the env, the dataset, the page, and the time between control steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verbot.contracts import Agent, Env, Pictured, TaskEnv
from verbot.data import DatasetWriter, open_dataset
from verbot.envs import make_env
from verbot.errors import ConfigError
from verbot.folders import is_blank
from verbot.ranges import COUNT_OR_NONE, PORT, SEED, STRENGTH, check_ranges
from verbot.rollout.collect import CollectConfig, request_for
from verbot.spec import RobotSpec, UInt8Array
from verbot.teleop.controls import SPEEDS, Teleoperator
from verbot.teleop.episode import TeleopEpisode
from verbot.teleop.inputs import Inputs
from verbot.teleop.server import PageServer
from verbot.teleop.session import Phase, TeleopPlan, TeleopSession

BY = ("keyboard", "gamepad")
Pace = Callable[[PageServer], None]


@dataclass(frozen=True)
class TeleopConfig:
    """Settings of teleoperation.

    Args:
        env: name of a registered env.
        by: ``"keyboard"`` or ``"gamepad"`` (keys then work too); recorded with every episode.
        episodes: number of episodes to save, including those of earlier sessions; None continues until the user quits.
        seed: seed of the scenes.
        tasks: tasks to demonstrate in turn; None takes all tasks of the env.
        axes: strength of each randomization axis, for every episode.
        options: options of `make_env`.
        host, port: address of the page; port 0 takes a free one.
        picture_pixels: size of each view on the page if the env can render larger images; 0 shows the policy's images.
        images: how color images are stored, as in `verbot.data.DatasetWriter`.
    """

    env: str = "tabletop-starter"
    by: str = "keyboard"
    episodes: int | None = None
    seed: int = 0
    tasks: tuple[str, ...] | None = None
    axes: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 0
    picture_pixels: int = 320
    images: str | None = None

    def __post_init__(self) -> None:
        check_ranges(self, episodes=COUNT_OR_NONE, seed=SEED, axes=STRENGTH, port=PORT, picture_pixels=COUNT_OR_NONE)
        if self.by not in BY:
            raise ConfigError(f"by is {self.by!r}; expected one of {', '.join(BY)}")
        if self.axes.get("camera_dropout"):
            raise ConfigError("a recording has one image of each camera in each step: teleoperate without camera_dropout")


@dataclass(frozen=True)
class TeleopResult:
    """The dataset at `path` has `episodes` records from `attempts` of the person; the simulator had `errors`."""

    path: str
    attempts: int
    episodes: int
    errors: int
    seconds: float


class RealTime:
    """Sleeps until the next control step is due. After a delay it continues from now: steps are late, never faster."""

    def __init__(self, rate_hz: float):
        self._period_s, self._due_s = 1.0 / rate_hz, time.monotonic()

    def __call__(self, page: PageServer) -> None:
        now_s = time.monotonic()
        self._due_s = max(self._due_s + self._period_s, now_s)
        time.sleep(self._due_s - now_s)


def teleoperate(
    config: TeleopConfig,
    path: str | Path,
    make_policy: Callable[[TaskEnv], Agent] | None = None,
    pace: Pace | None = None,
    opened: Callable[[PageServer, TaskEnv], None] = lambda page, env: print(f"open {page.url} (keep the address to yourself)"),
) -> TeleopResult:
    """Let a person drive the robot in a browser page, and save their episodes at `path`. Returns when they quit or all are saved.

    Saved episodes survive a crash, and a later call adds to them. The env is not stepped while no page is open.

    Args:
        make_policy: makes the agent that the person corrects; without one the person drives from the start.
        pace: waits for the next control step; by default in real time, at the robot's rate.
        opened: called with the page and the env once, before the first control step.

    Raises:
        ConfigError: a person cannot drive this robot, the env lacks a task, or the page cannot be served.
        DataError: `path` holds something else.
    """
    started = time.monotonic()
    with closing(make_env(config.env, **config.options)) as env:
        spec, tasks = env.robot_spec, config.tasks or env.tasks
        if unknown := set(tasks) - set(env.tasks):
            raise ConfigError(f"{config.env!r} has no task {', '.join(sorted(unknown))}; it has {', '.join(env.tasks)}")
        teleoperator, inputs = Teleoperator(spec), Inputs(gamepad=config.by == "gamepad")
        drawn = CollectConfig(env=config.env, seed=config.seed, axes=config.axes)
        scene, saved, errors = resumed(Path(path))
        plan = TeleopPlan(
            lambda number: request_for(drawn, tasks, number), config.seed, config.by, config.episodes, scene, saved, errors
        )
        if config.episodes is not None and saved >= config.episodes:
            return TeleopResult(str(path), saved, len(open_dataset(path)), errors, 0.0)
        hello = greeting(spec, "teleop", config.by == "gamepad", make_policy is not None)
        with (
            DatasetWriter(path, spec, images=config.images) as writer,
            PageServer(inputs, hello, config.host, config.port) as page,
        ):
            policy = make_policy(env) if make_policy else None

            def start(request: Mapping[str, Any]) -> TeleopEpisode:
                return TeleopEpisode(env, request, config.seed, teleoperator, policy)

            session = TeleopSession(start, teleoperator, writer.save_episode, plan, policy is not None)
            opened(page, env)
            pace = pace or RealTime(spec.rate_hz)
            while session.phase != Phase.DONE:
                if page.connected:
                    page.show(session.view(), _pictures(env, session.images, config.picture_pixels))
                    pace(page)
                    session.tick(inputs.take())
                else:
                    time.sleep(0.02)
            page.show(session.view(), {})
            return TeleopResult(str(path), session.saved, len(writer), session.errors, time.monotonic() - started)


def greeting(spec: RobotSpec, mode: str, gamepad: bool, corrects: bool = False) -> dict[str, Any]:
    """The first message to a page: which page to show."""
    kinds = {component.kind for component in spec.action}
    return {
        "mode": mode, "robot": spec.name, "rate_hz": spec.rate_hz, "cameras": list(spec.color_names), "gamepad": gamepad,
        "corrects": corrects, "kinds": sorted(kinds), "speeds": list(SPEEDS),
        "end_effectors": [tool.name for tool in spec.end_effectors],
    }  # fmt: skip


def _pictures(env: Env, images: Mapping[str, UInt8Array], pixels: int) -> dict[str, UInt8Array]:
    drawn, colors = env if pixels and isinstance(env, Pictured) else None, {k: v for k, v in images.items() if v.ndim == 3}
    return {name: drawn.picture(name, pixels) if drawn else image for name, image in colors.items()}


def resumed(path: Path) -> tuple[int, int, int]:
    """(next scene, episodes saved, simulator errors) of the dataset at `path`."""
    if is_blank(path):
        return 0, 0, 0
    stamps = [episode.extras.get("collection", {}) for episode in open_dataset(path)]
    attempts = {stamp["attempt"] for stamp in stamps if "attempt" in stamp}
    last = stamps[-1] if stamps else {}
    return max(attempts, default=-1) + 1, len(attempts), int(last.get("errors", 0))
