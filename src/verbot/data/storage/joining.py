"""Several recordings as one: whether they are of one robot, and the robot of all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from verbot.data.storage.resample import resampled_spec
from verbot.errors import ConfigError
from verbot.spec import Camera, Component, Int64Array, RobotSpec

SAME_RATE = 1e-6  # relative: the rate of a video is a fraction, that of a table is a decimal


def spec_difference(first: RobotSpec, other: RobotSpec, names: Sequence[str] = ("the first", "the other")) -> str | None:
    """What keeps two recordings from being trained together, with both values; None if nothing does.

    Components are matched by name, their dimensions by axis. Kinds, units, frames and end effectors must agree. Ranges, order,
    rates, names of robots, and cameras may differ, except for the kind of a camera.

    Args:
        names: what to call the two recordings.

    Example:
        >>> q = Component("q", "joint_position", ("a",), "rad", "base", (-1.0,), (1.0,))
        >>> arm = RobotSpec("arm", 10.0, (), (q,), (q,))
        >>> spec_difference(arm, dataclasses.replace(arm, state=(dataclasses.replace(q, unit="deg"),)), ("a", "b"))
        "the unit of the state component 'q' is 'rad' in a and 'deg' in b"
    """
    for vector in ("state", "action"):
        ours, theirs = ({c.name: c for c in getattr(spec, vector)} for spec in (first, other))
        if ours.keys() != theirs.keys():
            one, two = (", ".join(found) or "nothing" for found in (ours, theirs))
            return f"the {vector} consists of {one} in {names[0]} and of {two} in {names[1]}"
        for name, component in ours.items():
            if (field := _different_field(component, theirs[name])) is not None:
                one, two = (getattr(found[name], field) for found in (ours, theirs))
                return f"the {field} of the {vector} component {name!r} is {one!r} in {names[0]} and {two!r} in {names[1]}"
    groups = [{g.name: (sorted(g.state), sorted(g.action)) for g in spec.groups} for spec in (first, other)]
    if groups[0] != groups[1]:
        return f"the end effectors are {groups[0]} (state, action) in {names[0]} and {groups[1]} in {names[1]}"
    kinds = {camera.name: camera.kind for camera in first.cameras}
    for camera in other.cameras:
        if (kind := kinds.get(camera.name, camera.kind)) != camera.kind:
            return f"the kind of the camera {camera.name!r} is {kind!r} in {names[0]} and {camera.kind!r} in {names[1]}"
    return None


def join_specs(specs: Sequence[RobotSpec], names: Sequence[str], rate_hz: float | None = None) -> RobotSpec:
    """The robot of several recordings: ranges that hold those of all, the cameras of all, everything else as in the first.

    A camera that differs in size has the size of the first; where its calibration differs, it has none.

    Args:
        names: what to call the recordings in messages.
        rate_hz: the rate to which all of them are resampled; None needs equal rates.

    Raises `ConfigError` that names what differs, with both values.
    """
    first = specs[0]
    for spec, name in zip(specs[1:], names[1:], strict=True):
        if (found := spec_difference(first, spec, (names[0], name))) is not None:
            raise ConfigError(f"{name} and {names[0]} are not of one robot: {found}")
        if rate_hz is None and not _same_rate(first.rate_hz, spec.rate_hz):
            raise ConfigError(
                f"{name} and {names[0]} have different rates: {spec.rate_hz:g} Hz in {name} and {first.rate_hz:g} Hz in "
                f"{names[0]}"
            )
    if rate_hz is not None:
        specs = [spec if _same_rate(spec.rate_hz, rate_hz) else resampled_spec(spec, rate_hz) for spec in specs]
    cameras: dict[str, Camera] = {}
    for camera in (camera for spec in specs for camera in spec.cameras):
        cameras[camera.name] = _common(cameras.get(camera.name, camera), camera)
    own = first.camera_names
    return dataclasses.replace(
        specs[0],
        cameras=tuple(cameras[name] for name in (*own, *(name for name in cameras if name not in own))),
        state=_joined([spec.state for spec in specs]),
        action=_joined([spec.action for spec in specs]),
        frames=tuple(dict.fromkeys(frame for spec in specs for frame in spec.frames)),
    )


def join_recordings(specs: Sequence[RobotSpec], names: Sequence[str]) -> RobotSpec:
    """As `join_specs`, for recordings that become one: rate, order of the numbers, and cameras must be alike too.

    Raises `ConfigError` that names what differs, with both values.
    """
    joined = join_specs(specs, names)
    for spec, name in zip(specs[1:], names[1:], strict=True):
        if (found := _other_storage(specs[0], spec)) is not None:
            what, ours, theirs = found
            both = f"{what} {theirs} in {name} and {ours} in {names[0]}"
            raise ConfigError(f"{name} and {names[0]} cannot become one recording: {both}")
    return joined


def _other_storage(first: RobotSpec, other: RobotSpec) -> tuple[str, str, str] | None:
    """What two recordings of one robot store differently, and how each does."""
    for vector in ("state", "action"):
        if column_order(getattr(first, vector), getattr(other, vector)) is not None:
            ours, theirs = (", ".join(c.name for c in getattr(each, vector)) for each in (first, other))
            return f"the numbers of the {vector} are", ours, theirs
    for show in (lambda c: f"{c.name} {c.height}×{c.width}", lambda c: f"{c.name} in frame {c.frame}"):
        ours, theirs = (", ".join(sorted(map(show, each.cameras))) or "none" for each in (first, other))
        if ours != theirs:
            return "the cameras are", ours, theirs
    return None


def _common(first: Camera, other: Camera) -> Camera:
    """The first camera, with the calibration that both have."""
    return dataclasses.replace(
        first,
        intrinsics=first.intrinsics if first.intrinsics == other.intrinsics else None,
        extrinsics=first.extrinsics if first.extrinsics == other.extrinsics else None,
    )


def column_order(target: Sequence[Component], own: Sequence[Component]) -> Int64Array | None:
    """Which column of `own` each column of `target` is; None if they are in the same order already.

    Example:
        >>> q = Component("q", "joint_position", ("a", "b"), "rad", "base", (-1.0,) * 2, (1.0,) * 2)
        >>> r = Component("r", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
        >>> column_order((q, r), (r, dataclasses.replace(q, axes=("b", "a")))).tolist()
        [2, 1, 0]
    """
    places = {dimension: column for column, dimension in enumerate(_dimensions(own))}
    order = [places[dimension] for dimension in _dimensions(target)]
    return None if order == sorted(order) else np.array(order, np.int64)


def _different_field(one: Component, other: Component) -> str | None:
    for field in ("kind", "unit", "frame"):
        if getattr(one, field) != getattr(other, field):
            return field
    by_name = _named(one) and _named(other)
    return "axes" if (set(one.axes) != set(other.axes) if by_name else one.axes != other.axes) else None


def _named(component: Component) -> bool:
    """Whether the axes can be matched by name: each has one of its own."""
    return len(set(component.axes)) == component.size


def _dimensions(components: Sequence[Component]) -> list[tuple[str, object]]:
    return [(c.name, axis if _named(c) else number) for c in components for number, axis in enumerate(c.axes)]


def _joined(vectors: Sequence[tuple[Component, ...]]) -> tuple[Component, ...]:
    """The components of the first, with ranges that hold those of all."""
    low, high = [[x for c in vectors[0] for x in getattr(c, bound)] for bound in ("low", "high")]
    for vector in vectors[1:]:
        order = column_order(vectors[0], vector)
        for bound, held, wider in (("low", low, min), ("high", high, max)):
            own = [x for c in vector for x in getattr(c, bound)]
            held[:] = [wider(a, own[i]) for a, i in zip(held, range(len(own)) if order is None else order, strict=True)]
    out, start = [], 0
    for component in vectors[0]:
        place, start = slice(start, start + component.size), start + component.size
        out.append(dataclasses.replace(component, low=tuple(low[place]), high=tuple(high[place])))
    return tuple(out)


def _same_rate(a: float, b: float) -> bool:
    return abs(a - b) <= SAME_RATE * a
