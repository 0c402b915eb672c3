"""TFRecord files, plain or compressed, and the ``tf.train.Example`` in them, without TensorFlow.

A record is its length (uint64), the length's masked crc32c, the bytes, and their masked crc32c, all little-endian. Masking
rotates the checksum by 15 bits and adds 0xa282ead8 (TensorFlow's record format). An Example maps feature names to lists of bytes,
floats or integers. Its five nested messages are parsed here, without protobuf: protobuf creates a Python object for every number
and would be a further dependency for three wire types.
"""

from __future__ import annotations

import os
import struct
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from verbot.data.importers.limits import RATIO, RECORD_BYTES, most_expanded
from verbot.errors import CorruptFileError
from verbot.files import regular_file

Feature = list[bytes] | np.ndarray  # float32 (n,) or int64 (n,)
HEAD, TAIL = 12, 4
PIECE = 1 << 20  # bytes that are decompressed at a time
EMPTY = 1000  # records without content in a row, after which the rest of a file is not read
VARINTS = 1 << 16  # numbers that are decoded at a time
GZIP_OR_ZLIB = 47  # zlib's window bits that detect either header


@dataclass(frozen=True)
class RecordLocation:
    """The location of a record in its file, decompressed. A `problem` makes this record and all later ones unreadable."""

    index: int
    offset: int
    length: int
    problem: str = ""


class RecordFile:
    """A TFRecord file, plain or compressed as a whole with GZIP or ZLIB. Records are located and read in order, in flat memory.

    Reading in another order works too; in a compressed file it starts again from the beginning.
    """

    def __init__(self, path: Path):
        self.path = path
        self._reader: _Plain | _Inflated | None = None

    def records(self) -> Iterator[RecordLocation]:
        """Locate every record without reading its content. A last record that is cut short has a `problem`."""
        try:
            yield from self._located(_opened(self.path))
        except OSError as error:
            raise CorruptFileError(self.path, f"cannot be read ({error.strerror or error})") from error

    def read(self, record: RecordLocation) -> bytes:
        """The bytes of a record. Raises `CorruptFileError` when it is cut short or its checksum differs."""
        if record.problem:
            raise CorruptFileError(self.path, record.problem)
        try:
            self._reader = self._reader or _opened(self.path)
            self._reader.seek(record.offset + HEAD)
            content, tail = self._reader.read(record.length), self._reader.read(TAIL)
        except (OSError, zlib.error) as error:
            raise CorruptFileError(self.path, f"record {record.index} cannot be read ({error})") from error
        if len(tail) < TAIL or masked(content) != struct.unpack("<I", tail)[0]:
            raise CorruptFileError(self.path, f"record {record.index} differs from what was written: its checksum differs")
        return content

    def _located(self, reader: _Plain | _Inflated) -> Iterator[RecordLocation]:
        index = start = empty = 0
        while True:
            if empty == EMPTY:
                yield RecordLocation(index, start, 0, f"has {EMPTY} empty records in a row before record {index}")
                return
            try:
                reader.seek(start)
                head = reader.read(HEAD)
            except zlib.error as error:
                yield RecordLocation(index, start, 0, f"is compressed, and cannot be decompressed at record {index} ({error})")
                return
            if not head:
                return
            if len(head) < HEAD:
                yield RecordLocation(index, start, 0, f"ends within the head of record {index}, at byte {start + len(head)}")
                return
            length, checksum = struct.unpack("<QI", head)
            if masked(head[:8]) != checksum:
                problem = f"record {index} at byte {start} has a length that differs from its checksum"
                yield RecordLocation(index, start, 0, problem)
                return
            end = start + HEAD + length + TAIL
            if length > RECORD_BYTES:
                problem = f"record {index} at byte {start} says that it has {length} bytes; at most {RECORD_BYTES} are read"
                yield RecordLocation(index, start, 0, problem)
                return
            if reader.size is not None and end > reader.size:
                problem = f"ends within record {index}: {end - reader.size} bytes are missing"
                yield RecordLocation(index, start, length, problem)
                return
            if reader.size is None:  # whether all of it is there is known only after decompressing it
                try:
                    reader.seek(end)
                except zlib.error as error:
                    yield RecordLocation(index, start, length, f"is compressed, and ends within record {index} ({error})")
                    return
            yield RecordLocation(index, start, length)
            start, index, empty = end, index + 1, 0 if length else empty + 1


class _Plain:
    """An uncompressed file."""

    def __init__(self, path: Path):
        self._file = open(regular_file(path), "rb")  # noqa: SIM115  # closed with this object
        weakref.finalize(self, self._file.close)
        self.size: int | None = os.path.getsize(path)

    def seek(self, place: int) -> None:
        self._file.seek(place)

    def read(self, count: int) -> bytes:
        return self._file.read(count)


