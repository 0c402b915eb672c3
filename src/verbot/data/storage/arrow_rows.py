"""Rows of several Arrow tables as dictionaries, converted on access. Arrow takes a fraction of the memory of dictionaries."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

BLOCK = 64  # rows converted together, because reads are mostly sequential


class Rows(Sequence[dict[str, Any]]):
    """The rows of `tables`, concatenated.

    Args:
        limit: number of rows to expose; all if None.

    Example:
        >>> rows = Rows([pa.table({"a": [1, 2]}), pa.table({"a": [3], "b": ["x"]})])
        >>> len(rows), rows[1], rows[2]
        (3, {'a': 2}, {'a': 3, 'b': 'x'})
    """

    def __init__(self, tables: Sequence[pa.Table], limit: int | None = None):
        self._tables = [table for table in tables if len(table)]
        self._starts = [0, *itertools.accumulate(len(table) for table in self._tables)]
        self._length = self._starts[-1] if limit is None else min(limit, self._starts[-1])
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
            table = bisect.bisect_right(self._starts, number) - 1
            offset = (number - self._starts[table]) // BLOCK * BLOCK
            start, rows = self._starts[table] + offset, self._tables[table].slice(offset, BLOCK).to_pylist()
            self._block = start, rows  # one assignment, because several threads may read
        return rows[number - start]

    def column(self, name: str) -> npt.NDArray[np.int64]:
        """The integer column `name` over all rows: int64 (n,)."""
        parts = [np.asarray(table.column(name).to_numpy(), np.int64) for table in self._tables]
        return np.concatenate([*parts, np.empty(0, np.int64)])[: len(self)]
