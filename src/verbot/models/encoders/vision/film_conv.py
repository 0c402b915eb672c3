"""A small convolutional network per view with FiLM conditioning and heatmaps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.models.encoders.vision.sides import check_sides
from verbot.models.encoders.vision.spatial_softmax import check_heatmaps, place_reader, spatial_softmax
from verbot.models.layers.transformer import pixel_grid
from verbot.models.registries import vision_encoders
from verbot.models.tokens import Sizes, TokenGroup


@vision_encoders.register("film_conv")
class FilmConv(nn.Module):
    """One token per heatmap and view, with the expected position and the features there.

    A 6×6 convolution with stride 4, a FiLM residual block, another block at half the resolution, which is added back, and
    heatmaps. The spatial softmax of a heatmap gives the expected (x, y) and the features there. Sources: FiLM, Perez et al. 2018;
    spatial softmax, Levine et al. 2016.

    Args:
        channels: number of channels of the finer level; the coarser one has twice as many.
        heatmaps: per view; the first three are supervised by the keypoint loss.
        shared: one convolutional network for all views, which then differ only in their FiLM parameters.
    """

    def __init__(self, sizes: Sizes, channels: int = 16, heatmaps: int = 16, shared: bool = False):
        super().__init__()
        check_sides("film_conv", sizes, self.side_multiple({}))
        check_heatmaps("film_conv", heatmaps)
        self.views, self.heatmaps = sizes.views, heatmaps
        self.counts = {"keypoints": sizes.views * heatmaps}
        self.grid = (sizes.height // 4, sizes.width_px // 4)
        trunks = 1 if shared else sizes.views
        self.trunks = nn.ModuleList(FilmTrunk(channels, heatmaps, self.grid) for _ in range(trunks))
        self.film = nn.Linear(sizes.width, sizes.views * 6 * channels)
        nn.init.normal_(self.film.weight, std=0.5 / sizes.width**0.5)
        nn.init.zeros_(self.film.bias)
        self.project = place_reader(channels, sizes.width)
        self.slots = nn.Parameter(torch.randn(sizes.views * heatmaps, sizes.width) * 0.02)

    @staticmethod
    def side_multiple(options: Mapping[str, Any], /) -> int:
        return 8

    def forward(self, images: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        film = self.film(sentence).unflatten(-1, (self.views, -1))  # (b, v, 6c)
        if len(self.trunks) == 1:
            read, logits = self.trunks[0](images.flatten(0, 1), film.flatten(0, 1))
            read, logits = (x.unflatten(0, (-1, self.views)).flatten(1, 2) for x in (read, logits))
        else:
            pairs = [trunk(images[:, v], film[:, v]) for v, trunk in enumerate(self.trunks)]
            read, logits = (torch.cat(parts, 1) for parts in zip(*pairs, strict=True))
        tokens = self.project(read) + self.slots  # (b, v·p, e)
        valid = mask.repeat_interleave(self.heatmaps, 1)
        return [TokenGroup(tokens, valid, "keypoints", read[..., -2:], logits.unflatten(-1, self.grid))]


class FilmTrunk(nn.Module):
    """Images (b, i, h, w) and FiLM parameters (b, 6c) to features with positions (b, p, c + 2) and logits (b, p, h·w / 16)."""

    cells: Tensor

    def __init__(self, channels: int, heatmaps: int, grid: tuple[int, int], inputs: int = 3):
        super().__init__()
        self.channels = channels
        self.stem = nn.Conv2d(inputs, channels, 6, 4, padding=1)
        self.fine = _FilmBlock(channels)
        self.down = nn.Conv2d(channels, 2 * channels, 3, 2, padding=1)
        self.coarse = _FilmBlock(2 * channels)
        self.up = nn.Conv2d(2 * channels, channels, 1)
        self.heat = nn.Conv2d(channels, heatmaps, 1)
        self.register_buffer("cells", pixel_grid(*grid), persistent=False)

    def forward(self, images: Tensor, film: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine(F.relu(self.stem(images)), film[:, : 2 * self.channels])
        coarse = self.coarse(F.relu(self.down(fine)), film[:, 2 * self.channels :])
        features = fine + F.interpolate(self.up(coarse), scale_factor=2)  # (b, c, h / 4, w / 4)
        logits = self.heat(features).flatten(2)
        return spatial_softmax(logits, features.flatten(2).transpose(1, 2), self.cells), logits


class _FilmBlock(nn.Module):
    """relu(x + FiLM(conv(relu(conv(x)))))."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        scale, shift = film.unsqueeze(-1).unsqueeze(-1).chunk(2, 1)  # (b, c, 1, 1)
        change = self.second(F.relu(self.first(x)))
        return F.relu(x + torch.addcmul(shift, change, 1 + scale))
