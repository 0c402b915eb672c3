"""The robot spec of a dataset that other software wrote: names and ranges as they are recorded, nothing guessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.storage import layout
from verbot.data.storage.features import FeatureRoles, axis_labels, image_size
from verbot.data.storage.ranges import range_of
from verbot.errors import DataError
from verbot.spec import Camera, Component, RobotSpec
from verbot.text import clean_names, repaired_text

Range = tuple[np.ndarray, np.ndarray]
Stored = Callable[[str], Range | None]
Found = Callable[[Sequence[str]], Mapping[str, Range]]


def derived_spec(info: Mapping[str, Any], roles: FeatureRoles, root: Path, stored: Stored, found: Found) -> RobotSpec:
    """A spec with one component of kind ``"other"`` for each feature of the state and the action.

    LeRobot records no units, frames or kinds. Pass ``open_dataset(path, spec=…)`` if they are known. The range of a component is
    that of the stored statistics, and of the data where these do not hold it.

    Args:
        stored: the range of a feature by the stored statistics, or None.
        found: the ranges of features in the data, which it reads.
    """
    features = info["features"]
    keys = [*roles.state, *roles.action]
    sizes = {key: int(np.prod(features[key]["shape"], dtype=np.int64)) for key in keys}
    bounds = {key: stored(key) for key in keys}
    lacking = [key for key, bound in bounds.items() if bound is None or len(bound[0]) != sizes[key]]
    bounds |= found(lacking) if lacking else {}
    cameras = []
    for name, key in roles.cameras.items():
        height, width = image_size(key, features[key], root)
        cameras.append(Camera(name, height, width, kind="depth" if name in roles.depth else "color"))

    def components(target: str, sources: Sequence[str]) -> tuple[Component, ...]:
        names = _component_names(target, sources)
        out = []
        for name, key in zip(names, sources, strict=True):
            low, high = bounds[key] or (np.zeros(sizes[key]), np.zeros(sizes[key]))
            if len(low) != sizes[key]:
                raise DataError(f"{root}: feature {key!r} has {len(low)} numbers a frame; {layout.INFO} says {sizes[key]}")
            out.append(Component(name, "other", axis_labels(features[key]), "", "", *range_of(low, high)))
        return tuple(out)

    state, action = components(layout.STATE, roles.state), components(layout.ACTION, roles.action)
    return RobotSpec(repaired_text(info.get("robot_type") or "unknown"), float(info["fps"]), tuple(cameras), state, action)


def check_spec(spec: RobotSpec, info: Mapping[str, Any], roles: FeatureRoles, root: Path) -> None:
    """Raise `DataError` unless the vectors and cameras of a dataset have the sizes that a spec declares."""
    features = info["features"]
    for label, sources, size in (("state", roles.state, spec.state_size), ("action", roles.action, spec.action_size)):
        found = sum(int(np.prod(features[key]["shape"], dtype=np.int64)) for key in sources)
        if found != size:
            named = ", ".join(sources) or "no feature"
            raise DataError(f"{root}: the spec {spec.name!r} has {size} numbers of {label}; the dataset has {found} ({named})")


def _component_names(target: str, sources: Sequence[str]) -> list[str]:
    """``state`` or ``action``; of joined features their last words, as clean names."""
    if len(sources) == 1:
        return [target.rpartition(".")[2]]
    names = [source.rpartition(".")[2] for source in sources]
    if len(set(names)) < len(names):
        names = [source.replace(".", "_") for source in sources]
    if len(set(names)) < len(names):
        names = list(sources)
    clean = clean_names(names)
    return [clean[name] for name in names]
