"""The records of an MCAP file, one at a time and within limits: the size of a chunk is checked before it is decompressed.

The package mcap parses each record. Its own readers decompress chunks of any size and follow any index.
"""

from __future__ import annotations

import heapq
import importlib
import io
import zlib
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from verbot.data.importers.limits import ITEM_BYTES, PIECE, check_item, unzstd
from verbot.errors import CorruptFileError, DataError

MAGIC = b"\x89MCAP0\r\n"
FOOTER = 29  # bytes of the last record
OVERHEAD = 512  # bytes of a message in memory beside its data
LZ4_RATIO = 256  # lz4 expands its input at most so many times


def records(file: Any, name: object) -> Iterator[Any]:
    """The records of a file in its order, those of its chunks among them, after their checksums were compared.

    Raises `CorruptFileError` for damage, the errors of mcap, struct, zstandard and lz4 for what they cannot read, `DataError` for
    a record that is too large.
    """
    from mcap.records import Chunk, DataEnd, Footer

    for record, before in _records(file, name, _kinds(), zlib.crc32(_exactly(file, len(MAGIC)))):
        if isinstance(record, DataEnd) and record.data_section_crc not in (0, before):
            raise CorruptFileError(name, "cannot be read: the checksum of its data differs")
        if isinstance(record, Chunk):
            yield from chunk_records(record, name)
        else:
            yield record
        if isinstance(record, Footer):
            if _exactly(file, len(MAGIC)) != MAGIC:
                raise CorruptFileError(name, "cannot be read: it does not end as an MCAP file does")
            return


def _records(file: Any, name: object, kinds: Mapping[int, Any], checksum: int = 0) -> Iterator[tuple[Any, int]]:
    """Each record of `kinds` from here on, with the checksum of what was read before it."""
    while True:
        head = _exactly(file, 9)
        opcode, length = head[0], int.from_bytes(head[1:], "little")
        if not opcode:
            raise CorruptFileError(name, "cannot be read: it has a record of no kind (0)")
        before, checksum = checksum, zlib.crc32(head, checksum)
        if opcode not in kinds:  # skipped, as the format demands
            while length:
                piece = _exactly(file, min(length, PIECE))
                checksum, length = zlib.crc32(piece, checksum), length - len(piece)
            continue
        check_item(length, name, "a record")
        content = _exactly(file, length)
        checksum = zlib.crc32(content, checksum)
        yield parsed(opcode, content, kinds), before


def chunk_records(chunk: Any, name: object) -> Iterator[Any]:
    """The schemas, channels and messages of one chunk. Raises as `records` does."""
    data = memoryview(_decompressed(chunk, name))
    if chunk.uncompressed_crc not in (0, zlib.crc32(data)):
        raise CorruptFileError(name, "cannot be read: the checksum of a chunk differs")
    place = 0
    while place < len(data):
        opcode, length = data[place], int.from_bytes(data[place + 1 : place + 9], "little")
        place += 9
        if not opcode or place + length > len(data):
            raise CorruptFileError(name, f"cannot be read: a chunk has a record of kind {opcode} and {length} bytes")
        if opcode in INSIDE:
            yield parsed(opcode, bytes(data[place : place + length]))
        place += length


def indexed_messages(file: Any, name: object, summary: Any, topics: Container[str], start: int, end: int | None) -> Iterator[Any]:
    """(schema, channel, message) of `topics` from `start` to before `end`, in order of time. Other chunks are not read.

    Raises as `records` does, `CorruptFileError` if the index names a chunk twice, `DataError` where chunks overlap too much.
    """
    from mcap.records import Chunk, Message

    places = [chunk.chunk_start_offset for chunk in summary.chunk_indexes]
    if len(set(places)) != len(places):
        raise CorruptFileError(name, "cannot be read: its index names a chunk twice")
    waiting: list[tuple[int, int, int, Any]] = []
    held = 0
    for index in sorted(
        _candidates(summary, topics, start, end), key=lambda one: (one.message_start_time, one.chunk_start_offset)
    ):
        while waiting and waiting[0][:2] < (index.message_start_time, index.chunk_start_offset):
            found = heapq.heappop(waiting)[3]
            held -= OVERHEAD + len(found[2].data)
            yield found
        if held > ITEM_BYTES:
            raise DataError(
                f"{name} has chunks that overlap in time: {held >> 20} MiB of messages would wait for earlier ones; "
                f"at most {ITEM_BYTES >> 20} MiB do: sort it (mcap sort)"
            )
        file.seek(index.chunk_start_offset)
        head = _exactly(file, 9)
        check_item(int.from_bytes(head[1:], "little"), name, "a chunk")
        chunk = parsed(head[0], _exactly(file, int.from_bytes(head[1:], "little")))
        if not isinstance(chunk, Chunk):
            raise CorruptFileError(
                name, f"cannot be read: its index names byte {index.chunk_start_offset}, where no chunk begins"
            )
        for number, record in enumerate(chunk_records(chunk, name)):
            if not isinstance(record, Message) or record.log_time < start or (end is not None and record.log_time >= end):
                continue
            channel = summary.channels[record.channel_id]
            if channel.topic in topics:
                schema = summary.schemas[channel.schema_id] if channel.schema_id else None
                held += OVERHEAD + len(record.data)
                heapq.heappush(waiting, (record.log_time, index.chunk_start_offset, number, (schema, channel, record)))
    while waiting:
        yield heapq.heappop(waiting)[3]


