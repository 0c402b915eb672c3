"""Camera images in the size of a network, and image points back in those of the cameras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from verbot.spec import BoolArray, Camera, FloatArray, UInt8Array
from verbot.transforms import FitImage

if TYPE_CHECKING:  # robots run exported policies without torch
    from verbot.models.config import NetworkConfig
    from verbot.models.tokens import Sizes


@dataclass(frozen=True)
class ImageFitter:
    """Fits images of any size to that of a network.

    Args:
        size: (height, width) of the network's images.
        fit: as in `NetworkConfig.image_fit`.
    """

    size: tuple[int, int]
    fit: str = "crop"

    @staticmethod
    def of(config: NetworkConfig, sizes: Sizes) -> ImageFitter:
        return ImageFitter((sizes.height, sizes.width_px), config.image_fit)

    def transform(self, height: int, width: int) -> FitImage:
        """The transform of images of this size."""
        return FitImage((height, width), self.size, self.fit)

    def views(self, images: Mapping[str, UInt8Array], cameras: Sequence[Camera]) -> tuple[UInt8Array, BoolArray]:
        """Images (v, h, w, 3) of `cameras`, and which of them there are; the others are black."""
        out = np.zeros((len(cameras), *self.size, 3), np.uint8)
        mask = np.array([camera.name in images for camera in cameras], bool)
        for view in np.flatnonzero(mask).tolist():
            image = images[cameras[view].name]
            out[view] = self.transform(*image.shape[:2]).forward(image)
        return out, mask

    def goals(self, goals: Sequence[UInt8Array | None], mask: BoolArray) -> UInt8Array:
        """Goal images (b, h, w, 3); black where masked."""
        out = np.zeros((len(goals), *self.size, 3), np.uint8)
        for row, goal in enumerate(goals):
            if mask[row] and goal is not None:
                out[row] = self.transform(*goal.shape[:2]).forward(goal)
        return out

    def points_inverse(self, points: FloatArray, cameras: Sequence[Camera]) -> FloatArray:
        """Points (v, n, 2) of the network's images as points of the cameras' images; they may be outside ±1 in a border."""
        rows = [self.transform(c.height, c.width).points_inverse(each) for c, each in zip(cameras, points, strict=True)]
        return np.stack(rows).astype(np.float32) if rows else points
