"""Actions as messages of ROS 2, and the messages that hold the robot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from verbot.robots.ros2.config import TRAJECTORY, TWIST, TWIST_FIELDS, TWIST_STAMPED, ActionTopic
from verbot.robots.ros2.dds import Endpoint
from verbot.robots.ros2.messages import encode_cdr, header, make
from verbot.spec import Float64Array, FloatArray


@dataclass(frozen=True)
class OutputPart:
    """A component of the action on a topic, and its place in the action vector."""

    topic: ActionTopic
    place: slice


class Output:
    """A topic that is written: one or several components of the action, sent together.

    Args:
        period_s: of control; a trajectory takes so long to its point unless the configuration says otherwise.
    """

    def __init__(self, parts: Sequence[OutputPart], period_s: float):
        self.parts, first = tuple(parts), parts[0].topic
        self.type, self.frame_id, self.is_required = first.type, first.frame_id, first.require_subscriber
        self.endpoint = Endpoint(first.topic, first.type, first.reliability, first.durability)
        self._duration_s = first.duration_s or period_s
        self._axes = tuple(axis for part in parts for axis in part.topic.axes)
        self._are_velocities = first.kind_of == "joint_velocity"
        self._last: Float64Array | None = None  # as it was sent

    def command(self, action: FloatArray, now_ns: int) -> bytes:
        """The message of an action (a,). `now_ns` is the wall clock's time, for the stamps of twists."""
        self._last = np.concatenate([_inverse(part.topic, action[part.place]) for part in self.parts])
        return self.message(self._last, now_ns)

    def hold(self, measured: Mapping[str, float]) -> Float64Array | None:
        """The numbers that keep the robot where it is; None if nothing was commanded that would have to end.

        Args:
            measured: position of each joint that is known and fresh, as messages have it. Where one is missing, the last
                command holds: that is where the controller comes to rest.
        """
        numbers, start = [], 0
        for part in self.parts:
            stop = start + len(part.topic.axes)
            last = None if self._last is None else self._last[start:stop]
            found = _held(part.topic, last, measured)
            if found is None:
                return None
            numbers.append(found)
            start = stop
        return np.concatenate(numbers)

    def message(self, numbers: Float64Array, now_ns: int) -> bytes:
        """The message of numbers as the controller takes them."""
        if self.type == TRAJECTORY:
            message = self._trajectory(numbers)
        elif self.type in (TWIST, TWIST_STAMPED):
            message = self._twist(numbers, now_ns)
        else:
            layout = make("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
            message = make(self.type, layout=layout, data=numbers)
        return encode_cdr(message, self.type)

    def _trajectory(self, numbers: Float64Array) -> object:
        """One point. The stamp is 0: it begins at once, whatever the other computer's clock says."""
        seconds, nanoseconds = divmod(round(self._duration_s * 1e9), 10**9)
        nothing = np.zeros(0)
        point = make(
            "trajectory_msgs/msg/JointTrajectoryPoint",
            positions=nothing if self._are_velocities else numbers,
            velocities=numbers if self._are_velocities else nothing,
            accelerations=nothing,
            effort=nothing,
            time_from_start=make("builtin_interfaces/msg/Duration", sec=seconds, nanosec=nanoseconds),
        )
        return make(self.type, header=header(), joint_names=list(self._axes), points=[point])

    def _twist(self, numbers: Float64Array, now_ns: int) -> object:
        values = dict.fromkeys(TWIST_FIELDS, 0.0) | dict(zip(self._axes, map(float, numbers), strict=True))
        vectors = {
            part: make("geometry_msgs/msg/Vector3", **{axis: values[f"{part}.{axis}"] for axis in "xyz"})
            for part in ("linear", "angular")
        }
        twist = make(TWIST, **vectors)
        if self.type == TWIST:
            return twist
        return make(self.type, header=header(now_ns, self.frame_id), twist=twist)


def outputs_of(action: Sequence[ActionTopic], rate_hz: float) -> dict[str, Output]:
    """The outputs by topic; components of one topic in their order."""
    parts, start = dict[str, list[OutputPart]](), 0
    for each in action:
        stop = start + len(each.axes)
        parts.setdefault(each.topic, []).append(OutputPart(each, slice(start, stop)))
        start = stop
    return {topic: Output(members, 1 / rate_hz) for topic, members in parts.items()}


def _inverse(topic: ActionTopic, values: FloatArray) -> Float64Array:
    return (np.asarray(values, np.float64) - np.array(topic.offset)) / np.array(topic.scale)


def _held(topic: ActionTopic, last: Float64Array | None, measured: Mapping[str, float]) -> Float64Array | None:
    if topic.hold_of == "zero":
        return _inverse(topic, np.zeros(len(topic.axes), np.float32))
    here = np.array([measured[axis] for axis in topic.axes]) if all(axis in measured for axis in topic.axes) else None
    first, second = (here, last) if topic.hold_of == "measured" else (last, here)
    return second if first is None else first
