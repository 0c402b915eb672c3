"""Files and folders that are written whole or not at all, found again after a crash, and never outside their root.

Every file that verbot writes is written by `write_atomic`; every name in other people's data becomes a path by `below`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from verbot.errors import CorruptFileError, DataError, UnwritableError


def write_atomic(path: Path, content: bytes) -> str:
    """Write `content` so that at every instant `path` holds either the whole old content or the whole new one.

    The bytes are on disk (fsync of the file, rename, fsync of the folder) before this returns. Returns their sha256.

    Raises `UnwritableError` if that cannot be, for instance because the disk is full.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(draft, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise UnwritableError(path, error) from error
    return sha256(content)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextlib.contextmanager
def lock(path: Path, wait: bool, holder: str) -> Iterator[None]:
    """An exclusive lock that the operating system releases when its process dies.

    Raises `DataError` with the text `holder` if the lock is taken, unless `wait`; `UnwritableError` if there can be none.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(path, "a+b", opener=_no_link))
        except OSError as error:
            raise UnwritableError(path, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise DataError(f"{path.parent}: {holder}") from error
        yield


def _no_link(path: str, flags: int) -> int:
    """Opens a file that is no link, which could lead to a file elsewhere, or make one there."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def below(root: Path, relative: str, source: object = None) -> Path:
    """The path of the file `relative` of the folder `root`, for a name that stands in other people's data.

    Raises `DataError` unless it lies below `root` once every link in it is resolved: an absolute path, ``..`` and a link that
    leads elsewhere are refused. The files of a snapshot in the cache of Hugging Face are links to the ``blobs`` of their
    repository, which are taken as below it.

    Args:
        source: what names the file, for the message, e.g. ``"meta/info.json"``.

    Example:
        >>> below(Path("dataset"), "videos/front/0.mp4").as_posix()
        'dataset/videos/front/0.mp4'
    """
    named = f"{source} names" if source else "there is"
    if "\0" in relative or os.path.isabs(relative) or ".." in Path(relative).parts:
        raise DataError(f"{root}: {named} the file {relative!r}; expected a path below this folder")
    path = root / relative
    try:
        inside = any(path.resolve().is_relative_to(folder) for folder in _reach(root))
    except (OSError, RuntimeError, ValueError) as error:  # too long, links in a circle, half of a character
        raise DataError(f"{root}: {named} the file {relative!r:.200}, which is no path ({error})") from error
    if not inside:
        raise DataError(f"{root}: {named} the file {relative!r}, which a link leads out of this folder; copy the file into it")
    return path


def _reach(root: Path) -> list[Path]:
    """The folders in which links of `root` may end."""
    whole = root.resolve()
    blobs = whole.parent.parent / "blobs"
    return [whole, blobs] if whole.parent.name == "snapshots" and blobs.is_dir() else [whole]


def regular_file(path: Path) -> Path:
    """`path`, which must be a plain file or a link to one: opening a pipe would wait for ever, and a device never ends.

    Raises `CorruptFileError` that names it otherwise, and if there is no such file.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:  # a zero byte in the name is a ValueError
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CorruptFileError(path, f"cannot be read ({reason})") from error
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise CorruptFileError(path, f"is {kinds.get(stat.S_IFMT(mode), 'a device')}; expected a plain file")
    return path
