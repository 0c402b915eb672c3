"""Which message belongs to which row: log times and stamps, jitter, gaps, cameras at other rates, joints and sentences."""

import importlib

import numpy as np
import pytest

from verbot.data.importers import open_source, recognize
from verbot.data.importers.bag_timing import Timing, pictures_of
from verbot.errors import ConfigError, DataError


@pytest.fixture
def ros(case, monkeypatch):
    """The writer of small bags of ``tests/cases``."""
    case("b06_lz4")  # puts the folder of the cases on the path
    return importlib.import_module("_ros")


def read(root, rate_hz=10.0, **options):
    (item,) = open_source(recognize(root), root, None, options, rate_hz).items()
    return item.read()


def shown(raw, picture_number, camera="front"):
    return [picture_number(image) for image in raw.cameras[camera]()]


def note(raw, field):
    return " | ".join(f"{n.taken_as} | {n.conversion} | {n.reason}" for n in raw.notes if n.field == field)


def test_stamps_put_late_images_back_and_log_times_are_noted(case, picture_number):
    root = case("b08_stamp_delay")
    raw = read(root, time="header")
    assert shown(raw, picture_number) == list(range(41))
    np.testing.assert_allclose(raw.action["command"][:, 0], np.arange(41) / 10)
    assert "stamps, 500 ms before their log times (median; up to 500 ms)" in note(raw, "/camera/front/image_raw")
    raw = read(root)
    assert "log times; stamps are 500 ms before their log times (median; up to 500 ms); --set time=header takes them" in note(
        raw, "/camera/front/image_raw"
    )
    assert raw.action["command"][0, 0] == 0.5 and shown(raw, picture_number)[0] == 0
    assert "0.5 s in which not every topic had a message; the last to begin is /camera/front/image_raw" in note(
        raw, "before the first row"
    )
    assert "0.5 s after /command has ended" in note(raw, "after the last row")


def test_stamps_of_zero_or_of_another_clock_are_refused(ros, tmp_path):
    def unset(ev, S, w):
        for i, (t, topic, kind, m) in enumerate(ev):
            if kind == "image":
                ev[i] = (t, topic, kind, {**m, "header": ros.hdr(0)})

    def simulated(ev, S, w):
        for i, (t, topic, kind, m) in enumerate(ev):
            if kind in ("image", "joints"):
                ev[i] = (t, topic, kind, {**m, "header": ros.hdr(t - ros.T0 + 5 * 10**9)})

    root = ros.bag(tmp_path / "zero.mcap", body=unset)
    with pytest.raises(DataError, match=r"image_raw has a message without a stamp \(0\); --set time=log takes log times"):
        read(root, time="header")
    assert "stamps of 0" in note(read(root), "/camera/front/image_raw")
    root = ros.bag(tmp_path / "clock.mcap", body=simulated)
    with pytest.raises(DataError, match=r"stamps differ from log times by 1.7e\+09 s, .* and /command has no stamps"):
        read(root, time="header")
    raw = read(root, time="header", action="/joint_states")
    assert len(raw.action["joint_states"]) == 21 and raw.instructions == ("pick up the cube",)


def test_jitter_gives_each_row_its_image_and_before_does_not(case, picture_number):
    root = case("b13_jitter")
    assert shown(read(root), picture_number) == list(range(21))
    before = shown(read(root, align="before"), picture_number)
    assert before[1] == 0 and before[2] == 2 and len(set(before)) < 21


def test_a_missing_image_is_an_error_unless_more_is_allowed(case, picture_number):
    root = case("b14_gap")
    with pytest.raises(
        DataError, match=r"/camera/front/image_raw has no image for row 8 at 0.8 s: the nearest is 0.1 s away; rows"
    ):
        read(root)
    raw = read(root, max_age_s=0.25)
    assert shown(raw, picture_number) == [0, 1, 2, 3, 4, 5, 6, 7, 7, 10, *range(10, 21)]
    assert "the nearest in time, at most 100 ms away" in note(raw, "/camera/front/image_raw")
    with pytest.raises(DataError, match=r"the last is 0.2 s away; max_age_s is 0.12"):
        read(root, max_age_s=0.12, align="before")


