"""Exact statistics of states and actions, used for normalization. numpy only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verbot.errors import DataError

QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)


@dataclass(frozen=True)
class FeatureStatistics:
    """Statistics of one feature of `d` dimensions over `count` frames; every array is float64 (d,).

    `quantiles` maps each of `QUANTILES` to its exact value (linear interpolation between order statistics, as `numpy.quantile`).
    """

    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]
    min: npt.NDArray[np.float64]
    max: npt.NDArray[np.float64]
    quantiles: Mapping[float, npt.NDArray[np.float64]]
    count: int

    @property
    def size(self) -> int:
        return len(self.mean)

    @staticmethod
    def of(values: npt.ArrayLike, name: str = "values") -> FeatureStatistics:
        """Statistics of `values` (n, d). Raises `DataError` if it is empty or a value is not finite."""
        array = np.asarray(values, np.float64)
        if array.ndim != 2 or not len(array):
            raise DataError(f"statistics of {name!r} need an array (n, d) with n ≥ 1; got shape {array.shape}")
        if not np.isfinite(array).all():
            frame, dimension = np.argwhere(~np.isfinite(array))[0]
            raise DataError(f"{name!r} is not finite at frame {frame}, dimension {dimension}: {array[frame, dimension]}")
        low, high = array.min(axis=0), array.max(axis=0)
        # The mean of equal numbers may differ from them by rounding; a constant dimension has exactly that mean and no spread.
        constant = low == high
        return FeatureStatistics(
            mean=np.where(constant, low, array.mean(axis=0)),
            std=np.where(constant, 0.0, array.std(axis=0)),
            min=low,
            max=high,
            quantiles=dict(zip(QUANTILES, np.quantile(array, QUANTILES, axis=0), strict=True)),
            count=len(array),
        )

    def to_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {key: getattr(self, key).tolist() for key in ("min", "max", "mean", "std")}
        record["count"] = [self.count]
        record.update({quantile_name(q): values.tolist() for q, values in self.quantiles.items()})
        return record

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> FeatureStatistics:
        """Inverse of `to_json`. Raises `DataError` if a statistic is missing or the sizes differ."""
        keys = ("min", "max", "mean", "std", *map(quantile_name, QUANTILES))
        try:
            arrays = {key: np.asarray(record[key], np.float64) for key in keys}
            count = int(np.asarray(record["count"]).reshape(-1)[0])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError(f"invalid statistics of a feature: {error}; expected {', '.join(keys)} and count") from error
        if any(a.ndim != 1 or a.shape != arrays["mean"].shape for a in arrays.values()):
            raise DataError(f"statistics of unequal sizes: { {key: a.shape for key, a in arrays.items()} }")
        quantiles = {q: arrays.pop(quantile_name(q)) for q in QUANTILES}
        return FeatureStatistics(**arrays, quantiles=quantiles, count=count)


@dataclass(frozen=True)
class Statistics:
    """Statistics by feature name (``"state"`` and ``"action"`` for a dataset).

    Example:
        >>> statistics = Statistics.of({"state": np.array([[0.0, 7.0], [1.0, 7.0], [2.0, 7.0]])})
        >>> statistics["state"].mean.tolist(), statistics["state"].std.tolist()[1]
        ([1.0, 7.0], 0.0)
        >>> Statistics.from_json(statistics.to_json())["state"].quantiles[0.5].tolist()
        [1.0, 7.0]
    """

    features: Mapping[str, FeatureStatistics]

    def __getitem__(self, name: str) -> FeatureStatistics:
        """The statistics of a feature. Raises `DataError` that lists the existing ones if there are none."""
        if name not in self.features:
            raise DataError(f"there are no statistics of {name!r}; there are of {', '.join(self.features) or 'nothing'}")
        return self.features[name]

    def __contains__(self, name: object) -> bool:
        return name in self.features

    def __iter__(self) -> Iterator[str]:
        return iter(self.features)

    @staticmethod
    def of(arrays: Mapping[str, npt.ArrayLike]) -> Statistics:
        """Statistics of arrays (n, d) by feature name."""
        return Statistics({name: FeatureStatistics.of(values, name) for name, values in arrays.items()})

    def to_json(self) -> dict[str, Any]:
        return {name: feature.to_json() for name, feature in self.features.items()}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Statistics:
        """Inverse of `to_json`."""
        return Statistics({name: FeatureStatistics.from_json(feature) for name, feature in record.items()})


def quantile_name(quantile: float) -> str:
    """The key LeRobot uses for a quantile: ``"q01"`` for 0.01."""
    return f"q{round(quantile * 100):02d}"
