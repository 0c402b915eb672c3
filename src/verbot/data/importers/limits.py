"""How much of a source is held in memory at once, so that a small file cannot ask for much of it.

Compressed data, and shapes in metadata, may promise any size. The promise is compared with these limits before anything is
decoded: one item (a picture, a message, a chunk, a row) with `PIXELS` and `ITEM_BYTES`, all decoded values of an episode with
`EPISODE_BYTES`, which an import may raise (`ImportConfig.max_episode_gb`).
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from verbot.errors import CorruptFileError, DataError

PIXELS = 1 << 26  # of a picture, or of a frame of a video
ITEM_BYTES = 1 << 28  # of a message, a chunk, a member of an archive, or a row
RECORD_BYTES = 1 << 30  # of a TFRecord, which holds a whole episode, compressed pictures and all
TEXT_BYTES = 1 << 26  # of the texts of one field of an episode
DOCUMENT_BYTES = 1 << 24  # of metadata in JSON
EPISODE_BYTES = 8 << 30
DEFLATE = 1032  # deflate expands its input at most so many times
EXPANDED_BYTES = 1 << 26  # of a compressed message or chunk, or as many as `RATIO` allows
RATIO, SMALL_BYTES = 200, 1 << 30  # a compressed file of recordings expands so many times at most, or to so many bytes
PIECE = 1 << 20
TRAILER = 4  # bytes of a checksum after a compressed stream


@dataclass
class _Room:
    """What is left for the episode that is read, and the size of the pictures that its camera is declared to have."""

    total: int
    left: int
    size: tuple[int, int] | None = None


_room: ContextVar[_Room | None] = ContextVar("room", default=None)


@contextlib.contextmanager
def episode_room(total: int) -> Iterator[None]:
    """Within this, `take` counts the bytes of one episode, of which there may be `total`."""
    token = _room.set(_Room(total, total))
    try:
        yield
    finally:
        _room.reset(token)


@contextlib.contextmanager
def other_episode() -> Iterator[None]:
    """Within this, `take` counts what is read of another episode, such as the first one, apart from the present one."""
    room = _room.get()
    with episode_room(EPISODE_BYTES if room is None else room.total):
        yield


@contextlib.contextmanager
def pictures_of_size(height: int, width: int) -> Iterator[None]:
    """Within an `episode_room`, pictures of another size are refused before they are decoded."""
    room = _room.get()
    if room is None:
        yield
        return
    room.size = (height, width)
    try:
        yield
    finally:
        room.size = None


def take(size: int, name: object) -> None:
    """Count `size` bytes of decoded values that the episode is about to hold.

    Raises `DataError` naming `name` if the episode would then hold more than it may.
    """
    room = _room.get() or _Room(EPISODE_BYTES, EPISODE_BYTES)
    if size > room.left:
        raise DataError(
            f"{name} would bring the episode to {_amount(room.total - room.left + size)}; "
            f"at most {_amount(room.total)} of decoded values are read (--max-episode-gb allows more)"
        )
    room.left -= size


def room_left() -> int:
    """How many bytes of decoded values the episode may still hold."""
    room = _room.get()
    return EPISODE_BYTES if room is None else room.left


def check_chunk(shape: Sequence[int], chunk: Sequence[int], itemsize: int, name: object) -> int:
    """The bytes of one chunk of an array in chunks, which is decoded as a whole.

    Raises `DataError` unless they are few, or all of them values of the array that the episode has room for.
    """
    size = itemsize * math.prod(map(int, chunk))
    used = itemsize * math.prod(int(min(pair)) for pair in zip(shape, chunk, strict=True))
    most = max(ITEM_BYTES, min(2 * used, room_left()))
    if size > most:
        raise DataError(
            f"{name} has chunks of {_amount(size)}; at most {_amount(most)} are read, or chunks within its shape "
            "for which the episode has room (--max-episode-gb allows more)"
        )
    return size


def check_item(size: int, name: object, what: str, most: int = ITEM_BYTES) -> None:
    """Raise `DataError` unless one item of `size` bytes, such as ``"a message"``, may be read."""
    if size > most:
        raise DataError(f"{name} has {what} of {_amount(size)}; at most {_amount(most)} are read")


def check_picture(width: int, height: int, name: object) -> None:
    """Raise `DataError` for a picture that is too large, or of another size than its camera, by its header alone."""
    if width * height > PIXELS:
        raise DataError(f"{name} is a picture of {height}×{width} pixels; at most {PIXELS >> 20} megapixels are read")
    room = _room.get()
    if room is not None and room.size is not None and room.size != (height, width):
        expected = f"{room.size[0]}×{room.size[1]}"
        raise DataError(f"{name} is a picture of {height}×{width} pixels; those of its camera have {expected}")


def unzstd(content: bytes, name: object, most: int = ITEM_BYTES) -> bytes:
    """Decompress one zstd frame.

    Raises `DataError` if it holds more than `most`, or more than `EXPANDED_BYTES` and `RATIO` times its size, and zstandard's own
    errors for damage.
    """
    import zstandard

    most = min(most, max(EXPANDED_BYTES, RATIO * len(content)))

    stated = zstandard.frame_content_size(content)
    check_item(max(stated, 0), name, "a compressed part", most)
    return zstandard.ZstdDecompressor(max_window_size=1 << 27).decompress(content, max_output_size=most)


def unzlib(content: bytes, name: object, most: int, window: int = zlib.MAX_WBITS) -> bytes:
    """Decompress a zlib stream. Raises `DataError` if it holds more than `most` bytes, `zlib.error` for damage."""
    inflater = zlib.decompressobj(window)
    found = inflater.decompress(content, most + 1)
    check_item(len(found), name, "a compressed part", most)
    if not inflater.eof:
        raise zlib.error("the stream is cut short")
    return found


def check_inflated(content: bytes, name: object, most: int, window: int = zlib.MAX_WBITS | 32) -> None:
    """Raise `DataError` if a gzip or zlib stream expands to more than `most` bytes; it is decompressed only where it might.

    Raises `CorruptFileError` where it is damaged or, unless it is followed by at most `TRAILER` bytes, by more: the streams that
    gzip joins would each expand.
    """
    if len(content) * DEFLATE <= most:
        return
    inflater, place, size, view = zlib.decompressobj(window), 0, 0, memoryview(content)
    while place < len(view) and not inflater.eof:
        part = view[place : place + PIECE]
        try:
            size += len(inflater.decompress(part, PIECE))
        except zlib.error as error:
            raise CorruptFileError(name, f"cannot be decompressed ({error})") from error
        check_item(size, name, "a compressed chunk", most)
        place += len(part) - len(inflater.unused_data if inflater.eof else inflater.unconsumed_tail)
    if inflater.eof and len(view) - place > TRAILER:
        raise CorruptFileError(name, f"has {len(view) - place} bytes after its compressed content; expected one stream alone")


def most_expanded(size: int) -> int:
    """How many bytes a compressed file of `size` bytes may expand to."""
    return max(SMALL_BYTES, RATIO * size)


def _amount(size: int) -> str:
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size} bytes"