def parsed(opcode: int, content: bytes, kinds: Mapping[int, Any] | None = None) -> Any:
    """One record of a known kind."""
    from mcap.data_stream import ReadDataStream
    from mcap.opcode import Opcode

    stream = ReadDataStream(io.BytesIO(content))
    kind = (kinds or _kinds())[opcode]
    return kind.read(stream, len(content)) if opcode == Opcode.MESSAGE else kind.read(stream)


INSIDE = (3, 4, 5)  # schemas, channels and messages


def _kinds() -> dict[int, Any]:
    """The kinds of records that are read, by their numbers; attachments and the like are passed over."""
    from mcap import records as known
    from mcap.opcode import Opcode

    return {
        int(Opcode.HEADER): known.Header, int(Opcode.FOOTER): known.Footer, int(Opcode.SCHEMA): known.Schema,
        int(Opcode.CHANNEL): known.Channel, int(Opcode.MESSAGE): known.Message, int(Opcode.CHUNK): known.Chunk,
        int(Opcode.DATA_END): known.DataEnd,
    }  # fmt: skip


def _candidates(summary: Any, topics: Container[str], start: int, end: int | None) -> Iterator[Any]:
    for index in summary.chunk_indexes:
        if index.message_end_time < start or (end is not None and index.message_start_time >= end):
            continue
        held = index.message_index_offsets
        if not held or any(summary.channels[number].topic in topics for number in held):
            yield index


def _decompressed(chunk: Any, name: object) -> bytes:
    """The content of a chunk, which has the size that the chunk states, or less."""
    check_item(chunk.uncompressed_size, name, "a chunk")
    most = chunk.uncompressed_size
    if chunk.compression not in ("", "zstd", "lz4"):
        raise CorruptFileError(name, f"has chunks compressed by {chunk.compression[:40]!r}; expected zstd or lz4")
    found: bytes = chunk.data
    if chunk.compression:
        found = unzstd(chunk.data, name, most) if chunk.compression == "zstd" else _unlz4(chunk.data, name, most)
    if len(found) != most:
        raise CorruptFileError(name, f"has a chunk of {len(found)} bytes that says {most}")
    return found


def _unlz4(content: bytes, name: object, most: int) -> bytes:
    lz4 = importlib.import_module("lz4.frame")  # without types

    if len(content) * LZ4_RATIO <= ITEM_BYTES:
        found = lz4.decompress(content)
    else:
        reader = lz4.LZ4FrameDecompressor()
        found = reader.decompress(content, max_length=most + 1)
    check_item(len(found), name, "a compressed chunk", most)
    return bytes(found)


def _exactly(file: Any, count: int) -> bytes:
    content = bytes(file.read(count))
    if len(content) < count:
        raise EOFError("it ends within a record")
    return content


def summary_of(path: Path, file: Any) -> Any:
    """The index of a whole file; None if it has none or does not end as it should. Leaves `file` at its beginning."""
    from mcap import records as known
    from mcap.opcode import Opcode
    from mcap.summary import Summary

    kinds = {int(Opcode.SCHEMA): known.Schema, int(Opcode.CHANNEL): known.Channel, int(Opcode.FOOTER): known.Footer}
    kinds |= {int(Opcode.STATISTICS): known.Statistics, int(Opcode.CHUNK_INDEX): known.ChunkIndex}
    size, found = path.stat().st_size, Summary()
    try:
        file.seek(max(0, size - len(MAGIC)))
        if file.read() != MAGIC or size < FOOTER + 2 * len(MAGIC):
            return None
        file.seek(size - FOOTER - len(MAGIC))
        footer = parsed(_exactly(file, 9)[0], _exactly(file, FOOTER - 9), kinds)
        if not isinstance(footer, known.Footer) or not footer.summary_start:
            return None
        file.seek(footer.summary_start)
        for record, _ in _records(file, path, kinds):
            if isinstance(record, known.Footer):
                break
            if isinstance(record, known.Statistics):
                found.statistics = record
            elif isinstance(record, known.Schema):
                found.schemas[record.id] = record
            elif isinstance(record, known.Channel):
                found.channels[record.id] = record
            else:
                found.chunk_indexes.append(record)
        return found if found.chunk_indexes else None
    finally:
        file.seek(0)
