import base64
import io
import json

import numpy as np
import pytest
from mcap.writer import Writer as JsonWriter
from mcap_ros2.writer import Writer

from verbot.data import ImportConfig, import_dataset, open_dataset
from verbot.data.importers import open_source
from verbot.errors import ConfigError, DataError

from .conftest import decoded, encoded, psnr_db

HEADER = "std_msgs/Header header\n"
PARTS = "\n================================================================================\n".join
STAMPED = [
    "MSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id",
    "MSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec",
]
LAYOUT = [
    "MSG: std_msgs/MultiArrayLayout\nstd_msgs/MultiArrayDimension[] dim\nuint32 data_offset",
    "MSG: std_msgs/MultiArrayDimension\nstring label\nuint32 size\nuint32 stride",
]
TYPES = {
    "sensor_msgs/msg/CompressedImage": PARTS([HEADER + "string format\nuint8[] data", *STAMPED]),
    "sensor_msgs/msg/Image": PARTS(
        [HEADER + "uint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\nuint32 step\nuint8[] data", *STAMPED]
    ),
    "sensor_msgs/msg/JointState": PARTS(
        [HEADER + "string[] name\nfloat64[] position\nfloat64[] velocity\nfloat64[] effort", *STAMPED]
    ),
    "std_msgs/msg/Float64MultiArray": PARTS(["std_msgs/MultiArrayLayout layout\nfloat64[] data", *LAYOUT]),
    "std_msgs/msg/String": "string data",
    "std_msgs/msg/Bool": "bool data",
}
STAMP = {"stamp": {"sec": 0, "nanosec": 0}, "frame_id": ""}
START, PERIOD = 1_700_000_000_000_000_000, 100_000_000  # 10 Hz


