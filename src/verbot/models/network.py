"""The network: backbone, head and training objectives."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.config import NetworkConfig
from verbot.models.features import Backbone, Features, NetworkOutput, NetworkParts, Queries, TrainingObjective
from verbot.models.flat_names import FlatNames
from verbot.models.protocols import GivesKeysValues, InitializesLast, ReadsAhead
from verbot.models.registries import Objective, Part, backbones, heads, objectives
from verbot.models.speaking import SpeakingBackbone, SpeakingHead
from verbot.models.stochastic import ContinuingHead, StochasticHead, sampled
from verbot.models.tokens import Batch, HeadInput, LaterActions, PlannedActions, Suffix
from verbot.models.validation import check_ahead, check_backbone, check_classifier, check_layers, check_speaks, is_fusion_trained
from verbot.models.weighting import UncertaintyWeighting
from verbot.spec import RobotSpec

__all__ = ["NetworkConfig", "Objective", "Part", "VLANetwork"]

MOST_THOUGHTS = 128  # tokens of reasoning


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
        tokenizer = self.backbone.tokenizer if isinstance(self.backbone, SpeakingBackbone) else None
        keys_of = self.backbone.keys_of if isinstance(self.backbone, GivesKeysValues) else None
        inputs = HeadInput(self.sizes, self.backbone.width, self.backbone.count, tokenizer, keys_of)
        self.head = heads.build(config.head.name, inputs, **config.head.options)
        check_layers(config, self.backbone, self.head)
        check_speaks(config, self.backbone, self.head)
        check_classifier(config, self.head)
        check_ahead(config, self.head)
        parts = NetworkParts(self.sizes, self.backbone, self.head)
        modules = {name: objectives.build(name, parts, **chosen.options) for name, chosen in config.objectives.items()}
        self.objectives = nn.ModuleDict(modules)  # type: ignore[assignment]
        trained = {name: each for name, each in modules.items() if each.is_applicable}
        self.weighting = UncertaintyWeighting(
            {name: config.objectives[name].weight for name in trained},
            config.loss_weighting == "uncertainty",
            fixed={name for name, each in trained.items() if each.fixed_weight},
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
        queries = {name: each.queries(batch) for name, each in self.objectives.items()}
        suffix = self._suffix(batch)
        features = self.backbone.training_features(
            batch, _without_none(queries), generator, fuse=self.is_fusion_trained, suffix=suffix
        )
        if self.is_fusion_trained:
            features = self._refined(features)
        losses: dict[str, Tensor] = {}
        for objective in self.objectives.values():
            if self.is_fusion_trained or not objective.reads_fused:
                losses |= objective.losses(features, features.batch, generator)
        if batch.later is not None and "action" in self.objectives and self.is_fusion_trained:
            losses |= self._with_later(losses, features, batch.later, generator)
        weighted: dict[str, Tensor] = self.weighting(losses)
        return weighted

    def _with_later(
        self, losses: Mapping[str, Tensor], features: Features, later: LaterActions, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The losses of the actions, as means of those from now on and those from later moments on."""
        assert isinstance(self.backbone, ReadsAhead)
        every = []
        for states, actions, mask in zip(later.states.unbind(1), later.actions.unbind(1), later.mask.unbind(1), strict=True):
            batch = dataclasses.replace(features.batch, ahead=states, actions=actions, actions_mask=mask)
            seen = self._refined(self.backbone.again(features, batch))
            every.append(self.objectives["action"].losses(seen, batch, generator))
        return {name: torch.stack([losses[name], *(found[name] for found in every)]).mean(0) for name in every[0]}

    def predict(
        self,
        batch: Batch,
        generator: torch.Generator | None = None,
        seeds: Sequence[int | None] | None = None,
        forced: Sequence[Sequence[int]] | None = None,
    ) -> NetworkOutput:
        """The next actions and the predictions of the objectives. The actions are random if the head was never trained.

        They continue `Batch.planned` if the head can (see `continuation`).

        Args:
            seeds: one per row; actions of a row with a seed are drawn from the distribution of the head.
            forced: ids with which the text of each row begins that a backbone with a language trunk says before the actions;
                None says no text.

        Raises `ConfigError` for seeds with a head that has no distribution.
        """
        queries = {name: each.prediction_queries(batch) for name, each in self.objectives.items()}
        features, memory = self.backbone.prediction_features(batch, _without_none(queries))
        features = self._refined(features)
        reasoning: tuple[tuple[int, ...], ...] | None = None
        if forced is not None:
            assert isinstance(self.backbone, SpeakingBackbone)
            features, said = self.backbone.think(features, forced, MOST_THOUGHTS)
            reasoning = tuple(map(tuple, said))
        actions, are_valid = self._actions(features, batch.planned, generator, seeds)
        extras = {name: value for each in self.objectives.values() for name, value in each.predict(features).items()}
        return NetworkOutput(actions, extras, memory, features.fused, are_valid, reasoning)

    def _suffix(self, batch: Batch) -> Suffix | None:
        """What the backbone is trained to say."""
        said = [batch.text_targets] if batch.text_targets is not None else []
        if isinstance(self.head, SpeakingHead) and batch.actions is not None:
            said.append(self.head.suffix(batch))
        return Suffix.joined(said) if len(said) > 1 else next(iter(said), None)

    def _refined(self, features: Features) -> Features:
        for objective in self.objectives.values():
            features = objective.refine(features)
        return features

    @property
    def continuation(self) -> str:
        """How the head continues planned actions: ``"guided"``, ``"trained"``, or ``""`` if it cannot."""
        if not isinstance(self.head, ContinuingHead):
            return ""
        return "trained" if self.head.continuation.prefix else "guided"

    def _actions(
        self,
        features: Features,
        planned: PlannedActions | None,
        generator: torch.Generator | None,
        seeds: Sequence[int | None] | None,
    ) -> tuple[Tensor, Tensor | None]:
        """The actions (b, k, a), and which rows are any, for a head that may say what means none."""
        head, fused = self.head, features.fused
        if isinstance(head, SpeakingHead):
            return self._said(head, features, seeds)
        if seeds is not None:
            if not isinstance(head, StochasticHead):
                raise ConfigError(f"head {self.config.head.name!r} has no distribution to sample actions from")
            return sampled(head, fused, seeds, planned), None
        if planned is not None and isinstance(head, ContinuingHead):
            return head.continued(fused, planned, generator), None
        return head.predict(fused, generator), None

    def _said(self, head: SpeakingHead, features: Features, seeds: Sequence[int | None] | None) -> tuple[Tensor, Tensor]:
        """The actions (b, k, a) that the backbone says, drawn in rows with a seed, and whether they are any; otherwise 0."""
        assert isinstance(self.backbone, SpeakingBackbone)
        generators = None if seeds is None else [None if s is None else torch.Generator().manual_seed(s) for s in seeds]
        ids = self.backbone.say(features, lambda logits, said: head.choose(logits, said, generators), head.is_over, head.longest)
        actions, are_valid = head.read(ids)
        return actions.masked_fill(~are_valid[:, None, None], 0.0), are_valid


def _without_none(queries: Mapping[str, Queries | None]) -> dict[str, Queries]:
    return {name: query for name, query in queries.items() if query is not None}
