"""Converts images of other formats to those of the native format: uint8 RGB (t, h, w, 3)."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from verbot.errors import CorruptFileError, DataError
from verbot.spec import UInt8Array

FLOATS = ("auto", "unit", "signed", "byte")


def decode_image(content: bytes, name: object) -> UInt8Array:
    """Decode a JPEG, PNG, … to uint8 (h, w, 3). Raises `CorruptFileError` unless it is a complete image of 8 bits."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as picture:
            if picture.mode.startswith(("I", "F")):
                raise CorruptFileError(name, f"is a picture of mode {picture.mode}, such as depth; expected 8 bits a channel")
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CorruptFileError(name, f"is not a whole picture ({error}; {len(content)} bytes)") from error


def decode_all(contents: Iterable[bytes], name: object) -> UInt8Array:
    """Decode images of one size to (t, h, w, 3). Raises `DataError` naming the first whose size differs."""
    return stack([decode_image(content, f"{name}, frame {number}") for number, content in enumerate(contents)], name)


def stack(frames: list[UInt8Array], name: object) -> UInt8Array:
    """Stack images (h, w, 3) to (t, h, w, 3). Raises `DataError` if their sizes differ."""
    if not frames:
        raise DataError(f"{name} has no frames")
    odd = next((number for number, frame in enumerate(frames) if frame.shape != frames[0].shape), None)
    if odd is not None:
        sizes = [f"{frames[number].shape[0]}×{frames[number].shape[1]}" for number in (0, odd)]
        raise DataError(f"{name}: frame 0 is {sizes[0]} and frame {odd} is {sizes[1]}; a camera has one size")
    return np.stack(frames)


def read_video(path: Path) -> UInt8Array:
    """Every frame of a video file, (t, h, w, 3)."""
    import av

    try:
        with av.open(str(path)) as container:
            frames: list[UInt8Array] = [
                np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)
            ]
            return stack(frames, path)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise CorruptFileError(path, f"is not a whole video ({error})") from error


def frames_of(values: np.ndarray, name: object, floats: str = "auto") -> UInt8Array:
    """Convert images in an array (t, h, w, c), (t, c, h, w) or (t, h, w) to uint8 (t, h, w, 3).

    One channel is repeated; a fourth channel (alpha) is dropped. If the last dimension is not 1, 3 or 4, channels come first.

    Args:
        floats: the range of floats. ``"unit"`` is 0..1, ``"signed"`` is −1..1, ``"byte"`` is 0..255. ``"auto"`` decides by all
            `values`: byte if some are above 1, otherwise signed if some are negative, otherwise unit. Frames in −1..1 without a
            negative pixel therefore need ``"signed"``.

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


def _scaled(values: np.ndarray, name: object, floats: str) -> UInt8Array:
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not np.isfinite([low, high]).all():
        raise DataError(f"{name} has pixels that are not finite")
    if not np.issubdtype(values.dtype, np.floating):
        floats = "byte"
    elif floats == "auto":
        floats = "byte" if high > 1 else "signed" if low < 0 else "unit"
    scale, offset = {"unit": (255.0, 0.0), "signed": (127.5, 127.5), "byte": (1.0, 0.0)}[floats]
    if low * scale + offset < -1e-3 or high * scale + offset > 255.001:
        raise DataError(f"{name} has {values.dtype} pixels from {low:g} to {high:g}; expected 0..1, −1..1 or 0..255")
    return np.rint(np.clip(values.astype(np.float32) * scale + offset, 0, 255)).astype(np.uint8)
