"""Pointing: heatmaps over the places of an image, and what is found where they look. Shared by the vision encoders."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from verbot.contracts import POINTS
from verbot.errors import ConfigError
from verbot.models.layers.transformer import pixel_grid
from verbot.models.tokens import TokenGroup

STEEP = 10.0  # a place of a tenth of the image must be within reach of weights that begin at zero


def look(logits: Tensor, places: Tensor, cells: Tensor) -> Tensor:
    """What each heatmap finds, and where: (…, p, f + 2), x and y last. Spatial softmax, Levine et al. 2016.

    Args:
        logits: (…, p, n), of p heatmaps.
        places: (…, n, f), the features of each place.
        cells: (n, 2), its x and y in [-1, 1].
    """
    attended = logits.softmax(-1)
    return torch.cat([attended @ places, attended @ cells], -1)


def place_reader(features: int, width: int) -> nn.Linear:
    """From what `look` gives, (…, features + 2), to tokens (…, width), begun with places that outweigh what was found there.

    As one of fifty inputs with torch's own start, a place is drowned: a network then learned late, or in a minute not at all,
    that the hand goes where it looks.
    """
    project = nn.Linear(features + 2, width)
    nn.init.normal_(project.weight[:, features:])
    return project


def check_heatmaps(encoder: str, heatmaps: int) -> None:
    """Raises `ConfigError` where there are fewer heatmaps than the keypoint loss teaches."""
    if heatmaps < len(POINTS):
        raise ConfigError(
            f"{encoder} needs at least {len(POINTS)} heatmaps a view, one for each point that the keypoint loss teaches "
            f"(the target, the receptacle, the reference); got {heatmaps}"
        )


class NearPlace(nn.Module):
    """Heatmaps that a sentence asks for by place: s·(z·c − c²/2) over the cells' centers c; s and s·z are linear in it.

    With s above 0 it is the logarithm of a normal distribution around z, of variance 1 / s. They begin as nothing.

    Args:
        width: e, of the sentence.
        views, heatmaps: p a view.
        grid: (height, width) of the places.
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
        """Logits (b, v, p, n) of sentences (b, e)."""
        return self.ask(sentence).unflatten(-1, (self.views, -1, 3)) @ self.shape


class Pointer(nn.Module):
    """The sentence asks, the places of every view answer: one keypoint token per heatmap and view.

    Args:
        width: e, of the sentence and of the tokens.
        features: f, of the places.
        grid: (height, width) of the places.
        heatmaps: p, per view; the first three are those that the keypoint loss teaches.
        views: that have questions of their own; 1 where all views are asked the same.
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
        """Keypoint tokens (b, v·p, e) of places (b, v, n, f) under mask (b, v); of the first `count` heatmaps of each view."""
        count = count or self.heatmaps
        questions = self.ask(sentence).unflatten(-1, (self.views, self.heatmaps, -1))[:, :, :count]  # (b, v or 1, p, f)
        # Not divided by √f: heatmaps that began flatter pointed worse in unseen scenes.
        logits = questions @ places.transpose(-1, -2)  # (b, v, p, n)
        read = look(logits, places, self.cells)
        tokens = (self.project(read) + self.slots[:, :count]).flatten(1, 2)
        heatmaps = logits.flatten(1, 2).unflatten(-1, self.grid)
        return TokenGroup(tokens, mask.repeat_interleave(count, 1), "keypoints", read[..., -2:].flatten(1, 2), heatmaps)
