"""Files and folders that are written whole or not at all, found again after a crash, and never outside their root.

Every file that verbot writes is written by `write_atomic` or `replacing`, every file that grows by `LineLog`, every folder by
`verbot.folders`; every name in other people's data becomes a path by `below`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
import re
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from verbot.errors import CorruptFileError, DataError, UnwritableError

_numbers = itertools.count()  # of drafts, so that two threads can write one path


def write_atomic(path: Path, content: bytes | str) -> str:
    """Write `content` so that at every instant `path` holds either the whole old content or the whole new one.

    The bytes are on disk (fsync of the file, rename, fsync of the folder) before this returns. Text is written as UTF-8.
    Returns the sha256 of the bytes.

    Raises `UnwritableError` if that cannot be, for instance because the disk is full.
    """
    content = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    with drafting(path) as draft:
        write(draft, content)
        os.replace(draft, path)
        sync(path.parent)
    return sha256(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """As `write_atomic`, for libraries that write a file themselves: yields the path at which they write it.

    Raises `UnwritableError` also for an `OSError` of the library.
    """
    with drafting(path) as draft:
        yield draft
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


def new_draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{next(_numbers)}.tmp")


def leftovers(path: Path) -> Iterator[tuple[Path, str]]:
    """Drafts of `path` by dead processes, with their kind: ``"tmp"``, and ``"new"`` or ``"old"`` of verbot 0.1."""
    named = re.compile(re.escape(f".{path.name}.") + r"(?:(new|old)-(\d+)|(\d+)(?:-\d+)?\.tmp)")
    with contextlib.suppress(OSError):  # a folder that cannot be listed
        for name in os.listdir(path.parent):
            if (found := named.fullmatch(name)) and not _alive(int(found[2] or found[3])):
                yield path.with_name(name), found[1] or "tmp"


def sweep(path: Path) -> None:
    for found, _ in leftovers(path):
        remove(found)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def remove(path: Path) -> None:
    """Remove a file, a link or a folder as far as possible."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


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
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise CorruptFileError(path, f"is {kinds.get(stat.S_IFMT(mode), 'a device')}; expected a plain file")
    return path
