"""The follower arms SO-100 and SO-101: six Feetech servos on one serial bus. See docs/guides/so100.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from verbot.errors import ConfigError, RobotError
from verbot.robots import robots
from verbot.robots.cameras.group import CameraGroup
from verbot.robots.feetech import BusLine, BusStatistics, BusTiming, FeetechBus, registers
from verbot.robots.so100_arm import AUTO, ArmSite, check_calibration, check_faults, check_servos
from verbot.robots.so100_calibration import ARM_JOINTS, GRIPPER, RAD_PER_STEP, ArmCalibration, JointCalibration
from verbot.robots.so100_kinematics import SO_CHAIN
from verbot.robots.so100_measure import calibrate_arm
from verbot.spec import Component, FloatArray, MotionLimits, Observation, RobotSpec, Workspace
from verbot.spec.robot import TOOL

RATE_HZ = 30.0
MAX_AGE_S = 0.2
_OUTSIDE = 57  # steps, 5°: so far outside its range a joint may stand when it is energized
_DROOP = 64  # steps between the goal and the place of a joint that holds a load
_AT_REST = 20  # steps/s
_AGREE = 8  # steps between two readings of a joint that moves
_RELEASE_S, _RELEASE_STEPS = 2.0, 10
# Gains without which the arm trembles, and a gripper that does not burn at half its torque; LeRobot's values.
_SETTINGS = {
    registers.RETURN_DELAY: 0,
    registers.OPERATING_MODE: 0,
    registers.P_COEFFICIENT: 16,
    registers.I_COEFFICIENT: 0,
    registers.D_COEFFICIENT: 32,
}
_GRIPPER_TORQUE = 500
_GRIPPER_SETTINGS = {registers.MAX_TORQUE: _GRIPPER_TORQUE, registers.PROTECTION_CURRENT: 250, registers.OVERLOAD_TORQUE: 25}


@dataclass(frozen=True)
class SoArmOptions:
    """How a follower is driven. The fields are options of the robots ``so100`` and ``so101``.

    Args:
        calibration: path of the calibration, of verbot's or of LeRobot's; by default in the user's configuration folder.
        on_mismatch, patience: see `verbot.robots.so100_arm.ArmSite`.
        velocity, acceleration: limits of the joints in rad/s and rad/s²; the servos are set to this velocity too.
        gripper_velocity, gripper_acceleration: of the opening, in 1/s and 1/s².
        workspace: the box in which the fingertips stay, in m in the base frame: x, y, z of the low and of the high corner. The
            base stands at z = 0, x points forward. None is no box.
        release: free the motors when the robot is closed, over two seconds; otherwise they hold, and stay warm.
    """

    calibration: str | None = None
    on_mismatch: str = "refuse"
    patience: float = BusTiming.patience_s
    velocity: float = 3.0
    acceleration: float = 30.0
    gripper_velocity: float = 4.0
    gripper_acceleration: float = 40.0
    workspace: Sequence[float] | None = None
    release: bool = False

    def __post_init__(self) -> None:
        limits = (self.velocity, self.acceleration, self.gripper_velocity, self.gripper_acceleration)
        if not all(math.isfinite(limit) and limit > 0 for limit in limits):
            raise ConfigError(f"velocity and acceleration limits are {limits}; expected numbers above 0")
        if self.workspace is not None and len(self.workspace) != 6:
            raise ConfigError(
                f"workspace is {self.workspace!r:.80}; expected six numbers: x, y, z of the low and of the high corner"
            )


@robots.register("so100", needs=("serial",))
def so100(
    port: str | Callable[[], BusLine] = AUTO,
    cameras: Mapping[str, Mapping[str, Any]] | None = None,
    options: SoArmOptions = SoArmOptions(),
) -> SoArm:
    """A follower arm SO-100; see `SoArm`."""
    return SoArm("so100", port, cameras, options)


@robots.register("so101", needs=("serial",))
def so101(
    port: str | Callable[[], BusLine] = AUTO,
    cameras: Mapping[str, Mapping[str, Any]] | None = None,
    options: SoArmOptions = SoArmOptions(),
) -> SoArm:
    """A follower arm SO-101; see `SoArm`."""
    return SoArm("so101", port, cameras, options)


class SoArm:
    """A follower arm as a `verbot.contracts.AgingRobot` that can be calibrated.

    State and action are the five joint angles in rad, zero in the middle of each range, and the opening of the gripper, 0 to 1.
    An action is limited to the calibrated ranges, sent to all servos at once, and read back; what did not arrive is sent again.
    `observe` also finds servos that lost their torque, restarted, or hold another goal. If the bus is lost, the servos keep their
    last goal.

    Args:
        name: of the robot.
        port: see `verbot.robots.so100_arm.ArmSite`.
        cameras: name to options of the camera, see `verbot.robots.cameras.group.CameraGroup`.

    Raises:
        RobotError: for anything that is wrong with the arm, with the name of the joint; `spec` needs the calibration.
        CorruptFileError: the calibration's file is damaged.

    Example:
        >>> arm = SoArm("so101", port="emulated")
        >>> arm.connect()
        >>> arm.observe().state.shape, arm.spec.rate_hz
        ((6,), 30.0)
        >>> arm.close()
    """

    def __init__(
        self,
        name: str,
        port: str | Callable[[], BusLine] = AUTO,
        cameras: Mapping[str, Mapping[str, Any]] | None = None,
        options: SoArmOptions = SoArmOptions(),
    ):
        self.site = ArmSite(name, "follower", port, options.calibration, options.on_mismatch, options.patience)
        self._options, self._cameras = options, CameraGroup(dict(cameras or {}))
        self._bus: FeetechBus | None = None
        self._calibration: ArmCalibration | None = None
        self._goals: dict[int, int] = {}
        self._holds = True
        self._connected_s = self._measured_s = 0.0

    @property
    def spec(self) -> RobotSpec:
        calibration = self._calibration or self.site.load()
        low, high = (tuple(float(value) for value in ends) for ends in (calibration.low(), calibration.high()))
        joints = Component("joints", "joint_position", ARM_JOINTS, "rad", "base", low[:-1], high[:-1])
        gripper = Component(GRIPPER, "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
        given = self._options
        limits = tuple(
            MotionLimits(
                part.name,
                part.low,
                part.high,
                step=(velocity / RATE_HZ,) * part.size,
                velocity=(velocity,) * part.size,
                acceleration=(acceleration,) * part.size,
            )
            for part, velocity, acceleration in (
                (joints, given.velocity, given.acceleration),
                (gripper, given.gripper_velocity, given.gripper_acceleration),
            )
        )
        parts = (joints, gripper)
        box = tuple(float(value) for value in given.workspace or ())
        return RobotSpec(
            self.site.robot,
            RATE_HZ,
            self._cameras.spec,
            parts,
            parts,
            limits=limits,
            workspaces=(Workspace(TOOL, (box[0], box[1], box[2]), (box[3], box[4], box[5])),) if box else (),
            max_age_s=MAX_AGE_S,
            chains=(SO_CHAIN,),
        )

    @property
    def statistics(self) -> BusStatistics:
        """What the bus has counted since `connect`."""
        return self._connected().statistics

    def connect(self) -> None:
        """Check servos and calibration, start the cameras, and let the motors hold the arm where it is."""
        if self._bus is not None:
            raise RobotError(f"robot {self.site.robot!r} is connected already; call close first")
        calibration = self.site.load()
        bus = self.site.open()
        try:
            check_servos(bus)
            check_calibration(bus, calibration, self.site)
            for joint in calibration.joints:
                is_gripper = joint is calibration.joints[-1]
                bus.store(joint.id, {**_SETTINGS, **(_GRIPPER_SETTINGS if is_gripper else {})})
            self._cameras.start()
            self._energize(bus, calibration)
        except BaseException:
            bus.close()
            self._cameras.close()
            raise
        self._bus, self._calibration, self._holds = bus, calibration, True
        self._connected_s = self._measured_s = bus.line.now_s()

    def observe(self) -> Observation:
        """The joints now, and the newest images. Raises `RobotError` for a servo with a fault, without torque, or silent."""
        bus, calibration = self._connected(), self._of()
        first, servos = registers.TORQUE_ENABLE, calibration.servos
        blocks = bus.read_block(first, registers.MOVING, servos)
        positions = {servo: registers.PRESENT_POSITION.decode(block, first.address) for servo, block in blocks.items()}
        if bus.is_noisy:
            positions = bus.read_all(registers.PRESENT_POSITION, servos, _AGREE, through=registers.PRESENT_VELOCITY)
        self._measured_s = bus.line.now_s()
        self._verify(blocks)
        images = self._cameras.read()
        return Observation(images, calibration.values(positions), time_s=self._measured_s - self._connected_s)

    def act(self, action: FloatArray) -> None:
        """Command joint angles and the opening (6,). Raises `RobotError` for numbers that are none, and if it did not arrive."""
        bus, action = self._connected(), np.asarray(action, np.float64)
        if action.shape != (len(ARM_JOINTS) + 1,) or not np.isfinite(action).all():
            raise RobotError(f"an action of {self.site.robot!r} is {action.tolist()!r:.120}; expected 6 finite numbers")
        self._goals, self._holds = self._of().steps(action), False
        bus.write_all(registers.GOAL_POSITION, self._goals)
        check_faults(bus)

    def stop(self) -> None:
        """Make the place where the arm is its goal. A gripper that holds an object keeps holding it.

        Raises `RobotError` if a joint cannot be reached, after the others were stopped.
        """
        if self._bus is None or self._holds:
            return
        bus, joints = self._bus, self._of().joints
        # At once for the joints that answer, so that none moves on while one that does not is waited for.
        places = bus.read_once(registers.PRESENT_POSITION, self._of().servos, _AGREE)
        goals = {joint.id: joint.clip(places[joint.id]) for joint in joints[:-1] if joint.id in places}
        bus.write_once(registers.GOAL_POSITION, goals)
        self._goals = {**self._goals, **goals}  # so that `observe` sends no joint on that is lost from here on
        try:
            self._hold(joints)
        except RobotError:
            failures = list[RobotError]()
            for joint in joints:
                try:
                    self._hold((joint,))
                except RobotError as failure:
                    failures.append(failure)
            if failures:
                raise failures[0] from None
        self._holds = True

    def close(self) -> None:
        """Stop, free the motors if the options say so, and close the port. The port is closed also if the bus is lost."""
        self._cameras.close()
        if self._bus is None:
            return
        bus = self._bus
        try:
            with suppress(RobotError):  # without the bus the servos keep their last goal anyway
                self.stop()
                if self._options.release:
                    self._release(bus)
        finally:
            self._bus, self._calibration = None, None
            bus.close()

    def ages_s(self) -> Mapping[str, float]:
        """Seconds since the latest observation's joints and images were measured."""
        return {**self._cameras.ages_s(), "state": self._connected().line.now_s() - self._measured_s}

    def calibrate(self, ask: Callable[[str], None]) -> str:
        """Measure the joints with a person's help; see `verbot.contracts.Calibrated`."""
        if self._bus is not None:
            raise RobotError(f"robot {self.site.robot!r} is connected; call close before it is calibrated")
        return str(calibrate_arm(self.site, ask))

    def _hold(self, joints: Sequence[JointCalibration]) -> None:
        bus, first = self._connected(), registers.PRESENT_POSITION
        present = bus.read_all(first, [joint.id for joint in joints], _AGREE, through=registers.PRESENT_VELOCITY)
        goals = {joint.id: joint.clip(present[joint.id]) for joint in joints}
        gripper = self._of().joints[-1].id
        if gripper in goals and abs(bus.read(gripper, registers.PRESENT_VELOCITY, tolerance=_AT_REST)) <= _AT_REST:
            goals[gripper] = self._goals[gripper]
        bus.write_all(registers.GOAL_POSITION, goals)
        self._goals = {**self._goals, **goals}

    def _energize(self, bus: FeetechBus, calibration: ArmCalibration) -> None:
        """Turn the torque on, with the place where the arm is as its goal, so that nothing jumps."""
        servos, given = calibration.servos, self._options
        present = bus.read_all(registers.PRESENT_POSITION, servos, tolerance=_AGREE)
        for joint in calibration.joints:
            outside = max(joint.range_min - present[joint.id], present[joint.id] - joint.range_max)
            if outside > _OUTSIDE:
                raise RobotError(
                    f"{bus.name(joint.id)} stands {outside * 360 / registers.STEPS_PER_TURN:.0f}° outside its calibrated range; "
                    f"move it by hand, or run `{self.site.command}`"
                )
        *arm, gripper = calibration.joints
        speeds = {joint.id: given.velocity / RAD_PER_STEP for joint in arm}
        speeds[gripper.id] = given.gripper_velocity * (gripper.range_max - gripper.range_min)
        bus.write_all(registers.GOAL_VELOCITY, {servo: min(math.ceil(speed), 32767) for servo, speed in speeds.items()})
        bus.write_all(registers.ACCELERATION, dict.fromkeys(servos, 254))
        bus.write(gripper.id, registers.TORQUE_LIMIT, _GRIPPER_TORQUE)
        torque, goals = bus.read_all(registers.TORQUE_ENABLE, servos), bus.read_all(registers.GOAL_POSITION, servos)
        for joint in calibration.joints:
            place, goal = present[joint.id], goals[joint.id]
            # A joint that holds a load stands below its goal: with its place as the new goal it would sink each time.
            holds = torque[joint.id] == 1 and abs(goal - place) <= _DROOP
            goals[joint.id] = joint.clip(goal if holds else place)
        bus.write_all(registers.GOAL_POSITION, goals)
        bus.write_all(registers.TORQUE_ENABLE, dict.fromkeys(servos, 1))
        self._goals = goals

    def _verify(self, blocks: Mapping[int, bytes]) -> None:
        """Whether servos still hold their goals."""
        bus, first = self._connected(), registers.TORQUE_ENABLE
        check_faults(bus)
        for servo, block in blocks.items():
            if first.decode(block, first.address) != 1 and bus.read(servo, first) != 1:
                raise RobotError(
                    f"{bus.name(servo)} has lost its torque: it restarted, or someone turned it off. Check that the supply is "
                    "strong enough, and connect again"
                )
        wrong = {
            servo: self._goals[servo]
            for servo, block in blocks.items()
            if registers.GOAL_POSITION.decode(block, first.address) != self._goals[servo]
        }
        if wrong:
            bus.write_all(registers.GOAL_POSITION, wrong)

    def _release(self, bus: FeetechBus) -> None:
        """Let the arm sink: less and less torque, then none. The limits are those of power-on again afterwards."""
        servos = self._of().servos
        most = bus.read_all(registers.MAX_TORQUE, servos)
        for step in range(_RELEASE_STEPS - 1, 0, -1):
            bus.write_all(registers.TORQUE_LIMIT, {servo: limit * step // _RELEASE_STEPS for servo, limit in most.items()})
            bus.line.sleep(_RELEASE_S / _RELEASE_STEPS)
        bus.write_all(registers.TORQUE_ENABLE, dict.fromkeys(servos, 0))
        bus.write_all(registers.TORQUE_LIMIT, most)

    def _connected(self) -> FeetechBus:
        if self._bus is None:
            raise RobotError(f"robot {self.site.robot!r} is not connected; call connect first")
        return self._bus

    def _of(self) -> ArmCalibration:
        if self._calibration is None:
            raise RobotError(f"robot {self.site.robot!r} is not connected; call connect first")
        return self._calibration
