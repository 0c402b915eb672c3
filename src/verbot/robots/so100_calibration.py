"""What steps of the servos' encoders mean: the calibration of an SO-100 or SO-101, its file, and LeRobot's.

Angles are in rad, zero in the middle of a joint's range, as in LeRobot; the gripper is 0 closed and 1 open. A turn is 4096 steps.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verbot.errors import ConfigError, CorruptFileError, RobotError
from verbot.files import read_record, write_atomic
from verbot.robots.feetech.registers import STEPS_PER_TURN
from verbot.spec import FloatArray

ARM_JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
GRIPPER = "gripper"
JOINTS = (*ARM_JOINTS, GRIPPER)  # of servos 1 to 6
FULL_TURN = "wrist_roll"  # it has no ends that a person could find
RAD_PER_STEP = 2 * math.pi / STEPS_PER_TURN
FORMAT = "verbot-so-arm-calibration/1"
_TOP = STEPS_PER_TURN - 1


@dataclass(frozen=True)
class JointCalibration:
    """What a servo's steps mean; the fields are those of LeRobot's files.

    Args:
        id: of the servo.
        drive_mode: 1 if more steps mean a smaller angle.
        homing_offset: steps from the encoder's zero to that of the positions that the servo reports.
        range_min, range_max: where the joint may go, in reported steps.
    """

    id: int
    drive_mode: int
    homing_offset: int
    range_min: int
    range_max: int

    def __post_init__(self) -> None:
        bounds = {"id": (0, 253), "drive_mode": (0, 1), "homing_offset": (-2047, 2047), "range_min": (0, _TOP)}
        for name, (low, high) in {**bounds, "range_max": (self.range_min + 1, _TOP)}.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ConfigError(f"{name} of a calibrated joint is {value!r:.40}; expected a whole number from {low} to {high}")

    @property
    def middle(self) -> float:
        return (self.range_min + self.range_max) / 2

    @property
    def sign(self) -> int:
        return -1 if self.drive_mode else 1

    @property
    def half_range(self) -> float:
        """From the middle to an end, in rad."""
        return (self.range_max - self.range_min) / 2 * RAD_PER_STEP

    def angle(self, steps: float) -> float:
        return self.sign * (steps - self.middle) * RAD_PER_STEP

    def opening(self, steps: float) -> float:
        return 0.5 + self.sign * (steps - self.middle) / (self.range_max - self.range_min)

    def steps_of_angle(self, angle: float) -> int:
        return self.clip(self.middle + self.sign * angle / RAD_PER_STEP)

    def steps_of_opening(self, opening: float) -> int:
        return self.clip(self.middle + self.sign * (opening - 0.5) * (self.range_max - self.range_min))

    def clip(self, steps: float) -> int:
        """The nearest whole step within the range."""
        return round(min(max(steps, self.range_min), self.range_max))


@dataclass(frozen=True)
class ArmCalibration:
    """Of the six joints, in the order of `JOINTS`.

    Example:
        >>> joint = JointCalibration(1, 0, 0, 1024, 3072)
        >>> arm = ArmCalibration(tuple(dataclasses.replace(joint, id=number) for number in range(1, 7)))
        >>> arm.values({number: 2048 for number in range(1, 7)}).tolist()
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.5]
    """

    joints: tuple[JointCalibration, ...]

    def __post_init__(self) -> None:
        if len(self.joints) != len(JOINTS):
            raise ConfigError(f"a calibration has {len(self.joints)} joints; expected {', '.join(JOINTS)}")
        if len(set(self.servos)) != len(JOINTS):
            raise ConfigError(f"a calibration gives joints the servos {self.servos}; expected six different ones")

    @property
    def servos(self) -> tuple[int, ...]:
        return tuple(joint.id for joint in self.joints)

    def named(self) -> dict[str, JointCalibration]:
        return dict(zip(JOINTS, self.joints, strict=True))

    def values(self, steps: Mapping[int, float]) -> FloatArray:
        """Five angles and the opening (6,), from the reported steps of each servo; the opening stays within 0 and 1."""
        *arm, gripper = self.joints
        opening = min(max(gripper.opening(steps[gripper.id]), 0.0), 1.0)
        return np.array([*(joint.angle(steps[joint.id]) for joint in arm), opening], np.float32)

    def steps(self, values: FloatArray) -> dict[int, int]:
        """Inverse of `values`, within the range of each joint."""
        *arm, gripper = self.joints
        goals = {joint.id: joint.steps_of_angle(float(value)) for joint, value in zip(arm, values, strict=False)}
        return {**goals, gripper.id: gripper.steps_of_opening(float(values[-1]))}

    def low(self) -> FloatArray:
        return np.array([*(-joint.half_range for joint in self.joints[:-1]), 0.0], np.float32)

    def high(self) -> FloatArray:
        return np.array([*(joint.half_range for joint in self.joints[:-1]), 1.0], np.float32)

    def save(self, path: Path, robot: str) -> None:
        """Write the file, whole or not at all. Raises `UnwritableError`."""
        joints = {name: dataclasses.asdict(joint) for name, joint in self.named().items()}
        write_atomic(path, json.dumps({"format": FORMAT, "robot": robot, "joints": joints}, indent=2) + "\n")


# Of the emulated arm: the ranges of the SO-101's description, and offsets as they come out of an assembly.
DEFAULT = ArmCalibration(
    (
        JointCalibration(1, 0, -120, 795, 3299),
        JointCalibration(2, 0, 340, 909, 3185),
        JointCalibration(3, 0, -415, 945, 3149),
        JointCalibration(4, 0, 87, 966, 3128),
        JointCalibration(5, 0, 205, 0, 4095),
        JointCalibration(6, 0, -268, 1421, 2673),
    )
)


def calibration_path(robot: str, role: str, emulated: bool = False) -> Path:
    """Where a calibration is kept unless a path is named: in the user's configuration folder."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "verbot" / "calibration" / f"{robot}-{role}{'-emulated' if emulated else ''}.json"


def load_calibration(path: Path, command: str) -> ArmCalibration:
    """The calibration in a file of verbot's or of LeRobot's.

    Args:
        command: what makes one, for the message.

    Raises:
        RobotError: there is no such file.
        CorruptFileError: it is none of both, or holds values that no servo has.
    """
    if not path.exists():
        raise RobotError(f"there is no calibration at {path}; run `{command}`, or name a file (calibration=PATH), also LeRobot's")
    record = read_record(path)
    joints = record.get("joints") if "format" in record else record
    if record.get("format", FORMAT) != FORMAT:
        raise CorruptFileError(path, f"has format {record['format']!r:.60}; expected {FORMAT}")
    if not isinstance(joints, dict) or set(joints) != set(JOINTS):
        found = ", ".join(sorted(joints)) if isinstance(joints, dict) else type(joints).__name__
        raise CorruptFileError(path, f"has the joints {found:.200}; expected {', '.join(JOINTS)}")
    try:
        return ArmCalibration(tuple(_joint(name, joints[name]) for name in JOINTS))
    except ConfigError as error:
        raise CorruptFileError(path, f"is no calibration: {error}") from error


def _joint(name: str, record: Any) -> JointCalibration:
    fields = [field.name for field in dataclasses.fields(JointCalibration)]
    if not isinstance(record, dict) or set(record) != set(fields):
        raise ConfigError(f"joint {name} is {record!r:.80}; expected {', '.join(fields)}")
    try:
        return JointCalibration(**record)
    except ConfigError as error:
        raise ConfigError(f"joint {name}: {error}") from error
