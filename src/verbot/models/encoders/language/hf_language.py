"""Pretrained language models by Hugging Face name: BERT, RoBERTa, T5's encoder, the text towers of CLIP and SigLIP, MiniLM."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError, CorruptFileError
from verbot.models import pretrained
from verbot.models.encoders.language.text_cache import TILE, TextCache
from verbot.models.encoders.language.tokenizer import END, PAD, SPECIAL, START, UNKNOWN, count_unread, split_words
from verbot.models.layers.transformer import Block
from verbot.models.pretrained import RANDOM, Checkpoint
from verbot.models.registries import language_encoders
from verbot.models.tokens import Sizes, TextBatch, TokenGroup

KINDS = {
    "bert": "BertModel",
    "roberta": "RobertaModel",
    "t5": "T5EncoderModel",
    "clip": "CLIPTextModel",
    "clip_text_model": "CLIPTextModel",
    "siglip": "SiglipTextModel",
    "siglip_text_model": "SiglipTextModel",
}
TOWERS = ("CLIPTextModel", "SiglipTextModel")  # halves of a model of images and texts
# The default architecture without a checkpoint: small enough for a CPU, trained from random weights.
SMALL = {
    "model_type": "bert", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128, "type_vocab_size": 1, "pad_token_id": PAD,
}  # fmt: skip


@dataclass(frozen=True)
class FittedModel:
    """What `HFLanguage.fit` adds to the options, and a policy saves.

    Args:
        architecture: what a ``config.json`` holds.
        tokenizer: the text of a ``tokenizer.json``.
        sha256: sha256 of a frozen checkpoint.
    """

    architecture: Mapping[str, Any] | None = None
    tokenizer: str | None = None
    sha256: str | None = None


NOT_FITTED = FittedModel()


@language_encoders.register("hf_language", needs=("transformers",))
class HFLanguage(nn.Module):
    """A text token and the projected token states of a language model, followed by `layers` of trained self-attention.

    The text token is the mean of the token states (Reimers & Gurevych 2019); for CLIP and SigLIP it is the state of the last
    token. SigLIP was trained on padded texts, so a checkpoint of it pads every text. The weights of a frozen model are not part
    of a saved policy; their sha256 is saved and checked, and each distinct text is encoded once and cached, as in `MiniLM`. A
    trained model is saved completely with its tokenizer and no longer needs its checkpoint. The model is always in evaluation
    mode, without dropout. Without a checkpoint, a model of `architecture` is trained from random weights, with the words of the
    training instructions as tokens. ``""`` consists of the tokenizer's special tokens.

    Args:
        source: the checkpoint, e.g. ``"google-bert/bert-base-uncased"``, ``"FacebookAI/roberta-base"``, ``"google-t5/t5-small"``,
            ``"openai/clip-vit-base-patch32"``, ``"google/siglip-base-patch16-224"``,
            ``"sentence-transformers/all-MiniLM-L6-v2"``. It needs a ``tokenizer.json``.
        layers, heads: the numbers of layers and heads of the trained transformer on top.
        longest: maximum kept of one text.
        fitted: made by `fit`, saved with the policy.

    Raises:
        ConfigError: unknown checkpoint, mode, depth or model type; no tokenizer.
        CorruptFileError: the frozen weights are not those that the policy was trained on.
        MissingDependencyError: transformers is not installed.
    """

    table: Tensor

    def __init__(
        self,
        sizes: Sizes,
        source: Checkpoint = RANDOM,
        layers: int = 1,
        heads: int = 4,
        longest: int = 64,
        fitted: FittedModel = NOT_FITTED,
    ):
        super().__init__()
        self.frozen = source.is_frozen
        reason, self._text = None, None
        if self.frozen:
            folder = source.find()
            identity = pretrained.identity(folder)
            if fitted.sha256 not in (None, identity):
                raise CorruptFileError(folder, f"not the weights that the policy was trained on, sha256 {fitted.sha256}")
            self._cache, self._text = _frozen(folder, identity, source.depth, longest), _read_tokenizer(folder)
            width, kind = self._cache.width, pretrained.architecture(folder)["model_type"]
            self._most = self._cache.longest or longest
        else:
            self.model, config, text, reason = _model(source, fitted)
            width, kind = config.hidden_size, config.model_type
            pretrained.scale_rate(self.model, source.mode)
            self._most = _longest(config, longest)
            self._tokenizer = _tokenizer(text, config, self._most, padded=source.checkpoint is not None)
            self._special = _special(text, self._tokenizer, config)
            table = torch.tensor([*self._special, *range(self._tokenizer.get_vocab_size())])
            self.register_buffer("table", table, persistent=False)
        self._absence = pretrained.Absence(self, reason)
        self.last = kind.startswith(("clip", "siglip"))
        self.project, self.whole = nn.Linear(width, sizes.width), nn.Linear(width, sizes.width)
        self.blocks = nn.ModuleList(Block(sizes.width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(sizes.width)

    @staticmethod
    def fit(options: Mapping[str, Any], instructions: Sequence[str]) -> dict[str, Any]:
        """`options` with the identity of a frozen checkpoint, or with architecture and tokenizer of a trained one."""
        if options.get("checkpoint") is None:
            vocabulary = sorted({word for text in set(instructions) for word in split_words(text)})
            return {"architecture": SMALL, **options, "tokenizer": _word_tokenizer(vocabulary)}
        folder = pretrained.find(options["checkpoint"], options.get("revision"))
        if options.get("mode") == pretrained.FROZEN:
            return {**options, "sha256": pretrained.identity(folder)}
        return {**options, "architecture": pretrained.architecture(folder), "tokenizer": _read_tokenizer(folder)}

    def train(self, mode: bool = True) -> HFLanguage:
        super().train(mode)
        if not self.frozen:
            self.model.eval()
        return self

    def prepare(self, texts: Sequence[str]) -> TextBatch:
        """States (b, l, d) float16 for a frozen model, ids (b, l) for a trained one.

        Ids 0 to 3 are `SPECIAL`, which replace the tokenizer's special tokens; the tokenizer's ids follow.
        """
        texts = [" ".join(split_words(text)) for text in texts]
        if self.frozen:
            return self._cache.batch(texts)
        shift = {own: number for number, own in reversed(list(enumerate(self._special)))}
        rows = [
            [shift.get(token, token + len(SPECIAL)) for token in encoding.ids] for encoding in self._tokenizer.encode_batch(texts)
        ]
        length = max(map(len, rows), default=1)
        ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows], dtype=torch.int64).view(len(rows), length)
        return TextBatch(ids, torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None])

    def forward(self, text: TextBatch) -> TokenGroup:
        states = text.values.to(self.project.weight.dtype) if self.frozen else self._run(text)  # (b, l, d)
        whole = self.sentence(states, text.mask).unsqueeze(1)
        x = torch.cat([self.whole(whole), self.project(states)], 1)  # (b, 1 + l, e)
        mask = torch.cat([text.mask.any(1, keepdim=True), text.mask], 1)
        for block in self.blocks:
            x = block(x, mask)
        return TokenGroup(self.norm(x), mask, "words")

    def sentence(self, states: Tensor, mask: Tensor) -> Tensor:
        """The feature (b, d) of the text, from its token states (b, l, d) with mask (b, l)."""
        if self.last:
            place = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(1)
            return states[torch.arange(len(states), device=mask.device), place]
        return TokenGroup(states, mask, "words").mean()

    def most_tokens(self) -> int:
        return self._most

    def unread_tokens(self, texts: Sequence[str]) -> tuple[int, int]:
        tokenizer = self._tokenizer if self._text is None else pretrained.library("tokenizers").Tokenizer.from_str(self._text)
        return count_unread(tokenizer, [" ".join(split_words(text)) for text in texts])

    def _run(self, text: TextBatch) -> Tensor:
        self._absence.check()
        ids = self.table[text.values.masked_fill(~text.mask, PAD)]
        states: Tensor = self.model(input_ids=ids, attention_mask=_readable(text.mask).long()).last_hidden_state
        return states


def _readable(mask: Tensor) -> Tensor:
    """A mask in which every text has a token, because models need one; the result for empty texts is masked later."""
    first = torch.zeros_like(mask)
    first[:, 0] = True
    return mask | (first & ~mask.any(1, keepdim=True))


def _config(architecture: Mapping[str, Any], depth: int | None) -> tuple[str, Any]:
    """The library's name of the model and its configuration. Raises `ConfigError` for an unknown type or depth."""
    kind: str = pretrained.family(KINDS, architecture.get("model_type"), "hf_language")
    inner = architecture.get("text_config", architecture) if kind in TOWERS else architecture
    config = getattr(pretrained.library(), kind).config_class.from_dict(copy.deepcopy(dict(inner)))
    if depth is not None:
        if not 1 <= depth <= config.num_hidden_layers:
            raise ConfigError(f"this {kind} has {config.num_hidden_layers} layers; a depth of {depth} is not possible")
        config.num_hidden_layers = depth
    return kind, config


