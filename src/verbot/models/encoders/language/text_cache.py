"""A cache of token states of a frozen encoder, in memory and on disk. States do not depend on the batch, to the bit."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from verbot.errors import UnwritableError
from verbot.files import write_atomic
from verbot.models.tokens import TextBatch

TILE = 8  # texts per batch, and the multiple to which their length is padded
KEPT, FEW = 512, 32  # texts per cache file; fewer than FEW are not stored, because encoding them again is faster


class TextCache:
    """Token states of texts.

    Args:
        name: name of the folder below ``VERBOT_CACHE`` (default ``~/.cache/verbot``); it changes whenever the states do.
        width: d, of a state.
        tokenize: texts to their token ids.
        run: ids (8, l) int64 and mask (8, l) bool to states (8, l, d).
        longest: maximum padded length; None without a limit.
    """

    def __init__(
        self,
        name: str,
        width: int,
        tokenize: Callable[[list[str]], list[list[int]]],
        run: Callable[[Tensor, Tensor], Tensor],
        longest: int | None = None,
    ):
        self.name, self.width, self.longest = name, width, longest
        self._tokenize, self._run = tokenize, run
        self._memory: dict[str, Tensor] = {}
        self._read: set[Path] = set()

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """Token states (l, d) float16 of each text; they depend only on the text, to the bit."""
        if any(text not in self._memory for text in texts):
            self._load_files()
        missing = sorted({text for text in texts if text not in self._memory})
        for start in range(0, len(missing), KEPT):
            part = missing[start : start + KEPT]
            states = self.compute(part)
            self._memory |= dict(zip(part, states, strict=True))
            if len(part) >= FEW:
                self._store(part, states)
        return [self._memory[text] for text in texts]

    def batch(self, texts: Sequence[str]) -> TextBatch:
        """The states as a padded batch (b, l, d) float16."""
        rows = self.encode(texts)
        values = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        return TextBatch(values, torch.arange(values.shape[1]) < lengths[:, None])

    def compute(self, texts: Sequence[str]) -> list[Tensor]:
        """Token states (l, d) float16 of each text, without the caches."""
        encoded = self._tokenize(list(texts))
        # Rounding depends on the shape of a batch. So a text is always encoded in batches of one size, padded to a length that
        # depends only on the text.
        by_length: dict[int, list[int]] = {}
        for number, ids in enumerate(encoded):
            length = -(-len(ids) // TILE) * TILE
            by_length.setdefault(min(length, self.longest or length), []).append(number)
        states: dict[int, Tensor] = {}
        for length, numbers in by_length.items():
            for start in range(0, len(numbers), TILE):
                tile = numbers[start : start + TILE]
                rows = [encoded[i] for i in tile + [tile[-1]] * (TILE - len(tile))]
                states |= dict(zip(tile, self._compute_tile(rows, length), strict=False))
        return [states[number] for number in range(len(texts))]

    def _compute_tile(self, rows: Sequence[Sequence[int]], length: int) -> list[Tensor]:
        ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
        mask = torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None]
        with torch.inference_mode():
            half = self._run(ids, mask).half()
        # Cloned outside inference mode: its own tensors cannot be trained through.
        return [states[: len(row)].clone() for states, row in zip(half, rows, strict=True)]

    def _load_files(self) -> None:
        """Load cache files that are new since the last call, from any process. Unreadable files are ignored."""
        for path in sorted(set(self._folder().glob("*.safetensors")) - self._read):
            self._read.add(path)
            try:
                with safe_open(path, "pt") as kept:
                    texts, lengths = (json.loads(kept.metadata()[name]) for name in ("texts", "lengths"))
                states = load_file(path)["states"]
            except (OSError, SafetensorError, KeyError, TypeError, ValueError):
                continue
            if states.dtype == torch.float16 and states.shape == (sum(lengths), self.width) and len(texts) == len(lengths):
                self._memory |= dict(zip(texts, states.split(lengths), strict=True))

    def _store(self, texts: Sequence[str], states: Sequence[Tensor]) -> None:
        digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:32]
        path = self._folder() / f"{digest}.safetensors"
        lists = {"texts": json.dumps(texts), "lengths": json.dumps([len(rows) for rows in states])}
        try:
            write_atomic(path, save({"states": torch.cat(list(states))}, lists))
        except UnwritableError:
            return  # without a writable cache, only time is lost
        self._read.add(path)

    def _folder(self) -> Path:
        home = os.environ.get("VERBOT_CACHE") or Path.home() / ".cache" / "verbot"
        return Path(home) / self.name
