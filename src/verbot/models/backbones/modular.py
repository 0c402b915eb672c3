"""The backbone of encoders, a fusion and a memory, each chosen by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.config import NetworkConfig
from verbot.models.encoders.language.tokenizer import drop_words
from verbot.models.features import Answers, Backbone, Features, Queries
from verbot.models.layers.task_embedding import TaskEmbeddings
from verbot.models.layers.transformer import AttentionPool, centered
from verbot.models.protocols import AnswersQueries, FitsInstructions, GivesLayers, GrowsVocabulary, SeesBeforeWords
from verbot.models.queries import join_texts
from verbot.models.registries import (
    Part,
    action_encoders,
    backbones,
    fusions,
    goal_encoders,
    language_encoders,
    memories,
    state_encoders,
    vision_encoders,
)
from verbot.models.tokens import Batch, Masked, MemoryState, Sizes, TextBatch, TokenGroup, join
from verbot.models.validation import check_frames


@backbones.register("modular")
class Modular(Backbone):
    """Encoders of images, words, state, goal and previous action, a fusion of their tokens, and a memory after it."""

    reads = frozenset({"goal", "previous_action", "memory"})

    def __init__(self, config: NetworkConfig, sizes: Sizes):
        super().__init__()
        self.config, self.sizes = config, sizes
        self.vision = vision_encoders.get(config.vision.name)(sizes, **config.vision.options)
        self.language = language_encoders.get(config.language.name)(sizes, **config.language.options)
        pool = AttentionPool(config.width)
        self.sentence = nn.Sequential(pool, nn.LayerNorm(config.width)) if config.sentence_norm else pool
        self.task_embeddings = TaskEmbeddings(config.task_embeddings, config.width) if config.task_embeddings else None
        self.state = state_encoders.get(config.state.name)(sizes, **config.state.options)
        counts = {kind: n * config.history for kind, n in {**self.vision.counts, **self.state.counts}.items()}
        before = config.previous_action
        if before:  # a token for each frame, as of every kind that fusions find frame by frame; all but the latest masked
            counts["previous_action"] = config.history
        self.fusion = fusions.get(config.fusion.name)(sizes, {**counts, "sentence": 1}, **config.fusion.options)
        self.goal = goal_encoders.get(config.goal.name)(sizes, **config.goal.options) if config.goal else None
        self.previous_action = action_encoders.get(before.name)(sizes, **before.options) if before else None
        last = self.fusion
        if config.memory:
            last = memories.get(config.memory.name)(sizes, last.width, last.count, **config.memory.options)
            check_frames(config, last)
        self.memory = last if config.memory else None
        self.width, self.count, self.counts = last.width, last.count, self.vision.counts
        self.gives_layers = self.fusion.gives_layers if isinstance(self.fusion, GivesLayers) else 0

    @staticmethod
    def fit(config: NetworkConfig, instructions: Sequence[str]) -> NetworkConfig:
        """The language encoder builds its vocabulary; the vision encoder may take a checkpoint."""
        language, vision = config.language, config.vision
        options = language_encoders.get(language.name).fit(language.options, instructions)
        fitted = dataclasses.replace(config, language=Part(language.name, options))
        kind = vision_encoders.get(vision.name)
        if not isinstance(kind, FitsInstructions):
            return fitted
        return dataclasses.replace(fitted, vision=Part(vision.name, kind.fit(vision.options, instructions)))

    @staticmethod
    def grow(config: NetworkConfig, instructions: Sequence[str]) -> NetworkConfig:
        """With the words of `instructions` that are new, where the language encoder is made of known words."""
        language = config.language
        kind = language_encoders.get(language.name)
        if not isinstance(kind, GrowsVocabulary):
            return config
        return dataclasses.replace(config, language=Part(language.name, kind.grow(language.options, instructions)))

    def draw_last(self) -> None:
        """The embeddings of time."""
        if self.config.history > 1:  # row t - 1 is the latest frame
            self.times = nn.Parameter(torch.randn(self.config.history, self.config.width) * 0.02)

    def prepare(self, texts: Sequence[str]) -> TextBatch:
        """As the language encoder takes them."""
        found: TextBatch = self.language.prepare(texts)
        return found

    def forward(self, batch: Batch, queries: Mapping[str, Queries]) -> Features:
        """The features of a batch as the fusion makes them, and of each objective's `queries` what the vision encoder finds."""
        seen = self._perceive(batch, queries)
        done = [] if self.previous_action is None else [self.encode_previous_action(batch)]
        groups = [seen.words, seen.sentence, *seen.vision, self.encode_state(batch.state, batch.state_mask), *done]
        fused: TokenGroup = self.fusion(groups)
        return dataclasses.replace(seen, fused=fused, before_memory=fused)

    def learn(
        self, batch: Batch, queries: Mapping[str, Queries], generator: torch.Generator | None = None, fuse: bool = True
    ) -> Features:
        """The features of a batch that teaches, in training without some of its words and previous actions."""
        batch = self._dropped(batch, generator) if self.training else batch
        if not fuse:
            return self._perceive(batch, queries)
        features: Features = self(batch, queries)
        if self.memory is None:
            return features
        present = batch.state_mask.any(1) | batch.images_mask.flatten(1).any(1)
        return dataclasses.replace(features, fused=self._remember(features.fused, present))

    def predict(self, batch: Batch, queries: Mapping[str, Queries]) -> tuple[Features, MemoryState | None]:
        """The features of a batch to act on, with what is remembered; written to in the rows that `Batch.writes` names."""
        features: Features = self(batch, queries)
        if self.memory is None:
            return features, None
        count, device = len(features.fused.tokens), features.fused.tokens.device
        writes = torch.ones(count, dtype=torch.bool, device=device) if batch.writes is None else batch.writes
        fused, memory = self.memory(features.fused, batch.memory or self.memory.initial(count, device), writes)
        return dataclasses.replace(features, fused=fused), memory

    def initial(self, rows: int, device: torch.device | str = "cpu") -> MemoryState | None:
        """Nothing yet, for `rows` episodes; None without a memory."""
        if self.memory is None:
            return None
        state: MemoryState = self.memory.initial(rows, device)
        return state

    @property
    def sees_before_words(self) -> bool:
        """Whether the vision encoder takes the sentence last."""
        return isinstance(self.vision, SeesBeforeWords)

    def image_features(self, images: Tensor) -> Tensor:
        """The vision encoder's features (…, n, d) of images (…, v, 3, h, w); only where it `sees_before_words`."""
        features: Tensor = self.vision.features(images)
        return features

    def perception(self) -> tuple[nn.Module, ...]:
        """All that is computed before the fusion of what is seen and read."""
        return self.vision, self.language, self.sentence

    def reading(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """The language encoder, the pool of the sentence, and the fusion."""
        return self.language, self.sentence, self.fusion

    def sentences(self, text: TextBatch) -> Tensor:
        """The sentence vectors (n, e) of texts."""
        return self.read(text)[1].tokens[:, 0]

    def read(self, text: TextBatch, shown: Batch | None = None) -> tuple[TokenGroup, TokenGroup]:
        """The words (b, l, e), the tokens of the goal image that is `shown` after them, and their sentence (b, 1, e)."""
        words = self.language(text)
        if self.goal is not None and shown is not None and shown.goal is not None:
            now, seen = shown.images[:, -1, 0], shown.images_mask[:, -1, 0]  # of the first camera, as the goal image is
            words = join([words, self.goal(centered(shown.goal), shown.goal_mask, centered(now), seen)], "words")
        pooled = self.sentence(words).unsqueeze(1)
        pooled = pooled if self.task_embeddings is None else self.task_embeddings(pooled)
        sentence = TokenGroup(pooled, torch.ones_like(words.mask[:, :1]), "sentence")
        return (words, sentence) if text.rows is None else (words.take(text.rows), sentence.take(text.rows))

    def see(
        self, batch: Batch, sentence: Tensor, asked: tuple[Tensor, Tensor] | None = None
    ) -> tuple[list[TokenGroup], TokenGroup | None]:
        """Every frame through the vision encoder for its row's `sentence` (b, e), all frames' tokens side by side.

        And the keypoint tokens of queries: `asked` of which rows (q,) by what sentences (q, e). Where the batch has features of
        its images, the encoder goes on from them.
        """
        frames = batch.images.shape[1]
        mask, sentence = batch.images_mask.flatten(0, 1), sentence.repeat_interleave(frames, 0)
        encode, many = self.vision, self.vision.ask_many if isinstance(self.vision, AnswersQueries) else None
        if batch.features is None:
            images = centered(batch.images).flatten(0, 1)
        else:
            images, encode, many = batch.features.flatten(0, 1), self.vision.groups, self.vision.answer
        if asked is None:
            return [self._in_time(group, frames) for group in encode(images, mask, sentence)], None
        rows, sentences = asked[0] * frames + frames - 1, asked[1]
        if many is not None:
            groups, answers = many(images, mask, sentence, sentences, rows)
        else:
            groups, others = encode(images, mask, sentence), encode(images[rows], mask[rows], sentences)
            answers = next(group for group in others if group.heatmaps is not None)
        return [self._in_time(group, frames) for group in groups], answers

    def look(self, batch: Batch, sentence: Tensor) -> TokenGroup:
        """All vision tokens of the latest images (b, n, e), encoded for a sentence (b, e)."""
        mask = batch.images_mask[:, -1]
        if batch.features is None:
            return join(self.vision(centered(batch.images[:, -1]), mask, sentence))
        return join(self.vision.groups(batch.features[:, -1], mask, sentence))

    def encode_state(self, state: Tensor, mask: Tensor) -> TokenGroup:
        """The tokens of states (b, t, s) of all frames."""
        return self._in_time(self.state(state.flatten(0, 1), mask.flatten()), state.shape[1])

    def encode_previous_action(self, batch: Batch) -> TokenGroup:
        """The action before the latest frame, as a token for each frame (b, t, e), masked in all but the latest."""
        before = batch.previous_action
        if before is None:
            nothing = batch.state.new_zeros(len(batch.state), self.sizes.action_size)
            before = Masked(nothing, torch.zeros_like(batch.state_mask[:, 0]))
        group: TokenGroup = self.previous_action(before.values, before.mask)  # type: ignore[misc]
        earlier = self.config.history - 1
        return TokenGroup(F.pad(group.tokens, (0, 0, earlier, 0)), F.pad(group.mask, (earlier, 0)), group.kind)

    def _perceive(self, batch: Batch, queries: Mapping[str, Queries]) -> Features:
        """What is read and seen, nothing fused yet."""
        words, sentence = self.read(batch.text, batch)
        asked = self._asked(queries, sentence)
        vision, found = self.see(batch, sentence.tokens[:, 0], asked)
        answers, start = {}, 0
        for name, query in queries.items():
            assert asked is not None and found is not None
            part = slice(start, start + len(query.rows))
            answers[name], start = Answers(found.take(part), asked[1][part]), part.stop
        empty = TokenGroup(sentence.tokens[:, :0], sentence.mask[:, :0], "fused")
        return Features(batch, empty, words, sentence, tuple(vision), empty, answers)

    def _asked(self, queries: Mapping[str, Queries], sentence: TokenGroup) -> tuple[Tensor, Tensor] | None:
        """Which rows are asked by what sentences, those of all objectives one after another; their texts are read together."""
        if not queries:
            return None
        texts = [query.text for query in queries.values() if query.text is not None]
        read = self.sentences(join_texts(texts)) if texts else None
        sentences, start = [], 0
        for query in queries.values():
            if query.text is None or read is None:
                sentences.append(sentence.tokens[query.rows, 0])
                continue
            sentences.append(read[start : start + len(query.rows)])
            start += len(query.rows)
        return torch.cat([query.rows for query in queries.values()]), torch.cat(sentences)

    def _dropped(self, batch: Batch, generator: torch.Generator | None) -> Batch:
        """Without some of its words and previous actions."""
        if self.config.word_dropout:
            batch = dataclasses.replace(batch, text=drop_words(batch.text, self.config.word_dropout, generator))
        before, share = batch.previous_action, self.config.previous_action_dropout
        if self.previous_action is not None and share and before is not None:
            kept = torch.rand(before.mask.shape, generator=generator) >= share
            batch = dataclasses.replace(batch, previous_action=Masked(before.values, before.mask & kept.to(before.mask.device)))
        return batch

    def _remember(self, fused: TokenGroup, present: Tensor) -> TokenGroup:
        """Each row of a sequence with what the rows before it left in the memory; frames that are not `present` leave nothing."""
        frames = self.config.sequence
        if len(fused.tokens) % frames:
            raise ConfigError(f"this network learns from sequences of {frames} rows; the batch has {len(fused.tokens)}")
        tokens, mask, writes = (x.unflatten(0, (-1, frames)) for x in (fused.tokens, fused.mask, present))
        state: MemoryState = self.memory.initial(len(tokens), tokens.device)  # type: ignore[union-attr]
        out = []
        for i in range(frames):
            seen, state = self.memory(TokenGroup(tokens[:, i], mask[:, i], fused.kind), state, writes[:, i])  # type: ignore[misc]
            out.append(seen)
        tokens, mask = (torch.stack(parts, 1).flatten(0, 1) for parts in zip(*((s.tokens, s.mask) for s in out), strict=True))
        return TokenGroup(tokens, mask, fused.kind)

    def _in_time(self, group: TokenGroup, frames: int) -> TokenGroup:
        if frames == 1 and self.config.history == 1:
            return group
        if frames != self.config.history:
            raise ConfigError(f"this network sees {self.config.history} frames at once; the batch has {frames}")

        def side_by_side(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.unflatten(0, (-1, frames)).flatten(1, 2)

        tokens = (group.tokens.unflatten(0, (-1, frames)) + self.times[:, None]).flatten(1, 2)
        return TokenGroup(tokens, side_by_side(group.mask), group.kind, side_by_side(group.points), side_by_side(group.heatmaps))  # type: ignore[arg-type]
