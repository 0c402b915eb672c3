"""What objectives are given: the features of a batch, and what they may ask of the network for them."""

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
    """Other sentences `q` for the latest images of a batch, to be encoded in the same pass of the vision encoder.

    Args:
        rows: (q,) int64, which row's latest image each is about.
        text: one sentence a query; None takes each row's own instruction.
    """

    rows: Tensor
    text: TextBatch | None = None


@dataclass(frozen=True)
class Answers:
    """What the vision encoder found for the queries of one objective: keypoint tokens (q, v·p, e) and sentences (q, e)."""

    keypoints: TokenGroup
    sentences: Tensor


@dataclass(frozen=True)
class Features:
    """The features of a batch.

    Args:
        batch: what they are the features of.
        words, sentence: (b, l, e) and (b, 1, e) of the instructions.
        vision: the token groups of the vision encoder, of all frames, the latest last.
        fused: (b, n, e) after the fusion, the memory, and what objectives refined. Empty, n = 0, while nothing is fused.
        before_memory: `fused` as the fusion made it.
        answers: by objective, to its `queries`.
        notes: by objective, what its `refine` left for its own losses.
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
        """The keypoint tokens among those of the vision encoder, of all frames; None where it makes none."""
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
        names: of the last axis: told as {name: number}.
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


@dataclass(frozen=True)
class NetworkParts:
    """What an objective may use of the network that it belongs to, at construction.

    Args:
        sizes: of robot and network.
        vision, head: the modules.
        width, count: of the fused tokens that the head reads.
        read: (text) -> the sentence vectors (n, e).
        look: (batch, sentences (b, e)) -> all vision tokens of the latest images (b, n, e), encoded for these sentences.
    """

    sizes: Sizes
    vision: nn.Module
    head: nn.Module
    width: int
    count: int
    read: Callable[[TextBatch], Tensor]
    look: Callable[[Batch, Tensor], TokenGroup]

    @property
    def vision_counts(self) -> Mapping[str, int]:
        """Tokens of one frame by kind."""
        counts: Mapping[str, int] = self.vision.counts  # type: ignore[assignment]
        return counts


class TrainingObjective(nn.Module):
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

    def losses(self, features: Features, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """Scalars by name; empty for a batch without this objective's targets."""
        raise NotImplementedError

    def predict(self, features: Features) -> Mapping[str, Predicted]:
        """Entries of every chunk's extras, by name."""
        return {}
