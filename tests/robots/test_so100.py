"""SO-100 and SO-101 on emulated servos: no jump, no wrong goal, faults by name."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from so_arm import Arm, move

from verbot.agents.kinematics import ForwardKinematics
from verbot.contracts import AgingRobot, Calibrated, LeaderArm
from verbot.errors import ConfigError, RobotError
from verbot.robots import leaders, make_leader, make_robot, robots
from verbot.robots.feetech import LineFaults, PseudoTerminal, registers
from verbot.robots.options import from_words
from verbot.robots.so100_calibration import DEFAULT, JOINTS
from verbot.spec import RobotSpec

PLACE, GOAL, TORQUE = registers.PRESENT_POSITION, registers.GOAL_POSITION, registers.TORQUE_ENABLE


@pytest.fixture
def arm(tmp_path):
    return Arm(tmp_path)


def test_the_robot_and_its_leader_are_there_by_name():
    assert {"so100", "so101"} <= set(robots.names()) and {"so100", "so101"} <= set(leaders.names())
    for name in ("so100", "so101"):
        robot = make_robot(name, port="emulated")
        assert isinstance(robot, AgingRobot) and isinstance(robot, Calibrated) and robot.spec.name == name
        assert from_words(robots, name, ["port=emulated", "velocity=2.5"]).spec.limits[0].velocity == (2.5,) * 5
        leader = make_leader(name, port="emulated")
        assert isinstance(leader, LeaderArm) and isinstance(leader, Calibrated)


def test_the_spec_has_the_calibrated_ranges_and_limits(arm):
    spec = arm.robot(velocity=2.0).spec
    assert (spec.rate_hz, spec.action_size, spec.state_size) == (30.0, 6, 6)
    assert spec.action[0].axes == JOINTS[:-1] and spec.action[0].unit == "rad"
    assert spec.action[0].high[0] == pytest.approx((3299 - 795) / 2 * 2 * np.pi / 4096, abs=1e-6)
    joints, gripper = spec.limits
    assert joints.high == spec.action[0].high and joints.velocity == (2.0,) * 5 and gripper.high == (1.0,)
    assert spec.max_age_s and RobotSpec.from_json(spec.to_json()) == spec


def test_nothing_jumps_at_connect_and_an_arm_that_holds_keeps_its_goal(arm):
    for number, place in ((1, 2500), (2, 1000), (6, 1500)):
        arm.bus.servo(number).shaft = place + arm.bus.servo(number).get(registers.HOMING_OFFSET)
    before, robot = arm.places, arm.robot()
    robot.connect()
    arm.wait(0.5)
    assert arm.places == before and set(arm.get(TORQUE).values()) == {1}
    first = {(write.servo, write.address): index for index, write in reversed(list(enumerate(arm.bus.writes)))}
    assert all(first[servo, GOAL.address] < first[servo, TORQUE.address] for servo in before)
    observation = robot.observe()
    observation.check(robot.spec)
    np.testing.assert_allclose(observation.state, DEFAULT.values(before), atol=1e-6)
    robot.close()
    assert set(arm.get(TORQUE).values()) == {1}, "the arm holds"
    arm.bus.servo(2).shaft -= 20  # it sinks below its goal
    goals = arm.get(GOAL)
    robot.connect()
    assert arm.get(GOAL) == goals, "it would sink further with each connection"
    robot.close()


def test_an_action_is_reached_and_stays_in_the_calibrated_ranges(arm):
    robot = arm.robot()
    robot.connect()
    target = np.array([0.5, -0.7, 0.3, 0.2, -1.0, 0.25], np.float32)
    np.testing.assert_allclose(move(robot, arm, target).state, target, atol=0.002)
    assert robot.ages_s()["state"] >= 0 and robot.statistics.errors == 0
    move(robot, arm, np.full(6, 9.0))
    assert arm.places == {joint.id: joint.range_max for joint in DEFAULT.joints}
    for bad in ([np.nan] * 6, [0.0] * 5, [np.inf] * 6):
        with pytest.raises(RobotError, match="expected 6 finite numbers"):
            robot.act(np.array(bad, np.float32))
    assert arm.get(GOAL) == {joint.id: joint.range_max for joint in DEFAULT.joints}
    robot.close()


def test_the_servos_themselves_are_not_faster_than_the_limit(arm):
    robot = arm.robot(velocity=1.0)
    robot.connect()
    robot.act(np.array([1.5, 0, 0, 0, 0, 0.5], np.float32))
    start = arm.places[1]
    arm.wait(0.5)
    assert 0 < arm.places[1] - start <= 0.5 * 4096 / (2 * np.pi) + 1
    robot.close()


def test_stop_holds_the_place_but_lets_a_grip_be(arm):
    robot = arm.robot()
    robot.connect()
    arm.bus.servo(6).low = arm.bus.servo(6).shaft - 50  # an object between the fingers
    robot.act(np.array([1.5, -1.0, 0, 0, 0, 0.0], np.float32))
    arm.wait(0.6)
    robot.stop()
    held = arm.places
    arm.wait(1.0)
    assert all(abs(arm.places[servo] - held[servo]) < 140 for servo in held)  # it slows down and comes back
    assert {servo: goal for servo, goal in arm.get(GOAL).items() if servo != 6}.items() <= arm.places.items()
    assert arm.get(GOAL)[6] == 1421, "the gripper keeps closing on what it holds"
    writes = len(arm.bus.writes)
    robot.stop()
    assert len(arm.bus.writes) == writes
    robot.close()


def test_stop_holds_the_joints_that_can_be_reached(arm):
    robot = arm.robot()
    robot.connect()
    goals = np.array([1.5, -1.0, 1.0, 1.0, 1.0, 0.0], np.float32)
    robot.act(goals)
    arm.wait(0.2)
    arm.bus.servo(3).number = 9
    with pytest.raises(RobotError, match=r"'elbow_flex' \(servo 3\) on the emulator does not answer"):
        robot.stop()
    held = arm.get(GOAL)
    arm.wait(2.0)
    assert all(arm.places[servo] == held[servo] for servo in (1, 2, 4, 5))
    assert all(abs(held[servo] - DEFAULT.steps(goals)[servo]) > 100 for servo in (1, 2, 4, 5)), "they did not move on"
    robot.close()


def test_a_joint_that_was_stopped_and_then_lost_is_not_sent_on_when_it_is_back(arm, monkeypatch):
    robot = arm.robot()
    robot.connect()
    robot.act(np.array([1.5, -1.0, 1.0, 1.0, 1.0, 0.0], np.float32))
    arm.wait(0.2)
    elbow, write_once = arm.bus.servo(3), robot._bus.write_once

    def write_and_lose(register, values):
        write_once(register, values)
        elbow.number = 9

    monkeypatch.setattr(robot._bus, "write_once", write_and_lose)
    with pytest.raises(RobotError, match=r"'elbow_flex' \(servo 3\) on the emulator does not answer"):
        robot.stop()
    held, elbow.number = elbow.get(GOAL), 3
    robot.observe()
    assert elbow.get(GOAL) == held
    robot.close()


@pytest.mark.parametrize("release", [False, True])
def test_close_holds_or_lets_the_arm_sink_slowly(arm, release):
    robot = arm.robot(release=release)
    robot.connect()
    robot.close()
    robot.close()
    assert set(arm.get(TORQUE).values()) == {int(not release)}
    limits = [w.data for w in arm.bus.writes if (w.servo, w.address) == (1, registers.TORQUE_LIMIT.address)]
    assert [registers.TORQUE_LIMIT.decode(data) for data in limits] == ([*range(900, 0, -100), 1000] if release else [])
    with pytest.raises(RobotError, match="not connected; call connect first"):
        robot.observe()


def test_settings_are_written_once(arm):
    robot = arm.robot()
    robot.connect()
    robot.close()
    assert set(arm.get(registers.P_COEFFICIENT).values()) == {16} and arm.get(registers.MAX_TORQUE)[6] == 500
    written = len(arm.bus.writes)
    robot.connect()
    stored = [write for write in arm.bus.writes[written:] if write.address < 40 or write.address == registers.LOCK.address]
    assert not stored, "memory that wears out is left alone"
    robot.close()


def place_outside(servo):
    servo.high, servo.shaft = 4000.0, 3800.0


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda arm: arm.bus.servos.clear(), "no servo answers on the emulator; is the arm's power supply on"),
        (lambda arm: arm.bus.servos.pop(2), r"'elbow_flex' \(servo 3\) on the emulator does not answer; check the cable"),
        (lambda arm: arm.bus.servo(4).set(registers.MODEL, 1284), r"'wrist_flex' \(servo 4\) is of model 1284"),
        (lambda arm: setattr(arm.bus.servo(1), "voltage", 122), r"'shoulder_pan' \(servo 1\) has 12.2 V; it takes 4.0 to 8.0 V"),
        (lambda arm: setattr(arm.bus.servo(5), "temperature", 80), r"'wrist_roll' \(servo 5\): it is too hot"),
        (
            lambda arm: arm.bus.servo(2).set(registers.HOMING_OFFSET, 7),
            r"'shoulder_lift' \(servo 2\) holds Homing_Offset 7, and .*arm.json says 340 .*on_mismatch=write",
        ),
        (lambda arm: place_outside(arm.bus.servo(1)), r"'shoulder_pan' \(servo 1\) stands 55° outside its calibrated range"),
        (lambda arm: arm.path.unlink(), "there is no calibration at .*; run `verbot robot calibrate so101"),
    ],
)
def test_an_arm_that_is_not_right_is_not_moved(arm, break_it, message):
    break_it(arm)
    with pytest.raises(RobotError, match=message):
        arm.robot().connect()
    assert not any(write.address in (GOAL.address, TORQUE.address) for write in arm.bus.writes)


def test_the_calibration_of_the_file_can_be_written_into_the_servos(arm):
    arm.bus.servo(2).set(registers.HOMING_OFFSET, 7)
    robot = arm.robot(on_mismatch="write")
    robot.connect()
    robot.close()
    assert arm.get(registers.HOMING_OFFSET)[2] == 340
    with pytest.raises(ConfigError, match="on_mismatch is 'maybe'; expected one of refuse, write"):
        arm.robot(on_mismatch="maybe")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda servo: setattr(servo, "temperature", 80), r"'elbow_flex' \(servo 3\): it is too hot"),
        (lambda servo: setattr(servo, "voltage", 30), r"'elbow_flex' \(servo 3\): the supply voltage is out of range"),
        (lambda servo: servo.power_cycle(), r"'elbow_flex' \(servo 3\) has lost its torque: it restarted"),
        (lambda servo: setattr(servo, "number", 9), r"'elbow_flex' \(servo 3\) on the emulator does not answer"),
    ],
)
def test_what_happens_to_a_joint_on_the_way_is_named(arm, break_it, message):
    robot = arm.robot()
    robot.connect()
    robot.observe()
    break_it(arm.bus.servo(3))
    with pytest.raises(RobotError, match=message):
        robot.observe()
    robot.close()


def test_an_arm_joint_that_is_overloaded_is_a_fault_and_a_grip_is_none(arm):
    robot = arm.robot()
    robot.connect()
    gripper, shoulder = arm.bus.servo(6), arm.bus.servo(1)
    gripper.low = gripper.shaft - 20
    rest = robot.observe().state
    observation = move(robot, arm, [*rest[:5], 0.0], seconds=4.0)
    assert gripper.error == registers.OVERLOAD and observation.state[5] > 0.5
    assert move(robot, arm, [*rest[:5], 1.0], seconds=2.0).state[5] == pytest.approx(1.0, abs=0.01)
    shoulder.high = shoulder.shaft + 20
    with pytest.raises(RobotError, match=r"'shoulder_pan' \(servo 1\): it is overloaded"):
        move(robot, arm, [1.0, *rest[1:]], seconds=4.0)
    robot.close()


def test_a_goal_that_changed_by_itself_is_sent_again(arm):
    robot = arm.robot()
    robot.connect()
    before = arm.get(GOAL)
    arm.bus.servo(4).write(GOAL.address, GOAL.encode(1200))
    robot.observe()
    assert arm.get(GOAL) == before
    robot.close()


def test_a_bad_line_moves_nothing_wrong(arm):
    robot = arm.robot()
    robot.connect()
    arm.bus.damage(LineFaults(corrupt=0.01, lose=0.002, duplicate=0.002), seed=1)
    rng = np.random.default_rng(0)
    for _ in range(60):
        action = rng.uniform(robot.spec.action_low(), robot.spec.action_high()).astype(np.float32)
        robot.act(action)
        assert arm.get(GOAL) == DEFAULT.steps(action)
        robot.observe()
        arm.wait(0.02)
    assert robot.statistics.errors > 20
    robot.close()


def test_a_lost_port_is_named_and_closes(tmp_path):
    arm = Arm(tmp_path)
    with PseudoTerminal(arm.bus) as path:
        robot = make_robot("so100", port=path, calibration=str(arm.path), patience=10.0)
        robot.connect()
        state = robot.observe().state
        robot.act(state)
        assert arm.get(GOAL) == DEFAULT.steps(state)
    with pytest.raises(RobotError, match="serial port .* is lost .* servos keep their last goal"):
        robot.observe()
    robot.close()
    with pytest.raises(RobotError, match="cannot be opened"):
        robot.connect()


def test_the_fingertips_are_where_the_description_says(arm):
    """The same origins as roll, pitch and yaw, as the description gives them, multiplied out one by one."""
    origins = [
        ((0.0388353, 0.0, 0.0624), (3.14159265, 0.0, -3.14159265)),
        ((-0.0303992, -0.0182778, -0.0542), (-1.57079633, -1.57079633, 0.0)),
        ((-0.11257, -0.028, 0.0), (0.0, 0.0, 1.57079633)),
        ((-0.1349, 0.0052, 0.0), (0.0, 0.0, -1.57079633)),
        ((0.0, -0.0611, 0.0181), (1.57079633, 0.0486795, 3.14159265)),
        ((-0.0079, -0.000218121, -0.0981274), (0.0, 3.14159265, 0.0)),
    ]

    def turned(axis, angle):
        c, s, matrix = np.cos(angle), np.sin(angle), np.eye(4)
        first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
        matrix[[first, second], [first, second]], matrix[first, second], matrix[second, first] = c, -s, s
        return matrix

    spec = arm.robot(workspace=[0.05, -0.3, 0.02, 0.45, 0.3, 0.5]).spec
    arms = ForwardKinematics(spec.chains[0], spec.action[0].axes, "rad")
    for angles in (np.zeros(5), np.array([0.5, -0.4, 0.3, 0.8, -1.0])):
        pose = np.eye(4)
        for (xyz, (roll, pitch, yaw)), angle in zip(origins, [*angles, 0.0], strict=True):
            pose[:3, 3] += pose[:3, :3] @ xyz
            pose = pose @ turned("z", yaw) @ turned("y", pitch) @ turned("x", roll) @ turned("z", angle)
        np.testing.assert_allclose(arms.positions(angles[None])[0], pose[:3, 3], atol=1e-5)
    assert spec.workspaces[0].low == (0.05, -0.3, 0.02)
    with pytest.raises(ConfigError, match="expected six numbers"):
        arm.robot(workspace=[1.0])
