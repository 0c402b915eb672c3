"""95 % confidence intervals and the exact paired test. Closed forms if they exist, otherwise a seeded bootstrap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Z_95 = 1.959963984540054
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval. All three are None if nothing was measured (`n` is 0, or a ratio's base is 0).

    Args:
        n: number of episodes, initial states or predictions, as stated by the metric's definition.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int

    def percent(self) -> list[float | None]:
        """Value, low and high of a share in percent.

        Example:
            >>> Estimate(0.5, 0.25, 0.75, 4).percent()
            [50.0, 25.0, 75.0]
        """
        return [None if x is None else round(100 * x, 1) for x in (self.value, self.low, self.high)]

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; an infinite limit becomes None, because JSON has no infinity."""
        high = None if self.high is None or math.isinf(self.high) else self.high
        return {"value": self.value, "low": self.low, "high": high, "n": self.n}

    def complement(self) -> Estimate:
        """One minus this."""
        if self.value is None or self.low is None or self.high is None:
            return self
        return Estimate(1 - self.value, 1 - self.high, 1 - self.low, self.n)


NOTHING = Estimate(None, None, None, 0)


def wilson(hits: int, n: int) -> Estimate:
    """A proportion with Wilson's score interval (Wilson 1927).

    Example:
        >>> estimate = wilson(90, 100)
        >>> round(estimate.low, 4), round(estimate.high, 4)
        (0.8256, 0.9448)
    """
    if n == 0:
        return NOTHING
    p, z2 = hits / n, Z_95**2
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Estimate(p, min(p, max(0.0, center - half)), max(p, min(1.0, center + half)), n)


def proportion(outcomes: Sequence[bool]) -> Estimate:
    return wilson(sum(outcomes), len(outcomes))


def correlation(pairs: Sequence[tuple[bool, bool]]) -> float:
    """The phi coefficient of paired binary outcomes; 0 if one of them is constant."""
    if not pairs:
        return 0.0
    a, b = np.array(pairs, dtype=float).T
    spread = a.std() * b.std()
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread > 0 else 0.0


def ratio(top: Estimate, bottom: Estimate, rho: float = 0.0) -> Estimate:
    """The ratio `top` / `bottom` of two proportions, by the method of variance estimates recovery (MOVER-R).

    It solves Fieller's quadratic with the distances to each proportion's Wilson limits in place of standard errors (Donner & Zou
    2012; Newcombe 2016). The interval therefore does not vanish when both are 100 %.

    Args:
        rho: the correlation of the two if they were measured on the same scenes; see `correlation`.
    """
    if not top.n or not bottom.value:
        return Estimate(None, None, None, top.n)
    assert top.value is not None and top.low is not None and top.high is not None
    assert bottom.low is not None and bottom.high is not None
    p, q = top.value, bottom.value
    lower = _root(p * q - rho * (p - top.low) * (bottom.high - q), top.low * (2 * p - top.low), bottom.high, q, -1)
    upper = _root(p * q - rho * (top.high - p) * (q - bottom.low), top.high * (2 * p - top.high), bottom.low, q, +1)
    return Estimate(p / q, max(0.0, min(lower, p / q)), max(upper, p / q), top.n)


def _root(a: float, c: float, limit: float, q: float, sign: int) -> float:
    """A root of b·x² − 2a·x + c = 0 with b = limit·(2q − limit); infinite if the base's limit reaches zero."""
    b = limit * (2 * q - limit)
    root = math.sqrt(max(0.0, a * a - b * c))
    if sign < 0:
        return c / (a + root) if a + root > 0 else 0.0
    return (a + root) / b if b > 0 else math.inf


def difference(pairs: Sequence[tuple[bool, bool]]) -> Estimate:
    """P(first) − P(second) on paired episodes, with Newcombe's square-and-add interval for correlated pairs (1998)."""
    if not pairs:
        return NOTHING
    a, b = proportion([x for x, _ in pairs]), proportion([y for _, y in pairs])
    assert a.value is not None and a.low is not None and a.high is not None
    assert b.value is not None and b.low is not None and b.high is not None
    rho, delta = correlation(pairs), a.value - b.value
    down, up = (a.value - a.low, b.high - b.value), (a.high - a.value, b.value - b.low)
    low, high = (math.sqrt(max(0.0, x * x + y * y - 2 * rho * x * y)) for x, y in (down, up))
    return Estimate(delta, delta - low, delta + high, len(pairs))


def mean(values: Sequence[float]) -> Estimate:
    """A mean with its percentile bootstrap interval (2000 resamples, fixed seed)."""
    if not values:
        return NOTHING
    sample = np.asarray(values, dtype=float)
    draws = np.random.default_rng(0).integers(0, len(sample), (RESAMPLES, len(sample)))
    low, high = np.quantile(sample[draws].mean(axis=1), (0.025, 0.975))
    return Estimate(float(sample.mean()), float(low), float(high), len(sample))


def quantile(values: Sequence[float], q: float) -> Estimate:
    """A quantile with the distribution-free interval between two order statistics (Conover 1999, normal approximation)."""
    if not values:
        return NOTHING
    ordered, n = np.sort(np.asarray(values, dtype=float)), len(values)
    half = Z_95 * math.sqrt(n * q * (1 - q))
    low, high = (int(np.clip(round(n * q + side * half), 0, n - 1)) for side in (-1, 1))
    return Estimate(float(np.quantile(ordered, q)), float(ordered[low]), float(ordered[high]), n)


def mcnemar(pairs: Sequence[tuple[bool, bool]]) -> float:
    """Two-sided p-value of McNemar's exact test, that discordant pairs are equally likely in both directions.

    Example:
        >>> round(mcnemar([(True, False)] * 9 + [(False, True)] * 1), 4)
        0.0215
    """
    only_first = sum(a and not b for a, b in pairs)
    only_second = sum(b and not a for a, b in pairs)
    n, k = only_first + only_second, min(only_first, only_second)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)
