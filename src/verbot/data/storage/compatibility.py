"""Whether datasets are of one robot, and the spec that fits all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from verbot.errors import SpecError
from verbot.spec import Camera, Component, EndEffector, RobotSpec


def join_specs(specs: Sequence[RobotSpec], sources: Sequence[object] = (), same_cameras: bool = False) -> RobotSpec:
    """The spec of recordings of one robot: the first one, with ranges that contain those of all.

    State and action must have the same components in the same order: names, kinds, axes, units and frames. So must the groups
    and the rate. A camera that only some have is included. One that differs in size has the size of the first; where its
    calibration differs, it has none.

    Args:
        sources: what each spec is of, for messages, such as the folders of the datasets.
        same_cameras: require that all have the same cameras, of the same sizes.

    Raises `SpecError`, which names every difference, if the specs do not fit together.

    Example:
        >>> grip = Component("grip", "gripper", ("open",), "1", "tool", (0.2,), (1.0,))
        >>> wide = dataclasses.replace(grip, low=(0.0,), high=(0.8,))
        >>> spec = join_specs([RobotSpec("toy", 10.0, (), (), (one,)) for one in (grip, wide)])
        >>> spec.action[0].low, spec.action[0].high
        ((0.0,), (1.0,))
    """
    if not specs:
        raise SpecError("there is no robot spec to join; expected at least one")
    names = [f"{source}" for source in sources] or [f"robot {spec.name!r} (number {i})" for i, spec in enumerate(specs)]
    first = specs[0]
    for spec, name in zip(specs[1:], names[1:], strict=True):
        if found := list(differences(first, spec, same_cameras)):
            raise SpecError(f"{name} does not fit {names[0]}: {'; '.join(found)}")
    cameras: dict[str, Camera] = {}
    for camera in (camera for spec in specs for camera in spec.cameras):
        known = cameras.get(camera.name, camera)
        cameras[camera.name] = dataclasses.replace(
            known,
            intrinsics=known.intrinsics if known.intrinsics == camera.intrinsics else None,
            extrinsics=known.extrinsics if known.extrinsics == camera.extrinsics else None,
        )
    frames = tuple(dict.fromkeys(frame for spec in specs for frame in spec.frames))
    state, action = _joined([spec.state for spec in specs]), _joined([spec.action for spec in specs])
    return dataclasses.replace(first, cameras=tuple(cameras.values()), state=state, action=action, frames=frames)


def differences(first: RobotSpec, other: RobotSpec, same_cameras: bool = False) -> Iterator[str]:
    """What keeps recordings with the spec `other` from being used with those of `first`, one phrase each."""
    if first.rate_hz != other.rate_hz:
        yield f"the rate is {other.rate_hz:g} Hz, not {first.rate_hz:g} Hz"
    for label, ours, theirs in (("state", first.state, other.state), ("action", first.action, other.action)):
        yield from _of_components(label, ours, theirs)
    if first.groups != other.groups:
        yield f"the end effectors are {_names(other.groups)}, not {_names(first.groups)}, or have other components"
    known = {camera.name: camera for camera in first.cameras}
    if same_cameras and set(known) != set(other.camera_names):
        yield f"the cameras are {_names(other.cameras)}, not {_names(first.cameras)}"
    for camera in other.cameras:
        ours_ = known.get(camera.name, camera)
        for label in ("kind", "frame"):
            if getattr(ours_, label) != getattr(camera, label):
                yield f"the {label} of camera {camera.name!r} is {getattr(camera, label)!r}, not {getattr(ours_, label)!r}"
        if same_cameras and (ours_.height, ours_.width) != (camera.height, camera.width):
            yield f"camera {camera.name!r} has {camera.height}×{camera.width} pixels, not {ours_.height}×{ours_.width}"


def _of_components(label: str, ours: Sequence[Component], theirs: Sequence[Component]) -> Iterator[str]:
    if [c.name for c in ours] != [c.name for c in theirs]:
        yield f"the {label} is {_names(theirs)}, not {_names(ours)}"
        return
    for one, two in zip(ours, theirs, strict=True):
        if one.axes != two.axes:
            yield f"the axes of {label} component {one.name!r} are {', '.join(two.axes)}, not {', '.join(one.axes)}"
        for field in ("kind", "unit", "frame"):
            if getattr(one, field) != getattr(two, field):
                yield f"the {field} of {label} component {one.name!r} is {getattr(two, field)!r}, not {getattr(one, field)!r}"


def _joined(vectors: Sequence[Sequence[Component]]) -> tuple[Component, ...]:
    return tuple(
        dataclasses.replace(
            same[0],
            low=tuple(map(min, zip(*(c.low for c in same), strict=True))),
            high=tuple(map(max, zip(*(c.high for c in same), strict=True))),
        )
        for same in zip(*vectors, strict=True)
    )


def _names(items: Sequence[Camera] | Sequence[Component] | Sequence[EndEffector]) -> str:
    return ", ".join(item.name for item in items) or "none"