class _Inflated:
    """The content of a file in GZIP (several members too) or ZLIB. Seeking backward starts again."""

    def __init__(self, path: Path):
        self._file = open(path, "rb")  # noqa: SIM115  # closed with this object
        weakref.finalize(self, self._file.close)
        self.size: int | None = None
        self._inflater, self._ready, self._place = zlib.decompressobj(GZIP_OR_ZLIB), b"", 0
        self._most = most_expanded(os.path.getsize(path))

    def seek(self, place: int) -> None:
        if place < self._place:
            self._restart()
        while self._place < place and self.read(min(place - self._place, PIECE)):
            pass

    def read(self, count: int) -> bytes:
        pieces, wanted = [], count
        while wanted and (self._ready or self._more()):
            piece, self._ready = self._ready[:wanted], self._ready[wanted:]
            pieces.append(piece)
            wanted -= len(piece)
        self._place += count - wanted
        if self._place > self._most:
            raise zlib.error(f"it expands to more than {self._most} bytes, {RATIO} times its size")
        return b"".join(pieces)

    def _more(self) -> bool:
        """Decompress the next piece. Raises `zlib.error` if the file ends within a stream."""
        while not self._ready:
            compressed = self._inflater.unconsumed_tail or self._inflater.unused_data or self._file.read(PIECE)
            if self._inflater.eof and compressed:
                self._inflater = zlib.decompressobj(GZIP_OR_ZLIB)
            elif not compressed and not self._inflater.eof:
                raise zlib.error("the file ends within a compressed stream")
            elif not compressed:
                return False
            self._ready = self._inflater.decompress(compressed, PIECE)
        return True

    def _restart(self) -> None:
        self._file.seek(0)
        self._inflater, self._ready, self._place = zlib.decompressobj(GZIP_OR_ZLIB), b"", 0


def _opened(path: Path) -> _Plain | _Inflated:
    """The file, decompressed if its first bytes are no head of a record but one of GZIP or ZLIB."""
    plain = _Plain(path)
    head = plain.read(HEAD)
    plain.seek(0)
    if len(head) == HEAD and masked(head[:8]) == struct.unpack("<I", head[8:])[0]:
        return plain
    zlib_head = head[:1] == b"\x78" and len(head) > 1 and (head[0] << 8 | head[1]) % 31 == 0
    return _Inflated(path) if head[:2] == b"\x1f\x8b" or zlib_head else plain


def masked(content: bytes) -> int:
    """The masked crc32c of `content`."""
    import google_crc32c

    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def parse_example(content: bytes, name: object) -> dict[str, Feature]:
    """The features of a ``tf.train.Example`` or ``SequenceExample``; lists of the latter are joined over their steps.

    Raises `CorruptFileError` naming `name` for anything else.
    """
    features: dict[str, Feature] = {}
    try:
        for number, _, value in _fields(memoryview(content)):
            for _, _, entry in _fields(value):
                key, inner = _entry(entry)
                if number == 1:
                    features[key] = _feature(inner)
                elif number == 2:
                    features[key] = _joined([_feature(step) for _, _, step in _fields(inner)])
    except (ValueError, IndexError, struct.error, TypeError, UnicodeDecodeError, OverflowError) as error:
        raise CorruptFileError(name, f"is not a tf.train.Example ({error})") from error
    return features


def _fields(view: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """(number, wire type, bytes) of each field of a message. The bytes of a varint are its encoding."""
    place = 0
    while place < len(view):
        tag, place = _varint(view, place)
        number, wire = tag >> 3, tag & 7
        start = place
        if wire == 0:
            _, place = _varint(view, place)
        elif wire == 1:
            place += 8
        elif wire == 5:
            place += 4
        elif wire == 2:
            length, start = _varint(view, place)
            place = start + length
        else:
            raise ValueError(f"wire type {wire}")
        if place > len(view):
            raise ValueError("a field is longer than its message")
        yield number, wire, view[start:place]


def _varint(view: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
        if shift > 63:
            raise ValueError("a number has more than ten bytes")


def _entry(view: memoryview) -> tuple[str, memoryview]:
    """Key and value of one entry of a map."""
    found = {number: value for number, _, value in _fields(view)}
    return bytes(found.get(1, b"")).decode(), found.get(2, memoryview(b""))


def _feature(view: memoryview) -> Feature:
    for number, _, values in _fields(view):
        if number == 1:
            return [bytes(value) for _, _, value in _fields(values)]
        if number == 2:  # packed floats are one field, unpacked ones a field each
            return np.frombuffer(b"".join(value for _, _, value in _fields(values)), "<f4")
        if number == 3:
            return _varints(b"".join(value for _, _, value in _fields(values)))
    return []


def _varints(content: bytes) -> np.ndarray:
    """All numbers in a sequence of varints: int64 (n,)."""
    raw = np.frombuffer(content, np.uint8)
    if not raw.size:
        return np.zeros(0, np.int64)
    ends = np.flatnonzero(raw < 128)
    if not ends.size or ends[-1] != raw.size - 1:
        raise ValueError("a number is cut short")
    out, done = np.empty(ends.size, np.int64), 0
    for first in range(0, ends.size, VARINTS):  # in blocks: what is computed for a byte takes many
        last = ends[first : first + VARINTS] - done
        part = raw[done : done + last[-1] + 1]
        starts = np.concatenate([[0], last[:-1] + 1])
        place = np.arange(part.size) - np.repeat(starts, last - starts + 1)
        if place.max() > 9:
            raise ValueError("a number has more than ten bytes")
        bits = (part & 127).astype(np.uint64) << (7 * place).astype(np.uint64)
        out[first : first + VARINTS] = np.add.reduceat(bits, starts).view(np.int64)
        done += part.size
    return out


def _joined(steps: list[Feature]) -> Feature:
    if all(isinstance(step, list) for step in steps):
        return [content for step in steps for content in step]
    return np.concatenate([np.asarray(step) for step in steps])
