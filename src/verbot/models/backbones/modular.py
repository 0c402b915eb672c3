"""The backbone of encoders, a fusion and a memory, each chosen by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.config import NetworkConfig
from verbot.models.encoders.language.tokenizer import drop_words
from verbot.models.encoders.vision.depth_conv import depth_channels
from verbot.models.features import Answers, Backbone, Features, Queries
from verbot.models.layers.task_embedding import TaskEmbeddings
from verbot.models.layers.transformer import AttentionPool, centered
from verbot.models.protocols import (
    AnswersQueries,
    CountsUnreadTokens,
    FitsInstructions,
    GivesLayers,
    GrowsVocabulary,
    InstructionFreeFeatures,
    LimitsTokens,
)
from verbot.models.queries import join_texts
from verbot.models.registries import (
    Part,
    action_encoders,
    backbones,
    depth_encoders,
    fusions,
    goal_encoders,
    language_encoders,
    memories,
    state_encoders,
    vision_encoders,
)
from verbot.models.tokens import Batch, Masked, MemoryState, Sizes, Suffix, TextBatch, TokenGroup, join
from verbot.models.validation import check_frames


class Absent(nn.Module):
    """In place of the vision encoder of a robot without cameras, and of the state encoder of one without a state."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def forward(self, images: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        return []


