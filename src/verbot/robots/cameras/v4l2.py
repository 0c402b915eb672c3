"""A camera on this machine: USB or CSI through Video4Linux2, by PyAV."""

from __future__ import annotations

from dataclasses import dataclass

from verbot.robots.cameras import cameras
from verbot.robots.cameras.av_stream import AVStream


@cameras.register("v4l2", needs=("av",))
@dataclass(frozen=True)
class VideoDevice:
    """A V4L2 device.

    Args:
        device: its file; ``v4l2-ctl --list-devices`` lists them. ``/dev/v4l/by-id/…`` stays the same when it is plugged anew.
        size: of the frames to ask for, ``"640x480"``; otherwise the device's own.
        rate_hz: frames a second to ask for; otherwise the device's own.
        pixels: format to ask for, such as ``"mjpeg"`` (more frames through USB 2) or ``"yuyv422"``.
        format: FFmpeg's input format.
    """

    device: str = "/dev/video0"
    size: str | None = None
    rate_hz: float | None = None
    pixels: str | None = None
    format: str = "video4linux2"

    def open(self) -> AVStream:
        asked = {"video_size": self.size, "framerate": self.rate_hz, "input_format": self.pixels}
        return AVStream(self.device, self.format, {name: str(value) for name, value in asked.items() if value is not None})
