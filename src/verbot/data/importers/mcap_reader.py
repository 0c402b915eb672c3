"""Reads decoded messages of chosen topics from MCAP files. A truncated file yields its messages up to the cut."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verbot.data.importers import reading
from verbot.errors import CorruptFileError, DataError

BROKEN = (OSError, ValueError, struct.error, RuntimeError, MemoryError, OverflowError, LookupError, AttributeError, TypeError)
MAGIC = b"\x89MCAP0\r\n"


def messages(path: Path, topics: list[str], start: int = 0, end: int | None = None) -> Iterator[tuple[str, int, Any]]:
    """Yield (topic, log time in ns, decoded message) in time order. Raises `CorruptFileError` if the file is cut short.

    Args:
        start, end: log times in ns; `end` is exclusive, and None is the end of the file.
    """
    from mcap.exceptions import McapError
    from mcap.reader import SeekingReader
    from mcap_ros2.decoder import DecoderFactory

    factory = DecoderFactory()
    with reading(path, *BROKEN, McapError, *_compression_errors()):
        with open(path, "rb") as file:
            if _whole(path):
                found = SeekingReader(file, validate_crcs=True).iter_messages(topics, starting_at=start, ending_before=end)
            else:
                found = _linear(file, topics, start, end)
            for schema, channel, message in found:
                yield channel.topic, message.log_time, _decoded(path, factory, schema, channel, message)


def _linear(file: Any, topics: list[str], start: int, end: int | None) -> Iterator[tuple[Any, Any, Any]]:
    """The messages of a truncated file up to the cut; then the reader's error is raised."""
    from mcap.records import Channel, Message, Schema
    from mcap.stream_reader import StreamReader

    schemas: dict[int, Any] = {}
    channels: dict[int, Any] = {}
    for record in StreamReader(file, validate_crcs=True).records:
        if isinstance(record, Schema):
            schemas[record.id] = record
        elif isinstance(record, Channel):
            channels[record.id] = record
        elif isinstance(record, Message):
            if end is not None and record.log_time >= end:
                return
            channel = channels[record.channel_id]
            if channel.topic in topics and record.log_time >= start:
                yield schemas.get(channel.schema_id), channel, record


def topic_types(path: Path) -> dict[str, str]:
    """The name of the message type of each topic."""
    from mcap.exceptions import McapError
    from mcap.reader import SeekingReader

    if not _whole(path):
        raise CorruptFileError(path, "is cut short: it does not end as an MCAP file does")
    with reading(path, *BROKEN, McapError), open(path, "rb") as file:
        summary = SeekingReader(file).get_summary()
        if summary is None:
            return {}
        schemas = {number: schema.name for number, schema in summary.schemas.items()}
        return {channel.topic: schemas.get(channel.schema_id, channel.message_encoding) for channel in summary.channels.values()}


def listing(path: Path) -> str:
    try:
        return ", ".join(f"{topic} ({kind})" for topic, kind in sorted(topic_types(path).items())) or "none"
    except CorruptFileError:
        return "no index"


def _whole(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - len(MAGIC)))
        return file.read() == MAGIC


def _compression_errors() -> tuple[type[Exception], ...]:
    import zstandard

    return (zstandard.ZstdError,)


def _decoded(path: Path, factory: Any, schema: Any, channel: Any, message: Any) -> Any:
    json_ = channel.message_encoding == "json"
    kind = "no schema" if schema is None else f"schema {schema.name!r} in {schema.encoding!r}"
    try:
        decoder = json.loads if json_ else factory.decoder_for(channel.message_encoding, schema)
        if decoder is not None:
            return decoder(message.data)
    except Exception as error:  # a parser generated from the file's own definition can raise any error
        raise CorruptFileError(path, f"a message of {channel.topic} ({kind}) cannot be decoded ({error})") from error
    raise DataError(
        f"{channel.topic} is encoded as {channel.message_encoding!r} with {kind}; "
        "expected JSON, or 'cdr' with definitions in 'ros2msg'"
    )
