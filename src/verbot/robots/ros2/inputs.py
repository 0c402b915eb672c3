"""What the topics of a ROS 2 robot say: pictures, joints and poses, each with its time. A bad message costs itself alone."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np

from verbot.data.importers.bag_records import BagOptions
from verbot.data.importers.limits import episode_room, pictures_of_size
from verbot.data.importers.ros_images import depth_picture, picture
from verbot.data.importers.ros_messages import stamp_ns
from verbot.errors import DataError
from verbot.robots.ros2.config import IMAGE, JOINT_STATE, CameraTopic, StateTopic
from verbot.robots.ros2.dds import Arrival, Endpoint
from verbot.robots.ros2.messages import decode_cdr
from verbot.spec import Float64Array
from verbot.text import text_problem

WINDOW_S = 10.0  # in which the fastest message is the measure of the others
MOST_WRITERS = 64
LONGEST_INSTRUCTION = 2000  # characters
DECODED_BYTES = 1 << 28  # of a compressed picture
LARGEST = 1e30  # of a number: what is larger is no measurement, and none in float32
JOINT_DEPTH = 32  # messages of joints are kept: several publishers may share a topic


@dataclass
class Rejected:
    """How many messages of a topic were refused, and why the last one."""

    count: int = 0
    reason: str = ""


class StampClock:
    """When a message was measured, on this machine's monotonic clock, from its arrival and its stamp.

    Clocks of two computers differ, so only differences count: the message with the shortest way within `WINDOW_S` is taken as
    measured when it came, each other one as much earlier as it took longer. A repeated stamp is the measurement of the first.
    """

    def __init__(self) -> None:
        self._fastest = deque[tuple[float, float]]()  # (arrival, offset), offsets ascending
        self._stamp, self._measured_s = 0, 0.0

    def measured_s(self, stamp: int | None, arrived_s: float) -> float:
        """`stamp` in ns; 0 and None are no stamp."""
        if not stamp:
            return arrived_s
        if stamp == self._stamp:
            return self._measured_s
        offset_s = arrived_s - stamp / 1e9
        while self._fastest and self._fastest[-1][1] >= offset_s:
            self._fastest.pop()
        self._fastest.append((arrived_s, offset_s))
        while self._fastest[0][0] < arrived_s - WINDOW_S:
            self._fastest.popleft()
        self._stamp, self._measured_s = stamp, arrived_s - (offset_s - self._fastest[0][1])
        return self._measured_s


class StampClocks:
    """A `StampClock` for each publisher of a topic: their computers' clocks differ."""

    def __init__(self, use_stamps: bool):
        self._use, self._clocks = use_stamps, dict[int, StampClock]()

    def measured_s(self, message: Any, arrival: Arrival) -> float:
        if not self._use:
            return arrival.time_s
        if len(self._clocks) >= MOST_WRITERS and arrival.writer not in self._clocks:
            del self._clocks[next(iter(self._clocks))]
        return self._clocks.setdefault(arrival.writer, StampClock()).measured_s(stamp_ns(message), arrival.time_s)


class Input(Protocol):
    """One topic that is read."""

    endpoint: Endpoint
    rejected: Rejected

    def take(self, arrivals: Sequence[Arrival]) -> None:
        """Read messages, oldest first."""
        ...

    @property
    def lacks(self) -> str:
        """What has not come yet, such as ``"joint 'elbow'"``; empty if all is known."""
        ...


