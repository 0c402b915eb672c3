"""Normalization of published policies: what each library divides by, and what it multiplies by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from verbot.errors import ConfigError
from verbot.spec import Float64Array, FloatArray

# Method -> the statistics that it needs; those of two quantiles or ends map to [−1, 1].
NEEDED = {
    "IDENTITY": (),
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
}


@dataclass(frozen=True)
class Scaling:
    """Numbers (…, n) to normalized ones and back: y = (x − offset) / divisor, x = y · factor + offset; ends are ±1 if `ends`.

    Args:
        offset, divisor, factor: (n,), or empty to leave numbers as they are.
    """

    offset: Float64Array
    divisor: Float64Array
    factor: Float64Array
    ends: bool = False

    @staticmethod
    def lerobot(method: str, statistics: Mapping[str, Float64Array], what: str, epsilon: float = 1e-8) -> Scaling:
        """As LeRobot: `epsilon` is added to a deviation in one direction only, and replaces a range of zero.

        Without any statistics the numbers stay as they are, as in a policy that no data were given to. Raises `ConfigError` for
        an unknown method, and for statistics that lack those that it needs.
        """
        first, second = _pair(method, statistics, what)
        if method == "IDENTITY" or not statistics:
            return UNSCALED
        if method == "MEAN_STD":
            return Scaling(first, second + epsilon, second)
        span = np.where(second == first, epsilon, second - first)
        return Scaling(first, span, span, True)

    @staticmethod
    def openpi(quantiles: bool, statistics: Mapping[str, Float64Array], what: str) -> Scaling:
        """As openpi: 1e-6 is added always, in both directions. Raises `ConfigError` as `lerobot` does."""
        first, second = _pair("QUANTILES" if quantiles else "MEAN_STD", statistics, what)
        span = (second - first if quantiles else second) + 1e-6
        return Scaling(first, span, span, quantiles)

    @property
    def size(self) -> int | None:
        """n; None if any number of numbers stays as it is."""
        return len(self.offset) or None

    def forward(self, x: FloatArray) -> FloatArray:
        if not self.size:
            return np.asarray(x, np.float32)
        y = (x - self.offset) / self.divisor
        return np.asarray(2 * y - 1 if self.ends else y, np.float32)

    def inverse(self, y: FloatArray) -> FloatArray:
        if not self.size:
            return np.asarray(y, np.float32)
        return np.asarray(((y + 1.0) / 2.0 if self.ends else y) * self.factor + self.offset, np.float32)


UNSCALED = Scaling(np.zeros(0), np.zeros(0), np.zeros(0))


def _pair(method: str, statistics: Mapping[str, Float64Array], what: str) -> tuple[Float64Array, Float64Array]:
    if method not in NEEDED:
        raise ConfigError(f"the {what} is normalized by {method!r}; known: {', '.join(NEEDED)}")
    needed = NEEDED[method]
    if not needed or not statistics:
        return np.zeros(0), np.zeros(0)
    if absent := [name for name in needed if name not in statistics]:
        raise ConfigError(
            f"the statistics of the {what} have no {absent[0]}, which {method} needs; they have {', '.join(statistics)}"
        )
    first, second = (np.asarray(statistics[name], np.float64).reshape(-1) for name in needed)
    if first.shape != second.shape or not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ConfigError(f"the statistics {' and '.join(needed)} of the {what} differ in size, or are not finite")
    return first, second
