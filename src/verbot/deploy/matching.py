"""Whether a policy fits a robot: what it sees and does must be what the robot shows and takes."""

from __future__ import annotations

from verbot.errors import ConfigError
from verbot.spec import Camera, Component, RobotSpec


def check_matching(policy: RobotSpec, robot: RobotSpec, name: str) -> None:
    """Raise `ConfigError`, which names both sides, unless the policy called `name`, made for `policy`, can drive `robot`.

    Rate, components of state and action (names, kinds, axes, units, frames) and the policy's cameras (sizes, kinds) must be the
    same. Names of robots, ranges, calibrations, limits and cameras that the policy does not use may differ.
    """
    problems = []
    if abs(policy.rate_hz / robot.rate_hz - 1.0) > 1e-3:
        problems.append(f"rate: {policy.rate_hz:g} Hz against {robot.rate_hz:g} Hz")
    for label, ours, theirs in (("state", policy.state, robot.state), ("action", policy.action, robot.action)):
        if list(map(_component, ours)) != list(map(_component, theirs)):
            problems.append(f"{label}: {_components(ours)} against {_components(theirs)}")
    cameras = {camera.name: camera for camera in robot.cameras}
    for camera in policy.cameras:
        other = cameras.get(camera.name)
        if other is None or _camera(camera) != _camera(other):
            problems.append(f"camera: {_camera(camera)} against {'none of this name' if other is None else _camera(other)}")
    if problems:
        raise ConfigError(
            f"policy {name} (for robot {policy.name!r}) does not fit robot {robot.name!r}: {'; '.join(problems[:4])}. "
            "Choose a policy that was trained on this robot's data, or options of the robot that make it the same"
        )


def _component(component: Component) -> tuple[object, ...]:
    return component.name, component.kind, component.axes, component.unit, component.frame


def _components(components: tuple[Component, ...]) -> str:
    return ", ".join(f"{c.name} ({c.kind} {'/'.join(c.axes)} in {c.unit}, {c.frame})" for c in components) or "none"


def _camera(camera: Camera) -> str:
    return f"{camera.name} {camera.width}×{camera.height} {camera.kind}"
