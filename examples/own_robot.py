"""A robot of your own: a cart on a rail, and the control loop that drives any robot.

It keeps `verbot.contracts.Robot`. For `verbot.robots.make_robot` of other programs an entry point names the class:

    [project.entry-points."verbot.robots"]
    cart = "own_robot:Cart"
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

import verbot
from verbot.errors import RobotError
from verbot.robots import make_robot, robots

PLACE = verbot.Component("position", "position", ("x",), "m", "base", (0.0,), (1.0,))
SPEED = verbot.Component("velocity", "velocity", ("x",), "m/s", "base", (-0.5,), (0.5,))
Clock = Callable[[], float]  # seconds
Sleep = Callable[[float], None]


class Motor:
    """The driver of the motor, here a model of it: put the one of your hardware in its place."""

    def __init__(self, clock: Clock = time.monotonic):
        self._clock, self._since_s, self._x_m, self._speed = clock, clock(), 0.9, 0.0

    def position_m(self) -> float:
        now_s = self._clock()
        self._x_m = float(np.clip(self._x_m + self._speed * (now_s - self._since_s), 0, 1))
        self._since_s = now_s
        return self._x_m

    def set_speed(self, meters_per_second: float) -> None:
        self.position_m()
        self._speed = meters_per_second


@robots.register("cart")
class Cart:
    """A cart that is driven by its velocity. It moves on until the next action: `stop` brings it to rest."""

    spec = verbot.RobotSpec("cart", 50.0, (), (PLACE,), (SPEED,))

    def __init__(self, clock: Clock = time.monotonic):
        self._clock = clock
        self._motor: Motor | None = None

    def connect(self) -> None:
        self._motor, self._connected_s = Motor(self._clock), self._clock()

    def observe(self) -> verbot.Observation:
        position = np.array([self._open().position_m()], np.float32)
        return verbot.Observation({}, position, time_s=self._clock() - self._connected_s)

    def act(self, action: np.ndarray) -> None:
        speed = np.clip(action, self.spec.action_low(), self.spec.action_high())
        self._open().set_speed(float(speed[0]))

    def stop(self) -> None:
        if self._motor is not None:
            self._motor.set_speed(0.0)

    def close(self) -> None:
        self.stop()
        self._motor = None

    def _open(self) -> Motor:
        if self._motor is None:
            raise RobotError("the cart is not connected; call connect first")
        return self._motor


class ToTheMiddle:
    """An agent: toward 0.5 m, the slower the nearer."""

    def reset(self, instruction: str) -> None:
        """Nothing to remember."""

    def act(self, observation: verbot.Observation) -> np.ndarray:
        return 4 * (0.5 - observation.state)


def drive(
    robot: verbot.Robot,
    agent: verbot.Agent,
    instruction: str,
    seconds: float,
    clock: Clock = time.monotonic,
    sleep: Sleep = time.sleep,
) -> verbot.Observation:
    """The latest observation after `seconds`. Whatever happens, the robot is stopped and closed."""
    robot.connect()
    try:
        agent.reset(instruction)
        due_s = clock()
        while (observation := robot.observe()).time_s < seconds:
            robot.act(agent.act(observation))
            due_s += 1 / robot.spec.rate_hz
            sleep(max(0.0, due_s - clock()))
        return observation
    finally:
        robot.close()


def main(seconds: float = 2.0, clock: Clock = time.monotonic, sleep: Sleep = time.sleep) -> float:
    """Drive the cart to the middle. Returns where it is in the end, in meters."""
    robot = make_robot("cart", clock=clock)
    position_m = float(drive(robot, ToTheMiddle(), "go to the middle", seconds, clock, sleep).state[0])
    print(f"after {seconds} s the cart is at {position_m:.3f} m")
    return position_m


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 2.0)
