"""Foreign datasets, one file a format. What a format owes is `Source`; `verbot.data.importers.convert` does the rest.

Adding a format is adding a file here: a class that registers itself in `sources`.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from verbot.data.importers.known_robots import Robot
from verbot.errors import ConfigError, CorruptFileError, DataError
from verbot.registry import Registry
from verbot.spec import UInt8Array

Fields = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class RawEpisode:
    """One episode as its source holds it.

    Args:
        state, action: field to numbers (t, …), in the order that they take in the vectors.
        cameras: camera to a function that decodes its frames, uint8 RGB (t, h, w, 3); called only when they are needed.
        instructions: every wording, the one to store first; None where the format has no place for one.
        extras: anything else in JSON.
        axes: field to the names of its dimensions, where the source knows them.
        calibration: the cameras', as in `EpisodeRecord`, where the source knows it.
    """

    state: Fields
    action: Fields
    cameras: Mapping[str, Callable[[], UInt8Array]]
    instructions: tuple[str, ...] | None
    extras: Mapping[str, Any] = field(default_factory=dict)
    axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """One episode of a source, not read yet; `read` raises `DataError` for a broken one. `key` names it within the source."""

    key: str
    read: Callable[[], RawEpisode]


class Source(Protocol):
    """A dataset of one format, opened as ``Source(path, robot, **options)``; it raises `DataError` when it cannot be.

    `robot` says what the fields mean; `rate_hz` is None where neither the format nor the robot knows; `total` is how many
    items there will be, None where that is known only at the end.
    """

    about: ClassVar[str]
    robot: Robot
    rate_hz: float | None
    total: int | None

    @staticmethod
    def recognizes(path: Path) -> bool:
        """Whether `path` looks like this format; it must be quick and never raise."""
        ...

    def items(self) -> Iterator[Item]:
        """Every episode, always in the same order. What is broken is an item too, whose `read` says so."""
        ...


class SourceType(Protocol):
    about: str

    def __call__(self, path: Path, robot: str | None = None, **options: Any) -> Source: ...

    def recognizes(self, path: Path) -> bool: ...


sources: Registry[Any] = Registry("dataset format", package="verbot.data.importers", group="verbot.sources")


def recognize(path: Path) -> str:
    """The format of the dataset at `path`. Raises `DataError` for one of no known format, for an ambiguous and a native one."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    found = [name for name in sources.names() if sources.get(name).recognizes(path)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{path} looks like {' and like '.join(found)}; say which with --format")
    entries = sorted(entry.name for entry in path.iterdir())[:8] if path.is_dir() else [path.name]
    known = "; ".join(f"{name}: {sources.get(name).about}" for name in sources.names())
    raise DataError(f"{path} is of no known format: it has {', '.join(entries) or 'nothing'}. Known: {known}")


def open_source(name: str, path: Path, robot: str | None, options: Mapping[str, Any], rate_hz: float | None = None) -> Source:
    """Raises `ConfigError` for an option that the format does not have. A format that resamples takes `rate_hz` too."""
    factory: SourceType = sources.get(name)
    parameters = inspect.signature(factory).parameters
    known = [option for option in parameters if option not in ("path", "robot", "rate_hz")]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(f"format {name!r} has no option {', '.join(map(repr, unknown))}; it has {', '.join(known) or 'none'}")
    if not path.exists():
        raise DataError(f"{path} does not exist")
    timing = {"rate_hz": rate_hz} if "rate_hz" in parameters else {}
    return factory(path, robot, **timing, **options)


@contextlib.contextmanager
def reading(path: object, *errors: type[Exception]) -> Iterator[None]:
    """Whatever a format's library raises about a broken file, as a `CorruptFileError` that names it."""
    try:
        yield
    except errors as error:
        raise CorruptFileError(path, f"cannot be read ({str(error) or type(error).__name__})") from error


def failing(error: DataError) -> Callable[[], RawEpisode]:
    """The `read` of an item that is known to be broken."""

    def read() -> RawEpisode:
        raise error

    return read


def files_of(path: Path, *suffixes: str) -> list[Path]:
    """`path` itself, or the files in it that end so, ``episode_2`` before ``episode_10``."""
    if path.is_file():
        return [path] if path.name.endswith(suffixes) else []
    found = [entry for entry in path.glob("*") if entry.is_file() and entry.name.endswith(suffixes)]
    return sorted(found, key=lambda entry: natural(entry.name))


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key under which numbers in names count as numbers.

    Example:
        >>> sorted(["demo_10", "demo_9"], key=natural)
        ['demo_9', 'demo_10']
    """
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def listed(value: Any) -> tuple[str, ...]:
    """An option that names one thing or several: ``"a,b"`` or ``["a", "b"]``."""
    words = value.split(",") if isinstance(value, str) else [str(word) for word in value]
    return tuple(word.strip() for word in words if word.strip())


def pick(wanted: tuple[str, ...], known: Mapping[str, Any], what: str, where: object) -> list[str]:
    """`wanted`, each of which must be a field there. Raises `DataError` that lists what exists."""
    absent = [name for name in wanted if name not in known]
    if absent:
        raise DataError(f"{where} has no {what} {', '.join(map(repr, absent))}; it has {', '.join(known) or 'none'}")
    return list(wanted)


def unique(sentences: Any) -> tuple[str, ...]:
    """Sentences once each, in their order, without empty ones."""
    return tuple(dict.fromkeys(text.strip() for text in sentences if text.strip()))
