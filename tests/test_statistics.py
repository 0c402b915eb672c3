from __future__ import annotations

import json

import numpy as np
import pytest

from verbot.errors import DataError
from verbot.statistics import QUANTILES, FeatureStatistics, Statistics, quantile_name


@pytest.mark.parametrize("count", [1, 2, 7, 100, 1001])
def test_quantiles_are_exact(count):
    values = np.random.default_rng(count).standard_cauchy((count, 3)).astype(np.float32)
    statistics = FeatureStatistics.of(values)
    for q in QUANTILES:
        assert np.array_equal(statistics.quantiles[q], np.quantile(values.astype(np.float64), q, axis=0))
    assert np.allclose(statistics.mean, values.mean(axis=0, dtype=np.float64), rtol=1e-12)
    assert np.allclose(statistics.std, values.std(axis=0, dtype=np.float64), rtol=1e-12)
    assert np.array_equal(statistics.min, values.min(axis=0)) and np.array_equal(statistics.max, values.max(axis=0))
    assert statistics.count == count


def test_a_constant_dimension_has_no_spread_at_all():
    values = np.full((1000, 2), 0.1, np.float32)
    values[:, 1] = np.arange(1000)
    statistics = FeatureStatistics.of(values)
    assert statistics.std[0] == 0 and statistics.mean[0] == np.float64(np.float32(0.1))
    assert all(statistics.quantiles[q][0] == statistics.mean[0] for q in QUANTILES)


def test_json_round_trip_keeps_every_bit():
    values = {"state": np.random.default_rng(0).normal(size=(50, 4)), "action": np.random.default_rng(1).normal(size=(50, 2))}
    statistics = Statistics.of(values)
    again = Statistics.from_json(json.loads(json.dumps(statistics.to_json())))
    assert again.to_json() == statistics.to_json()
    assert list(again) == ["state", "action"] and "state" in again and again["action"].size == 2
    assert [quantile_name(q) for q in QUANTILES] == ["q01", "q10", "q50", "q90", "q99"]


def test_missing_statistics_are_an_error():
    statistics = Statistics.of({"state": np.zeros((2, 1))})
    with pytest.raises(DataError, match="no statistics of 'action'; there are of state"):
        statistics["action"]
    record = statistics.to_json()["state"]
    with pytest.raises(DataError, match="invalid statistics of a feature: 'q50'"):
        FeatureStatistics.from_json({key: value for key, value in record.items() if key != "q50"})
    with pytest.raises(DataError, match="unequal sizes"):
        FeatureStatistics.from_json(record | {"min": [0.0, 0.0]})


def test_values_without_statistics_are_refused():
    with pytest.raises(DataError, match=r"need an array \(n, d\) with n ≥ 1; got shape \(0, 2\)"):
        Statistics.of({"state": np.zeros((0, 2))})
    values = np.zeros((5, 2))
    values[3, 1] = np.nan
    with pytest.raises(DataError, match="'state' is not finite at frame 3, dimension 1: nan"):
        Statistics.of({"state": values})
