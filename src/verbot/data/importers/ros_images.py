"""Decodes the images of ROS 2 messages to uint8 RGB (h, w, 3) and depth to float32 (h, w) in meters.

Encodings are those of ``sensor_msgs/image_encodings.hpp``. YUV becomes RGB as in OpenCV and cv_bridge: BT.601 with the limited
range, and the color of a pair of pixels for both. A Bayer mosaic is interpolated bilinearly. Of 16 bits the upper 8 are kept,
of `bits` significant ones. Depth is in millimeters in ``16UC1`` and in meters in ``32FC1`` (REP 118).
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from typing import Any

import numpy as np

from verbot.data.importers import reading
from verbot.data.importers.bag_records import BagOptions
from verbot.data.importers.images import decode_image, opened_picture
from verbot.data.importers.ros_messages import field_of, fields_of
from verbot.data.storage.decoding import picture_errors
from verbot.errors import DataError
from verbot.spec import FloatArray, UInt8Array

CHANNELS = {f"{order}{bits}": (count, bits // 8, order)
            for order, count in (("rgb", 3), ("bgr", 3), ("rgba", 4), ("bgra", 4), ("mono", 1)) for bits in (8, 16)}  # fmt: skip
CHANNELS |= {"8UC1": (1, 1, "mono"), "8UC3": (3, 1, ""), "8UC4": (4, 1, "")}
PACKED = {"yuv422": "uyvy", "uyvy": "uyvy", "yuv422_yuy2": "yuyv", "yuyv": "yuyv", "yuv422_yuyv": "yuyv"}
PLANAR = {"nv12": (0, 1), "nv21": (1, 0)}  # places of U and V
BAYER = {"rggb": (0, 0), "bggr": (1, 1), "gbrg": (1, 0), "grbg": (0, 1)}  # place of the red pixel
DEPTHS = {"16UC1": ("u2", 0.001), "32FC1": ("f4", 1.0), "64FC1": ("f8", 1.0)}
KNOWN = (*CHANNELS, *PACKED, *PLANAR, *(f"bayer_{order}{bits}" for order in BAYER for bits in (8, 16)))
VIDEO = ("h264", "h265", "hevc", "av1", "vp9", "avc")
LARGEST = 1 << 15


def encoding_of(value: Any) -> str:
    """The encoding of an image message, or the format of a compressed one; empty if it states none."""
    found = field_of(value, "encoding")
    found = field_of(value, "format") if found is None else found
    return "" if found is None else str(found)


def is_depth(topic: str, encoding: str) -> bool:
    """Whether the images of `topic` are depth by their encoding. ``mono16`` is depth where the topic's name says so."""
    stated = encoding.partition(";")[0].strip()
    return stated in DEPTHS or "compressedDepth" in encoding or (stated == "mono16" and "depth" in topic.lower())


def describe(encoding: str, options: BagOptions) -> str:
    """How images in `encoding` become RGB, for the table of an import; empty if their colors are kept."""
    known = encoding if encoding in KNOWN else encoding.partition(";")[0].strip()
    if known.startswith("bayer_"):
        squeezed = f", the upper 8 of {options.bits} bits" if known.endswith("16") else ""
        return f"{known}: colors interpolated bilinearly{squeezed}"
    if known in PACKED or known in PLANAR:
        return f"{known}: to RGB by BT.601, limited range"
    if known in CHANNELS and CHANNELS[known][1] == 2 and encoding == known:
        return f"{known}: the upper 8 of {options.bits} bits"
    if encoding in ("8UC3", "8UC4"):
        return f"{encoding}: colors in the order {options.color}, as given"
    if re.fullmatch(r"(rgb|bgr)a?8; *\w+ +compressed *", encoding):
        return f"colors as the picture states them; {encoding.strip()!r} does not name their order"
    return "one channel repeated" if known in ("mono8", "8UC1") else ""


def check_encoding(name: str, encoding: str, options: BagOptions) -> None:
    """Raise `DataError` for an encoding of images that cannot be read, or not without the user's word."""
    if encoding in ("8UC3", "8UC4") and options.color is None:
        raise DataError(
            f"{name} has pictures encoded as {encoding!r}, which does not state the order of their colors; "
            "give --set color=bgr (usual with cv_bridge) or color=rgb"
        )
    if is_depth(name, encoding):
        raise DataError(f"{name} has depth ({encoding!r}), not color; --set depth.NAME={name} takes it as a depth camera")
    if any(word in encoding.lower() for word in VIDEO):
        raise DataError(f"{name} has video ({encoding!r}), not pictures; expected jpeg, png or {', '.join(KNOWN)}")


