"""The backbone of a language model that sees: images and state as tokens of its sentence, and what it says after it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.backbones.modular import Modular
from verbot.models.config import NetworkConfig
from verbot.models.features import Features, Queries, Spoken
from verbot.models.layers.transformer import Block
from verbot.models.protocols import FitsInstructions
from verbot.models.registries import Part, backbones, trunks, vision_encoders
from verbot.models.tokens import Batch, MemoryState, Sizes, Suffix, TextBatch, TokenGroup
from verbot.models.trunks.base import KeyValueCache, LanguageTrunk, TextTokenizer, TrunkOutput
from verbot.models.trunks.sentence_cache import SentenceCache

PLACEHOLDER, QUESTION = "{instruction}", "{question}"
TEXT = "text"
READER_HEADS = 4
SHORT = 0.6  # of the longest text: rows with less are read apart


@dataclass(frozen=True)
class PromptConfig:
    """The prefix of a language trunk.

    Args:
        trunk: name and options of the language trunk (see `verbot.models.registries.trunks`).
        template: the sentence of an instruction, with ``{instruction}`` in it.
        question_template: that of a question, a fact and a request for a caption, with ``{question}`` in it.
        lower: instructions and questions in lower case.
        order: in which the groups stand: ``"text"`` is the sentence, and the others are kinds of tokens, such as ``"keypoints"``,
            ``"patches"`` or ``"state"``. Kinds that are not named come before the sentence.
        causal: a token of the prefix reads only those before it; otherwise all of the prefix. What is said is always causal.
        readouts: learned tokens at the end of the prefix, which a head reads; with 0 it reads all tokens of the prefix.
        longest: number of tokens of a sentence, at most.
        readers: transformer layers that read the sentence for the parts outside the trunk, such as the vision encoder. With 0
            these parts get the words' embeddings, without their order: "the red cube in the blue box" is then "the blue cube in
            the red box" to a vision encoder.
    """

    trunk: Mapping[str, Any] = field(default_factory=lambda: {"name": "tiny"})
    template: str = PLACEHOLDER
    question_template: str = QUESTION
    lower: bool = True
    order: tuple[str, ...] = (TEXT,)
    causal: bool = False
    readouts: int = 0
    longest: int = 96
    readers: int = 0

    def __post_init__(self) -> None:
        for name, text, place in (
            ("template", self.template, PLACEHOLDER),
            ("question_template", self.question_template, QUESTION),
        ):
            if text.count(place) != 1:
                raise ConfigError(f"{name} of a prompt is {text!r:.120}; expected a sentence with {place} in it once")
        if self.order.count(TEXT) != 1 or len(set(self.order)) != len(self.order):
            raise ConfigError(f"the order of a prefix is {self.order}; expected {TEXT!r} once, and kinds of tokens")
        if min(self.readouts, self.readers) < 0 or self.longest < 1:
            raise ConfigError(
                f"a prompt has readouts {self.readouts}, readers {self.readers} and longest {self.longest}; expected at least 0, "
                f"0 and 1"
            )

    @property
    def part(self) -> Part:
        given: Any = self.trunk
        if not isinstance(given, Mapping) or set(given) - {"name", "options"} or not isinstance(given.get("name"), str):
            raise ConfigError(f"the trunk of a prompt is {given!r:.120}; expected a name, and options")
        return Part(**self.trunk)

    def sentence(self, text: str, is_question: bool = False) -> str:
        template, place = (self.question_template, QUESTION) if is_question else (self.template, PLACEHOLDER)
        return template.replace(place, text.lower() if self.lower else text)


@dataclass(frozen=True)
class Prefix:
    """Tokens before what is said.

    Args:
        x: (b, n, d). mask: (b, n) bool.
        blocks: (n,) int64, not falling: a token reads the tokens of its block and of those before.
        cache: keys and values, after the trunk has read it.
    """

    x: Tensor
    mask: Tensor
    blocks: Tensor
    cache: KeyValueCache | None = None

    def followed(self, x: Tensor, mask: Tensor) -> Prefix:
        """With causal tokens (b, l, d) behind it."""
        blocks = self.blocks[-1:] + torch.arange(1, x.shape[1] + 1, device=x.device)
        return Prefix(torch.cat([self.x, x], 1), torch.cat([self.mask, mask], 1), torch.cat([self.blocks, blocks]))

    @property
    def allowed(self) -> Tensor:
        """(b, n, n) bool, which tokens each token reads."""
        return self.mask.unsqueeze(1) & (self.blocks <= self.blocks.unsqueeze(1))

    @property
    def positions(self) -> Tensor:
        """(b, n) int64; masked tokens have none of their own, so that padding changes nothing."""
        return (self.mask.cumsum(1) - 1).clamp(min=0)


class TrunkText(nn.Module):
    """The sentence of each instruction for the parts outside the trunk: (text) → words of width e, from its embedding."""

    def __init__(self, trunk: LanguageTrunk, prompt: PromptConfig, width: int):
        super().__init__()
        self._trunk, self.prompt = (trunk,), prompt  # in a tuple, so that torch does not register it twice
        self.project = nn.Linear(trunk.width, width)
        self.readers = nn.ModuleList(Block(width, READER_HEADS) for _ in range(prompt.readers))
        if prompt.readers:
            self.positions = nn.Parameter(torch.randn(prompt.longest, width) * 0.1)
            self.norm = nn.LayerNorm(width)

    def prepare(self, texts: Sequence[str], are_questions: Sequence[bool] | None = None) -> TextBatch:
        """Raises `ConfigError` for a sentence that is longer than the prompt allows."""
        asked = [False] * len(texts) if are_questions is None else are_questions
        tokenizer = self._trunk[0].tokenizer
        sentences = [self.prompt.sentence(text, is_question) for text, is_question in zip(texts, asked, strict=True)]
        start = [] if tokenizer.start is None else [tokenizer.start]
        rows = [[*start, *tokenizer.encode(sentence)] for sentence in sentences]
        length = max(map(len, rows), default=1)
        if length > self.prompt.longest:
            sentence = sentences[max(range(len(rows)), key=lambda i: len(rows[i]))]
            raise ConfigError(
                f"a sentence has {length} tokens: {sentence!r:.80}; expected at most {self.prompt.longest} (backbone.longest)"
            )
        ids = torch.tensor([[*row, *[tokenizer.pad] * (length - len(row))] for row in rows], dtype=torch.int64)
        mask = torch.arange(length) < torch.tensor([len(row) for row in rows], dtype=torch.int64)[:, None]
        return TextBatch(ids.reshape(len(rows), length), mask.reshape(len(rows), length))

    def most_tokens(self) -> int:
        return self.prompt.longest

    def forward(self, text: TextBatch) -> TokenGroup:
        words = self._trunk[0].embed(text.values).to(self.project.weight.dtype)
        x: Tensor = self.project(words)
        if not self.readers:
            return TokenGroup(x, text.mask, "words")
        x = x + self.positions[: x.shape[1]]
        for block in self.readers:
            x = block(x, text.mask)
        return TokenGroup(self.norm(x), text.mask, "words")


class PrefixBuilder(nn.Module):
    """The sentence and groups of tokens of width e as one `Prefix`, in the order of the prompt."""

    def __init__(self, trunk: LanguageTrunk, prompt: PromptConfig, kinds: Sequence[str], width: int):
        super().__init__()
        self._trunk, self.prompt = (trunk,), prompt
        self.width, self.count = trunk.width, prompt.readouts
        if unknown := set(prompt.order) - {TEXT, *kinds}:
            raise ConfigError(
                f"the order of the prefix names {', '.join(sorted(unknown))}; this network has {', '.join((TEXT, *kinds))}"
            )
        self.projectors = nn.ModuleDict(
            {kind: nn.Sequential(nn.LayerNorm(width), nn.Linear(width, trunk.width)) for kind in kinds}
        )
        self.readouts = nn.Parameter(torch.randn(prompt.readouts, trunk.width) * 0.02) if prompt.readouts else None
        # Kinds that are not named come before the sentence.
        self.starts_with_text = prompt.order[0] == TEXT and set(kinds) <= set(prompt.order)

    def forward(self, text: TextBatch, groups: Sequence[TokenGroup]) -> Prefix:
        words, order = self._trunk[0].embed(text.values), self.prompt.order
        shown = [TokenGroup(self.projectors[group.kind](group.tokens), group.mask, group.kind) for group in groups]
        # A trunk in 16 bits computes in them, but what the head reads has the precision of the rest.
        wide = functools.reduce(torch.promote_types, (group.tokens.dtype for group in shown), words.dtype)
        said = TokenGroup(words.to(wide), text.mask, TEXT)
        shown = [dataclasses.replace(group, tokens=group.tokens.to(wide)) for group in shown]
        ordered = sorted([said, *shown], key=lambda group: order.index(group.kind) if group.kind in order else -1)
        x, mask = torch.cat([g.tokens for g in ordered], 1), torch.cat([g.mask for g in ordered], 1)
        blocks = (
            torch.arange(x.shape[1], device=x.device) if self.prompt.causal else mask.new_zeros(x.shape[1], dtype=torch.int64)
        )
        if self.readouts is not None:
            own = self.readouts.to(x).expand(len(x), -1, -1)
            last = blocks[-1:] + 1
            x, mask = torch.cat([x, own], 1), torch.cat([mask, mask.new_ones(own.shape[:2])], 1)
            blocks = torch.cat([blocks, last.expand(own.shape[1])])
        return Prefix(x, mask, blocks)


@backbones.register("vlm")
class VisionLanguageModel(Modular):
    """A language trunk whose prefix holds the instruction and the tokens of the vision and the state encoder.

    A head reads the trunk's hidden states, of learned readouts or of the whole prefix, layer by layer if it can, or its keys and
    values; or it speaks (`verbot.models.protocols.SpeakingHead`): its ids follow the prefix, after `Batch.text_targets`. If the
    trunk is frozen without adapters, the prefix causal and the sentence first, what the trunk makes of a sentence is computed
    once and kept.

    Sources: RT-2 (Brohan et al. 2023), PaLM-E (Driess et al. 2023), OpenVLA (Kim et al. 2024), π0 (Black et al. 2024).
    """

    builds: ClassVar[tuple[str, ...]] = ("vision", "state")
    uses = frozenset({"previous_action", "depth"})
    trunk: LanguageTrunk

    def __init__(self, config: NetworkConfig, sizes: Sizes, prompt: PromptConfig = PromptConfig()):
        self._prompt = prompt
        super().__init__(config, sizes)
        if config.word_dropout:
            raise ConfigError(f"the backbone 'vlm' knows all words; word_dropout is {config.word_dropout:g}, expected 0")
        self.gives_layers = self.trunk.depth if not prompt.readouts else 0
        self.keys_of = self.trunk.config if not prompt.readouts else None
        self.keeps_sentences = self.trunk.is_constant and prompt.causal and self.fusion.starts_with_text
        self._sentences = SentenceCache(whole=not prompt.readouts)

    def _make_language(self) -> TrunkText:
        part = self._prompt.part
        self.trunk = trunks.build(part.name, **part.options)
        return TrunkText(self.trunk, self._prompt, self.sizes.width)

    def _make_fusion(self, counts: Mapping[str, int]) -> PrefixBuilder:
        return PrefixBuilder(self.trunk, self._prompt, [kind for kind in counts if kind != "sentence"], self.sizes.width)

    @property
    def tokenizer(self) -> TextTokenizer:
        return self.trunk.tokenizer

    def prepare_questions(self, texts: Sequence[str], are_questions: Sequence[bool]) -> TextBatch:
        """As `prepare`, with the sentence of a question around those texts that are one."""
        text: TextBatch = self.language.prepare(texts, are_questions)
        return text

    @staticmethod
    def fit(config: NetworkConfig, instructions: Sequence[str]) -> NetworkConfig:
        """Build the vocabulary of a trunk that needs one, and load the checkpoint of the vision encoder if it has one."""
        options = dict(config.backbone.options)
        names = ("trunk", "template", "question_template", "lower")
        prompt = PromptConfig(**{name: options[name] for name in names if name in options})
        kind, part = trunks.get(prompt.part.name), prompt.part
        if isinstance(kind, FitsInstructions):
            read = [prompt.sentence(text, is_question) for text in instructions for is_question in (False, True)]
            sentences = [*read, *instructions]  # what is said keeps its capitals
            options["trunk"] = {"name": part.name, "options": kind.fit(part.options, sentences)}
        sees = vision_encoders.get(config.vision.name)
        vision = config.vision
        if isinstance(sees, FitsInstructions):
            vision = Part(vision.name, sees.fit(vision.options, instructions))
        return dataclasses.replace(config, backbone=Part(config.backbone.name, options), vision=vision)

    @staticmethod
    def grow(config: NetworkConfig, instructions: Sequence[str]) -> NetworkConfig:
        """Byte pairs write any word."""
        return config

    def forward(self, batch: Batch, queries: Mapping[str, Queries], suffix: Suffix | None = None) -> Features:
        """The features of a batch, and what the trunk makes of a `suffix`."""
        features = self._encode(batch, queries)
        prefix: Prefix = self.fusion(batch.text.by_row(), self.seen(batch, features))
        whole = prefix if suffix is None else prefix.followed(self.trunk.embed(self._shifted(suffix)), suffix.mask)
        out = self._read(whole, prefix.x.shape[1], batch.text)
        length, read = prefix.x.shape[1] - (whole.x.shape[1] - out.hidden.shape[1]), self._prompt.readouts
        kept = slice(length - read if read else 0, length)
        layers = None if read else tuple(layer[:, kept].to(out.hidden.dtype) for layer in out.layers)
        mask = prefix.mask[:, -read:] if read else prefix.mask
        cache = None if read else out.cache.first(length)
        fused = TokenGroup(out.hidden[:, kept], mask, "fused", layers=layers, cache=cache)
        spoken = None if suffix is None else Spoken(suffix, out.hidden[:, length:], self.trunk.logits)
        state = dataclasses.replace(prefix, cache=out.cache) if suffix is None else None
        return dataclasses.replace(features, fused=fused, before_memory=fused, spoken=spoken, prefix=state)

    def _read(self, whole: Prefix, length: int, text: TextBatch) -> TrunkOutput:
        """What the trunk makes of a prefix of `length` tokens and what follows it.

        Of words what was kept, if they do not depend on anything else; those that the head does not read are left out of hidden
        states and layers. Rows that are followed by much less than others, such as a short answer beside reasoning, are read in a
        pass of their own.
        """
        if self.keeps_sentences and not torch.compiler.is_compiling() and not torch.jit.is_tracing():
            words, count = self._sentences.read(self.trunk, text.values, text.mask), text.mask.shape[1]
            if text.rows is not None:
                words = words.select(text.rows)
            own = self.trunk(whole.x[:, count:], whole.allowed[:, count:], whole.positions[:, count:], words.cache)
            return words.followed(own)
        lengths = whole.mask[:, length:].sum(1)
        is_short = lengths <= SHORT * (whole.x.shape[1] - length)
        if whole.x.is_meta or not is_short.any() or is_short.all():
            return self.trunk(whole.x, whole.allowed, whole.positions)
        groups = [torch.nonzero(is_short)[:, 0], torch.nonzero(~is_short)[:, 0]]
        outs = [self._part(whole, rows, length + int(lengths[rows].max())) for rows in groups]
        order, size = torch.cat(groups).argsort(), whole.x.shape[1]

        def joined(parts: Sequence[Tensor]) -> Tensor:
            return torch.cat([F.pad(x, (0, 0, 0, size - x.shape[-2])) for x in parts])[order]

        keys = tuple(map(joined, zip(*(out.cache.keys for out in outs), strict=True)))
        values = tuple(map(joined, zip(*(out.cache.values for out in outs), strict=True)))
        layers = tuple(map(joined, zip(*(out.layers for out in outs), strict=True)))
        return TrunkOutput(joined([out.hidden for out in outs]), layers, KeyValueCache(keys, values))

    def _part(self, whole: Prefix, rows: Tensor, end: int) -> TrunkOutput:
        part = Prefix(whole.x[rows, :end], whole.mask[rows, :end], whole.blocks[:end])
        out: TrunkOutput = self.trunk(part.x, part.allowed, part.positions)
        return out

    def training_features(
        self,
        batch: Batch,
        queries: Mapping[str, Queries],
        generator: torch.Generator | None = None,
        fuse: bool = True,
        suffix: Suffix | None = None,
    ) -> Features:
        """The features of a training batch, after dropout of previous actions."""
        batch = self._dropped(batch, generator) if self.training else batch
        return self(batch, queries, suffix) if fuse or suffix is not None else self._encode(batch, queries)

    def prediction_features(self, batch: Batch, queries: Mapping[str, Queries]) -> tuple[Features, MemoryState | None]:
        """The features, with what `say` goes on from."""
        return self(batch, queries), None

    def say(
        self, features: Features, choose: Callable[[Tensor, Tensor], Tensor], is_over: Callable[[Tensor], bool], most: int
    ) -> Tensor:
        """At most `most` ids (b, i) after the prefix, each chosen from logits (b, v) and the ids before it."""
        prefix: Prefix = features.prefix
        mask, cache, position = prefix.mask, prefix.cache, prefix.mask.sum(1)
        said = torch.empty(len(mask), 0, dtype=torch.int64, device=mask.device)
        token = torch.full((len(mask),), self.tokenizer.end, device=mask.device)
        for _ in range(most):
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            out = self.trunk(self.trunk.embed(token[:, None]), mask.unsqueeze(1), position[:, None], cache)
            token = choose(self.trunk.logits(out.hidden[:, -1:])[:, 0], said)
            said, cache, position = torch.cat([said, token[:, None]], 1), out.cache, position + 1
            if is_over(said):
                break
        return said

    def think(self, features: Features, forced: Sequence[Sequence[int]], most: int) -> tuple[Features, list[list[int]]]:
        """Text after the prefix, up to its end or to `most` ids, and the features to `say` on from.

        Args:
            forced: of each row, the ids with which its text begins; the rest is the most likely.
        """
        prefix: Prefix = features.prefix
        mask, cache, said = prefix.mask, prefix.cache, [list[int]() for _ in forced]
        token, live = torch.full((len(mask),), self.tokenizer.end, device=mask.device), mask.new_ones(len(mask))
        for step in range(most):
            position, mask = mask.sum(1), torch.cat([mask, live[:, None]], 1)  # a row whose text has ended says nothing more
            out = self.trunk(self.trunk.embed(token[:, None]), mask.unsqueeze(1), position[:, None], cache)
            token, cache = self.trunk.logits(out.hidden[:, -1:])[:, 0].argmax(-1), out.cache
            for row in torch.nonzero(live)[:, 0].tolist():
                if step < len(forced[row]):
                    token[row] = forced[row][step]
                said[row].append(int(token[row]))
            live = live & (token != self.tokenizer.end)
            if not live.any():
                break
        return dataclasses.replace(features, prefix=dataclasses.replace(prefix, mask=mask, cache=cache)), said

    def _shifted(self, suffix: Suffix) -> Tensor:
        """The ids (b, l) from which those of the suffix are said: what ends the prefix, then each before the last."""
        first = torch.full_like(suffix.ids[:, :1], self.tokenizer.end)
        return torch.cat([first, suffix.ids[:, :-1]], 1)
