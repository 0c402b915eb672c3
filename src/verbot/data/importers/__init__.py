"""Datasets in other formats, with one module per format.

A format implements `Source`; `verbot.data.importers.convert` does the rest. To add a format, add a module here with a class that
registers itself in `sources`.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from verbot.data.importers.known_robots import KnownRobot
from verbot.data.storage.segments import InstructionSegment
from verbot.errors import ConfigError, CorruptFileError, DataError
from verbot.files import below
from verbot.registry import Registry, options_of
from verbot.spec import FloatArray, UInt8Array

Fields = Mapping[str, np.ndarray]
BAGS, BAG_METADATA = ("mcap", "rosbag"), "metadata.yaml"
WIDEST = 64  # numbers per frame; a wider field without a name is an embedding, not a robot state


@dataclass(frozen=True)
class FieldNote:
    """A line of the table at the end of an import: one field of the source, and what became of it.

    Args:
        field: the field as the source names it.
        taken_as: ``"state"``, ``"action"``, ``"camera front"``, ``"instruction"``, ``"column next.reward"`` or ``"left out"``.
        conversion: how its values were changed (``"1 - x: 0 is closed, 1 is open"``); empty if they were kept.
        reason: the evidence for a conversion, or the reason for leaving the field out, with the option that changes it.
    """

    field: str
    taken_as: str
    conversion: str = ""
    reason: str = ""


@dataclass(frozen=True)
class RawEpisode:
    """One episode in the fields of its source.

    Args:
        state, action: numbers (t, …) by field, in their order in the vectors.
        cameras: for each camera a function that decodes its frames, uint8 RGB (t, h, w, 3), or depth in meters, float32
            (t, h, w). It is called only when needed.
        instructions: all wordings, the one to store first; None if the format cannot store an instruction.
        extras: other values in JSON.
        axes: names of the dimensions by field, if the source records them.
        calibration: calibration of the cameras, as in `EpisodeRecord`, if the source records it.
        segments: the instruction of every frame, if the source has one per frame and it changes; `instructions` are then those
            of the first segment.
        columns: further values (t, …) by the name that they get in the dataset (``next.reward``, ``next.done``, …).
        notes: what became of fields: left out, flipped, converted. `verbot.data.importers.convert` adds those of `state` and
            `action` itself.
        sources: the source's name of a field of `state` or `action` that is called otherwise.
    """

    state: Fields
    action: Fields
    cameras: Mapping[str, Callable[[], UInt8Array | FloatArray]]
    instructions: tuple[str, ...] | None
    extras: Mapping[str, Any] = field(default_factory=dict)
    axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    segments: tuple[InstructionSegment, ...] = ()
    columns: Fields = field(default_factory=dict)
    notes: tuple[FieldNote, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """One episode of a source, not read yet. `key` names it within the source; `read` raises `DataError` if it is broken."""

    key: str
    read: Callable[[], RawEpisode]


class Source(Protocol):
    """A dataset of one format, opened as ``Source(path, robot, **options)``, which raises `DataError` if it cannot be opened.

    Attributes:
        robot: the meaning of the fields.
        rate_hz: the recording rate; None if neither the format nor the robot defines it.
        total: the number of items; None if it is known only at the end.
        recognition: the evidence for `robot` where the source decided it (``"env_args: OSC_POSE with deltas"``), or the reason
            why a robot that a name suggests was not taken; empty if the user named it, or nothing suggests one.
    """

    about: ClassVar[str]
    robot: KnownRobot
    rate_hz: float | None
    total: int | None
    recognition: str

    @staticmethod
    def recognizes(path: Path) -> bool:
        """Whether `path` looks like this format. It must be quick and never raise."""
        ...

    def items(self) -> Iterator[Item]:
        """Every episode, always in the same order. A broken episode is an item too, whose `read` raises."""
        ...


class SourceType(Protocol):
    about: str

    def __call__(self, path: Path, robot: str | None = None, **options: Any) -> Source: ...

    def recognizes(self, path: Path) -> bool: ...


sources: Registry[Any] = Registry("dataset format", package="verbot.data.importers", group="verbot.sources")


def recognize(path: Path) -> str:
    """The format of the dataset at `path`. Raises `DataError` if the format is unknown, ambiguous or the native one."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    found = [name for name in sources.names() if sources.get(name).recognizes(path)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{path} looks like {' and like '.join(found)}; choose one with --format")
    entries = sorted(entry.name for entry in path.iterdir())[:8] if path.is_dir() else [path.name]
    known = "; ".join(f"{name}: {sources.get(name).about}" for name in sources.names())
    raise DataError(f"{path} is of no known format: it has {', '.join(entries) or 'nothing'}. Known: {known}")


def open_source(name: str, path: Path, robot: str | None, options: Mapping[str, Any], rate_hz: float | None = None) -> Source:
    """Open the dataset at `path` in format `name`. A format that resamples takes `rate_hz` too.

    Raises `ConfigError` for an option that the format does not have, `DataError` if `path` does not exist, or if it cannot be
    read without a link that leads out of it: the files of the machine are no part of other people's data.
    """
    factory: SourceType = sources.get(name)
    parameters = options_of(factory)
    known = [option for option in parameters if option not in ("robot", "rate_hz")]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(f"format {name!r} has no option {', '.join(map(repr, unknown))}; it has {', '.join(known) or 'none'}")
    if not path.exists():
        raise DataError(f"{path} does not exist")
    _refuse_links(name, path)
    timing = {"rate_hz": rate_hz} if "rate_hz" in parameters else {}
    source: Source = sources.build(name, path, robot, **timing, **options)
    return source


