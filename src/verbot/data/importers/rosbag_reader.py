"""Reads messages of chosen topics from the SQLite files of rosbag2 (``.db3``), by the package rosbags."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Iterator
from functools import partial as bound
from pathlib import Path
from typing import Any

from verbot.data.importers import reading
from verbot.data.importers.bag_folders import BagMetadata, is_latched
from verbot.data.importers.bag_records import BagMessage, BagTopic
from verbot.data.importers.limits import PIECE, check_item, most_expanded, unzstd
from verbot.errors import CorruptFileError, DataError
from verbot.files import regular_file

TABLES = ("messages", "topics", "message_definitions", "schema", "metadata")
CONVERT = "'ros2 bag convert' writes a recording as MCAP where ROS 2 can read it"


def messages(
    path: Path, topics: list[str], start: int, end: int | None, metadata: BagMetadata, partial: bool = False
) -> Iterator[BagMessage]:
    """Yield the messages of `topics` with log times from `start` to before `end`, in order of time.

    Raises `CorruptFileError` if the file is damaged, of which `partial` takes nothing.
    """
    with _opened(path) as reader:
        chosen = [connection for connection in _connections(path, reader) if connection.topic in topics]
        store = _types(path, chosen, metadata.distro)
        for connection, time, data in _rows(path, reader, chosen, start, end):
            if not isinstance(time, int) or not isinstance(data, bytes):
                raise CorruptFileError(path, f"has a message of {connection.topic} at {time!r}, which is no time with a message")
            yield BagMessage(connection.topic, time, bound(_decoded, path, store, connection, data, metadata.compressed_messages))


def topics(path: Path, metadata: BagMetadata) -> dict[str, BagTopic]:
    from rosbags.interfaces import MessageDefinitionFormat

    found: dict[str, BagTopic] = {}
    with _opened(path) as reader:
        for connection in _connections(path, reader):
            known = found.get(connection.topic)
            profiles = [{"durability": profile.durability.value} for profile in connection.ext.offered_qos_profiles]
            latched = is_latched(profiles) and (known is None or known.latched)
            form = connection.ext.serialization_format
            unreadable = "" if form == "cdr" else f"{form!r}"
            count = connection.msgcount + (known.count if known else 0)
            defined = connection.msgdef.format == MessageDefinitionFormat.NONE
            definition = f"that of ROS 2 {_store(metadata.distro).name[5:].capitalize()}" if defined else ""
            found[connection.topic] = BagTopic(connection.msgtype, count, latched, unreadable, definition)
    return found


def _connections(path: Path, reader: Any) -> list[Any]:
    """The topics of a file. SQLite keeps values of any type in any column, so that their types are checked."""
    for connection in reader.connections:
        texts = (connection.topic, connection.msgtype, connection.msgdef.data, connection.ext.serialization_format)
        if not all(isinstance(text, str) for text in texts) or not connection.topic:
            raise CorruptFileError(path, f"has a topic {str(connection.topic)[:40]!r} of type {str(connection.msgtype)[:40]!r}")
    return list(reader.connections)


def _rows(path: Path, reader: Any, chosen: list[Any], start: int, end: int | None) -> Iterator[Any]:
    if not chosen:
        return
    with _wrapped(path):
        yield from reader.messages(chosen, max(start, 0), end)


@contextlib.contextmanager
def _wrapped(path: Path) -> Iterator[None]:
    try:
        yield
    except (DataError, ModuleNotFoundError, GeneratorExit):
        raise
    except Exception as error:  # SQLite and the reader of its rows have error types of their own
        raise CorruptFileError(path, f"cannot be read ({str(error) or type(error).__name__}); {CONVERT}") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from rosbags.rosbag2 import Reader

    with contextlib.ExitStack() as stack:
        journal = path.with_name(f"{path.name}-wal")
        if journal.is_file() and journal.stat().st_size:
            raise CorruptFileError(
                path,
                f"is unfinished: {journal.name} holds messages that are not in it yet. "
                f"sqlite3 {path.name} 'PRAGMA wal_checkpoint(TRUNCATE)' brings them in",
            )
        file = stack.enter_context(_decompressed(path)) if path.suffix == ".zstd" else path
        with _wrapped(path):
            _check_tables(file)
            reader = stack.enter_context(Reader(file))
        yield reader


def _check_tables(path: Path) -> None:
    """Raise `CorruptFileError` unless the file holds its messages in tables: views and computed columns may go on for ever."""
    import apsw

    connection = apsw.Connection(
        f"{path.absolute().as_uri()}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    )
    try:
        for name in TABLES:
            kinds = [kind for (kind,) in connection.execute("SELECT type FROM sqlite_master WHERE lower(name) = ?", (name,))]
            if any(kind != "table" for kind in kinds):
                raise CorruptFileError(path, f"has a {kinds[0]} {name!r} in place of the table")
            hidden = [row[1] for row in connection.execute(f"PRAGMA table_xinfo({name})") if row[6]]
            if hidden:
                raise CorruptFileError(path, f"computes {', '.join(map(str, hidden))} of {name!r}; expected stored values")
    finally:
        connection.close()


@contextlib.contextmanager
def _decompressed(path: Path) -> Iterator[Path]:
    import zstandard

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / path.stem
        most, size = most_expanded(path.stat().st_size), 0
        with reading(path, OSError, zstandard.ZstdError), open(regular_file(path), "rb") as source, open(target, "wb") as sink:
            stream = zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)
            while piece := stream.read(PIECE):
                size += len(piece)
                check_item(size, path, "a database", most)
                sink.write(piece)
        yield target


def _store(distro: str) -> Any:
    """The types of a ROS distribution. Files before Iron have no definitions, and Humble is the last before it."""
    from rosbags.typesys import Stores

    return {store.value: store for store in Stores}.get(f"ros2_{distro}", Stores.ROS2_HUMBLE)


def _types(path: Path, connections: list[Any], distro: str) -> Any:
    """The definitions of the messages: the file's own, or those of a ROS distribution for files from before Iron."""
    from rosbags.interfaces import MessageDefinitionFormat

    undefined = [connection for connection in connections if connection.msgdef.format == MessageDefinitionFormat.NONE]
    for connection in undefined:
        if connection.msgtype not in _fields(distro):
            raise DataError(
                f"{path.name} does not define the type {connection.msgtype} of {connection.topic}, which is none of ROS 2's own; "
                f"{CONVERT}, with definitions"
            )
    with _wrapped(path):
        definitions = frozenset((c.msgtype, c.msgdef.format, c.msgdef.data) for c in connections if c not in undefined)
        return _typestore(definitions, (distro or "humble") if undefined else "")


