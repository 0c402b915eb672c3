"""What the features of a LeRobotDataset are: state, action, cameras, or further values.

Feature names differ between recorders. `FeatureRoles.of` reads LeRobot's own; `feature_map` parses what a user says about others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verbot.data.storage import layout
from verbot.data.storage.depth import DepthCode, depth_code
from verbot.errors import ConfigError, DataError, UnknownNameError
from verbot.text import clean_names, name_problem, repaired_text

FeatureMap = Mapping[str, Sequence[str]]

PICTURES = ("video", "image")
VECTORS = re.compile(r"(float|u?int)\d+|bool")
BOOKKEEPING = (*layout.FRAME_COLUMNS,)  # columns that number the frames


def feature_map(lines: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """What ``--map`` says: which features of a dataset are its state, its action and its cameras.

    Each line is ``TARGET=FEATURE[,FEATURE…]``. The target is ``observation.state`` (or ``state``), ``action``, or
    ``observation.images.NAME`` (or ``images.NAME``). Several features of a state or an action are joined in that order.

    Raises `ConfigError` for a line of another form.

    Example:
        >>> feature_map(["state=arm,gripper", "images.front=image0"])
        {'observation.state': ('arm', 'gripper'), 'observation.images.front': ('image0',)}
    """
    out: dict[str, tuple[str, ...]] = {}
    for line in lines:
        target, equals, sources = line.partition("=")
        features = tuple(source.strip() for source in sources.split(","))
        key = _target(target.strip())
        if key is not None and key.startswith(layout.IMAGES) and (problem := name_problem(key.removeprefix(layout.IMAGES))):
            raise ConfigError(f"--map {line!r}: the name of a camera: {problem}")
        if not equals or key is None or not all(features):
            raise ConfigError(
                f"--map {line!r}: expected TARGET=FEATURE[,FEATURE…], where TARGET is observation.state, action or "
                f"observation.images.NAME, such as --map action=actions observation.images.front=image0"
            )
        if key in out:
            raise ConfigError(f"--map says twice what {key!r} is: {', '.join(out[key])} and {', '.join(features)}")
        if key.startswith(layout.IMAGES) and len(features) > 1:
            raise ConfigError(f"--map {line!r}: a camera is one feature, not {len(features)}")
        out[key] = features
    return out


@dataclass(frozen=True)
class FeatureRoles:
    """The features of a dataset by their use.

    Args:
        state, action: features that are joined in this order.
        cameras: the feature of each camera, by the camera's name; color before depth.
        depth: how the frames of each depth camera hold meters, by its name.
        columns: further values of every frame.
        left_out: features that are not read, each with the reason.
    """

    state: tuple[str, ...]
    action: tuple[str, ...]
    cameras: Mapping[str, str]
    depth: Mapping[str, DepthCode]
    columns: tuple[str, ...]
    left_out: Mapping[str, str]

    @staticmethod
    def of(features: Mapping[str, Any], path: Path, chosen: FeatureMap | None = None, depth: bool = False) -> FeatureRoles:
        """The roles of `features`, the table of ``info.json``.

        Args:
            path: the dataset, for messages.
            chosen: the user's words, as from `feature_map`.
            depth: whether depth cameras are read.

        Raises `DataError` if there is no action, `UnknownNameError` if `chosen` names a feature that does not exist.
        """
        named = {target: tuple(sources) for target, sources in (chosen or {}).items()}
        _check_chosen(named, features, path)
        vectors = {}
        for key in (layout.STATE, layout.ACTION):
            vectors[key] = named.get(key, (key,) if key in features else ())
            for source in vectors[key]:
                if not VECTORS.fullmatch(features[source]["dtype"]):
                    raise DataError(f"{path}: feature {source!r} holds {features[source]['dtype']}; expected numbers for {key!r}")
        if not vectors[layout.ACTION]:
            raise DataError(_no_action(features, path))
        cameras, codes, left_out = _cameras(features, named, depth)
        taken = {*vectors[layout.STATE], *vectors[layout.ACTION], *BOOKKEEPING}
        columns = tuple(key for key, f in features.items() if f["dtype"] not in PICTURES and key not in taken)
        if not vectors[layout.STATE]:
            for key in (key for key in columns if _is_vector(features[key])):
                left_out[key] = f"is no state unless you say so (--map {layout.STATE}={key}); it is read as a further column"
        return FeatureRoles(vectors[layout.STATE], vectors[layout.ACTION], cameras, codes, columns, left_out)


def image_size(key: str, feature: Mapping[str, Any], path: Path) -> tuple[int, int]:
    """Height and width of the pictures of a camera feature, whose shape names channels first, last or not at all."""
    shape = list(feature["shape"])
    names = feature.get("names")
    channel = None
    if isinstance(names, list) and len(names) == len(shape) == 3:
        channel = next((i for i, name in enumerate(names) if isinstance(name, str) and name.lower() in CHANNEL), None)
    if len(shape) == 3 and (channel is None or shape[channel] > 4):  # names that are absent or wrong
        channel = next((i for i in (2, 0) if shape[i] in (1, 3, 4)), None)
        if channel is None:
            raise DataError(f"{path}: feature {key!r} has shape {shape}; expected (height, width, channels)")
    height, width = (side for i, side in enumerate(shape) if i != channel or len(shape) == 2)
    return height, width


RENAMED = "a name is made of letters, digits, '_', '-' and '.'"
CHANNEL = ("channel", "channels", "c")


def axis_labels(feature: Mapping[str, Any]) -> tuple[str, ...]:
    """A name for each number of a vector feature; numbers where the recorder gave none, or the same one twice."""
    shape = feature["shape"]
    size = 1
    for side in shape:
        size *= side
    names = feature.get("names")
    while isinstance(names, Mapping):  # older recordings: {"motors": [...]}
        names = next(iter(names.values()), None)
    if isinstance(names, list) and any(isinstance(name, list) for name in names):
        names = [name for row in names for name in (row if isinstance(row, list) else [row])]
    if isinstance(names, list) and len(names) == size and len(set(map(str, names))) == size and None not in names:
        return tuple(repaired_text(str(name)) for name in names)
    if len(shape) == 2:
        return tuple(f"{i}.{j}" for i in range(shape[0]) for j in range(shape[1]))
    return tuple(map(str, range(size)))


def _target(target: str) -> str | None:
    if target in ("state", layout.STATE):
        return layout.STATE
    if target == layout.ACTION:
        return target
    name = target.removeprefix("observation.").removeprefix("images.")
    return layout.IMAGES + name if target.endswith(f"images.{name}") and name and "/" not in name else None


def _check_chosen(named: Mapping[str, tuple[str, ...]], features: Mapping[str, Any], path: Path) -> None:
    for target, sources in named.items():
        if _target(target) != target:
            expected = f"{layout.STATE!r}, {layout.ACTION!r} or '{layout.IMAGES}NAME'"
            raise ConfigError(f"{path}: features say what {target!r} is; expected {expected}")
        if target.startswith(layout.IMAGES) and (problem := name_problem(target.removeprefix(layout.IMAGES))):
            raise ConfigError(f"{path}: features say what {target!r} is; the name of a camera: {problem}")
        for source in sources:
            if source not in features:
                raise UnknownNameError(f"feature of {path}", source, features)
        if target.startswith(layout.IMAGES) and (len(sources) != 1 or features[sources[0]]["dtype"] not in PICTURES):
            raise DataError(
                f"{path}: {', '.join(sources) or 'nothing'} is given as the camera {target!r}; expected one feature of pictures"
            )


def _cameras(
    features: Mapping[str, Any], named: Mapping[str, tuple[str, ...]], depth: bool
) -> tuple[dict[str, str], dict[str, DepthCode], dict[str, str]]:
    """Camera features by camera name, the codes of depth cameras, and what is left out."""
    own = {
        sources[0]: target.removeprefix(layout.IMAGES) for target, sources in named.items() if target.startswith(layout.IMAGES)
    }
    pictures = [key for key, feature in features.items() if feature["dtype"] in PICTURES]
    called = camera_names([key for key in pictures if key not in own], taken=own.values()) | own
    clean = clean_names(called.values())
    names = {key: clean[name] for key, name in called.items()}
    left_out = {key: f"is the camera {names[key]!r}: {RENAMED}" for key, name in called.items() if names[key] != name}
    color, deep, codes = {}, {}, {}
    for key in pictures:
        code = depth_code(features[key])
        if code is None:
            color[names[key]] = key
        elif not depth:
            left_out[key] = "is a depth camera; open_dataset(…, depth=True), or --set data.depth=true in training, reads it"
        elif code.problem:
            left_out[key] = code.problem
        else:
            deep[names[key]], codes[names[key]] = key, code
    return color | deep, codes, left_out


def camera_names(keys: Sequence[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """The name of each camera feature: what follows ``observation.images.``, or its last word; more words where those clash.

    Example:
        >>> list(camera_names(["observation.images.front", "left.image", "right.image", "wrist_image"]).values())
        ['front', 'left_image', 'right_image', 'wrist_image']
    """
    words = {key: [key.removeprefix(layout.IMAGES)] if key.startswith(layout.IMAGES) else key.split(".") for key in keys}
    names = {key: parts[-1] for key, parts in words.items()}
    for length in range(2, max(map(len, words.values()), default=1) + 1):
        found = [*names.values(), *taken]
        for key, name in list(names.items()):
            if found.count(name) > 1 and len(words[key]) >= length:
                names[key] = "_".join(words[key][-length:])
    found = [*names.values(), *taken]
    return {key: name if found.count(name) == 1 else key for key, name in names.items()}


def _is_vector(feature: Mapping[str, Any]) -> bool:
    return feature["dtype"].startswith("float") and feature["shape"] != [1]


def _no_action(features: Mapping[str, Any], path: Path) -> str:
    """What to type where no feature has LeRobot's name of the action."""
    vectors = [key for key, feature in features.items() if VECTORS.fullmatch(feature["dtype"]) and key not in BOOKKEEPING]

    def guess(*words: str) -> str:
        return next((key for word in words for key in vectors if word in key.lower()), "FEATURE")

    hint = f"{layout.ACTION}={guess('action', 'command', 'target')}"
    if layout.STATE not in features:
        hint += f" {layout.STATE}={guess('state', 'proprio', 'qpos', 'joint')}"
    return (
        f"{path}: no feature is named {layout.ACTION!r}; say which one it is, such as --map {hint} "
        f"(in Python: open_dataset(path, features=…)). There are {', '.join(features)}"
    )
