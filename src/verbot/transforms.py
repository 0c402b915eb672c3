"""Frozen steps between raw and normalized values, each with its inverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from verbot.errors import ConfigError
from verbot.spec import Component, FloatArray, UInt8Array
from verbot.statistics import FeatureStatistics

METHODS = ("z_score", "min_max", "quantile", "none")
# Kinds that keep their units under normalization: a probability stays one, a unit quaternion keeps unit length.
KEPT_KINDS = ("gripper", "quaternion", "discrete")


class Transform(Protocol):
    """``inverse(forward(x))`` equals x, except for losses that a transform documents."""

    def forward(self, x: FloatArray) -> FloatArray: ...

    def inverse(self, y: FloatArray) -> FloatArray: ...


@dataclass(frozen=True, eq=False)
class Affine:
    """(x − offset) / scale per dimension (…, d). Where scale is 0, forward gives exactly 0 and the inverse gives offset.

    Example:
        >>> step = Affine(np.array([1.0, 5.0]), np.array([2.0, 0.0]))
        >>> step.forward(np.array([3.0, 5.1])).tolist(), step.inverse(np.array([1.0, 9.0])).tolist()
        ([1.0, 0.0], [3.0, 5.0])
    """

    offset: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]

    def forward(self, x: FloatArray) -> FloatArray:
        constant = self.scale == 0
        normal = (np.asarray(x, np.float64) - self.offset) / np.where(constant, 1.0, self.scale)
        return np.where(constant, 0.0, normal).astype(np.float32)

    def inverse(self, y: FloatArray) -> FloatArray:
        raw = np.asarray(y, np.float64) * self.scale + self.offset
        return np.where(self.scale == 0, self.offset, raw).astype(np.float32)


@dataclass(frozen=True, eq=False)
class ClipTransform:
    """Clips to [low, high] per dimension in both directions; values outside are lost."""

    low: FloatArray
    high: FloatArray

    def forward(self, x: FloatArray) -> FloatArray:
        return np.clip(x, self.low, self.high)

    def inverse(self, y: FloatArray) -> FloatArray:
        return np.clip(y, self.low, self.high)


@dataclass(frozen=True)
class Pipeline:
    """Applies `steps` in order, and their inverses in reverse order."""

    steps: tuple[Transform, ...]

    def forward(self, x: FloatArray) -> FloatArray:
        for step in self.steps:
            x = step.forward(x)
        return x

    def inverse(self, y: FloatArray) -> FloatArray:
        for step in reversed(self.steps):
            y = step.inverse(y)
        return y


def normalizer(method: str, statistics: FeatureStatistics, components: Sequence[Component], kept: Sequence[str] = ()) -> Affine:
    """The transform that normalizes a state or action vector to about [−1, 1] or unit spread, from its statistics.

    Args:
        method: ``"z_score"``, ``"min_max"`` (to [−1, 1]), ``"quantile"`` (the 1st and 99th percentiles to ∓1) or ``"none"``.
        components: components of the vector, in order.
        kept: kinds of components that keep their own units, e.g. `KEPT_KINDS`.

    Raises `ConfigError` for another method, or if the statistics and the vector have different sizes.
    """
    size = sum(c.size for c in components)
    if statistics.size != size:
        raise ConfigError(
            f"the statistics have {statistics.size} dimensions; {', '.join(c.name for c in components)} have {size}"
        )
    offset, scale = _affine(method, statistics)
    constant = statistics.max - statistics.min <= 1e-6 * np.maximum(np.abs(statistics.mean), 1e-3)
    offset, scale = np.where(constant, statistics.mean, offset), np.where(constant, 0.0, scale)
    keep = np.repeat([c.kind in kept for c in components], [c.size for c in components])
    return Affine(np.where(keep, 0.0, offset), np.where(keep, 1.0, scale))


def _affine(method: str, statistics: FeatureStatistics) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    low, high = statistics.min, statistics.max
    if method == "z_score":
        return statistics.mean, statistics.std
    if method == "quantile":
        # A dimension that changes in fewer than 1 % of the frames has equal quantiles; its range is used instead.
        narrow = statistics.quantiles[0.99] - statistics.quantiles[0.01] <= 1e-6 * (high - low)
        low = np.where(narrow, low, statistics.quantiles[0.01])
        high = np.where(narrow, high, statistics.quantiles[0.99])
    elif method == "none":
        return np.zeros_like(low), np.ones_like(low)
    elif method != "min_max":
        raise ConfigError(f"there is no normalization {method!r}; there are {', '.join(METHODS)}")
    return (low + high) / 2, (high - low) / 2


@dataclass(frozen=True)
class FitImage:
    """Resizes images (…, h, w, 3): takes the largest centered crop of the target's aspect ratio and applies a triangle filter.

    The inverse restores the size. It fills the cropped border by repeating the edge; detail is lost.
    """

    source: tuple[int, int]
    target: tuple[int, int]

    @property
    def crop(self) -> tuple[int, int]:
        """(height, width) of the crop of the source."""
        (height, width), (wanted_height, wanted_width) = self.source, self.target
        share = min(height / wanted_height, width / wanted_width)
        return round(wanted_height * share), round(wanted_width * share)

    def forward(self, images: UInt8Array) -> UInt8Array:
        if self.source == self.target:
            return images
        (height, width), (kept_height, kept_width) = self.source, self.crop
        top, left = (height - kept_height) // 2, (width - kept_width) // 2
        return _resize(images[..., top : top + kept_height, left : left + kept_width, :], self.target)

    def inverse(self, images: UInt8Array) -> UInt8Array:
        if self.source == self.target:
            return images
        (height, width), (kept_height, kept_width) = self.source, self.crop
        top, left = (height - kept_height) // 2, (width - kept_width) // 2
        border = [(top, height - kept_height - top), (left, width - kept_width - left), (0, 0)]
        return np.pad(_resize(images, self.crop), [(0, 0)] * (images.ndim - 3) + border, mode="edge")

    def points(self, points: FloatArray) -> FloatArray:
        """Map points (…, 2) of the source image, x and y in [−1, 1], to the target image. Points outside it exceed ±1."""
        return (points - self._shift()) * self._scale()

    def points_inverse(self, points: FloatArray) -> FloatArray:
        return points / self._scale() + self._shift()

    def _scale(self) -> FloatArray:
        return np.array([self.source[1] / self.crop[1], self.source[0] / self.crop[0]], np.float32)

    def _shift(self) -> FloatArray:
        odd = [(whole - kept) // 2 * 2 - (whole - kept) for whole, kept in zip(self.source, self.crop, strict=True)]
        return np.array([odd[1] / self.source[1], odd[0] / self.source[0]], np.float32)


def _resize(images: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    rows, columns = _triangle(images.shape[-3], size[0]), _triangle(images.shape[-2], size[1])
    out = np.einsum("ih,...hwc->...iwc", rows, images.astype(np.float32))
    return np.rint(np.einsum("jw,...iwc->...ijc", columns, out)).clip(0, 255).astype(np.uint8)


def _triangle(old: int, new: int) -> FloatArray:
    """Weights (new, old) of linear interpolation. When shrinking, the filter is widened so that every source pixel counts."""
    width = max(old / new, 1.0)
    centers = (np.arange(new) + 0.5) * old / new - 0.5
    weights = np.clip(1 - np.abs(np.arange(old) - centers[:, None]) / width, 0, None)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
