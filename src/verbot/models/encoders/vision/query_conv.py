"""A convolutional network per view that sees everything once, and queries made of the sentence that point into it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.contracts import POINTS
from verbot.errors import ConfigError
from verbot.models.encoders.vision.spatial_softmax import NearPlace, check_heatmaps, look, place_reader
from verbot.models.layers.transformer import centered, pixel_grid
from verbot.models.registries import vision_encoders
from verbot.models.tokens import Sizes, TokenGroup


@vision_encoders.register("query_conv")
class QueryConv(nn.Module):
    """One token per heatmap and view: where it looks, and what is there.

    The features of a place do not depend on what was said. The sentence becomes one query per heatmap, whose inner product with
    the features is that heatmap: as in a detector that is told what to find. What "red" and "cube" ask for adds up, so pairs
    that were never named together can be found, and less is computed than with FiLM at the fine level.

    Args:
        channels: of the finer level; the coarser has twice as many.
        features: of each place that the queries are compared with.
        heatmaps: per view; the first three are those that the keypoint loss teaches.
        by_place: the sentence can also ask for a place, as what was learned from a goal image may: to each heatmap it adds the
            logarithm of a normal distribution over the image.
        stem: channels of one more level, of half the image's size, for what is a pixel or two wide; 0 goes to the finer, a
            quarter of it, at once.
    """

    cells: Tensor

    def __init__(
        self, sizes: Sizes, channels: int = 16, features: int = 32, heatmaps: int = 16, by_place: bool = False, stem: int = 0
    ):
        super().__init__()
        if sizes.height % 8 or sizes.width_px % 8:
            raise ConfigError(f"query_conv needs image sides that are multiples of 8; got {sizes.height}×{sizes.width_px}")
        check_heatmaps("query_conv", heatmaps)
        self.views, self.heatmaps = sizes.views, heatmaps
        self.counts = {"keypoints": sizes.views * heatmaps}
        self.grid = (sizes.height // 4, sizes.width_px // 4)
        self.trunks = nn.ModuleList(_Trunk(channels, features, stem) for _ in range(sizes.views))
        self.queries = nn.Linear(sizes.width, sizes.views * heatmaps * features)
        self.project = place_reader(features, sizes.width)
        self.slots = nn.Parameter(torch.randn(sizes.views * heatmaps, sizes.width) * 0.02)
        self.where = NearPlace(sizes.width, sizes.views, heatmaps, self.grid) if by_place else None
        self.register_buffer("cells", pixel_grid(*self.grid), persistent=False)

    def forward(self, images: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        return self.groups(self.see(images), mask, sentence)

    def ask_many(
        self, images: Tensor, mask: Tensor, sentence: Tensor, questions: Tensor, rows: Tensor
    ) -> tuple[list[TokenGroup], TokenGroup]:
        """As `forward`, and the taught heatmaps alone for questions (q, e) of images `rows` (q,), seen once for all."""
        return self.answer(self.see(images), mask, sentence, questions, rows)

    def see(self, images: Tensor) -> Tensor:
        """The features of every place (b, v, h·w / 16, f) of centered images."""
        return torch.stack([trunk(images[:, v]) for v, trunk in enumerate(self.trunks)], 1)

    def features(self, images: Tensor) -> Tensor:
        """What is seen, whatever is said, in images (…, v, 3, h, w), uint8 or float in [0, 1]: (…, v, h·w / 16, f).

        It may be computed once and kept: `groups` and `answer` go on from there.
        """
        return self.see(centered(images).flatten(0, -5)).unflatten(0, images.shape[:-4])

    def groups(self, features: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        return [self.point(features, mask, sentence)]

    def answer(
        self, features: Tensor, mask: Tensor, sentence: Tensor, questions: Tensor, rows: Tensor
    ) -> tuple[list[TokenGroup], TokenGroup]:
        """As `ask_many`, of features as of `features`."""
        asked = features.index_select(0, rows)
        return self.groups(features, mask, sentence), self.point(asked, mask[rows], questions, len(POINTS))

    def ask(self, sentence: Tensor, count: int) -> Tensor:
        """The queries (b, v, p, f) of the first `count` heatmaps."""
        weight, bias = (
            x.unflatten(0, (self.views, self.heatmaps, -1))[:, :count] for x in (self.queries.weight, self.queries.bias)
        )
        return F.linear(sentence, weight.flatten(0, 2), bias.flatten()).unflatten(-1, (self.views, count, -1))

    def point(
        self,
        features: Tensor,
        mask: Tensor,
        sentence: Tensor,
        count: int | None = None,
        more: Sequence[Tensor] | None = None,
    ) -> TokenGroup:
        """The first `count` heatmaps of each view; to the first three of them `more` logits (b, 3, n) of each view are added."""
        count = count or self.heatmaps
        queries = self.ask(sentence, count)
        near = [None] * self.views if self.where is None else self.where(sentence)[:, :, :count].unbind(1)
        if more is not None:
            padded = [F.pad(view, (0, 0, 0, count - len(POINTS))) for view in more]
            near = [add if own is None else own + add for own, add in zip(near, padded, strict=True)]
        read, logits = zip(
            *(self._attend(places, queries[:, v], near[v]) for v, places in enumerate(features.unbind(1))), strict=True
        )
        slots = self.slots.unflatten(0, (self.views, -1))[:, :count].flatten(0, 1)
        tokens = self.project(torch.cat(read, 1)) + slots  # (b, v·p, e)
        points = torch.cat(read, 1)[..., -2:]
        heatmaps = torch.cat(logits, 1).unflatten(-1, self.grid)
        return TokenGroup(tokens, mask.repeat_interleave(count, 1), "keypoints", points, heatmaps)

    def _attend(self, places: Tensor, queries: Tensor, near: Tensor | None) -> tuple[Tensor, Tensor]:
        """What each query (b, p, f) reads among the places (b, n, f), and where (b, p, f + 2); its logits (b, p, n)."""
        logits = torch.bmm(queries, places.transpose(1, 2))
        logits = logits if near is None else logits + near
        return look(logits, places, self.cells), logits


class _Trunk(nn.Module):
    """Images (b, 3, h, w) to features of every fourth pixel (b, h·w / 16, f)."""

    def __init__(self, channels: int, features: int, stem: int = 0):
        super().__init__()
        # Drawn even where it is replaced: measured figures hang on the numbers that come after.
        self.stem: nn.Module = nn.Conv2d(3, channels, 6, 4, padding=1)
        if stem:
            first, second = nn.Conv2d(3, stem, 4, 2, padding=1), nn.Conv2d(stem, channels, 4, 2, padding=1)
            self.stem = nn.Sequential(first, nn.ReLU(), second)
        self.fine = _Block(channels)
        self.down = nn.Conv2d(channels, 2 * channels, 3, 2, padding=1)
        self.coarse = _Block(2 * channels)
        self.across = nn.Conv2d(channels, features, 1)
        self.up = nn.Conv2d(2 * channels, features, 1)

    def forward(self, images: Tensor) -> Tensor:
        # Channels last in memory: a CPU's convolutions, and the products that follow, are a quarter faster so.
        fine = self.fine(F.relu(self.stem(images.contiguous(memory_format=torch.channels_last))))
        coarse = self.coarse(F.relu(self.down(fine)))
        places = F.relu(self.across(fine) + F.interpolate(self.up(coarse), scale_factor=2))
        return places.permute(0, 2, 3, 1).flatten(1, 2)


class _Block(nn.Module):
    """x + conv(relu(conv(x))), rectified."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))
