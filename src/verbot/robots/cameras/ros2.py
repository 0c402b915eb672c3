"""A camera of a ROS 2 node, for robots that are not driven through ROS 2."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from verbot.data.importers.bag_records import BagOptions
from verbot.data.importers.ros_images import picture
from verbot.errors import DataError, RobotError
from verbot.robots.cameras import cameras
from verbot.robots.ros2.config import IMAGE, Durability, Reliability, topic_name
from verbot.robots.ros2.dds import DdsConnection, Endpoint
from verbot.robots.ros2.messages import decode_cdr
from verbot.robots.ros2.network import DdsNetwork
from verbot.spec import UInt8Array

SILENT_S = 1.0  # then the topic is opened again


@cameras.register("ros2", needs=("cyclonedds", "rosbags"))
@dataclass(frozen=True)
class ImageTopic:
    """A topic of color pictures.

    Args:
        topic: such as ``"/front/image_raw"``.
        color: the order of colors where the encoding does not state it (8UC3, 8UC4).
        domain_id, interface, discovery: as in `DdsNetwork`; what is None is taken from the environment, as nodes of ROS 2 do.
    """

    topic: str
    type: Literal["sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"] = IMAGE
    color: Literal["rgb", "bgr"] | None = None
    reliability: Reliability = "best_effort"
    durability: Durability = "volatile"
    domain_id: int | None = None
    interface: str | None = None
    discovery: Literal["subnet", "localhost"] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "topic", topic_name(self.topic))
        self.network()

    def network(self) -> DdsNetwork:
        """Raises `ConfigError` for what is no network."""
        return DdsNetwork(self.domain_id, self.interface, self.discovery)

    def open(self) -> ImageTopicStream:
        return ImageTopicStream(self)


class ImageTopicStream:
    """The pictures of a topic. Damaged ones are left out."""

    def __init__(self, source: ImageTopic):
        self._source, self._options = source, BagOptions(color=source.color)
        self._endpoint = Endpoint(source.topic, source.type, source.reliability, source.durability)
        try:
            self._connection = DdsConnection(source.network().resolved(), [self._endpoint], [])
        except RobotError as error:
            raise OSError(str(error)) from error

    def read(self) -> UInt8Array:
        """The next picture. Raises `OSError` if none comes within a second, saying why."""
        end_s, refused = time.monotonic() + SILENT_S, ""
        while (left_s := end_s - time.monotonic()) > 0:
            self._connection.wait(left_s)
            try:
                for arrival in self._connection.arrivals(self._source.topic):
                    return picture(self._source.topic, decode_cdr(arrival.data, self._source.type), self._options)
            except DataError as error:
                refused = f"a message was refused: {error}"
            except RobotError as error:
                raise OSError(str(error)) from error
        raise OSError(f"{self._endpoint}: {refused or self._connection.why_silent(self._endpoint)}")

    def close(self) -> None:
        self._connection.close()
