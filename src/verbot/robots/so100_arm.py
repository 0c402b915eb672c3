"""What the follower and the leader of an SO-100 or SO-101 have in common: the way to their servos, and the checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from verbot.errors import ConfigError, RobotError
from verbot.robots.feetech import (
    BusLine,
    BusTiming,
    EmulatedBus,
    EmulatedLine,
    EmulatedServo,
    FeetechBus,
    SerialLine,
    registers,
    serial_ports,
)
from verbot.robots.so100_calibration import (
    DEFAULT,
    JOINTS,
    ArmCalibration,
    JointCalibration,
    calibration_path,
    load_calibration,
)

EMULATED, AUTO = "emulated", "auto"
MISMATCHES = ("refuse", "write")
SERVOS = dict(enumerate(JOINTS, start=1))
# A gripper that holds an object is overloaded after a while, and goes on with less torque: that is no fault.
_TOLERATED = {len(JOINTS): registers.OVERLOAD}
_MARGIN = 12  # steps from the calibrated range to the mechanical end of an emulated joint

# The steps of a servo's shaft at a time, or None where nobody holds it.
Hand = Callable[[int, float], float | None]


@dataclass(frozen=True)
class ArmSite:
    """One arm: which, where it is plugged in, and where its calibration is kept.

    Args:
        robot: ``"so100"`` or ``"so101"``.
        role: ``"follower"`` or ``"leader"``.
        port: a serial port; ``"auto"`` for the only one of a USB adapter; ``"emulated"`` for servos that are not there; or, from
            Python, a function that opens a line.
        calibration: path of its file, of verbot's or of LeRobot's; by default one in the user's configuration folder.
        on_mismatch: where servos hold another calibration than the file: ``"refuse"``, or ``"write"`` that of the file into them;
            their motors are free meanwhile.
        patience: how many seconds a command is repeated before the bus counts as lost.

    Raises `ConfigError` for values that are none of these.
    """

    robot: str
    role: str
    port: str | Callable[[], BusLine] = AUTO
    calibration: str | None = None
    on_mismatch: str = "refuse"
    patience: float = BusTiming.patience_s

    def __post_init__(self) -> None:
        if self.on_mismatch not in MISMATCHES:
            raise ConfigError(f"on_mismatch is {self.on_mismatch!r}; expected one of {', '.join(MISMATCHES)}")
        if not (math.isfinite(self.patience) and self.patience > 0):
            raise ConfigError(f"patience is {self.patience}; expected seconds, more than 0")

    @property
    def is_emulated(self) -> bool:
        return self.port == EMULATED

    @property
    def path(self) -> Path:
        if self.calibration is not None:
            return Path(self.calibration).expanduser()
        return calibration_path(self.robot, self.role, self.is_emulated)

    @property
    def command(self) -> str:
        """What calibrates this arm."""
        port = self.port if isinstance(self.port, str) else "PORT"
        leader = " --leader" if self.role == "leader" else ""
        return f"verbot robot calibrate{leader} {self.robot} --robot-set port={port}"

    def load(self) -> ArmCalibration:
        """The calibration. An emulated arm without a file has one of its own.

        Raises `RobotError` if there is none, `CorruptFileError` if its file is damaged.
        """
        if self.is_emulated and not self.path.exists():
            return DEFAULT
        return load_calibration(self.path, self.command)

    def open(self, hand: Hand | None = None) -> FeetechBus:
        """The bus of its servos. `hand` moves those of an emulated arm. Raises `RobotError` if the port cannot be opened."""
        if callable(self.port):
            line = self.port()
        elif self.is_emulated:
            line = EmulatedLine(emulated_arm(self.load(), hand))
        else:
            line = SerialLine(self._serial_port())
        return FeetechBus(line, SERVOS, BusTiming(patience_s=self.patience))

    def _serial_port(self) -> str:
        if isinstance(self.port, str) and self.port != AUTO:
            return self.port
        ports = serial_ports()
        if len(ports) != 1:
            found = ", ".join(ports) or "no serial port of a USB adapter"
            raise RobotError(
                f"the {self.robot} {self.role} needs port=PORT: this machine has {found}; port=emulated tries without"
            )
        return ports[0]


def emulated_arm(calibration: ArmCalibration, hand: Hand | None = None) -> EmulatedBus:
    """Six emulated servos that are calibrated so, and stand a little beside the middle of their ranges."""
    servos = []
    for number, joint in enumerate(calibration.joints):
        servo = EmulatedServo(joint.id, low=joint.range_min + joint.homing_offset, high=joint.range_max + joint.homing_offset)
        if joint.range_max - joint.range_min < registers.STEPS_PER_TURN - 1:
            servo.low, servo.high = servo.low - _MARGIN, servo.high + _MARGIN
        servo.shaft = joint.middle + joint.homing_offset + 40.0 * (number - 2)
        for register, value in stored_calibration(joint).items():
            servo.set(register, value)
        servos.append(servo)
    return EmulatedBus(servos, hand=hand or (lambda servo, time_s: None))


def waving(calibration: ArmCalibration, share: float = 0.4, period_s: float = 8.0) -> Hand:
    """A hand that waves each joint through a share of its range, each with its own phase."""
    joints = {joint.id: joint for joint in calibration.joints}

    def hand(servo: int, time_s: float) -> float | None:
        if servo not in joints:
            return None
        joint = joints[servo]
        half = (joint.range_max - joint.range_min) / 2 + _MARGIN
        return joint.middle + joint.homing_offset + share * half * math.sin(2 * math.pi * (time_s / period_s + servo / 6))

    return hand


def stored_calibration(joint: JointCalibration) -> dict[registers.Register, int]:
    """What a servo holds of a calibration."""
    return {
        registers.HOMING_OFFSET: joint.homing_offset,
        registers.MIN_POSITION: joint.range_min,
        registers.MAX_POSITION: joint.range_max,
    }


def check_servos(bus: FeetechBus, servos: Mapping[int, str] = SERVOS) -> None:
    """Raise `RobotError` unless each servo answers, is of a known model, has power in its range, and reports no fault."""
    missing = [servo for servo in servos if not bus.ping(servo)]
    if len(missing) == len(servos):
        raise RobotError(f"no servo answers on {bus.line.name}; is the arm's power supply on, and is it the right port?")
    if missing:
        names = ", ".join(bus.name(servo) for servo in missing)
        raise RobotError(
            f"{names} on {bus.line.name} does not answer; check the cable from the servo before it, and that its id is set"
        )
    for servo, model in bus.read_all(registers.MODEL, list(servos)).items():
        if model not in registers.MODELS:
            known = ", ".join(f"{name} ({number})" for number, name in registers.MODELS.items())
            raise RobotError(f"{bus.name(servo)} is of model {model}; an SO arm has {known}")
    for servo in servos:
        voltage = bus.read(servo, registers.PRESENT_VOLTAGE, tolerance=5)
        low, high = bus.read(servo, registers.MIN_VOLTAGE), bus.read(servo, registers.MAX_VOLTAGE)
        if not low <= voltage <= high:
            raise RobotError(
                f"{bus.name(servo)} has {voltage / 10:.1f} V; it takes {low / 10:.1f} to {high / 10:.1f} V. "
                "Is it the right power supply?"
            )
    check_faults(bus, servos)


def check_faults(bus: FeetechBus, servos: Mapping[int, str] = SERVOS) -> None:
    """Raise `RobotError` that names each servo with a fault, and the fault, if a reply said that there is one."""
    faults = bus.faults(list(servos), _TOLERATED)
    if faults:
        raise RobotError(
            "; ".join(f"{bus.name(servo)}: {', '.join(found)}" for servo, found in faults.items())
            + ". Take the load off, let it cool, and switch its power off and on"
        )


def check_calibration(bus: FeetechBus, calibration: ArmCalibration, site: ArmSite) -> None:
    """Raise `RobotError` if servos hold another calibration than the file; by ``on_mismatch`` they get that of the file."""
    for name, joint in calibration.named().items():
        for register, wanted in stored_calibration(joint).items():
            held = bus.read(joint.id, register)
            if held == wanted:
                continue
            if site.on_mismatch != "write":
                raise RobotError(
                    f"{bus.name(joint.id)} holds {register.name} {held}, and {site.path} says {wanted} for {name!r}: that "
                    f"is another arm's calibration, or an older one. Run `{site.command}`, or write the file's into the servos "
                    "(on_mismatch=write)"
                )
            bus.write(joint.id, registers.TORQUE_ENABLE, 0)  # its goal means another place from now on
            bus.store(joint.id, {register: wanted})
