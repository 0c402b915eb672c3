"""All cameras of a robot: options as plain tables in, images and their ages out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from verbot.configuration import build
from verbot.errors import ConfigError
from verbot.robots.cameras import MonotonicClock, cameras
from verbot.robots.cameras.live import LiveCamera
from verbot.robots.cameras.views import CameraView
from verbot.robots.options import checked
from verbot.spec import Camera, UInt8Array


class CameraGroup:
    """The cameras of a robot, by their names in its spec.

    Args:
        table: name to options: ``name`` of a registered camera, the fields of `CameraView`, and the camera's own.
        start_s: how long `start` waits for the first image of each.

    Raises `ConfigError` or `UnknownNameError` for an option or a camera that does not exist.

    Example:
        >>> group = CameraGroup({"front": {"name": "folder", "path": "pictures", "width": 64, "height": 64, "fit": "crop"}})
        >>> [camera.name for camera in group.spec]
        ['front']
    """

    def __init__(self, table: Mapping[str, Mapping[str, Any]], start_s: float = 10.0, clock: MonotonicClock = time.monotonic):
        self._start_s, self._clock = start_s, clock
        self.cameras = {name: live_camera(name, options, clock) for name, options in table.items()}
        self._measured: dict[str, float] = {}

    @property
    def spec(self) -> tuple[Camera, ...]:
        """The cameras as a robot's spec states them."""
        return tuple(camera.view.camera(name) for name, camera in self.cameras.items())

    def start(self) -> None:
        """Open all, and wait for an image of each. Raises `RobotError` as `LiveCamera.start` does; then all are closed."""
        try:
            for camera in self.cameras.values():
                camera.open()
            for camera in self.cameras.values():
                camera.wait(self._start_s)
        except BaseException:
            self.close()
            raise

    def read(self) -> dict[str, UInt8Array]:
        """A copy of the newest image (h, w, 3) of each; returns at once."""
        frames = {name: camera.read() for name, camera in self.cameras.items()}
        self._measured = {name: frame.measured_s for name, frame in frames.items()}
        return {name: frame.image.copy() for name, frame in frames.items()}

    def ages_s(self) -> dict[str, float]:
        """Seconds since each image of the latest `read` came."""
        now_s = self._clock()
        return {name: now_s - measured_s for name, measured_s in self._measured.items()}

    def lines(self) -> list[str]:
        """For each camera a line about its size and how it is converted, and about losses."""
        found = []
        for name, camera in self.cameras.items():
            size = "" if camera.size is None else camera.view.words(*camera.size)
            lost = f", lost {camera.losses} times" if camera.losses else ""
            found.append(f"{name}: {size}{lost}{f'; {camera.problem}' if camera.problem else ''}")
        return found

    def close(self) -> None:
        """Close all. Safe twice."""
        for camera in self.cameras.values():
            camera.close()


def live_camera(name: str, options: Mapping[str, Any], clock: MonotonicClock = time.monotonic) -> LiveCamera:
    """One camera from its options, see `CameraGroup`; not yet open."""
    if not isinstance(options, Mapping) or "name" not in options:
        raise ConfigError(f"camera {name!r} is {options!r}; expected its options, with the name of one of {cameras.names()}")
    seen = {field.name for field in fields(CameraView)}
    view = build(CameraView, {key: value for key, value in options.items() if key in seen}, f"cameras.{name}")
    own = {key: value for key, value in options.items() if key not in seen and key != "name"}
    kind = str(options["name"])
    source = cameras.build(kind, **checked(f"camera {kind!r}", cameras.get(kind), own))
    return LiveCamera(name, source, view, clock=clock)
