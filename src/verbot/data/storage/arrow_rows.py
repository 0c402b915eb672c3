"""Rows of several Arrow tables or parquet files as dictionaries, converted on access. Arrow takes a fraction of their memory."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from verbot.data.storage.recent import Recent
from verbot.errors import DataError

BLOCK = 64  # rows converted together, because reads are mostly sequential
HELD = 2**18  # rows of tables that stay in memory

Chosen = Callable[[str], bool]  # whether a column is wanted, by its name


@dataclass(frozen=True)
class TablePart:
    """Successive rows: `count` of them, in a table that `read` returns with the columns that are wanted."""

    count: int
    read: Callable[[Chosen], pa.Table]

    @staticmethod
    def of(table: pa.Table) -> TablePart:
        return TablePart(len(table), lambda wanted: table.select([name for name in table.column_names if wanted(name)]))


class Rows(Sequence[dict[str, Any]]):
    """The rows of `parts`, concatenated. A part is read when one of its rows is; the last few parts stay in memory.

    Args:
        wanted: the columns of a row; all if None.
        limit: number of rows to expose; all if None.

    Example:
        >>> rows = Rows([TablePart.of(pa.table({"a": [1, 2]})), TablePart.of(pa.table({"a": [3], "b": ["x"]}))])
        >>> len(rows), rows[1], rows[2], rows.column("a").tolist()
        (3, {'a': 2}, {'a': 3, 'b': 'x'}, [1, 2, 3])
    """

    def __init__(self, parts: Sequence[TablePart], wanted: Chosen | None = None, limit: int | None = None):
        self._parts = [part for part in parts if part.count]
        self._wanted = wanted or (lambda name: True)
        self._starts = [0, *itertools.accumulate(part.count for part in self._parts)]
        self._length = self._starts[-1] if limit is None else min(limit, self._starts[-1])
        self._tables: Recent[int, pa.Table] = Recent(HELD)
        self._block: tuple[int, list[dict[str, Any]]] = (0, [])  # first row and rows of the last converted block

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, number: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, number: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, number: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(f"there is no row {number}; there are {len(self)}")
        start, rows = self._block
        if not start <= number < start + len(rows):
            place = bisect.bisect_right(self._starts, number) - 1
            table = self._tables.get(place, lambda: self._parts[place].read(self._wanted), len)
            offset = (number - self._starts[place]) // BLOCK * BLOCK
            start, rows = self._starts[place] + offset, _plain(table.slice(offset, BLOCK))
            self._block = start, rows  # one assignment, because several threads may read
        return rows[number - start]

    def column(self, name: str) -> npt.NDArray[np.int64]:
        """The integer column `name` over all rows: int64 (n,), read without the other columns.

        Raises `KeyError` if a part lacks it, `ValueError` if a value is missing or no integer.
        """
        parts = [part.read(lambda each: each == name).column(name) for part in self._parts]
        if any(part.null_count or not pa.types.is_integer(part.type) for part in parts):
            raise ValueError(f"{name!r} holds values that are no integers")
        return np.concatenate([*(np.asarray(part.to_numpy(), np.int64) for part in parts), np.empty(0, np.int64)])[: len(self)]


def _plain(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of `table`. Raises `DataError` for values that Python has no type for, such as times in nanoseconds."""
    try:
        return list(table.to_pylist())
    except (ValueError, OverflowError, pa.ArrowException) as error:
        wrong = ", ".join(
            f"{name!r} ({table.schema.field(name).type})" for name in table.column_names if not _is_plain(table, name)
        )
        raise DataError(
            f"a table of the dataset has columns that Python has no values for: {wrong:.400}; leave them out"
        ) from error


def _is_plain(table: pa.Table, name: str) -> bool:
    try:
        table.column(name).to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):
        return False
    return True
