"""Columns of parquet files as NumPy arrays; what a column cannot mean is an error that names file, column and row."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from verbot.data.storage.recent import Recent
from verbot.errors import CorruptFileError

HELD_BYTES = 2**28  # of columns that stay in memory

ReadTable = Callable[[Path, Callable[[str], bool]], pa.Table]


def numbers_of(column: pa.ChunkedArray, path: Path, name: str) -> np.ndarray:
    """A column of numbers, or of lists of numbers of one shape, as (n, d) in its own dtype; lists of lists are flattened.

    Raises `CorruptFileError` for a missing value, lists of unequal length, and what is no number.
    """
    array = _whole(column)
    rows = len(array)
    while pa.types.is_nested(array.type):
        if isinstance(array, pa.MapArray) or not isinstance(array, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
            raise CorruptFileError(path, f"column {name!r} holds {array.type}; expected numbers")
        if array.null_count:
            raise CorruptFileError(path, f"column {name!r} has no value in {array.null_count} rows")
        if not isinstance(array, pa.FixedSizeListArray) and len(array):
            sizes = np.diff(array.offsets.to_numpy())
            if sizes.min() != sizes.max():
                other = int(np.argmax(sizes != sizes[0]))
                raise CorruptFileError(
                    path, f"column {name!r} has {sizes[0]} numbers in the first row, {sizes[other]} in row {other}"
                )
        array = array.flatten()
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
    if array.null_count:
        missing = int(np.argmax(np.asarray(array.is_null())))
        raise CorruptFileError(path, f"column {name!r} has no value in row {missing * rows // max(1, len(array))}")
    if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_boolean(array.type)):
        raise CorruptFileError(path, f"column {name!r} holds {array.type}; expected numbers")
    values = array.to_numpy(zero_copy_only=False)
    return values.reshape(rows, -1) if rows and len(values) else np.zeros((rows, 0), np.float32)


def values_of(column: pa.ChunkedArray, shape: Sequence[int], path: Path, name: str) -> np.ndarray:
    """Any column as it is: (n, …) for numbers of the given shape, (n,) for single ones, otherwise (n,) Python objects."""
    array = _whole(column)
    leaf = array.type
    while pa.types.is_list(leaf) or pa.types.is_large_list(leaf) or pa.types.is_fixed_size_list(leaf):
        leaf = leaf.value_type
    if not (pa.types.is_integer(leaf) or pa.types.is_floating(leaf) or pa.types.is_boolean(leaf)) or array.null_count:
        out = np.empty(len(array), object)
        out[:] = array.to_pylist()
        return out
    values = numbers_of(column, path, name)
    if values.shape[1] != math.prod(shape):
        raise CorruptFileError(path, f"column {name!r} has {values.shape[1]} numbers a row; meta/info.json says {list(shape)}")
    return values.reshape(len(values)) if list(shape) == [1] else values.reshape(len(values), *shape)


def float32(values: np.ndarray) -> np.ndarray:
    """float32 of numbers; those beyond its range become infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


class FrameColumns:
    """The columns of the files of frames, by file. The last few stay in memory.

    Args:
        together: columns of numbers that are read together; others are read one by one.
    """

    def __init__(self, read: ReadTable, together: Sequence[str]):
        self._read, self._together = read, frozenset(together)
        self._held: Recent[tuple[Path, str], dict[str, np.ndarray]] = Recent(HELD_BYTES)

    def group(self, path: Path) -> dict[str, np.ndarray]:
        """The columns that are read together, those that the file has: (n, d) each."""

        def make() -> dict[str, np.ndarray]:
            table = self._table(path, self._together.__contains__)
            return {name: numbers_of(table.column(name), path, name) for name in table.column_names}

        return self._held.get((path, ""), make, _bytes)

    def numbers(self, path: Path, name: str) -> np.ndarray | None:
        """One column of numbers: (n, d). None if the file lacks it."""

        def make() -> dict[str, np.ndarray]:
            table = self._table(path, name.__eq__)
            return {name: numbers_of(table.column(name), path, name)} if table.column_names else {}

        return self._held.get((path, name), make, _bytes).get(name)

    def _table(self, path: Path, wanted: Callable[[str], bool]) -> pa.Table:
        table = self._read(path, wanted)
        if len(set(table.column_names)) != len(table.column_names):
            raise CorruptFileError(path, f"has a column twice: {', '.join(table.column_names)}")
        return table


def _whole(column: pa.ChunkedArray) -> Any:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def _bytes(columns: dict[str, np.ndarray]) -> int:
    return sum(values.nbytes for values in columns.values())
