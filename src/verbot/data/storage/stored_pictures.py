"""Pictures that are stored one by one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from verbot.data.storage.decoding import open_picture, picture_errors
from verbot.data.storage.depth import DepthCode, depth_pictures
from verbot.errors import CorruptFileError
from verbot.spec import FloatArray, UInt8Array

COLOR_MODES = ("RGB", "RGBA", "RGBX", "L", "LA", "P", "PA", "1", "CMYK", "YCbCr")


def stored_pictures(
    cells: Iterable[tuple[int, bytes]], path: object, key: str, code: DepthCode | None, size: tuple[int, int] | None = None
) -> UInt8Array | FloatArray:
    """Decoded pictures: uint8 RGB (t, h, w, 3), or float32 (t, h, w) meters of depth. Raises as `color_pictures`.

    Args:
        cells: the encoded pictures, each with its frame.
        size: (height, width) that they must have, if known; one of another size is not unpacked.
    """
    return color_pictures(cells, path, key, size) if code is None else depth_pictures(cells, path, code, size)


def color_pictures(cells: Iterable[tuple[int, bytes]], path: object, key: str, size: tuple[int, int] | None = None) -> UInt8Array:
    """Encoded pictures (PNG, JPEG, …) as uint8 RGB (t, h, w, 3).

    Raises `CorruptFileError` for one that cannot be decoded, for depth (16 bits a pixel), and for two sizes.
    """
    frames: list[UInt8Array] = []
    for number, cell in cells:
        try:
            picture = open_picture(cell, path, number, size)
            if picture.mode not in COLOR_MODES:
                raise CorruptFileError(
                    path,
                    f"feature {key!r} holds {picture.mode} pictures, which are no colors; if it is depth, write "
                    f'"info": {{"is_depth_map": true, "depth_unit": "mm"}} to it in meta/info.json',
                )
            frames.append(np.asarray(picture.convert("RGB")))
        except picture_errors() as error:
            raise CorruptFileError(
                path, f"feature {key!r} has a picture that cannot be decoded at frame {number} ({error})"
            ) from error
        if frames[-1].shape != frames[0].shape:
            sizes = " and ".join(f"{frame.shape[0]}×{frame.shape[1]}" for frame in (frames[0], frames[-1]))
            raise CorruptFileError(path, f"feature {key!r} has pictures of {sizes} in one episode (frame {number})")
    return np.stack(frames)