def refused_items(name: str, path: Path) -> list[Item]:
    """An item, whose `read` raises, for each link out of the source that looks like its format, and is therefore not read."""
    if name == "manifest":  # each picture says so itself
        return []
    kinds = BAGS if name in BAGS else (name,)
    named = [link for link in links_out(path) if any(sources.get(kind).recognizes(path / link) for kind in kinds)]
    return [Item(link, partial(_refuse, path, link)) for link in named]


def inside(root: Path, entry: Path) -> bool:
    """Whether an entry of the folder `root` is no link out of it."""
    try:
        return not entry.is_symlink() or below(root, entry.relative_to(root).as_posix()) == entry
    except (DataError, OSError):
        return False


def _refuse(path: Path, link: str) -> RawEpisode:
    below(path, link)
    raise DataError(f"{path / link}: it was a link out of this folder, and no longer is; try again")


def _refuse_links(name: str, path: Path) -> None:
    """Raise `DataError` for the first link out of a folder that its format could not pass over."""
    for link in links_out(path):
        if not _is_apart(name, path, path / link):
            below(path, link)


def _is_apart(name: str, path: Path, link: Path) -> bool:
    """Whether a source is whole without a link, which is then not followed: the formats list their files by `inside`."""
    if name in BAGS:
        return link.name != BAG_METADATA and not (link.is_file() and (link.parent / BAG_METADATA).is_file())
    if name == "rlds":
        return link.name not in ("dataset_info.json", "features.json") and not link.is_dir()
    return name in ("hdf5", "tensors", "zarr") or (name == "manifest" and link != path / "manifest.json")


def links_out(path: Path) -> list[str]:
    """The links in a folder that lead out of it, by name, sorted. Folders that vanish, or may not be read, hold none."""
    found, waiting = list[str](), [path] if path.is_dir() else []
    while waiting:
        entries = list[os.DirEntry[str]]()
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as listed:
            entries = list(listed)
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif not inside(path, Path(entry.path)):
                    found.append(Path(entry.path).relative_to(path).as_posix())
    return sorted(found)


@contextlib.contextmanager
def reading(path: object, *errors: type[Exception]) -> Iterator[None]:
    """Convert `errors`, which a format's library raises for a broken file, to a `CorruptFileError` that names `path`."""
    try:
        yield
    except errors as error:
        raise CorruptFileError(path, f"cannot be read ({str(error) or type(error).__name__})") from error


def failing(error: DataError) -> Callable[[], RawEpisode]:
    """The `read` of an item that is known to be broken."""

    def read() -> RawEpisode:
        raise error

    return read


def files_of(path: Path, *suffixes: str, root: Path | None = None) -> list[Path]:
    """`path` itself, or the files in it with one of `suffixes`, in natural order: ``episode_2`` before ``episode_10``.

    Links that lead out of the folder `root` of the source, if that is not `path`, are left out.
    """
    if path.is_file():
        return [path] if path.name.endswith(suffixes) else []
    found = [
        entry for entry in path.glob("*") if entry.name.endswith(suffixes) and inside(root or path, entry) and entry.is_file()
    ]
    return sorted(found, key=lambda entry: natural(entry.name))


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key that compares the numbers in names as numbers.

    Example:
        >>> sorted(["demo_10", "demo_9"], key=natural)
        ['demo_9', 'demo_10']
    """
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def listed(value: Any) -> tuple[str, ...]:
    """Names from an option that holds one name or several: ``"a,b"`` or ``["a", "b"]``. Raises `ConfigError` for others."""
    if not isinstance(value, str | list | tuple):
        raise ConfigError(f"{value!r} is not a field; expected a name, or several separated by commas")
    words = value.split(",") if isinstance(value, str) else [str(word) for word in value]
    return tuple(word.strip() for word in words if word.strip())


class UnknownFieldError(DataError):
    """A field that an option names, or that a robot has, does not exist."""


def pick(wanted: tuple[str, ...], known: Mapping[str, Any], kind: str, place: object) -> list[str]:
    """Return `wanted` if `known` has every name. Otherwise raises `UnknownFieldError`, which lists the existing names.

    Args:
        known: the existing names; the message also has the shape of a frame if the value is that shape, or an array (t, …).
    """
    absent = [name for name in wanted if name not in known]
    if absent:
        existing = ", ".join(name + _shape(value) for name, value in known.items())
        raise UnknownFieldError(f"{place} has no {kind} {', '.join(map(repr, absent))}; it has {existing or 'none'}")
    return list(wanted)


def _shape(value: Any) -> str:
    shape = value.shape[1:] if isinstance(value, np.ndarray) else value
    if not isinstance(shape, tuple):
        return ""
    return f" ({'×'.join('?' if length is None else str(length) for length in shape) or '1'})"


def unique(sentences: Any) -> tuple[str, ...]:
    """Sentences in their order, without duplicates and empty ones."""
    return tuple(dict.fromkeys(text.strip() for text in sentences if text.strip()))
