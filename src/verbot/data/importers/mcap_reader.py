"""Reads messages of chosen topics from MCAP files. Of a truncated file, the messages up to the cut can be read."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import struct
from collections.abc import Callable, Iterator
from functools import partial as bound
from pathlib import Path
from typing import Any

from verbot.data.importers import reading
from verbot.data.importers.bag_folders import BagMetadata, is_latched
from verbot.data.importers.bag_records import BagMessage, BagTopic
from verbot.data.importers.limits import check_item, unzstd
from verbot.data.importers.mcap_records import MAGIC, indexed_messages, records, summary_of
from verbot.errors import CorruptFileError, DataError
from verbot.files import regular_file

BROKEN = (OSError, ValueError, struct.error, RuntimeError, MemoryError, OverflowError, LookupError, AttributeError, TypeError)
BYTES = (b"uint8[", b"byte[")  # arrays that are decoded to bytes; others become lists of Python numbers
NUMBERS_BYTES = 1 << 24  # of a message without such arrays
DISORDER_NS = 10**9  # by how much messages may be out of order in a file without an index


def messages(
    path: Path, topics: list[str], start: int, end: int | None, metadata: BagMetadata, partial: bool = False
) -> Iterator[BagMessage]:
    """Yield the messages of `topics` with log times from `start` to before `end`.

    Raises `CorruptFileError` if the file is damaged; of a truncated one only at the cut, and not if `partial` or if a message
    after `end` was before the cut.
    """
    with _opened(path) as file:
        summary = _summary(path, file)
        if summary is not None:
            with reading(path, *_broken()):
                for schema, channel, message in indexed_messages(file, path, summary, topics, start, end):
                    yield _message(path, schema, channel, message, metadata)
            return
        latest = 0
        try:
            for schema, channel, message in _linear(file, path):
                latest = max(latest, message.log_time)
                if end is not None and message.log_time >= end + DISORDER_NS:
                    return
                if channel.topic in topics and message.log_time >= start and (end is None or message.log_time < end):
                    yield _message(path, schema, channel, message, metadata)
        except _broken() as error:
            if not partial and (end is None or latest < end):
                raise _cut(path, error) from error


def topics(path: Path, metadata: BagMetadata) -> dict[str, BagTopic]:
    """The topics of a file; of a truncated one, those with a definition before the cut."""
    with _opened(path) as file:
        summary = _summary(path, file)
        if summary is not None:
            with reading(path, *_broken()):
                counts = summary.statistics.channel_message_counts if summary.statistics else {}
                return _topics(summary.schemas, summary.channels, counts)
        return _scanned(file, path)


def _scanned(file: Any, path: Path) -> dict[str, BagTopic]:
    from mcap.records import Channel, Message, Schema

    schemas, channels, counts = dict[int, Any](), dict[int, Any](), dict[int, int]()
    with contextlib.suppress(*_broken(), DataError):
        for record in records(file, path):
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Channel):
                channels[record.id] = record
            elif isinstance(record, Message):
                counts[record.channel_id] = counts.get(record.channel_id, 0) + 1
    return _topics(schemas, channels, counts)


def _topics(schemas: dict[int, Any], channels: dict[int, Any], counts: dict[int, int]) -> dict[str, BagTopic]:
    found: dict[str, BagTopic] = {}
    for channel in channels.values():
        schema, known = schemas.get(channel.schema_id), found.get(channel.topic)
        latched = is_latched(channel.metadata.get("offered_qos_profiles")) and (known is None or known.latched)
        count = counts.get(channel.id, 0) + (known.count if known else 0)
        kind = schema.name if schema is not None else channel.message_encoding
        found[channel.topic] = BagTopic(kind, count, latched, _unreadable(schema, channel))
    return found


def _unreadable(schema: Any, channel: Any) -> str:
    if channel.message_encoding == "json" or (
        channel.message_encoding == "cdr" and schema is not None and schema.encoding == "ros2msg"
    ):
        return ""
    defined = "no schema" if schema is None else f"schema {schema.name!r} in {schema.encoding!r}"
    return f"{channel.message_encoding!r} with {defined}"


def _linear(file: Any, path: Path) -> Iterator[tuple[Any, Any, Any]]:
    """The messages in the order of the file, up to the cut of a truncated file; then the reader's error is raised."""
    from mcap.records import Channel, Message, Schema

    schemas: dict[int, Any] = {}
    channels: dict[int, Any] = {}
    for record in records(file, path):
        if isinstance(record, Schema):
            schemas[record.id] = record
        elif isinstance(record, Channel):
            channels[record.id] = record
        elif isinstance(record, Message):
            channel = channels[record.channel_id]
            yield schemas.get(channel.schema_id), channel, record


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file, decompressed where its name says so. Raises `CorruptFileError` if it is not an MCAP file at all."""
    import zstandard

    with contextlib.ExitStack() as stack:
        with reading(path, OSError):
            file: Any = stack.enter_context(open(regular_file(path), "rb"))
            if path.suffix == ".zstd":
                source = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
                file = io.BufferedReader(source, 1 << 20)
                begins = file.peek(len(MAGIC))[: len(MAGIC)] if _is_zstd(path) else b""
            else:
                begins = file.read(len(MAGIC))
                file.seek(0)
        if len(begins) < len(MAGIC) and MAGIC.startswith(begins) and (path.suffix != ".zstd" or _is_zstd(path)):
            raise CorruptFileError(path, "cannot be read: it is empty or cut short at its beginning")
        if begins != MAGIC:
            raise CorruptFileError(path, "cannot be read: it does not begin as an MCAP file does")
        yield file


def _is_zstd(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x28\xb5\x2f\xfd"


def _summary(path: Path, file: Any) -> Any:
    """The index of a file's chunks; None if it is compressed, has none, or does not end as it should."""
    if path.suffix == ".zstd":
        return None
    with reading(path, *_broken()):
        return summary_of(path, file)


