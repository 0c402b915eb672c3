"""FAST: a chunk of actions as a short list of tokens (Pertsch et al. 2025), in numpy, as physical-intelligence/fast publishes it.

Actions are in quantile units: −1 is the 1st percentile and 1 the 99th, and nothing is clipped. The cosine transform of each
dimension over time is multiplied by `scale` and rounded, half to even. Row by row, lowest frequency first, each integer is a
character, and the text is encoded byte pair by byte pair. It runs without torch and scipy, so a policy without torch can use it.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from verbot.errors import ConfigError, CorruptFileError, MissingDependencyError, install_command
from verbot.files import read_record
from verbot.folders import write_folder
from verbot.models.cosine import cosine_transform, inverse_cosine_transform
from verbot.spec import Float64Array, FloatingArray, Int64Array

PROCESSOR, TOKENIZER = "processor_config.json", "tokenizer.json"
TOKENIZER_CONFIG, SPECIAL_TOKENS = "tokenizer_config.json", "special_tokens_map.json"
FILES = (PROCESSOR, TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS)
PROCESSOR_CLASS = "UniversalActionProcessor"
CODE = f"physical-intelligence/fast--processing_action_tokenizer.{PROCESSOR_CLASS}"  # on the hub, where transformers finds it
MIN_FREQUENCY, MAX_TOKEN_LENGTH = 2, 10_000  # of training the byte pairs
SURROGATES = (0xD800, 0xDFFF)  # code points that are no characters
UNREADABLE = "\ufffd"  # what bytes that are no UTF-8 are decoded to

# What a tokenizer_config.json may say that changes no token; all else is refused.
HARMLESS = frozenset(
    {"added_tokens_decoder", "auto_map", "backend", "clean_up_tokenization_spaces", "extra_special_tokens", "is_local",
     "model_max_length", "processor_class", "tokenizer_class"}
)  # fmt: skip


@dataclass(frozen=True)
class FastTokenizer:
    """Action chunks (h, d) to token ids and back.

    Args:
        tokenizer: the text of a ``tokenizer.json``: byte pairs over bytes, which GPT-2's pattern splits first.
        scale: coefficients are rounded to multiples of 1/`scale`.
        vocab_size: number of tokens asked for in training.
        min_token: the coefficient of the character 0. Smaller ones are raised to it.
        time_horizon, action_dim: h and d of every chunk; None for any.

    Raises `ConfigError` for a tokenizer that would split or join text in another way.
    """

    tokenizer: str
    scale: float = 10
    vocab_size: int = 1024
    min_token: int = 0
    time_horizon: int | None = None
    action_dim: int | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.scale, int | float) and math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(f"the scale of a FAST tokenizer is {self.scale!r}; expected a positive number")
        for name, least in (("vocab_size", 1), ("min_token", None), ("time_horizon", 1), ("action_dim", 1)):
            value = getattr(self, name)
            if value is None and name in ("time_horizon", "action_dim"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
                raise ConfigError(f"{name} of a FAST tokenizer is {value!r}; expected a whole number" + (" ≥ 1" if least else ""))
        _check(self.tokenizer)

    @cached_property
    def _pairs(self) -> Any:
        library = _library()
        try:
            pairs = library.Tokenizer.from_str(self.tokenizer)
        except Exception as error:  # the package raises plain exceptions
            raise ConfigError(f"{TOKENIZER} of FAST cannot be read: {' '.join(str(error).split())[:200]}") from error
        if sorted(pairs.get_vocab().values()) != list(range(pairs.get_vocab_size())):
            raise ConfigError(f"the ids in {TOKENIZER} of FAST have gaps; expected 0 to {pairs.get_vocab_size() - 1}")
        return pairs

    @cached_property
    def size(self) -> int:
        """The number of token ids. With a small vocabulary there are more than `vocab_size`: the alphabet comes first."""
        return int(self._pairs.get_vocab_size())

    @cached_property
    def words(self) -> tuple[bytes, ...]:
        """The bytes that each token stands for."""
        byte = {character: number for number, character in enumerate(byte_alphabet())}
        texts = sorted(self._pairs.get_vocab(), key=self._pairs.token_to_id)
        return tuple(bytes(map(byte.__getitem__, t)) if all(c in byte for c in t) else t.encode() for t in texts)

    def coefficients(self, chunks: FloatingArray) -> Int64Array:
        """The rounded coefficients (n, h, d) of chunks (n, h, d), frequency by frequency.

        Raises `ConfigError` for actions that are not finite, and for another number of steps or dimensions than it was made for.
        """
        x = np.asarray(chunks, np.float64)
        shape = (self.time_horizon or x.shape[-2], self.action_dim or x.shape[-1]) if x.ndim == 3 else None
        if shape is None or x.shape[1:] != shape or 0 in x.shape[1:]:
            raise ConfigError(
                f"FAST got chunks of shape {x.shape}; expected (n, {self.time_horizon or 'h'}, {self.action_dim or 'd'})"
            )
        if not np.isfinite(x).all():
            raise ConfigError("FAST got actions that are not finite")
        return _rounded(x, self.scale)

    def encode(self, chunks: FloatingArray) -> list[list[int]]:
        """The ids of each chunk (n, h, d), in quantile units.

        float32 is widened first; the published code rounds it in float32. Raises as `coefficients` does, and for actions so large
        that a coefficient has no character.
        """
        return [self._pairs.encode(self._text(c)).ids for c in self.coefficients(chunks)]

    def _text(self, coefficients: Int64Array) -> str:
        codes = np.maximum(coefficients.reshape(-1) - self.min_token, 0)  # rows of (h, d): the lowest frequency first
        if (codes > 0x10FFFF).any() or ((codes >= SURROGATES[0]) & (codes <= SURROGATES[1])).any():
            raise ConfigError(
                f"FAST has no character for the coefficient {int(codes.max()) + self.min_token}; the actions are far outside of "
                "the quantiles -1 and 1"
            )
        return "".join(map(chr, codes.tolist()))

    def decode(
        self, ids: Sequence[int], time_horizon: int | None = None, action_dim: int | None = None
    ) -> tuple[Float64Array | None, str | None]:
        """The chunk (h, d) that `ids` mean, or None and the reason why they mean none. The robot then holds.

        The published code answers zeros there, and skips ids that it does not know.
        """
        h, d = time_horizon or self.time_horizon, action_dim or self.action_dim
        if h is None or d is None:
            raise ConfigError(
                "FAST cannot decode without time_horizon and action_dim; give both, or make the tokenizer with them"
            )
        numbers = [int(i) for i in ids]
        if unknown := [i for i in numbers if not 0 <= i < self.size]:
            return None, f"token {unknown[0]} is unknown; there are 0 to {self.size - 1}"
        text = self._pairs.decode(numbers, skip_special_tokens=False)
        if UNREADABLE in text:
            return None, "the bytes of the tokens are no text"
        if len(text) != h * d:
            return None, f"the tokens mean {len(text)} coefficients; expected {h}·{d}"
        coefficients = np.array([ord(c) for c in text], np.float64).reshape(h, d) + self.min_token
        return inverse_cosine_transform(coefficients.T / self.scale).T, None

    @staticmethod
    def fit(
        chunks: Iterable[FloatingArray],
        scale: float = 10,
        vocab_size: int = 1024,
        *,
        time_horizon: int | None = None,
        action_dim: int | None = None,
        complete: bool = False,
    ) -> FastTokenizer:
        """A tokenizer trained on chunks (h, d) in quantile units, as published.

        Args:
            complete: also give every byte that a character in the range can have a token. Without it, as published, a byte
                that no training chunk has is left out of the ids, which then mean no chunk.

        Raises `ConfigError` if the range of the coefficients is larger than the vocabulary, and if there are no chunks.
        """
        rows = [_rounded(np.asarray(c, np.float64)[None], scale)[0] for c in chunks]
        if not rows:
            raise ConfigError("FAST was given no chunks to fit")
        low, high = min(int(r.min()) for r in rows), max(int(r.max()) for r in rows)
        if high - low > vocab_size:
            raise ConfigError(
                f"the coefficients range from {low} to {high}, more than a vocabulary of {vocab_size}; choose a larger "
                "vocab_size, a smaller scale, or wider quantiles"
            )
        alphabet = [chr(i) for i in range(high - low + 1)]
        if complete:
            needed = sorted({b for c in alphabet for b in c.encode("utf-8", "surrogatepass")})
            alphabet += sorted({byte_alphabet()[b] for b in needed} - set(alphabet))
        library = _library()
        pairs = library.Tokenizer(library.models.BPE())
        pairs.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        pairs.decoder = library.decoders.ByteLevel()
        pairs.post_processor = library.processors.ByteLevel(trim_offsets=False)
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=MIN_FREQUENCY,
            show_progress=False,
            special_tokens=[],
            initial_alphabet=alphabet,
            max_token_length=MAX_TOKEN_LENGTH,
        )
        pairs.train_from_iterator(("".join(map(chr, (r.reshape(-1) - low).tolist())) for r in rows), trainer=trainer)
        return FastTokenizer(pairs.to_str(), scale, vocab_size, low, time_horizon, action_dim)

    def to_json(self) -> dict[str, Any]:
        """JSON values that `from_json` reads."""
        return {**self._settings(), "tokenizer": json.loads(self.tokenizer)}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> FastTokenizer:
        """Inverse of `to_json`. Raises `ConfigError` for other keys or values."""
        expected = {"tokenizer", "scale", "vocab_size", "min_token", "time_horizon", "action_dim"}
        if set(record) != expected:
            raise ConfigError(f"a FAST tokenizer has {', '.join(sorted(record))}; expected {', '.join(sorted(expected))}")
        return FastTokenizer(**{**record, "tokenizer": json.dumps(record["tokenizer"], ensure_ascii=False)})

    def save(self, folder: str | Path) -> None:
        """Write the published files, which the published code reads too, as `folder`.

        Raises `ConfigError` if anything else lies there, which would be replaced.
        """
        root = Path(folder)
        if others := sorted({path.name for path in root.iterdir()} - set(FILES)) if root.is_dir() else []:
            raise ConfigError(f"{root} holds {others[0]}; give a new folder for a FAST tokenizer")
        processor = {"auto_map": {"AutoProcessor": CODE}, "processor_class": PROCESSOR_CLASS, **self._settings()}
        config = {
            "added_tokens_decoder": {},
            "clean_up_tokenization_spaces": False,
            "model_max_length": 10**30,
            "processor_class": PROCESSOR_CLASS,
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
        tables = {PROCESSOR: processor, TOKENIZER_CONFIG: config, SPECIAL_TOKENS: {}}
        files = {name: (json.dumps(table, indent=2, sort_keys=True) + "\n").encode() for name, table in tables.items()}
        write_folder(root, {**files, TOKENIZER: self.tokenizer.encode()})

    def _settings(self) -> dict[str, Any]:
        return {
            "scale": self.scale,
            "vocab_size": self.vocab_size,
            "min_token": self.min_token,
            "time_horizon": self.time_horizon,
            "action_dim": self.action_dim,
        }

    @staticmethod
    def load(folder: str | Path) -> FastTokenizer:
        """The tokenizer in a folder of published files. Code that lies there is not read.

        Raises `CorruptFileError` for a file that is missing, cannot be read, or says what this class does not do.
        """
        root = Path(folder)
        processor, config = read_record(root / PROCESSOR), read_record(root / TOKENIZER_CONFIG)
        expected = {"auto_map", "processor_class", "scale", "vocab_size", "min_token", "time_horizon", "action_dim"}
        if unknown := sorted(set(processor) - expected):
            raise CorruptFileError(root / PROCESSOR, f"has {', '.join(unknown)}; expected only {', '.join(sorted(expected))}")
        if absent := sorted({"processor_class", "scale", "vocab_size", "min_token"} - set(processor)):
            raise CorruptFileError(root / PROCESSOR, f"lacks {', '.join(absent)}")
        if processor["processor_class"] != PROCESSOR_CLASS:
            raise CorruptFileError(root / PROCESSOR, f"is for {processor['processor_class']!r}; expected {PROCESSOR_CLASS!r}")
        if unknown := sorted(set(config) - HARMLESS):
            raise CorruptFileError(root / TOKENIZER_CONFIG, f"has {', '.join(unknown)}, which verbot's FAST does not have")
        for name in ("added_tokens_decoder", "clean_up_tokenization_spaces", "extra_special_tokens"):
            if config.get(name):
                raise CorruptFileError(root / TOKENIZER_CONFIG, f"sets {name}, which changes what tokens mean; expected none")
        if (root / SPECIAL_TOKENS).exists() and read_record(root / SPECIAL_TOKENS):
            raise CorruptFileError(root / SPECIAL_TOKENS, "names special tokens; FAST has none")
        read_record(root / TOKENIZER)
        settings = {name: value for name, value in processor.items() if name not in ("auto_map", "processor_class")}
        try:
            tokenizer = FastTokenizer((root / TOKENIZER).read_text("utf-8"), **settings)
            _ = tokenizer.size
        except ConfigError as error:
            raise CorruptFileError(root, f"holds no FAST tokenizer: {error}") from error
        return tokenizer


def byte_alphabet() -> tuple[str, ...]:
    """The character that stands for each byte in the tokens of GPT-2: itself if it can be printed, else one from U+0100 on."""
    printed = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in printed else next(others)) for byte in range(256))


def _rounded(chunks: Float64Array, scale: float) -> Int64Array:
    """(n, h, d) → int64 (n, h, d)."""
    found = np.around(cosine_transform(chunks.swapaxes(1, 2)) * scale).swapaxes(1, 2)
    if not (np.abs(found) < 2**62).all():
        raise ConfigError("FAST got actions that are not finite, or far too large")
    return found.astype(np.int64)


def _library() -> Any:
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise MissingDependencyError(f"FAST needs tokenizers, which is not installed: {install_command('tokenizers')}") from error


def _check(text: str) -> None:
    """Raise `ConfigError` unless this tokenizer.json is one of FAST's kind."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{TOKENIZER} of FAST is not JSON ({error})") from error
    part = {name: (record.get(name) or {}) if isinstance(record, dict) else {} for name in ("model", "pre_tokenizer", "decoder")}
    if not all(isinstance(p, dict) for p in part.values()) or not part["model"]:
        raise ConfigError(f"{TOKENIZER} of FAST has no model")
    wanted = {"model": "BPE", "pre_tokenizer": "ByteLevel", "decoder": "ByteLevel"}
    found: list[tuple[str, Any, Any]] = [(f"{name}.type", part[name].get("type"), kind) for name, kind in wanted.items()]
    split, model = part["pre_tokenizer"], part["model"]
    found += [("use_regex", split.get("use_regex", True), True), ("add_prefix_space", split.get("add_prefix_space"), False)]
    names = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")
    found += [(f"model.{name}", model.get(name) or None, None) for name in names]
    empty = ("normalizer", "truncation", "padding", "added_tokens")
    found += [(name, record.get(name) or None, None) for name in empty]
    after = record.get("post_processor")
    found.append(("post_processor", after.get("type") if isinstance(after, dict) else after or "ByteLevel", "ByteLevel"))
    for name, value, right in found:
        if value != right:
            raise ConfigError(f"{TOKENIZER} of FAST has {name} {value!r:.80}; expected {right!r}")
