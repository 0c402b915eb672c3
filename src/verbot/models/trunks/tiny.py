"""A small decoder trained from scratch, with a byte-pair vocabulary fitted to the corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from verbot.errors import ConfigError
from verbot.models import pretrained
from verbot.models.registries import trunks
from verbot.models.trunks.architecture import DecoderConfig
from verbot.models.trunks.base import KeyValueCache, LanguageTrunk, TrunkOutput
from verbot.models.trunks.decoder import LanguageDecoder
from verbot.registry import options_of

PAD, START, END = "<pad>", "<start>", "<end>"
SPECIAL = (PAD, START, END)


@dataclass(frozen=True)
class ByteVocabulary:
    """A byte-pair vocabulary (Sennrich et al. 2016) on bytes, so that every text can be written.

    Args:
        tokens: at most so many tokens; at least the 256 bytes and `SPECIAL`.
        reserved: further ids that text never uses, for actions.
        tokenizer: the text of a ``tokenizer.json``; filled in by `Tiny.fit` and saved with the policy.
    """

    tokens: int = 1024
    reserved: int = 1280
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        if self.tokens < 256 + len(SPECIAL) or self.reserved < 0:
            raise ConfigError(
                f"a byte-pair vocabulary has at least {256 + len(SPECIAL)} tokens and 0 reserved ids; "
                f"got {self.tokens} and {self.reserved}"
            )


FITTED_LATER = ByteVocabulary()


class BytePairTokenizer:
    """A fitted vocabulary as a `TextTokenizer`. Ids: `SPECIAL`, bytes, merges, reserved ones."""

    pad: int = SPECIAL.index(PAD)
    start: int | None = SPECIAL.index(START)
    end: int = SPECIAL.index(END)

    def __init__(self, vocabulary: ByteVocabulary):
        if vocabulary.tokenizer is None:
            raise ConfigError("the tiny trunk has no vocabulary; build it with Tiny.fit(options, texts)")
        self._tokenizer = pretrained.library("tokenizers").Tokenizer.from_str(vocabulary.tokenizer)
        self._tokenizer.encode_special_tokens = True  # "<end>" in a text is five characters
        self._texts: int = self._tokenizer.get_vocab_size()
        self.size = self._texts + vocabulary.reserved

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode([int(i) for i in ids if i < self._texts], skip_special_tokens=True)
        return text

    def reserved(self, count: int) -> list[int]:
        if count > self.size - self._texts:
            raise ConfigError(
                f"the vocabulary has {self.size - self._texts} reserved ids; {count} are needed: set reserved={count}"
            )
        return list(range(self.size - 1, self.size - 1 - count, -1))


def fitted_tokenizer(texts: Sequence[str], tokens: int) -> str:
    """The text of a ``tokenizer.json`` for `texts`, whose order and number do not matter: each counts once."""
    library = pretrained.library("tokenizers")
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.normalizer = library.normalizers.NFC()
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(
        vocab_size=tokens, special_tokens=list(SPECIAL), initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    text: str = tokenizer.to_str()
    return text


@trunks.register("tiny", needs=("tokenizers",))
class Tiny(LanguageTrunk):
    """A decoder as Llama's, trained from random weights.

    Args:
        width: d of the hidden states.
        layers: number of blocks.
        heads, key_heads: query heads, and the heads of keys and values that they share.
        expansion: width of the gated MLP over `width`.
        checkpointing: compute activations again in the backward pass: less memory for more time.
        vocabulary: fitted to the training texts by `fit`.

    Raises `ConfigError` without a vocabulary, and for sizes that do not fit.
    """

    def __init__(
        self,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        key_heads: int = 2,
        expansion: float = 3.0,
        checkpointing: bool = False,
        vocabulary: ByteVocabulary = FITTED_LATER,
    ):
        super().__init__()
        if heads < 1 or width % heads:
            raise ConfigError(f"width {width} does not divide into {heads} heads")
        self.tokenizer = BytePairTokenizer(vocabulary)
        self.width, self.depth = width, layers
        hidden = int(expansion * width)
        self.decoder = LanguageDecoder(
            DecoderConfig(self.tokenizer.size, width, layers, heads, key_heads, width // heads, hidden), checkpointing
        )
        self.config = self.decoder.config
        self.decoder.initialize()

    @staticmethod
    def fit(options: Mapping[str, Any], instructions: Sequence[str]) -> dict[str, Any]:
        """`options` with the tokenizer fitted to all texts that the trunk will read or write."""
        tokens = options.get("tokens", options_of(Tiny)["tokens"])
        return {**options, "tokenizer": fitted_tokenizer(instructions, tokens)}

    def embed(self, ids: Tensor) -> Tensor:
        return self.decoder.embed(ids)

    def forward(self, x: Tensor, allowed: Tensor, positions: Tensor, cache: KeyValueCache | None = None) -> TrunkOutput:
        output: TrunkOutput = self.decoder(x, allowed, positions, cache)
        return output

    def logits(self, hidden: Tensor) -> Tensor:
        return self.decoder.logits(hidden)