def _broken() -> tuple[type[Exception], ...]:
    import zstandard
    from mcap.exceptions import McapError

    return (*BROKEN, EOFError, CorruptFileError, McapError, zstandard.ZstdError)


def _cut(path: Path, error: Exception) -> CorruptFileError:
    whole = path.name.removesuffix(".zstd").removesuffix(".mcap") + "_recovered.mcap"
    return CorruptFileError(
        path,
        f"cannot be read to its end: it is cut short or damaged ({str(error) or type(error).__name__}). Recover it with "
        f"'mcap recover {path.name} -o {whole}', or import what is before the cut with --set truncated=use",
    )


def _message(path: Path, schema: Any, channel: Any, message: Any, metadata: BagMetadata) -> BagMessage:
    decode = bound(_decoded, path, schema, channel, message.data, metadata.compressed_messages)
    return BagMessage(channel.topic, message.log_time, decode)


@functools.lru_cache(64)
def _decoder(name: str, definition: bytes) -> Callable[[bytes], Any]:
    """The parser of a message type. Raises whatever the definition makes the parser of definitions raise."""
    from mcap.records import Schema
    from mcap_ros2.decoder import DecoderFactory

    with contextlib.redirect_stderr(io.StringIO()):  # where it prints what it raises too
        found = DecoderFactory().decoder_for("cdr", Schema(id=1, name=name, encoding="ros2msg", data=definition))
    assert found is not None  # it is None for other encodings alone
    return found


def _decoded(path: Path, schema: Any, channel: Any, data: bytes, compressed: bool) -> Any:
    kind = "no schema" if schema is None else f"schema {schema.name!r} in {schema.encoding!r}"
    try:
        if compressed:
            data = unzstd(data, path)
        if channel.message_encoding == "json":
            return json.loads(data)
        if channel.message_encoding == "cdr" and schema is not None and schema.encoding == "ros2msg":
            if not any(kind in schema.data for kind in BYTES):
                check_item(len(data), path, f"a message of {channel.topic}", NUMBERS_BYTES)
            return _decoder(schema.name, schema.data)(data)
    except DataError:
        raise
    except Exception as error:  # a parser generated from the file's own definition can raise any error
        raise CorruptFileError(path, f"a message of {channel.topic} ({kind}) cannot be decoded ({error})") from error
    raise DataError(
        f"{channel.topic} is encoded as {channel.message_encoding!r} with {kind}; "
        "expected JSON, or 'cdr' with definitions in 'ros2msg'"
    )
