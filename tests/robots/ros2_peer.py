"""A robot's drivers in a process of their own, for tests/robots/test_ros2_loop.py.

Nothing of verbot is used: types are declared here, and Cyclone DDS converts them value by value, so both sides agree only if both
speak as ROS 2 does. It reads orders in JSON, one a line, and ends with its input, after 60 s at the latest:
``{"say": "…"}`` publishes an instruction, ``{"stamp": false}`` repeats one stamp in the pictures, ``{"quiet": true}`` ends them,
``{"bad": "…"}`` publishes a picture that is wrong in one way, ``{"heard": true}`` answers with the commands since the last time.
"""

import json
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from types import new_class

from cyclonedds.core import Policy, Qos
from cyclonedds.domain import Domain, DomainParticipant
from cyclonedds.idl import IdlStruct
from cyclonedds.idl.types import float64, int32, sequence, uint8, uint32
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic

CONFIG = """<CycloneDDS><Domain><General><Interfaces><NetworkInterface name="lo"/></Interfaces><AllowMulticast>false
</AllowMulticast></General><Discovery><ParticipantIndex>auto</ParticipantIndex><Peers><Peer address="localhost"/></Peers>
</Discovery></Domain></CycloneDDS>"""
JOINTS = ("shoulder", "elbow", "wrist", "finger")


NOTHING = {int32: 0, uint8: 0, uint32: 0, float64: 0.0, str: ""}


def message(kind, **fields):
    """The message type `kind` (``"package/Name"``) with these fields, in the order in which they are sent; empty by default."""
    package, _, name = kind.partition("/")

    def body(namespace):
        namespace |= {"__annotations__": fields, "__module__": __name__}
        for key, each in fields.items():
            is_message = isinstance(each, type) and issubclass(each, IdlStruct)
            namespace[key] = NOTHING[each] if each in NOTHING else field(default_factory=each if is_message else list)

    return dataclass(new_class(name, (IdlStruct,), {"typename": f"{package}::msg::dds_::{name}_"}, body))


Time = message("builtin_interfaces/Time", sec=int32, nanosec=uint32)
Duration = message("builtin_interfaces/Duration", sec=int32, nanosec=uint32)
Header = message("std_msgs/Header", stamp=Time, frame_id=str)
String = message("std_msgs/String", data=str)
MultiArrayDimension = message("std_msgs/MultiArrayDimension", label=str, size=uint32, stride=uint32)
MultiArrayLayout = message("std_msgs/MultiArrayLayout", dim=sequence[MultiArrayDimension], data_offset=uint32)
Float64MultiArray = message("std_msgs/Float64MultiArray", layout=MultiArrayLayout, data=sequence[float64])
Image = message(
    "sensor_msgs/Image", header=Header, height=uint32, width=uint32, encoding=str, is_bigendian=uint8, step=uint32,
    data=sequence[uint8],
)  # fmt: skip
CompressedImage = message("sensor_msgs/CompressedImage", header=Header, format=str, data=sequence[uint8])
JointState = message(
    "sensor_msgs/JointState", header=Header, name=sequence[str], position=sequence[float64], velocity=sequence[float64],
    effort=sequence[float64],
)  # fmt: skip
Vector3 = message("geometry_msgs/Vector3", x=float64, y=float64, z=float64)
Point = message("geometry_msgs/Point", x=float64, y=float64, z=float64)
Quaternion = message("geometry_msgs/Quaternion", x=float64, y=float64, z=float64, w=float64)
Pose = message("geometry_msgs/Pose", position=Point, orientation=Quaternion)
PoseStamped = message("geometry_msgs/PoseStamped", header=Header, pose=Pose)
Twist = message("geometry_msgs/Twist", linear=Vector3, angular=Vector3)
TwistStamped = message("geometry_msgs/TwistStamped", header=Header, twist=Twist)
JointTrajectoryPoint = message(
    "trajectory_msgs/JointTrajectoryPoint", positions=sequence[float64], velocities=sequence[float64],
    accelerations=sequence[float64], effort=sequence[float64], time_from_start=Duration,
)  # fmt: skip
JointTrajectory = message(
    "trajectory_msgs/JointTrajectory", header=Header, joint_names=sequence[str], points=sequence[JointTrajectoryPoint]
)