def _build(kind: str, config: Any, folder: Path | None) -> nn.Module:
    """The model with the weights in `folder`, or random ones."""
    options = {"add_pooling_layer": False} if kind in ("BertModel", "RobertaModel") else {}
    if folder is None:
        model: Any = getattr(pretrained.library(), kind)(config, **options).eval()
    else:
        model = pretrained.load(kind, config, folder, **options)
    # T5's own module holds its embeddings a second time, under another name.
    return model.encoder if kind == "T5EncoderModel" else model


def _model(source: Checkpoint, fitted: FittedModel) -> tuple[nn.Module, Any, str, str | None]:
    """A trainable model, its configuration and tokenizer, and the reason if it has no weights."""
    architecture, tokenizer, depth = fitted.architecture, fitted.tokenizer, source.depth
    if source.checkpoint is None:
        if tokenizer is None:
            raise ConfigError(
                "hf_language has no checkpoint and no vocabulary; build it with HFLanguage.fit(options, instructions)"
            )
        kind, config = _config(architecture or SMALL, depth)
        config.vocab_size = len(json.loads(tokenizer)["model"]["vocab"])
        return _build(kind, config, None), config, tokenizer, None
    try:
        folder = source.find()
        kind, config = _config(pretrained.architecture(folder), depth)
        return _build(kind, config, folder), config, tokenizer or _read_tokenizer(folder), None
    except (ConfigError, CorruptFileError) as error:
        if architecture is None or tokenizer is None:
            raise
        kind, config = _config(architecture, depth)
        return _build(kind, config, None), config, tokenizer, str(error)


