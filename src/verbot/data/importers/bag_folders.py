"""Finds ROS 2 recordings in files and folders, and reads the ``metadata.yaml`` that rosbag2 writes beside them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from verbot.data.importers import FieldNote, files_of, inside, natural, reading
from verbot.errors import CorruptFileError, DataError

MCAP, SQLITE = (".mcap", ".mcap.zstd"), (".db3", ".db3.zstd")
STORAGES = {"mcap": MCAP, "sqlite3": SQLITE}
METADATA_BYTES = 1 << 19
METADATA, ROOT_KEY = "metadata.yaml", "rosbag2_bagfile_information"
UNREADABLE = (ValueError, RecursionError, MemoryError, TypeError, AttributeError, LookupError)  # of YAML's constructors
DEPTH = 3  # folders below the given one
ADVICE = "remove it to import each file beside it as an episode, or write it anew with 'ros2 bag reindex'"


@dataclass(frozen=True)
class BagMetadata:
    """What ``metadata.yaml`` states that an import uses.

    Args:
        files: names of the files of the recording, in order of time; None if it does not say.
        compressed_messages: whether every message is compressed on its own.
        latched: topics whose publishers are all transient local.
        counts: the number of messages by topic.
        distro: the ROS distribution of the recorder (``"humble"``); empty if it is not stated.
    """

    files: tuple[str, ...] | None = None
    compressed_messages: bool = False
    latched: frozenset[str] = frozenset()
    counts: Mapping[str, int] = field(default_factory=dict)
    distro: str = ""


@dataclass(frozen=True)
class BagFiles:
    """One recording: its files in order of time. `key` names it within the source; `problem` says why it cannot be read."""

    key: str
    files: tuple[Path, ...]
    metadata: BagMetadata = BagMetadata()
    problem: DataError | None = None
    notes: tuple[FieldNote, ...] = ()


def recordings(path: Path, join: bool | None = None) -> list[BagFiles]:
    """The recordings of a file, of the folder of one recording, or of a folder of recordings, in natural order.

    Files in one folder are one recording if ``metadata.yaml`` is there or if they are called as rosbag2 calls the parts of a
    recording (``FOLDER_0.mcap``, ``FOLDER_1.mcap``). Otherwise each file is one.

    Args:
        join: True joins the files of every folder, False makes each file a recording; None decides as above.
    """
    if path.is_file():
        return [BagFiles(path.name, (path,))] if path.name.endswith(MCAP + SQLITE) else []
    return list(_below(path, path, join, DEPTH))


def bag_files(path: Path, suffixes: tuple[str, ...], depth: int = DEPTH) -> bool:
    """Whether `path` is a file with one of `suffixes`, or has one in it or in the folders below. Never raises."""
    try:
        if not path.is_dir():
            return path.is_file() and path.name.endswith(suffixes)
        folders = []
        with os.scandir(path) as entries:  # names alone: there may be many files of other formats
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.name.endswith(suffixes) and entry.is_file():
                    return True
                if depth and entry.is_dir():
                    folders.append(entry.path)
        return any(bag_files(Path(folder), suffixes, depth - 1) for folder in folders)
    except OSError:
        return False


def _found(path: Path, root: Path) -> list[Path]:
    return [file for file in files_of(path, *MCAP, *SQLITE, root=root) if not file.name.startswith(".")]


def _folders(path: Path, root: Path) -> list[Path]:
    if not path.is_dir():
        return []
    found = [entry for entry in path.glob("*") if entry.is_dir() and not entry.name.startswith(".") and inside(root, entry)]
    return sorted(found, key=lambda entry: natural(entry.name))


def _below(root: Path, folder: Path, join: bool | None, depth: int) -> Iterator[BagFiles]:
    found = _found(folder, root)
    key = folder.resolve().name if folder == root else folder.relative_to(root).as_posix()
    described = join is not False and (folder / METADATA).is_file() and (found or _is_bag_metadata(folder / METADATA))
    if described:
        yield _described(key, folder, found)
    elif found and (join or (join is None and _are_parts(folder, found))):
        yield BagFiles(key, tuple(found))
    else:
        for file in found:
            yield BagFiles(file.relative_to(root).as_posix(), (file,))
    if depth and not described:
        for entry in _folders(folder, root):
            yield from _below(root, entry, join, depth - 1)


def _are_parts(folder: Path, found: list[Path]) -> bool:
    """Whether the files are called as rosbag2 calls the parts of one recording, which it does before it writes metadata."""
    name = folder.resolve().name
    return len(found) > 1 and all(
        file.name.startswith(f"{name}_{number}.") for number, file in enumerate(sorted(found, key=lambda f: natural(f.name)))
    )


def _is_bag_metadata(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return ROOT_KEY.encode() in file.read(1 << 16)
    except OSError:
        return False


def _described(key: str, folder: Path, found: list[Path]) -> BagFiles:
    path = folder / METADATA
    try:
        metadata = read_metadata(path)
    except DataError as error:
        return BagFiles(key, tuple(found), problem=error)
    if metadata.files is None:
        reason = f"{METADATA} names no files: those beside it are taken, in the order of their names"
        return BagFiles(
            key,
            tuple(found),
            metadata,
            None if found else _lacks(path, "any file"),
            (FieldNote(METADATA, "left out", reason=reason),),
        )
    files = tuple(folder / name for name in metadata.files)
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        return BagFiles(key, tuple(found), metadata, _lacks(path, ", ".join(absent)))
    extra = [file.name for file in found if file not in files]
    reason = f"{METADATA} does not name it as a part of this recording"
    return BagFiles(key, files, metadata, notes=tuple(FieldNote(name, "left out", reason=reason) for name in extra))


def _lacks(path: Path, absent: str) -> CorruptFileError:
    return CorruptFileError(path, f"names {absent}, which {path.parent.name} lacks; {ADVICE}")


def read_metadata(path: Path) -> BagMetadata:
    """What the ``metadata.yaml`` at `path` states. Raises `CorruptFileError` if it is not that of rosbag2."""
    import yaml

    if path.stat().st_size > METADATA_BYTES:
        raise CorruptFileError(path, f"has {path.stat().st_size} bytes; at most {METADATA_BYTES} are read; {ADVICE}")
    with reading(path, OSError, yaml.YAMLError, *UNREADABLE):
        document = yaml_document(path.read_bytes())
    info = document.get(ROOT_KEY) if isinstance(document, dict) else None
    if not isinstance(info, dict):
        raise CorruptFileError(path, f"has no {ROOT_KEY}; expected the metadata of rosbag2; {ADVICE}")
    storage = info.get("storage_identifier", "mcap")
    if not isinstance(storage, str) or storage not in STORAGES:
        raise CorruptFileError(
            path, f"names the storage {storage!r}; known are {', '.join(STORAGES)}; convert it with 'ros2 bag convert'"
        )
    mode = str(info.get("compression_mode") or "none").lower()
    method = str(info.get("compression_format") or "zstd").lower()
    if mode not in ("none", "file", "message") or (mode != "none" and method != "zstd"):
        raise CorruptFileError(path, f"names compression {method!r} by {mode!r}; expected 'zstd' by 'file' or 'message'")
    counts, latched = _topics(info.get("topics_with_message_count"))
    files = _names(path, info.get("relative_file_paths"))
    return BagMetadata(files, mode == "message", frozenset(latched), counts, str(info.get("ros_distro") or ""))


def yaml_document(content: str | bytes) -> Any:
    """What a YAML text holds. Raises `yaml.YAMLError`, those of `UNREADABLE`, and `ValueError` for one that repeats itself.

    A few lines of aliases can stand for billions of values, which printing or comparing them would go through.
    """
    import yaml

    class WithoutAliases(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("it has aliases (*name), which rosbag2 does not write")
            return super().compose_node(parent, index)

    loader = WithoutAliases(content)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _names(path: Path, value: Any) -> tuple[str, ...] | None:
    if value is None or value == []:
        return None
    names = [PurePath(name).name for name in value if isinstance(name, str)] if isinstance(value, list) else []
    if len(names) != (len(value) if isinstance(value, list) else -1) or not all(names) or len(set(names)) != len(names):
        raise CorruptFileError(
            path, f"has relative_file_paths {str(value)[:80]!r}; expected a list of different file names; {ADVICE}"
        )
    return tuple(names)


def _topics(value: Any) -> tuple[dict[str, int], set[str]]:
    """The number of messages by topic, and the topics that are latched; what is not as expected is passed over."""
    counts: dict[str, int] = {}
    latched: set[str] = set()
    for entry in value if isinstance(value, list) else ():
        topic = entry.get("topic_metadata") if isinstance(entry, dict) else None
        if not isinstance(topic, dict) or not isinstance(topic.get("name"), str):
            continue
        if isinstance(entry.get("message_count"), int):
            counts[topic["name"]] = entry["message_count"]
        if is_latched(topic.get("offered_qos_profiles")):
            latched.add(topic["name"])
    return counts, latched


def is_latched(profiles: Any) -> bool:
    """Whether QoS profiles (a list, or its YAML text) are all transient local: a late subscriber gets the last message."""
    import yaml

    if isinstance(profiles, str):
        try:
            profiles = yaml_document(profiles[:METADATA_BYTES])
        except (yaml.YAMLError, *UNREADABLE):
            return False
    found = [profile.get("durability") for profile in profiles if isinstance(profile, dict)] if isinstance(profiles, list) else []
    return bool(found) and all(value == 1 or str(value).lower() == "transient_local" for value in found)