class Log:
    """A ROS 2 log being written."""

    def __init__(self, path, compression=None):
        from mcap.writer import CompressionType

        path.parent.mkdir(exist_ok=True)
        self.file = open(path, "wb")  # noqa: SIM115
        self.writer = Writer(self.file, chunk_size=4000, compression=compression or CompressionType.ZSTD)
        self.schemas = {name: self.writer.register_msgdef(name, text) for name, text in TYPES.items()}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.writer.finish()
        self.file.close()

    def say(self, topic, kind, time, **message):
        package = "sensor_msgs" if kind in ("CompressedImage", "Image", "JointState") else "std_msgs"
        if package == "sensor_msgs":
            message["header"] = STAMP
        if kind == "Float64MultiArray":
            message["layout"] = {"dim": [], "data_offset": 0}
        self.writer.write_message(topic, self.schemas[f"{package}/msg/{kind}"], message, time, time)

    def episode(self, one, start, instruction=None):
        """Each frame's messages a little before its time; the joints twice as often as frames, half of them to be passed over."""
        if instruction is not None:
            self.say("/task", "String", start - 5, data=instruction)
        for t in range(len(one)):
            time = start + t * PERIOD
            jpeg = encoded(one.images["front"][t])
            self.say("/camera/front/image_raw/compressed", "CompressedImage", time - 3 if t else time, format="jpeg", data=jpeg)
            joints = {"name": ["b", "a"] if t % 2 else ["a", "b"], "velocity": [], "effort": []}
            order = slice(None, None, -1) if t % 2 else slice(None)
            if t:
                self.say("/joint_states", "JointState", time - PERIOD // 2, position=[9.0, 9.0], **joints)
            self.say("/joint_states", "JointState", time - 2 if t else time, position=one.states[t][order].tolist(), **joints)
            self.say("/command", "Float64MultiArray", time, data=one.actions[t].tolist())


def through_jpeg(one):
    one.images["front"] = np.stack([decoded(encoded(frame)) for frame in one.images["front"]])
    return one


@pytest.fixture
def truths(truth):
    return [truth(number, states=2) for number in range(3)]


@pytest.mark.parametrize("compression", ["zstd", "lz4", ""])
def test_topics_are_found_by_their_types_and_resampled(tmp_path, truths, same, compression):
    from mcap.writer import CompressionType

    kind = {"zstd": CompressionType.ZSTD, "lz4": CompressionType.LZ4, "": CompressionType.NONE}[compression]
    for number, one in enumerate(truths):
        with Log(tmp_path / "logs" / f"log_{number}.mcap", kind) as log:
            log.episode(one, START + number * 10**12, one.instruction)
    result = import_dataset(tmp_path / "logs", tmp_path / "out", ImportConfig(rate_hz=10))
    assert (result.format, result.exit_code) == ("mcap", 0)
    dataset = same(tmp_path / "out", [through_jpeg(one) for one in truths], [f"log_{number}.mcap" for number in range(3)])
    (state,), (action,) = dataset.spec.state, dataset.spec.action
    assert (state.name, state.axes) == ("joint_states", ("a", "b")) and action.name == "command"


def test_half_the_rate_takes_every_other_frame(tmp_path, truths):
    with Log(tmp_path / "log.mcap") as log:
        log.episode(truths[0], START, "go")
    import_dataset(tmp_path / "log.mcap", tmp_path / "out", ImportConfig(rate_hz=5))
    np.testing.assert_array_equal(open_dataset(tmp_path / "out")[0].actions, truths[0].actions[::2])


@pytest.mark.parametrize("mark", ["sentence", "flag"])
def test_a_topic_divides_a_file(tmp_path, truths, same, mark):
    with Log(tmp_path / "log.mcap") as log:
        for number, one in enumerate(truths):
            start = START + number * 10**10
            if mark == "sentence":
                log.say("/episode", "String", start - 10, data=one.instruction)
                log.episode(one, start)
                log.say("/episode", "String", start + len(one) * PERIOD, data="end")
            else:
                log.say("/task", "String", start - 20, data=one.instruction)
                log.say("/episode", "Bool", start - 10, data=True)
                log.episode(one, start)
                log.say("/episode", "Bool", start + len(one) * PERIOD, data=False)
    import_dataset(tmp_path / "log.mcap", tmp_path / "out", ImportConfig(rate_hz=10, options={"split": "/episode"}))
    same(tmp_path / "out", [through_jpeg(one) for one in truths], [f"log.mcap, episode {number}" for number in range(3)])


def test_json_messages_and_fields(tmp_path, truth, same):
    one = truth(0)
    with open(tmp_path / "log.mcap", "wb") as file:
        writer = JsonWriter(file)
        writer.start()
        channels = {topic: writer.register_channel(topic, "json", 0) for topic in ("/cam", "/arm", "/task")}

        def say(topic, time, content):
            writer.add_message(channels[topic], time, json.dumps(content).encode(), time)

        say("/task", START, {"text": one.instruction})
        say("/task", START + 1, {"text": "another wording"})
        for t in range(len(one)):
            time = START + t * PERIOD
            say("/cam", time, {"data": base64.b64encode(encoded(one.images["front"][t], "PNG")).decode(), "format": "png"})
            say(
                "/arm",
                time,
                {
                    "state": {"q": one.states[t].tolist()},
                    "command": {"x": float(one.actions[t][0]), "yz": one.actions[t][1:].tolist()},
                },
            )
        writer.finish()
    options = {"images": {"front": "/cam"}, "state": "/arm:state.q", "action": "/arm:command", "instruction": "/task"}
    import_dataset(tmp_path / "log.mcap", tmp_path / "out", ImportConfig(rate_hz=10, options=options))
    dataset = same(tmp_path / "out", [one])
    (item,) = open_source("mcap", tmp_path / "log.mcap", None, options, 10.0).items()
    assert [(s.start, s.wordings) for s in item.read().segments] == [(0, (one.instruction,)), (1, ("another wording",))]
    assert dataset.spec.action[0].axes == ("x", "yz.0", "yz.1")
    with pytest.raises(DataError, match=r"/arm:wrench: a message has no 'wrench'; it has state, command"):
        import_dataset(
            tmp_path / "log.mcap", tmp_path / "no", ImportConfig(rate_hz=10, options={**options, "action": "/arm:wrench"})
        )
    with pytest.raises(DataError, match=r"/arm: a message has no picture in 'data'; it has state, command"):
        import_dataset(
            tmp_path / "log.mcap", tmp_path / "no", ImportConfig(rate_hz=10, options={**options, "images": {"front": "/arm"}})
        )


def test_raw_pictures(tmp_path, truths):
    frame = truths[0].images["front"][0]
    with Log(tmp_path / "log.mcap") as log:
        for t, (encoding, data) in enumerate({"rgb8": frame, "bgr8": frame[..., ::-1]}.items()):
            time, padded = START + t * PERIOD, np.pad(data.reshape(24, -1), ((0, 0), (0, 4)))
            shape = {"height": 24, "width": 32, "step": 100, "is_bigendian": 0}
            log.say("/eye", "Image", time, encoding=encoding, data=padded.tobytes(), **shape)
            log.say("/command", "Float64MultiArray", time, data=[1.0])
    import_dataset(tmp_path / "log.mcap", tmp_path / "out", ImportConfig(rate_hz=10, instruction=""))
    images = open_dataset(tmp_path / "out")[0].images("eye")
    assert len(images) == 2 and psnr_db(images, np.stack([frame, frame])) > 38


def cut(path, fraction):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])