def picture(name: str, value: Any, options: BagOptions) -> UInt8Array:
    """uint8 (h, w, 3) of an image message. Raises `DataError` for an encoding or a size that cannot be read."""
    data, encoding = _data(name, value), encoding_of(value)
    if field_of(value, "encoding") is None:
        return _decompressed(name, bytes(data), encoding)
    check_encoding(name, encoding, options)
    if encoding in PACKED:
        return _packed(_plane(name, value, data, 2), PACKED[encoding], name)
    if encoding in PLANAR:
        return _planar(_plane(name, value, data, 1, 1.5), _size(name, value, "height"), PLANAR[encoding], name)
    if encoding.startswith("bayer_") and encoding in KNOWN:
        mosaic = _plane(name, value, data, 2 if encoding.endswith("16") else 1)
        return _demosaiced(
            _eight(name, _wide(mosaic, value), options.bits) if encoding.endswith("16") else mosaic, encoding, name
        )
    if encoding not in CHANNELS:
        raise DataError(f"{name} has pictures encoded as {encoding[:80]!r}; expected {', '.join(KNOWN)}, or compressed ones")
    count, size, order = CHANNELS[encoding]
    plane = _plane(name, value, data, count * size)
    values = plane if size == 1 else _eight(name, _wide(plane, value), options.bits)
    pixels = values.reshape(len(values), -1, count)
    if count > 1 and not (order or options.color or "").startswith("bgr"):
        return np.ascontiguousarray(pixels[..., :3])
    return _reordered(pixels, (0, 0, 0) if count == 1 else (2, 1, 0))


def depth_picture(name: str, value: Any, meters_per_unit: float | None = None) -> FloatArray:
    """float32 (h, w) in meters of a depth image, 0 where it is unknown. Raises `DataError` for another encoding.

    Args:
        meters_per_unit: replaces the unit of the encoding: millimeters of integers, meters of floats.
    """
    data, encoding = _data(name, value), encoding_of(value)
    stated = encoding.partition(";")[0].strip()
    kind, scale = DEPTHS.get("16UC1" if stated == "mono16" else stated, ("", 0.0))
    if not kind:
        raise DataError(f"{name} has pictures encoded as {encoding!r}; expected depth: {', '.join(DEPTHS)}, or compressedDepth")
    scale = scale if meters_per_unit is None else meters_per_unit
    if field_of(value, "encoding") is None:
        meters = _decompressed_depth(name, bytes(data), encoding, stated == "32FC1", scale)
    else:
        item = np.dtype(kind).itemsize
        plane = np.ascontiguousarray(_plane(name, value, data, item))
        meters = plane.view(_ordered(kind, value)).astype(np.float64) * scale
    return np.where(np.isfinite(meters) & (meters > 0) & (meters < 1e6), meters, 0.0).astype(np.float32)


def _reordered(pixels: UInt8Array, channels: tuple[int, int, int]) -> UInt8Array:
    """Five times as fast as an index of channels."""
    out = np.empty((*pixels.shape[:2], 3), np.uint8)
    for place, channel in enumerate(channels):
        out[..., place] = pixels[..., channel]
    return out


def _data(name: str, value: Any) -> Any:
    data = field_of(value, "data")
    if isinstance(data, str):
        with reading(name, binascii.Error, ValueError):
            data = base64.b64decode(data, validate=True)
    if isinstance(data, list):
        with reading(name, ValueError, TypeError):
            data = bytes(data)
    if isinstance(data, np.ndarray) and data.dtype == np.uint8:
        data = data.tobytes()
    if not isinstance(data, bytes | bytearray | memoryview):
        raise DataError(f"{name}: a message has no picture in 'data'; it has {fields_of(value)}")
    return data


def _size(name: str, value: Any, label: str) -> int:
    found = field_of(value, label)
    if not isinstance(found, int | np.integer) or isinstance(found, bool) or not 0 < found <= LARGEST:
        raise DataError(f"{name}: a picture has {label} {str(found)[:40]!r}; expected 1 to {LARGEST}")
    return int(found)


def _plane(name: str, value: Any, data: Any, pixel_bytes: int, rows_by_height: float = 1.0) -> UInt8Array:
    """The bytes of a picture (rows, bytes of a row), without what pads its rows."""
    height, width = _size(name, value, "height"), _size(name, value, "width")
    rows, row = int(height * rows_by_height), width * pixel_bytes
    found = field_of(value, "step")
    step = int(found) if isinstance(found, int | np.integer) and not isinstance(found, bool) and found else row
    needed = step * (rows - 1) + row
    if step < row or len(data) < needed:
        raise DataError(
            f"{name}: a picture of {width}×{height} in {encoding_of(value)!r} has rows of {step} bytes and {len(data)} in all; "
            f"expected at least {row} and {max(needed, row * rows)}"
        )
    flat = np.frombuffer(data, np.uint8)[:needed]
    return np.lib.stride_tricks.as_strided(flat, (rows, row), (step, 1), writeable=False)


def _ordered(kind: str, value: Any) -> np.dtype[Any]:
    return np.dtype((">" if field_of(value, "is_bigendian") else "<") + kind)


def _wide(plane: UInt8Array, value: Any) -> np.ndarray:
    return np.ascontiguousarray(plane).view(_ordered("u2", value))


