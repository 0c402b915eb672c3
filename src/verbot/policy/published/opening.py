"""A published policy by folder or name on the hub: which family it is of, and the robot that a person states for it."""

from __future__ import annotations

import dataclasses
import importlib
import os
from pathlib import Path
from types import ModuleType

from verbot.errors import MissingDependencyError, PolicyError
from verbot.policy.published.base import OpenOptions, PublishedFamily, families
from verbot.policy.published.policy import PublishedPolicy
from verbot.policy.published.specs import RobotMap
from verbot.text import progress_bars

PREFIX = "hf:"
# What the families read. Code and pickles are not among it, but for OFT's .pt files, which hold tensors and are read as such.
FILES = (
    "*.json", "*.safetensors", "*.safetensors.index.json", "*.model", "*.txt", "*.msgpack", "*.pt", "*/checkpoint", "assets/**",
)  # fmt: skip


def is_published(name: str | os.PathLike[str]) -> bool:
    """Whether a policy's name means a published policy: it begins with ``hf:``."""
    return os.fspath(name).startswith(PREFIX)


def published_folder(name: str | os.PathLike[str]) -> Path:
    """The folder of a published policy: ``hf:FOLDER``, or ``hf:OWNER/NAME``, which is downloaded unless the hub's cache has it.

    ``hf:OWNER/NAME@REVISION`` is a revision of it; what follows a ``#`` is no part of the name (see `open_published`).

    Raises `PolicyError` if there is none, `MissingDependencyError` if the hub's client is not installed.

    Example:
        >>> published_folder("hf:")
        Traceback (most recent call last):
        ...
        verbot.errors.PolicyError: 'hf:' names no policy; expected hf:FOLDER or hf:OWNER/NAME
    """
    own, _ = _parted(name)
    folder = Path(own).expanduser()
    if not own.strip():
        raise PolicyError(f"{PREFIX!r} names no policy; expected hf:FOLDER or hf:OWNER/NAME")
    if folder.is_dir():
        return folder
    repository, _, revision = own.partition("@")
    if repository.count("/") != 1 or repository.startswith((".", "/", "~")):
        raise PolicyError(f"there is no folder {own!r}; expected hf:FOLDER, or hf:OWNER/NAME of the hub")
    return _downloaded(repository, revision or None)


def open_published(
    name: str | os.PathLike[str], robot: RobotMap | None = None, options: OpenOptions | None = None
) -> PublishedPolicy:
    """The published policy called `name`, with or without ``hf:``; see `published_folder`.

    Args:
        name: ``hf:OWNER/NAME#STATISTICS`` chooses the statistics of one of several datasets, as `OpenOptions.statistics`.
        robot: the robot that it acts on; None takes what its folder's ``robot.json`` says, or else the generic one of its files.

    Raises:
        PolicyError: there is no such folder, or it is of no known family; the message lists those.
        ConfigError, CorruptFileError: the files are not what the family publishes; the message names the tensor or the field.
    """
    folder, (_, statistics) = published_folder(name), _parted(name)
    found = family_of(folder)
    family: PublishedFamily = families.build(found)
    options = options or OpenOptions()
    parts = family.open(folder, options if statistics is None else dataclasses.replace(options, statistics=statistics))
    return PublishedPolicy(parts, folder, found, robot or RobotMap.read(folder))


def family_of(folder: Path) -> str:
    """The name of the family of the files in `folder`. Raises `PolicyError` if none recognizes them, or several do."""
    known = {name: families.build(name) for name in families.names() if not families.missing(name)}
    found = [name for name, family in known.items() if family.recognizes(folder)]
    if len(found) == 1:
        return found[0]
    if found:
        raise PolicyError(f"{folder} is a policy of several families: {', '.join(found)}; expected the files of one")
    listed = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise PolicyError(f"{folder} is no published policy of a known family ({', '.join(known)}); it holds {listed}")


def _parted(name: str | os.PathLike[str]) -> tuple[str, str | None]:
    """Folder or name on the hub, and the name of the statistics after a ``#``."""
    own = os.fspath(name).removeprefix(PREFIX)
    if "#" not in own or Path(own).expanduser().is_dir():
        return own, None
    own, _, statistics = own.rpartition("#")
    return own, statistics


def _downloaded(repository: str, revision: str | None) -> Path:
    hub = _hub()
    for offline in (True, False):  # a cached copy needs no network
        try:
            with progress_bars():
                return Path(
                    hub.snapshot_download(repository, revision=revision, allow_patterns=list(FILES), local_files_only=offline)
                )
        except Exception as error:  # the hub's client, and what it speaks through, raise a dozen unrelated kinds
            if offline:
                continue
            raise PolicyError(
                f"there is no published policy {repository!r}: no such folder is here, and the hub did not give it "
                f"({type(error).__name__}). Without a network, copy its files into a folder and open hf:FOLDER"
            ) from error
    raise AssertionError


def _hub() -> ModuleType:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise MissingDependencyError(
            "policies of the hub need huggingface_hub, which is not installed: pip install 'verbot[hf]'"
        ) from error