@functools.lru_cache(maxsize=4)
def _frozen(folder: Path, identity: str, depth: int | None, longest: int) -> TextCache:
    """The text cache of a frozen model, shared within the process. Weights are read for the first text that is not cached."""
    kind, config = _config(pretrained.architecture(folder), depth)
    limit = _longest(config, longest)
    tokenizer = functools.cache(lambda: _tokenizer(_read_tokenizer(folder), config, limit, padded=True))
    model = functools.cache(lambda: _build(kind, config, folder).requires_grad_(False))

    def run(ids: Tensor, mask: Tensor) -> Tensor:
        ids = ids.masked_fill(~mask, config.pad_token_id or 0)
        states: Tensor = model()(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return states

    name = f"{config.model_type}-{identity[:16]}-{config.num_hidden_layers}-{limit}-{TILE}"
    return TextCache(name, config.hidden_size, lambda texts: [e.ids for e in tokenizer().encode_batch(texts)], run, limit)


def _longest(config: Any, longest: int) -> int:
    """The maximum number of tokens, limited by the model's positions."""
    places = getattr(config, "max_position_embeddings", None) or longest
    if config.model_type == "roberta":  # its positions start after the padding id
        places -= config.pad_token_id + 1
    return min(longest, places)


def _read_tokenizer(folder: Path) -> str:
    path = folder / pretrained.TOKENIZER
    if not path.is_file():
        raise ConfigError(
            f"{folder} has no {pretrained.TOKENIZER}; write one with "
            "transformers.AutoTokenizer.from_pretrained(name).save_pretrained(folder)"
        )
    return path.read_text(encoding="utf-8")


def _tokenizer(text: str, config: Any, longest: int, padded: bool) -> Any:
    """Args: `padded`: texts of a model that was trained on padded ones are padded."""
    tokenizer = pretrained.library("tokenizers").Tokenizer.from_str(text)
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest)
    if padded and config.model_type.startswith("siglip"):
        pad = config.pad_token_id or 0
        tokenizer.enable_padding(length=longest, pad_id=pad, pad_token=tokenizer.id_to_token(pad) or SPECIAL[PAD])
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise ConfigError(f"the tokenizer has {tokenizer.get_vocab_size()} tokens, the model only {config.vocab_size}")
    return tokenizer


def _word_tokenizer(vocabulary: Sequence[str]) -> str:
    """A tokenizer of whole words with the ids of `WordEmbedding`."""
    library = pretrained.library("tokenizers")
    ids = {word: number for number, word in enumerate((*SPECIAL, *vocabulary))}
    tokenizer = library.Tokenizer(library.models.WordLevel(ids, unk_token=SPECIAL[UNKNOWN]))
    tokenizer.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
    start, end = SPECIAL[START], SPECIAL[END]
    tokenizer.post_processor = library.processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, START), (end, END)]
    )
    text: str = tokenizer.to_str()
    return text


def _special(text: str, tokenizer: Any, config: Any) -> tuple[int, int, int, int]:
    """The ids of a tokenizer for `SPECIAL`: padding, unknown word, start and end of a text."""
    pad = config.pad_token_id or 0
    around = tokenizer.encode("").ids or [pad]
    model = json.loads(text)["model"]
    names = (model.get("unk_token"), "[UNK]", "<unk>", "[MASK]", "<mask>")
    known = [number for name in names if name and (number := tokenizer.token_to_id(name)) is not None]
    unknown = model.get("unk_id") if model.get("unk_id") is not None else known[0] if known else pad
    return pad, unknown, around[0], around[-1]
