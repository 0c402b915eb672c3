"""A camera of a ROS 2 node, whose pictures another thread of this process publishes on the loopback."""

import os
import time

import numpy as np
import pytest

from verbot.errors import ConfigError
from verbot.robots.cameras import CameraSource, cameras
from verbot.robots.cameras.group import CameraGroup

pytest.importorskip("cyclonedds")
pytest.importorskip("rosbags")

from verbot.robots.cameras import ros2
from verbot.robots.ros2.dds import DdsConnection, Endpoint
from verbot.robots.ros2.messages import encode_cdr, header, make
from verbot.robots.ros2.network import DdsNetwork

PATIENCE_S = 20.0
IMAGE = "sensor_msgs/msg/Image"
NETWORK = {"domain_id": 20 + os.getpid() % 80, "interface": "lo", "discovery": "localhost"}


def image(value, encoding="rgb8"):
    size = {"height": 6, "width": 8, "encoding": encoding, "is_bigendian": 0, "step": 24}
    return encode_cdr(make(IMAGE, header=header(), **size, data=np.full(144, value, np.uint8)), IMAGE)


@pytest.fixture
def node(monkeypatch):
    """What publishes on /front."""
    tag = f"<CycloneDDS><Domain><Discovery><Tag>verbot-camera-{os.getpid()}</Tag></Discovery></Domain></CycloneDDS>"
    monkeypatch.setenv("CYCLONEDDS_URI", tag)
    monkeypatch.setattr(ros2, "SILENT_S", 0.1)
    connection = DdsConnection(DdsNetwork(**NETWORK, peers=()), [], [Endpoint("/front", IMAGE, "best_effort", "volatile")])
    yield connection
    connection.close()


def until(ask):
    end_s = time.monotonic() + PATIENCE_S
    while not (found := ask()):
        assert time.monotonic() < end_s, "it never happened"
        time.sleep(0.01)
    return found


def test_a_topic_is_a_camera_that_can_be_silent(node):
    group = CameraGroup({"front": {"name": "ros2", "topic": "front", **NETWORK, "height": 6, "width": 8}})
    camera = group.cameras["front"]
    assert isinstance(cameras.get("ros2")("/front"), CameraSource)
    try:
        camera.open()
        until(lambda: node.write("/front", image(7)) or camera.frames)
        assert (group.read()["front"] == 7).all() and group.ages_s()["front"] < PATIENCE_S
        until(lambda: "sends nothing" in camera.problem)
        until(lambda: node.write("/front", image(9, "rgb9")) or "a message was refused" in camera.problem)
        until(lambda: node.write("/front", image(9)) or (group.read()["front"] == 9).all())
        assert camera.losses > 0
    finally:
        group.close()


def test_a_mistake_is_named():
    with pytest.raises(ConfigError, match="Did you mean 'topic'"):
        CameraGroup({"front": {"name": "ros2", "topics": "/front"}})
    with pytest.raises(ConfigError, match="expected a name of ROS 2"):
        CameraGroup({"front": {"name": "ros2", "topic": "/front//image"}})
    with pytest.raises(ConfigError, match="domain_id is 300"):
        CameraGroup({"front": {"name": "ros2", "topic": "/front", "domain_id": 300}})
