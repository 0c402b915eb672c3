"""The two seams of a network: a backbone makes the features of a batch, objectives learn and predict from them."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.protocols import ReadsSentences
from verbot.models.tokens import Batch, MemoryState, Sizes, TextBatch, TokenGroup

if TYPE_CHECKING:
    from verbot.models.config import NetworkConfig

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Queries:
    """Other sentences `q` for the latest images of a batch, to be encoded in the same pass of the backbone.

    Args:
        rows: (q,) int64, which row's latest image each is about.
        text: one sentence a query; None takes each row's own instruction.
    """

    rows: Tensor
    text: TextBatch | None = None


@dataclass(frozen=True)
class Answers:
    """What a backbone found for the queries of one objective: keypoint tokens (q, v·p, e) and sentences (q, e)."""

    keypoints: TokenGroup
    sentences: Tensor


@dataclass(frozen=True)
class Features:
    """The features of a batch. A backbone gives at least `batch` and `fused`.

    Args:
        batch: what they are the features of, without what a backbone in training dropped from it.
        fused: (b, n, w), what the head and most objectives read: tokens, and their layers for a head that reads these. After the
            fusion, the memory, and what objectives refined. Empty, n = 0, while nothing is fused.
        words, sentence: (b, l, e) and (b, 1, e) of the instructions.
        vision: the token groups of the images, of all frames, the latest last.
        before_memory: `fused` as it was before the memory.
        answers: by objective, to its `queries`.
        notes: by objective, what its `refine` left for its own losses.
    """

    batch: Batch
    fused: TokenGroup
    words: TokenGroup | None = None
    sentence: TokenGroup | None = None
    vision: tuple[TokenGroup, ...] = ()
    before_memory: TokenGroup | None = None
    answers: Mapping[str, Answers] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def keypoints(self) -> TokenGroup | None:
        """The keypoint tokens of the images, of all frames; None where the backbone makes none."""
        return next((group for group in self.vision if group.heatmaps is not None), None)

    def refined(self, fused: TokenGroup, name: str, note: Any) -> Features:
        """The same with other fused tokens, and with what the objective `name` notes."""
        return dataclasses.replace(self, fused=fused, notes={**self.notes, name: note})


@dataclass(frozen=True)
class Predicted:
    """What an objective tells about each row beside the actions; becomes an entry of `ActionChunk.extras`.

    Args:
        values: (b, …).
        space: ``"state"`` for normalized states, which are brought back to the robot's units.
        names: of the last axis: reported as {name: number}.
    """

    values: Tensor
    space: Literal["plain", "state"] = "plain"
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """`actions` (b, k, a), normalized; `extras` of the objectives by name; `memory` to be given with the next batch of the same
    rows, None where the network has none."""

    actions: Tensor
    extras: Mapping[str, Predicted] = field(default_factory=dict)
    memory: MemoryState | None = None


class Backbone(nn.Module, ABC):
    """(batch) → features; made as ``factory(config: NetworkConfig, sizes: Sizes, **options)`` and registered by name in
    `verbot.models.registries.backbones`.

    `prepare` and `forward` must be written. What only some backbones can is a protocol in `verbot.models.protocols`. Its
    submodules and parameters are named as though they were the network's own (see `verbot.models.flat_names`).

    Attributes:
        width, count: w and n of the fused tokens; set by `__init__`.
        counts: the tokens of one frame in `Features.vision`, by kind. ``"keypoints"`` among them says that there are heatmaps.
        reads: which of the parts ``goal``, ``previous_action`` and ``memory`` of a configuration it makes use of; a network with
            another is refused.
    """

    width: int
    count: int
    counts: Mapping[str, int] = {}
    reads: ClassVar[frozenset[str]] = frozenset()

    @staticmethod
    def fit(config: NetworkConfig, instructions: Sequence[str]) -> NetworkConfig:
        """`config` with what the backbone takes from the training instructions before it is built, such as a vocabulary."""
        return config

    @staticmethod
    def grow(config: NetworkConfig, instructions: Sequence[str]) -> NetworkConfig:
        """`config` of a trained network with what `instructions` of another dataset add, such as words to its vocabulary."""
        return config

    @abstractmethod
    def prepare(self, texts: Sequence[str]) -> TextBatch:
        """Raw instructions as they come in `Batch.text`."""

    @abstractmethod
    def forward(self, batch: Batch, queries: Mapping[str, Queries]) -> Features:
        """The features of a batch, each row by itself, without memory; and the answers to the `queries` of objectives."""

    def learn(
        self, batch: Batch, queries: Mapping[str, Queries], generator: torch.Generator | None = None, fuse: bool = True
    ) -> Features:
        """The features of a batch that teaches: rows in sequences where the network has a memory.

        Args:
            generator: of what is dropped from the batch in training.
            fuse: whether anything learns from the fused tokens; they may be empty otherwise.
        """
        features: Features = self(batch, queries)
        return features

    def predict(self, batch: Batch, queries: Mapping[str, Queries]) -> tuple[Features, MemoryState | None]:
        """The features of a batch to act on, with what `Batch.memory` holds; and what it holds afterwards, None without one."""
        return self(batch, queries), None

    def initial(self, rows: int, device: torch.device | str = "cpu") -> MemoryState | None:
        """The memory at the start of an episode, with a row for each episode; None for a backbone without one."""
        return None


@dataclass(frozen=True)
class NetworkParts:
    """What an objective may use of the network that it belongs to, at construction.

    Args:
        sizes: of robot and network.
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
    def read(self) -> Callable[[TextBatch], Tensor]:
        """(text) -> the sentence vectors (n, e). Raises `ConfigError` for a backbone that does not read sentences alone."""
        return self._reader().sentences

    @property
    def look(self) -> Callable[[Batch, Tensor], TokenGroup]:
        """(batch, sentences (b, e)) -> all vision tokens of the latest images (b, n, e), encoded for these sentences.

        Raises `ConfigError` as `read` does.
        """
        return self._reader().look

    def _reader(self) -> ReadsSentences:
        if not isinstance(self.backbone, ReadsSentences):
            raise ConfigError(
                f"an objective that compares sentences with images needs a backbone that encodes both apart, such as 'modular'; "
                f"{type(self.backbone).__name__} does not"
            )
        return self.backbone


