"""Cameras in real time, by name: each has a thread of its own, which keeps the newest frame and when it came.

One file registers one; a camera of your own is an entry point of the group ``verbot.cameras``. Robots take them as a table
(`verbot.robots.cameras.group.CameraGroup`)::

    {"front": {"name": "v4l2", "device": "/dev/video0", "width": 224, "height": 224, "fit": "crop"}}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from verbot.registry import Registry
from verbot.spec import UInt8Array

MonotonicClock = Callable[[], float]  # seconds, monotonic


@runtime_checkable
class FrameStream(Protocol):
    """The frames of a device that is open."""

    def read(self) -> UInt8Array:
        """The next frame, RGB (h, w, 3). Waits for it; raises `OSError` when the device is lost, `EOFError` when it ends."""
        ...

    def close(self) -> None:
        """Close the device. Safe twice."""
        ...


@runtime_checkable
class CameraSource(Protocol):
    """A device that can be opened, again after it was lost."""

    def open(self) -> FrameStream:
        """Raises `OSError` if the device is not there."""
        ...


cameras: Registry[Callable[..., CameraSource]] = Registry("camera", package="verbot.robots.cameras", group="verbot.cameras")
