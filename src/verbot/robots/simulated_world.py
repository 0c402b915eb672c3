"""The world of a simulated robot on a real clock, and its process: ``python -m verbot.robots.simulated_world``.

An env is stepped once a period of its own rate, whether or not a command came, and shows itself when the period is over.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from verbot.envs import make_env
from verbot.errors import ConfigError, RobotError
from verbot.parallel.workers import Channel, serve
from verbot.robots.cameras import MonotonicClock
from verbot.rollout.episode import EpisodeRunner
from verbot.spec import FloatArray, Observation, RobotSpec
from verbot.spec.holding import RATES, TARGETS, HoldAction

DELTAS = frozenset({"position_delta", "rotation_delta"})
WATCHDOG_S = 0.25  # a velocity that is not commanded again becomes zero
MARGIN_S = 0.02  # before the end of a period: when a step begins that no command began
STOP = "stop"
SHOWN = ("success", "error", "instruction", "instructions")  # of the env's info


@dataclass(frozen=True)
class ProcessFaults:
    """What goes wrong, on purpose. The fields are options of the robot.

    Args:
        delay_s: every observation is shown so much later than it was measured.
        stall_after_s: nothing new is shown after so many seconds.
        die_after_s: the process is killed after so many seconds.
    """

    delay_s: float = 0.0
    stall_after_s: float | None = None
    die_after_s: float | None = None

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value is not None and not 0 <= value < 86400:
                raise ConfigError(f"{name} is {value!r}; expected seconds, at least 0 and less than a day")


@dataclass(frozen=True)
class WorldSetup:
    """The world: options of `make_env`, the fields of an `EpisodeRequest`, and the commands in one period of its own rate."""

    env: str
    request: Mapping[str, Any]
    seed: int
    options: Mapping[str, Any]
    rate_hz: float | None
    faults: ProcessFaults


@dataclass(frozen=True)
class WorldFrame:
    """What the world shows.

    Args:
        measured_s: when, on the monotonic clock, which all processes of a machine share.
        info: of the env's those in `SHOWN`.
        counts: of periods, and of those that were ``late`` (the machine was too slow) or ``empty`` (no command came); and of
            commands that were ``executed`` or ``dropped`` (more came than fit).
    """

    observation: Observation
    measured_s: float
    over: bool
    info: Mapping[str, Any]
    counts: Mapping[str, int]


class CommandQueue:
    """Commands that wait for their period: at most `room`, the oldest is dropped. Thread-safe."""

    def __init__(self, room: int, clock: MonotonicClock = time.monotonic):
        self._room, self._clock, self._waiting, self._changed = room, clock, deque[FloatArray](), threading.Condition()
        self.dropped, self.stopped, self.closed = 0, False, False

    def put(self, command: FloatArray | str | None) -> None:
        """A command (a,), ``"stop"``, or None when nobody sends any more."""
        with self._changed:
            if command is None:
                self.closed = True
            elif isinstance(command, str):
                self._waiting.clear()
                self.stopped = True
            else:
                self._waiting.append(command)
                if len(self._waiting) > self._room:
                    self._waiting.popleft()
                    self.dropped += 1
            self._changed.notify()

    def take(self, most: int) -> tuple[list[FloatArray], bool]:
        """The oldest `most` commands, and whether a stop came before them."""
        with self._changed:
            taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
            stopped, self.stopped = self.stopped, False
            return taken, stopped

    def wait(self, count: int, until_s: float) -> bool:
        """Wait for `count` commands, or until the clock shows `until_s`. False when nobody sends any more."""
        with self._changed:
            while not self.closed and len(self._waiting) < count and (left_s := until_s - self._clock()) > 0:
                self._changed.wait(left_s)
            return not self.closed


class ClockedWorld:
    """One episode of an env, stepped by its own clock. No threads; `run` blocks.

    Args:
        portions: commands in one period; the deltas of a command are so much smaller than the env's.
    """

    def __init__(self, episode: EpisodeRunner, commands: CommandQueue, portions: int = 1, clock: MonotonicClock = time.monotonic):
        self._episode, self._commands, self._portions, self._clock = episode, commands, portions, clock
        self._spec = episode.env.robot_spec
        self._hold, self._last = _hold_of(self._spec), cast("FloatArray | None", None)
        self._commanded_s, self._margin_s, self._over = clock(), MARGIN_S, False
        self._counts = dict.fromkeys(("periods", "late", "empty", "executed"), 0)

    def run(self, show: Callable[[WorldFrame], None]) -> None:
        """Until the commands' sender is gone. Raises `RobotError` on a fault of the simulator."""
        period_s = 1.0 / self._spec.rate_hz
        begun_s = end_s = self._clock()
        show(self._frame(0.0, end_s))
        while True:
            end_s += period_s
            if not self._commands.wait(self._portions, end_s - min(self._margin_s, period_s / 2)):
                return
            before_s = self._clock()
            self.step()
            self._margin_s = max(0.9 * self._margin_s, 2 * (self._clock() - before_s))
            if not self._commands.wait(1 << 30, end_s):
                return
            now_s = self._clock()
            if now_s - end_s > period_s:  # the world never hurries after its clock
                self._counts["late"] += 1
                end_s = now_s
            show(self._frame(end_s - begun_s, end_s))

    def step(self) -> None:
        """One period: what was commanded for it, or what keeps the robot."""
        commands, stopped = self._commands.take(self._portions)
        self._counts["periods"] += 1
        self._counts["executed"] += len(commands)
        self._counts["empty"] += not commands
        state, now_s = self._episode.observation.state, self._clock()
        if stopped:
            self._last = None if self._hold is None else self._hold.of(state, self._last)
        if commands:
            self._commanded_s, self._last = now_s, merged(self._spec, commands)
            action: FloatArray | None = self._last
        else:
            action = self._kept(state, now_s - self._commanded_s <= WATCHDOG_S)
        if action is None or self._over:
            return
        transition = self._episode.step(action)
        self._over, fault = transition.terminated, transition.fault  # a robot has no time limit
        if fault:
            raise RobotError(f"the simulator of robot {self._spec.name!r} faulted: {fault}")

    def _kept(self, state: FloatArray, recent: bool) -> FloatArray | None:
        """The action without a command: no delta, the last target, and for a short time the last velocity."""
        if self._hold is None:
            return None
        action, slices = self._hold.of(state, self._last), self._spec.action_slices()
        for component in self._spec.action:
            kept = component.kind in TARGETS or (recent and component.kind in RATES - DELTAS)
            if kept and self._last is not None:
                action[slices[component.name]] = self._last[slices[component.name]]
        if self._last is None:
            self._last = action  # targets stay where they were first measured, so that the arm does not sink
        return action

    def _frame(self, time_s: float, measured_s: float) -> WorldFrame:
        episode = self._episode
        info = {name: episode.info[name] for name in SHOWN if name in episode.info}
        counts = {**self._counts, "dropped": self._commands.dropped}
        return WorldFrame(dataclasses.replace(episode.observation, time_s=time_s), measured_s, self._over, info, counts)