@functools.lru_cache(8)
def _fields(distro: str) -> frozenset[str]:
    from rosbags.typesys import get_typestore

    return frozenset(get_typestore(_store(distro)).fielddefs)


@functools.lru_cache(8)
def _typestore(definitions: frozenset[tuple[str, Any, str]], distro: str) -> Any:
    """The types of `definitions` (name, format, text), and those of a ROS distribution unless `distro` is empty."""
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(_store(distro) if distro else Stores.EMPTY)
    found: dict[str, Any] = {}
    for name, form, text in sorted(definitions, key=str):
        found |= _defined(name, form, text)
    store.register({name: definition for name, definition in found.items() if name not in store.fielddefs})
    return store


@functools.lru_cache(64)
def _defined(name: str, form: Any, text: str) -> dict[str, Any]:
    """The types that a topic's definition has, by name."""
    from rosbags.interfaces import MessageDefinitionFormat
    from rosbags.typesys import get_types_from_idl, get_types_from_msg

    if form == MessageDefinitionFormat.MSG:
        return dict(get_types_from_msg(text, name))
    found: dict[str, Any] = {}
    for part in [part for part in text.split("=" * 80 + "\n") if part.strip()]:
        found |= get_types_from_idl(part.partition("\n")[2] if part.startswith("IDL: ") else part)
    return found


def _decoded(path: Path, store: Any, connection: Any, data: bytes, compressed: bool) -> Any:
    try:
        if compressed:
            data = unzstd(data, path)
        if connection.ext.serialization_format == "cdr":
            return store.deserialize_cdr(data, connection.msgtype)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # a parser generated from the file's own definition can raise any error
        raise CorruptFileError(
            path, f"a message of {connection.topic} ({connection.msgtype}) cannot be decoded ({error})"
        ) from error
    raise DataError(f"{connection.topic} is encoded as {connection.ext.serialization_format!r}; expected 'cdr'")
