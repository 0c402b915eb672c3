"""Converts images of other formats to those of the native format: uint8 RGB (t, h, w, 3), depth float32 (t, h, w) in meters."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.importers.limits import PIXELS, check_picture, other_episode, room_left, take
from verbot.data.storage.containers import open_video
from verbot.data.storage.decoding import FORMATS, picture_errors
from verbot.errors import ConfigError, CorruptFileError, DataError
from verbot.spec import FloatArray, UInt8Array

FLOATS = ("auto", "unit", "signed", "byte")
SCALES = {"unit": (255.0, 0.0), "signed": (127.5, 127.5), "byte": (1.0, 0.0)}  # factor and offset to 0..255
SCALED = {"unit": "times 255", "signed": "(x + 1) × 127.5", "byte": "rounded"}
MANY = 8  # different levels of pictures that are not synthetic
SAMPLED = 1 << 20  # at most about so many floats are compared with the levels of 8 bits


def decode_image(content: bytes, name: object) -> UInt8Array:
    """Decode a JPEG, PNG, … to uint8 (h, w, 3). Raises `CorruptFileError` unless it is a complete image of 8 bits.

    Its size is compared with the limits before it is decoded.
    """
    try:
        with opened_picture(content, name) as picture:
            if picture.mode.startswith(("I", "F")):
                raise CorruptFileError(name, f"is a picture of mode {picture.mode}, such as depth; expected 8 bits a channel")
            return np.asarray(picture.convert("RGB"))
    except picture_errors() as error:
        raise CorruptFileError(name, f"is not a whole picture ({error}; {len(content)} bytes)") from error


def decode_depth(contents: Iterable[bytes], name: object, scale: float) -> FloatArray:
    """Decode depth pictures of one channel (16-bit PNG, TIFF, …) to (t, h, w) in meters; `scale` as for `depth_of`."""
    return depth_of(stack((decode_plane(content, f"{name}, frame {i}") for i, content in enumerate(contents)), name), name, scale)


def decode_plane(content: bytes, name: object) -> np.ndarray:
    """Decode a picture to its stored numbers, such as uint16 (h, w). Raises `CorruptFileError` unless it is complete."""
    try:
        with opened_picture(content, name) as picture:
            return np.asarray(picture)
    except picture_errors() as error:
        raise CorruptFileError(name, f"is not a whole picture ({error}; {len(content)} bytes)") from error


def depth_of(values: np.ndarray, name: object, scale: float) -> FloatArray:
    """Depth (t, h, w) or (t, h, w, 1) in meters: float32 (t, h, w), 0 where it is unknown.

    Args:
        scale: meters per unit.

    Raises `DataError` for another shape.
    """
    if values.ndim == 4 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3 or values.dtype.kind not in "biuf":
        raise DataError(f"{name} is {values.dtype} {values.shape}; expected depth (t, h, w)")
    meters = values.astype(np.float32) * np.float32(scale)
    return np.where(np.isfinite(meters), meters, np.float32(0))


def decode_all(contents: Iterable[bytes], name: object) -> UInt8Array:
    """Decode images of one size to (t, h, w, 3). Raises `DataError` naming the first whose size differs."""
    return stack((decode_image(content, f"{name}, frame {number}") for number, content in enumerate(contents)), name)


def stack(frames: Iterable[np.ndarray], name: object) -> np.ndarray:
    """Stack images (h, w, …) to (t, h, w, …); only one of `frames` is asked for at a time.

    Raises `DataError` if their sizes differ, or if they are more than an episode may hold.
    """
    found: list[np.ndarray] = []
    for number, frame in enumerate(frames):
        if found and frame.shape != found[0].shape:
            sizes = [f"{shape[0]}×{shape[1]}" for shape in (found[0].shape, frame.shape)]
            raise DataError(f"{name}: frame 0 is {sizes[0]} and frame {number} is {sizes[1]}; a camera has one size")
        take(frame.nbytes, name)
        found.append(frame)
    if not found:
        raise DataError(f"{name} has no frames")
    return np.stack(found)


@contextlib.contextmanager
def opened_picture(content: bytes, name: object) -> Iterator[Any]:
    """An encoded picture, not decoded yet, whose size is within the limits; Pillow's errors are not caught.

    Raises `DataError` for one that is too large or of another size than its camera.
    """
    from PIL import Image

    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):  # its size is checked here
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            check_picture(*picture.size, name)
            yield picture


def repeated_image(content: bytes, name: object, count: int) -> list[UInt8Array]:
    """The same decoded picture `count` times. Raises `DataError`, before it is decoded, if the episode has no room for them."""
    with contextlib.suppress(*picture_errors()), opened_picture(content, name) as picture:  # decoding it names the fault
        if (size := 3 * math.prod(picture.size) * count) > room_left():
            take(size, name)
    return [decode_image(content, name)] * count


def video_frames(path: Path) -> Iterator[UInt8Array]:
    """The frames of a video file, (h, w, 3). Raises `CorruptFileError` if it cannot be decoded to its end."""
    import av

    try:
        with open_video(path) as container:
            stream = container.streams.video[0]
            check_picture(stream.codec_context.width, stream.codec_context.height, path)
            stream.codec_context.options = {"max_pixels": str(PIXELS)}
            for frame in container.decode(stream):
                check_picture(frame.width, frame.height, path)  # the size may change within the stream
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    except (av.FFmpegError, OSError, ValueError, IndexError) as error:
        raise CorruptFileError(path, f"is not a whole video ({error})") from error


def frames_of(values: np.ndarray, name: object, floats: str = "auto") -> UInt8Array:
    """Convert images in an array (t, h, w, c), (t, c, h, w) or (t, h, w) to uint8 (t, h, w, 3).

    One channel is repeated; a fourth channel (alpha) is dropped. If the last dimension is not 1, 3 or 4, channels come first.

    Args:
        floats: the range of floats. ``"unit"`` is 0..1, ``"signed"`` is −1..1, ``"byte"`` is 0..255. ``"auto"`` decides by
            `values`, as `float_range` does.

    Raises `DataError` for any other shape or range.
    """
    if floats not in FLOATS:
        raise DataError(f"floats must be one of {', '.join(FLOATS)}; got {floats!r}")
    if values.ndim == 3:
        values = values[..., None]
    if values.ndim != 4:
        raise DataError(f"{name} has shape {values.shape}; expected pictures (t, h, w, 3)")
    if values.shape[-1] not in (1, 3, 4) and values.shape[1] in (1, 3, 4):
        values = np.moveaxis(values, 1, -1)
    if values.shape[-1] not in (1, 3, 4):
        raise DataError(f"{name} has shape {values.shape}; expected 1, 3 or 4 channels")
    values = values[..., :3] if values.shape[-1] != 1 else np.repeat(values, 3, -1)
    return values if values.dtype == np.uint8 else _scaled(values, name, floats)


def float_range(values: np.ndarray, name: object) -> tuple[str, str]:
    """The range of the floats of pictures (``"unit"``, ``"signed"`` or ``"byte"``), and the evidence for it.

    Pictures that were made from 8 bits lie on the levels of one range. Otherwise negative values are evidence for −1..1, values
    above 2 for 0..255, and dark values in 0..1 for that. Raises `DataError` where there is no evidence.
    """
    if values.dtype.kind != "f":
        return "byte", "integers"
    low, high = _bounds(values, name)
    sample = values.reshape(-1)[:: max(1, values.size // SAMPLED)].astype(np.float64)
    tolerance = 0.15 if values.dtype == np.float16 else 1e-3
    if low >= 0 and high <= 1:
        levels = np.rint(sample * 255)
        if np.abs(sample * 255 - levels).max(initial=0) <= tolerance:
            odd = bool((levels % 2 == 1).all())  # so are those of 8 bits in −1..1: k / 127.5 − 1 is (2 k − 255) / 255
            if not odd or low == 1:
                return "unit", "every value is k / 255"
            if len(np.unique(levels)) >= MANY:
                return "signed", "every value is k / 127.5 - 1"
        if low < 0.1:
            return "unit", f"values from {low:.2g} to {high:.2g}"
    elif -1.001 <= low < 0 and high <= 1.001:
        return "signed", f"values from {low:.2g} to {high:.2g}"
    elif low >= 0 and 2 < high <= 255.001:
        return "byte", f"values up to {high:.3g}"
    elif low < 0 or high > 255.001:
        raise DataError(f"{name} has {values.dtype} pixels from {low:g} to {high:g}; expected 0..1, −1..1 or 0..255")
    raise DataError(
        f"{name} has {values.dtype} pixels from {low:g} to {high:g}, which may be 0..1, −1..1 or 0..255; "
        "give the range: floats=unit, signed or byte"
    )


class FloatRanges:
    """The range of the float pictures of each field, one for all episodes of a source.

    Args:
        floats: as for `frames_of`; ``"auto"`` decides by the first episode that shows the range.
        readers: for a field, what reads its stored pictures in each episode, in the order of the source.

    Raises `ConfigError` for another value of `floats`.
    """

    def __init__(self, floats: str, readers: Callable[[str], Iterable[Callable[[], np.ndarray]]]):
        if floats not in FLOATS:
            raise ConfigError(f"floats must be one of {', '.join(FLOATS)}; got {floats!r}")
        self._floats, self._readers, self._found = floats, readers, dict[str, tuple[str, str]]()

    def of(self, field: str) -> tuple[str, str]:
        """The range (``"unit"``, ``"signed"`` or ``"byte"``) and the evidence for it. Raises `DataError` without evidence."""
        if self._floats != "auto":
            return self._floats, f"floats={self._floats}"
        if field not in self._found:
            self._found[field] = self._first(field)
        return self._found[field]

    def _first(self, field: str) -> tuple[str, str]:
        problem: DataError | None = None
        for read in self._readers(field):
            try:
                with other_episode():
                    found, evidence = float_range(read(), field)
                return found, f"floats: {evidence}"
            except DataError as error:
                problem = problem or error
        raise problem or DataError(f"no episode has readable pictures {field!r}")


def _bounds(values: np.ndarray, name: object) -> tuple[float, float]:
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not np.isfinite([low, high]).all():
        raise DataError(f"{name} has pixels that are not finite")
    return low, high


def _scaled(values: np.ndarray, name: object, floats: str) -> UInt8Array:
    if values.dtype.kind not in "biuf":
        raise DataError(f"{name} has pixels of {values.dtype}; expected numbers")
    low, high = _bounds(values, name)
    if not np.issubdtype(values.dtype, np.floating):
        floats = "byte"
    elif floats == "auto":
        floats, _ = float_range(values, name)
    scale, offset = SCALES[floats]
    if low * scale + offset < -1e-3 or high * scale + offset > 255.001:
        raise DataError(f"{name} has {values.dtype} pixels from {low:g} to {high:g}; expected 0..1, −1..1 or 0..255")
    return np.rint(np.clip(values.astype(np.float32) * scale + offset, 0, 255)).astype(np.uint8)
