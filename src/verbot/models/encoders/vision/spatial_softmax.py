"""Spatial softmax: heatmaps over image features, with expected positions and the features there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from verbot.contracts import POINTS
from verbot.errors import ConfigError
from verbot.models.layers.transformer import pixel_grid
from verbot.models.tokens import TokenGroup

STEEP = 10.0  # so that weights that start at zero can learn positions to a tenth of the image


def spatial_softmax(logits: Tensor, features: Tensor, cells: Tensor) -> Tensor:
    """Expected features and positions of heatmaps: (…, p, f + 2), x and y last. Source: Levine et al. 2016.

    Args:
        logits: (…, p, n), of p heatmaps.
        features: (…, n, f), of each cell.
        cells: (n, 2), x and y of each cell in [-1, 1].
    """
    attended = logits.softmax(-1)
    return torch.cat([attended @ features, attended @ cells], -1)


def place_reader(features: int, width: int) -> nn.Linear:
    """A linear layer from the output of `spatial_softmax` (…, features + 2) to tokens (…, width).

    Positions have larger initial weights than features. With torch's default initialization they are two of many inputs, and
    networks learn late that the hand should move to the keypoint.
    """
    project = nn.Linear(features + 2, width)
    nn.init.normal_(project.weight[:, features:])
    return project


def check_heatmaps(encoder: str, heatmaps: int) -> None:
    """Raise `ConfigError` if there are fewer heatmaps than the keypoint loss supervises."""
    if heatmaps < len(POINTS):
        raise ConfigError(
            f"{encoder} needs at least {len(POINTS)} heatmaps per view, one for each supervised keypoint "
            f"(target, receptacle, reference); got {heatmaps}"
        )


class NearPlace(nn.Module):
    """Additional heatmap logits for a position z that the sentence specifies: s·(z·c − c²/2) for cell centers c.

    s and s·z are linear functions of the sentence. For s > 0 this is the logarithm of a normal distribution around z with
    variance 1 / s. The initial logits are zero.

    Args:
        width: e, of the sentence.
        views, heatmaps: p a view.
        grid: (height, width) of the feature grid.
    """

    shape: Tensor

    def __init__(self, width: int, views: int, heatmaps: int, grid: tuple[int, int]):
        super().__init__()
        self.views = views
        self.ask = nn.Linear(width, views * heatmaps * 3)
        nn.init.zeros_(self.ask.weight)
        nn.init.zeros_(self.ask.bias)
        cells = pixel_grid(*grid)
        shape = STEEP * torch.cat([cells, -cells.square().sum(-1, keepdim=True) / 2], -1)
        self.register_buffer("shape", shape.T.contiguous(), persistent=False)  # (3, n)

    def forward(self, sentence: Tensor) -> Tensor:
        """Logits (b, v, p, n) for sentences (b, e)."""
        return self.ask(sentence).unflatten(-1, (self.views, -1, 3)) @ self.shape


class Pointer(nn.Module):
    """Keypoint tokens from image features: one per heatmap and view, with heatmap queries of the sentence.

    Args:
        width: e, of the sentence and of the tokens.
        features: f, of the image features.
        grid: (height, width) of the feature grid.
        heatmaps: p, per view; the first three are supervised by the keypoint loss.
        views: number of views with their own queries; 1 to use the same queries for all.
    """

    cells: Tensor

    def __init__(self, width: int, features: int, grid: tuple[int, int], heatmaps: int, views: int = 1):
        super().__init__()
        self.grid, self.heatmaps, self.views = grid, heatmaps, views
        self.ask = nn.Linear(width, views * heatmaps * features)
        self.project = place_reader(features, width)
        self.slots = nn.Parameter(torch.randn(views, heatmaps, width) * 0.02)
        self.register_buffer("cells", pixel_grid(*grid), persistent=False)

    def forward(self, places: Tensor, mask: Tensor, sentence: Tensor, count: int | None = None) -> TokenGroup:
        """Keypoint tokens (b, v·p, e) of the first `count` heatmaps, from features (b, v, n, f) with mask (b, v)."""
        count = count or self.heatmaps
        queries = self.ask(sentence).unflatten(-1, (self.views, self.heatmaps, -1))[:, :, :count]  # (b, v or 1, p, f)
        # Not divided by √f: flatter initial heatmaps generalized worse to unseen scenes.
        logits = queries @ places.transpose(-1, -2)  # (b, v, p, n)
        read = spatial_softmax(logits, places, self.cells)
        tokens = (self.project(read) + self.slots[:, :count]).flatten(1, 2)
        heatmaps = logits.flatten(1, 2).unflatten(-1, self.grid)
        return TokenGroup(tokens, mask.repeat_interleave(count, 1), "keypoints", read[..., -2:].flatten(1, 2), heatmaps)