def test_cameras_at_other_rates_than_the_rows(case, picture_number):
    raw = read(case("b15_two_cameras"))
    assert shown(raw, picture_number, "fast") == [3 * row for row in range(21)]
    assert shown(raw, picture_number, "slow") == [row // 2 for row in range(21)]  # of two equally near the earlier
    raw = read(case("b15_two_cameras"), rate_hz=30.0)
    assert shown(raw, picture_number, "fast") == list(range(61))


@pytest.mark.parametrize(("distance", "fits"), [(0.074, True), (0.076, False)])
def test_three_quarters_of_the_usual_interval_are_allowed(distance, fits):
    times = np.array([0, 100, 200, 300, 400, 500, 600], np.int64) * 10**6
    rows = np.array([0, 600 * 10**6 + round(distance * 1e9)])
    if fits:
        assert pictures_of(times, rows, Timing(), 10.0, False, "/eye").tolist() == [0, 6]
    else:
        with pytest.raises(DataError, match="/eye has no image for row 1"):
            pictures_of(times, rows, Timing(), 10.0, False, "/eye")


def test_equally_near_images_are_taken_from_before():
    times, rows = np.array([0, 100, 200], np.int64), np.array([50, 149, 151])
    assert pictures_of(times, rows, Timing(max_age_s=1.0), 10.0, False, "/eye").tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": "receive"}, "time is 'receive'; expected log or header"),
        ({"align": "after"}, "align is 'after'; expected nearest or before"),
        ({"max_age_s": 0}, "max_age_s is 0; expected seconds, more than 0"),
        ({"color": "gbr"}, "color is 'gbr'; expected bgr or rgb"),
        ({"bits": 20}, "bits is 20; expected the significant bits of 16, 8 to 16"),
        ({"truncated": True}, "truncated is True; expected use or refuse"),
        ({"join": "all"}, "join is 'all'; expected true or false"),
        ({"state": 3}, "state is 3; expected a field, or several separated by commas"),
        ({"depth": {"front": 3}}, "expected the field of each camera, as depth.front=FIELD"),
        ({"instruction": 3}, "instruction is 3; expected a field, or several separated by commas"),
    ],
)
def test_wrong_options_are_named(options, message, case):
    with pytest.raises(ConfigError, match=message):
        read(case("b06_lz4"), **options)


def test_joints_of_two_publishers_are_joined_by_name(case):
    raw = read(case("b07_partial_joints"))
    assert raw.axes["joint_states"] == ("a", "b", "finger")
    state = raw.state["joint_states"]
    np.testing.assert_allclose(state[:, 2], 0.04)
    np.testing.assert_allclose(state[:, 0], np.arange(20) / 10)  # it begins 1 µs late, with the first message of the finger
    raw = read(case("b07_partial_joints"), joints="finger,a")
    assert raw.axes["joint_states"] == ("finger", "a")
    np.testing.assert_allclose(raw.state["joint_states"][3], [0.04, 0.3])
    with pytest.raises(DataError, match=r"/joint_states has no joint wrist; it has a, b, finger"):
        read(case("b07_partial_joints"), joints=["a", "wrist"])


def test_a_joint_that_stops_is_an_error(ros, tmp_path):
    def joints(j, t):
        message = {"header": ros.hdr(t), "velocity": [], "effort": []}
        finger = [(t, "/joint_states", "joints", {**message, "name": ["finger"], "position": [0.1]})] if j < 10 else []
        return [(t, "/joint_states", "joints", {**message, "name": ["a"], "position": [0.0]}), *finger]

    root = ros.bag(tmp_path / "ep.mcap", joints=joints)
    with pytest.raises(DataError, match=r"/joint_states, joint finger, has no message for 1.82 s at 2 s; max_age_s is 1"):
        read(root)


