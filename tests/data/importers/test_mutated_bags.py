"""Whatever a recording holds, importing it ends with a dataset or with lines that name what is wrong, never with a traceback.

Each example makes a folder of several recordings, each with one mutation, and imports it by the command line.
"""

import contextlib
import copy
import importlib
import io
import json
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from verbot.cli import main

BAGS = 10  # mutations in one example
PROPERTY = settings(
    max_examples=5,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)
START = 1_700_000_000_000_000_000
TOPICS = {"/camera/front/image_raw": "image", "/joint_states": "joints", "/command": "array", "/task": "string"}
ODD_TEXT = st.sampled_from(
    ["", "rgb8", "bgr8", "8UC3", "16UC1", "32FC1", "bayer_rggb8", "yuyv", "nv12", "mono16", "h264", "ä\n", "x" * 300]
)
UINT32 = st.sampled_from([0, 1, 2, 5, 48, 1 << 16, (1 << 31) - 1, (1 << 32) - 1])
FLOATS = st.sampled_from([0.0, -1.5, 1e39, 1e300, float("nan"), float("inf"), float("-inf")])
NAMES = st.lists(st.sampled_from(["a", "b", "c", "", "ü", "a.b/c"]), max_size=4)
STAMPS = st.fixed_dictionaries({"sec": st.sampled_from([-(1 << 31), -1, 0, 5, (1 << 31) - 1]), "nanosec": UINT32})
FIELDS = {
    "image": {
        "height": UINT32, "width": UINT32, "step": UINT32, "encoding": ODD_TEXT, "is_bigendian": st.integers(0, 255),
        "data": st.binary(max_size=60), "header": st.fixed_dictionaries({"stamp": STAMPS, "frame_id": ODD_TEXT}),
    },
    "joints": {
        "name": NAMES, "position": st.lists(FLOATS, max_size=4), "velocity": st.lists(FLOATS, max_size=3),
        "header": st.fixed_dictionaries({"stamp": STAMPS, "frame_id": ODD_TEXT}),
    },
    "array": {"data": st.lists(FLOATS, max_size=4)},
    "string": {"data": ODD_TEXT},
}  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.sampled_from([0, -1, 1 << 70, 0.5, "", "rgb8", "????", "/9j/"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["sec", "data", "name", "position"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def ros():
    """The writer of small bags of ``tests/cases``."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "cases"))
    try:
        return importlib.import_module("_ros")
    finally:
        sys.path.pop(0)


def events(ros):
    """(log time, topic, kind, message) of three rows."""
    found = [(START, "/task", "string", {"data": "go"})]
    for row in range(3):
        time = START + row * 10**8
        header = ros.hdr(time)
        image = {"height": 4, "width": 6, "encoding": "rgb8", "is_bigendian": 0, "step": 18, "data": bytes(range(72))}
        joints = {"name": ["a", "b"], "position": [row / 10, 0.2], "velocity": [0.0, 1.0], "effort": []}
        found.append((time, "/camera/front/image_raw", "image", {"header": header, **image}))
        found.append((time, "/joint_states", "joints", {"header": header, **joints}))
        found.append((time, "/command", "array", {"layout": {"dim": [], "data_offset": 0}, "data": [row / 10, 1.0]}))
    return found


def written(ros, path, found, definitions=None):
    from mcap_ros2.writer import Writer

    texts = {"image": ros.IMAGE, "joints": ros.JOINTS, "array": ros.ARRAY, "string": ros.STRING, **(definitions or {})}
    types = {"image": "sensor_msgs/msg/Image", "joints": "sensor_msgs/msg/JointState", "array": "std_msgs/msg/Float64MultiArray"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        writer = Writer(file)
        schemas = {kind: writer.register_msgdef(types.get(kind, "std_msgs/msg/String"), text) for kind, text in texts.items()}
        for time, topic, kind, message in found:
            writer.write_message(topic, schemas[kind], message, log_time=time, publish_time=0)
        writer.finish()
    return path


def run(folder, *options, episodes=None):
    """Import `folder` by the command line; what is neither imported nor named is a fault, and so is any other exception."""
    errors, output, code = io.StringIO(), io.StringIO(), 1
    with tempfile.TemporaryDirectory() as target:
        arguments = ["data", "import", str(folder), f"{target}/out", "--rate-hz", "10", "--instruction", "x", "--json", *options]
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            try:
                code = main(arguments)
            except SystemExit as stopped:
                code = stopped.code
    text = errors.getvalue()
    assert "Traceback" not in text and "Error processing" not in text, text
    if code == 2:
        assert text.splitlines()[-1].startswith("verbot: ") and len(text) > 40, text
        return
    result = json.loads(output.getvalue())
    assert not result["problems"], result["problems"]
    if episodes is not None:
        assert result["episodes"] + len(result["skipped"]) == episodes


@st.composite
def field_changes(draw):
    """The place of a message, and what to do with it: a field and its value, another log time, or nothing left of it."""
    what = draw(st.sampled_from(["field", "field", "field", "field", "time", "drop", "twice", "topic"]))
    place = draw(st.integers(0, 9))
    if what != "field":
        return what, place, draw(st.sampled_from([0, 1, START - 10**15, START + 1, (1 << 63) + 5, (1 << 64) - 1]))
    kind = draw(st.sampled_from(sorted(FIELDS)))
    name = draw(st.sampled_from(sorted(FIELDS[kind])))
    return kind, place, (name, draw(FIELDS[kind][name]))


def changed(found, change):
    what, place, value = change
    found = copy.deepcopy(found)
    if what in FIELDS:
        same = [event for event in found if event[2] == what]
        same[place % len(same)][3][value[0]] = value[1]
        return found
    time, topic, kind, message = found[place % len(found)]
    if what == "drop":
        del found[place % len(found)]
    elif what == "twice":
        found.append((time, topic, kind, message))
    else:
        found[place % len(found)] = (value, topic, kind, message) if what == "time" else (time, topic + "/x", kind, message)
    return found


@pytest.mark.parametrize(
    "options", [(), ("--set", "time=header", "color=bgr", "align=before", "state=/joint_states,/joint_states:velocity")]
)
def test_mutated_messages(ros, options):
    @PROPERTY
    @given(st.lists(field_changes(), min_size=BAGS, max_size=BAGS))
    def check(changes):
        with tempfile.TemporaryDirectory() as folder:
            for number, change in enumerate(changes):
                written(ros, Path(folder) / f"log_{number}.mcap", changed(events(ros), change))
            run(folder, *options, episodes=BAGS)

    check()


def test_mutated_bytes(ros, tmp_path):
    content = written(ros, tmp_path / "whole.mcap", events(ros)).read_bytes()
    cuts = st.tuples(st.just("cut"), st.integers(0, len(content)), st.just(0))
    flips = st.tuples(st.sampled_from(["flip", "insert", "delete"]), st.integers(0, len(content) - 1), st.integers(1, 255))

    @PROPERTY
    @given(st.lists(cuts | flips, min_size=BAGS, max_size=BAGS), st.sampled_from(["use", "refuse"]))
    def check(changes, truncated):
        with tempfile.TemporaryDirectory() as folder:
            for number, (what, place, value) in enumerate(changes):
                bent = {
                    "cut": content[:place],
                    "flip": content[:place]
                    + bytes([content[place] ^ value if place < len(content) else 0])
                    + content[place + 1 :],
                    "insert": content[:place] + bytes([value]) * value + content[place:],
                    "delete": content[:place] + content[place + value :],
                }[what]
                (Path(folder) / f"log_{number}.mcap").write_bytes(bent)
            run(folder, "--set", f"truncated={truncated}", episodes=BAGS)

    check()


def redefined(source, target, kind, old, new):
    """A copy of a file with another definition of one type, or another encoding if there is nothing to replace."""
    from mcap.reader import make_reader
    from mcap.writer import Writer

    with open(source, "rb") as file, open(target, "wb") as sink:
        writer = Writer(sink)
        writer.start()
        channels = {}
        for schema, channel, message in make_reader(file).iter_messages():
            if channel.topic not in channels:
                text, encoding = schema.data.decode(), schema.encoding
                if TOPICS[channel.topic] == kind:
                    text, encoding = text.replace(old, new, 1), encoding if old in text else new
                number = writer.register_schema(schema.name, encoding, text.encode())
                channels[channel.topic] = writer.register_channel(channel.topic, channel.message_encoding, number)
            writer.add_message(channels[channel.topic], message.log_time, message.data, message.publish_time)
        writer.finish()


def test_mutated_definitions_and_encodings(ros, tmp_path):
    words = st.sampled_from(
        ["", "uint8", "string", "float64[]", "Nothing x", "MSG: ", "===", "wstring", "\x00", "string<=2", "bool[3]"]
    )
    places = st.sampled_from(["uint32", "uint8", "float64", "string", "std_msgs", "\n", "[]", "encoding", "data", "="])
    source = written(ros, tmp_path / "source.mcap", events(ros))

    @PROPERTY
    @given(st.lists(st.tuples(st.sampled_from(sorted(FIELDS)), places, words), min_size=BAGS, max_size=BAGS))
    def check(changes):
        with tempfile.TemporaryDirectory() as folder:
            for number, (kind, old, new) in enumerate(changes):
                redefined(source, Path(folder) / f"log_{number}.mcap", kind, old, new)
            run(folder, episodes=BAGS)

    check()


TASK = {"name": "/task", "type": "std_msgs/msg/String", "offered_qos_profiles": "- durability: 1"}
METADATA = {
    "version": 9,
    "storage_identifier": "mcap",
    "relative_file_paths": ["rec_0.mcap"],
    "compression_format": "",
    "compression_mode": "",
    "message_count": 10,
    "ros_distro": "jazzy",
    "topics_with_message_count": [{"topic_metadata": TASK, "message_count": 1}],
}
VALUES = JSON | st.sampled_from(
    ["sqlite3", "file", "message", "zstd", ["../rec_0.mcap"], ["rec_0.mcap", "rec_0.mcap"], [""], "{["]
)


def test_mutated_metadata(ros):
    places = st.sampled_from(
        [(key,) for key in METADATA] + [("topics_with_message_count", 0, key) for key in ("topic_metadata", "message_count")]
    )
    inner = st.sampled_from(
        [("topics_with_message_count", 0, "topic_metadata", key) for key in ("name", "type", "offered_qos_profiles")]
    )
    whole = st.sampled_from(
        ["", "- 1", "a: &a [*a]", "{", "rosbag2_bagfile_information: 3", "x: 2026-13-45", "? [a]\n: b", "\x00"]
    )

    @PROPERTY
    @given(st.lists(st.tuples(places | inner, VALUES) | whole, min_size=BAGS, max_size=BAGS))
    def check(changes):
        with tempfile.TemporaryDirectory() as folder:
            for number, change in enumerate(changes):
                one = Path(folder) / f"rec_{number}"
                written(ros, one / "rec_0.mcap", events(ros))
                metadata = copy.deepcopy(METADATA)
                if isinstance(change, tuple):
                    (*path, last), value = change
                    place = metadata
                    for key in path:
                        place = place[key]
                    place[last] = value
                text = change if isinstance(change, str) else yaml.safe_dump({"rosbag2_bagfile_information": metadata})
                (one / "metadata.yaml").write_text(text)
            run(folder, episodes=BAGS)

    check()


def test_mutated_json(tmp_path):
    from mcap.writer import Writer

    fields = [
        "/cam.data",
        "/cam.encoding",
        "/cam.height",
        "/cam.header",
        "/cam",
        "/arm.position",
        "/arm.name",
        "/arm",
        "/cmd",
        "/task",
    ]

    @PROPERTY
    @given(st.lists(st.tuples(st.sampled_from(fields), JSON, st.integers(0, 2)), min_size=BAGS, max_size=BAGS))
    def check(changes):
        with tempfile.TemporaryDirectory() as folder:
            for number, (name, value, row) in enumerate(changes):
                with open(Path(folder) / f"log_{number}.mcap", "wb") as file:
                    writer = Writer(file)
                    writer.start()
                    channels = {topic: writer.register_channel(topic, "json", 0) for topic in ("/cam", "/arm", "/cmd", "/task")}
                    for step in range(3):
                        image = {
                            "header": {"stamp": {"sec": 1, "nsec": 2}},
                            "height": 1,
                            "width": 2,
                            "encoding": "mono8",
                            "data": "AAA=",
                        }
                        messages = {
                            "/cam": image,
                            "/arm": {"name": ["a"], "position": [1.0]},
                            "/cmd": {"x": 1},
                            "/task": {"text": "go"},
                        }
                        topic, _, field = name.partition(".")
                        if step == row and field:
                            messages[topic][field] = value
                        elif step == row:
                            messages[topic] = value
                        for topic, message in messages.items():
                            time = START + step * 10**8
                            writer.add_message(channels[topic], time, json.dumps(message).encode(), time)
                    writer.finish()
            run(folder, "--set", "images.front=/cam", "state=/arm", "action=/cmd", "instruction=/task", episodes=BAGS)

    check()


def test_mutated_databases(tmp_path):
    import sqlite3

    sys.path.insert(0, str(Path(__file__).parents[2] / "cases"))
    try:
        source = importlib.import_module("_rosbags").recording(tmp_path / "rec", rows=3) / "rec.db3"
    finally:
        sys.path.pop(0)
    content = source.read_bytes()
    columns = {
        "topics": ("name", "type", "serialization_format", "offered_qos_profiles"),
        "message_definitions": ("encoded_message_definition", "encoding"),
        "messages": ("timestamp", "data", "topic_id"),
        "schema": ("schema_version",),
    }
    values = [None, "", "x", 0, -5, 1 << 62, 0.5, b"\0\1\0\0", b"\xff" * 9, "- durability: 1", "std_msgs/msg/String"]
    places = [(table, column) for table, names in columns.items() for column in names]
    statements = st.tuples(st.sampled_from(places), st.sampled_from(values))
    flips = st.tuples(st.integers(0, len(content) - 1), st.integers(1, 255))

    @settings(PROPERTY, max_examples=2)
    @given(st.lists(statements | flips, min_size=BAGS, max_size=BAGS))
    def check(changes):
        with tempfile.TemporaryDirectory() as folder:
            for number, (where, value) in enumerate(changes):
                path = Path(folder) / f"log_{number}.db3"
                path.write_bytes(content)
                if isinstance(where, int):
                    path.write_bytes(content[:where] + bytes([content[where] ^ value]) + content[where + 1 :])
                    continue
                table, column = where
                with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as connection:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? WHERE rowid = (SELECT max(rowid) FROM {table})", (value,)
                    )
                    connection.commit()
            run(folder, episodes=BAGS)

    check()
