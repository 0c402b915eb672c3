"""A small convolutional network per depth camera, with FiLM conditioning."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.encoders.vision.film_conv import FilmTrunk
from verbot.models.encoders.vision.spatial_softmax import place_reader
from verbot.models.registries import depth_encoders
from verbot.models.tokens import Sizes, TokenGroup


def depth_channels(depth_m: Tensor, range_m: tuple[float, float]) -> Tensor:
    """Two channels (…, 2, h, w) of depth in meters (…, h, w): clipped to `range_m`, scaled to [-1, 1], and whether known.

    Unknown depth, which is 0, is 0 in both channels.

    Example:
        >>> depth_channels(torch.tensor([[0.0, 0.5, 1.0, 9.0]]), (0.5, 1.5)).tolist()
        [[[0.0, -1.0, 0.0, 1.0]], [[0.0, 1.0, 1.0, 1.0]]]
    """
    low, high = range_m
    known = depth_m > 0
    scaled = (depth_m.clamp(low, high) - (low + high) / 2) * (2 / (high - low))
    return torch.stack([scaled.masked_fill(~known, 0), known.to(scaled.dtype)], -3)


@depth_encoders.register("depth_conv")
class DepthConv(nn.Module):
    """Encodes depth images as `film_conv` does color, with two input channels: the depth, and whether it is known.

    Each camera has its own convolutional network and yields one token per heatmap: the expected (x, y) and the features there.
    No loss supervises the heatmaps.

    Args:
        channels: number of channels of the finer level; the coarser one has twice as many.
        tokens: heatmaps per camera.
    """

    def __init__(self, sizes: Sizes, channels: int = 16, tokens: int = 8):
        super().__init__()
        if sizes.height % 8 or sizes.width_px % 8:
            raise ConfigError(f"depth_conv needs image sides that are multiples of 8; got {sizes.height}×{sizes.width_px}")
        self.views, self.tokens = sizes.depth_views, tokens
        self.counts = {"depth": sizes.depth_views * tokens}
        grid = (sizes.height // 4, sizes.width_px // 4)
        self.trunks = nn.ModuleList(FilmTrunk(channels, tokens, grid, inputs=2) for _ in range(sizes.depth_views))
        self.film = nn.Linear(sizes.width, sizes.depth_views * 6 * channels)
        nn.init.normal_(self.film.weight, std=0.5 / sizes.width**0.5)
        nn.init.zeros_(self.film.bias)
        self.project = place_reader(channels, sizes.width)
        self.slots = nn.Parameter(torch.randn(sizes.depth_views * tokens, sizes.width) * 0.02)

    def forward(self, depth: Tensor, mask: Tensor, sentence: Tensor) -> TokenGroup:
        film = self.film(sentence).unflatten(-1, (self.views, -1))  # (b, d, 6c)
        read = torch.cat([trunk(depth[:, v], film[:, v])[0] for v, trunk in enumerate(self.trunks)], 1)
        return TokenGroup(self.project(read) + self.slots, mask.repeat_interleave(self.tokens, 1), "depth")