def test_velocities_are_taken_by_option(case):
    root = case("b09b_sqlite")
    assert "/joint_states,/joint_states:velocity takes it" in note(read(root), "/joint_states:velocity")
    raw = read(root, state="/joint_states,/joint_states:velocity")
    assert raw.axes["joint_states_velocity"] == ("a", "b") and raw.state["joint_states_velocity"].tolist() == [[1.0, 2.0]] * 21
    assert not note(raw, "/joint_states:velocity").startswith("left out")
    with pytest.raises(DataError, match=r"/joint_states:effort: a message has 2 joints \(a, b\) and 0 of 'effort'"):
        read(root, state="/joint_states:effort")


def test_a_sentence_holds_from_its_message_on(case):
    raw = read(case("b16_sentence_changes"))
    assert raw.instructions == ("pick it up",)
    assert [(s.start, s.stop, s.wordings) for s in raw.segments] == [(0, 11, ("pick it up",)), (11, 21, ("put it down",))]
    assert "each row has the last sentence at or before it" in note(raw, "/task")


def test_a_late_sentence_holds_for_the_rows_before_it_and_is_noted(ros, tmp_path):
    def late(ev, S, w):
        ev.append((ros.T0 + 700_000_000, "/task", "string", {"data": "go"}))

    raw = read(ros.bag(tmp_path / "ep.mcap", sentence=None, body=late))
    assert raw.instructions == ("go",) and raw.segments == ()
    assert "the first message is 0.7 s after the first row, and holds for it" in note(raw, "/task")


def test_a_latched_topic_holds_before_and_after_its_message(ros, tmp_path):
    def mode(ev, S, w):
        ev.append((ros.T0 + 300_000_000, "/mode", "array", {"layout": {"dim": [], "data_offset": 0}, "data": [7.0]}))

    root = ros.bag(tmp_path / "ep.mcap", seconds=3, body=mode)
    raw = read(root, action="/command", state="/mode,/joint_states")
    assert len(raw.action["command"]) == 1 and "about 3 s after /mode has ended" in note(raw, "after the last row")
    raw = read(root, action="/command", state="/mode,/joint_states", latched="/mode")
    assert raw.state["mode"].tolist() == [[7.0]] * 31
    assert "latched: a message holds until the next" in note(raw, "/mode")


def test_topics_that_are_transient_local_are_carried_over_a_split(case, tmp_path, ros):
    from mcap_ros2.writer import Writer

    path = tmp_path / "log.mcap"
    latched = "- history: 1\n  depth: 1\n  reliability: 1\n  durability: 1\n"
    with open(path, "wb") as file:
        writer = Writer(file)
        array, text = (
            writer.register_msgdef(name, definition)
            for name, definition in (("std_msgs/msg/Float64MultiArray", ros.ARRAY), ("std_msgs/msg/String", ros.STRING))
        )
        # the writer makes channels without metadata, so that they are made here
        writer._channel_ids["/mode"] = writer._writer.register_channel(
            "/mode", "cdr", array.id, {"offered_qos_profiles": latched}
        )
        layout = {"layout": {"dim": [], "data_offset": 0}}
        for time, value in ((0, 5.0), (9, 6.0)):
            writer.write_message("/mode", array, {**layout, "data": [value]}, log_time=ros.T0 + time * 10**9)
        for episode, start in enumerate((1, 5, 10)):
            begin = ros.T0 + start * 10**9
            writer.write_message("/episode", text, {"data": f"task {episode}"}, log_time=begin)
            for step in range(21):
                writer.write_message("/command", array, {**layout, "data": [float(step)]}, log_time=begin + step * 10**8)
            writer.write_message("/episode", text, {"data": "end"}, log_time=begin + 21 * 10**8)
        writer.finish()
    options = {"split": "/episode", "action": "/command", "state": "/mode", "images": False, "instruction": False}
    raws = [item.read() for item in open_source("mcap", path, None, options, 10.0).items()]
    assert [raw.state["mode"][:, 0].tolist() for raw in raws] == [[5.0] * 21, [5.0] * 21, [6.0] * 21]
    assert [raw.instructions for raw in raws] == [("task 0",), ("task 1",), ("task 2",)]


