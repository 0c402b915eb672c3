"""How far a compressed piece of a zarr array would expand, by its header where that says so."""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Sequence
from typing import Protocol

from verbot.data.importers.limits import PIECE, TRAILER, check_inflated, check_item
from verbot.errors import CorruptFileError

BLOSC_HEAD, LZ4_HEAD = 16, 4  # bytes
COMPRESSORS = ("blosc", "lz4", "zstd", "gzip", "zlib", "bz2", "lzma")
PICTURES = "imagecodecs_"  # codecs that decode one picture
CHECKSUM = "crc32c"  # after the compressor, in format 3
# Codecs that do not expand what they decode, or that read texts, which have no size of their own.
PLAIN = (
    "bytes", "endian", "transpose", "crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3", "shuffle", "delta",
    "fixedscaleoffset", "quantize", "bitround", "astype", "packbits", "vlen-utf8", "vlen-bytes", "json2",
)  # fmt: skip


class Expander(Protocol):
    @property
    def unused_data(self) -> bytes: ...

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def codec_of(codecs: Sequence[str], name: object) -> str:
    """The compressor among an array's codecs, with ``+crc32c`` if a checksum follows it; empty if there is none.

    Raises `CorruptFileError` for unknown codecs, and for chains whose pieces could expand more than once.
    """
    short = [codec.removeprefix("numcodecs.") for codec in codecs]
    packing = [number for number, codec in enumerate(short) if codec not in PLAIN]
    if not packing:
        return ""
    codec, after = short[packing[0]], short[packing[0] + 1 :]
    if codec not in COMPRESSORS and not codec.startswith(PICTURES):
        raise CorruptFileError(name, f"is stored by the codec {codec[:40]!r}; expected {', '.join(COMPRESSORS)}: write it again")
    if after not in ([], [CHECKSUM]):
        chain = ", ".join(short)[:200]
        raise CorruptFileError(name, f"has the codecs {chain}; expected one compressor, and at most {CHECKSUM} after it")
    return f"{codec}+{CHECKSUM}" if after else codec


def check_piece(codec: str, content: bytes, name: object, most: int) -> None:
    """Raise `DataError` for a piece that expands to more than `most` bytes, `CorruptFileError` where its header is wrong.

    Args:
        codec: what `codec_of` says. Pictures are not checked.
    """
    if codec.endswith(f"+{CHECKSUM}"):
        codec, content = codec.removesuffix(f"+{CHECKSUM}"), content[:-TRAILER]
    if codec == "blosc":
        stated = int.from_bytes(content[12:16], "little")
        if len(content) < BLOSC_HEAD or len(content) != stated:  # blosc would read on in memory
            raise CorruptFileError(name, f"has {len(content)} bytes; its header says {stated}")
        check_item(int.from_bytes(content[4:8], "little"), name, "a compressed piece", most)
    elif codec == "lz4":
        check_item(int.from_bytes(content[:LZ4_HEAD], "little"), name, "a compressed piece", most)
    elif codec == "zstd":
        _check_zstd(content, name, most)
    elif codec in ("gzip", "zlib"):
        check_inflated(content, name, most)
    elif codec == "bz2":
        _check_expanded(bz2.BZ2Decompressor(), content, name, most)
    elif codec == "lzma":
        _check_expanded(lzma.LZMADecompressor(memlimit=1 << 28), content, name, most)


def _check_zstd(content: bytes, name: object, most: int) -> None:
    stated = _zstd_size(content)
    if stated is not None:
        check_item(stated, name, "a compressed piece", most)
        return
    try:
        import zstandard
    except ImportError:  # the extra zarr does not need it
        return
    size = 0
    try:
        with zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True) as stream:
            while piece := stream.read(PIECE):
                size += len(piece)
                check_item(size, name, "a compressed piece", most)
    except zstandard.ZstdError as error:
        raise CorruptFileError(name, f"cannot be decompressed ({error})") from error


def _zstd_size(content: bytes) -> int | None:
    """The size of the content in the header of a zstd frame (RFC 8878, 3.1.1.1); None if it does not say."""
    if len(content) < 5 or content[:4] != b"\x28\xb5\x2f\xfd":
        return None
    flags = content[4]
    single, dictionary = flags >> 5 & 1, (0, 1, 2, 4)[flags & 3]
    size = (single, 2, 4, 8)[flags >> 6]
    place = 5 + (not single) + dictionary
    stated = int.from_bytes(content[place : place + size], "little") + (256 if size == 2 else 0)
    return stated if size else None


def _check_expanded(expander: Expander, content: bytes, name: object, most: int) -> None:
    size, rest = 0, content
    while not expander.eof:
        try:
            found = expander.decompress(rest, PIECE)
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise CorruptFileError(name, f"cannot be decompressed ({error})") from error
        size, rest = size + len(found), b""
        check_item(size, name, "a compressed piece", most)
        if expander.needs_input and not found:
            return  # it is cut short, which reading it says
    if expander.unused_data:
        rest = expander.unused_data
        raise CorruptFileError(name, f"has {len(rest)} bytes after its compressed content; expected one stream alone")
