"""The data types inside networks: token groups with masks, and batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from verbot.spec import Component

if TYPE_CHECKING:
    from verbot.models.trunks.architecture import DecoderConfig
    from verbot.models.trunks.base import KeyValueCache, TextTokenizer

TEXT_TILE = 64
MemoryState = dict[str, Tensor]  # the state of a memory; every tensor has one row (b, …) per episode


@dataclass(frozen=True)
class TokenGroup:
    """Tokens of one kind.

    Args:
        tokens: (b, n, e).
        mask: (b, n) bool, True for valid tokens. The values of masked tokens must not affect any result.
        kind: ``"words"`` (variable number; tokens of a goal image follow them), ``"sentence"``, ``"keypoints"``, ``"patches"``,
            ``"objects"`` (nodes of a graph), ``"depth"``, ``"state"``, ``"previous_action"``, ``"fused"``.
        points: (b, n, 2) image position of each token, x right and y down in [-1, 1]; for keypoints and objects.
        heatmaps: (b, n, h, w) logits of the spatial distributions whose means are `points`; for keypoints only.
        layers: the inputs of each transformer block that computed these tokens, in order, each (b, n, d) with the same mask;
            None if they were not kept.
        cache: the keys and values of these tokens in each block of the language trunk that computed them; None if there is none.
    """

    tokens: Tensor
    mask: Tensor
    kind: str
    points: Tensor | None = None
    heatmaps: Tensor | None = None
    layers: tuple[Tensor, ...] | None = None
    cache: KeyValueCache | None = None

    @property
    def width(self) -> int:
        return self.tokens.shape[-1]

    def select(self, rows: slice | Tensor) -> TokenGroup:
        """A selection of rows."""
        points, heatmaps = (None if x is None else x[rows] for x in (self.points, self.heatmaps))
        layers = None if self.layers is None else tuple(layer[rows] for layer in self.layers)
        cache = None if self.cache is None else self.cache.select(rows)
        return TokenGroup(self.tokens[rows], self.mask[rows], self.kind, points, heatmaps, layers, cache)

    def mean(self) -> Tensor:
        """The mean of the valid tokens, (b, e); zero if there are none."""
        weight = self.mask.unsqueeze(-1).to(self.tokens.dtype)
        return (self.tokens * weight).sum(1) / weight.sum(1).clamp(min=1)


def join(groups: Sequence[TokenGroup], kind: str = "joined") -> TokenGroup:
    """Concatenate `groups` to one group, without points, heatmaps, layers and cache."""
    return TokenGroup(torch.cat([g.tokens for g in groups], 1), torch.cat([g.mask for g in groups], 1), kind)


@dataclass(frozen=True)
class Sizes:
    """The sizes of robot and network that a part needs when it is built.

    Args:
        width: e, the common width of all tokens.
        views, height, width_px: number of cameras and size of the resized images.
        state: s, the dimensions of the state vector.
        chunk: k, the number of actions in a prediction.
        action: the action's components, in order.
        history: t, the number of input frames; their tokens are concatenated, oldest first.
        depth_views: number of depth cameras, whose images have the same size.
        reads_ahead: a state encoder reads two states, that of then and how far it is from that of now.
    """

    width: int
    views: int
    height: int
    width_px: int
    state: int
    chunk: int
    action: tuple[Component, ...]
    history: int = 1
    depth_views: int = 0
    reads_ahead: bool = False

    @property
    def state_input(self) -> int:
        """The dimensions of what a state encoder reads."""
        return 2 * self.state if self.reads_ahead else self.state

    @property
    def action_size(self) -> int:
        return sum(c.size for c in self.action)


@dataclass(frozen=True)
class HeadInput:
    """What a head is built for.

    Args:
        sizes: sizes of robot and network.
        width: e of the fused tokens that it reads.
        count: n of them; 0 is any number.
        tokenizer: of the backbone's language trunk; None for a backbone without one.
        trunk: the architecture of the language trunk, if the fused tokens have its keys and values (`TokenGroup.cache`).
    """

    sizes: Sizes
    width: int
    count: int
    tokenizer: TextTokenizer | None = None
    trunk: DecoderConfig | None = None


@dataclass(frozen=True)
class TextBatch:
    """Tokenized instructions: ids (n, l) int64, or the states of a frozen encoder (n, l, d); mask (n, l) bool.

    One text per batch row; or distinct texts only, with `rows` (b,) int64, the index of each batch row's text.
    """

    values: Tensor
    mask: Tensor
    rows: Tensor | None = None

    def equally_long(self, most: int) -> TextBatch:
        """The same padded to a multiple of `TEXT_TILE` tokens or to `most`, if that is less; masked tokens end each text.

        Rounding depends on the length. After this, what is computed for a text does not depend on the other texts of the batch,
        unless one has more than `TEXT_TILE` tokens.
        """
        length = self.mask.shape[1]
        more = min(most, -(-length // TEXT_TILE) * TEXT_TILE) - length
        if more <= 0:
            return self
        pad = (0, more) if self.values.ndim == 2 else (0, 0, 0, more)
        return TextBatch(F.pad(self.values, pad), F.pad(self.mask, (0, more)), self.rows)

    def by_row(self) -> TextBatch:
        """The same with each row's own text."""
        return self if self.rows is None else TextBatch(self.values[self.rows], self.mask[self.rows])


