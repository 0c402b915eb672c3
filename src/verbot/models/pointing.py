"""Pointing: heatmaps over the places of an image, and what is found where they look. Shared by the vision encoders."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.keypoints import POINTS
from verbot.models.layers import pixel_grid
from verbot.models.tokens import TokenGroup


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
    if heatmaps < POINTS:
        raise ConfigError(
            f"{encoder} needs at least {POINTS} heatmaps a view, one for each point that the keypoint loss teaches "
            f"(the target, the receptacle, the reference); got {heatmaps}"
        )


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
