"""Files and folders that are written whole or not at all, found again after a crash, and never outside their root.

Every file that verbot writes is written by `write_atomic` or `replacing`, every file that grows by `LineLog`, every folder by
`verbot.folders`; every name in other people's data becomes a path by `below`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from verbot.drafts import new_draft, sweep
from verbot.drafts import remove as remove  # also for those who import it from here
from verbot.errors import CorruptFileError, DataError, UnwritableError

KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def write_atomic(path: Path, content: bytes | str, follow: bool = True) -> str:
    """Write `content` so that at every instant `path` holds either the whole old content or the whole new one.

    The bytes are on disk (fsync of the file, rename, fsync of the folder) before this returns. Text is written as UTF-8. A file
    that was there keeps its permissions. Returns the sha256 of the bytes.

    Args:
        follow: write the file to which a link at `path` leads. In a folder of other people's data it is False, and a link is
            replaced by the file.

    Raises `UnwritableError` if that cannot be, for instance because the disk is full, or `path` is a device.
    """
    content = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    path, mode = _destination(path, follow)
    with drafting(path) as draft:
        write(draft, content, mode)
        os.replace(draft, path)
        sync(path.parent)
    return sha256(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """As `write_atomic`, for libraries that write a file themselves: yields the path at which they write it.

    Raises `UnwritableError` also for an `OSError` of the library.
    """
    path, mode = _destination(path)
    with drafting(path) as draft:
        yield draft
        _permit(draft, mode)
        sync(draft)
        os.replace(draft, path)
        sync(path.parent)


class LineLog:
    """A file of lines that grows. What a process that died, or a full disk, left of a last line is cut off before the next one.

    Raises `UnwritableError`, here and in `append`.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: IO[bytes] | None = None
        self._open()

    def append(self, *lines: str, sync: bool = False) -> None:
        """Append lines (without their ends); with `sync` they are on disk before this returns."""
        content = memoryview("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
        file = self._file or self._open()
        try:
            while content:
                content = content[file.write(content) :]
            if sync:
                os.fsync(file.fileno())
        except OSError as error:
            self.close()  # the next line cuts off what there is of this one
            raise UnwritableError(self.path, error) from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> LineLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self) -> IO[bytes]:
        _destination(self.path)
        try:
            if self.path.is_file() and not _ends(self.path):
                content = self.path.read_bytes()
                write_atomic(self.path, content[: content.rfind(b"\n") + 1])
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = file = open(self.path, "ab", buffering=0)  # noqa: SIM115  # closed with this object
        except OSError as error:
            raise UnwritableError(self.path, error) from error
        return file


def read_lines(path: Path) -> list[bytes]:
    """The complete lines of a file that `LineLog` writes; none if there is no file."""
    content = path.read_bytes() if path.is_file() else b""
    return content[: content.rfind(b"\n") + 1].split(b"\n")[:-1]


def read_record(path: Path) -> dict[str, Any]:
    """The table in a JSON file, such as ``run.json``.

    Raises `CorruptFileError` that names the file if it is missing, torn, nested too deeply, has a key twice, or holds anything
    else than a table.
    """
    try:
        record = json.loads(regular_file(path).read_bytes(), object_pairs_hook=_table)
    except OSError as error:
        raise CorruptFileError(path, f"cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # also bytes that are no UTF-8
        raise CorruptFileError(path, f"is not JSON ({error})") from error
    if not isinstance(record, dict):
        raise CorruptFileError(path, f"is a JSON {type(record).__name__}; expected a table")
    return record


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in names if names.count(name) > 1)!r:.80} twice in one table")
    return table


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextlib.contextmanager
def lock(path: Path, wait: bool, holder: str) -> Iterator[None]:
    """An exclusive lock that the operating system releases when its process dies, also if it leaves children behind.

    Raises `DataError` with the text `holder` and its process id if the lock is taken, unless `wait`; `UnwritableError` if there
    can be none.
    """
    file = _locked(path, wait, holder)
    _held.add(file)
    try:
        yield
    finally:
        _held.discard(file)
        file.close()


@contextlib.contextmanager
def hold(folder: Path, holder: str) -> Iterator[None]:
    """The lock of a folder of results, against a second process that would write into it. A thread may hold it in nested calls.

    Raises `DataError` with the text `holder` and its process id while another one holds it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with hold(Path(folder), "another training runs here"), hold(Path(folder), "another training runs here"):
        ...         pass
    """
    key = folder.resolve()
    if key in _mine.folders:
        yield
        return
    with lock(folder / ".lock", wait=False, holder=holder):
        _mine.folders.add(key)
        try:
            yield
        finally:
            _mine.folders.discard(key)


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


