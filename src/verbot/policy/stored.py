"""The record of a policy without its network: checks of what its JSON files hold. numpy only, for computers without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verbot.errors import ConfigError, DataError, PolicyError, VerbotError
from verbot.policy.storage import json_table
from verbot.spec import Component, RobotSpec
from verbot.statistics import FeatureStatistics, Statistics
from verbot.transforms import KEPT_KINDS, Affine, ClipTransform, Pipeline, normalizer

CONFIG, STATISTICS = "policy.json", "statistics.json"
FLOAT32 = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Preprocessing:
    """How raw values become normalized ones; see `verbot.transforms.METHODS`.

    Args:
        state, action: the method for state and action.
        allow_missing_cameras: mask a camera that an observation lacks, instead of raising an error.
    """

    state: str = "z_score"
    action: str = "z_score"
    allow_missing_cameras: bool = False


def action_transform(preprocessing: Preprocessing, spec: RobotSpec, statistics: Statistics) -> Pipeline:
    """From actions in the robot's units, clipped to its ranges, to normalized ones, and back."""
    normal = normalizer(preprocessing.action, statistics["action"], spec.action, KEPT_KINDS)
    return Pipeline((ClipTransform(spec.action_low(), spec.action_high()), normal))


def state_transform(preprocessing: Preprocessing, spec: RobotSpec, statistics: Statistics) -> Affine:
    """From states in the robot's units to normalized ones, and back."""
    return normalizer(preprocessing.state, statistics["state"], spec.state) if spec.state else Affine.of_nothing()


def table_of(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = record.get(name)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} is {shortened(value)}; expected a table")
    return value


def stored_statistics(content: bytes, spec: RobotSpec, path: Path) -> Statistics:
    record = json_table(content, path)
    try:
        found = Statistics.from_json(record)
    except (DataError, OverflowError) as error:
        raise PolicyError(f"{path}: {one_line(error)}") from error
    vectors: dict[str, tuple[Component, ...]] = {"action": spec.action} | ({"state": spec.state} if spec.state else {})
    for name, components in vectors.items():
        if name not in found:
            raise PolicyError(f"{path} has no statistics of {name!r}; it has those of {', '.join(found) or 'nothing'}")
        size = sum(component.size for component in components)
        if found[name].size != size:
            raise PolicyError(f"{path} has statistics of {found[name].size} numbers of {name!r}; the robot has {size}")
        _check_finite(found[name], name, path)
    return found


def _check_finite(statistics: FeatureStatistics, name: str, path: Path) -> None:
    kinds = {"min": statistics.min, "max": statistics.max, "mean": statistics.mean, "std": statistics.std}
    for kind, values in (kinds | {f"quantile {q:g}": values for q, values in statistics.quantiles.items()}).items():
        wrong = ~(np.abs(values) <= FLOAT32) | ((values < 0) & (kind == "std"))
        if wrong.any():
            place = int(np.argmax(wrong))
            raise PolicyError(f"{path}: the {kind} of {name!r} is {values[place]} in dimension {place}; expected a finite number")
    if (statistics.min > statistics.max).any() or statistics.count < 1:
        raise PolicyError(f"{path}: the statistics of {name!r} have a min above the max, or a count of {statistics.count}")


def shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    text = f"{text} is missing" if isinstance(error, KeyError) and not isinstance(error, VerbotError) else text
    return text if len(text) <= 400 else f"{text[:399]}…"