def test_a_log_cut_short_is_named_and_the_others_imported(tmp_path, truths, same):
    for number, one in enumerate(truths):
        with Log(tmp_path / "logs" / f"log_{number}.mcap") as log:
            log.episode(one, START, one.instruction)
    cut(tmp_path / "logs" / "log_1.mcap", 0.6)
    (tmp_path / "logs" / "log_3.mcap").write_bytes(b"nothing of the kind")
    result = import_dataset(tmp_path / "logs", tmp_path / "out", ImportConfig(rate_hz=10))
    assert [skipped.episode for skipped in result.skipped] == ["log_1.mcap", "log_3.mcap"] and result.exit_code == 1
    assert all("cannot be read" in skipped.problem for skipped in result.skipped)
    same(tmp_path / "out", [through_jpeg(truths[0]), through_jpeg(truths[2])])


def test_complete_episodes_of_a_truncated_divided_log_are_imported(tmp_path, truths, same):
    path = tmp_path / "log.mcap"
    with Log(path) as log:
        for number, one in enumerate(truths):
            start = START + number * 10**10
            log.say("/episode", "String", start - 10, data=one.instruction)
            log.episode(one, start)
    cut(path, 0.75)
    options = {
        "split": "/episode", "images": {"front": "/camera/front/image_raw/compressed"}, "state": "/joint_states",
        "action": "/command", "instruction": "",
    }  # fmt: skip
    result = import_dataset(path, tmp_path / "out", ImportConfig(rate_hz=10, options=options))
    (skipped,) = result.skipped
    assert skipped.episode == "log.mcap, episode 2" and "cannot be read" in skipped.problem
    same(tmp_path / "out", [through_jpeg(one) for one in truths[:2]])


def test_a_flipped_bit_is_named(tmp_path, truths, same):
    for number in range(2):
        with Log(tmp_path / "logs" / f"log_{number}.mcap") as log:
            log.episode(truths[number], START, truths[number].instruction)
    path = tmp_path / "logs" / "log_1.mcap"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)
    (skipped,) = import_dataset(tmp_path / "logs", tmp_path / "out", ImportConfig(rate_hz=10)).skipped
    assert skipped.episode == "log_1.mcap" and "cannot be read" in skipped.problem
    same(tmp_path / "out", [through_jpeg(truths[0])])


def test_topics_without_messages_or_with_changing_fields_are_named(tmp_path, truths):
    logs, one = tmp_path / "logs", truths[0]
    with Log(logs / "0.mcap") as log:
        log.episode(one, START, "go")
    with Log(logs / "1.mcap") as log:
        log.say("/command", "Float64MultiArray", START, data=[1.0])
    with Log(logs / "2.mcap") as log:
        log.episode(one, START)
        log.episode(one, START + 5 * 10**9)
    with Log(logs / "3.mcap") as log:
        log.episode(one, START)
        log.say("/command", "Float64MultiArray", START + 3 * PERIOD, data=[1.0])
    with Log(logs / "4.mcap") as log:
        for time, topic in ((0, "CompressedImage"), (9, "JointState"), (99, "Float64MultiArray")):
            names = {"CompressedImage": "/camera/front/image_raw/compressed", "JointState": "/joint_states"}
            message = {
                "CompressedImage": {"format": "jpeg", "data": b""},
                "JointState": {"name": ["a"], "position": [1.0], "velocity": [], "effort": []},
                "Float64MultiArray": {"data": [1.0]},
            }[topic]
            log.say(names.get(topic, "/command"), topic, START + time, **message)
    result = import_dataset(logs, tmp_path / "out", ImportConfig(rate_hz=10))
    problems = {skipped.episode: skipped.problem for skipped in result.skipped}
    assert problems["1.mcap"].startswith(
        "1.mcap has no message of /camera/front/image_raw/compressed, /joint_states; the file has"
    )
    assert "2.mcap: /" in problems["2.mcap"] and problems["2.mcap"].endswith("max_age_s is 1")
    assert problems["3.mcap"] == "/command: a message has 0; the first has 0, 1, 2"
    assert problems["4.mcap"] == "4.mcap: /camera/front/image_raw/compressed ends before every topic has had a message"
    assert result.episodes == 1


