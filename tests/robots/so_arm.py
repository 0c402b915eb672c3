"""An SO arm of emulated servos, for tests."""

import numpy as np

from verbot.robots import make_leader, make_robot
from verbot.robots.feetech import EmulatedLine
from verbot.robots.feetech.emulator import ManualClock
from verbot.robots.so100_arm import emulated_arm
from verbot.robots.so100_calibration import DEFAULT


class Arm:
    """Emulated servos on a clock that takes no time, and the file of their calibration."""

    def __init__(self, folder, calibration=DEFAULT, hand=None):
        self.clock, self.path = ManualClock(), folder / "arm.json"
        self.bus = emulated_arm(calibration, hand)
        DEFAULT.save(self.path, "so101")

    def port(self):
        return EmulatedLine(self.bus, self.clock, self.clock.sleep)

    def robot(self, **options):
        return make_robot("so101", port=self.port, **{"calibration": str(self.path)} | options)

    def leader(self, **options):
        return make_leader("so101", port=self.port, **{"calibration": str(self.path)} | options)

    def wait(self, seconds):
        self.clock.sleep(seconds)
        self.bus.advance(self.clock())

    def get(self, register):
        return {servo.number: servo.get(register) for servo in self.bus.servos}

    @property
    def places(self):
        return {servo.number: servo.present for servo in self.bus.servos}


def move(robot, arm, target, seconds=3.0):
    """Play a loop of `seconds`; returns the last observation."""
    for _ in range(round(seconds * robot.spec.rate_hz)):
        robot.act(np.asarray(target, np.float32))
        arm.wait(1 / robot.spec.rate_hz)
        observation = robot.observe()
    return observation
