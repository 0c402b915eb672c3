"""The interface between a network and its objectives: features of a batch, queries and their answers, predictions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from verbot.models.tokens import Batch, MemoryState, Sizes, TextBatch, TokenGroup

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Queries:
    """Additional sentences `q` for the latest images of a batch, encoded in the same pass of the vision encoder.

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
class Features:
    """The features of a batch.

    Args:
        batch: the batch from which they were computed.
        words, sentence: (b, l, e) and (b, 1, e) of the instructions.
        vision: the token groups of the vision encoder, of all frames, the latest last.
        fused: (b, n, e) after the fusion, the memory and `TrainingObjective.refine`. Empty (n = 0) before the fusion.
        before_memory: `fused` as the fusion returned it.
        answers: by objective, to its `queries`.
        notes: by objective, intermediate results that its `refine` keeps for its own losses.
    """

    batch: Batch
    words: TokenGroup
    sentence: TokenGroup
    vision: tuple[TokenGroup, ...]
    fused: TokenGroup
    before_memory: TokenGroup
    answers: Mapping[str, Answers] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def keypoints(self) -> TokenGroup | None:
        """The keypoint tokens of the vision encoder, of all frames; None if it has none."""
        return next((group for group in self.vision if group.heatmaps is not None), None)

    def refined(self, fused: TokenGroup, name: str, note: Any) -> Features:
        """A copy with other fused tokens and with the note of the objective `name`."""
        return dataclasses.replace(self, fused=fused, notes={**self.notes, name: note})


@dataclass(frozen=True)
class Predicted:
    """A prediction of an objective for each row; becomes an entry of `ActionChunk.extras`.

    Args:
        values: (b, …).
        space: ``"state"`` for normalized states, which are converted back to the robot's units.
        names: of the entries of the last axis; the prediction is then reported as {name: number}.
    """

    values: Tensor
    space: Literal["plain", "state"] = "plain"
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """`actions` (b, k, a), normalized; `extras` of the objectives by name; `memory` for the next batch of the same rows, None for
    a network without memory."""

    actions: Tensor
    extras: Mapping[str, Predicted] = field(default_factory=dict)
    memory: MemoryState | None = None


@dataclass(frozen=True)
class NetworkParts:
    """The parts of a network that an objective can use when it is built.

    Args:
        sizes: of robot and network.
        vision, head: the modules.
        width, count: of the fused tokens that the head reads.
        encode_text: (text) -> sentence embeddings (n, e).
        encode_images: (batch, sentences (b, e)) -> all vision tokens (b, n, e) of the latest images for these sentences.
    """

    sizes: Sizes
    vision: nn.Module
    head: nn.Module
    width: int
    count: int
    encode_text: Callable[[TextBatch], Tensor]
    encode_images: Callable[[Batch, Tensor], TokenGroup]

    @property
    def vision_counts(self) -> Mapping[str, int]:
        """Tokens of one frame by kind."""
        counts: Mapping[str, int] = self.vision.counts  # type: ignore[assignment]
        return counts


class TrainingObjective(nn.Module):
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
    def learns(self) -> bool:
        """Whether the network has the parts that this objective trains."""
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

    def losses(self, features: Features, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """Scalars by name; empty for a batch without this objective's targets."""
        raise NotImplementedError

    def predict(self, features: Features) -> Mapping[str, Predicted]:
        """Entries of every chunk's extras, by name."""
        return {}
