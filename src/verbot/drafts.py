"""Drafts: the names under which new content is written beside the old, and what processes that died left of it.

A draft is named ``.NAME.PROCESS-HOST-TOKEN-NUMBER.tmp``. The number of a process says little in a folder that hosts or containers
share, and comes again after a restart: each container has a process 1. So only a process of this host that is dead, or had this
process's number before it, is known to have left a draft; a draft of another host is taken to be left once it is a day old.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

LEFT_S = 86400.0  # from this age on a draft of another host counts as left
LONGEST = 200  # bytes of a name that a draft repeats; file systems allow 255

_numbers = itertools.count()  # of drafts, so that two threads can write one path


def new_draft(path: Path) -> Path:
    host, token = _writer(os.getpid())
    return path.with_name(f".{_stem(path)}.{os.getpid()}-{host}-{token}-{next(_numbers)}.tmp")


def leftovers(path: Path) -> Iterator[tuple[Path, str]]:
    """Drafts of `path` that no process writes any more, with their kind: ``"tmp"``, and ``"new"`` or ``"old"`` of verbot 0.1."""
    ours = re.compile(re.escape(f".{_stem(path)}.") + r"(\d+)(?:-(\w+)-(\w+))?(?:-\d+)?\.tmp")
    former = re.compile(re.escape(f".{path.name}.") + r"(new|old)-(\d+)")
    with contextlib.suppress(OSError):  # a folder that cannot be listed
        for name in os.listdir(path.parent):
            draft = path.with_name(name)
            if (found := ours.fullmatch(name)) and _is_left(draft, int(found[1]), found[2], found[3]):
                yield draft, "tmp"
            elif (found := former.fullmatch(name)) and _is_over(int(found[2])):
                yield draft, found[1]


def sweep(path: Path) -> None:
    for found, _ in leftovers(path):
        remove(found)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder as far as possible."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_left(draft: Path, process: int, host: str | None, token: str | None) -> bool:
    here, mine = _writer(os.getpid())
    if host == here:
        return token != mine and _is_over(process)
    try:
        return time.time() - draft.lstat().st_mtime > LEFT_S
    except OSError:
        return False


def _is_over(process: int) -> bool:
    """Whether another process of this number, on this host, is dead."""
    return process == os.getpid() or not _alive(process)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


@functools.cache
def _writer(process: int) -> tuple[str, str]:
    """Identifies where process numbers have one meaning (a container between two starts of its host), and this process there."""
    try:
        host = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        host = os.uname().nodename
    with contextlib.suppress(OSError):
        host += os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(host.encode()).hexdigest()[:8], secrets.token_hex(4)


def _stem(path: Path) -> str:
    """The name of `path` in those of its drafts, shortened if it is so long that they would be too long."""
    if len(os.fsencode(path.name)) <= LONGEST:
        return path.name
    return hashlib.sha256(os.fsencode(path.name)).hexdigest()
