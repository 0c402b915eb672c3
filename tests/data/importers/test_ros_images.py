"""Encodings of ROS 2 images and of depth: colors, row padding, byte order, and what is refused by name."""

import base64
import io
import struct

import numpy as np
import pytest
from PIL import Image

from verbot.data.importers.bag_records import BagOptions
from verbot.data.importers.ros_images import BAYER, depth_picture, describe, is_depth, picture
from verbot.errors import DataError

from .conftest import encoded, pictures

PLAIN = BagOptions()
RGB = pictures(0, 1, 24, 32)[0]
# BT.601 with the limited range: Y, U, V of pure colors
YUV = {(255, 0, 0): (81, 90, 240), (0, 255, 0): (145, 54, 34), (0, 0, 255): (41, 240, 110), (255, 255, 255): (235, 128, 128)}


def message(data, encoding, height=None, step=None, big=0):
    array = np.ascontiguousarray(data)
    width = array.shape[1]
    return {
        "height": height or array.shape[0],
        "width": width,
        "encoding": encoding,
        "is_bigendian": big,
        "step": step or array.strides[0],
        "data": array.tobytes(),
    }


def decoded(data, encoding, options=PLAIN, **more):
    return picture("/eye", message(data, encoding, **more), options)


ALPHA = np.full((24, 32, 1), 9, np.uint8)


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("rgb8", RGB),
        ("bgr8", RGB[..., ::-1]),
        ("rgba8", np.concatenate([RGB, ALPHA], -1)),
        ("bgra8", np.concatenate([RGB[..., ::-1], ALPHA], -1)),
        ("rgb16", RGB.astype("<u2") << 8 | 77),
        ("bgr16", RGB[..., ::-1].astype("<u2") << 8),
    ],
)
def test_colors_have_their_places(encoding, data):
    np.testing.assert_array_equal(decoded(data, encoding), RGB)


def test_gray_is_repeated_and_16_bits_are_reduced_to_the_upper_8():
    gray = RGB[..., 0]
    expected = np.repeat(gray[..., None], 3, -1)
    for encoding in ("mono8", "8UC1"):
        np.testing.assert_array_equal(decoded(gray, encoding), expected)
    np.testing.assert_array_equal(decoded(gray.astype("<u2") << 8 | 200, "mono16"), expected)
    np.testing.assert_array_equal(decoded((gray.astype("<u2") << 8).astype(">u2"), "mono16", big=1), expected)
    np.testing.assert_array_equal(decoded(gray.astype("<u2") << 4, "mono16", BagOptions(bits=12)), expected)
    with pytest.raises(DataError, match=r"/eye has pixels up to \d+, more than 10 bits; give --set bits="):
        decoded(gray.astype("<u2") << 4, "mono16", BagOptions(bits=10))


def test_the_order_of_8uc3_is_the_users_word():
    with pytest.raises(DataError, match=r"/eye has pictures encoded as '8UC3', which does not state the order .* color=bgr"):
        decoded(RGB, "8UC3")
    np.testing.assert_array_equal(decoded(RGB, "8UC3", BagOptions(color="rgb")), RGB)
    np.testing.assert_array_equal(decoded(RGB, "8UC3", BagOptions(color="bgr")), RGB[..., ::-1])
    four = np.concatenate([RGB[..., ::-1], ALPHA], -1)
    np.testing.assert_array_equal(decoded(four, "8UC4", BagOptions(color="bgr")), RGB)
    assert describe("8UC3", BagOptions(color="bgr")) == "8UC3: colors in the order bgr, as given"


@pytest.mark.parametrize("color", YUV)
def test_yuv_becomes_rgb_by_bt601(color):
    y, u, v = YUV[color]
    pixels = np.zeros((4, 6, 2), np.uint8)
    for names, order in ((("yuv422", "uyvy"), (u, y, v, y)), (("yuv422_yuy2", "yuyv"), (y, u, y, v))):
        pixels.reshape(4, 3, 4)[:] = order
        for name in names:
            np.testing.assert_allclose(decoded(pixels, name).astype(int), np.broadcast_to(color, (4, 6, 3)), atol=2)
    for name, order in (("nv12", (u, v)), ("nv21", (v, u))):
        planes = np.full((6, 6), y, np.uint8)
        planes[4:].reshape(2, 3, 2)[:] = order
        np.testing.assert_allclose(decoded(planes, name, height=4).astype(int), np.broadcast_to(color, (4, 6, 3)), atol=2)


