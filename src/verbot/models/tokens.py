"""The currency inside networks: groups of tokens with a mask; and the batch that a network is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from verbot.spec import Component

MemoryState = dict[str, Tensor]  # what a memory keeps, every tensor with a row (b, …) for each episode


@dataclass(frozen=True)
class TokenGroup:
    """Tokens of one kind.

    Args:
        tokens: (b, n, e).
        mask: (b, n) bool, True where the token holds something. What a masked token holds must change nothing.
        kind: ``"words"`` (of any number; a goal image's tokens follow them); ``"sentence"``, ``"keypoints"``, ``"patches"``,
            ``"objects"`` (nodes of a graph), ``"state"``, ``"acted"`` (what was done before), ``"fused"``.
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


@dataclass(frozen=True)
class Questions:
    """Other goals `q` of the pictures in a batch, each to be pointed at.

    Args:
        rows: (q,) int64, which row's latest frame each is asked of.
        text: one goal a row.
        keypoints: (q, v, p, 2) with `mask` (q, v, p) bool.
    """

    rows: Tensor
    text: TextBatch
    keypoints: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Captions:
    """Sentences `q` that are true or false of the pictures in a batch: first the true ones, then the foil of each.

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
    """What a network learns from, all normalized; for prediction all that it has to learn is None.

    A network with a memory learns from sequences: runs of `NetworkConfig.sequence` rows that follow one another in time.

    Args:
        images: (b, t, v, 3, h, w), uint8, or float in [0, 1].
        images_mask: (b, t, v) bool, False where a camera or a past frame is missing.
        state: (b, t, s).
        state_mask: (b, t) bool.
        text: one instruction a row.
        actions: (b, k, a) with `actions_mask` (b, k) bool, False for padding and where the action is unknown.
        keypoints: (b, v, p, 2) in [-1, 1] of the latest frame, with `keypoints_mask` (b, v, p) bool for those that can be seen
            and `recall_mask` for all that are known.
        questions: None where none are asked.
        captions: None where there are none.
        goal: (b, 3, h, w) uint8, the wanted state as an image, with `goal_mask` (b,) bool, False where there is none.
        acted: (b, a), the action of the control step before the latest frame, with `acted_mask` (b,) bool, False where there is
            none, or it is not known. None is masked throughout.
        steps_left: (b,) int64, control steps until the episode's end; −1 where it did not end in success.
        task: (b,) int64, which of the tasks that the head was made for; −1 where that is not known. None is −1 throughout.
        grasp: (b, s), the state in which the hand will hold what it is about to take, with `grasp_mask` (b,) bool, False where it
            takes nothing.
        memory: for prediction, what was remembered before; None is nothing yet.
        writes: (b,) bool, for prediction: the rows that are to be remembered; None is all.
        features: (b, t, v, n, d) what the vision encoder made of the images, which then are not looked at (they may have no
            channels) and teach it nothing; None where the encoder is to look.
    """

    images: Tensor
    images_mask: Tensor
    state: Tensor
    state_mask: Tensor
    text: TextBatch
    actions: Tensor | None = None
    actions_mask: Tensor | None = None
    keypoints: Tensor | None = None
    keypoints_mask: Tensor | None = None
    recall_mask: Tensor | None = None
    questions: Questions | None = None
    captions: Captions | None = None
    goal: Tensor | None = None
    goal_mask: Tensor | None = None
    acted: Tensor | None = None
    acted_mask: Tensor | None = None
    steps_left: Tensor | None = None
    task: Tensor | None = None
    grasp: Tensor | None = None
    grasp_mask: Tensor | None = None
    memory: MemoryState | None = None
    writes: Tensor | None = None
    features: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        def move(value: Any) -> Any:
            if isinstance(value, TextBatch | Questions | Captions):
                return type(value)(**{f.name: move(getattr(value, f.name)) for f in dataclasses.fields(value)})
            if isinstance(value, dict):
                return {name: move(item) for name, item in value.items()}
            return None if value is None else value.to(device)

        return Batch(**{f.name: move(getattr(self, f.name)) for f in dataclasses.fields(self)})


@dataclass(frozen=True)
class Prediction:
    """`actions` (b, k, a) normalized; `keypoints` (b, v, p, 2) in [-1, 1], None where the vision encoder has no heatmaps;
    `memory` to be given with the next batch of the same rows, None where the network has none; `value` (b,) in (0, 1), None
    where the network has no value head; `tasks` (b, n), how likely each of the head's tasks is, None where it knows none; `grasp`
    (b, s), normalized, None where the network foretells none; `alignment` (b,) in [-1, 1], how alike what is seen and what is
    said are, None where the network has no contrast."""

    actions: Tensor
    keypoints: Tensor | None = None
    memory: MemoryState | None = None
    value: Tensor | None = None
    tasks: Tensor | None = None
    grasp: Tensor | None = None
    alignment: Tensor | None = None
