"""What flows inside networks: groups of tokens with a mask, and the batch that a network is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from verbot.spec import Component

MemoryState = dict[str, Tensor]  # what a memory holds, every tensor with a row (b, …) for each episode


@dataclass(frozen=True)
class TokenGroup:
    """Tokens of one kind.

    Args:
        tokens: (b, n, e).
        mask: (b, n) bool, True where the token holds something. What a masked token holds must change nothing.
        kind: ``"words"`` (of any number; a goal image's tokens follow them); ``"sentence"``, ``"keypoints"``, ``"patches"``,
            ``"objects"`` (nodes of a graph), ``"state"``, ``"previous_action"``, ``"fused"``.
        points: (b, n, 2) where in the image each token looks, x right and y down in [-1, 1]; for keypoints and objects.
        heatmaps: (b, n, h, w) the logits that `points` is the expectation of; for keypoints only.
        layers: the same tokens as they went into each block of what made them, the first block's first, each (b, n, d) under
            the same mask; None where nobody keeps them.
    """

    tokens: Tensor
    mask: Tensor
    kind: str
    points: Tensor | None = None
    heatmaps: Tensor | None = None
    layers: tuple[Tensor, ...] | None = None

    @property
    def width(self) -> int:
        return self.tokens.shape[-1]

    def take(self, some: slice | Tensor) -> TokenGroup:
        """The same tokens of some rows only."""
        points, heatmaps = (None if x is None else x[some] for x in (self.points, self.heatmaps))
        layers = None if self.layers is None else tuple(layer[some] for layer in self.layers)
        return TokenGroup(self.tokens[some], self.mask[some], self.kind, points, heatmaps, layers)

    def mean(self) -> Tensor:
        """The mean of the valid tokens, (b, e); zero where there are none."""
        weight = self.mask.unsqueeze(-1).to(self.tokens.dtype)
        return (self.tokens * weight).sum(1) / weight.sum(1).clamp(min=1)


def join(groups: Sequence[TokenGroup], kind: str = "joined") -> TokenGroup:
    """All tokens of `groups` in order, as one group; points, heatmaps and layers stay with their own groups."""
    return TokenGroup(torch.cat([g.tokens for g in groups], 1), torch.cat([g.mask for g in groups], 1), kind)


@dataclass(frozen=True)
class Sizes:
    """What a part must know of the robot and of the network that it joins.

    Args:
        width: e, the common width of all tokens.
        views, height, width_px: the cameras and the size that every image is brought to.
        state: s, the dimensions of the state vector.
        chunk: k, the actions predicted at once.
        action: the action's components, in order.
        history: t, the frames whose tokens lie side by side, the oldest first.
    """

    width: int
    views: int
    height: int
    width_px: int
    state: int
    chunk: int
    action: tuple[Component, ...]
    history: int = 1

    @property
    def action_size(self) -> int:
        return sum(c.size for c in self.action)


@dataclass(frozen=True)
class TextBatch:
    """Instructions as numbers: ids (n, l) int64, or the states of a frozen encoder (n, l, d); mask (n, l) bool.

    Each row's own; or, where many rows say the same, each once, with the `rows` (b,) int64: which of them each row says.
    """

    values: Tensor
    mask: Tensor
    rows: Tensor | None = None

    def by_row(self) -> TextBatch:
        """The same with each row's own text."""
        return self if self.rows is None else TextBatch(self.values[self.rows], self.mask[self.rows])


@dataclass(frozen=True)
class Masked:
    """Values of which some are unknown.

    Args:
        values: (b, …); an unknown one may be anything, NaN too.
        mask: bool over the first axes of `values`, False where the value is unknown.
    """

    values: Tensor
    mask: Tensor


@dataclass(frozen=True)
class GoalQueries:
    """Other goals `q` of the images in a batch.

    Args:
        rows: (q,) int64, which row's latest frame each belongs to.
        text: one goal a row.
        keypoints: where its points are, (q, v, p, 2).
    """

    rows: Tensor
    text: TextBatch
    keypoints: Masked


@dataclass(frozen=True)
class Captions:
    """Sentences `q` that are true or false of the images in a batch: first the true ones, then the hard negative of each.

    Args:
        rows: (q,) int64, which row's latest frame each is about.
        text: one sentence a row.
        true: (q,) bool.
    """

    rows: Tensor
    text: TextBatch
    true: Tensor


@dataclass(frozen=True)
class Batch:
    """What a network learns from, all normalized; for prediction everything that only learning needs is absent.

    A network with a memory learns from sequences: runs of `NetworkConfig.sequence` rows that follow one another in time.

    Args:
        images: (b, t, v, 3, h, w), uint8, or float in [0, 1].
        images_mask: (b, t, v) bool, False where a camera or a past frame is missing.
        state: (b, t, s).
        state_mask: (b, t) bool.
        text: one instruction a row.
        actions: (b, k, a) with `actions_mask` (b, k) bool, False for padding and where the action is unknown.
        targets: by label, what objectives learn beside the actions.
        grounding_queries: None where there are none.
        captions: None where there are none.
        goal: (b, 3, h, w) uint8, an image of the wanted state, with `goal_mask` (b,) bool, False where there is none.
        previous_action: (b, a) of the control step before the latest frame, masked (b,) where there is none or it is unknown;
            None is masked throughout.
        memory: for prediction, what was remembered before; None is nothing yet.
        writes: (b,) bool, for prediction: the rows that write into the memory; None is all.
        features: (b, t, v, n, d) of the images from the vision encoder, which then does not see them (they may have no channels)
            and does not learn; None where the encoder is to see.
    """

    images: Tensor
    images_mask: Tensor
    state: Tensor
    state_mask: Tensor
    text: TextBatch
    actions: Tensor | None = None
    actions_mask: Tensor | None = None
    targets: Mapping[str, Masked] = field(default_factory=dict)
    grounding_queries: GoalQueries | None = None
    captions: Captions | None = None
    goal: Tensor | None = None
    goal_mask: Tensor | None = None
    previous_action: Masked | None = None
    memory: MemoryState | None = None
    writes: Tensor | None = None
    features: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        def move(value: Any) -> Any:
            if isinstance(value, TextBatch | GoalQueries | Captions | Masked):
                return type(value)(**{f.name: move(getattr(value, f.name)) for f in dataclasses.fields(value)})
            if isinstance(value, Mapping):
                return {name: move(item) for name, item in value.items()}
            return None if value is None else value.to(device)

        return Batch(**{f.name: move(getattr(self, f.name)) for f in dataclasses.fields(self)})
