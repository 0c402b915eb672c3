"""The bytes of messages are those of ROS 2: two libraries agree on them, and bytes that are no message are named."""

import contextlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verbot.errors import DataError

pytest.importorskip("cyclonedds")
pytest.importorskip("rosbags")

from verbot.robots.ros2 import messages

TYPES = (
    "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/JointState", "geometry_msgs/msg/PoseStamped",
    "std_msgs/msg/String", "trajectory_msgs/msg/JointTrajectory", "geometry_msgs/msg/TwistStamped", "geometry_msgs/msg/Twist",
    "std_msgs/msg/Float64MultiArray",
)  # fmt: skip


@pytest.fixture(scope="module")
def peer():
    """The types as tests/robots/ros2_peer.py declares them."""
    path = Path(__file__).parent / "ros2_peer.py"
    spec = importlib.util.spec_from_file_location("ros2_peer", path)
    module = sys.modules["ros2_peer"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["ros2_peer"]


def example(kind, seed):
    """A message of rosbags with random content: texts beyond ASCII, sequences of 0 to 3."""
    random = np.random.default_rng(seed)

    def value(described):
        node, details = int(described[0]), described[1]
        if node == 2:
            fields = messages._store().fielddefs[details][1]
            return messages.make(details, **{name: value(inner) for name, inner in fields})
        if node == 4:
            inner, count = details[0], int(random.integers(0, 4))
            if int(inner[0]) == 1 and inner[1][0] != "string":
                dtype = np.dtype(inner[1][0])
                return random.integers(0, 100, count).astype(dtype) + (0 if dtype.kind in "iu" else dtype.type(0.25))
            return [value(inner) for _ in range(count)]
        name = details[0]
        if name == "string":
            return str(random.choice(["", "a", "Gelenk", "关节", "rgb8"]))
        return float(random.normal()) if name.startswith("float") else int(random.integers(0, 100))

    return value((2, kind))


def as_struct(peer, kind, message):
    """The same message as an `IdlStruct` of the peer."""
    fields = {}
    for name, described in messages._store().fielddefs[kind][1]:
        node, found = int(described[0]), vars(message)[name]
        inner = described[1][0] if node == 4 else described
        if node == 2:
            found = as_struct(peer, described[1], found)
        elif node == 4 and int(inner[0]) == 2:
            found = [as_struct(peer, inner[1], each) for each in found]
        elif isinstance(found, np.ndarray):
            found = found.tobytes() if found.dtype == np.uint8 else found.tolist()
        fields[name] = found
    return vars(peer)[kind.rpartition("/")[2]](**fields)


@pytest.mark.parametrize("kind", TYPES)
def test_two_libraries_write_the_same_bytes(peer, kind):
    for seed in range(20):
        message = example(kind, seed)
        data = messages.encode_cdr(message, kind)
        other = as_struct(peer, kind, message)
        assert data == other.serialize(use_version_2=False) and data[:4] == b"\0\1\0\0"
        assert messages.encode_cdr(messages.decode_cdr(data, kind), kind) == data
        assert type(other).deserialize(data).serialize(use_version_2=False) == data


@pytest.mark.parametrize("kind", TYPES)
def test_the_type_on_dds_is_the_one_of_the_peer(peer, kind):
    """By its hash of all names and types, which other DDS libraries compare."""
    ours, theirs = messages.raw_type(kind), vars(peer)[kind.rpartition("/")[2]]
    assert ours.__idl__.idl_transformed_typename == theirs.__idl__.idl_transformed_typename == messages.dds_type(kind)
    assert ours.__idl__.get_type_info() == theirs.__idl__.get_type_info()
    assert messages.ros_type(messages.dds_type(kind)) == kind and ours.__idl__.keyless


def test_the_definitions_are_those_of_every_distribution():
    from rosbags.typesys import Stores, get_typestore

    def reached(store, kind):
        found = {kind: [field for field in store.fielddefs[kind][1] if field[0] != "structure_needs_at_least_one_member"]}
        for _, (node, details) in found[kind]:
            inner = details if int(node) == 2 else details[0][1] if int(node) == 4 and int(details[0][0]) == 2 else None
            found |= reached(store, inner) if inner else {}
        return found

    latest = get_typestore(Stores.ROS2_JAZZY)
    for name in ("foxy", "humble", "iron", "kilted", "latest"):
        store = get_typestore(Stores.LATEST if name == "latest" else Stores(f"ros2_{name}"))
        for kind in TYPES:
            assert reached(store, kind) == reached(latest, kind), (name, kind)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(TYPES), st.integers(0, 5), st.integers(0, 60), st.integers(0, 200), st.integers(0, 255))
def test_damaged_bytes_are_a_message_or_an_error(kind, seed, cut, place, byte):
    data = bytearray(messages.encode_cdr(example(kind, seed), kind))
    data[place % len(data)] = byte
    with contextlib.suppress(DataError):
        messages.decode_cdr(bytes(data[: max(0, len(data) - cut)]), kind)
