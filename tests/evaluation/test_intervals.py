from __future__ import annotations

import math

import numpy as np
import pytest

from verbot.evaluation.protocol import intervals
from verbot.evaluation.protocol.intervals import Estimate, correlation, difference, mcnemar, mean, quantile, ratio, wilson


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_published_intervals(hits: int, n: int, low: float, high: float) -> None:
    estimate = wilson(hits, n)
    assert estimate.value == hits / n
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=5e-5)


def test_wilson_never_claims_certainty() -> None:
    assert wilson(50, 50).low < 1 == wilson(50, 50).high
    assert wilson(0, 0) == Estimate(None, None, None, 0)


@pytest.mark.parametrize(("b", "c", "p"), [(9, 1, 22 / 1024), (1, 9, 22 / 1024), (5, 5, 1.0), (0, 0, 1.0), (6, 0, 2 / 64)])
def test_mcnemar_is_the_two_sided_binomial(b: int, c: int, p: float) -> None:
    pairs = [(True, False)] * b + [(False, True)] * c + [(True, True)] * 40 + [(False, False)] * 7
    assert mcnemar(pairs) == pytest.approx(p)


def test_difference_has_nominal_coverage() -> None:
    """Correlated pairs: half of the second outcomes repeat the first; P is 0.9 and 0.85."""
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        first = rng.random(80) < 0.9
        second = np.where(rng.random(80) < 0.5, first, rng.random(80) < 0.8)
        estimate = difference(list(zip(first.tolist(), second.tolist(), strict=True)))
        inside += estimate.low <= 0.05 <= estimate.high
    assert 0.92 <= inside / 400 <= 0.99


def test_difference_of_equal_results_is_zero_with_an_interval() -> None:
    estimate = difference([(True, True)] * 30 + [(False, False)] * 10)
    assert estimate.value == 0
    assert estimate.low <= 0 <= estimate.high


def test_ratio_limits_solve_their_equation() -> None:
    """MOVER: at the lower limit L, (p − L q)² = (p − l₁)² + L² (u₂ − q)² − 2 ρ L (p − l₁)(u₂ − q)."""
    top, bottom, rho = wilson(80, 100), wilson(90, 100), 0.3
    estimate = ratio(top, bottom, rho)
    for limit, down, up in ((estimate.low, top.value - top.low, bottom.high - bottom.value),
                            (estimate.high, top.high - top.value, bottom.value - bottom.low)):  # fmt: skip
        right = down**2 + (limit * up) ** 2 - 2 * rho * limit * down * up
        assert (top.value - limit * bottom.value) ** 2 == pytest.approx(right)
    assert estimate.low < 80 / 90 < estimate.high
    assert estimate.value == pytest.approx(80 / 90)


def test_ratio_has_nominal_coverage() -> None:
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(400):
        estimate = ratio(wilson(int(rng.binomial(100, 0.8)), 100), wilson(int(rng.binomial(100, 0.9)), 100))
        inside += estimate.low <= 0.8 / 0.9 <= estimate.high
    assert 0.91 <= inside / 400 <= 0.99


def test_correlated_pairs_narrow_a_ratio() -> None:
    top, bottom = wilson(45, 50), wilson(46, 50)
    alone, together = ratio(top, bottom), ratio(top, bottom, 0.9)
    assert together.high - together.low < 0.6 * (alone.high - alone.low)


def test_ratio_at_the_edges() -> None:
    perfect = ratio(wilson(50, 50), wilson(50, 50))
    assert perfect.low < 1 == perfect.value < perfect.high
    assert ratio(wilson(5, 10), wilson(0, 10)).value is None
    hopeless = ratio(wilson(5, 10), wilson(1, 10))
    assert hopeless.low >= 0
    assert hopeless.to_json()["high"] is None or hopeless.high > 5
    assert Estimate(1.0, 0.5, math.inf, 3).to_json() == {"value": 1.0, "low": 0.5, "high": None, "n": 3}


def test_correlation_of_constant_outcomes_is_zero() -> None:
    assert correlation([(True, True), (True, False)]) == 0
    assert correlation([(True, True), (False, False)]) == pytest.approx(1)
    assert correlation([(True, False), (False, True)]) == pytest.approx(-1)


def test_mean_is_seeded_and_holds_the_mean() -> None:
    values = list(np.random.default_rng(0).normal(3, 1, 200))
    first = mean(values)
    assert first == mean(values)
    assert first.low < first.value < first.high
    assert first.high - first.low == pytest.approx(2 * 1.96 * np.std(values) / math.sqrt(200), rel=0.15)
    assert mean([]) == intervals.NOTHING


def test_quantile_lies_between_order_statistics() -> None:
    estimate = quantile(list(range(100)), 0.5)
    assert (estimate.value, estimate.low, estimate.high, estimate.n) == (49.5, 40, 60, 100)


def test_complement_reverses_the_interval() -> None:
    assert Estimate(0.25, 0.125, 0.5, 8).complement() == Estimate(0.75, 0.5, 0.875, 8)
