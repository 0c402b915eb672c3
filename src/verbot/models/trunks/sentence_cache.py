"""What a constant trunk makes of sentences that stand first in a causal prefix: computed once for each sentence."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from verbot.models.trunks.base import KeyValueCache, LanguageTrunk, TrunkOutput

TILE = 8  # sentences that are computed together, and the multiple to which their length is padded
MOST_BYTES = 2**30  # 17 000 instructions of ten words with the first 8 layers of SmolLM2 in 16 bits
Ids = tuple[int, ...]


class SentenceCache:
    """The output of a trunk for sentences that nothing before them, and only their own words, can change.

    They are computed in batches whose shape depends on the sentence alone, so that rounding does too. It holds at most
    `most_bytes`; the sentences that were not used for longest are dropped. Copies of a network share it; it is not saved.

    Args:
        whole: keep hidden states and the input of each block too; otherwise keys and values only, for what comes after.
    """

    def __init__(self, whole: bool = True, most_bytes: int = MOST_BYTES):
        self._whole, self._most_bytes, self._bytes = whole, most_bytes, 0
        self._kept: OrderedDict[Ids, Sequence[Tensor]] = OrderedDict()
        self._device = torch.device("cpu")

    def __deepcopy__(self, memo: Any) -> SentenceCache:
        return self

    def __reduce__(self) -> Any:
        return SentenceCache, (self._whole, self._most_bytes)

    def __len__(self) -> int:
        return len(self._kept)

    def read(self, trunk: LanguageTrunk, ids: Tensor, mask: Tensor) -> TrunkOutput:
        """As ``trunk(trunk.embed(ids), causal, positions)`` for ids (n, l) that masked ones end; without gradient.

        What is computed for masked ids is zero. Without `whole`, the hidden states and layers are those of no token (n, 0, d).
        """
        if ids.device != self._device:
            self._kept.clear()
            self._device, self._bytes = ids.device, 0
        rows = [tuple(row[:count]) for row, count in zip(ids.tolist(), mask.sum(1).tolist(), strict=True)]
        here = {row: self._kept[row] for row in rows if row in self._kept}
        missing = sorted({row for row in rows if row not in here}, key=lambda row: (len(row), row))
        by_length = dict[int, list[Ids]]()
        for row in missing:
            by_length.setdefault(math.ceil(max(len(row), 1) / TILE) * TILE, []).append(row)
        for length, group in by_length.items():
            for start in range(0, len(group), TILE):
                tile = group[start : start + TILE]
                here |= zip(tile, _computed(trunk, tile, length, ids.device, self._whole), strict=True)
        for row in dict.fromkeys(rows):
            self._keep(row, here[row])
        return _joined([here[row] for row in rows], ids.shape[1], trunk.depth, self._whole)

    def _keep(self, row: Ids, states: Sequence[Tensor]) -> None:
        if row not in self._kept:
            self._bytes += _size(states)
        self._kept[row] = states
        self._kept.move_to_end(row)
        while self._bytes > self._most_bytes and len(self._kept) > 1:
            self._bytes -= _size(self._kept.popitem(last=False)[1])


def _size(states: Sequence[Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in states)


def _computed(trunk: LanguageTrunk, rows: Sequence[Ids], length: int, device: torch.device, whole: bool) -> list[list[Tensor]]:
    """For each row: keys and values of each block (g, l, h), hidden states (l, d), the input of each block (l, d).

    Without `whole` there are no words in the last two.
    """
    tile = [*rows, *[rows[-1]] * (TILE - len(rows))]
    ids = torch.tensor([[*row, *[trunk.tokenizer.pad] * (length - len(row))] for row in tile], device=device)
    mask = torch.arange(length, device=device) < torch.tensor([len(row) for row in tile], device=device)[:, None]
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    with torch.no_grad():
        out = trunk(trunk.embed(ids), mask.unsqueeze(1) & causal, torch.arange(length, device=device).expand(TILE, -1))
    flat, heads = [out.hidden, *out.layers], [*out.cache.keys, *out.cache.values]
    return [
        [*(x[i, :, : len(row)].clone() for x in heads), *(x[i, : len(row) if whole else 0].clone() for x in flat)]
        for i, row in enumerate(rows)
    ]


def _joined(rows: Sequence[Sequence[Tensor]], length: int, depth: int, whole: bool) -> TrunkOutput:
    """The states of rows as a batch of `length` words."""
    heads, flat = ([row[: 2 * depth] for row in rows], [row[2 * depth :] for row in rows])
    keys_values, states = _padded(heads, length), _padded(flat, length if whole else 0)
    cache = KeyValueCache(tuple(keys_values[:depth]), tuple(keys_values[depth:]))
    return TrunkOutput(states[0], tuple(states[1:]), cache)


def _padded(rows: Sequence[Sequence[Tensor]], length: int) -> list[Tensor]:
    """Each column as a batch. Words are the last axis but one, of hidden states and of keys."""
    return [torch.stack([F.pad(x, (0, 0, 0, length - x.shape[-2])) for x in column]) for column in zip(*rows, strict=True)]
