"""Actions of a ROS 2 robot become messages, and `stop` the ones that hold it."""

import numpy as np
import pytest

pytest.importorskip("rosbags")

from verbot.robots.ros2.config import ActionTopic
from verbot.robots.ros2.messages import decode_cdr
from verbot.robots.ros2.outputs import outputs_of

TRAJECTORY, ARRAY, TWIST = "trajectory_msgs/msg/JointTrajectory", "std_msgs/msg/Float64MultiArray", "geometry_msgs/msg/Twist"


def topic(name, where, message, joints=(), **options):
    count = len(joints or options["fields"])
    return ActionTopic(name, where, message, (-1.0,) * count, (1.0,) * count, joints=tuple(joints), **options)


ARM = topic("arm", "/arm", TRAJECTORY, "ab", scale=(1.0, 2.0), offset=(0.0, 0.5))
HAND = topic("hand", "/arm", TRAJECTORY, "f", kind="gripper")


def test_components_of_one_topic_are_one_message():
    output = outputs_of([ARM, topic("base", "/cmd", TWIST, fields=("linear.x",)), HAND], 20.0)["/arm"]
    message = decode_cdr(output.command(np.array([0.5, 0.5, 9, 0.25], np.float32), 0), TRAJECTORY)
    point = message.points[0]
    assert message.joint_names == ["a", "b", "f"] and point.positions.tolist() == [0.5, 0.0, 0.25]
    assert (point.time_from_start.sec, point.time_from_start.nanosec) == (0, 50_000_000)
    assert len(point.velocities) == 0 and message.header.stamp.sec == 0


def test_velocities_of_a_trajectory_are_velocities():
    wheels = topic("wheels", "/w", TRAJECTORY, "lr", kind="joint_velocity", duration_s=1.5)
    output = outputs_of([wheels], 20.0)["/w"]
    point = decode_cdr(output.command(np.array([1, -1], np.float32), 0), TRAJECTORY).points[0]
    assert point.velocities.tolist() == [1, -1] and len(point.positions) == 0 and point.time_from_start.nanosec == 500_000_000
    assert output.hold({"l": 7.0, "r": 7.0}).tolist() == [0, 0]


def test_joints_are_held_where_they_are_and_a_gripper_keeps_its_grip():
    output = outputs_of([ARM, HAND], 20.0)["/arm"]
    assert output.hold({"a": 0.1, "b": 0.2}) is None  # nobody commanded the gripper, and nobody knows where it is
    assert output.hold({"a": 0.1, "b": 0.2, "f": 0.3}).tolist() == [0.1, 0.2, 0.3]
    output.command(np.array([0.5, 0.5, 0.25], np.float32), 0)
    assert output.hold({"a": 0.1, "b": 0.2, "f": 0.3}).tolist() == [0.1, 0.2, 0.25]
    assert output.hold({}).tolist() == [0.5, 0.0, 0.25]  # the state is old: the controller comes to rest at the last command
    assert output.hold({"a": 0.1}).tolist() == [0.5, 0.0, 0.25]  # never half of an arm


@pytest.mark.parametrize(("kind", "held"), [("position_delta", [0.0]), ("velocity", [0.0]), ("gripper", [0.5]), ("other", [0.5])])
def test_each_kind_has_its_rest(kind, held):
    output = outputs_of([topic("x", "/x", ARRAY, "x", kind=kind)], 10.0)["/x"]
    output.command(np.array([0.5], np.float32), 0)
    assert output.hold({"x": 0.9}).tolist() == held
    assert decode_cdr(output.message(output.hold({}), 0), ARRAY).data.tolist() == held


def test_a_twist_is_zero_where_nothing_is_said():
    output = outputs_of([topic("base", "/cmd", TWIST, fields=("linear.x", "angular.z"))], 10.0)["/cmd"]
    twist = decode_cdr(output.command(np.array([0.25, -0.5], np.float32), 5), TWIST)
    assert (twist.linear.x, twist.linear.y, twist.angular.x, twist.angular.z) == (0.25, 0, 0, -0.5)
    stamped = topic("base", "/cmd", "geometry_msgs/msg/TwistStamped", fields=("linear.x",), frame_id="base_link")
    message = decode_cdr(outputs_of([stamped], 10.0)["/cmd"].command(np.array([0.25], np.float32), 3 * 10**9 + 7), stamped.type)
    assert (message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id) == (3, 7, "base_link")