class ImageInput:
    """The newest picture of a camera. `value` is uint8 (h, w, 3) or float32 (h, w), None before the first."""

    def __init__(self, camera: CameraTopic, use_stamps: bool = True):
        self.camera, self.rejected = camera, Rejected()
        self.endpoint = Endpoint(camera.topic, camera.type, camera.reliability, camera.durability)
        self.value: np.ndarray | None = None
        self.measured_s = 0.0
        self._clocks, self._options = StampClocks(use_stamps), BagOptions(color=camera.color)

    @property
    def lacks(self) -> str:
        return "" if self.value is not None else "a picture"

    def take(self, arrivals: Sequence[Arrival]) -> None:
        for arrival in arrivals[-1:]:
            try:
                message = decode_cdr(arrival.data, self.camera.type)
                self.value = self._picture(message)
            except DataError as error:
                reject(self.rejected, error)
                continue
            self.measured_s = self._clocks.measured_s(message, arrival)

    def _picture(self, message: Any) -> np.ndarray:
        """Raises `DataError` for a picture that cannot be read, or of another size than the camera's."""
        camera, size = self.camera, (self.camera.height, self.camera.width)
        if camera.type == IMAGE:
            # The size first: what follows costs time.
            self._check_size((message.height, message.width))
            parts = {name: vars(message)[name] for name in ("height", "width", "step", "encoding", "is_bigendian")}
            message = SimpleNamespace(**parts, data=memoryview(message.data))
        with episode_room(DECODED_BYTES):
            if camera.fit != "exact" or camera.type == IMAGE:
                found = self._decoded(message)
            else:
                with pictures_of_size(*size):
                    found = self._decoded(message)
        self._check_size(found.shape[:2])
        return found if found.shape[:2] == size else resized(found, size, camera.fit == "crop")

    def _decoded(self, message: Any) -> np.ndarray:
        if self.camera.kind == "depth":
            return depth_picture(self.camera.topic, message, self.camera.meters_per_unit)
        return picture(self.camera.topic, message, self._options)

    def _check_size(self, size: tuple[int, ...]) -> None:
        wanted = (self.camera.height, self.camera.width)
        if self.camera.fit == "exact" and tuple(size) != wanted:
            raise DataError(
                f"it is {size[1]}×{size[0]} (width × height), and camera {self.camera.name!r} is {wanted[1]}×{wanted[0]}; set "
                "height and width to its size, or fit to 'resize' or 'crop'"
            )


class JointInput:
    """The joints of a topic of JointState, each with its own time: several publishers may send some each."""

    def __init__(self, topics: Sequence[StateTopic], use_stamps: bool = True):
        first = topics[0]
        self.endpoint = Endpoint(first.topic, first.type, first.reliability, first.durability, JOINT_DEPTH)
        self.rejected, self._clocks = Rejected(), StampClocks(use_stamps)
        self._wanted = {(each.field, joint) for each in topics for joint in each.joints}
        self._known = dict[tuple[str, str], tuple[float, float]]()  # (field, joint): value, when measured

    @property
    def lacks(self) -> str:
        left = sorted({joint for field, joint in self._wanted - self._known.keys()})
        return f"joint {', '.join(map(repr, left))}" if left else ""

    def take(self, arrivals: Sequence[Arrival]) -> None:
        left = set(self._wanted)
        for arrival in reversed(arrivals):  # the newest first: the others only for joints that it lacks
            try:
                found, message = self._read(arrival.data)
            except DataError as error:
                reject(self.rejected, error)
                continue
            measured_s = self._clocks.measured_s(message, arrival) if found else 0.0
            for key in left & found.keys():
                self._known[key] = found[key], measured_s
            left -= found.keys()
            if not left:
                return

    def _read(self, data: bytes) -> tuple[dict[tuple[str, str], float], Any]:
        message, found = decode_cdr(data, JOINT_STATE), dict[tuple[str, str], float]()
        places = {name: place for place, name in enumerate(message.name)}
        if len(places) != len(message.name):
            raise DataError("it names a joint twice")
        for field, joint in self._wanted:
            if joint not in places:
                continue
            values = vars(message)[field]
            if len(values) != len(message.name):
                raise DataError(f"it has {len(message.name)} names and {len(values)} numbers of {field}")
            value = float(values[places[joint]])
            if not abs(value) <= LARGEST:
                raise DataError(f"the {field} of joint {joint!r:.80} is {value}")
            found[field, joint] = value
        return found, message

    def values(self, topic: StateTopic) -> tuple[Float64Array, float]:
        """The numbers of a component as the message has them, and when the oldest was measured."""
        known = [self._known[topic.field, joint] for joint in topic.joints]
        return np.array([value for value, _ in known]), min(measured for _, measured in known)


