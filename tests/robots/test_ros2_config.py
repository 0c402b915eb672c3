"""The file of a ROS 2 robot is checked when it is read, and becomes a spec."""

import copy
import json
import typing

import pytest
import yaml

from verbot.errors import ConfigError
from verbot.robots.ros2.config import ComponentKind, read_ros2_config, topic_name
from verbot.robots.ros2.network import DdsNetwork, cyclone_xml
from verbot.spec.robot import KINDS

ARM = {
    "name": "arm",
    "rate_hz": 30,
    "cameras": [{"name": "front", "topic": "/front/image_raw", "height": 480, "width": 640}],
    "state": [
        {"name": "joints", "topic": "joint_states", "joints": ["a", "b"], "low": [-3, -3], "high": [3, 3]},
        {"name": "turn", "topic": "/tool", "type": "geometry_msgs/msg/PoseStamped", "field": "orientation"},
    ],
    "action": [
        {"name": "joints", "topic": "/arm/joint_trajectory", "type": "trajectory_msgs/msg/JointTrajectory",
         "joints": ["a", "b"], "low": [-3, -3], "high": [3, 3]},
        {"name": "base", "topic": "/cmd_vel", "type": "geometry_msgs/msg/TwistStamped", "fields": ["linear.x", "angular.z"],
         "low": [-1, -1], "high": [1, 1]},
    ],
    "limits": [{"component": "joints", "velocity": [1, 1]}],
}  # fmt: skip


def changed(path, value):
    """`ARM` with one value changed; `path` as ``"action.0.hold"``."""
    record = copy.deepcopy(ARM)
    *outer, last = [int(word) if word.isdecimal() else word for word in path.split(".")]
    inner = record
    for word in outer:
        inner = inner[word]
    inner[last] = value
    return record


def test_a_file_becomes_a_spec(tmp_path):
    for text in (yaml.safe_dump(ARM), json.dumps(ARM)):
        path = tmp_path / "robot.yaml"
        path.write_text(text)
        spec = read_ros2_config(path).spec()
        assert (spec.name, spec.rate_hz, spec.camera_names, spec.state_size, spec.action_size) == ("arm", 30.0, ("front",), 6, 4)
        assert [part.kind for part in spec.state] == ["joint_position", "quaternion"]
        assert [(part.kind, part.axes) for part in spec.action] == [
            ("joint_position", ("a", "b")), ("velocity", ("linear.x", "angular.z")),
        ]  # fmt: skip
        assert spec.limits[0].velocity == (1.0, 1.0) and spec.max_age_s == 0.5


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("camera", [], "has no field 'camera'. Did you mean 'cameras'?"),
        ("cameras.0.hieght", 3, "cameras[0] has no field 'hieght'. Did you mean 'height'?"),
        ("cameras.0.topic", "/front//image", "expected a name of ROS 2"),
        ("cameras.0.topic", "/2front", "expected a name of ROS 2"),
        ("cameras.0.type", "sensor_msgs/Image", "cameras[0].type is 'sensor_msgs/Image'; expected one of"),
        ("cameras.0.height", 0, "cameras[0].height is 0"),
        ("cameras.0.fit", "scale", "expected one of 'exact', 'resize', 'crop'"),
        ("state.0.joints", [], "expected the names of joints"),
        ("state.0.joints", ["a", "a"], "expected each name once"),
        ("state.0.low", [-3], "needs one low and one high per axis"),
        ("state.0.field", "orientation", "has position, velocity, effort"),
        ("state.0.scale", [0, 1], "expected numbers other than 0"),
        ("state.0.offset", [1], "expected 2 numbers"),
        ("state.0.topic", "/tool", "type of topic /tool is 'sensor_msgs/msg/JointState' for 'joints'"),
        ("state.0.topic", "/front/image_raw", "is both a CameraTopic and a StateTopic"),
        ("action", [], "action is empty"),
        ("action.0.kind", "velocity", "carries joint_position, joint_velocity, gripper"),
        ("action.0.joints", ["a", "c"], "no state has the position of c"),
        ("action.1.fields", ["linear.w", "angular.z"], "expected some of linear.x"),
        ("action.1.fields", [], "needs fields"),
        ("action.1.high", [1, float("nan")], "action[1].high[1] is nan"),
        ("network", {"domain_id": 300}, "network.domain_id is 300"),
        ("network", {"interface": "lo'/><x"}, "expected the name of an interface"),
        ("limits", [{"component": "joint", "velocity": [1, 1]}], "has limits for 2 axes of component 'joint'"),
        ("instruction", {"topic": "/front/image_raw"}, "is both a CameraTopic and a InstructionTopic"),
    ],
)
def test_a_mistake_is_named(tmp_path, path, value, message):
    with pytest.raises(ConfigError) as caught:
        read_ros2_config(changed(path, value))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_and_one_without_fields_are_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the configuration of the ROS 2 robot"):
        read_ros2_config(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match=r"list\.yaml: it holds list"):
        read_ros2_config(tmp_path / "list.yaml")


def test_components_that_share_a_topic_agree():
    twice = {**ARM["action"][0], "name": "more", "joints": ["a"], "low": [0], "high": [1]}
    with pytest.raises(ConfigError, match="a of topic /arm/joint_trajectory is in two components"):
        read_ros2_config({**ARM, "action": [ARM["action"][0], twice]})
    faster = {**twice, "joints": ["c"], "kind": "joint_velocity"}
    with pytest.raises(ConfigError, match="components of positions and of velocities"):
        read_ros2_config({**ARM, "action": [ARM["action"][0], faster]})
    other = {**twice, "joints": ["c"], "hold": "last", "reliability": "best_effort"}
    with pytest.raises(ConfigError, match="reliability of topic /arm/joint_trajectory is 'reliable' for 'joints'"):
        read_ros2_config({**ARM, "action": [ARM["action"][0], other]})


def test_the_kinds_are_those_of_the_spec():
    assert typing.get_args(ComponentKind) == KINDS
    assert topic_name("camera/image_raw") == "/camera/image_raw"


def test_the_network_is_the_one_of_other_nodes():
    variables = {"ROS_DOMAIN_ID": "12", "ROS_LOCALHOST_ONLY": "1", "ROS_STATIC_PEERS": "10.0.0.1;robot"}
    assert DdsNetwork().resolved(variables) == DdsNetwork(12, None, "localhost", ("10.0.0.1", "robot"))
    assert DdsNetwork().resolved({}) == DdsNetwork(0, None, "subnet", ())
    assert DdsNetwork(3, "lo", "subnet", ()).resolved(variables) == DdsNetwork(3, "lo", "subnet", ())
    with pytest.raises(ConfigError, match="ROS_DOMAIN_ID is 'ten'; expected a whole number, at least 0 and at most 232"):
        DdsNetwork().resolved({"ROS_DOMAIN_ID": "ten"})
    with pytest.raises(ConfigError, match="ROS_AUTOMATIC_DISCOVERY_RANGE is 'OFF'"):
        DdsNetwork().resolved({"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"})
    xml = cyclone_xml(DdsNetwork(12, "lo", "localhost", ("robot",)), "file:///cyclone.xml")
    assert "<AllowMulticast>false</AllowMulticast>" in xml and xml.endswith("</CycloneDDS>,file:///cyclone.xml")
    assert "<NetworkInterface name='lo'/>" in xml and "<Peer address='localhost'/><Peer address='robot'/>" in xml
