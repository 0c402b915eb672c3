"""The control loop: observe, act, guard and command at the robot's rate, and hold the robot whatever happens."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from verbot.agents import GuardedAgent
from verbot.agents.guard_events import GuardResult
from verbot.contracts import AgingRobot, HoldingAgent, InstructedRobot, Robot
from verbot.deploy.loop_report import LoopReport, LoopStep, LoopSummary
from verbot.errors import RobotError
from verbot.parallel.signals import StopRequest, deferred
from verbot.spec import Observation

SHOWN_S = 0.25  # between two updates of what is shown


@runtime_checkable
class Recorder(Protocol):
    """Keeps what was observed and executed. While the robot moves, no method may wait."""

    def add(self, observation: Observation, result: GuardResult) -> None:
        """One control step."""
        ...

    def instruct(self, instruction: str) -> None:
        """What the steps from now on are for."""
        ...

    def close(self, summary: Mapping[str, Any]) -> None:
        """After the robot was stopped: save what there is, with the figures of the run."""
        ...


@dataclass(frozen=True)
class LoopTime:
    """The clock of a loop, replaceable in tests: monotonic seconds, and how to wait."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class LoopConfig:
    """One run.

    Args:
        instruction: given to the agent. A robot that passes on instructions (`InstructedRobot`) replaces it while it runs.
        seconds: its length; None runs until a signal, or until `finished`.
        out: folder for ``run.jsonl``; None writes none.
        about: what the log's first line says beside the instruction.
        prepare: called with the first observation before time counts, e.g. to load a policy's caches.
        finished: ends the run.
        show: called four times a second with the count of steps and a line for people.
    """

    instruction: str
    seconds: float | None = None
    out: Path | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[Observation], None] = lambda observation: None
    finished: Callable[[], bool] = lambda: False
    show: Callable[[int, str], None] = lambda steps, note: None


class ControlLoop:
    """Drives `robot` by a guarded agent at ``robot.spec.rate_hz``.

    Step k is due at the beginning plus k periods, on the monotonic clock: delays do not add up. A step that ends after its period
    is a missed deadline, and the periods that it took are skipped: no step is made up for. After the time, a signal (SIGINT,
    SIGTERM), `LoopConfig.finished` or any exception the robot is stopped, which holds it where it is, and then closed.

    Args:
        robot: connected by `run`.
        agent: the outermost agent; its guard is of this robot. Inside, a `HoldAgent` or an `OverlappingAgent` bounds the time of
            each step: without one a policy that does not answer stops the loop until it does, while the robot moves on as it was
            last commanded.
        holding: that agent, to report its holds.
        recorder: keeps each step.

    Example:
        >>> agent = GuardedAgent(HoldAgent(ChunkAgent(policy, 8)), Guard(robot.spec))  # doctest: +SKIP
        >>> ControlLoop(robot, agent).run(LoopConfig("put the red cube in the blue box", seconds=20)).misses  # doctest: +SKIP
    """

    def __init__(
        self,
        robot: Robot,
        agent: GuardedAgent,
        holding: HoldingAgent | None = None,
        recorder: Recorder | None = None,
        times: LoopTime | None = None,
    ):
        self._robot, self._agent, self._holding, self._recorder = robot, agent, holding, recorder
        self._times = times or LoopTime()
        self._period_s = 1.0 / robot.spec.rate_hz

    def run(self, config: LoopConfig) -> LoopSummary:
        """Run once. Raises what the robot, the agent or the recorder raise, after the robot has been stopped and closed."""
        report = LoopReport(self._robot.spec.rate_hz, config.out, {"instruction": config.instruction[:1000], **config.about})
        ended, fault = "fault", ""
        with deferred() as stop:
            try:
                with self._connected():
                    ended = self._drive(config, report, stop)
            except BaseException as error:
                fault = f"{type(error).__name__}: {error}"
                raise
            finally:
                try:
                    summary = report.finish(ended, fault, self._agent.guard.latched)
                finally:
                    if self._recorder is not None:
                        self._recorder.close(report.summary.to_json())
        return summary

    @contextlib.contextmanager
    def _connected(self) -> Any:
        """The robot, stopped and closed at the end: each is done whatever the other one raises. The first fault comes first."""
        robot, fault = self._robot, cast("BaseException | None", None)
        try:
            robot.connect()
        except BaseException:
            with contextlib.suppress(RobotError):  # such as that it is not connected
                robot.close()
            raise
        try:
            yield
        except BaseException as error:
            fault = error
            raise
        finally:
            try:
                robot.stop()
            except RobotError as error:
                if fault is None:
                    raise
                raise RobotError(f"{fault or type(fault).__name__}; and the robot could not be stopped: {error}") from fault
            finally:
                robot.close()

    def _drive(self, config: LoopConfig, report: LoopReport, stop: StopRequest) -> str:
        clock = self._times.clock
        self._agent.reset(config.instruction)
        config.prepare(self._robot.observe())
        begun_s = clock()
        number, before_s, shown_s = 0, None, begun_s
        while True:
            if stop.number:
                report.summary.signal = stop.number
                return "signal"
            if config.finished():
                return "finished"
            woke_s = clock()
            if config.seconds is not None and woke_s - begun_s >= config.seconds - 0.5 * self._period_s:
                return "time"
            if isinstance(self._robot, InstructedRobot) and (text := self._robot.next_instruction()):
                self._agent.instruct(text)
                report.instructed(text, woke_s - begun_s)
                if self._recorder is not None:
                    self._recorder.instruct(text)
            due_s = begun_s + number * self._period_s
            step = self._step(number, woke_s, due_s, before_s)
            report.add(step, clock() - begun_s)
            before_s, number = woke_s, number + 1 + step.skipped
            if (now_s := clock()) - shown_s >= SHOWN_S:
                config.show(report.summary.steps, report.note())
                shown_s = now_s
            wait_s = begun_s + number * self._period_s - clock()
            if wait_s > 0:
                self._times.sleep(wait_s)

    def _step(self, number: int, woke_s: float, due_s: float, before_s: float | None) -> LoopStep:
        """One control step: its command is sent when this returns."""
        clock, robot = self._times.clock, self._robot
        observation = robot.observe()
        observed_s = clock()
        age_s = max(robot.ages_s().values(), default=0.0) if isinstance(robot, AgingRobot) else 0.0
        result = self._agent.decide(observation)
        if result.action is None:
            robot.stop()
        else:
            robot.act(result.action)
        done_s = clock()
        if self._recorder is not None:
            self._recorder.add(observation, result)
        over = (done_s - due_s) / self._period_s - 1.0
        return LoopStep(
            number,
            None if before_s is None else woke_s - before_s,
            max(0.0, woke_s - due_s),
            age_s + done_s - observed_s,
            observed_s - woke_s,
            done_s - observed_s,
            done_s - woke_s,
            max(0, int(over) + 1) if over > 0 else 0,
            result.held,
            "" if self._holding is None else self._holding.reason,
            result.events,
        )


def oldest_s(robot: Robot) -> Callable[[], float] | None:
    """How old the oldest part of a robot's latest observation is now; None of a robot that does not say."""
    if not isinstance(robot, AgingRobot):
        return None
    return lambda: max(robot.ages_s().values(), default=0.0)