class TrainingObjective(nn.Module, ABC):
    """What every objective promises; made as ``factory(parts: NetworkParts, **options)`` and registered by name in
    `verbot.models.registries.objectives`.

    Only `losses` must be written. Its loss has the objective's registered name; whatever else `losses` returns is logged and
    not minimized.
    """

    labels: ClassVar[tuple[str, ...]] = ()  # names of the labels in `Batch.targets` that it learns from
    reads_fused: ClassVar[bool] = True  # False: it is taught before the fusion, which need not be computed for it
    fixed_weight: ClassVar[bool] = False  # True: uncertainty weighting leaves its weight alone
    shares_scale: ClassVar[str | None] = None  # the objective whose learned weight counts for this one too

    @property
    def learns(self) -> bool:
        """Whether the network has what this objective teaches."""
        return True

    def queries(self, batch: Batch) -> Queries | None:
        """Sentences to be encoded with the images when it learns; `features.answers` has what was found."""
        return None

    def prediction_queries(self, batch: Batch) -> Queries | None:
        """As `queries`, when the network predicts."""
        return None

    def refine(self, features: Features) -> Features:
        """The features with what this objective adds to the fused tokens, before any head or objective reads them."""
        return features

    @abstractmethod
    def losses(self, features: Features, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """Scalars by name; empty for a batch without this objective's targets."""

    def predict(self, features: Features) -> Mapping[str, Predicted]:
        """Entries of every chunk's extras, by name."""
        return {}