SENSOR = Qos(Policy.Reliability.BestEffort, Policy.History.KeepLast(5), Policy.Durability.Volatile)
DEFAULT = Qos(Policy.Reliability.Reliable(10**8), Policy.History.KeepLast(10), Policy.Durability.Volatile)


class Drivers:
    """Cameras of 8×6 pixels whose pictures carry their number, joints that obey at once, and what was commanded."""

    def __init__(self, domain: int):
        self._domain = Domain(domain, f"{CONFIG},{os.environ['CYCLONEDDS_URI']}")
        self._participant = DomainParticipant(domain)
        self.front = self._writer("rt/front/image_raw", Image, SENSOR)
        self.joints = [self._writer("rt/joint_states", JointState, DEFAULT) for _ in range(2)]
        self.pose, self.words = self._writer("rt/tool", PoseStamped, SENSOR), self._writer("rt/instruction", String, DEFAULT)
        self.arm = self._reader("rt/arm/joint_trajectory", JointTrajectory)
        self.base = self._reader("rt/cmd_vel", TwistStamped)
        self.hand = self._reader("rt/hand/commands", Float64MultiArray)
        self.positions = dict(zip(JOINTS, (0.1, 0.2, 0.3, 0.02), strict=True))
        self.heard: list[list] = []
        self.number, self.is_stamped, self.is_quiet = 0, True, False

    def _writer(self, name, kind, qos):
        return DataWriter(self._participant, Topic(self._participant, name, kind), qos=qos)

    def _reader(self, name, kind):
        return DataReader(self._participant, Topic(self._participant, name, kind), qos=DEFAULT)

    def step(self):
        self.number += 1
        now = time.time_ns()
        stamp = Header(Time(now // 10**9, now % 10**9) if self.is_stamped else Time(1, 1), "camera")
        if not self.is_quiet:
            rows = bytes([self.number % 256, 2, 3] * 8 + [99] * 4) * 6  # padded rows
            self.front.write(Image(stamp, 6, 8, "rgb8", 0, 28, rows))
        first, second = ("wrist", "shoulder", "elbow"), ("unknown", "finger")
        self.joints[0].write(JointState(Header(), list(first), [self.positions[name] for name in first]))
        self.joints[1].write(JointState(Header(), list(second), [9.0, self.positions["finger"]]))
        self.pose.write(PoseStamped(Header(Time(), "base_link"), Pose(Point(0.4, 0.0, 0.3), Quaternion(0.0, 0.6, 0.0, 0.8))))
        self.take()

    def bad(self, how):
        size = {"dimensions": (4_000_000, 4_000_000)}.get(how, (6, 8))
        encoding, step = "rgb9" if how == "encoding" else "rgb8", 7 if how == "step" else 24
        self.front.write(Image(Header(), *size, encoding, 0, step, bytes(24 * (3 if how == "length" else 6))))

    @staticmethod
    def new(reader):
        """Without the notes that a writer left."""
        return [sample for sample in reader.take(20) if sample.sample_info.valid_data]

    def take(self):
        for sample in self.new(self.arm):
            point = sample.points[0]
            self.positions |= dict(zip(sample.joint_names, point.positions, strict=True))
            after = point.time_from_start.sec + point.time_from_start.nanosec / 1e9
            self.heard.append(["arm", sample.joint_names, point.positions, after, sample.header.stamp.sec])
        for sample in self.new(self.base):
            twist = sample.twist
            self.heard.append(["base", sample.header.frame_id, twist.linear.x, twist.linear.y, twist.angular.z])
        for sample in self.new(self.hand):
            self.positions["finger"] = sample.data[0]
            self.heard.append(["hand", sample.data])


def main(domain: int) -> None:
    drivers, over = Drivers(domain), threading.Event()

    def obey() -> None:
        for line in sys.stdin:
            order = json.loads(line)
            if "say" in order:
                drivers.words.write(String(order["say"]))
            drivers.is_stamped = order.get("stamp", drivers.is_stamped)
            drivers.is_quiet = order.get("quiet", drivers.is_quiet)
            if "bad" in order:
                drivers.bad(order["bad"])
            if "heard" in order:
                drivers.heard, text = [], drivers.heard
                print(json.dumps(text), flush=True)
        over.set()

    threading.Thread(target=obey, daemon=True).start()
    print("[]", flush=True)
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s and not over.wait(0.02):
        drivers.step()


if __name__ == "__main__":
    main(int(sys.argv[1]))
