"""What moves in real time, and what only some robots can."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from verbot.spec import FloatArray, Observation, RobotSpec


@runtime_checkable
class Robot(Protocol):
    """A robot in real time: time passes whether or not a method is called.

    A control loop calls `connect` once, then `observe` and `act` once a control period (1 / ``spec.rate_hz`` seconds), then
    `close`. The robot knows neither tasks nor instructions: `Observation.instruction` is the agent's business. Any `Env` is a
    robot through `verbot.robots.simulated.SimulatedRobot`; see docs/decisions/0016-robot-env-task.md.
    """

    @property
    def spec(self) -> RobotSpec: ...

    def connect(self) -> None:
        """Open the connection; `observe` and `act` work from now on. Raises `RobotError` if it cannot."""
        ...

    def observe(self) -> Observation:
        """The latest observation; `Observation.time_s` counts from `connect`."""
        ...

    def act(self, action: FloatArray) -> None:
        """Command an action (a,), in the units of ``spec.action``. Returns without waiting for the motion to end."""
        ...

    def stop(self) -> None:
        """Bring the robot to rest where it is and keep it there, until the next `act`. Safe at any time, also twice."""
        ...

    def close(self) -> None:
        """Stop the robot and close the connection. Safe at any time, also twice; `connect` may follow."""
        ...


@runtime_checkable
class AgingRobot(Robot, Protocol):
    """A robot whose observation is put together from parts of different times, such as cameras with their own rates."""

    def ages_s(self) -> Mapping[str, float]:
        """Seconds, on this machine's monotonic clock, since each part of the latest `observe` was measured.

        Keys are the names of cameras, and ``"state"``.
        """
        ...


@runtime_checkable
class Calibrated(Protocol):
    """A robot, or a leader arm, whose joints must be measured once before it can be used."""

    def calibrate(self, ask: Callable[[str], None]) -> str:
        """Measure and store the calibration; returns the path of its file. Connects and disconnects by itself.

        Args:
            ask: shows a person one instruction, such as "move the arm to the middle", and returns once it is done.

        Raises `RobotError` if the device cannot be reached or the measurement makes no sense; the old file then stays.
        """
        ...


@runtime_checkable
class LeaderArm(Protocol):
    """An arm that a person moves by hand, and that a robot follows; `verbot.robots.leaders` holds them by name."""

    def connect(self) -> None:
        """Open the connection, with the motors free. Raises `RobotError` if it cannot."""
        ...

    def read(self) -> FloatArray:
        """Where the person holds the arm now, as an action (a,) of the robot that follows. Returns within a control period."""
        ...

    def close(self) -> None:
        """Close the connection. Safe at any time, also twice; `connect` may follow."""
        ...


@runtime_checkable
class InstructedRobot(Robot, Protocol):
    """A robot through which people give instructions, such as one with a topic of sentences.

    It does not know what they mean: who drives it asks for them, and gives them to the agent.
    """

    def next_instruction(self) -> str | None:
        """The newest sentence that came since the last call; None if none did."""
        ...
