"""The registries of a network's parts, and what each part promises.

A new part is one file in `backbones/`, `encoders/`, `fusion/`, `heads/` or `objectives/` and one `register` line; `VLANetwork`
builds it by name.

| part | built as | called as |
|---|---|---|
| backbone | ``factory(config: NetworkConfig, sizes, **options)`` | a `verbot.models.features.Backbone`: ``prepare(texts) -> TextBatch``, ``(batch, queries) -> Features``; its output ``width`` and ``count`` |
| vision encoder | ``factory(sizes, **options)``, states ``counts`` {kind: n of one frame} | ``(images (b, v, 3, h, w), mask (b, v), sentence (b, e)) -> [TokenGroup]`` |
| language encoder | ``factory(sizes, **options)`` | ``prepare(texts) -> TextBatch``, then ``(text) -> TokenGroup`` |
| state encoder | ``factory(sizes, **options)``, states ``counts`` | ``(state (b, s), mask (b,)) -> TokenGroup`` |
| fusion | ``factory(sizes, counts, **options)``, states its output ``width`` and ``count`` | ``([TokenGroup]) -> TokenGroup`` |
| action encoder | ``factory(sizes, **options)`` | ``(action (b, a), mask (b,)) -> TokenGroup`` of one token, kind ``"previous_action"`` |
| goal encoder | ``factory(sizes, **options)`` | ``(goal (b, 3, h, w), mask (b,), now (b, 3, h, w), seen (b,)) -> TokenGroup`` |
| memory | ``factory(sizes, width, count, **options)`` of the fusion's, states its own | ``initial(rows, device) -> state``, ``(fused, state, writes (b,)) -> (TokenGroup, state)`` |
| head | ``factory(sizes, width, count, **options)`` | ``losses(fused, batch, generator) -> {name: scalar}``, ``"action"`` among them, ``predict(fused, generator) -> (b, k, a)`` |
| objective | ``factory(parts: NetworkParts, **options)`` | a `verbot.models.features.TrainingObjective`: ``losses(features, batch, generator) -> {name: scalar}``, ``predict(features) -> {name: Predicted}`` |
| kind of contrastive objective | ``factory(sizes, **options)`` where it ``attends``, else ``(sizes, tokens, **options)`` of one image | ``losses(sentences (q, e), seen, captions) -> (scalar, what to log)``, ``alignment(sentences, seen) -> (q,)``; seen is what each sentence finds, else every image's tokens |

What only some parts can is a protocol in `verbot.models.protocols`, asked for by ``isinstance``:

| ability | protocol |
|---|---|
| an encoder's class takes its vocabulary or checkpoint from the training instructions; a head's class takes bins from the actions | `FitsInstructions`, `FitsActions`; `GrowsVocabulary` for new words in fine-tuning |
| a vision encoder answers many sentences about one image at little cost | `AnswersQueries` |
| a vision encoder's features do not depend on the sentence; they can be kept on the disk | `SeesBeforeWords`, `CacheableFeatures` |
| a fusion gives out its layers, a head reads them | `GivesLayers`, `ReadsLayers` |
| a backbone encodes sentences and images apart, has perception to train first, can be watched as it reads | `ReadsSentences`, `WarmsUpPerception`, `ShowsReading` |
| a memory keeps the last frames | `KeepsFrames` |
| a head's outputs can be parameters of a distribution | `HasReadout` |
| a head has a part for each task | `TaskClassifier` |
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from verbot.errors import ConfigError
from verbot.registry import Registry


@dataclass(frozen=True)
class Part:
    """A registered part by name, with the options of its factory (JSON-able)."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Objective:
    """What a network is trained for, by name in `NetworkConfig.objectives`.

    Args:
        weight: of its loss in the sum that is minimized. With 0 it is computed, logged and predicted, and teaches nothing.
        options: of its factory (JSON-able).
    """

    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ConfigError(f"the weight of an objective is at least 0; got {self.weight:g}")


backbones: Registry[Any] = Registry("backbone", package="verbot.models.backbones", group="verbot.backbones", needs=("torch",))
vision_encoders: Registry[Any] = Registry(
    "vision encoder", package="verbot.models.encoders.vision", group="verbot.vision_encoders", needs=("torch",)
)
language_encoders: Registry[Any] = Registry(
    "language encoder", package="verbot.models.encoders.language", group="verbot.language_encoders", needs=("torch",)
)
state_encoders: Registry[Any] = Registry(
    "state encoder", package="verbot.models.encoders.state", group="verbot.state_encoders", needs=("torch",)
)
action_encoders: Registry[Any] = Registry(
    "previous_action encoder", package="verbot.models.encoders.state", group="verbot.action_encoders", needs=("torch",)
)
goal_encoders: Registry[Any] = Registry(
    "goal encoder", package="verbot.models.encoders.vision", group="verbot.goal_encoders", needs=("torch",)
)
memories: Registry[Any] = Registry("memory", package="verbot.models.memory", group="verbot.memories", needs=("torch",))
fusions: Registry[Any] = Registry("fusion", package="verbot.models.fusion", group="verbot.fusions", needs=("torch",))
objectives: Registry[Any] = Registry("objective", package="verbot.models.objectives", group="verbot.objectives", needs=("torch",))
contrasts: Registry[Any] = Registry(
    "kind of contrastive objective", package="verbot.models.objectives", group="verbot.contrasts", needs=("torch",)
)
heads: Registry[Any] = Registry("head", package="verbot.models.heads", group="verbot.heads", needs=("torch",))

language_encoders.alias("words", "word_embedding")
contrasts.alias("match", "siglip")
