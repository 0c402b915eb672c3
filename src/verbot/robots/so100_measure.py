"""The guided calibration of an SO arm: a person holds it in the middle, then moves each joint from end to end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from verbot.errors import RobotError
from verbot.robots.feetech import EmulatedLine, FeetechBus, registers
from verbot.robots.feetech.registers import STEPS_PER_TURN
from verbot.robots.so100_arm import SERVOS, ArmSite, check_servos, stored_calibration, waving
from verbot.robots.so100_calibration import FULL_TURN, ArmCalibration, JointCalibration

MIDDLE = STEPS_PER_TURN // 2 - 1
LEAST_RANGE = 200  # steps, 18°: less was no motion from end to end
_SAMPLE_S = 0.02
_SWEEP_S = 1.0  # of the emulated person
_STORED = (registers.HOMING_OFFSET, registers.MIN_POSITION, registers.MAX_POSITION)


def calibrate_arm(site: ArmSite, ask: Callable[[str], None]) -> Path:
    """Measure an arm, write what was found into its servos and its file, and return the path of the file.

    Raises `RobotError` if the arm cannot be reached or a joint was not moved as asked. File and servos are then as before.
    """
    bus = site.open()
    try:
        _emulate_hand(site, bus, 0.0)
        check_servos(bus)
        if any(bus.read_all(registers.TORQUE_ENABLE, list(SERVOS)).values()):
            ask("Hold the arm: its motors are freed now.")
        bus.write_all(registers.TORQUE_ENABLE, dict.fromkeys(SERVOS, 0))
        before = {servo: {register: bus.read(servo, register) for register in _STORED} for servo in SERVOS}
        try:
            calibration = _measure(bus, ask, lambda: _emulate_hand(site, bus, 1.0))
            calibration.save(site.path, site.robot)
        except BaseException:
            for servo, values in before.items():
                bus.store(servo, values)
            raise
    finally:
        bus.close()
    return site.path


def _measure(bus: FeetechBus, ask: Callable[[str], None], sweep: Callable[[], None]) -> ArmCalibration:
    for servo in SERVOS:
        bus.store(servo, {registers.OPERATING_MODE: 0, registers.HOMING_OFFSET: 0})
        bus.store(servo, {registers.MIN_POSITION: 0, registers.MAX_POSITION: STEPS_PER_TURN - 1})
    ask("The motors are free. Hold the arm so that every joint is in the middle of its range, the gripper half open.")
    middles = bus.read_all(registers.PRESENT_POSITION, list(SERVOS), tolerance=4)
    for servo, middle in middles.items():
        bus.store(servo, {registers.HOMING_OFFSET: min(max(middle - MIDDLE, -2047), 2047)})
    sweep()
    with _Ranges(bus) as ranges:
        ask(f"Move every joint but {FULL_TURN} from one end to the other, the gripper too, until all have reached both ends.")
    joints = [_joint(bus, servo, *ranges.found(servo), middles[servo] - MIDDLE) for servo in SERVOS]
    for joint in joints:
        bus.store(joint.id, stored_calibration(joint))
    return ArmCalibration(tuple(joints))


def _emulate_hand(site: ArmSite, bus: FeetechBus, share: float) -> None:
    """Of an emulated arm: hold it in the middle, or move it through a share of its range."""
    if site.is_emulated and isinstance(bus.line, EmulatedLine):
        bus.line.bus.hand = waving(site.load(), share, _SWEEP_S)


def _joint(bus: FeetechBus, servo: int, low: int, high: int, jumped: bool, offset: int) -> JointCalibration:
    offset = min(max(offset, -2047), 2047)
    if SERVOS[servo] == FULL_TURN:
        return JointCalibration(servo, 0, offset, 0, STEPS_PER_TURN - 1)
    if jumped:
        raise RobotError(
            f"{bus.name(servo)} passed the end of its encoder: it was not in the middle at the beginning. Calibrate again"
        )
    if high - low < LEAST_RANGE:
        raise RobotError(
            f"{bus.name(servo)} was moved by {(high - low) * 360 / STEPS_PER_TURN:.0f}° only; move it from end to end and "
            "calibrate again"
        )
    return JointCalibration(servo, 0, offset, low, high)


class _Ranges:
    """Reads positions in a thread, while a person moves the arm, and keeps the smallest and the largest of each."""

    def __init__(self, bus: FeetechBus):
        self._bus, self._over = bus, threading.Event()
        self._low, self._high, self._last = (dict(self._read()) for _ in range(3))
        self._jumped: set[int] = set()
        self._error: RobotError | None = None
        self._thread = threading.Thread(target=self._watch, name="calibration", daemon=True)

    def __enter__(self) -> _Ranges:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def found(self, servo: int) -> tuple[int, int, bool]:
        """The smallest and the largest position, and whether it jumped. Raises `RobotError` if the bus was lost meanwhile."""
        if self._error is not None:
            raise self._error
        return self._low[servo], self._high[servo], servo in self._jumped

    def _read(self) -> dict[int, int]:
        return self._bus.read_all(registers.PRESENT_POSITION, list(SERVOS), tolerance=64)

    def _watch(self) -> None:
        try:
            while not self._over.is_set():
                for servo, position in self._read().items():
                    if abs(position - self._last[servo]) > STEPS_PER_TURN // 2:
                        self._jumped.add(servo)
                    self._last[servo] = position
                    self._low[servo] = min(self._low[servo], position)
                    self._high[servo] = max(self._high[servo], position)
                self._bus.line.sleep(_SAMPLE_S)
        except RobotError as error:
            self._error = error