@contextlib.contextmanager
def drafting(path: Path) -> Iterator[Path]:
    """A name beside `path` for its new content, removed if that fails, as are drafts of `path` that dead processes left."""
    draft = new_draft(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        yield draft
    except OSError as error:
        remove(draft)
        raise UnwritableError(path, error) from error
    except BaseException:
        remove(draft)
        raise


def write(path: Path, content: bytes, mode: int | None = None) -> None:
    with open(path, "wb") as file:
        _permit(file.fileno(), mode)  # before there is anything to read
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def destination(path: Path) -> Path:
    """Where `path` is written: what a link leads to, if it is one. Raises `UnwritableError` if nothing can be there."""
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise UnwritableError(path, OSError(errno.ELOOP, os.strerror(errno.ELOOP)))
    if not target.parent.is_dir():  # a disk that is not mounted, for instance
        raise UnwritableError(path, OSError(f"it is a link to {target}, whose folder is not there"))
    return target


def _destination(path: Path, follow: bool = True) -> tuple[Path, int | None]:
    """The file to write, and the permissions of the one that is there."""
    if re.match("/proc/|/dev$", os.path.realpath(path.parent)):  # /dev/stdout, whose file other software writes too
        raise UnwritableError(path, OSError("it is a device"), "name a plain file")
    try:
        mode = os.stat(path, follow_symlinks=follow).st_mode
    except (OSError, ValueError):  # there is none, or writing it says what is the matter
        return destination(path) if follow else path, None
    if stat.S_ISDIR(mode):
        raise UnwritableError(path, IsADirectoryError(errno.EISDIR, "a folder has its name"))
    if stat.S_ISLNK(mode):
        return path, None
    if not stat.S_ISREG(mode):
        raise UnwritableError(path, OSError(f"it is {_kind(mode)}"), "name a plain file")
    return destination(path) if follow else path, mode & 0o777


def _permit(file: int | Path, mode: int | None) -> None:
    """Give a draft the permissions of the file before it, where the file system has any."""
    with contextlib.suppress(OSError):
        if mode is not None and stat.S_IMODE(os.stat(file).st_mode) != mode:
            os.chmod(file, mode)


def _kind(mode: int) -> str:
    return KINDS.get(stat.S_IFMT(mode), "a device")


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _ends(path: Path) -> bool:
    """Whether a file is empty or its last line complete."""
    with open(path, "rb") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _locked(path: Path, wait: bool, holder: str) -> IO[bytes]:
    """The file that is locked, with the process id of its holder as content."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "a+b", buffering=0, opener=_no_link)  # noqa: SIM115  # closed by the caller
        except OSError as error:
            raise UnwritableError(path, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):  # else it was removed meanwhile
                with contextlib.suppress(OSError):  # a full disk
                    file.truncate(0)
                    file.write(str(os.getpid()).encode())
                return file
        except BlockingIOError as error:
            file.seek(0)
            process = file.read(20).decode(errors="replace")
            file.close()
            raise DataError(f"{path.parent}: {holder}" + (f" (process {process})" if process.isdigit() else "")) from error
        except OSError as error:
            file.close()
            raise UnwritableError(path, error) from error
        file.close()


class _Folders(threading.local):
    """The folders that this thread holds."""

    def __init__(self) -> None:
        self.folders: set[Path] = set()


_held: set[IO[bytes]] = set()
_mine = _Folders()


def _leave_locks() -> None:
    """In a forked child: its copies of locked files would keep the locks when its parent dies."""
    for file in _held:
        file.close()
    _held.clear()
    _mine.folders.clear()


os.register_at_fork(after_in_child=_leave_locks)


def _reach(root: Path) -> list[Path]:
    """The folders in which links of `root` may end."""
    whole = root.resolve()
    revisions = [folder.parent for folder in (whole, *whole.parents) if folder.parent.name == "snapshots"]
    return [whole, *(blobs for folder in revisions if (blobs := folder.parent / "blobs").is_dir())]


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
        raise CorruptFileError(path, f"is {_kind(mode)}; expected a plain file")
    return path
