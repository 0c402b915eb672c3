"""The whole network: a backbone, the action head, and the objectives that it is trained for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.config import NetworkConfig
from verbot.models.features import Backbone, Features, NetworkParts, Prediction, Queries, TrainingObjective
from verbot.models.flat_names import FlatNames
from verbot.models.protocols import DrawsLast
from verbot.models.registries import Objective, Part, backbones, heads, objectives
from verbot.models.stochastic import StochasticHead, sampled
from verbot.models.tokens import Batch, TokenGroup
from verbot.models.validation import check_backbone, check_classifier, check_layers, is_fusion_taught
from verbot.models.weighting import UncertaintyWeighting
from verbot.spec import RobotSpec

__all__ = ["NetworkConfig", "Objective", "Part", "VLANetwork"]


class VLANetwork(FlatNames):
    """Vision, language and action.

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
        self.backbone = kind(config, self.sizes, **config.backbone.options)
        self.head = heads.get(config.head.name)(self.sizes, self.backbone.width, self.backbone.count, **config.head.options)
        check_layers(config, self.backbone, self.head)
        check_classifier(config, self.head)
        parts = NetworkParts(self.sizes, self.backbone, self.head)
        made = {name: objectives.get(name)(parts, **chosen.options) for name, chosen in config.objectives.items()}
        self.objectives = nn.ModuleDict(made)  # type: ignore[assignment]
        taught = {name: each for name, each in made.items() if each.learns}
        self.weighting = UncertaintyWeighting(
            {name: config.objectives[name].weight for name in taught},
            config.loss_weighting == "uncertainty",
            fixed={name for name, each in taught.items() if each.fixed_weight},
            shared={name: each.shares_scale for name, each in taught.items() if each.shares_scale},
        )
        self.is_fusion_taught = is_fusion_taught(config, taught)
        if isinstance(self.backbone, DrawsLast):
            self.backbone.draw_last()
        self.check_names()

    def forward(self, batch: Batch, queries: Mapping[str, Queries] | None = None) -> Features:
        """The features of a batch as the backbone makes them, without memory, and its answers to each objective's `queries`."""
        features: Features = self.backbone(batch, queries or {})
        return features

    def losses(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Scalars by name; ``"loss"`` is their weighted sum, the one to minimize (see `UncertaintyWeighting`).

        Rows whose `actions_mask` is False throughout teach only what does not depend on the actions; a batch without an
        objective's targets does not teach that objective.
        """
        asked = {name: each.queries(batch) for name, each in self.objectives.items()}
        features = self.backbone.learn(batch, _given(asked), generator, fuse=self.is_fusion_taught)
        if self.is_fusion_taught:
            features = self._refined(features)
        losses: dict[str, Tensor] = {}
        for objective in self.objectives.values():
            if self.is_fusion_taught or not objective.reads_fused:
                losses |= objective.losses(features, features.batch, generator)
        found: dict[str, Tensor] = self.weighting(losses)
        return found

    def predict(
        self, batch: Batch, generator: torch.Generator | None = None, seeds: Sequence[int | None] | None = None
    ) -> Prediction:
        """The next actions, and what the objectives predict beside. Where no action was ever learned the actions are random.

        Args:
            seeds: of each row; its actions are drawn from the head's distribution where it is not None.

        Raises `ConfigError` for seeds and a head without a distribution.
        """
        asked = {name: each.prediction_queries(batch) for name, each in self.objectives.items()}
        features, memory = self.backbone.predict(batch, _given(asked))
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
