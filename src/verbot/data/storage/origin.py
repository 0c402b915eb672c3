"""What a dataset lost when other software edited it, taken from the dataset that it was made of.

LeRobot's edit tool writes a new dataset with features, frames, videos and sentences. The robot's spec, calibration, grounding and
further wordings are gone. It keeps the numbers of every frame, so an episode is found again by its states and actions.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.storage import layout
from verbot.data.storage.episode_statistics import RecordedVectors
from verbot.data.storage.features import FeatureRoles, axis_labels
from verbot.data.storage.layout import axis_names
from verbot.errors import DataError
from verbot.spec import Int64Array, RobotSpec

LOST = "meta/verbot"  # the key of `Dataset.left_out`
WORDING_KEYS = ("instructions", "segments")


def matching_episodes(edited: Iterable[RecordedVectors], origin: Iterable[RecordedVectors]) -> Int64Array:
    """The number in `origin` of each episode of `edited`, by equal states and actions; −1 for none: int64 (n,).

    Equal episodes are taken in the order of their numbers.
    """
    places: dict[bytes, list[int]] = {}
    for number, episode in enumerate(origin):
        places.setdefault(_content(episode), []).append(number)
    found = []
    for episode in edited:
        numbers = places.get(_content(episode), [])
        found.append(numbers.pop(0) if len(numbers) > 1 else numbers[0] if numbers else -1)
    return np.array(found, np.int64)


def spec_of_origin(origin: RobotSpec, info: Mapping[str, Any], roles: FeatureRoles, root: Path) -> RobotSpec:
    """The spec of `origin` with the cameras that the edited dataset still has.

    Raises `DataError` unless state, action and rate are the same.
    """
    for target, sources, components in ((layout.STATE, roles.state, origin.state), (layout.ACTION, roles.action, origin.action)):
        found = [name for key in sources for name in axis_labels(info["features"][key])]
        expected = axis_names(components)
        if found != expected:
            raise DataError(f"{root}: {target} has the numbers {', '.join(found)}; the origin's are {', '.join(expected)}")
    if float(info["fps"]) != origin.rate_hz:
        raise DataError(f"{root} has {info['fps']} frames a second; its origin has {origin.rate_hz:g}")
    cameras = {camera.name: camera for camera in origin.cameras}
    if unknown := roles.cameras.keys() - cameras.keys():
        raise DataError(f"{root} has the camera {min(unknown)!r}; its origin has {', '.join(cameras) or 'none'}")
    return dataclasses.replace(origin, cameras=tuple(cameras[name] for name in roles.cameras))


def lost_by_editing(info: Mapping[str, Any], roles: FeatureRoles, root: Path) -> str:
    """What a dataset seems to have lost, if its vectors have names as verbot writes them and its spec is gone; else empty."""
    names = [name for key in (*roles.state, *roles.action) for name in axis_labels(info["features"][key])]
    vectors = {name.rpartition(".")[0] for name in names if name.endswith(".x")}
    ours = any(f"{vector}.y" in names and f"{vector}.z" in names for vector in vectors) or (root / LOST).is_dir()
    if "verbot" in info or not ours:
        return ""
    return (
        "was written by verbot and edited by other software, which dropped the robot's spec, calibration, grounding and "
        "wordings; open_dataset(…, origin=PATH), or --set data.origin=PATH in training, takes them from the dataset that was "
        "edited"
    )


def adopted_extras(extras: Mapping[str, Any], same_sentences: bool) -> dict[str, Any]:
    """The extras of an episode of the origin; without its wordings where the sentence was edited."""
    return {key: value for key, value in extras.items() if same_sentences or key not in WORDING_KEYS}


def _content(episode: RecordedVectors) -> bytes:
    return hashlib.sha256(episode.states.tobytes() + b"|" + episode.actions.tobytes()).digest()
