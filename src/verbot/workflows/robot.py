"""Robots by hand: what is registered, whether one is well, its calibration, and recorded actions played on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from verbot.agents.guard import Guard
from verbot.agents.guard_events import GuardConfig, GuardEvent, count_rules, with_max_age
from verbot.agents.guard_table import check_covered
from verbot.configuration import differences
from verbot.contracts import AgingRobot, Calibrated, Robot
from verbot.data import open_dataset
from verbot.errors import ConfigError, RobotError, SpecError, install_command
from verbot.parallel.progress import Progress
from verbot.registry import Registry
from verbot.robots import leaders, robots
from verbot.robots.cameras import MonotonicClock, cameras
from verbot.robots.options import from_words
from verbot.spec import Float64Array, FloatArray, RobotSpec

Sleep = Callable[[float], None]


def robot_table() -> list[dict[str, Any]]:
    """Every robot, leader arm and camera: its kind, its name, and the command that installs what it lacks here, or ``""``."""
    kinds: dict[str, Registry[Any]] = {"robot": robots, "leader": leaders, "camera": cameras}
    return [
        {"kind": kind, "name": name, "install": install_command(*lacking) if (lacking := registry.missing(name)) else ""}
        for kind, registry in kinds.items()
        for name in registry.names()
    ]


@contextmanager
def connected(robot: Robot) -> Iterator[Robot]:
    """`robot` between `connect` and `close`: whatever happens, it is stopped and disconnected."""
    try:
        robot.connect()
        yield robot
    finally:
        robot.close()


@dataclass(frozen=True)
class RobotCheck:
    """What `check_robot` measured. Nothing was commanded.

    Args:
        rate_hz: the rate of the spec.
        observe_ms: how long `observe` took: p50, p99 and the longest.
        parts: of the state and each camera ``rate_hz`` (how often it was new) and ``age_ms`` (p50, p95 and the oldest).
        lacking: what a guard needs and the spec lacks.
        problems: what is wrong.
    """

    robot: str
    rate_hz: float
    seconds: float
    observe_ms: tuple[float, float, float]
    parts: Mapping[str, Mapping[str, Any]]
    lacking: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """A table for people."""
        p50, p99, most = self.observe_ms
        found = [
            f"robot {self.robot}, {self.rate_hz:g} Hz, watched for {self.seconds:.1f} s",
            f"observe: p50 {p50:.2f} ms, p99 {p99:.2f} ms, longest {most:.2f} ms",
        ]
        if self.parts:
            found += ["", f"{'part':<20}{'new, Hz':>10}{'age p50, ms':>14}{'p95':>9}{'oldest':>9}"]
        for name, part in self.parts.items():
            ages = "".join(f"{age:>{width}.1f}" for age, width in zip(part["age_ms"], (14, 9, 9), strict=True))
            found.append(f"{name:<20}{part['rate_hz']:>10.1f}{ages}")
        found += ["", *(f"lacking: {text}" for text in self.lacking), *(f"problem: {text}" for text in self.problems)]
        return found if self.lacking or self.problems else [*found, "all well"]


def check_robot(
    robot: Robot, seconds: float = 3.0, clock: MonotonicClock = time.monotonic, sleep: Sleep = time.sleep
) -> RobotCheck:
    """Connect, watch for some seconds without commanding anything, and disconnect. Raises `RobotError` if that fails."""
    with connected(robot):
        spec, problems = robot.spec, dict[str, None]()
        ages: dict[str, list[float]] = {}
        measured: dict[str, list[float]] = {}
        took, begun_s = list[float](), clock()
        while not took or clock() - begun_s < seconds:
            before_s = clock()
            observation = robot.observe()
            now_s = clock()
            took.append(now_s - before_s)
            try:
                observation.check(spec)
            except SpecError as error:
                problems[str(error)] = None
            for name, age_s in (robot.ages_s() if isinstance(robot, AgingRobot) else {}).items():
                ages.setdefault(name, []).append(age_s)
                known = measured.setdefault(name, [])
                if not known or now_s - age_s > known[-1] + 1e-3:
                    known.append(now_s - age_s)
            sleep(min(0.05, max(0.001, 0.25 / spec.rate_hz)))
        passed_s = clock() - begun_s
    parts: dict[str, dict[str, Any]] = {
        name: {
            "rate_hz": round((len(measured[name]) - 1) / max(passed_s, 1e-9), 2),
            "age_ms": [round(1e3 * float(q), 2) for q in np.quantile(values, (0.5, 0.95, 1.0))],
        }
        for name, values in ages.items()
    }
    oldest = {name: 1e-3 * part["age_ms"][2] for name, part in parts.items()}
    if spec.max_age_s is not None and oldest and max(oldest.values()) > spec.max_age_s:
        name = max(oldest, key=oldest.__getitem__)
        problems[f"{name} was {oldest[name]:.2f} s old; the spec allows {spec.max_age_s:g} s"] = None
    observe_ms = tuple(round(1e3 * float(q), 3) for q in np.quantile(took, (0.5, 0.99, 1.0)))
    return RobotCheck(
        spec.name, spec.rate_hz, passed_s, observe_ms, parts, lacking_limits(spec), tuple(problems)  # type: ignore[arg-type]
    )  # fmt: skip


def lacking_limits(spec: RobotSpec) -> tuple[str, ...]:
    """What a guard needs to know of a robot and its spec does not say, in words."""
    found = []
    try:
        check_covered(spec)
    except ConfigError as error:
        found.append(str(error))
    if spec.max_age_s is None:
        found.append(f"robot {spec.name!r} has no max_age_s, so a guard does not know when its observations are too old")
    return tuple(found)


def calibrate_device(name: str, words: Sequence[str], ask: Callable[[str], None], leader: bool = False) -> str:
    """Calibrate the robot, or the leader arm, called `name`; returns the path of the calibration.

    Raises `ConfigError` if it needs none.
    """
    registry: Registry[Any] = leaders if leader else robots
    device = from_words(registry, name, words)
    if not isinstance(device, Calibrated):
        raise ConfigError(f"{registry.kind} {name!r} needs no calibration: it has no method calibrate(ask)")
    return device.calibrate(ask)


@dataclass(frozen=True)
class RobotReplay:
    """How recorded actions went on a robot.

    Args:
        late: control steps that were not commanded in their period.
        changed: rule of the guard to the number of its events.
        state_error: mean and largest difference of the measured state from the recorded one, in the units of each component.
    """

    steps: int
    seconds: float
    late: int
    changed: Mapping[str, int] = field(default_factory=dict)
    state_error: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """A table for people."""
        changed = ", ".join(f"{rule} {count}" for rule, count in self.changed.items())
        found = [f"{self.steps} actions in {self.seconds:.1f} s, {self.late} late; the guard changed: {changed or 'nothing'}"]
        found += [f"{name}: off the recorded state by {mean:.4g} on average, {most:.4g} at most"
                  for name, (mean, most) in self.state_error.items()]  # fmt: skip
        return found


def replay_episode(
    robot: Robot,
    path: str | Path,
    episode: int,
    steps: int | None = None,
    unguarded: bool = False,
    clock: MonotonicClock = time.monotonic,
    sleep: Sleep = time.sleep,
) -> RobotReplay:
    """Play the recorded actions of one episode on `robot`, at its rate, through its guard.

    Args:
        steps: only so many of them.
        unguarded: accept a robot without limits.

    Raises:
        ConfigError: the dataset is of another robot, lacks the episode, or the robot lacks limits.
        RobotError: the robot fails, or the guard latched.
    """
    dataset = open_dataset(path)
    if not 0 <= episode < len(dataset):
        raise ConfigError(f"{path} has no episode {episode}; it has {len(dataset)}, counted from 0")
    check_same_robot(robot.spec, dataset.spec, path)
    recorded = dataset[episode]
    actions, states = recorded.actions[:steps], recorded.states[:steps]
    guard = Guard(robot.spec, with_max_age(GuardConfig(patience=len(actions) + 1), robot.spec), unguarded, clock)
    events, seen, late, period_s = list[GuardEvent](), list[FloatArray](), 0, 1.0 / robot.spec.rate_hz
    with connected(robot), Progress("replay", len(actions), "actions") as bar:
        begun_s = due_s = clock()
        for number, action in enumerate(actions):
            observation = robot.observe()
            seen.append(observation.state)
            result = guard.apply(action, observation, oldest_s(robot))
            events += result.events
            if result.action is None or guard.latched:
                raise RobotError(f"replay ends at action {number}: {result.events[-1] if result.events else guard.latched}")
            robot.act(result.action)
            due_s, now_s = due_s + period_s, clock()
            if now_s > due_s:
                late, due_s = late + 1, now_s + period_s  # no step is made up for: limits of velocity hold at the robot's rate
            sleep(due_s - now_s)
            bar.update(number + 1)
        seconds = clock() - begun_s
    return RobotReplay(len(actions), seconds, late, count_rules(events), _errors(robot.spec, np.array(seen), states))


def oldest_s(robot: Robot) -> float:
    """How old the oldest part of the latest observation is; 0 for a robot that does not say."""
    return max(robot.ages_s().values(), default=0.0) if isinstance(robot, AgingRobot) else 0.0


def check_same_robot(spec: RobotSpec, recorded: RobotSpec, path: str | Path) -> None:
    """Raise `ConfigError` that names what differs, unless actions of the dataset at `path` are actions of the robot."""
    if spec.action != recorded.action or spec.rate_hz != recorded.rate_hz:
        fields = [name for name in differences(spec, recorded) if name.split(".")[0] in ("action", "rate_hz", "name")]
        raise ConfigError(f"{path} is of robot {recorded.name!r}, whose actions {spec.name!r} cannot execute: "
                          f"{', '.join(fields)} differ")  # fmt: skip


def _errors(spec: RobotSpec, seen: FloatArray, recorded: FloatArray) -> dict[str, tuple[float, float]]:
    if seen.shape != recorded.shape:
        return {}
    off: Float64Array = np.abs(seen.astype(float) - recorded.astype(float))
    slices = spec.state_slices()
    return {c.name: (float(off[:, slices[c.name]].mean()), float(off[:, slices[c.name]].max())) for c in spec.state}