def test_yuv_keeps_pixels_apart():
    luma = np.arange(16, 16 + 48, dtype=np.uint8).reshape(4, 12)
    expected = np.clip(np.rint(1.164383 * (luma.astype(float) - 16)), 0, 255)
    packed = np.stack([luma, np.full_like(luma, 128)], -1)
    planes = np.concatenate([luma, np.full((2, 12), 128, np.uint8)])
    for image in (decoded(packed, "yuyv"), decoded(packed[..., ::-1], "uyvy"), decoded(planes, "nv12", height=4)):
        np.testing.assert_array_equal(image[..., 1], expected)
    with pytest.raises(DataError, match="/eye: a picture has width 3; one that shares colors between two pixels has an even one"):
        decoded(packed[:, :3], "yuyv")


@pytest.mark.parametrize("order", BAYER)
@pytest.mark.parametrize("bits", [8, 16])
def test_a_bayer_mosaic_is_interpolated(order, bits):
    y, x = np.mgrid[0:24, 0:32]
    scene = np.stack([60 + 4 * x, 40 + 6 * y, 90 + 2 * x + 3 * y], -1).astype(np.uint8)
    channel = {letter: "rgb".index(letter) for letter in "rgb"}
    mosaic = np.zeros((24, 32), np.uint8)
    for place, letter in enumerate(order):
        row, column = divmod(place, 2)
        mosaic[row::2, column::2] = scene[row::2, column::2, channel[letter]]
    image = decoded(mosaic if bits == 8 else mosaic.astype("<u2") << 8, f"bayer_{order}{bits}")
    np.testing.assert_array_equal(image[1:-1, 1:-1], scene[1:-1, 1:-1])  # bilinear is exact on a plane
    assert np.abs(image.astype(int) - scene).max() <= 6


def test_padded_rows_and_short_data():
    padded = np.pad(RGB.reshape(24, -1), ((0, 0), (0, 5)))
    np.testing.assert_array_equal(picture("/eye", {**message(RGB, "rgb8"), "step": 101, "data": padded.tobytes()}, PLAIN), RGB)
    for changes in ({"data": b"123"}, {"step": 95}, {"height": 25}):
        with pytest.raises(
            DataError, match=r"/eye: a picture of 32×\d+ in 'rgb8' has rows of \d+ bytes and \d+ in all; expected at"
        ):
            picture("/eye", {**message(RGB, "rgb8"), **changes}, PLAIN)
    for value in (0, -4, "x", None, 10**9):
        with pytest.raises(DataError, match=r"/eye: a picture has height .*; expected 1 to"):
            picture("/eye", {**message(RGB, "rgb8"), "height": value}, PLAIN)


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("16UC1", r"has depth \('16UC1'\), not color; --set depth.NAME=/eye takes it"),
        ("nv24", "encoded as 'nv24'; expected rgb8"),
        ("h264", r"has video \('h264'\), not pictures"),
    ],
)
def test_other_encodings_are_refused_by_name(encoding, expected):
    with pytest.raises(DataError, match=expected):
        decoded(RGB, encoding)


def compressed(content, kind):
    return {"format": kind, "data": content}


