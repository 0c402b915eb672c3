"""EfficientNet-Lite0, pretrained on ImageNet, as a vision encoder: small, and without the transformers library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.contracts import POINTS
from verbot.errors import ConfigError, CorruptFileError
from verbot.models import pretrained
from verbot.models.encoders.vision.lite0 import Lite0Tower, build_tower, frozen_tower
from verbot.models.encoders.vision.spatial_softmax import Pointer, check_heatmaps
from verbot.models.layers.transformer import centered
from verbot.models.pretrained import Checkpoint
from verbot.models.registries import vision_encoders
from verbot.models.tokens import Sizes, TokenGroup

AS_IMAGE = "image"


@vision_encoders.register("efficientnet_lite0")
class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 (Tan & Le 2019) for all views, with language-conditioned heatmaps over several of its feature maps.

    The maps of all `strides` are read on the grid of the finest. The tokens are one per heatmap, as in `QueryConv`; with
    `patches` also the mean of each view and the cells of the coarsest grid. The weights of a frozen network are not part of a
    saved policy; their sha256 is saved and checked. A trained one is saved completely. Batch norm uses its stored statistics.

    Args:
        checkpoint: ``"models:efficientnet-lite0"`` (see `verbot.models.known`) or a folder with its ``config.json`` and weights;
            None trains random weights, with group norm.
        mode: ``"frozen"``, ``"trained"``, or a factor below 1 of the learning rate.
        strides: of the feature maps, from 2, 4, 8, 16, 32.
        size: side in pixels to which images are resized; ``"image"`` keeps their size.
        heatmaps: per view; the first three are supervised by the keypoint loss.
        patches: return the means and the coarse cells as tokens too.
        sha256: of a frozen checkpoint; filled in by `fit` and saved with the policy.

    Raises:
        ConfigError: unknown checkpoint, mode, stride or size.
        CorruptFileError: weights that do not fit, or frozen ones that are not those of the training.
    """

    def __init__(
        self,
        sizes: Sizes,
        checkpoint: str | None = None,
        mode: str | float = pretrained.TRAINED,
        strides: Sequence[int] = (8, 16, 32),
        size: int | str = AS_IMAGE,
        heatmaps: int = 16,
        patches: bool = True,
        sha256: str | None = None,
    ):
        super().__init__()
        check_heatmaps("efficientnet_lite0", heatmaps)
        source = Checkpoint(checkpoint, mode=mode)
        self.frozen, self.patches, self.sha256 = source.is_frozen, patches, sha256
        pixels = (sizes.height, sizes.width_px) if size == AS_IMAGE else (_side(size),) * 2
        if self.frozen:
            folder = source.find()
            self.sha256 = _checked(folder, sha256)
            tower, reason = frozen_tower(folder, self.sha256, tuple(strides), pixels), None
            self._held = (tower,)  # in a tuple, so that torch does not register it
        else:
            tower, reason = _trained(source, strides, pixels)
            self.tower = tower
            pretrained.scale_rate(tower, source.mode)
        self._absence = pretrained.Absence(self, reason)
        self.grid, self.coarse, cells = tower.grid, tower.coarse, math.prod(tower.coarse)
        self.counts = {"keypoints": sizes.views * heatmaps} | ({"patches": sizes.views * (1 + cells)} if patches else {})
        self.norm, self.project = nn.LayerNorm(tower.width), nn.Linear(tower.width, sizes.width)
        self.view = nn.Parameter(torch.randn(sizes.views, 1, sizes.width) * 0.02)
        self.point = Pointer(sizes.width, sizes.width, tower.grid, heatmaps, sizes.views)

    @staticmethod
    def fit(options: Mapping[str, Any], instructions: Sequence[str] = ()) -> dict[str, Any]:
        """`options` with the identity of a frozen checkpoint. Raises `ConfigError` if a checkpoint is not there."""
        if options.get("checkpoint") is None:
            return dict(options)
        folder = pretrained.find(options["checkpoint"])
        return {**options, "sha256": pretrained.identity(folder)} if options.get("mode") == pretrained.FROZEN else dict(options)

    @property
    def cacheable(self) -> bool:
        """Whether the network is frozen; its features never depend on the instruction."""
        return self.frozen

    @property
    def key(self) -> str:
        """The cache key of features of a frozen network."""
        tower = self._tower
        return f"{self.sha256}-{'-'.join(map(str, tower.strides))}-{tower.size[0]}x{tower.size[1]}"

    def forward(self, images: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        return self.groups(self._encode(images), mask, sentence)

    def encode_with_queries(
        self, images: Tensor, mask: Tensor, sentence: Tensor, queries: Tensor, rows: Tensor
    ) -> tuple[list[TokenGroup], TokenGroup]:
        """As `forward`, and the supervised keypoint tokens for queries (q, e) about images `rows` (q,), each encoded once."""
        return self.answer(self._encode(images), mask, sentence, queries, rows)

    def answer(
        self, features: Tensor, mask: Tensor, sentence: Tensor, queries: Tensor, rows: Tensor
    ) -> tuple[list[TokenGroup], TokenGroup]:
        """As `encode_with_queries`, from the output (b, v, n, d) of `features`."""
        places = self._places(features)
        asked = self.point(places[rows], mask[rows], queries, len(POINTS))
        return self._groups(places, mask, sentence), asked

    def features(self, images: Tensor) -> Tensor:
        """The features (…, n, d) of images (…, 3, h, w), uint8 or float in [0, 1]: d channels at n cells of the finest grid."""
        return self._run(centered(images).flatten(0, -4)).unflatten(0, images.shape[:-3])

    def groups(self, features: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        """Token groups from features (b, v, n, d) with mask (b, v)."""
        return self._groups(self._places(features), mask, sentence)

    def _groups(self, places: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        found: list[TokenGroup] = [self.point(places, mask, sentence)]
        if self.patches:
            plane = places.flatten(0, 1).transpose(1, 2).unflatten(-1, self.grid)  # (b·v, e, h, w)
            cells = F.adaptive_avg_pool2d(plane, self.coarse).flatten(2)
            shown = torch.cat([plane.mean((2, 3)).unsqueeze(-1), cells], -1).transpose(1, 2)
            tokens = shown.unflatten(0, places.shape[:2]).flatten(1, 2)
            found.append(TokenGroup(tokens, mask.repeat_interleave(shown.shape[1], 1), "patches"))
        return found

    @property
    def _tower(self) -> Lite0Tower:
        return self._held[0] if self.frozen else self.tower

    def _places(self, features: Tensor) -> Tensor:
        """(b, v, n, e)"""
        places: Tensor = self.project(self.norm(features.to(self.norm.weight.dtype)))
        return places + self.view

    def _encode(self, images: Tensor) -> Tensor:
        return self._run(images.flatten(0, 1)).unflatten(0, images.shape[:2])

    def _run(self, images: Tensor) -> Tensor:
        self._absence.check()
        if not self.frozen:
            return self.tower(images)
        with torch.no_grad():
            found: Tensor = self._tower.to(images.device)(images)
        return found


def _side(size: int | str) -> int:
    if isinstance(size, str) or size < 1:
        raise ConfigError(f"the size of efficientnet_lite0 is {size!r}; expected {AS_IMAGE!r} or a side in pixels")
    return size


def _checked(folder: Path, sha256: str | None) -> str:
    """The identity of a frozen checkpoint. Raises `CorruptFileError` if it is not that of the training."""
    if sha256 not in (None, found := pretrained.identity(folder)):
        raise CorruptFileError(folder, f"not the weights that the policy was trained on, sha256 {sha256}")
    return found


def _trained(source: Checkpoint, strides: Sequence[int], size: tuple[int, int]) -> tuple[Lite0Tower, str | None]:
    """A tower that learns; and why it has no weights, where its checkpoint is not there."""
    if source.checkpoint is None:
        return build_tower(strides, size, None, grouped=True), None
    try:
        folder = source.find()
    except ConfigError as error:  # a saved policy has the weights
        return build_tower(strides, size, None), str(error)
    return build_tower(strides, size, folder), None
