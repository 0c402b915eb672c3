"""Autoregressive codes: a chunk as a sequence of a few codes from a codebook of action pieces."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.action_space import check, classes, constrained, targets
from verbot.models.layers.transformer import CrossBlock, masked_mean, until
from verbot.models.registries import heads
from verbot.models.stochastic import categorical
from verbot.models.tokens import Batch, HeadInput, TokenGroup, join
from verbot.spec import Component, FloatArray

MOST_CLASSES = 4096
Codes = Sequence[Sequence[Sequence[float]]]


@heads.register("sequence")
class CodeSequence(nn.Module):
    """An autoregressive sequence of `steps` codes out of `actions`, trained with teacher forcing and decoded greedily.

    A causal transformer reads the previous codes and attends to the fused tokens. The chunk of k actions is cut into `steps`
    pieces of k // steps actions or one more (longer ones last). The code of a piece is the nearest entry of the codebook, by
    squared distance over its valid steps. The residual of a piece is predicted as an offset, one for each code, and trained for
    the true code (as in BeT, Shafiullah et al. 2022): 20 pieces alone are too coarse for an arm.
    If all action components are discrete, each action is a code (a combination of classes), the sequence has k codes, and there
    are no offsets.

    Args:
        steps, actions: codes in a sequence, and size of the codebook (3 and 20); unused if all components are discrete.
        codes: the codebook (actions, longest piece, a) in normalized units; `fit` computes it by k-means. Without one, codes start
            from seeded normal noise and are trained to be near their pieces (van den Oord et al. 2017).
        offsets: whether offsets are predicted.
        hidden, layers, heads: the width and the numbers of layers and heads of the decoder.
    """  # noqa: E501

    codes: Tensor

    def __init__(
        self,
        inputs: HeadInput,
        steps: int = 3,
        actions: int = 20,
        codes: Codes | None = None,
        offsets: bool = True,
        hidden: int = 128,
        layers: int = 2,
        heads: int = 4,
    ):
        super().__init__()
        sizes, width = inputs.sizes, inputs.width
        check(sizes.action)
        self.action, self.learned = sizes.action, False
        if (combinations := _combinations(sizes.action)) is not None:
            steps, book, offsets = sizes.chunk, combinations, False  # (n, 1, a)
        elif codes is not None:
            book = torch.tensor(codes, dtype=torch.float32)
        else:
            self.learned = True
            shape = (actions, _longest(sizes.chunk, steps), sizes.action_size)
            book = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        self.lengths = piece_lengths(sizes.chunk, steps)
        if book.ndim != 3 or book.shape[1:] != (max(self.lengths), sizes.action_size):
            expected = f"(actions, {max(self.lengths)}, {sizes.action_size})"
            raise ConfigError(f"the codebook has shape {tuple(book.shape)}; {steps} steps of this robot need {expected}")
        if self.learned:
            self.codes = nn.Parameter(book)
        else:
            self.register_buffer("codes", book)
        self.start = len(book)  # the code before the first one, and of unknown pieces
        self.embed, self.places = nn.Embedding(len(book) + 1, hidden), nn.Parameter(torch.randn(steps, hidden) * 0.02)
        nn.init.normal_(self.embed.weight, std=0.1)
        self.memory = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden))
        self.nothing = nn.Parameter(
            torch.randn(1, 1, hidden) * 0.02
        )  # an additional key, so that attention to a single fused token is not constant
        self.blocks = nn.ModuleList(CrossBlock(hidden, heads) for _ in range(layers))
        self.norm, self.out = nn.LayerNorm(hidden), nn.Linear(hidden, len(book))
        self.offset = nn.Linear(hidden, book.numel()) if offsets else None

    @staticmethod
    def fit(options: Mapping[str, Any], chunks: FloatArray) -> dict[str, Any]:
        """The same options with a codebook, the k-means of all pieces of `chunks` (n, k, a), unless one is given.

        Chunks of whole numbers are classes and need no codebook.
        """
        if options.get("codes") is not None or bool((chunks == chunks.round()).all()):
            return dict(options)
        steps, actions = options.get("steps", 3), options.get("actions", 20)
        lengths = piece_lengths(chunks.shape[1], steps)
        starts = np.cumsum([0, *lengths[:-1]])  # the longest piece fits at each start, because longer pieces are last
        pieces = np.concatenate([chunks[:, i : i + max(lengths)] for i in starts])
        centers = k_means(pieces.reshape(len(pieces), -1), actions)
        return {**options, "codes": centers.reshape(-1, *pieces.shape[1:]).tolist()}

    def losses(self, fused: TokenGroup, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """``{"action": entropy + offset + distance, …}``; all zero if no piece is known.

        ``"entropy"`` is the mean cross-entropy of the codes of known pieces, in nats; ``"offset"`` the mean L1 error of code plus
        offset; ``"distance"``, part of the loss if codes are learned, the mean squared error of the code.
        """
        pieces, known = self._pieces(*targets(batch))
        index, distance = self.nearest(pieces, known)
        some = known.any(-1)  # (b, steps)
        features = self.features(fused, index.masked_fill(~some, self.start))
        entropy = F.cross_entropy(self.out(features).flatten(0, 1), index.flatten(), reduction="none").view(index.shape)
        losses = {"entropy": masked_mean(entropy.unsqueeze(-1), some)}
        if self.offset is not None:
            losses["offset"] = masked_mean((pieces - self.codes[index].detach() - self._offsets(features, index)).abs(), known)
        if self.learned:
            losses["distance"] = distance
        return {"action": sum(losses.values(), pieces.new_zeros(())), **{name: x.detach() for name, x in losses.items()}}

    def features(self, fused: TokenGroup, codes: Tensor) -> Tensor:
        """Features of each step (b, m, hidden), from the codes (b, m) of the steps before it."""
        before = torch.cat([torch.full_like(codes[:, :1], self.start), codes[:, :-1]], 1)
        nothing = TokenGroup(self.nothing.expand(len(codes), -1, -1), fused.mask.new_ones(len(codes), 1), "nothing")
        memory = join([TokenGroup(self.memory(fused.tokens), fused.mask, "fused"), nothing])
        x = self.embed(before) + self.places[: codes.shape[1]]  # (b, m, hidden)
        so_far = until(torch.arange(x.shape[1], device=x.device), torch.ones_like(before, dtype=torch.bool))  # (b, m, m)
        for block in self.blocks:
            x = block(x, so_far, memory.tokens, memory.mask)
        return self.norm(x)

    def logits(self, fused: TokenGroup, codes: Tensor) -> Tensor:
        """Logits of each step's code (b, m, actions), given the codes (b, m) of the steps before it."""
        return self.out(self.features(fused, codes))

    def plan(self, fused: TokenGroup, generator: torch.Generator | None = None) -> Tensor:
        """The most likely code of each step (b, steps), given the codes before it; sampled if a generator is given."""
        codes = torch.full((len(fused.tokens), 1), self.start, device=fused.tokens.device)
        for step in range(len(self.lengths)):
            logits = self.logits(fused, codes)[:, step]
            codes[:, step] = logits.argmax(-1) if generator is None else categorical(logits.softmax(-1), generator)
            codes = F.pad(codes, (0, 1), value=self.start)
        return codes[:, :-1]

    def sample(self, fused: TokenGroup, generator: torch.Generator) -> Tensor:
        return self._actions(fused, self.plan(fused, generator))

    def predict(self, fused: TokenGroup, generator: torch.Generator | None = None) -> Tensor:
        return self._actions(fused, self.plan(fused))

    def _actions(self, fused: TokenGroup, codes: Tensor) -> Tensor:
        pieces = self.codes[codes]  # (b, steps, longest, a)
        if self.offset is not None:
            pieces = pieces + self._offsets(self.features(fused, codes), codes)
        actions = torch.cat([piece[:, :length] for piece, length in zip(pieces.unbind(1), self.lengths, strict=True)], 1)
        return constrained(self.action, actions)

    def nearest(self, pieces: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """The codes (b, steps) nearest to `pieces` (b, steps, longest, a) where `known`, and their mean squared distance."""
        apart = (pieces.unsqueeze(2) - self.codes.detach()).square() * known[:, :, None, :, None]
        index = apart.sum((-2, -1)).argmin(-1)
        return index, masked_mean((pieces - self.codes[index]).square(), known)

    def _offsets(self, features: Tensor, codes: Tensor) -> Tensor:
        """The offsets of the pieces for `codes` (b, steps): (b, steps, longest, a)."""
        assert self.offset is not None
        every = self.offset(features).unflatten(-1, tuple(self.codes.shape))  # (b, steps, actions, longest, a)
        index = codes[..., None, None, None].expand(*codes.shape, 1, *self.codes.shape[1:])
        return every.gather(2, index).squeeze(2)

    def _pieces(self, actions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Cut (b, k, a) into pieces (b, steps, longest, a) with their mask (b, steps, longest)."""
        longest = max(self.lengths)
        whole = constrained(self.action, actions)
        pieces = [F.pad(x, (0, 0, 0, longest - x.shape[1])) for x in whole.split(self.lengths, 1)]
        known = [F.pad(x, (0, longest - x.shape[1])) for x in mask.split(self.lengths, 1)]
        return torch.stack(pieces, 1), torch.stack(known, 1)


def piece_lengths(chunk: int, steps: int) -> list[int]:
    """The actions in each step's piece, the longer ones last: (10, 3) → [3, 3, 4]. Raises `ConfigError` for too many steps."""
    if not 1 <= steps <= chunk:
        raise ConfigError(f"a chunk of {chunk} actions cannot be cut into {steps} steps; expected 1 to {chunk}")
    return [chunk // steps + (i >= steps - chunk % steps) for i in range(steps)]


def k_means(points: FloatArray, count: int, rounds: int = 50, seed: int = 0) -> FloatArray:
    """`count` centers (count, d) of points (n, d): seeded k-means++ starts, then Lloyd's iterations until convergence."""
    rng, points = np.random.default_rng(seed), np.asarray(points, np.float64)
    centers = points[rng.integers(len(points))][None]
    apart = ((points - centers[0]) ** 2).sum(1)
    while len(centers) < count:
        chance = apart / apart.sum() if apart.sum() > 0 else None  # fewer distinct points than centers: repeat some
        centers = np.concatenate([centers, points[rng.choice(len(points), p=chance)][None]])
        apart = np.minimum(apart, ((points - centers[-1]) ** 2).sum(1))
    for _ in range(rounds):
        distances = (points**2).sum(1)[:, None] - 2 * points @ centers.T + (centers**2).sum(1)
        owner = distances.argmin(1)
        sums = np.stack([np.bincount(owner, column, count) for column in points.T], 1)
        sizes = np.bincount(owner, minlength=count)[:, None]
        moved = np.where(sizes > 0, sums / np.maximum(sizes, 1), centers)
        if np.allclose(moved, centers):
            break
        centers = moved
    return centers.astype(np.float32)


def _longest(chunk: int, steps: int) -> int:
    return max(piece_lengths(chunk, steps))


def _combinations(action: tuple[Component, ...]) -> Tensor | None:
    """Every combination of classes (n, 1, a) if all components are discrete, else None."""
    if any(c.kind != "discrete" for c in action):
        return None
    counts = [n for c in action for n in classes(c)]
    if (total := int(np.prod(counts))) > MOST_CLASSES:
        raise ConfigError(f"the discrete action components combine to {total} classes; at most {MOST_CLASSES} can be codes")
    lows = [low for c in action for low in c.low]
    values = [[low + i for i in range(n)] for low, n in zip(lows, counts, strict=True)]
    return torch.tensor(list(itertools.product(*values)), dtype=torch.float32).unsqueeze(1)