class PoseInput:
    """The newest pose of a topic."""

    def __init__(self, topics: Sequence[StateTopic], use_stamps: bool = True):
        first = topics[0]
        self.endpoint = Endpoint(first.topic, first.type, first.reliability, first.durability)
        self.rejected, self._topics, self._clocks = Rejected(), topics, StampClocks(use_stamps)
        self._known: dict[str, Float64Array] = {}
        self._measured_s = 0.0

    @property
    def lacks(self) -> str:
        return "" if self._known else "a pose"

    def take(self, arrivals: Sequence[Arrival]) -> None:
        for arrival in arrivals[-1:]:
            try:
                message = decode_cdr(arrival.data, self.endpoint.type)
                self._known = self._read(message)
            except DataError as error:
                reject(self.rejected, error)
                continue
            self._measured_s = self._clocks.measured_s(message, arrival)

    def _read(self, message: Any) -> dict[str, Float64Array]:
        for topic in self._topics:
            if topic.frame_id not in (None, message.header.frame_id):
                raise DataError(f"it is in frame {message.header.frame_id!r:.80}; expected {topic.frame_id!r}")
        place, turn = message.pose.position, message.pose.orientation
        found = {"position": np.array([place.x, place.y, place.z])}
        quaternion = np.array([turn.w, turn.x, turn.y, turn.z])  # ROS has w last
        if not all(abs(number) <= LARGEST for number in (*found["position"], *quaternion)):
            raise DataError("its pose is not finite")
        norm = math.hypot(*quaternion)
        if any(topic.field == "orientation" for topic in self._topics):
            if abs(norm - 1) > 0.01:
                raise DataError(f"its quaternion has length {norm:.3g}; expected 1")
            found["orientation"] = quaternion / norm
        return found

    def values(self, topic: StateTopic) -> tuple[Float64Array, float]:
        return self._known[topic.field], self._measured_s


def reject(rejected: Rejected, error: DataError) -> None:
    rejected.count += 1
    rejected.reason = " ".join(str(error).split())[:300]


def sentence(data: bytes, message_type: str) -> str:
    """The instruction in a message. Raises `DataError` for one that is empty, too long, or holds control characters."""
    text = decode_cdr(data, message_type).data.strip()
    if not text or len(text) > LONGEST_INSTRUCTION:
        raise DataError(f"it has {len(text)} characters; expected a sentence of 1 to {LONGEST_INSTRUCTION}")
    if problem := text_problem(text):
        raise DataError(f"it {problem}")
    return str(text)


def resized(image: np.ndarray, size: tuple[int, int], crop: bool) -> np.ndarray:
    """`image` (h, w) or (h, w, 3) with `size` (height, width). Depth takes the nearest pixel: means of near and far are nowhere.

    Args:
        crop: cut out the middle with the proportions of `size` first.
    """
    from PIL import Image

    (height, width), (high, wide) = image.shape[:2], size
    if crop:
        kept_h, kept_w = min(height, max(1, round(width * high / wide))), min(width, max(1, round(height * wide / high)))
        top, left = (height - kept_h) // 2, (width - kept_w) // 2
        image = image[top : top + kept_h, left : left + kept_w]
    how = Image.Resampling.NEAREST if image.ndim == 2 else Image.Resampling.BILINEAR  # widened to all pixels where it shrinks
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((wide, high), how))


def inputs_of(cameras: Sequence[CameraTopic], state: Sequence[StateTopic], use_stamps: bool) -> tuple[
    dict[str, ImageInput], dict[str, JointInput | PoseInput]
]:  # fmt: skip
    """Cameras by name, and the topics of the state by topic."""
    by_topic: dict[str, list[StateTopic]] = {}
    for each in state:
        by_topic.setdefault(each.topic, []).append(each)
    parts: dict[str, JointInput | PoseInput] = {
        topic: (JointInput if members[0].type == JOINT_STATE else PoseInput)(members, use_stamps)
        for topic, members in by_topic.items()
    }
    return {each.name: ImageInput(each, use_stamps) for each in cameras}, parts
