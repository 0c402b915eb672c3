"""Topics of a ROS 2 robot are read: every encoding, joints in any order, times; a bad message costs itself alone."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from verbot.errors import DataError

pytest.importorskip("rosbags")

from verbot.robots.ros2.config import CameraTopic, StateTopic
from verbot.robots.ros2.dds import Arrival
from verbot.robots.ros2.inputs import (
    LONGEST_INSTRUCTION,
    ImageInput,
    JointInput,
    PoseInput,
    StampClock,
    StampClocks,
    resized,
    sentence,
)
from verbot.robots.ros2.messages import encode_cdr, header, make

IMAGE, COMPRESSED, JOINTS = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/JointState"
RGB = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)


def image(pixels, encoding, size=(6, 8), step=None, stamp_ns=0, **changes):
    data = np.frombuffer(np.ascontiguousarray(pixels).tobytes(), np.uint8)
    fields = {"height": size[0], "width": size[1], "encoding": encoding, "is_bigendian": 0, "step": step or len(data) // 6}
    return encode_cdr(make(IMAGE, header=header(stamp_ns), **fields | changes, data=data), IMAGE)


def compressed(content, form):
    return encode_cdr(make(COMPRESSED, header=header(), format=form, data=np.frombuffer(content, np.uint8)), COMPRESSED)


def joints(names, position, velocity=(), effort=(), stamp_ns=0):
    numbers = {"position": position, "velocity": velocity, "effort": effort}
    fields = {name: np.array(values, np.float64) for name, values in numbers.items()}
    return encode_cdr(make(JOINTS, header=header(stamp_ns), name=list(names), **fields), JOINTS)


def pose(position, w_last, frame="base_link"):
    place = make("geometry_msgs/msg/Point", **dict(zip("xyz", position, strict=True)))
    turn = make("geometry_msgs/msg/Quaternion", **dict(zip("xyzw", w_last, strict=True)))
    whole = make("geometry_msgs/msg/Pose", position=place, orientation=turn)
    return encode_cdr(make("geometry_msgs/msg/PoseStamped", header=header(0, frame), pose=whole), "geometry_msgs/msg/PoseStamped")


def arrivals(*data, writer=1):
    return [Arrival(each, float(second), writer) for second, each in enumerate(data)]


def camera(kind="color", **options):
    return ImageInput(CameraTopic("front", "/front", 6, 8, kind=kind, **options))


def picture(content, form):
    file = io.BytesIO()
    Image.fromarray(content).save(file, form)
    return file.getvalue()


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8"])
def test_every_encoding_becomes_rgb(encoding):
    alpha = np.full((6, 8, 1), 7, np.uint8)
    order = RGB[..., ::-1] if encoding.startswith("bgr") else RGB
    pixels = RGB[..., :1] if encoding == "mono8" else np.concatenate([order, alpha], -1) if "a" in encoding else order
    part = camera()
    part.take(arrivals(image(pixels, encoding)))
    np.testing.assert_array_equal(part.value, np.repeat(RGB[..., :1], 3, -1) if encoding == "mono8" else RGB)
    assert part.value.dtype == np.uint8 and part.rejected.count == 0 and not part.lacks


def test_rows_with_padding_and_pictures_in_jpeg_and_png():
    padded = np.concatenate([RGB.reshape(6, 24), np.full((6, 5), 9, np.uint8)], 1)
    part = camera()
    part.take(arrivals(image(padded, "rgb8")))
    np.testing.assert_array_equal(part.value, RGB)
    part = camera(type=COMPRESSED)
    part.take(arrivals(compressed(picture(RGB, "PNG"), "rgb8; png compressed bgr8")))
    np.testing.assert_array_equal(part.value, RGB)
    flat = np.full((6, 8, 3), (200, 40, 10), np.uint8)
    part.take(arrivals(compressed(picture(flat, "JPEG"), "jpeg")))
    assert np.abs(part.value.astype(int) - flat).max() < 8


def test_depth_is_in_meters():
    part = camera("depth")
    part.take(arrivals(image(np.full((6, 8), 1500, "<u2"), "16UC1")))
    assert part.value.dtype == np.float32 and np.allclose(part.value, 1.5)
    part.take(arrivals(image(np.full((6, 8), np.nan, "<f4"), "32FC1")))
    assert (part.value == 0).all()
    part = camera("depth", meters_per_unit=0.0001)
    part.take(arrivals(image(np.full((6, 8), 1500, ">u2"), "16UC1", is_bigendian=1)))
    assert np.allclose(part.value, 0.15)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (image(RGB, "rgb9"), "encoded as 'rgb9'"),
        (image(RGB, "rgb8", step=7), "rows of 7 bytes"),
        (image(RGB[:3], "rgb8", step=24), "expected at least 24 and 144"),
        (image(RGB, "rgb8", (4_000_000, 4_000_000)), "set height and width to its size"),
        (image(RGB, "rgb8", (8, 6), step=18), "it is 6×8 (width × height), and camera 'front' is 8×6"),
        (image(RGB, "8UC3"), "does not state the order"),
        (image(RGB, "16UC1"), "has depth"),
        (b"\0\1\0\0", "no sensor_msgs/msg/Image in CDR"),
        (b"", "0 bytes are no sensor_msgs/msg/Image"),
    ],
)
def test_a_bad_picture_is_counted_and_named_and_the_last_good_one_stays(data, reason):
    part = camera()
    part.take(arrivals(image(RGB, "rgb8")))
    part.take([Arrival(data, 5.0, 1)])
    assert part.rejected.count == 1 and reason in part.rejected.reason
    np.testing.assert_array_equal(part.value, RGB)
    assert part.measured_s == 0.0
    part.take([Arrival(image(RGB, "rgb8"), 6.0, 1)])
    assert part.measured_s == 6.0 and part.rejected.count == 1


def test_a_compressed_picture_of_another_size_is_not_decoded():
    part = camera(type=COMPRESSED)
    large = picture(np.zeros((2000, 2000), np.uint8), "PNG")
    part.take(arrivals(compressed(large, "png"), b"\0\1\0\0"))
    part.take(arrivals(compressed(large, "png")))
    assert part.rejected.count == 2 and "2000×2000 pixels; those of its camera have 6×8" in part.rejected.reason
    part.take(arrivals(compressed(picture(RGB, "PNG")[:60], "png")))
    assert part.rejected.count == 3 and "not a whole picture" in part.rejected.reason


def test_a_picture_is_resized_only_where_that_is_declared():
    wide = np.zeros((60, 160, 3), np.uint8)
    wide[:, 40:120] = 200  # the middle, with the proportions of the camera
    data = arrivals(image(wide, "rgb8", (60, 160), step=480))
    part = camera(fit="crop")
    part.take(data)
    assert part.value.shape == (6, 8, 3) and (part.value == 200).all()
    part = camera(fit="resize")
    part.take(data)
    assert part.value.shape == (6, 8, 3) and part.value[:, 0].max() == 0 and part.value[:, 3].min() == 200
    depth = np.where(np.arange(80) < 40, 1.0, 3.0).astype(np.float32)[None].repeat(60, 0)
    assert set(np.unique(resized(depth, (6, 7), crop=False))) == {1.0, 3.0}


def test_joints_go_by_name():
    topics = [
        StateTopic("arm", "/j", (-3, -3), (3, 3), joints=("a", "b")),
        StateTopic("v", "/j", (-3,), (3,), field="velocity", joints=("a",)),
    ]
    part = JointInput(topics)
    part.take(arrivals(joints(("c", "b", "a"), (3, 2, 1), (30, 20, 10))))
    np.testing.assert_array_equal(part.values(topics[0])[0], (1, 2))
    np.testing.assert_array_equal(part.values(topics[1])[0], (10,))


def test_joints_of_two_publishers_have_times_of_their_own():
    topic = StateTopic("arm", "/j", (-3, -3), (3, 3), joints=("a", "b"))
    part = JointInput([topic])
    part.take(arrivals(joints("a", [1]), joints("b", [2])))
    assert part.values(topic)[1] == 0.0
    part.take([Arrival(joints("a", [5]), 4.0, 1)])
    values, measured_s = part.values(topic)
    assert values.tolist() == [5, 2] and measured_s == 1.0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (joints("ab", [1]), "2 names and 1 numbers of position"),
        (joints("ab", [1, np.nan]), "the position of joint 'b' is nan"),
        (joints("ab", [1, -1e300]), "the position of joint 'b' is -1e+300"),  # infinite in float32
        (joints("aab", [1, 1, 1]), "names a joint twice"),
        (joints((), [1])[:-3], "no sensor_msgs/msg/JointState"),
    ],
)
def test_bad_joints_are_counted_and_named(data, reason):
    topic = StateTopic("arm", "/j", (-3, -3), (3, 3), joints=("a", "b"))
    part = JointInput([topic])
    assert part.lacks == "joint 'a', 'b'"
    part.take(arrivals(joints("ab", [1, 2]), data))
    assert part.rejected.count == 1 and reason in part.rejected.reason
    assert part.values(topic)[0].tolist() == [1, 2] and not part.lacks


def test_a_pose_is_w_first_and_in_its_frame():
    kind = "geometry_msgs/msg/PoseStamped"
    topics = [
        StateTopic("place", "/p", (-1,) * 3, (1,) * 3, type=kind, frame_id="base_link"),
        StateTopic("turn", "/p", type=kind, field="orientation"),
    ]
    part = PoseInput(topics)
    part.take(arrivals(pose((0.1, 0.2, 0.3), (0, 0.6, 0, 0.8))))
    assert part.values(topics[0])[0].tolist() == [0.1, 0.2, 0.3] and part.values(topics[1])[0].tolist() == [0.8, 0, 0.6, 0]
    for bad, reason in (
        (pose((0, 0, 0), (0, 0, 0, 0)), "length 0"),
        (pose((0, 0, np.inf), (0, 0, 0, 1)), "not finite"),
        (pose((1e300, 0, 0), (0, 0, 0, 1)), "not finite"),
        (pose((0, 0, 0), (1e300, 0, 0, 1)), "not finite"),
        (pose((0, 0, 0), (0, 0, 0, 1), "map"), "frame 'map'; expected 'base_link'"),
    ):
        part.take(arrivals(bad))
        assert reason in part.rejected.reason
    assert part.rejected.count == 5 and part.values(topics[0])[0].tolist() == [0.1, 0.2, 0.3]


def test_ages_count_differences_of_stamps_alone():
    clock, hour_ns = StampClock(), 3600 * 10**9  # the other computer's clock is an hour ahead
    assert clock.measured_s(hour_ns, 0.005) == 0.005
    assert clock.measured_s(hour_ns + 10**8, 0.165) == pytest.approx(0.105)  # 60 ms later than the fastest
    assert clock.measured_s(hour_ns + 2 * 10**8, 0.203) == pytest.approx(0.203)  # the fastest so far
    assert clock.measured_s(hour_ns + 2 * 10**8, 30.0) == pytest.approx(0.203)  # a camera that repeats itself
    assert clock.measured_s(None, 7.0) == 7.0 and clock.measured_s(0, 8.0) == 8.0
    assert clock.measured_s(hour_ns + 30 * 10**9, 40.0) == pytest.approx(40.0)  # nothing in the window is faster


def test_each_publisher_has_its_clock():
    clocks = StampClocks(use_stamps=True)
    for writer, ahead_ns in ((1, 10**9), (2, 3600 * 10**9)):
        message = make(JOINTS, header=header(ahead_ns), name=[], position=np.zeros(0), velocity=np.zeros(0), effort=np.zeros(0))
        assert clocks.measured_s(message, Arrival(b"", 1.0, writer)) == 1.0
    for writer in range(1000):
        clocks.measured_s(message, Arrival(b"", 1.0, writer))
    assert len(clocks._clocks) <= 64


def test_a_sentence_is_plain_text():
    def said(words):
        return encode_cdr(make("std_msgs/msg/String", data=words), "std_msgs/msg/String")

    assert sentence(said(" pick up the 🍎\n"), "std_msgs/msg/String") == "pick up the 🍎"
    for bad, reason in (
        ("", "0 characters"),
        ("a" * (LONGEST_INSTRUCTION + 1), "2001 characters"),
        ("go\x1b[2J", "a control character"),
    ):
        with pytest.raises(DataError, match=reason):
            sentence(said(bad), "std_msgs/msg/String")


def test_two_cameras_of_640_by_480_cost_no_conversion_by_byte():
    """A list of bytes takes 50 ms and more. The limit is generous: it holds on a busy machine."""
    whole = np.zeros((480, 640, 3), np.uint8)
    data, part = image(whole, "bgr8", (480, 640), step=1920), ImageInput(CameraTopic("front", "/front", 480, 640))
    spent = []
    for _ in range(5):
        start_s = time.thread_time()
        part.take(arrivals(data))
        spent.append(time.thread_time() - start_s)
    assert part.rejected.count == 0 and min(spent) < 0.02
