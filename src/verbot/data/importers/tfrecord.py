"""TFRecord files and the ``tf.train.Example`` in them, without TensorFlow.

A record is its length (uint64), the length's masked crc32c, the bytes, and their masked crc32c, all little-endian. Masking
rotates the checksum by 15 bits and adds 0xa282ead8 (TensorFlow's record format). An Example maps feature names to lists of bytes,
floats or integers. Its five nested messages are parsed here, without protobuf: protobuf creates a Python object for every number
and would be a further dependency for three wire types.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from verbot.errors import CorruptFileError

Feature = list[bytes] | np.ndarray  # float32 (n,) or int64 (n,)
HEAD, TAIL = 12, 4


@dataclass(frozen=True)
class RecordLocation:
    """The location of a record in its file. A `problem` makes this record and all later ones unreadable."""

    index: int
    offset: int
    length: int
    problem: str = ""


def records(path: Path) -> Iterator[RecordLocation]:
    """Locate every record of a file without reading its content. A last record that is cut short has a `problem`."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            index = 0
            while (start := file.tell()) < size:
                head = file.read(HEAD)
                if len(head) < HEAD:
                    yield RecordLocation(index, start, 0, f"ends within the head of record {index}, at byte {size}")
                    return
                length, checksum = struct.unpack("<QI", head)
                if masked(head[:8]) != checksum:
                    yield RecordLocation(
                        index, start, 0, f"record {index} at byte {start} has a length that differs from its checksum"
                    )
                    return
                if start + HEAD + length + TAIL > size:
                    missing = start + HEAD + length + TAIL - size
                    yield RecordLocation(index, start, length, f"ends within record {index}: {missing} bytes are missing")
                    return
                yield RecordLocation(index, start, length)
                file.seek(start + HEAD + length + TAIL)
                index += 1
    except OSError as error:
        raise CorruptFileError(path, f"cannot be read ({error.strerror})") from error


def read_record(path: Path, record: RecordLocation) -> bytes:
    """The bytes of a record. Raises `CorruptFileError` when it is cut short or its checksum differs."""
    if record.problem:
        raise CorruptFileError(path, record.problem)
    with open(path, "rb") as file:
        file.seek(record.offset + HEAD)
        content, tail = file.read(record.length), file.read(TAIL)
    if len(tail) < TAIL or masked(content) != struct.unpack("<I", tail)[0]:
        raise CorruptFileError(path, f"record {record.index} differs from what was written: its checksum differs")
    return content


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
    except (ValueError, IndexError, struct.error, TypeError, UnicodeDecodeError) as error:
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
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(raw.size) - np.repeat(starts, ends - starts + 1)
    if place.max() > 9:
        raise ValueError("a number has more than ten bytes")
    return np.add.reduceat((raw & 127).astype(np.uint64) << (7 * place).astype(np.uint64), starts).view(np.int64)


def _joined(steps: list[Feature]) -> Feature:
    if all(isinstance(step, list) for step in steps):
        return [content for step in steps for content in step]
    return np.concatenate([np.asarray(step) for step in steps])