def portioned(spec: RobotSpec, rate_hz: float | None) -> tuple[RobotSpec, int]:
    """The spec of a robot that is commanded at `rate_hz`, and how many of its commands fill one period of `spec`.

    Deltas become so much smaller, so that the fastest motion stays the same; what is no delta stays.

    Raises `ConfigError` unless `rate_hz` is a whole multiple of the spec's.
    """
    rate_hz = spec.rate_hz if rate_hz is None else rate_hz
    count = round(rate_hz / spec.rate_hz)
    if not 1 <= count <= 1000 or abs(count * spec.rate_hz - rate_hz) > 1e-6 * rate_hz:
        raise ConfigError(f"rate_hz is {rate_hz:g}; expected a whole multiple of {spec.rate_hz:g}, the rate of {spec.name!r}")
    deltas = {c.name for c in spec.action if c.kind in DELTAS}
    action = tuple(
        dataclasses.replace(c, low=_divided(c.low, count), high=_divided(c.high, count)) if c.name in deltas else c
        for c in spec.action
    )
    limits = tuple(
        dataclasses.replace(each, step=_divided(each.step, count)) if each.step and each.component in deltas else each
        for each in spec.limits
    )
    age_s = spec.max_age_s or 5.0 / spec.rate_hz
    return dataclasses.replace(spec, rate_hz=float(rate_hz), action=action, limits=limits, max_age_s=age_s), count


def merged(spec: RobotSpec, commands: Sequence[FloatArray]) -> FloatArray:
    """The action (a,) of several commands in one period: deltas add up, of all else the newest counts. Within the ranges."""
    action, slices = commands[-1].copy(), spec.action_slices()
    for component in spec.action:
        if component.kind in DELTAS:
            place = slices[component.name]
            action[place] = np.sum([command[place] for command in commands], axis=0)
    found: FloatArray = np.clip(action, spec.action_low(), spec.action_high())
    return found


class FrameSender:
    """Sends the newest frame from a thread of its own, so that a parent that does not read holds up no world."""

    def __init__(self, channel: Channel, faults: ProcessFaults):
        self._channel, self._faults = channel, faults
        self._frames, self._changed, self._ended = deque[WorldFrame](), threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="frames", daemon=True)
        self._thread.start()

    def show(self, frame: WorldFrame) -> None:
        seconds, faults = frame.observation.time_s, self._faults
        if faults.die_after_s is not None and seconds >= faults.die_after_s:
            os.kill(os.getpid(), signal.SIGKILL)
        if faults.stall_after_s is not None and seconds >= faults.stall_after_s:
            return
        with self._changed:
            if not faults.delay_s:
                self._frames.clear()
            self._frames.append(frame)
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._frames and not self._ended:
                    self._changed.wait()
                if self._ended:
                    return
                frame = self._frames.popleft()
            time.sleep(max(0.0, frame.measured_s + self._faults.delay_s - time.monotonic()) if self._faults.delay_s else 0.0)
            try:
                self._channel.send(frame)
            except OSError:
                return


def work(channel: Channel) -> None:
    """The process: answer a `WorldSetup` with the robot's spec and its commands in a period; the next message starts it."""
    setup: WorldSetup = channel.receive()
    with closing(make_env(setup.env, **setup.options)) as env:
        spec, portions = portioned(env.robot_spec, setup.rate_hz)
        channel.send((spec, portions))
        channel.receive()
        episode, commands = EpisodeRunner(env, setup.request, setup.seed), CommandQueue(2 * portions)
        threading.Thread(target=_read, args=(channel, commands), name="commands", daemon=True).start()
        sender = FrameSender(channel, setup.faults)
        try:
            ClockedWorld(episode, commands, portions).run(sender.show)
        finally:
            sender.close()


def _read(channel: Channel, commands: CommandQueue) -> None:
    try:
        while True:
            commands.put(channel.receive())
    except (EOFError, OSError):
        commands.put(None)


def _hold_of(spec: RobotSpec) -> HoldAction | None:
    """None for a robot without an action that means nothing, such as one that is given discrete choices."""
    try:
        return HoldAction(spec)
    except ConfigError:
        return None


def _divided(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    return tuple(value / count for value in values)


if __name__ == "__main__":
    # Imported under the module's name, so that message classes are identical on both sides.
    from verbot.robots.simulated_world import work as _work

    serve(_work)
