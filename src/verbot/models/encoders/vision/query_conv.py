"""A convolutional network per view whose features do not depend on the sentence; the sentence makes heatmap queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.contracts import POINTS
from verbot.models.encoders.vision.sides import check_sides
from verbot.models.encoders.vision.spatial_softmax import NearPlace, check_heatmaps, place_reader, spatial_softmax
from verbot.models.layers.transformer import centered, pixel_grid
from verbot.models.registries import vision_encoders
from verbot.models.tokens import Sizes, TokenGroup


@vision_encoders.register("query_conv")
class QueryConv(nn.Module):
    """One token per heatmap and view, with the expected position and the features there.

    Image features do not depend on the sentence. The sentence is mapped to one query per heatmap; the heatmap is the inner
    product of query and features, as in open-vocabulary detectors. Queries for "red" and "cube" add up, which generalizes to
    unseen pairs, and it takes less computation than FiLM at the fine level.

    Args:
        channels: number of channels of the finer level; the coarser one has twice as many.
        features: dimension of features and queries.
        heatmaps: per view; the first three are supervised by the keypoint loss.
        by_place: queries may also specify a position, for example from a goal image: the logarithm of a normal distribution over
            the image is added to each heatmap.
        stem: channels of an additional level at half the image size, for objects of one or two pixels; 0 starts at a quarter of
            the image size.
    """

    cells: Tensor

    def __init__(
        self, sizes: Sizes, channels: int = 16, features: int = 32, heatmaps: int = 16, by_place: bool = False, stem: int = 0
    ):
        super().__init__()
        check_sides("query_conv", sizes, self.side_multiple({}))
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

    @staticmethod
    def side_multiple(options: Mapping[str, Any], /) -> int:
        return 8

    def forward(self, images: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        return self.groups(self.encode(images), mask, sentence)

    def encode_with_queries(
        self, images: Tensor, mask: Tensor, sentence: Tensor, queries: Tensor, rows: Tensor
    ) -> tuple[list[TokenGroup], TokenGroup]:
        """As `forward`, and the supervised keypoint tokens for queries (q, e) about images `rows` (q,), each encoded once."""
        return self.answer(self.encode(images), mask, sentence, queries, rows)

    def encode(self, images: Tensor) -> Tensor:
        """The features (b, v, h·w / 16, f) of centered images."""
        return torch.stack([trunk(images[:, v]) for v, trunk in enumerate(self.trunks)], 1)

    def features(self, images: Tensor) -> Tensor:
        """The features (…, v, h·w / 16, f) of images (…, v, 3, h, w), uint8 or float in [0, 1].

        They can be cached; `groups` and `answer` start from them.
        """
        return self.encode(centered(images).flatten(0, -5)).unflatten(0, images.shape[:-4])

    def groups(self, features: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        return [self.point(features, mask, sentence)]

    def answer(
        self, features: Tensor, mask: Tensor, sentence: Tensor, queries: Tensor, rows: Tensor
    ) -> tuple[list[TokenGroup], TokenGroup]:
        """As `encode_with_queries`, from the output of `features`."""
        of_queries = features.index_select(0, rows)
        return self.groups(features, mask, sentence), self.point(of_queries, mask[rows], queries, len(POINTS))

    def heatmap_queries(self, sentence: Tensor, count: int) -> Tensor:
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
        """Keypoint tokens of the first `count` heatmaps of each view. `more` logits (b, 3, n) of each view are added to three."""
        count = count or self.heatmaps
        queries = self.heatmap_queries(sentence, count)
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
        """Features and position (b, p, f + 2) for queries (b, p, f) on image features (b, n, f); and the logits (b, p, n)."""
        logits = torch.bmm(queries, places.transpose(1, 2))
        logits = logits if near is None else logits + near
        return spatial_softmax(logits, places, self.cells), logits


class _Trunk(nn.Module):
    """Images (b, 3, h, w) to features at stride 4 (b, h·w / 16, f)."""

    def __init__(self, channels: int, features: int, stem: int = 0):
        super().__init__()
        # Initialized even if it is replaced, so that the random numbers of later layers, and published results, do not change.
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
        # Channels last in memory makes convolutions and the products after them a quarter faster on CPUs.
        fine = self.fine(F.relu(self.stem(images.contiguous(memory_format=torch.channels_last))))
        coarse = self.coarse(F.relu(self.down(fine)))
        places = F.relu(self.across(fine) + F.interpolate(self.up(coarse), scale_factor=2))
        return places.permute(0, 2, 3, 1).flatten(1, 2)


class _Block(nn.Module):
    """relu(x + conv(relu(conv(x))))."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))