def test_missing_options_are_named(tmp_path, truths):
    with Log(tmp_path / "log.mcap") as log:
        log.episode(truths[0], START)
        log.say("/other", "Float64MultiArray", START, data=[1.0])
    with pytest.raises(ConfigError, match=r"the action topic of log.mcap is ambiguous; give --set action=TOPIC; it has .*/other"):
        import_dataset(tmp_path / "log.mcap", tmp_path / "out", ImportConfig(rate_hz=10))
    with pytest.raises(ConfigError, match="does not record the rate of log.mcap; give --rate-hz"):
        import_dataset(tmp_path / "log.mcap", tmp_path / "out", ImportConfig(options={"action": "/command"}))
    with pytest.raises(ConfigError, match=r"images is 3; expected a field, or several separated by commas"):
        import_dataset(tmp_path / "log.mcap", tmp_path / "out", ImportConfig(rate_hz=10, options={"images": 3}))
    with pytest.raises(ConfigError, match="holds no instructions"):
        import_dataset(tmp_path / "log.mcap", tmp_path / "out", ImportConfig(rate_hz=10, options={"action": "/command"}))


def test_an_encoding_that_cannot_be_read_is_named(tmp_path):
    sink = io.BytesIO()
    writer = JsonWriter(sink)
    writer.start()
    channel = writer.register_channel("/x", "protobuf", writer.register_schema("x.Y", "protobuf", b""))
    writer.add_message(channel, START, b"", START)
    writer.finish()
    (tmp_path / "log.mcap").write_bytes(sink.getvalue())
    with pytest.raises(DataError, match=r"/x is encoded as 'protobuf' with schema 'x.Y' in 'protobuf'; expected JSON, or 'cdr'"):
        import_dataset(
            tmp_path / "log.mcap", tmp_path / "out", ImportConfig(rate_hz=10, instruction="", options={"action": "/x"})
        )


def test_a_message_that_its_definition_does_not_fit_is_named(tmp_path, truths, same):
    for number in range(2):
        with Log(tmp_path / "logs" / f"log_{number}.mcap") as log:
            log.episode(truths[number], START, truths[number].instruction)
            if number:
                log.writer._writer.add_message(log.writer._channel_ids["/command"], START + 1, b"\x00\x01\x00\x00\x09", START + 1)
    (skipped,) = import_dataset(tmp_path / "logs", tmp_path / "out", ImportConfig(rate_hz=10)).skipped
    assert skipped.episode == "log_1.mcap"
    assert "a message of /command (schema 'std_msgs/msg/Float64MultiArray' in 'ros2msg') cannot be decoded" in skipped.problem
    same(tmp_path / "out", [through_jpeg(truths[0])])


def test_joints_of_another_file_are_put_in_the_order_of_the_first(tmp_path, truths, same):
    for number in range(2):
        with Log(tmp_path / "logs" / f"log_{number}.mcap") as log:
            for t, (state, action) in enumerate(zip(truths[number].states, truths[number].actions, strict=True)):
                names = ["b", "a"] if number else ["a", "b"]
                position = state[::-1].tolist() if number else state.tolist()
                log.say("/joint_states", "JointState", START + t * PERIOD, name=names, position=position, velocity=[], effort=[])
                log.say("/command", "Float64MultiArray", START + t * PERIOD, data=action.tolist())
    with Log(tmp_path / "logs" / "log_2.mcap") as log:
        log.say("/joint_states", "JointState", START, name=["a", "c"], position=[1.0, 2.0], velocity=[], effort=[])
        log.say("/command", "Float64MultiArray", START, data=[1.0, 2.0, 3.0])
    result = import_dataset(tmp_path / "logs", tmp_path / "out", ImportConfig(rate_hz=10, instruction=""))
    (skipped,) = result.skipped
    assert skipped.problem == "its state 'joint_states' has a, c; the dataset's has a, b"
    for episode, one in zip(open_dataset(tmp_path / "out"), truths, strict=False):
        assert episode.states.tobytes() == one.states.tobytes()


def test_the_table_has_one_line_for_each_topic_that_is_taken(tmp_path, truths):
    with Log(tmp_path / "log.mcap") as log:
        log.episode(truths[0], START, "go")
    options = {"state": "/joint_states,/command", "action": "/command"}
    result = import_dataset(tmp_path / "log.mcap", tmp_path / "out", ImportConfig(rate_hz=10, options=options))
    taken = sorted((row.field, row.taken_as) for row in result.table.rows if row.taken_as != "left out")
    assert taken == [
        ("/camera/front/image_raw/compressed", "camera front"), ("/command", "action"), ("/command", "state"),
        ("/joint_states", "state"), ("/task", "instruction"),
    ]  # fmt: skip
    (row,) = (row for row in result.table.rows if row.field == "/joint_states")
    assert "log times" in row.reason and "kind other" in row.reason
