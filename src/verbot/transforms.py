"""Frozen steps between raw and normalized values, each with its inverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from verbot.errors import ConfigError
from verbot.spec import Component, FloatArray, UInt8Array
from verbot.statistics import FeatureStatistics

FITS = ("crop", "letterbox")
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

    @staticmethod
    def of_nothing() -> Affine:
        """Of vectors without dimensions, such as the state of a robot that reports none."""
        return Affine(np.zeros(0), np.zeros(0))

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
    """Resizes images (…, h, w, 3) with a triangle filter, without changing their aspect ratio.

    ``"crop"`` takes the largest centered crop of the target's aspect ratio; ``"letterbox"`` keeps the whole image and adds black
    borders. The inverse restores the size. It fills a cropped border by repeating the edge; detail is lost.

    Raises `ConfigError` for another fit.

    Example:
        >>> fit = FitImage((72, 128), (64, 64), "letterbox")
        >>> fit.inside, fit.points(np.array([[1.0, 1.0]])).tolist()
        ((36, 64), [[1.0, 0.5625]])
    """

    source: tuple[int, int]
    target: tuple[int, int]
    fit: str = "crop"

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise ConfigError(f"images are fitted by {' or '.join(FITS)}; got {self.fit!r}")

    @property
    def crop(self) -> tuple[int, int]:
        """(height, width) of the part of the source that is kept."""
        (height, width), (wanted_height, wanted_width) = self.source, self.target
        if self.fit == "letterbox":
            return self.source
        share = min(height / wanted_height, width / wanted_width)
        return round(wanted_height * share), round(wanted_width * share)

    @property
    def inside(self) -> tuple[int, int]:
        """(height, width) of the part of the target that the image fills."""
        (height, width), (wanted_height, wanted_width) = self.source, self.target
        if self.fit == "crop":
            return self.target
        share = max(height / wanted_height, width / wanted_width)
        return max(1, round(height / share)), max(1, round(width / share))

    def forward(self, images: UInt8Array) -> UInt8Array:
        if self.source == self.target:
            return images
        fitted = _resize(_centered(images, self.crop), self.inside)
        return _padded(fitted, self.target, mode="constant") if self.fit == "letterbox" else fitted

    def inverse(self, images: UInt8Array) -> UInt8Array:
        if self.source == self.target:
            return images
        restored = _resize(_centered(images, self.inside), self.crop)
        return restored if self.fit == "letterbox" else _padded(restored, self.source, mode="edge")

    def points(self, points: FloatArray) -> FloatArray:
        """Map points (…, 2) of the source image, x and y in [−1, 1], to the target image. Points outside it exceed ±1."""
        return (points - self._shift()) * self._scale()

    def points_inverse(self, points: FloatArray) -> FloatArray:
        return points / self._scale() + self._shift()

    def _scale(self) -> FloatArray:
        kept = [s / c * (i / t) for s, c, i, t in zip(self.source, self.crop, self.inside, self.target, strict=True)]
        return np.array([kept[1], kept[0]], np.float32)

    def _shift(self) -> FloatArray:
        """The source point that becomes the middle of the target; 0 unless a border is an odd number of pixels."""
        cropped, added = _odd(self.source, self.crop), _odd(self.target, self.inside)
        shift = np.array([cropped[1] / self.source[1], cropped[0] / self.source[0]], np.float32)
        if self.fit == "crop":
            return shift
        return shift - np.array([added[1] / self.inside[1], added[0] / self.inside[0]], np.float32)


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


def _odd(whole: tuple[int, int], part: tuple[int, int]) -> list[int]:
    """−1 for each side at which a centered `part` is half a pixel off the middle of `whole`, else 0."""
    return [(a - b) // 2 * 2 - (a - b) for a, b in zip(whole, part, strict=True)]


def _centered(images: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    top, left = ((whole - part) // 2 for whole, part in zip(images.shape[-3:-1], size, strict=True))
    return images[..., top : top + size[0], left : left + size[1], :]


def _padded(images: UInt8Array, size: tuple[int, int], mode: Literal["constant", "edge"]) -> UInt8Array:
    before = [(whole - part) // 2 for whole, part in zip(size, images.shape[-3:-1], strict=True)]
    border = [(b, whole - part - b) for b, whole, part in zip(before, size, images.shape[-3:-1], strict=True)]
    return np.pad(images, [*([(0, 0)] * (images.ndim - 3)), *border, (0, 0)], mode=mode)


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
