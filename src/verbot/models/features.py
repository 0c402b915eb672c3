"""The two interfaces inside a network: a backbone computes the features of a batch, objectives learn and predict from them."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.configuration import former_names
from verbot.errors import ConfigError
from verbot.models.protocols import EncodesPairs
from verbot.models.tokens import Batch, MemoryState, Sizes, Suffix, TextBatch, TokenGroup

if TYPE_CHECKING:
    from verbot.models.config import NetworkConfig

Losses = dict[str, Tensor]

if not TYPE_CHECKING:
    __getattr__ = former_names(__name__, Predicted="AuxiliaryPrediction", Prediction="NetworkOutput")


@dataclass(frozen=True)
class Queries:
    """Additional sentences `q` for the latest images of a batch, encoded in the same pass of the backbone.

    Args:
        rows: (q,) int64, the batch row of each query.
        text: one sentence per query; None uses the instruction of each row.
    """

    rows: Tensor
    text: TextBatch | None = None


@dataclass(frozen=True)
class Answers:
    """The result for the queries of one objective: keypoint tokens (q, v·p, e) and sentence embeddings (q, e)."""

    keypoints: TokenGroup
    sentences: Tensor


@dataclass(frozen=True)
class Spoken:
    """What a language trunk made of a `Suffix` in one pass.

    Args:
        suffix: what it was trained to say.
        hidden: (b, l, d); that at i was computed from the prefix and the ids before i.
        output: (n, d) → logits (n, v).
    """

    suffix: Suffix
    hidden: Tensor
    output: Callable[[Tensor], Tensor]

    def losses(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy (nats) of the `chosen` (b, l) ids, and the share that is the most likely; zero if there are none."""
        said = chosen & self.suffix.mask
        # On the meta device it is not known how many are chosen.
        ids = self.suffix.ids.flatten() if said.is_meta else self.suffix.ids[said]  # (n,)
        logits = self.output(self.hidden.flatten(0, 1) if said.is_meta else self.hidden[said]).float()  # (n, v)
        if not len(ids):
            return logits.sum(), logits.detach().sum()
        right = (logits.detach().argmax(-1) == ids).float().mean()
        return F.cross_entropy(logits, ids), right


@dataclass(frozen=True)
class Features:
    """The features of a batch. A backbone gives at least `batch` and `fused`.

    Args:
        batch: the batch from which they were computed, after dropout of words and previous actions in training.
        fused: (b, n, w), the tokens that the head and most objectives read, after the memory and `TrainingObjective.refine`; with
            their layers for a head that reads layers. Empty (n = 0) if the fused tokens were not computed.
        words, sentence: (b, l, e) and (b, 1, e) of the instructions.
        vision: the token groups of the images, of all frames, the latest last.
        before_memory: `fused` before the memory.
        answers: by objective, to its `queries`.
        refine_cache: by objective, intermediate results that its `refine` keeps for its own losses.
        spoken: of a training batch with a suffix, by a backbone with a language trunk.
        prefix: of that backbone, what it goes on from.
    """

    batch: Batch
    fused: TokenGroup
    words: TokenGroup | None = None
    sentence: TokenGroup | None = None
    vision: tuple[TokenGroup, ...] = ()
    before_memory: TokenGroup | None = None
    answers: Mapping[str, Answers] = field(default_factory=dict)
    refine_cache: Mapping[str, Any] = field(default_factory=dict)
    spoken: Spoken | None = None
    prefix: Any = None

    @property
    def keypoints(self) -> TokenGroup | None:
        """The keypoint tokens of the images, of all frames; None if the backbone has none."""
        return next((group for group in self.vision if group.heatmaps is not None), None)

    def refined(self, fused: TokenGroup, name: str, cache: Any) -> Features:
        """A copy with other fused tokens, and with `cache` as the entry of the objective `name` in `refine_cache`."""
        return dataclasses.replace(self, fused=fused, refine_cache={**self.refine_cache, name: cache})


@dataclass(frozen=True)
class AuxiliaryPrediction:
    """The prediction of an auxiliary objective for each row; becomes an entry of `ActionChunk.extras`.

    Args:
        values: (b, …).
        space: ``"state"`` for normalized states, which are converted back to the robot's units; ``"image_points"`` for points
            (b, v, n, 2) in the network's images, which become those of the cameras' images.
        names: names of the entries of the last axis; the prediction is then reported as {name: number}.
    """

    values: Tensor
    space: Literal["plain", "state", "image_points"] = "plain"
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class NetworkOutput:
    """The output of a network: `actions` (b, k, a), normalized; `extras` of the objectives by name; `memory` for the
    next batch of the same rows, None for a network without memory; `fused`, the tokens that the head read; `are_valid` (b,) bool,
    whether what a head said means a chunk, where others are 0; None for a head that always gives one;
    `reasoning`, the ids of the text before the actions of each row."""

    actions: Tensor
    extras: Mapping[str, AuxiliaryPrediction] = field(default_factory=dict)
    memory: MemoryState | None = None
    fused: TokenGroup | None = None
    are_valid: Tensor | None = None
    reasoning: tuple[tuple[int, ...], ...] | None = None


