"""Files of a dataset: checksums, JSON, parquet with verified pages."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verbot.data.storage.parquet_limits import UNDECLARED, Limits, check_limits
from verbot.errors import CorruptFileError
from verbot.files import regular_file, sha256
from verbot.text import repaired_record

LFS = b"version https://git-lfs"
# Arrow refuses types that it cannot read, texts that are no UTF-8 (of names too), and sizes beyond memory.
UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError)


Checksum = str | Sequence[str] | None  # the required sha256, several accepted ones, or None if unknown


def read_bytes(path: Path, checksum: Checksum = None) -> bytes:
    """The content of a file. Raises `CorruptFileError` when it is missing or its sha256 differs."""
    try:
        content = regular_file(path).read_bytes()
    except OSError as error:
        raise CorruptFileError(path, f"cannot be read ({error.strerror})") from error
    accepted = (checksum,) if isinstance(checksum, str) else checksum
    if accepted is not None and sha256(content) not in accepted:
        raise CorruptFileError(path, "differs from what was written: its sha256 differs")
    return content


def read_json(path: Path, checksum: Checksum = None) -> Any:
    """Raises `CorruptFileError` when the file is missing, damaged or not JSON."""
    try:
        return parsed(read_bytes(path, checksum))
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(path, f"is not JSON ({error})") from error


def parsed(content: bytes) -> Any:
    """The value of a JSON text. Halves of surrogate pairs, which JSON can hold and no other file, are joined or replaced.

    Raises `ValueError` for what is not JSON.
    """
    record = json.loads(content)
    suspicious = any(mark in content for mark in (b"\\ud", b"\\uD", b"\xed"))
    return repaired_record(record) if suspicious else record


def parquet_bytes(table: pa.Table) -> bytes:
    """A parquet file with page checksums, in memory."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="snappy", write_page_checksum=True)
    return sink.getvalue()


def read_parquet(
    path: Path,
    checksum: Checksum = None,
    columns: Callable[[str], bool] = lambda name: True,
    limits: Limits = UNDECLARED,
) -> pa.Table:
    """Read the columns for whose name `columns` is true. Verifies the sha256 (if known) and the page checksums.

    Raises `CorruptFileError` naming the file when it is missing or damaged, or, if its sha256 is not known, unpacks to more than
    `limits` allow.
    """
    try:
        source = str(regular_file(path)) if checksum is None else pa.BufferReader(read_bytes(path, checksum))
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            names = [name for name in file.schema_arrow.names if columns(name)]
            if checksum is None:  # else it is what verbot wrote
                check_limits(file, path, names, limits)
            return file.read(names)
    except UNREADABLE as error:
        raise _unreadable(path, "is not a whole parquet file", error) from error


def read_rows(path: Path, columns: Callable[[str], bool], start: int, count: int, limits: Limits | None = UNDECLARED) -> pa.Table:
    """`count` rows of a parquet file from row `start` on; of its row groups only those that hold them are read.

    Raises `CorruptFileError` as `read_parquet` does; `limits` is None for a file whose sha256 was verified.
    """
    try:
        with pq.ParquetFile(str(regular_file(path)), page_checksum_verification=True) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
            ends = list(itertools.accumulate(sizes))
            groups = [
                i for i, (end, size) in enumerate(zip(ends, sizes, strict=True)) if end > start and end - size < start + count
            ]
            names = [name for name in file.schema_arrow.names if columns(name)]
            if limits is not None:
                check_limits(file, path, names, limits, groups)
            table = file.read_row_groups(groups, names)
            return table.slice(start - (ends[groups[0]] - sizes[groups[0]]), count) if groups else table
    except UNREADABLE as error:
        raise _unreadable(path, "is not a whole parquet file", error) from error


def row_groups(path: Path) -> list[int]:
    """The rows of each row group of a parquet file, from its footer. Raises `CorruptFileError` naming the file if it has none."""
    try:
        with pq.ParquetFile(str(regular_file(path))) as file:
            return [int(file.metadata.row_group(i).num_rows) for i in range(file.metadata.num_row_groups)]
    except UNREADABLE as error:
        raise _unreadable(path, "is not a whole parquet file", error) from error


def column_names(path: Path) -> list[str]:
    """The columns of a parquet file, from its footer. Raises `CorruptFileError` naming the file if it has none."""
    try:
        with pq.ParquetFile(str(regular_file(path))) as file:
            return list(file.schema_arrow.names)
    except UNREADABLE as error:
        raise _unreadable(path, "is not a whole parquet file", error) from error


def is_lfs_pointer(path: Path) -> bool:
    """Whether Git LFS left a pointer here instead of the file."""
    try:
        with open(regular_file(path), "rb") as file:
            return file.read(len(LFS)) == LFS
    except (OSError, ValueError, CorruptFileError):
        return False


def _unreadable(path: Path, what: str, error: Exception) -> CorruptFileError:
    if is_lfs_pointer(path):
        return CorruptFileError(path, "is a pointer of Git LFS, not the file; fetch it with `git lfs pull`")
    if not path.is_file():
        return CorruptFileError(path, "cannot be read (there is no such file)")
    return CorruptFileError(path, f"{what} ({' '.join(str(error).split())})")
