"""A ROS 2 robot and its drivers in two processes on the loopback: tests/robots/ros2_peer.py is the other one."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from verbot.contracts import AgingRobot, InstructedRobot
from verbot.errors import MissingDependencyError, RobotError
from verbot.robots import make_robot, robots

pytest.importorskip("cyclonedds")
pytest.importorskip("rosbags")

PATIENCE_S = 20.0
DOMAIN = 20 + os.getpid() % 80
# Not even a test of another process in the same domain is heard.
TAG = f"<CycloneDDS><Domain><Discovery><Tag>verbot-{os.getpid()}</Tag></Discovery></Domain></CycloneDDS>"
TRAJECTORY, POSE = "trajectory_msgs/msg/JointTrajectory", "geometry_msgs/msg/PoseStamped"
ARM = ["shoulder", "elbow", "wrist"]
CONFIG = {
    "name": "arm",
    "rate_hz": 20,
    "cameras": [{"name": "front", "topic": "/front/image_raw", "height": 6, "width": 8}],
    "state": [
        {"name": "joints", "topic": "/joint_states", "joints": ARM, "low": [-3] * 3, "high": [3] * 3},
        {"name": "gripper", "topic": "/joint_states", "joints": ["finger"], "kind": "gripper", "low": [0], "high": [1],
         "scale": [25]},
        {"name": "turn", "topic": "/tool", "type": POSE, "field": "orientation", "frame_id": "base_link"},
    ],
    "action": [
        {"name": "joints", "topic": "/arm/joint_trajectory", "type": TRAJECTORY, "joints": ARM, "low": [-3] * 3, "high": [3] * 3},
        {"name": "gripper", "topic": "/hand/commands", "type": "std_msgs/msg/Float64MultiArray", "joints": ["finger"],
         "kind": "gripper", "low": [0], "high": [1], "scale": [25]},
        {"name": "base", "topic": "/cmd_vel", "type": "geometry_msgs/msg/TwistStamped", "fields": ["linear.x", "angular.z"],
         "low": [-1, -1], "high": [1, 1], "frame_id": "base_link"},
    ],
    "instruction": {"topic": "/instruction"},
    "network": {"domain_id": DOMAIN, "interface": "lo", "discovery": "localhost"},
    "connect_timeout_s": PATIENCE_S,
}  # fmt: skip


class Peer:
    """The process of the drivers."""

    def __init__(self):
        command = [sys.executable, str(Path(__file__).parent / "ros2_peer.py"), str(DOMAIN)]
        environment = {**os.environ, "CYCLONEDDS_URI": TAG}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def order(self, **order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def heard(self):
        """The commands since the last time: topic, what it said."""
        self.order(heard=True)
        return [tuple(each) for each in json.loads(self.process.stdout.readline())]

    def end(self):
        self.process.stdin.close()
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            self.process.stdout.close()


def until(ask, what):
    """What `ask` returns as soon as that is true."""
    end_s = time.monotonic() + PATIENCE_S
    while not (found := ask()):
        assert time.monotonic() < end_s, f"no {what} within {PATIENCE_S} s"
        time.sleep(0.01)
    return found


def refusal(robot, *parts):
    """What `connect` says, with all of `parts`; again where a slow machine had not found the peer yet."""

    def text():
        with pytest.raises(RobotError) as caught:
            robot.connect()
        return str(caught.value) if all(part in str(caught.value) for part in parts) else ""

    return until(text, f"refusal with {parts}")


@pytest.fixture(scope="module")
def peer():
    found = Peer()
    found.process.stdout.readline()
    yield found
    assert found.end() == 0


@pytest.fixture(scope="module")
def arm(peer):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CYCLONEDDS_URI", TAG)
        robot = make_robot("ros2", config=CONFIG)
        robot.connect()
        yield robot
        robot.close()


def test_it_keeps_the_contracts(arm):
    assert "ros2" in robots.names() and isinstance(arm, AgingRobot) and isinstance(arm, InstructedRobot)
    observation = arm.observe()
    observation.check(arm.spec)
    assert observation.images["front"][0, 0, 1:].tolist() == [2, 3] and observation.state[-4:] == pytest.approx([0.8, 0, 0.6, 0])
    first = int(observation.images["front"][0, 0, 0])
    later = until(lambda: next(iter([o for o in [arm.observe()] if o.images["front"][0, 0, 0] != first]), None), "next picture")
    assert later.time_s > observation.time_s and not np.shares_memory(later.images["front"], observation.images["front"])
    assert arm.ages_s().keys() == {"front", "state"} and all(0 <= age < PATIENCE_S for age in arm.ages_s().values())
    assert arm.received["/front/image_raw"] >= 2 and arm.received["/joint_states"] >= 2
    with pytest.raises(RobotError, match="connected already"):
        arm.connect()


def test_actions_arrive_as_messages_and_the_robot_obeys(arm, peer):
    peer.heard()
    arm.act(np.array([0.5, 0.25, 9.0, 0.5, 0.5, -2.0]))
    text = []
    until(lambda: text.extend(peer.heard()) or len(text) >= 3, "commands")
    assert sorted(text) == [
        ("arm", ARM, [0.5, 0.25, 3.0], pytest.approx(0.05), 0),  # clipped; within a period, from now on
        ("base", "base_link", 0.5, 0.0, -1.0),
        ("hand", [0.02]),
    ]
    until(lambda: arm.observe().state[:4] == pytest.approx([0.5, 0.25, 3.0, 0.5]), "obedience")


def test_stop_holds_where_it_is_and_again(arm, peer):
    arm.act(np.array([0.5, 0.25, 1.0, 0.25, 0.5, 0.5]))
    until(lambda: arm.observe().state[:4] == pytest.approx([0.5, 0.25, 1.0, 0.25]), "obedience")
    arm.stop()
    arm.stop()
    heard, rest = [], ("base", "base_link", 0.0, 0.0, 0.0)
    until(lambda: heard.extend(peer.heard()) or heard.count(rest) >= 2, "rest")
    last = {name: [each for each in heard if each[0] == name][-2:] for name in ("arm", "base", "hand")}
    assert last["arm"] == [("arm", ARM, [0.5, 0.25, 1.0], pytest.approx(0.05), 0)] * 2
    assert last["base"] == [rest] * 2 and last["hand"] == [("hand", [0.01])] * 2


@pytest.mark.parametrize("action", [np.zeros(5), np.full(6, np.nan), np.zeros((1, 6))])
def test_what_is_no_action_is_not_sent(arm, peer, action):
    peer.heard()
    with pytest.raises(RobotError, match="expected 6 finite numbers"):
        arm.act(action)
    assert peer.heard() == []


def test_an_instruction_is_given_once(arm, peer):
    assert arm.next_instruction() is None
    peer.order(say="put the 🍎 away")
    assert until(arm.next_instruction, "instruction") == "put the 🍎 away"
    assert arm.next_instruction() is None
    peer.order(say="\x1b[2J")
    until(lambda: arm.next_instruction() or arm.rejected["/instruction"].count, "refusal")
    assert "control character" in arm.rejected["/instruction"].reason


def test_a_silent_or_frozen_camera_grows_old(arm, peer):
    def age(least_s):
        arm.observe()
        return arm.ages_s()["front"] > least_s

    peer.order(quiet=True)
    until(lambda: age(0.3), "old picture")
    assert arm.ages_s()["state"] < arm.ages_s()["front"]
    for count, (how, reason) in enumerate(
        [("dimensions", "4000000×4000000"), ("encoding", "rgb9"), ("step", "rows of 7 bytes"), ("length", "expected at least")], 1
    ):
        peer.order(bad=how)
        until(lambda count=count: arm.observe() and arm.rejected["/front/image_raw"].count >= count, "refusal")
        assert reason in arm.rejected["/front/image_raw"].reason and age(0.3)
    peer.order(quiet=False, stamp=False)
    time.sleep(0.1)
    until(lambda: age(0.3), "frozen picture")
    peer.order(stamp=True)
    until(lambda: not age(0.3), "new picture")


def test_what_is_missing_is_explained(arm):
    camera, joints = CONFIG["cameras"][0], CONFIG["state"][0]
    config = CONFIG | {
        "cameras": [
            camera | {"name": "a", "topic": "/front/image"},
            camera | {"name": "b", "topic": "/tool"},
            camera | {"name": "c", "reliability": "reliable"},
        ],
        "state": [joints, {**joints, "name": "more", "joints": ["knee"], "low": [0], "high": [1]}],
        "action": [{**CONFIG["action"][0], "topic": "/arm/trajectory"}],
        "connect_timeout_s": 0.6,
    }
    robot = make_robot("ros2", config=config)
    text = refusal(robot, "/tool", "offers", "lack", "did you mean /arm/joint_trajectory?")
    assert "not complete after 0.6 s" in text and "\n" not in text
    assert "/front/image (sensor_msgs/msg/Image; best effort, volatile, keep last 1): nobody publishes it" in text
    assert f"in domain {DOMAIN}; did you mean /front/image_raw?" in text and "ROS_DOMAIN_ID" in text
    assert "/tool (sensor_msgs/msg/Image; best effort, volatile, keep last 1): it is published as geometry_msgs" in text
    assert "offers reliability best_effort, and reliable is asked for; set reliability to best_effort" in text
    assert "its messages lack joint 'knee'" in text
    for call in (robot.observe, robot.ages_s, robot.next_instruction, lambda: robot.act(np.zeros(3))):
        with pytest.raises(RobotError, match="not connected; call connect first"):
            call()
    robot.stop()
    robot.close()


def test_a_picture_of_another_size_is_explained(arm):
    robot = make_robot("ros2", config=CONFIG | {"cameras": [CONFIG["cameras"][0] | {"width": 9}], "connect_timeout_s": 0.6})
    refusal(robot, "messages were refused, the last one because it is 8×6")
    other = make_robot("ros2", config=CONFIG | {"network": CONFIG["network"] | {"peers": ["127.0.0.1"]}})
    with pytest.raises(RobotError, match=f"in DDS domain {DOMAIN} with other settings"):
        other.connect()


def test_closing_stops_a_robot_that_was_commanded(arm, peer):
    rest, heard = ("base", "base_link", 0.0, 0.0, 0.0), []

    def until_heard(command):
        heard.clear()
        until(lambda: heard.extend(peer.heard()) or command in heard, command)

    arm.stop()
    until_heard(rest)
    arm.act(np.array([0.5, 0.25, 1.0, 0.25, 0.5, 0.5]))
    arm.close()
    arm.close()
    until_heard(rest)
    arm.connect()
    assert arm.observe().time_s < PATIENCE_S
    arm.close()  # it was only watched
    arm.connect()
    arm.act(np.array([0.5, 0.25, 1.0, 0.25, 0.125, 0.5]))
    until_heard(("base", "base_link", 0.125, 0.0, 0.5))
    assert rest not in heard
    arm.close()
    until_heard(rest)


def test_an_interface_that_is_not_there_is_named():
    config = CONFIG | {"network": {"domain_id": 110, "interface": "nowhere0"}}
    with pytest.raises(RobotError, match="domain 110 cannot be joined on interface 'nowhere0'"):
        make_robot("ros2", config=config).connect()


def test_a_missing_package_is_named(monkeypatch):
    for module in ("cyclonedds", "cyclonedds.core"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'verbot\[ros2\]'"):
        make_robot("ros2", config=CONFIG).connect()


def test_receiving_that_ends_is_an_error_and_stop_still_works(peer, monkeypatch):
    class Broken:
        def take(self, count):
            raise RuntimeError("the reader\nis gone")

    monkeypatch.setenv("CYCLONEDDS_URI", TAG)
    robot = make_robot("ros2", config=CONFIG)
    robot.connect()
    robot.act(np.array([0.5, 0.25, 1.0, 0.25, 0.5, 0.5]))
    robot._connection._readers["/tool"] = Broken()

    def problem():
        try:
            return bool(robot.observe()) and ""
        except RobotError as error:
            return str(error)

    assert until(problem, "problem") == "nothing is received from ROS 2 any more (the reader is gone); connect the robot again"
    peer.heard()
    robot.stop()
    heard = []
    until(lambda: heard.extend(peer.heard()) or ("base", "base_link", 0.0, 0.0, 0.0) in heard, "rest")
    robot.close()
    robot.connect()
    assert robot.observe().state.shape == (8,)
    robot.close()