class Backbone(nn.Module, ABC):
    """The base of all backbones, (batch) → features: built by ``factory(config: NetworkConfig, sizes: Sizes, **options)`` and
    registered by name in `verbot.models.registries.backbones`.

    Only `prepare` and `forward` must be implemented. Optional abilities are protocols in `verbot.models.protocols`. In state
    dicts, its submodules and parameters have names as if they were the network's own (see `verbot.models.flat_names`).

    Attributes:
        width, count: w and n of the fused tokens; set by `__init__`.
        counts: the tokens of one frame in `Features.vision`, by kind. ``"keypoints"`` among them says that there are heatmaps.
        builds: the fields of a configuration whose parts it builds.
        uses: which of the optional parts ``goal``, ``previous_action``, ``memory`` and ``depth`` of a configuration it supports;
            a configuration with another one is refused.
    """

    width: int
    count: int
    counts: Mapping[str, int] = {}
    builds: ClassVar[tuple[str, ...]] = ()
    uses: ClassVar[frozenset[str]] = frozenset()

    @staticmethod
    def fit(config: NetworkConfig, instructions: Sequence[str]) -> NetworkConfig:
        """`config` fitted to the training instructions before the backbone is built, e.g. with a vocabulary."""
        return config

    @staticmethod
    def grow(config: NetworkConfig, instructions: Sequence[str]) -> NetworkConfig:
        """`config` of a trained network extended to the instructions of another dataset, e.g. with new words."""
        return config

    @abstractmethod
    def prepare(self, texts: Sequence[str]) -> TextBatch:
        """Tokenize raw instructions for `Batch.text`."""

    def most_tokens(self) -> int:
        """How many tokens of an instruction it reads at most; 0 if that is not known."""
        return 0

    @abstractmethod
    def forward(self, batch: Batch, queries: Mapping[str, Queries]) -> Features:
        """The features of a batch without memory, and the answers to the `queries` of the objectives."""

    def training_features(
        self,
        batch: Batch,
        queries: Mapping[str, Queries],
        generator: torch.Generator | None = None,
        fuse: bool = True,
        suffix: Suffix | None = None,
    ) -> Features:
        """The features of a training batch.

        Rows are frames. With a memory they are flattened sequences: b = sequences × `sequence`.

        Args:
            generator: random numbers for dropout of words and previous actions.
            fuse: False if nothing is trained on the fused tokens; they may then be empty.
            suffix: what a backbone with a language trunk is trained to say; the others get none.
        """
        features: Features = self(batch, queries)
        return features

    def prediction_features(self, batch: Batch, queries: Mapping[str, Queries]) -> tuple[Features, MemoryState | None]:
        """The features for prediction, computed with `Batch.memory`, and the next memory; None without memory."""
        return self(batch, queries), None

    def initial(self, rows: int, device: torch.device | str = "cpu") -> MemoryState | None:
        """The memory at the start of `rows` episodes; None for a backbone without memory."""
        return None


@dataclass(frozen=True)
class NetworkParts:
    """The parts of a network that an objective can use when it is built.

    Args:
        sizes: sizes of robot and network.
        backbone, head: the modules.
    """

    sizes: Sizes
    backbone: Backbone
    head: nn.Module

    @property
    def width(self) -> int:
        """Of the fused tokens that the head reads."""
        return self.backbone.width

    @property
    def count(self) -> int:
        """Of the fused tokens that the head reads."""
        return self.backbone.count

    @property
    def vision_counts(self) -> Mapping[str, int]:
        """Tokens of one frame by kind."""
        return self.backbone.counts

    @property
    def sentence_embeddings(self) -> Callable[[TextBatch], Tensor]:
        """(text) -> sentence embeddings (n, e). Raises `ConfigError` for a backbone that is not `EncodesPairs`."""
        return self._backbone_of_pairs().sentence_embeddings

    @property
    def encode_latest(self) -> Callable[[Batch, Tensor], TokenGroup]:
        """(batch, sentences (b, e)) -> all vision tokens (b, n, e) of the latest images for these sentences.

        Raises `ConfigError` as `sentence_embeddings` does.
        """
        return self._backbone_of_pairs().encode_latest

    def _backbone_of_pairs(self) -> EncodesPairs:
        if not isinstance(self.backbone, EncodesPairs):
            raise ConfigError(
                f"an objective that compares sentences with images needs a backbone that encodes both apart, such as 'modular'; "
                f"{type(self.backbone).__name__} does not"
            )
        return self.backbone


class TrainingObjective(nn.Module, ABC):
    """The base of all objectives: built by ``factory(parts: NetworkParts, **options)`` and registered by name in
    `verbot.models.registries.objectives`.

    Only `losses` must be implemented. The loss has the registered name of the objective; other values that `losses` returns are
    logged, not minimized.
    """

    labels: ClassVar[tuple[str, ...]] = ()  # names of the labels in `Batch.targets` that it needs
    reads_fused: ClassVar[bool] = True  # False: it reads only features before the fusion, which is then not computed for it
    fixed_weight: ClassVar[bool] = False  # True: uncertainty weighting does not change its weight
    shares_scale: ClassVar[str | None] = None  # the objective whose learned weight also applies to this one

    @property
    def is_applicable(self) -> bool:
        """Whether the network has the parts that this objective trains; otherwise its loss is left out."""
        return True

    def queries(self, batch: Batch) -> Queries | None:
        """Sentences to encode with the images in training; `features.answers` holds the results."""
        return None

    def prediction_queries(self, batch: Batch) -> Queries | None:
        """As `queries`, for prediction."""
        return None

    def refine(self, features: Features) -> Features:
        """The features with this objective's contribution to the fused tokens, before any head or objective reads them."""
        return features

    @abstractmethod
    def losses(self, features: Features, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """Scalars by name; empty for a batch without this objective's targets."""

    def predict(self, features: Features) -> Mapping[str, AuxiliaryPrediction]:
        """Entries of every chunk's extras, by name."""
        return {}