@pytest.mark.parametrize("kind", ["jpeg", "bgr8; jpeg compressed bgr8", "rgb8; png compressed bgr8", "png", ""])
def test_compressed_images_have_the_colors_of_the_picture(kind):
    content = encoded(RGB, "PNG" if "png" in kind else "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    np.testing.assert_array_equal(picture("/eye", compressed(content, kind), PLAIN), expected)
    np.testing.assert_array_equal(picture("/eye", compressed(base64.b64encode(content).decode(), kind), PLAIN), expected)
    assert describe(kind, PLAIN) == ""


def test_a_compressed_mosaic_is_interpolated_and_an_unstated_order_noted():
    sink = io.BytesIO()
    Image.fromarray(np.full((4, 6), 90, np.uint8)).save(sink, "PNG")
    image = picture("/eye", compressed(sink.getvalue(), "bayer_rggb8; png compressed "), PLAIN)
    np.testing.assert_array_equal(image, np.full((4, 6, 3), 90))
    assert describe("rgb8; jpeg compressed ", PLAIN).endswith("does not name their order")
    with pytest.raises(DataError, match=r"/eye has video \('h264'\), not pictures"):
        picture("/eye", compressed(b"\0\0\0\1", "h264"), PLAIN)
    with pytest.raises(DataError, match="/eye: is not a whole picture"):
        picture("/eye", compressed(b"\xff\xd8\xff", "jpeg"), PLAIN)


def png16(values):
    sink = io.BytesIO()
    Image.fromarray(values.astype(np.uint16)).save(sink, "PNG")
    return sink.getvalue()


MILLIMETERS = np.array([[0, 500, 1000], [1500, 65535, 1]], np.uint16)


def test_depth_is_in_meters_and_zero_where_unknown():
    expected = MILLIMETERS / 1000
    np.testing.assert_allclose(depth_picture("/z", message(MILLIMETERS, "16UC1")), expected, atol=1e-6)
    np.testing.assert_allclose(depth_picture("/z", message(MILLIMETERS.astype(">u2"), "16UC1", big=1)), expected, atol=1e-6)
    meters = np.array([[0.5, np.nan, np.inf], [-1.0, 2.25, 0.0]], "<f4")
    image = depth_picture("/z", message(meters, "32FC1"))
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, [[0.5, 0, 0], [0, 2.25, 0]])


def test_compressed_depth_by_its_transports():
    plain = depth_picture("/z", compressed(png16(MILLIMETERS), "16UC1; png compressed "))
    np.testing.assert_allclose(plain, MILLIMETERS / 1000, atol=1e-6)
    header = struct.pack("<iff", 0, 0.0, 0.0)
    image = depth_picture("/z", compressed(header + png16(MILLIMETERS), "16UC1; compressedDepth png"))
    np.testing.assert_allclose(image, MILLIMETERS / 1000, atol=1e-6)
    a, b = 2000.0, 100.0  # depth is a / (value - b), and 0 is unknown
    image = depth_picture("/z", compressed(struct.pack("<iff", 1, a, b) + png16(MILLIMETERS), "32FC1; compressedDepth png"))
    np.testing.assert_allclose(image, [[0, 2000 / 400, 2000 / 900], [2000 / 1400, 2000 / 65435, 0]], rtol=1e-6)
    for content, kind, expected in [
        (header, "16UC1; compressedDepth rvl", "/z has depth compressed by RVL, which is not read; expected PNG"),
        (b"short", "16UC1; compressedDepth png", "/z: a message of compressedDepth has 5 bytes"),
        (header + b"no", "16UC1; compressedDepth png", "/z: cannot be read"),
        (header + encoded(RGB, "PNG"), "16UC1; compressedDepth png", "/z has depth in a picture of mode RGB; expected 16 bits"),
        (b"", "32FC1; png compressed ", "/z has depth in floats as '32FC1; png compressed '"),
        (b"", "rgb8", "/z has pictures encoded as 'rgb8'; expected depth: 16UC1, 32FC1, 64FC1, or compressedDepth"),
    ]:
        with pytest.raises(DataError, match=expected):
            depth_picture("/z", compressed(content, kind))


@pytest.mark.parametrize(
    ("topic", "encoding", "expected"),
    [
        ("/a", "16UC1", True),
        ("/a", "32FC1; compressedDepth png", True),
        ("/depth/a", "mono16", True),
        ("/a", "mono16", False),
        ("/depth/a", "rgb8", False),
    ],
)
def test_depth_is_recognized_by_its_encoding(topic, encoding, expected):
    assert is_depth(topic, encoding) is expected