@backbones.register("modular")
class Modular(Backbone):
    """Encoders of images, depth, instruction, state, goal and previous action, a fusion of their tokens, and a memory."""

    builds: ClassVar[tuple[str, ...]] = ("vision", "language", "state", "fusion")
    uses = frozenset({"goal", "previous_action", "memory", "depth", "ahead"})

    def __init__(self, config: NetworkConfig, sizes: Sizes):
        super().__init__()
        self.config, self.sizes = config, sizes
        self.vision: Any = (
            vision_encoders.build(config.vision.name, sizes, **config.vision.options) if sizes.views else Absent()
        )  # a robot may have no cameras, or no state
        self.language = self._make_language()
        pool = AttentionPool(config.width)
        self.sentence = nn.Sequential(pool, nn.LayerNorm(config.width)) if config.sentence_norm else pool
        self.task_embeddings = TaskEmbeddings(config.task_embeddings, config.width) if config.task_embeddings else None
        self.state: Any = state_encoders.build(config.state.name, sizes, **config.state.options) if sizes.state else Absent()
        counts = {kind: n * config.history for kind, n in {**self.vision.counts, **self.state.counts}.items()}
        previous_action_part = config.previous_action
        if (
            previous_action_part
        ):  # one token per frame, as for every kind of observation token; all but the latest frame's are masked
            counts["previous_action"] = config.history
        self.depth = depth_encoders.build(config.depth.name, sizes, **config.depth.options) if config.depth else None
        if self.depth is not None:
            counts |= {kind: n * config.history for kind, n in self.depth.counts.items()}
        self.fusion = self._make_fusion({**counts, "sentence": 1})
        self.goal = goal_encoders.build(config.goal.name, sizes, **config.goal.options) if config.goal else None
        self.previous_action = (
            action_encoders.build(previous_action_part.name, sizes, **previous_action_part.options)
            if previous_action_part
            else None
        )
        last = self.fusion
        if config.memory:
            last = memories.build(config.memory.name, sizes, last.width, last.count, **config.memory.options)
            check_frames(config, last)
        self.memory = last if config.memory else None
        self.width, self.count, self.counts = last.width, last.count, self.vision.counts
        self.gives_layers = self.fusion.gives_layers if isinstance(self.fusion, GivesLayers) else 0

    def _make_language(self) -> Any:
        return language_encoders.build(self.config.language.name, self.sizes, **self.config.language.options)

    def _make_fusion(self, counts: Mapping[str, int]) -> Any:
        """The fusion of tokens of these kinds, so many of each; with its width and count."""
        return fusions.build(self.config.fusion.name, self.sizes, counts, **self.config.fusion.options)

    @staticmethod
    def fit(config: NetworkConfig, instructions: Sequence[str]) -> NetworkConfig:
        """Build the vocabulary of the language encoder, and load the checkpoint of the vision encoder if it has one."""
        language, vision = config.language, config.vision
        options = language_encoders.get(language.name).fit(language.options, instructions)
        fitted = dataclasses.replace(config, language=Part(language.name, options))
        kind = vision_encoders.get(vision.name)
        if not isinstance(kind, FitsInstructions):
            return fitted
        return dataclasses.replace(fitted, vision=Part(vision.name, kind.fit(vision.options, instructions)))

    @staticmethod
    def grow(config: NetworkConfig, instructions: Sequence[str]) -> NetworkConfig:
        """Add new words of `instructions` to a language encoder with a vocabulary."""
        language = config.language
        kind = language_encoders.get(language.name)
        if not isinstance(kind, GrowsVocabulary):
            return config
        return dataclasses.replace(config, language=Part(language.name, kind.grow(language.options, instructions)))

    def initialize_last(self) -> None:
        """Add the time embeddings; last, to keep the random stream of version 0.1."""
        if self.config.history > 1:  # row t - 1 is the latest frame
            self.times = nn.Parameter(torch.randn(self.config.history, self.config.width) * 0.02)

    def prepare(self, texts: Sequence[str]) -> TextBatch:
        """Tokenize with the tokenizer of the language encoder."""
        text: TextBatch = self.language.prepare(texts)
        return text

    def most_tokens(self) -> int:
        """As its language encoder says, if it does."""
        return self.language.most_tokens() if isinstance(self.language, LimitsTokens) else 0

    def unread_tokens(self, texts: Sequence[str]) -> tuple[int, int]:
        """As its language encoder finds; none for one that makes its own vocabulary."""
        return self.language.unread_tokens(texts) if isinstance(self.language, CountsUnreadTokens) else (0, 0)

    def forward(self, batch: Batch, queries: Mapping[str, Queries]) -> Features:
        """The features of a batch up to the fusion, and the answers to the `queries` of the objectives."""
        features = self._encode(batch, queries)
        fused: TokenGroup = self.fusion([features.words, features.sentence, *self.seen(batch, features)])
        return dataclasses.replace(features, fused=fused, before_memory=fused)

    def again(self, features: Features, batch: Batch) -> Features:
        """The features of a batch that differs in `Batch.ahead` alone."""
        fused: TokenGroup = self.fusion([features.words, features.sentence, *self.seen(batch, features)])
        return dataclasses.replace(features, batch=batch, fused=fused, before_memory=fused)

    def seen(self, batch: Batch, features: Features) -> list[TokenGroup]:
        """The tokens of images, depth, state and previous action."""
        return [
            *features.vision,
            *self.encode_depth(batch, features),
            *([self.encode_state(self._states(batch), batch.state_mask)] if self.sizes.state else []),
            *([] if self.previous_action is None else [self.encode_previous_action(batch)]),
        ]

    def training_features(
        self,
        batch: Batch,
        queries: Mapping[str, Queries],
        generator: torch.Generator | None = None,
        fuse: bool = True,
        suffix: Suffix | None = None,
    ) -> Features:
        """The features of a training batch, after dropout of words and previous actions."""
        batch = self._dropped(batch, generator) if self.training else batch
        if not fuse:
            return self._encode(batch, queries)
        features: Features = self(batch, queries)
        if self.memory is None:
            return features
        present = batch.state_mask.any(1) | batch.images_mask.flatten(1).any(1)
        return dataclasses.replace(features, fused=self._remember(features.fused, present))

    def prediction_features(self, batch: Batch, queries: Mapping[str, Queries]) -> tuple[Features, MemoryState | None]:
        """The features for prediction, computed with the memory, which is written in the rows of `Batch.writes`."""
        features: Features = self(batch, queries)
        if self.memory is None:
            return features, None
        count, device = len(features.fused.tokens), features.fused.tokens.device
        writes = torch.ones(count, dtype=torch.bool, device=device) if batch.writes is None else batch.writes
        fused, memory = self.memory(features.fused, batch.memory or self.memory.initial(count, device), writes)
        return dataclasses.replace(features, fused=fused), memory

    def initial(self, rows: int, device: torch.device | str = "cpu") -> MemoryState | None:
        """The empty memory of `rows` episodes; None without memory."""
        if self.memory is None:
            return None
        state: MemoryState = self.memory.initial(rows, device)
        return state

    @property
    def has_instruction_free_features(self) -> bool:
        """Whether the vision encoder computes features before it uses the sentence."""
        return isinstance(self.vision, InstructionFreeFeatures)

    def image_features(self, images: Tensor) -> Tensor:
        """Features (…, n, d) of images (…, v, 3, h, w); only if `has_instruction_free_features`."""
        features: Tensor = self.vision.features(images)
        return features

    def perception_modules(self) -> tuple[nn.Module, ...]:
        """The modules that encode images and instruction, before the fusion."""
        return self.vision, self.language, self.sentence

    def attention_modules(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """The language encoder, the pool of the sentence, and the fusion."""
        return self.language, self.sentence, self.fusion

    def sentence_embeddings(self, text: TextBatch) -> Tensor:
        """The sentence embeddings (n, e) of texts."""
        return self.encode_text(text)[1].tokens[:, 0]

    def encode_text(self, text: TextBatch, goals: Batch | None = None) -> tuple[TokenGroup, TokenGroup]:
        """Word tokens (b, l, e) and the sentence embedding (b, 1, e); tokens of the goal images in `goals` follow the words."""
        words = self.language(text)
        if self.goal is not None and goals is not None and goals.goal is not None:
            current, mask = goals.images[:, -1, 0], goals.images_mask[:, -1, 0]  # of the first camera, as the goal image
            words = join([words, self.goal(centered(goals.goal), goals.goal_mask, centered(current), mask)], "words")
        pooled = self.sentence(words).unsqueeze(1)
        pooled = pooled if self.task_embeddings is None else self.task_embeddings(pooled)
        sentence = TokenGroup(pooled, torch.ones_like(words.mask[:, :1]), "sentence")
        return (words, sentence) if text.rows is None else (words.select(text.rows), sentence.select(text.rows))

    def encode_images(
        self, batch: Batch, sentence: Tensor, queries: tuple[Tensor, Tensor] | None = None
    ) -> tuple[list[TokenGroup], TokenGroup | None]:
        """Vision tokens of all frames, conditioned on the `sentence` (b, e) of each row; and keypoint tokens of the queries.

        If the batch contains precomputed features of its images, the encoder starts from them.

        Args:
            queries: rows (q,) and sentence embeddings (q, e) of the queries; None without queries.
        """
        frames = batch.images.shape[1]
        mask, sentence = batch.images_mask.flatten(0, 1), sentence.repeat_interleave(frames, 0)
        encode, encode_with_queries = (
            self.vision,
            self.vision.encode_with_queries if isinstance(self.vision, AnswersQueries) else None,
        )
        if batch.features is None:
            images = centered(batch.images).flatten(0, 1)
        else:
            images, encode, encode_with_queries = batch.features.flatten(0, 1), self.vision.groups, self.vision.answer
        if queries is None:
            return [self._add_time_embedding(group, frames) for group in encode(images, mask, sentence)], None
        rows, sentences = queries[0] * frames + frames - 1, queries[1]
        if encode_with_queries is not None:
            groups, answers = encode_with_queries(images, mask, sentence, sentences, rows)
        else:
            groups, query_groups = encode(images, mask, sentence), encode(images[rows], mask[rows], sentences)
            answers = next(group for group in query_groups if group.heatmaps is not None)
        return [self._add_time_embedding(group, frames) for group in groups], answers

    def encode_latest(self, batch: Batch, sentence: Tensor) -> TokenGroup:
        """All vision tokens of the latest images (b, n, e), conditioned on sentences (b, e)."""
        mask = batch.images_mask[:, -1]
        if batch.features is None:
            return join(self.vision(centered(batch.images[:, -1]), mask, sentence))
        return join(self.vision.groups(batch.features[:, -1], mask, sentence))

    def encode_depth(self, batch: Batch, features: Features) -> list[TokenGroup]:
        """The tokens of the depth images of all frames, in a list; none without encoder, masked for a batch without depth."""
        if self.depth is None or features.sentence is None:
            return []
        rows, frames = batch.state_mask.shape
        depth = batch.depth
        if depth is None:
            shape = (rows, frames, self.sizes.depth_views)
            zeros = batch.state.new_zeros(*shape, self.sizes.height, self.sizes.width_px)
            depth = Masked(zeros, zeros.new_zeros(shape, dtype=torch.bool))
        channels = depth_channels(depth.values.flatten(0, 1), self.config.depth_range_m)
        sentence = features.sentence.tokens[:, 0].repeat_interleave(frames, 0)
        return [self._add_time_embedding(self.depth(channels, depth.mask.flatten(0, 1), sentence), frames)]

    def encode_state(self, state: Tensor, mask: Tensor) -> TokenGroup:
        """The tokens of states (b, t, s) of all frames."""
        return self._add_time_embedding(self.state(state.flatten(0, 1), mask.flatten()), state.shape[1])

    def _states(self, batch: Batch) -> Tensor:
        """The states (b, t, s) of all frames; of a network that reads ahead (b, t, 2 s): the latest is followed by its change."""
        state = batch.state
        if not self.sizes.reads_ahead:
            return state
        both = torch.cat([state, torch.zeros_like(state)], -1)
        if batch.ahead is None:
            return both
        latest = torch.cat([batch.ahead, batch.ahead - state[:, -1]], -1)
        return torch.cat([both[:, :-1], latest[:, None]], 1)

    def encode_previous_action(self, batch: Batch) -> TokenGroup:
        """The previous action as one token per frame (b, t, e); only the latest frame's is not masked."""
        previous_action = batch.previous_action
        if previous_action is None:
            zeros = batch.state.new_zeros(batch.state.shape[0], self.sizes.action_size)
            previous_action = Masked(zeros, torch.zeros_like(batch.state_mask[:, 0]))
        group: TokenGroup = self.previous_action(previous_action.values, previous_action.mask)  # type: ignore[misc]
        earlier = self.config.history - 1
        return TokenGroup(F.pad(group.tokens, (0, 0, earlier, 0)), F.pad(group.mask, (earlier, 0)), group.kind)

    def _encode(self, batch: Batch, queries: Mapping[str, Queries]) -> Features:
        """Text and image features, before the fusion."""
        words, sentence = self.encode_text(batch.text, batch)
        embedded = self._embedded(queries, sentence)
        vision, query_keypoints = self.encode_images(batch, sentence.tokens[:, 0], embedded)
        answers, first = {}, 0
        for name, query in queries.items():
            assert embedded is not None and query_keypoints is not None
            own_rows = slice(first, first + len(query.rows))
            answers[name], first = Answers(query_keypoints.select(own_rows), embedded[1][own_rows]), own_rows.stop
        empty = TokenGroup(sentence.tokens[:, :0], sentence.mask[:, :0], "fused")
        return Features(batch, empty, words, sentence, tuple(vision), empty, answers)

    def _embedded(self, queries: Mapping[str, Queries], sentence: TokenGroup) -> tuple[Tensor, Tensor] | None:
        """Rows and sentence embeddings of the queries of all objectives, in order; their texts are encoded in one batch."""
        if not queries:
            return None
        texts = [query.text for query in queries.values() if query.text is not None]
        encoded = self.sentence_embeddings(join_texts(texts)) if texts else None
        sentences, start = [], 0
        for query in queries.values():
            if query.text is None or encoded is None:
                sentences.append(sentence.tokens[query.rows, 0])
                continue
            sentences.append(encoded[start : start + len(query.rows)])
            start += len(query.rows)
        return torch.cat([query.rows for query in queries.values()]), torch.cat(sentences)

    def _dropped(self, batch: Batch, generator: torch.Generator | None) -> Batch:
        """The batch after word dropout and previous-action dropout."""
        if self.config.word_dropout:
            batch = dataclasses.replace(batch, text=drop_words(batch.text, self.config.word_dropout, generator))
        previous_action, share = batch.previous_action, self.config.previous_action_dropout
        if self.previous_action is not None and share and previous_action is not None:
            kept = torch.rand(previous_action.mask.shape, generator=generator) >= share
            batch = dataclasses.replace(
                batch, previous_action=Masked(previous_action.values, previous_action.mask & kept.to(previous_action.mask.device))
            )
        return batch

    def _remember(self, fused: TokenGroup, present: Tensor) -> TokenGroup:
        """Run the memory along each sequence; only frames that are `present` are written."""
        frames = self.config.sequence
        if len(fused.tokens) % frames:
            raise ConfigError(f"this network is trained on sequences of {frames} rows; the batch has {len(fused.tokens)}")
        tokens, mask, writes = (x.unflatten(0, (-1, frames)) for x in (fused.tokens, fused.mask, present))
        state: MemoryState = self.memory.initial(len(tokens), tokens.device)  # type: ignore[union-attr]
        out = []
        for i in range(frames):
            read, state = self.memory(TokenGroup(tokens[:, i], mask[:, i], fused.kind), state, writes[:, i])  # type: ignore[misc]
            out.append(read)
        tokens, mask = (torch.stack(parts, 1).flatten(0, 1) for parts in zip(*((s.tokens, s.mask) for s in out), strict=True))
        return TokenGroup(tokens, mask, fused.kind)

    def _add_time_embedding(self, group: TokenGroup, frames: int) -> TokenGroup:
        if frames == 1 and self.config.history == 1:
            return group
        if frames != self.config.history:
            raise ConfigError(f"this network has {self.config.history} input frames; the batch has {frames}")

        def flatten_frames(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.unflatten(0, (-1, frames)).flatten(1, 2)

        tokens = (group.tokens.unflatten(0, (-1, frames)) + self.times[:, None]).flatten(1, 2)
        mask = group.mask.unflatten(0, (-1, frames)).flatten(1, 2)
        return TokenGroup(tokens, mask, group.kind, flatten_frames(group.points), flatten_frames(group.heatmaps))
