"""Camera frames as PNG, one of each frame: colors exactly, depth in whole millimeters."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from verbot.errors import DataError

FARTHEST_M = 65.535  # the largest depth that 16 bits of millimeters hold


@dataclass(frozen=True)
class EncodedImages:
    """The frames of one camera of one episode as they are stored, so that they can be copied without decoding.

    Args:
        video: an mp4 file of them; None if `pictures` holds them.
        pictures: a PNG of each frame.
        statistics: in LeRobot's form (see `verbot.data.storage.dataset_statistics.image_statistics`).
    """

    video: bytes | None = None
    pictures: Sequence[bytes] = ()
    statistics: Mapping[str, Any] = field(default_factory=dict)


def encode_pictures(frames: np.ndarray) -> list[bytes]:
    """A PNG of each frame: uint8 RGB (t, h, w, 3), or depth in meters, float32 (t, h, w), rounded to whole millimeters."""
    from PIL import Image

    stored: np.ndarray = frames if frames.ndim == 4 else millimeters(frames)
    out = []
    for frame in stored:
        sink = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(frame)).save(sink, "PNG", compress_level=3)
        out.append(sink.getvalue())
    return out


def check_depth(depth_m: np.ndarray, camera: str) -> None:
    """Raise `DataError` for a depth (t, h, w) in meters that is not finite, negative, or above `FARTHEST_M`."""
    wrong = ~((depth_m >= 0) & (depth_m <= FARTHEST_M + 0.0004))
    if wrong.any():
        frame, row, column = np.argwhere(wrong)[0]
        raise DataError(
            f"camera {camera!r} gave a depth of {depth_m[frame, row, column]} m at frame {frame}, row {row}, column {column}; "
            f"expected 0 (unknown) to {FARTHEST_M} m"
        )


def millimeters(depth_m: np.ndarray) -> np.ndarray:
    """Depth in meters, float32 (t, h, w), as uint16 in millimeters; off by at most 0.5 mm."""
    return np.rint(depth_m.astype(np.float64) * 1000).astype(np.uint16)
