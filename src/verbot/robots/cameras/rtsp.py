"""A network camera by RTSP, through PyAV."""

from __future__ import annotations

from dataclasses import dataclass

from verbot.errors import ConfigError
from verbot.robots.cameras import cameras
from verbot.robots.cameras.av_stream import AVStream

SCHEMES = ("rtsp://", "rtsps://")


@cameras.register("rtsp", needs=("av",))
@dataclass(frozen=True)
class NetworkCamera:
    """A camera that streams by RTSP (H.264, H.265, MPEG-4 or MJPEG).

    An RTSP password is sent as the camera demands it, often unencrypted; ``rtsps://`` encrypts where the camera can.

    Args:
        url: ``rtsp://user:password@host:554/path``.
        timeout_s: how long opening and each frame may take; then it counts as lost, and is opened again. With `listen` it holds
            for opening only.
        transport: ``"tcp"``, or ``"udp"`` (less delay; lost packets spoil pictures).
        listen: wait for the camera to connect here and push its stream, instead of connecting to it.
    """

    url: str
    timeout_s: float = 5.0
    transport: str = "tcp"
    listen: bool = False

    def __post_init__(self) -> None:
        if not self.url.startswith(SCHEMES):
            raise ConfigError(f"url is {self.url!r:.80}; expected {' or '.join(SCHEMES)}…")
        if self.transport not in ("tcp", "udp"):
            raise ConfigError(f"transport is {self.transport!r}; expected 'tcp' or 'udp'")
        if not 0 < self.timeout_s < 3600:
            raise ConfigError(f"timeout_s is {self.timeout_s}; expected seconds, more than 0")

    def open(self) -> AVStream:
        options = {"rtsp_transport": self.transport, "fflags": "nobuffer", "flags": "low_delay", "max_delay": "0"}
        if not self.listen:
            return AVStream(self.url, "rtsp", options, self.timeout_s)
        # FFmpeg hangs where it listens and may be interrupted too; so a camera that connected and then says nothing only ages.
        options |= {"rtsp_flags": "listen", "listen_timeout": str(max(1, round(self.timeout_s)))}
        return AVStream(self.url, "rtsp", options)