def test_what_is_not_taken_is_noted_with_the_way_to_take_it(case):
    raw = read(case("b04_depth_beside"))
    assert note(raw, "/camera/aligned_depth_to_color/image_raw") == (
        "left out |  | about 20 messages of sensor_msgs/msg/Image; depth ('16UC1'); "
        "--set depth.NAME=/camera/aligned_depth_to_color/image_raw takes it as a depth camera"
    )
    raw = read(case("b17_raw_and_compressed"))
    assert list(raw.cameras) == ["front"]
    assert "the images of /camera/front/image_raw, compressed" in note(raw, "/camera/front/image_raw/compressed")
    raw = read(case("b06_lz4"), images=False, instruction=False, state=False)
    assert "--set images.NAME=/camera/front/image_raw/compressed takes it" in note(raw, "/camera/front/image_raw/compressed")
    assert "1 message of std_msgs/msg/String; --set instruction=/task takes it" in note(raw, "/task")
    assert "--set state=/joint_states takes its numbers" in note(raw, "/joint_states")
    assert "the only topic of type std_msgs/msg/Float64MultiArray" in note(raw, "/command")


def test_cameras_can_be_a_list_and_depth_a_camera(case, picture_number):
    raw = read(
        case("b04_depth_beside"), images="/camera/front/image_raw", depth={"range": "/camera/aligned_depth_to_color/image_raw"}
    )
    assert shown(raw, picture_number) == list(range(21))
    depth = raw.cameras["range"]()
    assert depth.dtype == np.float32 and depth.shape == (21, 64, 96) and np.allclose(depth, 0.8)
    assert "16UC1 to meters, 0 where unknown" in note(raw, "/camera/aligned_depth_to_color/image_raw")
    with pytest.raises(ConfigError, match="the camera front has both color and depth; give the depth another name"):
        read(case("b04_depth_beside"), depth={"front": "/camera/aligned_depth_to_color/image_raw"})
    with pytest.raises(DataError, match=r"image_raw has depth \('16UC1'\), not color; --set depth.NAME="):
        read(case("b04_depth_beside"), images="/camera/aligned_depth_to_color/image_raw")


def test_two_topics_of_joints_have_to_be_chosen(ros, tmp_path):
    def handle(ev, S, w):
        ev += [(t, "/handle/joint_states", kind, m) for t, topic, kind, m in list(ev) if topic == "/joint_states"]

    root = ros.bag(tmp_path / "ep.mcap", body=handle)
    with pytest.raises(
        ConfigError, match="the state topic is ambiguous: /handle/joint_states, /joint_states are of type JointState"
    ):
        read(root)
    raw = read(root, action="/handle/joint_states")
    assert (list(raw.state), list(raw.action)) == (["joint_states"], ["handle_joint_states"])
    assert list(read(root, state=False).state) == []


def test_images_are_decoded_camera_by_camera_when_asked_for(case, monkeypatch):
    from verbot.data.importers import bag_episodes

    root, decoded, real = case("b15_two_cameras"), [], bag_episodes.picture
    monkeypatch.setattr(bag_episodes, "picture", lambda name, *more: decoded.append(name) or real(name, *more))
    raw = read(root)
    assert decoded == []
    raw.cameras["slow"]()
    assert set(decoded) == {"/camera/slow/image_raw"} and len(decoded) == 11  # each image once, though rows share it


def test_without_a_rate_there_are_no_rows(case):
    with pytest.raises(ConfigError, match=r"ep_0.mcap has messages at rates of their own; .* --rate-hz"):
        read(case("b06_lz4"), rate_hz=None)
