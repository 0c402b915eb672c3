"""The order in which windows are drawn. A deck answers which window is at any place, without holding a number for each.

For frames at hand an epoch is one shuffle of all windows. For frames that are decoded on the fly it is dealt in blocks: the
clips of all episodes are shuffled, `block` successive ones form a block, and the windows of a block are shuffled. Every window
comes up once in an epoch either way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from verbot.spec import FloatingArray, Int64Array

SLAB = 1024  # successive places of a mixture that hold each source in its share
RECENT = 3  # blocks or slabs whose order is kept


class Deck(Protocol):
    """Windows in the order in which they are drawn; it repeats itself, differently shuffled, after `len` of them."""

    def __len__(self) -> int: ...

    def __getitem__(self, places: Int64Array) -> Int64Array: ...


class _Parts:
    """The last parts of a deck that were asked for, each made by `make(number)`."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, ...], Int64Array] = OrderedDict()

    def get(self, key: tuple[int, ...]) -> Int64Array | None:
        return self._kept.get(key)

    def add(self, key: tuple[int, ...], part: Int64Array) -> Int64Array:
        self._kept[key] = part
        while len(self._kept) > RECENT:
            self._kept.popitem(last=False)
        return part


class ShuffledDeck:
    """All of `length` windows, shuffled anew in every round."""

    def __init__(self, length: int, seed: int):
        self._length, self._seed, self._rounds = length, seed, _Parts()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, places: Int64Array) -> Int64Array:
        out, rounds = np.empty(len(places), np.int64), places // self._length
        for number in np.unique(rounds).tolist():
            order = self._rounds.get((number,))
            if order is None:
                order = self._rounds.add((number,), np.random.default_rng((self._seed, number)).permutation(self._length))
            out[rounds == number] = order[places[rounds == number] % self._length]
        return out


class ClipDeck:
    """The windows of some episodes in shuffled blocks of shuffled clips.

    Args:
        lengths: windows of each episode; the windows are numbered through the episodes in order.
        clip: windows in a clip; the last of an episode may be shorter.
        block: clips in a block.
        seed: of the order.
    """

    def __init__(self, lengths: Int64Array, clip: int, block: int, seed: int):
        self._clip, self._block, self._seed = clip, block, seed
        self._starts = np.cumsum([0, *lengths])  # first window of each episode
        self._first = np.cumsum([0, *(-(-lengths // clip))])  # first clip of each episode
        self._round, self._order, self._stops = -1, np.empty(0, np.int64), np.empty(0, np.int64)
        self._shuffled = _Parts()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, places: Int64Array) -> Int64Array:
        out, rounds = np.empty(len(places), np.int64), places // len(self)
        for number in np.unique(rounds).tolist():
            here = np.flatnonzero(rounds == number)
            order, stops = self._shuffle(number)
            inside = places[here] % len(self)
            blocks = np.searchsorted(stops, inside, side="right")
            for block in np.unique(blocks).tolist():
                windows = self._windows(number, block, order)
                chosen = blocks == block
                out[here[chosen]] = windows[inside[chosen] - (stops[block - 1] if block else 0)]
        return out

    def _shuffle(self, number: int) -> tuple[Int64Array, Int64Array]:
        """The order of the clips in a round, and the windows up to the end of each block."""
        if number != self._round:
            order = np.random.default_rng((self._seed, number)).permutation(int(self._first[-1]))
            starts, stops = self._bounds(order)
            counts = np.add.reduceat(stops - starts, np.arange(0, len(order), self._block))
            self._round, self._order, self._stops = number, order, np.cumsum(counts)
        return self._order, self._stops

    def _bounds(self, clips: Int64Array) -> tuple[Int64Array, Int64Array]:
        """The first window of each clip, and the one after its last."""
        episode = np.searchsorted(self._first, clips, side="right") - 1
        starts = self._starts[episode] + (clips - self._first[episode]) * self._clip
        return starts, np.minimum(starts + self._clip, self._starts[episode + 1])

    def _windows(self, number: int, block: int, order: Int64Array) -> Int64Array:
        """The windows of a block, shuffled."""
        found = self._shuffled.get((number, block))
        if found is not None:
            return found
        starts, stops = self._bounds(order[block * self._block : (block + 1) * self._block])
        windows = np.concatenate([np.arange(start, stop) for start, stop in zip(starts, stops, strict=True)])
        return self._shuffled.add((number, block), np.random.default_rng((self._seed, number, block)).permutation(windows))


class MixedDeck:
    """Several decks dealt into one, each in its share, and in its own order.

    Args:
        decks: of the sources.
        shares: their shares, which add up to 1.
        length: windows in an epoch.
        seed: of the order in which the sources take turns.
    """

    def __init__(self, decks: Sequence[Deck], shares: FloatingArray, length: int, seed: int):
        self._decks, self._length, self._seed, self._slabs = decks, length, seed, _Parts()
        self._offsets = np.cumsum([0, *(len(deck) for deck in decks)])
        places = np.minimum(np.arange(-(-length // SLAB) + 1) * SLAB, length)
        bounds = np.rint(places[:, None] * np.cumsum(shares)).astype(np.int64)
        counts = np.maximum.accumulate(np.diff(bounds, axis=1, prepend=0), axis=0)  # windows of each source before a slab
        largest = int(np.argmax(shares))
        counts[:, largest] = places - np.delete(counts, largest, axis=1).sum(1)
        self._before = counts

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, places: Int64Array) -> Int64Array:
        owners, turns = np.empty(len(places), np.int64), np.empty(len(places), np.int64)
        slabs = places // SLAB
        for slab in np.unique(slabs).tolist():
            owner, turn = self._turns(slab)
            here = slabs == slab
            owners[here], turns[here] = owner[places[here] % SLAB], turn[places[here] % SLAB]
        out = np.empty(len(places), np.int64)
        for number in np.unique(owners).tolist():
            mine = owners == number
            out[mine] = self._offsets[number] + self._decks[number][turns[mine]]
        return out

    def _turns(self, slab: int) -> tuple[Int64Array, Int64Array]:
        """Which source is at each place of a slab, and which of its windows."""
        found = self._slabs.get((slab,))
        if found is None:
            counts = self._before[slab + 1] - self._before[slab]
            owner = np.random.default_rng((self._seed, slab)).permutation(np.repeat(np.arange(len(counts)), counts))
            turn = np.empty_like(owner)
            for number, first in enumerate(self._before[slab].tolist()):
                turn[owner == number] = first + np.arange(counts[number])
            found = self._slabs.add((slab,), np.stack([owner, turn]))
        return found[0], found[1]
