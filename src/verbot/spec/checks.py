"""What the parts of a robot spec must be; `verbot.spec` calls it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from verbot.errors import SpecError
from verbot.text import clean_names, name_problem, text_problem

LONGEST_SIDE = 2**15  # pixels
LARGEST_NUMBER = float(np.finfo(np.float32).max)  # states and actions are float32
SLOWEST_HZ, FASTEST_HZ = 1e-3, 1e5


def check_name(kind: str, name: object) -> None:
    """Raise `SpecError` that says what to call it unless `name` can be the name of a `kind`, such as ``"camera"``."""
    problem = name_problem(name)
    if problem:
        raise SpecError(f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} is called {name!r:.200}; {problem}")


def check_texts(what: str, texts: Sequence[object]) -> None:
    """Raise `SpecError` unless `texts` are all text that can be stored."""
    for text in texts:
        if problem := text_problem(text):
            raise SpecError(f"{what} {problem}: {text!r:.80}; expected plain text")


def check_rate(robot: object, rate_hz: object) -> None:
    if not is_finite(rate_hz) or not SLOWEST_HZ <= rate_hz <= FASTEST_HZ:  # type: ignore[operator]
        expected = f"more than 0: {SLOWEST_HZ:g} to {FASTEST_HZ:g}"
        raise SpecError(f"robot {robot!r:.200} has rate {rate_hz} Hz; expected {expected}")


def check_range(name: str, axes: Sequence[str], low: Sequence[float], high: Sequence[float]) -> None:
    """Raise `SpecError` unless every axis of component `name` has a finite low below a finite high."""
    if (
        not all(isinstance(each, list | tuple) for each in (axes, low, high))
        or not len(axes) == len(low) == len(high)
        or not axes
    ):
        counts = [len(each) if isinstance(each, list | tuple) else each for each in (axes, low, high)]
        raise SpecError(
            f"component {name!r} needs one low and one high per axis: {counts[0]} axes, {counts[1]} low, {counts[2]} high"
        )
    for axis, bottom, top in zip(axes, low, high, strict=True):
        if not all(is_finite(bound) and abs(bound) <= LARGEST_NUMBER for bound in (bottom, top)):
            raise SpecError(
                f"component {name!r} has the range {bottom} to {top} of axis {axis!r}; expected two finite numbers of float32"
            )
    if any(bottom >= top for bottom, top in zip(low, high, strict=True)):
        raise SpecError(f"component {name!r} has a low that is not below its high: {low} and {high}")


def check_camera(name: str, size: tuple[object, object], intrinsics: object, extrinsics: object) -> None:
    """Raise `SpecError` unless the pictures have whole numbers of pixels, and the calibration the right count of finite ones.

    Args:
        size: height and width.
    """
    for side in size:
        if not isinstance(side, int | np.integer) or not 1 <= side <= LONGEST_SIDE:
            shown = f"{size[0]}×{size[1]}"
            raise SpecError(f"camera {name!r} has size {shown}; expected positive pixels, whole numbers up to {LONGEST_SIDE}")
    for label, values, count in (("intrinsics", intrinsics, 9), ("extrinsics", extrinsics, 16)):
        if values is None:
            continue
        if not isinstance(values, list | tuple) or len(values) != count:
            found = len(values) if isinstance(values, list | tuple) else type(values).__name__
            raise SpecError(f"camera {name!r} has {found} {label}; expected {count} numbers, row-major")
        if not all(map(is_finite, values)):
            raise SpecError(f"camera {name!r} has {label} that are not finite numbers: {values}")


def check_depth(image: npt.NDArray[Any], camera: str, height: int, width: int) -> None:
    """Raise `SpecError` unless a picture of depth is float32 (h, w), finite and not negative."""
    if image.dtype != np.float32 or image.shape != (height, width):
        raise SpecError(
            f"depth camera {camera!r} gave {image.dtype} {image.shape}; expected float32 ({height}, {width}) in meters"
        )
    if not (np.isfinite(image).all() and (image >= 0).all()):
        raise SpecError(f"depth camera {camera!r} gave values that are negative or not finite; expected 0 where unknown")


def check_members(robot: str, label: str, names: Sequence[str], groups: Sequence[tuple[str, tuple[str, ...]]]) -> None:
    """Raise `SpecError` unless every member of a group is one of the components `names`, and of one group only."""
    owner: dict[str, str] = {}
    for group, members in groups:
        for name in members:
            if name not in names:
                raise SpecError(
                    f"end effector {group!r} of robot {robot!r} has the {label} component {name!r}; "
                    f"the robot's are {', '.join(names) or 'none'}"
                )
            if name in owner:
                raise SpecError(f"{label} component {name!r} of robot {robot!r} is in two groups: {owner[name]} and {group}")
            owner[name] = group


def is_finite(value: Any) -> bool:
    """Whether `value` is a finite number."""
    plain = value.item() if isinstance(value, np.generic) else value
    return isinstance(plain, int | float) and -1e300 < plain < 1e300


def with_clean_names(record: Any) -> Any:
    """The record of a spec (`RobotSpec.to_json`) with clean names, for files of versions that took any; itself if all are clean.

    Names of members and frames are changed alike. What is no record of a spec comes back as it is.
    """
    parts = ("cameras", "state", "action", "groups")
    if not isinstance(record, dict) or not all(_are_named(record.get(part, [])) for part in parts):
        return record
    names = {part: clean_names(each["name"] for each in record.get(part, [])) for part in parts}
    frames = record.get("frames", [])
    if not isinstance(frames, list) or not all(isinstance(name, str) for name in frames):
        return record
    framed = clean_names([*names["groups"], *frames])
    names["groups"] = {name: framed[name] for name in names["groups"]}

    def renamed(part: str, each: dict[str, Any]) -> dict[str, Any]:
        out = {**each, "name": names[part][each["name"]]}
        if part == "cameras" and isinstance(each.get("frame"), str):
            out["frame"] = framed.get(each["frame"], each["frame"])
        if part == "groups":
            for label in ("state", "action"):
                members, known = each.get(label, []), names[label]
                if isinstance(members, list):
                    out[label] = [known.get(name, name) if isinstance(name, str) else name for name in members]
        return out

    out = {**record, **{part: [renamed(part, each) for each in record[part]] for part in parts if part in record}}
    return out | ({"frames": [framed[name] for name in frames]} if frames else {})


def _are_named(listed: Any) -> bool:
    return isinstance(listed, list) and all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in listed)
