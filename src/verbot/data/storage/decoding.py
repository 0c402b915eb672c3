"""What Pillow's decoders raise for damaged pictures."""

from __future__ import annotations

import struct
import zlib

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")  # others start programs, such as Ghostscript
DAMAGED = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, MemoryError, struct.error, zlib.error)


def picture_errors() -> tuple[type[Exception], ...]:
    """Every error of opening and decoding a damaged picture, also of one that claims to be too large."""
    from PIL import Image

    return (*DAMAGED, Image.DecompressionBombError)
