"""Camera images of observations, and depth of windows, as input of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from verbot.models.tokens import Masked
from verbot.spec import BoolArray, Camera, FloatArray, UInt8Array
from verbot.transforms import FitImage

Fit = Callable[[int, int], FitImage]  # of images of this height and width


def fit_depth(depth: FloatArray, fit: FitImage) -> FloatArray:
    """Depth (…, h, w) cropped and resized as `fit` does color, by the nearest pixel: a mean of two surfaces is on neither.

    Unknown depth, 0, stays so; a border that `fit` adds is unknown.

    Example:
        >>> fit_depth(np.array([[0.0, 1.0, 2.0, 3.0]], np.float32), FitImage((1, 4), (1, 2))).tolist()
        [[1.0, 2.0]]
    """
    if fit.source == fit.target:
        return depth
    (height, width), (rows, columns) = fit.source, fit.target
    corners = [np.stack([grid, grid], -1) for grid in (_centers(rows), _centers(columns))]
    y, x = fit.points_inverse(corners[0])[:, 1], fit.points_inverse(corners[1])[:, 0]
    found = [np.floor((places + 1) / 2 * size).astype(np.int64) for places, size in ((y, height), (x, width))]
    inside = [(places >= 0) & (places < size) for places, size in zip(found, (height, width), strict=True)]
    row, column = (np.clip(places, 0, size - 1) for places, size in zip(found, (height, width), strict=True))
    return np.where(inside[0][:, None] & inside[1], depth[..., row[:, None], column], np.float32(0))


def _centers(count: int) -> FloatArray:
    """The middles of `count` pixels in [-1, 1], a little to the left, so that a tie has one answer."""
    return (((np.arange(count) + 0.5) / count * 2 - 1) - 1e-6).astype(np.float32)


def color_views(
    images: Mapping[str, UInt8Array], cameras: Sequence[Camera], size: tuple[int, int], fit: Fit
) -> tuple[UInt8Array, BoolArray]:
    """Images (v, h, w, 3) of the color cameras, and which of them there are; the others are black."""
    out, mask = np.zeros((len(cameras), *size, 3), np.uint8), np.array([c.name in images for c in cameras], bool)
    for view in np.flatnonzero(mask).tolist():
        image = images[cameras[view].name]
        out[view] = fit(*image.shape[:2]).forward(image)
    return out, mask


def depth_views(
    images: Mapping[str, npt.NDArray[Any]], cameras: Sequence[Camera], size: tuple[int, int], fit: Fit
) -> tuple[FloatArray, BoolArray]:
    """Depth (d, h, w) of the depth cameras, and which of them there are."""
    out, mask = np.zeros((len(cameras), *size), np.float32), np.array([c.name in images for c in cameras], bool)
    for view in np.flatnonzero(mask).tolist():
        image = images[cameras[view].name]
        out[view] = fit_depth(image, fit(*image.shape))
    return out, mask


def depth_of_windows(window: object, fit: Fit) -> dict[str, Masked]:
    """`Batch.depth` of windows with depth (b, t, d, h, w); empty for windows without."""
    depth, mask = (vars(window).get(name) for name in ("depth", "depth_mask"))
    if depth is None or mask is None or not depth.size:
        return {}
    return {"depth": as_masked(fit_depth(depth, fit(*depth.shape[-2:])), mask)}


def as_masked(depth: FloatArray, mask: BoolArray) -> Masked:
    return Masked(torch.from_numpy(np.ascontiguousarray(depth)), torch.from_numpy(mask))