def _eight(name: str, values: np.ndarray, bits: int) -> UInt8Array:
    if values.size and int(values.max()) >> bits:
        raise DataError(f"{name} has pixels up to {int(values.max())}, more than {bits} bits; give --set bits=…, at most 16")
    return (values >> (bits - 8)).astype(np.uint8)


def _rgb(y: np.ndarray, u: np.ndarray, v: np.ndarray) -> UInt8Array:
    """BT.601, limited range. All three are (h, w)."""
    y, u, v = (np.asarray(part, np.float32) for part in (y, u, v))
    luma, u, v = 1.164383 * np.maximum(y - 16, 0), u - 128, v - 128
    channels = (luma + 1.596027 * v, luma - 0.391762 * u - 0.812968 * v, luma + 2.017232 * u)
    return np.rint(np.clip(np.stack(channels, -1), 0, 255)).astype(np.uint8)


def _even(name: str, size: int, label: str) -> None:
    if size % 2:
        raise DataError(f"{name}: a picture has {label} {size}; one that shares colors between two pixels has an even one")


def _packed(plane: UInt8Array, order: str, name: str) -> UInt8Array:
    width = plane.shape[1] // 2
    _even(name, width, "width")
    pairs = plane.reshape(len(plane), width // 2, 4)
    first = order.index("y")
    u, v = (np.repeat(pairs[..., order.index(letter)], 2, 1) for letter in "uv")
    return _rgb(pairs[..., first::2].reshape(len(plane), width), u, v)


def _planar(plane: UInt8Array, height: int, places: tuple[int, int], name: str) -> UInt8Array:
    width = plane.shape[1]
    _even(name, width, "width")
    _even(name, height, "height")
    colors = plane[height:].reshape(height // 2, width // 2, 2)
    u, v = (np.repeat(np.repeat(colors[..., place], 2, 0), 2, 1) for place in places)
    return _rgb(plane[:height], u, v)


def _demosaiced(mosaic: UInt8Array, encoding: str, name: str) -> UInt8Array:
    """Bilinear interpolation: each missing color is the mean of its nearest neighbors; the border is mirrored."""
    height, width = mosaic.shape
    if min(height, width) < 2:
        raise DataError(f"{name}: a picture of {width}×{height} is no Bayer mosaic; expected at least 2×2")
    row, column = BAYER[encoding[6:10]]
    y, x = np.mgrid[-1 : height + 1, -1 : width + 1]
    red = (y % 2 == row) & (x % 2 == column)
    blue = (y % 2 != row) & (x % 2 != column)
    padded = np.pad(mosaic, 1, mode="reflect").astype(np.float32)
    cross, square = ((0, 1, 0), (1, 4, 1), (0, 1, 0)), ((1, 2, 1), (2, 4, 2), (1, 2, 1))
    channels = []
    for mask, kernel in ((red, square), (~red & ~blue, cross), (blue, square)):
        part = padded * mask
        total = sum(
            weight * part[i : i + height, j : j + width] for i, line in enumerate(kernel) for j, weight in enumerate(line)
        )
        channels.append(total / 4)
    return np.rint(np.clip(np.stack(channels, -1), 0, 255)).astype(np.uint8)


def _decompressed(name: str, content: bytes, encoding: str) -> UInt8Array:
    """A compressed picture. `encoding` is ``"jpeg"``, or as image_transport has it, ``"bgr8; jpeg compressed bgr8"``."""
    check_encoding(name, encoding, BagOptions())
    pixels = decode_image(content, name)
    mosaic = re.match(r"bayer_(rggb|bggr|gbrg|grbg)8;", encoding)
    if mosaic and not re.search(r"compressed (bgr|rgb|mono)8", encoding):  # the mosaic itself was compressed
        return _demosaiced(pixels[..., 0], mosaic.group(0), name)
    return pixels


def _decompressed_depth(name: str, content: bytes, encoding: str, inverse: bool, scale: float) -> np.ndarray:
    """Meters of a PNG by compressed_depth_image_transport (12 bytes before it) or by compressed_image_transport (none)."""
    if "rvl" in encoding.lower():
        raise DataError(f"{name} has depth compressed by RVL, which is not read; expected PNG: republish it with format png")
    a = b = 0.0
    if "compressedDepth" in encoding:
        if len(content) < 12:
            raise DataError(f"{name}: a message of compressedDepth has {len(content)} bytes; expected a header of 12 and a PNG")
        _, a, b = struct.unpack("<iff", content[:12])
        content = content[12:]
    elif inverse:
        raise DataError(f"{name} has depth in floats as {encoding!r}; expected '32FC1; compressedDepth png'")
    with reading(name, *picture_errors()), opened_picture(content, name) as image:
        if not image.mode.startswith("I"):
            raise DataError(f"{name} has depth in a picture of mode {image.mode}; expected 16 bits, one channel")
        values = np.asarray(image).astype(np.float64)
    if not inverse:
        return values * scale
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values > 0, a / (values - b), 0.0)
