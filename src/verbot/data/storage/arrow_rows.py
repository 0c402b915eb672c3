"""Rows of many tables as dictionaries that are made when they are asked for: kept as Arrow they take a fraction of the memory."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

BLOCK = 64  # rows that are made at once, since they are mostly read in order


class Rows(Sequence[dict[str, Any]]):
    """The rows of `tables`, one after another.

    Args:
        limit: how many of them count; all if None.

    Example:
        >>> rows = Rows([pa.table({"a": [1, 2]}), pa.table({"a": [3], "b": ["x"]})])
        >>> len(rows), rows[1], rows[2]
        (3, {'a': 2}, {'a': 3, 'b': 'x'})
    """

    def __init__(self, tables: Sequence[pa.Table], limit: int | None = None):
        self._tables = [table for table in tables if len(table)]
        self._starts = [0, *itertools.accumulate(len(table) for table in self._tables)]
        self._length = self._starts[-1] if limit is None else min(limit, self._starts[-1])
        self._made: tuple[int, list[dict[str, Any]]] = (0, [])

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
        start, made = self._made
        if not start <= number < start + len(made):
            which = bisect.bisect_right(self._starts, number) - 1
            offset = (number - self._starts[which]) // BLOCK * BLOCK
            start, made = self._starts[which] + offset, self._tables[which].slice(offset, BLOCK).to_pylist()
            self._made = start, made  # at once, since threads read too
        return made[number - start]

    def column(self, name: str) -> npt.NDArray[np.int64]:
        """Every row's number of this name."""
        found = [np.asarray(table.column(name).to_numpy(), np.int64) for table in self._tables]
        return np.concatenate([*found, np.empty(0, np.int64)])[: len(self)]
