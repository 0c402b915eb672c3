"""Calibrations of SO arms: files, a person who is guided, and a leader that is followed."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from so_arm import Arm, move

from verbot.errors import CorruptFileError, RobotError
from verbot.robots.feetech import registers
from verbot.robots.so100_arm import waving
from verbot.robots.so100_calibration import DEFAULT, ArmCalibration, JointCalibration, load_calibration

GOAL, TORQUE = registers.GOAL_POSITION, registers.TORQUE_ENABLE


@pytest.fixture
def arm(tmp_path):
    return Arm(tmp_path)


def test_a_joint_can_run_the_other_way():
    joint = JointCalibration(1, 1, 0, 1000, 3000)
    assert joint.angle(3000) == pytest.approx(-joint.half_range) and joint.steps_of_angle(-9.0) == 3000
    assert joint.opening(1000) == 1.0 and joint.steps_of_opening(0.0) == 3000


def test_calibrations_come_back_from_files_of_verbot_and_of_lerobot(tmp_path):
    DEFAULT.save(tmp_path / "own.json", "so101")
    assert load_calibration(tmp_path / "own.json", "") == DEFAULT
    plain = json.loads((tmp_path / "own.json").read_text())["joints"]
    assert list(plain["gripper"]) == ["id", "drive_mode", "homing_offset", "range_min", "range_max"]
    (tmp_path / "lerobot.json").write_text(json.dumps(plain))
    assert load_calibration(tmp_path / "lerobot.json", "") == DEFAULT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda joints: joints.pop("gripper"), "expected shoulder_pan, .*gripper"),
        (lambda joints: joints["gripper"].pop("id"), "joint gripper is .* expected id, drive_mode"),
        (lambda joints: joints["gripper"].update(range_max=10), "joint gripper: range_max of a calibrated joint is 10"),
        (lambda joints: joints["gripper"].update(homing_offset=1.5), "homing_offset of a calibrated joint is 1.5"),
        (lambda joints: joints["gripper"].update(id=1), "expected six different ones"),
    ],
)
def test_a_damaged_calibration_is_an_error_of_its_file(tmp_path, change, message):
    joints = {name: vars(joint).copy() for name, joint in DEFAULT.named().items()}
    change(joints)
    (tmp_path / "arm.json").write_text(json.dumps(joints))
    with pytest.raises(CorruptFileError, match=message):
        load_calibration(tmp_path / "arm.json", "")


def sweeping(arm, share=1.0, skip=()):
    """What a person does when asked: the arm in the middle, then from end to end."""
    asked = []

    def ask(text):
        asked.append(text)
        if "from one end to the other" in text:
            hand = waving(DEFAULT, share, period_s=2.0)
            arm.bus.hand = lambda servo, time_s: None if servo in skip else hand(servo, time_s)
            until_s = arm.clock() + 4.0
            while arm.clock() < until_s:
                time.sleep(0.001)
        else:
            arm.bus.hand = waving(DEFAULT, 0.0)

    ask.asked = asked
    return ask


def test_a_person_calibrates_an_arm(arm):
    for servo in arm.bus.servos:
        servo.set(registers.HOMING_OFFSET, 0)
        servo.set(registers.MIN_POSITION, 500)
    arm.path.unlink()
    arm.bus.servo(1).set(TORQUE, 1)
    robot = arm.robot()
    ask = sweeping(arm)
    assert robot.calibrate(ask) == str(arm.path) and len(ask.asked) == 3
    found = load_calibration(arm.path, "")
    for joint, true in zip(found.joints, DEFAULT.joints, strict=True):
        assert abs(joint.homing_offset - (true.homing_offset + true.middle - 2047)) <= 1
        assert abs(joint.range_max - joint.range_min - (true.range_max - true.range_min)) <= 24  # the mechanical ends lie beyond
    arm.bus.hand = lambda servo, time_s: None
    robot.connect()
    np.testing.assert_allclose(move(robot, arm, [0.2] * 5 + [0.5]).state, [0.2] * 5 + [0.5], atol=0.002)
    robot.close()


@pytest.mark.parametrize(
    ("share", "skip", "message"),
    [(1.0, (3,), r"'elbow_flex' \(servo 3\) was moved by 0° only"), (0.05, (), "'shoulder_pan' .* was moved by 11° only")],
)
def test_a_calibration_that_makes_no_sense_leaves_everything_as_it_was(arm, share, skip, message):
    before, file = arm.get(registers.HOMING_OFFSET) | arm.get(registers.MIN_POSITION), arm.path.read_bytes()
    with pytest.raises(RobotError, match=message):
        arm.robot().calibrate(sweeping(arm, share, skip))
    assert arm.get(registers.HOMING_OFFSET) | arm.get(registers.MIN_POSITION) == before and arm.path.read_bytes() == file


def test_a_calibration_that_is_interrupted_leaves_everything_as_it_was(arm):
    before = arm.get(registers.HOMING_OFFSET)

    def interrupted(text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        arm.robot().calibrate(interrupted)
    assert arm.get(registers.HOMING_OFFSET) == before


def test_a_follower_mirrors_its_leader(tmp_path):
    (tmp_path / "leader").mkdir()
    other = ArmCalibration(
        tuple(
            JointCalibration(joint.id, 0, -joint.homing_offset, joint.range_min // 2, joint.range_max // 2 + 900)
            for joint in DEFAULT.joints
        )
    )
    follower, lead = Arm(tmp_path), Arm(tmp_path / "leader", other, hand=waving(other, 0.4))
    other.save(lead.path, "so101")
    robot, leader = follower.robot(), lead.leader(follower=str(follower.path))
    robot.connect()
    leader.connect()
    assert set(lead.get(TORQUE).values()) == {0}
    for _ in range(8):
        lead.wait(0.5)
        wanted = leader.read()
        np.testing.assert_allclose(wanted, np.clip(other.values(lead.places), DEFAULT.low(), DEFAULT.high()), atol=1e-6)
        np.testing.assert_allclose(move(robot, follower, wanted, seconds=1.5).state, wanted, atol=0.003)
    assert not any(write.address == GOAL.address for write in lead.bus.writes), "a goal would turn the torque on"
    leader.close()
    leader.close()
    robot.close()
    with pytest.raises(RobotError, match="not connected"):
        leader.read()
