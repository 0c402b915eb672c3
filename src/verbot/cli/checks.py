"""What every command checks before its work begins: the ranges of numbers, and that results can be written."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from verbot.errors import ConfigError
from verbot.ranges import COUNT, COUNT_OR_NONE, IMAGE_SIZE, NOT_NEGATIVE, PORT, POSITIVE, RATE_HZ, SEED, STRENGTH, NumberRange

# By the option's name; by command and name where they differ.
RANGES: dict[str, NumberRange | None] = {
    "axes": STRENGTH,
    "batch": COUNT,
    "captions": COUNT_OR_NONE,
    "delay": COUNT_OR_NONE,
    "delay_estimate": COUNT_OR_NONE,
    "delay_jitter": COUNT_OR_NONE,
    "drop": NumberRange(0, 1),
    "episode": COUNT_OR_NONE,
    "episodes": COUNT,
    "exam": COUNT,
    "execute": COUNT,
    "frame": COUNT_OR_NONE,
    "image_size": IMAGE_SIZE,
    "index": COUNT_OR_NONE,
    "limit": COUNT,
    "max_clients": COUNT,
    "max_episode_gb": POSITIVE,
    "max_age_s": POSITIVE,
    "max_frames": COUNT,
    "minutes": POSITIVE,
    "noise": NOT_NEGATIVE,
    "observations": COUNT,
    "port": PORT,
    "randomize": STRENGTH,
    "robustness axes": None,  # names
    "rate_hz": RATE_HZ,
    "repeats": COUNT_OR_NONE,
    "samples": COUNT,
    "scene": COUNT_OR_NONE,
    "scenes": COUNT_OR_NONE,
    "seconds": NOT_NEGATIVE,
    "seed": SEED,
    "steps": COUNT,
    "strength": STRENGTH,
    "strengths": STRENGTH,
    "subsample": COUNT,
    "think_from": COUNT_OR_NONE,
    "threads": COUNT_OR_NONE,
    "timeout_s": POSITIVE,
    "videos": COUNT_OR_NONE,
    "wait_ms": NOT_NEGATIVE,
    "workers": COUNT_OR_NONE,
}
# The files and folders into which commands write.
RESULT_FOLDERS = {
    "demo": "out", "collect": "out", "teleop": "out", "train": "out", "evaluate": "out", "compare": "out", "robustness": "out",
    "explain": "out", "run": "out", "optimize": "out", "data annotate": "out", "data edit": "out", "data lint": "out",
    "data import": "target", "reinforce": "out", "gap": "out", "look": "out", "robot record": "out",
}  # fmt: skip
RESULT_FILES = {"watch": "out", "data view": "out", "data export": "target"}
# What a path of a person can be wrong about; other errors of the operating system are faults of the program.
PATH_ERRORS = (
    errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENODEV,
    errno.ENOENT, errno.ENOSPC, errno.ENOTDIR, errno.ENOTEMPTY, errno.ENXIO, errno.EPERM, errno.EROFS,
)  # fmt: skip


def check_options(command: str, options: Mapping[str, Any]) -> None:
    """Raise `ConfigError`, naming the option, for a number outside its range or a result that cannot be written.

    Args:
        options: the command's arguments by name; records among them stand for their fields.
    """
    given = dict(_flat(options))
    for name, value in given.items():
        allowed = RANGES.get(f"{command} {name}", RANGES.get(name))
        if allowed is not None:
            allowed.check(_flag(name), value)
        if name == "host":
            check_host(value)
        for word in (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ():
            if isinstance(word, str) and any("\ud800" <= character <= "\udfff" for character in word):
                raise ConfigError(f"{_flag(name)} is {word!r}, which is no text in UTF-8")
            if isinstance(word, str) and word.startswith(("ws://", "wss://")):
                check_address(word)
    folder, file = RESULT_FOLDERS.get(command), RESULT_FILES.get(command)
    if "WORLD_SIZE" in os.environ and os.environ.get("RANK", "0") != "0":  # under torchrun rank 0 writes the results
        return
    if folder and given[folder] is not None:
        check_folder(_flag(folder), given[folder])
    if file and given[file] is not None:
        check_file(_flag(file), given[file])


def check_folder(option: str, path: Path) -> None:
    """Raise `ConfigError` unless files can be written into the folder `path`, which need not exist. It makes nothing."""
    _writable_above(option, path)


def check_file(option: str, path: Path) -> None:
    """Raise `ConfigError` unless the file `path` can be written, in a folder that need not exist. It makes nothing."""
    if os.path.isdir(path):
        raise ConfigError(f"{option} is {path}, which is a folder; expected a file")
    there = _writable_above(f"the folder of {option}", path.parent)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.stat(there / path.name)
        if os.path.exists(path):
            with open(path, "ab"):
                pass
    except OSError as error:
        raise ConfigError(f"{option} is {path}, and no file can be written there: {error.strerror}") from error


def _writable_above(option: str, path: Path) -> Path:
    """The folder `path`, or the nearest one above it that exists, in which it can be made. Raises `ConfigError`.

    Nothing with a name is made, so that commands that start at once do not meet each other's probes.
    """
    found, lacking = path, list[str]()
    while not os.path.lexists(found) and found != found.parent:
        lacking.append(found.name)
        found = found.parent
    try:
        for name in (path, *(found / name for name in lacking)):  # names that are too long, and loops of links
            with contextlib.suppress(FileNotFoundError):
                os.stat(name)
        if not os.path.isdir(found):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(found))
        with tempfile.TemporaryFile(dir=found):
            pass
    except OSError as error:
        if os.path.exists(path) and not os.path.isdir(path):
            raise ConfigError(f"{option} is {path}, which is a file; expected a folder") from error
        raise ConfigError(f"{option} is {path}, and no folder can be written there: {_reason(error, path)}") from error
    return found


def check_host(host: str) -> None:
    """Raise `ConfigError` for what can be the name of no machine."""
    try:
        host.encode("idna")
    except UnicodeError as error:
        raise ConfigError(f"--host is {host!r}; expected an address such as 127.0.0.1, or the name of a machine") from error


def check_address(url: str) -> None:
    """Raise `ConfigError` for an address of no policy server."""
    try:
        parts = urlsplit(url)
        wrong = "it names no machine" if not parts.hostname else "there is no port 0" if parts.port == 0 else ""
    except ValueError as error:
        wrong = str(error)
    if not url.isprintable():
        wrong = "it has characters that cannot be printed"
    if wrong:
        raise ConfigError(f"{url!r} is not the address of a policy server ({wrong}); expected ws://HOST:PORT")


def described(error: OSError, command: str, options: Mapping[str, Any]) -> str:
    """One line about a path that could not be read or written."""
    name = RESULT_FOLDERS.get(command) or RESULT_FILES.get(command)
    output = dict(_flat(options)).get(name or "")
    path = error.filename or "a file"
    writing = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
    if isinstance(path, str | bytes) and output is not None:
        writing |= os.path.abspath(os.fsdecode(path)).startswith(os.path.abspath(output))
    return f"{os.fsdecode(path)} cannot be {'written' if writing else 'read'}: {error.strerror or error}"


def _reason(error: OSError, path: Path) -> str:
    inner = f"{error.filename}: " if error.filename and Path(error.filename) != path else ""
    return f"{inner}{error.strerror or error}"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}" if name != "target" else name


def _flat(options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        if dataclasses.is_dataclass(value):
            yield from ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        else:
            yield name, value
