"""Pretrained language models as trunks: Llama (SmolLM2), Qwen2, Qwen3, Gemma, and the language part of models with images."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError, CorruptFileError
from verbot.models import pretrained
from verbot.models.allocation import uncounted
from verbot.models.encoders.language.hf_language import NOT_FITTED, FittedModel
from verbot.models.pretrained import RANDOM, Checkpoint
from verbot.models.registries import trunks
from verbot.models.trunks.adapters import block_adapters
from verbot.models.trunks.architecture import WITH_IMAGES, decoder_config, text_architecture
from verbot.models.trunks.base import KeyValueCache, LanguageTrunk, TrunkOutput
from verbot.models.trunks.decoder import LanguageDecoder
from verbot.models.trunks.weights import DTYPES, TensorFiles, decoder_targets, load_exactly

AS_FILE = "file"
ENDS = {"llama": 2, "gemma": 1}  # the default of a family, which its files may leave out


class PublishedTokenizer:
    """A published ``tokenizer.json`` as a `TextTokenizer`.

    Args:
        text: of the file.
        architecture: what the ``config.json`` holds.
        rows: of the embedding; the ids must be below.

    Raises `ConfigError` if they are not, or if the end of a text has no id.
    """

    def __init__(self, text: str, architecture: Mapping[str, Any], rows: int):
        self._tokenizer = pretrained.library("tokenizers").Tokenizer.from_str(text)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        around: list[int] = self._tokenizer.encode("").ids
        self._tokenizer.encode_special_tokens = True  # "</s>" in a text is four characters
        own = text_architecture(architecture)
        end = own.get("eos_token_id", ENDS.get(str(own["model_type"])))
        end = end[0] if isinstance(end, list) else end
        if end is None:
            raise ConfigError("the config.json of this language model has no eos_token_id, the end of a text")
        known: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        if (most := max(known.values(), default=0)) >= rows:
            raise ConfigError(f"the tokenizer has an id {most}, the language model only {rows} embeddings")
        special = {i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        self._plain = sorted(set(known.values()) - {*self._tokenizer.get_added_tokens_decoder()} - {end}, reverse=True)
        self.size, self.end = rows, int(end)
        self.start: int | None = next((i for i in around if i != end and i in special), None)
        pad = own.get("pad_token_id")
        self.pad = int(end if pad is None else pad)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)
        return text

    def reserved(self, count: int) -> list[int]:
        """The last tokens, which were merged last and are used least."""
        if count > len(self._plain):
            raise ConfigError(f"the vocabulary has {len(self._plain)} tokens; {count} for actions are not possible")
        return self._plain[:count]


class OutsideModule:
    """A module that torch does not register, so that its weights are not saved; copies share it."""

    def __init__(self, module: nn.Module):
        self.module = module

    def __deepcopy__(self, memo: Any) -> OutsideModule:
        return self


@trunks.register("hf", needs=("transformers", "tokenizers"))
class HFTrunk(LanguageTrunk):
    """A published language model, by folder or name on the hub, computed by `LanguageDecoder`.

    The weights of a frozen model are not part of a saved policy; their sha256 is saved and checked. A trained one is saved
    completely with its tokenizer and no longer needs its checkpoint.

    Args:
        source: the checkpoint, e.g. ``"HuggingFaceTB/SmolLM2-135M-Instruct"``, ``"Qwen/Qwen3-0.6B"``; ``depth`` takes its first
            layers. It needs a ``tokenizer.json``.
        random: take only its architecture and tokenizer, with random weights.
        dtype: ``"file"`` keeps that of the file for a frozen model, and is float32 for a trained one; or ``"float32"``,
            ``"bfloat16"``, ``"float16"``.
        adapters: rank of low-rank adapters of every linear layer of the blocks (Hu et al. 2021); 0 for none. They are trained
            and saved, also where the model is frozen.
        alpha: the adapters are scaled by ``alpha / adapters``.
        checkpointing: compute activations again in the backward pass: less memory for more time.
        fitted: made by `fit`, saved with the policy.

    Raises:
        ConfigError: unknown checkpoint, mode, depth, family or dtype; no tokenizer.
        CorruptFileError: a weight is missing, unknown, misshapen or doubled, or frozen weights are not those of the training.
        MissingDependencyError: tokenizers is not installed.
    """

    def __init__(
        self,
        source: Checkpoint = RANDOM,
        random: bool = False,
        dtype: str = AS_FILE,
        adapters: int = 0,
        alpha: float = 16.0,
        checkpointing: bool = False,
        fitted: FittedModel = NOT_FITTED,
    ):
        super().__init__()
        if dtype not in (AS_FILE, *DTYPES):
            raise ConfigError(f"dtype is {dtype!r}; expected one of {', '.join((AS_FILE, *DTYPES))}")
        if source.checkpoint is None and fitted.architecture is None:
            raise ConfigError("hf has no checkpoint; set checkpoint to a folder, or to a name on the hub")
        if random and source.is_frozen:
            raise ConfigError("random weights that are frozen never learn; set mode=trained, or random=False")
        self.frozen, self._checkpointing = source.is_frozen, checkpointing
        architecture, text, folder, reason = _found(source, fitted)
        config = decoder_config(architecture).first(source.depth or 0)
        self.tokenizer = PublishedTokenizer(text, architecture, config.vocabulary)
        self.config, self.width, self.depth = config, config.width, config.depth
        if self.frozen:
            assert folder is not None
            decoder = _frozen(folder, pretrained.identity(folder), self.depth, dtype)
            self._held = OutsideModule(decoder)
        else:
            own = torch.float32 if dtype == AS_FILE else DTYPES[dtype]
            decoder = _random(architecture, self.depth) if random or folder is None else _read(folder, self.depth, own)
            self.decoder = decoder.to(own)
            self.decoder.checkpointing = checkpointing
            pretrained.scale_rate(self.decoder, source.mode)
        self.is_constant = self.frozen and not adapters
        self._absence = pretrained.Absence(self, None if random else reason)
        self.adapters = nn.ModuleList(block_adapters(block, adapters, alpha) for block in decoder.layers) if adapters else None

    @staticmethod
    def fit(options: Mapping[str, Any], instructions: Sequence[str]) -> dict[str, Any]:
        """`options` with the identity of a frozen checkpoint, or with architecture and tokenizer of a trained one."""
        if options.get("checkpoint") is None:
            return dict(options)
        folder = pretrained.find(options["checkpoint"], options.get("revision"))
        if options.get("mode") == pretrained.FROZEN:
            return {**options, "sha256": pretrained.identity(folder)}
        return {**options, "architecture": pretrained.architecture(folder), "tokenizer": _tokenizer(folder)}

    def held_layers(self) -> list[nn.Module]:
        """The blocks of a frozen model."""
        decoder = self._held.module if self.frozen else None
        return [*decoder.layers] if isinstance(decoder, LanguageDecoder) else []

    def embed(self, ids: Tensor) -> Tensor:
        return self._at(ids).embed(ids)

    def forward(self, x: Tensor, allowed: Tensor, positions: Tensor, cache: KeyValueCache | None = None) -> TrunkOutput:
        decoder = self._at(x)
        decoder.checkpointing = self._checkpointing
        output: TrunkOutput = decoder(x, allowed, positions, cache, self.adapters)
        return output

    def logits(self, hidden: Tensor) -> Tensor:
        return self._at(hidden).logits(hidden)

    def _at(self, x: Tensor) -> LanguageDecoder:
        """The decoder, on the device of `x`."""
        self._absence.check()
        if not self.frozen:
            return self.decoder
        decoder = self._held.module
        assert isinstance(decoder, LanguageDecoder)
        return decoder if decoder.norm.weight.device == x.device else decoder.to(x.device)


def _found(source: Checkpoint, fitted: FittedModel) -> tuple[Mapping[str, Any], str, Path | None, str | None]:
    """Architecture, tokenizer and folder of the checkpoint; without it those of a saved policy, and why it is not there."""
    try:
        if source.checkpoint is None:
            raise ConfigError("this policy has no checkpoint, and its weights are not loaded")
        folder = source.find()
    except ConfigError as error:
        if source.is_frozen or fitted.architecture is None or fitted.tokenizer is None:
            raise
        return fitted.architecture, fitted.tokenizer, None, str(error)
    if fitted.sha256 is not None and fitted.sha256 != (own := pretrained.identity(folder)):
        raise CorruptFileError(folder, f"not the weights that the policy was trained on, sha256 {fitted.sha256}; they have {own}")
    return pretrained.architecture(folder), fitted.tokenizer or _tokenizer(folder), folder, None


def _tokenizer(folder: Path) -> str:
    path = folder / pretrained.TOKENIZER
    if not path.is_file():
        raise ConfigError(
            f"{folder} has no {pretrained.TOKENIZER}; write one with "
            "transformers.AutoTokenizer.from_pretrained(name).save_pretrained(folder)"
        )
    text = path.read_text(encoding="utf-8")
    try:
        json.loads(text)
    except ValueError as error:
        raise CorruptFileError(path, f"is not JSON: {error}") from error
    return text


@functools.lru_cache(maxsize=4)
def _frozen(folder: Path, identity: str, depth: int, dtype: str) -> LanguageDecoder:
    """A frozen decoder, shared within the process."""
    return _read(folder, depth, DTYPES.get(dtype)).requires_grad_(False).eval()


def _read(folder: Path, depth: int, dtype: torch.dtype | None) -> LanguageDecoder:
    architecture = pretrained.architecture(folder)
    whole, tensors = decoder_config(architecture), TensorFiles.find(folder)
    config, beside = whole.first(depth), architecture.get("model_type") in WITH_IMAGES
    with uncounted():
        with torch.device("meta"):
            decoder = LanguageDecoder(config)
        load_exactly(decoder, tensors, decoder_targets(config, whole.depth, tensors, beside), dtype)
    return decoder


def _random(architecture: Mapping[str, Any], depth: int) -> LanguageDecoder:
    decoder = LanguageDecoder(decoder_config(architecture).first(depth))
    decoder.initialize()
    return decoder
