"""The registries of network parts, and the interface of each kind.

A new part is one file in `backbones/`, `encoders/`, `fusion/`, `heads/` or `objectives/` with one `register` line. `VLANetwork`
builds it by name.

| part | built as | called as |
|---|---|---|
| backbone | ``factory(config: NetworkConfig, sizes, **options)`` | a `verbot.models.features.Backbone`: ``prepare(texts) -> TextBatch``, ``(batch, queries) -> Features``; its output ``width`` and ``count`` |
| vision encoder | ``factory(sizes, **options)``, has ``counts`` {kind: n per frame} | ``(images (b, v, 3, h, w), mask (b, v), sentence (b, e)) -> [TokenGroup]`` |
| depth encoder | ``factory(sizes, **options)``, has ``counts`` | ``(depth (b, d, 2, h, w), mask (b, d), sentence (b, e)) -> TokenGroup`` of kind ``"depth"``; the channels are the depth in [-1, 1] and whether it is known |
| language encoder | ``factory(sizes, **options)`` | ``prepare(texts) -> TextBatch``, then ``(text) -> TokenGroup`` |
| state encoder | ``factory(sizes, **options)``, has ``counts`` | ``(state (b, s), mask (b,)) -> TokenGroup`` |
| fusion | ``factory(sizes, counts, **options)``, has ``width`` and ``count`` of its output | ``([TokenGroup]) -> TokenGroup`` |
| action encoder | ``factory(sizes, **options)`` | ``(action (b, a), mask (b,)) -> TokenGroup`` of one token, kind ``"previous_action"`` |
| goal encoder | ``factory(sizes, **options)`` | ``(goal (b, 3, h, w), mask (b,), now (b, 3, h, w), now_mask (b,)) -> TokenGroup`` |
| memory | ``factory(sizes, width, count, **options)`` with those of the fusion, has its own | ``initial(rows, device) -> state``, ``(fused, state, writes (b,)) -> (TokenGroup, state)`` |
| head | ``factory(inputs: HeadInput, **options)`` | ``losses(fused, batch, generator) -> {name: scalar}``, ``"action"`` among them, ``predict(fused, generator) -> (b, k, a)`` |
| head that speaks | ``factory(inputs: HeadInput, **options)``, with the ``tokenizer`` of the backbone's trunk | a `verbot.models.speaking.SpeakingHead`: ``suffix(batch)``, ``choose(logits, said, generators)``, ``is_over(said)``, ``read(said)`` |
| objective | ``factory(parts: NetworkParts, **options)`` | a `verbot.models.features.TrainingObjective`: ``losses(features, batch, generator) -> {name: scalar}``, ``predict(features) -> {name: Predicted}`` |
| language trunk | ``factory(**options)`` | a `verbot.models.trunks.base.LanguageTrunk`: ``embed(ids (b, n)) -> (b, n, d)``, ``(x (b, n, d), allowed (b, n, m), positions (b, n), cache) -> TrunkOutput``, ``logits(hidden) -> (b, n, v)``; has ``width``, ``depth`` and ``tokenizer`` |
| contrastive loss | ``factory(sizes, **options)`` if it ``attends``, else ``(sizes, tokens, **options)`` with the tokens per image | ``losses(sentences (q, e), seen, captions) -> (scalar, values to log)``, ``alignment(sentences, seen) -> (q,)``; ``seen`` are the keypoint tokens of each sentence if it ``attends``, else all tokens of each image |

Options that belong together may be one argument, a frozen dataclass with a default: each of its fields is then an option of the part,
as `verbot.registry.options_of` says.

Optional abilities are protocols in `verbot.models.protocols`, checked with ``isinstance``:

| ability | protocol |
|---|---|
| an encoder's options are fitted to the training instructions (vocabulary, checkpoint), a head's to the actions (bins) | `FitsInstructions`, `FitsActions`; `GrowsVocabulary` for new words in fine-tuning |
| an encoder needs image sides that are multiples of a number; `NetworkConfig.with_image_size` then chooses such sides | `NeedsSideMultiple` |
| a pretrained language encoder counts the tokens of a text that say nothing to it | `CountsUnreadTokens` |
| a language encoder's instructions can be read without torch, so that its policy can be exported | `ExportsText` |
| a vision encoder encodes an image once for many sentences | `AnswersQueries` |
| a vision encoder's features do not depend on the sentence; they can be cached on disk | `InstructionFreeFeatures`, `CacheableFeatures` |
| a fusion returns its layers, a head reads them | `GivesLayers`, `ReadsLayers` |
| a module has layers that are not among its modules, so that checkpointing finds them | `HoldsLayers` |
| a backbone gives the keys and values of its language trunk | `GivesKeysValues` |
| a backbone encodes sentences and images separately, its perception can be trained first, its attention can be recorded | `EncodesPairs`, `SeparatesPerception`, `ExposesAttention` |
| a memory stores the last frames | `KeepsFrames` |
| a head's outputs can be parameters of a distribution | `HasReadout` |
| a head has one module per task and classifies tasks | `TaskClassifier` |
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from verbot.errors import ConfigError
from verbot.registry import Registry


@dataclass(frozen=True)
class Part:
    """A registered part by name, with the options of its factory (JSON values)."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Objective:
    """A training objective of a network; its name is the key in `NetworkConfig.objectives`.

    Args:
        weight: weight of its loss in the sum that is minimized. With 0 it is computed, logged and predicted, but not trained.
        options: options of its factory (JSON values).
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
    "previous-action encoder", package="verbot.models.encoders.state", group="verbot.action_encoders", needs=("torch",)
)
depth_encoders: Registry[Any] = Registry(
    "depth encoder", package="verbot.models.encoders.vision", group="verbot.depth_encoders", needs=("torch",)
)
goal_encoders: Registry[Any] = Registry(
    "goal encoder", package="verbot.models.encoders.vision", group="verbot.goal_encoders", needs=("torch",)
)
memories: Registry[Any] = Registry("memory", package="verbot.models.memory", group="verbot.memories", needs=("torch",))
fusions: Registry[Any] = Registry("fusion", package="verbot.models.fusion", group="verbot.fusions", needs=("torch",))
objectives: Registry[Any] = Registry("objective", package="verbot.models.objectives", group="verbot.objectives", needs=("torch",))
contrastive_losses: Registry[Any] = Registry(
    "contrastive loss",
    package="verbot.models.objectives",
    group="verbot.contrastive_losses",
    needs=("torch",),
    old_group="verbot.contrasts",
)
trunks: Registry[Any] = Registry("language trunk", package="verbot.models.trunks", group="verbot.trunks", needs=("torch",))
heads: Registry[Any] = Registry("head", package="verbot.models.heads", group="verbot.heads", needs=("torch",))

language_encoders.alias("words", "word_embedding")
contrastive_losses.alias("match", "siglip")
