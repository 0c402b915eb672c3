"""Files that are either whole or absent: atomic writes, checksums, parquet with verified pages."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

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


LFS = b"version https://git-lfs"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


Checksum = str | Sequence[str] | None  # the required sha256, several accepted ones, or None if unknown


def read_bytes(path: Path, checksum: Checksum = None) -> bytes:
    """The content of a file. Raises `CorruptFileError` when it is missing or its sha256 differs."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorruptFileError(path, f"cannot be read ({error.strerror})") from error
    accepted = (checksum,) if isinstance(checksum, str) else checksum
    if accepted is not None and sha256(content) not in accepted:
        raise CorruptFileError(path, "differs from what was written: its sha256 differs")
    return content


def read_json(path: Path, checksum: Checksum = None) -> Any:
    """Raises `CorruptFileError` when the file is missing, damaged or not JSON."""
    try:
        return json.loads(read_bytes(path, checksum))
    except ValueError as error:
        raise CorruptFileError(path, f"is not JSON ({error})") from error


def parquet_bytes(table: pa.Table) -> bytes:
    """A parquet file with page checksums, in memory."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="snappy", write_page_checksum=True)
    return sink.getvalue()


def read_parquet(path: Path, checksum: Checksum = None, columns: Callable[[str], bool] = lambda name: True) -> pa.Table:
    """Read the columns for whose name `columns` is true. Verifies the sha256 (if known) and the page checksums.

    Raises `CorruptFileError` naming the file when it is missing or damaged.
    """
    try:
        source = str(path) if checksum is None else pa.BufferReader(read_bytes(path, checksum))
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            return file.read([name for name in file.schema_arrow.names if columns(name)])
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, "is not a whole parquet file", error) from error


def read_rows(path: Path, columns: Callable[[str], bool], start: int, count: int) -> pa.Table:
    """`count` rows of a parquet file from row `start` on; of its row groups only those that hold them are read.

    Raises `CorruptFileError` naming the file when it is missing or damaged.
    """
    try:
        with pq.ParquetFile(str(path), page_checksum_verification=True) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
            ends = list(itertools.accumulate(sizes))
            groups = [
                i for i, (end, size) in enumerate(zip(ends, sizes, strict=True)) if end > start and end - size < start + count
            ]
            table = file.read_row_groups(groups, [name for name in file.schema_arrow.names if columns(name)])
            return table.slice(start - (ends[groups[0]] - sizes[groups[0]]), count) if groups else table
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, "is not a whole parquet file", error) from error


def row_groups(path: Path) -> list[int]:
    """The rows of each row group of a parquet file, from its footer. Raises `CorruptFileError` naming the file if it has none."""
    try:
        with pq.ParquetFile(str(path)) as file:
            return [int(file.metadata.row_group(i).num_rows) for i in range(file.metadata.num_row_groups)]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, "is not a whole parquet file", error) from error


def column_names(path: Path) -> list[str]:
    """The columns of a parquet file, from its footer. Raises `CorruptFileError` naming the file if it has none."""
    try:
        with pq.ParquetFile(str(path)) as file:
            return list(file.schema_arrow.names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, "is not a whole parquet file", error) from error


def is_lfs_pointer(path: Path) -> bool:
    """Whether Git LFS left a pointer here instead of the file."""
    try:
        with open(path, "rb") as file:
            return file.read(len(LFS)) == LFS
    except (OSError, ValueError):
        return False


def _unreadable(path: Path, what: str, error: Exception) -> CorruptFileError:
    if is_lfs_pointer(path):
        return CorruptFileError(path, "is a pointer of Git LFS, not the file; fetch it with `git lfs pull`")
    if not path.is_file():
        return CorruptFileError(path, "cannot be read (there is no such file)")
    return CorruptFileError(path, f"{what} ({' '.join(str(error).split())})")


@contextlib.contextmanager
def lock(path: Path, wait: bool, holder: str) -> Iterator[None]:
    """An exclusive lock that the operating system releases when its process dies.

    Raises `DataError` with the text `holder` if the lock is taken, unless `wait`; `UnwritableError` if there can be none.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(path, "a+b"))
        except OSError as error:
            raise UnwritableError(path, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise DataError(f"{path.parent}: {holder}") from error
        yield
