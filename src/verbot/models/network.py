"""The network: backbone, head and training objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.config import NetworkConfig
from verbot.models.features import Backbone, Features, NetworkParts, Prediction, Queries, TrainingObjective
from verbot.models.flat_names import FlatNames
from verbot.models.protocols import InitializesLast
from verbot.models.registries import Objective, Part, backbones, heads, objectives
from verbot.models.stochastic import StochasticHead, sampled
from verbot.models.tokens import Batch, HeadInput, TokenGroup
from verbot.models.validation import check_backbone, check_classifier, check_layers, is_fusion_trained
from verbot.models.weighting import UncertaintyWeighting
from verbot.spec import RobotSpec

__all__ = ["NetworkConfig", "Objective", "Part", "VLANetwork"]


class VLANetwork(FlatNames):
    """A vision-language-action network.

    Args:
        config: the parts, after `NetworkConfig.fit`.
        spec: the robot.
    """

    backbone: Backbone
    objectives: Mapping[str, TrainingObjective]

    def __init__(self, config: NetworkConfig, spec: RobotSpec):
        super().__init__()
        self.config, self.sizes = config, config.sizes(spec)
        kind = backbones.get(config.backbone.name)
        check_backbone(config, kind)
        self.backbone = backbones.build(config.backbone.name, config, self.sizes, **config.backbone.options)
        inputs = HeadInput(self.sizes, self.backbone.width, self.backbone.count)
        self.head = heads.build(config.head.name, inputs, **config.head.options)
        check_layers(config, self.backbone, self.head)
        check_classifier(config, self.head)
        parts = NetworkParts(self.sizes, self.backbone, self.head)
        made = {name: objectives.build(name, parts, **chosen.options) for name, chosen in config.objectives.items()}
        self.objectives = nn.ModuleDict(made)  # type: ignore[assignment]
        trained = {name: each for name, each in made.items() if each.learns}
        self.weighting = UncertaintyWeighting(
            {name: config.objectives[name].weight for name in trained},
            config.loss_weighting == "uncertainty",
            fixed={name for name, each in trained.items() if each.⟦O:fixed_weight},⟧⟦B:head = heads.get(config.head.name)(sizes, last.width, last.count, **config.head.options)
        check_layers(config, self.fusion, self.head)
        check_classifier(config, self.head)
        parts = NetworkParts(sizes, self.vision, self.head, last.width, last.count, self._sentences, self._encode_latest)
        made = {name: objectives.get(name)(parts, **chosen.options) for name, chosen in config.objectives.items()}
        self.objectives = nn.ModuleDict(made)  # type: ignore[assignment]
        trained = {name: each for name, each in made.items() if each.learns}
        self.weighting = UncertaintyWeighting(
            {name: config.objectives[name].weight for name in trained},
            config.loss_weighting == "uncertainty",
            fixed={name for name, each in trained.items() if each.fixed_weight},
            shared={name: each.shares_scale for name, each in trained.items() if each.shares_scale},
        )
        self.is_fusion_trained = is_fusion_trained(config, trained)
        if config.history > 1:  # row t - 1 is the latest frame
            self.times = nn.Parameter(torch.randn(config.history, config.width) * 0.02)

    def forward(self, batch: Batch, queries: Mapping[str, Queries] | None = None) -> Features:
        """The features of a batch up to the fusion, and the answers to the `queries` of the objectives."""
        features = self._encode(batch, queries or {})
        done = [] if self.previous_action is None else [self.encode_previous_action(batch)]
        groups = [features.words, features.sentence, *features.vision, self.encode_state(batch.state, batch.state_mask), *done]
        fused: TokenGroup = self.fusion(groups)
        return dataclasses.replace(features, fused=fused, before_memory=fused)

    def losses(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Scalars by name; ``"loss"`` is their weighted sum, the one to minimize (see `UncertaintyWeighting`).

        Rows whose `actions_mask` is False throughout contribute only to losses that do not depend on actions. A batch without the
        targets of an objective does not contribute to its loss.
        """
        batch = self._dropped(batch, generator)
        asked = {name: each.queries(batch) for name, each in self.objectives.items()}
        queries = {name: found for name, found in asked.items() if found is not None}
        if self.is_fusion_trained:
            features = self.forward(batch, queries)
            if self.memory is not None:
                present = batch.state_mask.any(1) | batch.images_mask.flatten(1).any(1)
                features = dataclasses.replace(features, fused=self._remember(features.fused, present))
            features = self._refined(features)
        else:
            features = self._encode(batch, queries)
        losses: dict[str, Tensor] = {}
        for objective in self.objectives.values():
            if self.is_fusion_trained or not objective.reads_fused:
                losses |= objective.losses(features, batch, generator)
        found: dict[str, Tensor] = self.weighting(losses)
        return found

    def predict(
        self, batch: Batch, generator: torch.Generator | None = None, seeds: Sequence[int | None] | None = None
    ) -> Prediction:
        """The next actions and the predictions of the objectives. The actions are random if the head was never trained.

        Args:
            seeds: one per row; actions of a row with a seed are drawn from the distribution of the head.

        Raises `ConfigError` for seeds with a head that has no distribution.
        """
        asked = {name: each.prediction_queries(batch) for name, each in self.objectives.items()}
        features, memory = self.forward(batch, {name: found for name, found in asked.items() if found is not None}), None
        if self.memory is not None:
            count, device = len(features.fused.tokens), features.fused.tokens.device
            writes = torch.ones(count, dtype=torch.bool, device=device) if batch.writes is None else batch.writes
            fused, memory = self.memory(features.fused, batch.memory or self.memory.initial(count, device), writes)
            features = dataclasses.replace(features, fused=fused)
        features = self._refined(features)
        actions = self.head.predict(features.fused, generator) if seeds is None else self._sampled(features.fused, seeds)
        extras = {name: value for each in self.objectives.values() for name, value in each.predict(features).items()}
        return Prediction(actions, extras, memory)

    def encode_text(self, text: TextBatch, goals: Batch | None = None) -> tuple[TokenGroup, TokenGroup]:
        """Word tokens (b, l, e) and the sentence embedding (b, 1, e); tokens of the goal images in `goals` follow the words."""
        words = self.language(text)
        if self.goal is not None and goals is not None and goals.goal is not None:
            now, known = goals.images[:, -1, 0], goals.images_mask[:, -1, 0]  # of the first camera, as the goal image
            words = join([words, self.goal(centered(goals.goal), goals.goal_mask, centered(now), known)], "words")
        pooled = self.sentence(words).unsqueeze(1)
        pooled = pooled if self.task_embeddings is None else self.task_embeddings(pooled)
        sentence = TokenGroup(pooled, torch.ones_like(words.mask[:, :1]), "sentence")
        return (words, sentence) if text.rows is None else (words.take(text.rows), sentence.take(text.rows))

    def encode_images(
        self, batch: Batch, sentence: Tensor, asked: tuple[Tensor, Tensor] | None = None
    ) -> tuple[list[TokenGroup], TokenGroup | None]:
        """Vision tokens of all frames, conditioned on the `sentence` (b, e) of each row; and keypoint tokens of the queries.

        If the batch contains precomputed features of its images, the encoder starts from them.

        Args:
            asked: rows (q,) and sentence embeddings (q, e) of the queries; None without queries.
        """
        frames = batch.images.shape[1]
        mask, sentence = batch.images_mask.flatten(0, 1), sentence.repeat_interleave(frames, 0)
        encode, many = self.vision, self.vision.encode_with_queries if isinstance(self.vision, AnswersQueries) else None
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

    def encode_state(self, state: Tensor, mask: Tensor) -> TokenGroup:
        """The tokens of states (b, t, s) of all frames."""
        return self._in_time(self.state(state.flatten(0, 1), mask.flatten()), state.shape[1])

    def encode_previous_action(self, batch: Batch) -> TokenGroup:
        """The previous action as one token per frame (b, t, e); only the latest frame's is not masked."""
        before = batch.previous_action
        if before is None:
            nothing = batch.state.new_zeros(len(batch.state), self.sizes.action_size)
            before = Masked(nothing, torch.zeros_like(batch.state_mask[:, 0]))
        group: TokenGroup = self.previous_action(before.values, before.mask)  # type: ignore[misc]
        earlier = self.config.history - 1
        return TokenGroup(F.pad(group.tokens, (0, 0, earlier, 0)), F.pad(group.mask, (earlier, 0)), group.kind)

    def _encode(self, batch: Batch, queries: Mapping[str, Queries]) -> Features:
        """Text and image features, before the fusion."""
        words, sentence = self.encode_text(batch.text, batch)
        asked = self._asked(queries, sentence)
        vision, found = self.encode_images(batch, sentence.tokens[:, 0], asked)
        answers, start = {}, 0
        for name, query in queries.items():
            assert asked is not None and found is not None
            part = slice(start, start + len(query.rows))
            answers[name], start = Answers(found.take(part), asked[1][part]), part.stop
        empty = TokenGroup(sentence.tokens[:, :0], sentence.mask[:, :0], "fused")
        return Features(batch, words, sentence, tuple(vision), empty, empty, answers)

    def _asked(self, queries: Mapping[str, Queries], sentence: TokenGroup) -> tuple[Tensor, Tensor] | None:
        """Rows and sentence embeddings of the queries of all objectives, in order; their texts are encoded in one batch."""
        if not queries:
            return None
        texts = [query.text for query in queries.values() if query.text is not None]
        encoded = self._sentences(join_texts(texts)) if texts else None
        sentences, start = [], 0
        for query in queries.values():
            if query.text is None or encoded is None:
                sentences.append(sentence.tokens[query.rows, 0])
                continue⟧⟦T:head = heads.get(config.head.name)(sizes, last.width, last.count, **config.head.options)
        check_layers(config, self.fusion, self.head)
        check_classifier(config, self.head)
        parts = NetworkParts(sizes, self.vision, self.head, last.width, last.count, self._sentences, self._encode_latest)
        made = {name: objectives.get(name)(parts, **chosen.options) for name, chosen in config.objectives.items()}
        self.objectives = nn.ModuleDict(made)  # type: ignore[assignment]
        trained = {name: each for name, each in made.items() if each.learns}
        self.weighting = UncertaintyWeighting(
            {name: config.objectives[name].weight for name in trained},
            config.loss_weighting == "uncertainty",
            fixed={name for name, each in trained.items() if each.fixed_weight},
            shared={name: each.shares_scale for name, each in trained.items() if each.shares_scale},
        )
        self.is_fusion_trained = is_fusion_trained(config, trained)
        if config.history > 1:  # row t - 1 is the latest frame
            self.times = nn.Parameter(torch.randn(config.history, config.width) * 0.02)

    def forward(self, batch: Batch, queries: Mapping[str, Queries] | None = None) -> Features:
        """The features of a batch up to the fusion, and the answers to the `queries` of the objectives."""
        features = self._encode(batch, queries or {})
        done = [] if self.previous_action is None else [self.encode_previous_action(batch)]
        groups = [features.words, features.sentence, *features.vision, self.encode_state(batch.state, batch.state_mask), *done]
        fused: TokenGroup = self.fusion(groups)
        return dataclasses.replace(features, fused=fused, before_memory=fused)

    def losses(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Scalars by name; ``"loss"`` is their weighted sum, the one to minimize (see `UncertaintyWeighting`).

        Rows whose `actions_mask` is False throughout contribute only to losses that do not depend on actions. A batch without the
        targets of an objective does not contribute to its loss.
        """
        batch = self._dropped(batch, generator)
        by_objective = {name: each.queries(batch) for name, each in self.objectives.items()}
        queries = {name: found for name, found in by_objective.items() if found is not None}
        if self.is_fusion_trained:
            features = self.forward(batch, queries)
            if self.memory is not None:
                present = batch.state_mask.any(1) | batch.images_mask.flatten(1).any(1)
                features = dataclasses.replace(features, fused=self._remember(features.fused, present))
            features = self._refined(features)
        else:
            features = self._encode(batch, queries)
        losses: dict[str, Tensor] = {}
        for objective in self.objectives.values():
            if self.is_fusion_trained or not objective.reads_fused:
                losses |= objective.losses(features, batch, generator)
        found: dict[str, Tensor] = self.weighting(losses)
        return found

    def predict(
        self, batch: Batch, generator: torch.Generator | None = None, seeds: Sequence[int | None] | None = None
    ) -> Prediction:
        """The next actions and the predictions of the objectives. The actions are random if the head was never trained.

        Args:
            seeds: one per row; actions of a row with a seed are drawn from the distribution of the head.

        Raises `ConfigError` for seeds with a head that has no distribution.
        """
        by_objective = {name: each.prediction_queries(batch) for name, each in self.objectives.items()}
        queries = {name: found for name, found in by_objective.items() if found is not None}
        features, memory = self.forward(batch, queries), None
        if self.memory is not None:
            count, device = len(features.fused.tokens), features.fused.tokens.device
            writes = torch.ones(count, dtype=torch.bool, device=device) if batch.writes is None else batch.writes
            fused, memory = self.memory(features.fused, batch.memory or self.memory.initial(count, device), writes)
            features = dataclasses.replace(features, fused=fused)
        features = self._refined(features)
        actions = self.head.predict(features.fused, generator) if seeds is None else self._sampled(features.fused, seeds)
        extras = {name: value for each in self.objectives.values() for name, value in each.predict(features).items()}
        return Prediction(actions, extras, memory)

    def encode_text(self, text: TextBatch, goals: Batch | None = None) -> tuple[TokenGroup, TokenGroup]:
        """Word tokens (b, l, e) and the sentence embedding (b, 1, e); tokens of the goal images in `goals` follow the words."""
        words = self.language(text)
        if self.goal is not None and goals is not None and goals.goal is not None:
            now, known = goals.images[:, -1, 0], goals.images_mask[:, -1, 0]  # of the first camera, as the goal image
            words = join([words, self.goal(centered(goals.goal), goals.goal_mask, centered(now), known)], "words")
        pooled = self.sentence(words).unsqueeze(1)
        pooled = pooled if self.task_embeddings is None else self.task_embeddings(pooled)
        sentence = TokenGroup(pooled, torch.ones_like(words.mask[:, :1]), "sentence")
        return (words, sentence) if text.rows is None else (words.take(text.rows), sentence.take(text.rows))

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
        encode, many = self.vision, self.vision.encode_with_queries if isinstance(self.vision, AnswersQueries) else None
        if batch.features is None:
            images = centered(batch.images).flatten(0, 1)
        else:
            images, encode, many = batch.features.flatten(0, 1), self.vision.groups, self.vision.answer
        if queries is None:
            return [self._in_time(group, frames) for group in encode(images, mask, sentence)], None
        rows, sentences = queries[0] * frames + frames - 1, queries[1]
        if many is not None:
            groups, answers = many(images, mask, sentence, sentences, rows)
        else:
            groups, others = encode(images, mask, sentence), encode(images[rows], mask[rows], sentences)
            answers = next(group for group in others if group.heatmaps is not None)
        return [self._in_time(group, frames) for group in groups], answers

    def encode_state(self, state: Tensor, mask: Tensor) -> TokenGroup:
        """The tokens of states (b, t, s) of all frames."""
        return self._in_time(self.state(state.flatten(0, 1), mask.flatten()), state.shape[1])

    def encode_previous_action(self, batch: Batch) -> TokenGroup:
        """The previous action as one token per frame (b, t, e); only the latest frame's is not masked."""
        before = batch.previous_action
        if before is None:
            nothing = batch.state.new_zeros(len(batch.state), self.sizes.action_size)
            before = Masked(nothing, torch.zeros_like(batch.state_mask[:, 0]))
        group: TokenGroup = self.previous_action(before.values, before.mask)  # type: ignore[misc]
        earlier = self.config.history - 1
        return TokenGroup(F.pad(group.tokens, (0, 0, earlier, 0)), F.pad(group.mask, (earlier, 0)), group.kind)

    def _encode(self, batch: Batch, queries: Mapping[str, Queries]) -> Features:
        """Text and image features, before the fusion."""
        words, sentence = self.encode_text(batch.text, batch)
        embedded = self._embedded(queries, sentence)
        vision, found = self.encode_images(batch, sentence.tokens[:, 0], embedded)
        answers, start = {}, 0
        for name, query in queries.items():
            assert embedded is not None and found is not None
            part = slice(start, start + len(query.rows))
            answers[name], start = Answers(found.take(part), embedded[1][part]), part.stop
        empty = TokenGroup(sentence.tokens[:, :0], sentence.mask[:, :0], "fused")
        return Features(batch, words, sentence, tuple(vision), empty, empty, answers)

    def _embedded(self, queries: Mapping[str, Queries], sentence: TokenGroup) -> tuple[Tensor, Tensor] | None:
        """Rows and sentence embeddings of the queries of all objectives, in order; their texts are encoded in one batch."""
        if not queries:
            return None
        texts = [query.text for query in queries.values() if query.text is not None]
        encoded = self._sentences(join_texts(texts)) if texts else None
        sentences, start = [], 0
        for query in queries.values():
            if query.text is None or encoded is None:
                sentences.append(sentence.tokens[query.rows, 0])
                continue⟧
            shared={name: each.shares_scale for name, each in trained.items() if each.shares_scale},
        )
        self.is_fusion_trained = is_fusion_trained(config, trained)
        if isinstance(self.backbone, InitializesLast):
            self.backbone.initialize_last()
        self.check_names()

    def forward(self, batch: Batch, queries: Mapping[str, Queries] | None = None) -> Features:
        """The features of a batch without memory, and the answers to the `queries` of the objectives."""
        features: Features = self.backbone(batch, queries or {})
        return features

    def losses(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Scalars by name; ``"loss"`` is their weighted sum, the one to minimize (see `UncertaintyWeighting`).

        Rows whose `actions_mask` is False throughout contribute only to losses that do not depend on actions. A batch without the
        targets of an objective does not contribute to its loss.
        """
        asked = {name: each.queries(batch) for name, each in self.objectives.items()}
        features = self.backbone.training_features(batch, _given(asked), generator, fuse=self.is_fusion_trained)
        if self.is_fusion_trained:
            features = self._refined(features)
        losses: dict[str, Tensor] = {}
        for objective in self.objectives.values():
            if self.is_fusion_trained or not objective.reads_fused:
                losses |= objective.losses(features, features.batch, generator)
        found: dict[str, Tensor] = self.weighting(losses)
        return found

    def predict(
        self, batch: Batch, generator: torch.Generator | None = None, seeds: Sequence[int | None] | None = None
    ) -> Prediction:
        """The next actions and the predictions of the objectives. The actions are random if the head was never trained.

        Args:
            seeds: one per row; actions of a row with a seed are drawn from the distribution of the head.

        Raises `ConfigError` for seeds with a head that has no distribution.
        """
        asked = {name: each.prediction_queries(batch) for name, each in self.objectives.items()}
        features, memory = self.backbone.prediction_features(batch, _given(asked))
        features = self._refined(features)
        actions = self.head.predict(features.fused, generator) if seeds is None else self._sampled(features.fused, seeds)
        extras = {name: value for each in self.objectives.values() for name, value in each.predict(features).items()}
        return Prediction(actions, extras, memory)

    def _refined(self, features: Features) -> Features:
        for objective in self.objectives.values():
            features = objective.refine(features)
        return features

    def _sampled(self, fused: TokenGroup, seeds: Sequence[int | None]) -> Tensor:
        if not isinstance(self.head, StochasticHead):
            raise ConfigError(f"head {self.config.head.name!r} has no distribution to sample actions from")
        return sampled(self.head, fused, seeds)


def _given(asked: Mapping[str, Queries | None]) -> dict[str, Queries]:
    return {name: queries for name, queries in asked.items() if queries is not None}
