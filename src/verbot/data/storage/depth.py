"""Depth cameras: how a recording holds meters, and their frames as float32 meters.

LeRobot stores depth as a video of 12-bit codes, quantized in the logarithm of the depth, or as 16-bit and float pictures.
A video of 8 bits (a colored or gray rendering of depth) holds no distances and is never read as depth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from verbot.data.storage.decoding import open_picture, picture_errors
from verbot.data.storage.info import is_number
from verbot.errors import CorruptFileError
from verbot.spec import FloatArray

UNITS = {"mm": 1e-3, "m": 1.0}  # meters
CODES = 4095  # the largest code of 12 bits
# LeRobot's quantizer where info.json does not say otherwise, in meters.
NEAREST, FARTHEST, SHIFT = 0.01, 10.0, 3.5
PICTURE_MODES = ("I;16", "I;16L", "I;16B", "I", "F")


@dataclass(frozen=True)
class DepthCode:
    """How stored numbers stand for meters.

    Args:
        quantized: whether they are LeRobot's 12-bit codes; otherwise multiples of `unit_m`.
        unit_m: the unit in meters.
        nearest, farthest, shift: of the quantizer, in meters; the codes are equal steps of ``log(depth + shift)``, or of the
            depth without `logarithmic`.
        problem: why the feature cannot be read as depth; empty if it can.
    """

    quantized: bool = False
    unit_m: float = 1e-3
    nearest: float = NEAREST
    farthest: float = FARTHEST
    shift: float = SHIFT
    logarithmic: bool = True
    problem: str = ""

    def meters(self, values: np.ndarray) -> FloatArray:
        """float32 meters of stored numbers of any shape; 0, and what lies at or below `nearest`, is 0: unknown.

        Example:
            >>> DepthCode(quantized=True).meters(np.array([0, 4095])).round(3).tolist()
            [0.0, 10.0]
        """
        if not self.quantized:
            return (values * np.float64(self.unit_m)).astype(np.float32)
        low, high = self.nearest, self.farthest
        if self.logarithmic:
            low, high = np.log(low + self.shift), np.log(high + self.shift)
        table = low + np.arange(CODES + 1) * ((high - low) / CODES)
        table = np.clip(np.exp(table) - self.shift if self.logarithmic else table, self.nearest, self.farthest)
        table[0] = 0.0
        return cast(FloatArray, table.astype(np.float32)[np.minimum(values, CODES)])


def picture_info(feature: Mapping[str, Any]) -> dict[str, Any]:
    """What ``info.json`` says of the pictures of a camera feature; in version 2.0 under ``"video_info"``."""
    return {**(feature.get("video_info") or {}), **(feature.get("info") or {})}


def depth_code(feature: Mapping[str, Any]) -> DepthCode | None:
    """How a camera feature of ``info.json`` holds depth; None for a color camera."""
    info = picture_info(feature)
    pixels = str(info.get("video.pix_fmt") or "")
    deep = pixels.startswith(("gray10", "gray12", "gray14", "gray16", "grayf"))
    if not (info.get("is_depth_map") is True or info.get("video.is_depth_map") is True or deep):
        return None
    unit = info.get("depth_unit")
    if feature["dtype"] == "image" or pixels.startswith(("gray16", "grayf")):
        if isinstance(unit, str) and unit in UNITS:
            return DepthCode(unit_m=UNITS[unit])
        return DepthCode(problem=f"has the depth unit {unit!r}; write info.depth_unit, mm or m, into meta/info.json")
    if pixels and not pixels.startswith("gray12") and not pixels.startswith("yuv420p12"):
        return DepthCode(problem=f"is depth in {pixels}, whose pixels are no distances; 12 or 16 bits are needed")
    numbers = [
        info.get(f"video.{key}", value) for key, value in (("depth_min", NEAREST), ("depth_max", FARTHEST), ("shift", SHIFT))
    ]
    logarithmic = info.get("video.use_log", True)
    good = all(map(is_number, numbers)) and isinstance(logarithmic, bool) and numbers[0] < numbers[1]
    if not good or (logarithmic and numbers[0] + numbers[2] <= 0):
        return DepthCode(problem=f"has a quantizer that is not as expected: {numbers}, use_log {logarithmic!r}")
    return DepthCode(True, 1e-3, float(numbers[0]), float(numbers[1]), float(numbers[2]), logarithmic)


def depth_pictures(
    cells: Iterable[tuple[int, bytes]], path: object, code: DepthCode, size: tuple[int, int] | None = None
) -> FloatArray:
    """Pictures of 16 bits or of floats, as they are stored, each with its frame, in meters: float32 (t, h, w).

    Args:
        size: (height, width) that they must have, if known; one of another size is not unpacked.
    """
    frames = []
    for number, cell in cells:
        try:
            picture = open_picture(cell, path, number, size)
            values = np.asarray(picture)
        except picture_errors() as error:
            raise CorruptFileError(path, f"holds a picture that cannot be decoded at frame {number} ({error})") from error
        if picture.mode not in PICTURE_MODES:
            raise CorruptFileError(path, f"holds {picture.mode} pictures; depth has 16 bits or floats a pixel")
        frames.append(code.meters(values))
    if len({frame.shape for frame in frames}) != 1:
        raise CorruptFileError(path, f"holds depth pictures of {len({frame.shape for frame in frames})} sizes in one episode")
    return np.stack(frames)
