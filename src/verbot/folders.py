"""Folders that take the place of others in one step, so that at every instant either the old one or the new one can be found."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from verbot.drafts import leftovers, new_draft, remove, sweep
from verbot.errors import DataError, UnwritableError
from verbot.files import destination, drafting, lock, sync, write


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of these files by name, in place of the one at `path`, so that it is found whole at every instant.

    A link at `path` stays, and the folder to which it leads is replaced.

    Raises `UnwritableError`; the whole folder before it, or the whole new one, is then there.
    """
    path = destination(path)
    recover(path)
    with drafting(path) as draft:
        draft.mkdir()
        for name, content in files.items():
            write(draft / name, content)
        replace_folder(draft, path)


def replace_folder(draft: Path, path: Path) -> None:
    """Put the whole folder `draft`, which lies beside `path`, in its place, and remove the one before it.

    At every instant `path` is the old folder or the new one. Where the file system cannot exchange two names, nothing has the
    name for a moment; whoever looks for the folder then calls `recover`.

    Raises `UnwritableError`; the whole folder before it, or the whole new one, is then there.
    """
    try:
        if os.path.lexists(path) and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file has its name", str(path))
        sync(draft)
        if not os.path.lexists(path):
            os.rename(draft, path)
        elif not _exchange(draft, path):
            _replace_in_two(draft, path)
        sync(path.parent)
    except OSError as error:
        raise UnwritableError(path, error) from error
    remove(draft)  # after an exchange it is the old folder


def recover(path: Path) -> bool:
    """Complete a replacement of the folder `path` that was interrupted while nothing had its name. Returns whether there was one.

    Raises `DataError` if the folder is there under another name that cannot be changed.
    """
    if os.path.lexists(path) or not path.parent.is_dir():
        return False
    ready = _beside(path, "edited")
    if not (ready.is_dir() and _beside(path, "before").is_dir()):
        former = [found for found, kind in leftovers(path) if kind == "old"]  # as verbot 0.1 replaced policies
        if not former:
            return False
        ready = max(former, key=lambda found: found.stat().st_mtime)
    try:
        _complete(ready, path)
    except OSError as error:
        raise DataError(f"{path} was being replaced by {ready}, which cannot be renamed ({error.strerror}); rename it") from error
    return True


def is_blank(path: Path) -> bool:
    """Whether there is no folder, or only hidden files in it, such as the lock and the drafts of a process that was killed."""
    return not any(found.is_file() and not found.name.startswith(".") for found in path.rglob("*"))


def remove_folder(path: Path) -> None:
    """Remove a folder, as far as that is allowed, so that it is never seen in part.

    What a crash leaves of it is removed by the next removal or replacement of its name.
    """
    sweep(path)
    aside = new_draft(path)
    with contextlib.suppress(OSError):
        os.rename(path, aside)
    remove(aside)


def _replace_in_two(draft: Path, path: Path) -> None:
    swap, ready, before = (_beside(path, what) for what in ("swap", "edited", "before"))
    with lock(swap, wait=True, holder="another process is replacing it"):
        for leftover in (ready, before):
            remove(leftover)
        os.rename(draft, ready)
        os.rename(path, before)
        _complete(ready, path)
        remove(before)
        remove(swap)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step. Returns False where the system or the file system cannot."""
    call = _renameat2()
    if call is None:
        return False
    if call(-100, os.fsencode(one), -100, os.fsencode(other), 2) == 0:  # AT_FDCWD, RENAME_EXCHANGE
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _renameat2() -> Callable[..., int] | None:
    """The function of the C library, or None where it has none, as outside Linux."""
    try:
        found = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return None
    found.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return found


def _complete(ready: Path, path: Path) -> None:
    """Give a whole folder its name, unless another process did."""
    try:
        os.rename(ready, path)
    except FileNotFoundError:
        if not path.is_dir():
            raise


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")
