"""Pictures of Pillow's decoders, and what they raise for damaged ones."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

from verbot.errors import CorruptFileError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")  # others start programs, such as Ghostscript
DAMAGED = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, MemoryError, struct.error, zlib.error)


def picture_errors() -> tuple[type[Exception], ...]:
    """Every error of opening and decoding a damaged picture, also of one that claims to be too large."""
    from PIL import Image

    return (*DAMAGED, Image.DecompressionBombError)


def open_picture(content: bytes, path: object, frame: int, size: tuple[int, int] | None) -> Image:
    """A picture that is not unpacked yet. Raises `CorruptFileError` for one of another (height, width) than `size`, if known."""
    from PIL import Image

    picture = Image.open(io.BytesIO(content), formats=FORMATS)
    if size is not None and (picture.height, picture.width) != size:
        found, expected = f"{picture.height}×{picture.width}", "×".join(map(str, size))
        raise CorruptFileError(path, f"has pictures of {found} (frame {frame}); meta/info.json says {expected}")
    return picture
