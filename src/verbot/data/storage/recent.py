"""Keeps the values that were used last, up to a total size."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

HeldKey = TypeVar("HeldKey", bound=Hashable)
Held = TypeVar("Held")


class Recent(Generic[HeldKey, Held]):
    """A mapping that forgets the values used longest ago, so that the rest has at most `limit`. The last one always stays.

    Threads may share it. Two of them may then make the same value.

    Example:
        >>> recent = Recent(2)
        >>> [recent.get(key, lambda: key.upper(), lambda value: 1) for key in "abca"], len(recent)
        (['A', 'B', 'C', 'A'], 2)
    """

    def __init__(self, limit: int):
        self._limit, self._total = limit, 0
        self._held: OrderedDict[HeldKey, tuple[Held, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: HeldKey, make: Callable[[], Held], size: Callable[[Held], int]) -> Held:
        """The value of `key`, from `make` if it is not there; `size` measures it."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key][0]
        value = make()
        with self._lock:
            if key not in self._held:
                self._held[key] = value, size(value)
                self._total += self._held[key][1]
            while self._total > self._limit and len(self._held) > 1:
                self._total -= self._held.popitem(last=False)[1][1]
        return value