@dataclass(frozen=True)
class Masked:
    """Values with a mask.

    Args:
        values: (b, …); masked values may be anything, including NaN.
        mask: bool over the leading axes of `values`, False for unknown values.
    """

    values: Tensor
    mask: Tensor


@dataclass(frozen=True)
class PlannedActions:
    """The actions that each robot would execute from now on, of earlier chunks; a head may continue them.

    Args:
        values: (b, k, a), normalized; rows from `known` on mean nothing.
        known: (b,) int64, how many there are; 0 for a robot that has none.
        committed: (b,) int64, at most `known`: the first ones, which are executed whatever is predicted.
    """

    values: Tensor
    known: Tensor
    committed: Tensor

    def select(self, rows: slice | Tensor) -> PlannedActions:
        """A selection of rows."""
        return PlannedActions(self.values[rows], self.known[rows], self.committed[rows])


@dataclass(frozen=True)
class LaterActions:
    """The actions from some later moments on, of a network that reads ahead.

    Args:
        states: (b, m, s), of these moments.
        actions: (b, m, k, a), with `mask` (b, m, k) bool.
    """

    states: Tensor
    actions: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Suffix:
    """What a language trunk is trained to say after its prefix: ids (b, l) int64, mask (b, l) bool. Masked ids end a row, or
    stand anywhere; they are left out.

    Args:
        is_action: (b, l) bool, the ids of action tokens; the others are text.
    """

    ids: Tensor
    mask: Tensor
    is_action: Tensor

    @staticmethod
    def joined(parts: Sequence[Suffix]) -> Suffix:
        """One after another, with the masked ids of each row at its end."""
        columns = [torch.cat(x, 1) for x in zip(*((p.ids, p.mask, p.is_action) for p in parts), strict=True)]
        order = (~columns[1]).to(torch.uint8).argsort(dim=1, stable=True)
        length = int(columns[1].sum(1).max()) if columns[1].numel() else 0
        return Suffix(*(x.gather(1, order)[:, :length] for x in columns))


@dataclass(frozen=True)
class GoalQueries:
    """Grounding queries: `q` other goals of the images in a batch.

    Args:
        rows: (q,) int64, the batch row of each query.
        text: one instruction per query.
        keypoints: their positions, (q, v, p, 2).
    """

    rows: Tensor
    text: TextBatch
    keypoints: Masked


@dataclass(frozen=True)
class Captions:
    """`q` captions of the images in a batch: first the true ones, then the hard negative of each.

    Args:
        rows: (q,) int64, the batch row of each caption.
        text: one sentence per caption.
        true: (q,) bool.
    """

    rows: Tensor
    text: TextBatch
    true: Tensor


@dataclass(frozen=True)
class Batch:
    """The normalized input of a network. In prediction, the fields that only training needs are empty.

    A network with a memory is trained on sequences of `NetworkConfig.sequence` consecutive rows.

    Args:
        images: (b, t, v, 3, h, w), uint8, or float in [0, 1].
        images_mask: (b, t, v) bool, False where a camera or a past frame is missing.
        state: (b, t, s).
        state_mask: (b, t) bool.
        text: one instruction per row.
        actions: (b, k, a) with `actions_mask` (b, k) bool, False for padding and where the action is unknown.
        targets: labels of the objectives, by name.
        grounding_queries: None without queries.
        captions: None without captions.
        goal: (b, 3, h, w) uint8, goal images, with `goal_mask` (b,) bool, False for rows without one.
        previous_action: (b, a), with mask (b,) False for rows where it is unknown; None masks all rows.
        memory: in prediction, the memory state from before; None at the start of episodes.
        writes: (b,) bool, in prediction: the rows that write to the memory; None for all.
        features: (b, t, v, n, d), precomputed features of the vision encoder, which then neither reads the images nor is trained;
            None to encode the images.
        depth: meters (b, t, d, h, w), 0 where unknown, with mask (b, t, d) False where a camera or a past frame is missing; None
            without depth.
        planned: in prediction, the actions that are left of earlier chunks; None without any.
        text_targets: in training, what a language trunk says before its actions, or as an answer; None for nothing.
        ahead: (b, s), the state from which on actions are predicted; None for that of the latest frame.
        later: in training, what else the same images are trained on; None for nothing.
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
    depth: Masked | None = None
    planned: PlannedActions | None = None
    text_targets: Suffix | None = None
    ahead: Tensor | None = None
    later: LaterActions | None = None

    def to(self, device: torch.device | str) -> Batch:
        def move(value: Any) -> Any:
            if isinstance(value, TextBatch | GoalQueries | Captions | Masked | PlannedActions | LaterActions | Suffix):
                return type(value)(**{f.name: move(getattr(value, f.name)) for f in dataclasses.fields(value)})
            if isinstance(value, Mapping):
                return {name: move(item) for name, item in value.items()}
            return None if value is None else value.to(device)

        return Batch(**{f.name: move(getattr(self, f.name)) for f in dataclasses.fields(self)})
