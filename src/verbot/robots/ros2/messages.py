"""ROS 2 messages as bytes: CDR by rosbags, and the types that Cyclone DDS needs to match and check them."""

from __future__ import annotations

import functools
import struct
from typing import Any

from verbot.errors import DataError

LONGEST_SEQUENCE = 1 << 28  # elements


def dds_topic(topic: str) -> str:
    """The name of a ROS 2 topic on DDS.

    Example:
        >>> dds_topic("/joint_states")
        'rt/joint_states'
    """
    return f"rt{topic}"


def dds_type(message_type: str) -> str:
    """The name of a message type on DDS.

    Example:
        >>> dds_type("sensor_msgs/msg/Image")
        'sensor_msgs::msg::dds_::Image_'
    """
    package, folder, name = message_type.split("/")
    return f"{package}::{folder}::dds_::{name}_"


def ros_type(name: str) -> str:
    """Inverse of `dds_type`; a name that is no type of ROS 2 stays as it is.

    Example:
        >>> ros_type("sensor_msgs::msg::dds_::Image_"), ros_type("Custom")
        ('sensor_msgs/msg/Image', 'Custom')
    """
    parts = name.split("::")
    if len(parts) == 4 and parts[2] == "dds_" and parts[3].endswith("_"):
        return f"{parts[0]}/{parts[1]}/{parts[3][:-1]}"
    return name


def make(message_type: str, **fields: Any) -> Any:
    """A message; all fields are needed."""
    return _store().types[message_type](**fields)


def header(stamp_ns: int = 0, frame_id: str = "") -> Any:
    """A std_msgs Header."""
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    return make(
        "std_msgs/msg/Header", stamp=make("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds), frame_id=frame_id
    )


def encode_cdr(message: Any, message_type: str) -> bytes:
    """CDR, little-endian, with its header of 4 bytes."""
    return bytes(_store().serialize_cdr(message, message_type, little_endian=True))


def decode_cdr(data: bytes, message_type: str) -> Any:
    """The message in CDR of either byte order; its arrays are views of `data`. Raises `DataError` for any other bytes."""
    from rosbags.serde import SerdeError

    damaged = (SerdeError, struct.error, ValueError, IndexError, TypeError, AssertionError, OverflowError, MemoryError)
    try:
        return _store().deserialize_cdr(memoryview(data), message_type)
    except damaged as error:
        shown = str(error) or type(error).__name__
        raise DataError(f"{len(data)} bytes are no {message_type} in CDR ({shown:.200})") from error


@functools.cache
def raw_type(message_type: str) -> Any:
    """The class of a topic for Cyclone DDS, whose samples hold their bytes (`cdr`): nothing is converted value by value.

    The library checks received bytes against the type in C, and drops those that do not fit.
    """
    from cyclonedds.idl import make_idl_struct

    fields = {name: _idl_type(kind) for name, kind in _store().fielddefs[message_type][1]}
    made: Any = make_idl_struct("Raw", dds_type(message_type), fields, dataclassify=False)

    def start(self: Any, cdr: bytes) -> None:
        self.cdr = cdr

    made.__init__ = start
    made.serialize = lambda self, *_, **__: self.cdr
    made.deserialize = classmethod(lambda cls, data, *_, **__: cls(data))
    made.deserialize_key = classmethod(lambda cls, *_, **__: None)  # of a sample without data: its writer is gone
    return made


@functools.cache
def _struct(message_type: str) -> Any:
    from cyclonedds.idl import make_idl_struct

    fields = {name: _idl_type(kind) for name, kind in _store().fielddefs[message_type][1]}
    return make_idl_struct(message_type.rpartition("/")[2] + "_", dds_type(message_type), fields)


def _idl_type(kind: Any) -> Any:
    """The type of a field for Cyclone DDS. `kind` is rosbags' (node type, details)."""
    from cyclonedds.idl import types
    from rosbags.interfaces import Nodetype

    node, details = kind
    if node == Nodetype.NAME:
        return _struct(details)
    if node == Nodetype.SEQUENCE:
        return types.sequence[_idl_type(details[0])]
    if node == Nodetype.ARRAY:
        return types.array[_idl_type(details[0]), details[1]]
    named = {"string": str, "bool": bool, "byte": types.uint8, "char": types.uint8}
    return named[details[0]] if details[0] in named else vars(types)[details[0]]


@functools.cache
def _store() -> Any:
    """The definitions of these messages are the same in all versions of ROS 2 since Foxy."""
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    store.max_sequence_length = LONGEST_SEQUENCE
    return store
