"""What a parquet file unpacks to, found before it is read: a small file may claim a billion rows, or repeat a large text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verbot.errors import CorruptFileError

CELL = 2**16  # bytes that a cell of text may have on average
SPARE = 2**24  # bytes of a column that are never refused
RATIO = 64  # bytes that a stored byte may unpack to: text that does not only repeat itself takes less
WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}


@dataclass(frozen=True)
class Limits:
    """What a parquet file may hold.

    Args:
        rows: the most rows of the file.
        cell: the most bytes of a column in one row, on average, by its name.
    """

    rows: int = 2**31
    cell: Callable[[str], int] = lambda name: CELL


UNDECLARED = Limits()


def check_limits(
    file: pq.ParquetFile, path: Path, columns: Collection[str], limits: Limits, groups: Sequence[int] | None = None
) -> None:
    """Raise `CorruptFileError` if the columns, in these row groups, unpack to far more than they may.

    What is really stored is never too much, however long a text is: only what repeats is. The footer tells how many numbers
    there are. Texts and pictures may be stored once and repeated: where their product is large, they are unpacked in small
    parts first.
    """
    metadata = file.metadata
    if metadata.num_rows > limits.rows:
        raise CorruptFileError(path, f"has {metadata.num_rows} rows; the dataset has place for {limits.rows} at most")
    names = [field.name for field in file.schema_arrow for _ in range(_leaves(field.type))]
    chosen = range(metadata.num_row_groups) if groups is None else groups
    for name in columns:
        places = [place for place, each in enumerate(names) if each == name]
        chunks = [metadata.row_group(group).column(place) for group in chosen for place in places]
        stored = min(sum(max(0, chunk.total_compressed_size) for chunk in chunks), path.stat().st_size)
        room = limits.cell(name) * sum(metadata.row_group(group).num_rows for group in chosen)
        allowed = SPARE + room + RATIO * stored
        least = sum(_least(chunk) for chunk in chunks)
        most = sum(max(_least(chunk), chunk.num_values * chunk.total_uncompressed_size) for chunk in chunks if _repeats(chunk))
        if least <= allowed < most:
            least = _unpacked(file, name, list(chosen), allowed, max(chunk.total_uncompressed_size for chunk in chunks))
        if least > allowed:
            raise CorruptFileError(
                path,
                f"column {name!r} unpacks to {least / 1e6:.0f} MB or more; its rows have room for {allowed / 1e6:.0f}",
            )


def _least(chunk: Any) -> int:
    """Bytes that the numbers of a column have in memory; of texts what is stored, which may be repeated."""
    if chunk.physical_type in WIDTHS:
        return int(chunk.num_values * WIDTHS[chunk.physical_type])
    return int(chunk.total_uncompressed_size)


def _repeats(chunk: Any) -> bool:
    return chunk.physical_type not in WIDTHS and any("DICTIONARY" in encoding for encoding in chunk.encodings)


def _unpacked(file: pq.ParquetFile, name: str, groups: list[int], allowed: int, largest: int) -> int:
    """The bytes of a column, counted until they are more than `allowed`; at most about as many are in memory."""
    found = 0
    for batch in file.iter_batches(max(1, allowed // max(1, largest)), row_groups=groups, columns=[name]):
        found += batch.nbytes
        if found > allowed:
            break
    return found


def _leaves(kind: pa.DataType) -> int:
    """The columns in which parquet stores an Arrow type."""
    if isinstance(kind, pa.BaseExtensionType):
        return _leaves(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return 1
    return sum(_leaves(kind.field(place).type) for place in range(kind.num_fields)) if kind.num_fields else 1
