"""The leader arms SO-100 and SO-101: a person moves one by hand, and a follower follows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from verbot.errors import RobotError
from verbot.robots import leaders
from verbot.robots.feetech import BusLine, EmulatedLine, FeetechBus, registers
from verbot.robots.so100_arm import AUTO, ArmSite, check_calibration, check_faults, check_servos, waving
from verbot.robots.so100_calibration import ArmCalibration, load_calibration
from verbot.robots.so100_measure import calibrate_arm
from verbot.spec import FloatArray

_AGREE = 8  # steps between two readings of a joint that moves


@leaders.register("so100", needs=("serial",))
def so100_leader(
    port: str | Callable[[], BusLine] = AUTO,
    calibration: str | None = None,
    follower: str | None = None,
    on_mismatch: str = "refuse",
) -> SoLeader:
    """A leader arm SO-100; see `SoLeader`."""
    return SoLeader("so100", port, calibration, follower, on_mismatch)


@leaders.register("so101", needs=("serial",))
def so101_leader(
    port: str | Callable[[], BusLine] = AUTO,
    calibration: str | None = None,
    follower: str | None = None,
    on_mismatch: str = "refuse",
) -> SoLeader:
    """A leader arm SO-101; see `SoLeader`."""
    return SoLeader("so101", port, calibration, follower, on_mismatch)


class SoLeader:
    """A leader arm as a `verbot.contracts.LeaderArm` that can be calibrated. Its motors are free.

    A joint's angle from the middle of its range is the angle of the follower's joint; the opening of its handle is that of the
    gripper. An emulated one waves.

    Args:
        name: of the robot.
        port: see `verbot.robots.so100_arm.ArmSite`.
        calibration: path of its own calibration; by default in the user's configuration folder.
        follower: path of the follower's calibration: what is read then stays within its ranges. The follower limits it anyway.
        on_mismatch: see `verbot.robots.so100_arm.ArmSite`.

    Raises `RobotError` for anything that is wrong with the arm, with the name of the joint.

    Example:
        >>> leader = SoLeader("so101", port="emulated")
        >>> leader.connect()
        >>> leader.read().shape
        (6,)
        >>> leader.close()
    """

    def __init__(
        self,
        name: str,
        port: str | Callable[[], BusLine] = AUTO,
        calibration: str | None = None,
        follower: str | None = None,
        on_mismatch: str = "refuse",
    ):
        self.site = ArmSite(name, "leader", port, calibration, on_mismatch)
        self._follower = follower
        self._bus: FeetechBus | None = None
        self._calibration: ArmCalibration | None = None
        self._bounds: tuple[FloatArray, FloatArray] | None = None

    def connect(self) -> None:
        """Open the bus, check servos and calibration, and free the motors."""
        if self._bus is not None:
            raise RobotError(f"leader arm {self.site.robot!r} is connected already; call close first")
        calibration = self.site.load()
        if self._follower is not None:
            follower = load_calibration(Path(self._follower).expanduser(), f"verbot robot calibrate {self.site.robot}")
            self._bounds = (follower.low(), follower.high())
        bus = self.site.open()
        try:
            if self.site.is_emulated and isinstance(bus.line, EmulatedLine):
                bus.line.bus.hand = waving(calibration)
            check_servos(bus)
            bus.write_all(registers.TORQUE_ENABLE, dict.fromkeys(calibration.servos, 0))
            check_calibration(bus, calibration, self.site)
        except BaseException:
            bus.close()
            raise
        self._bus, self._calibration = bus, calibration

    def read(self) -> FloatArray:
        """Five angles in rad and the opening (6,). Raises `RobotError` if a servo has a fault or does not answer."""
        bus, calibration = self._bus, self._calibration
        if bus is None or calibration is None:
            raise RobotError(f"leader arm {self.site.robot!r} is not connected; call connect first")
        values = calibration.values(bus.read_all(registers.PRESENT_POSITION, calibration.servos, tolerance=_AGREE))
        check_faults(bus)
        return values if self._bounds is None else np.clip(values, *self._bounds)

    def close(self) -> None:
        bus, self._bus = self._bus, None
        if bus is not None:
            bus.close()

    def calibrate(self, ask: Callable[[str], None]) -> str:
        """Measure the joints with a person's help; see `verbot.contracts.Calibrated`."""
        if self._bus is not None:
            raise RobotError(f"leader arm {self.site.robot!r} is connected; call close before it is calibrated")
        return str(calibrate_arm(self.site, ask))
