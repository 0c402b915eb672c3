"""Pictures and videos in place of a camera: for tests, and for a robot that looks at what was recorded."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from verbot.errors import ConfigError
from verbot.robots.cameras import FrameStream, cameras
from verbot.robots.cameras.av_stream import AVStream
from verbot.spec import UInt8Array

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")


class TimedFrames:
    """Frames of another source at a steady rate; one that is late is followed at once.

    Args:
        frames: they may be read faster than they are due.
        close: called when it is closed.
    """

    def __init__(self, frames: Iterator[UInt8Array], rate_hz: float, close: Callable[[], None] = lambda: None):
        self._frames, self._period_s, self._close = frames, 1.0 / rate_hz, close
        self._due_s = time.monotonic()

    def read(self) -> UInt8Array:
        """The next frame, when it is due. Raises `EOFError` after the last."""
        frame = next(self._frames, None)
        if frame is None:
            raise EOFError("it has ended")
        time.sleep(max(0.0, self._due_s - time.monotonic()))
        self._due_s = max(self._due_s + self._period_s, time.monotonic())
        return frame

    def close(self) -> None:
        self._close()


@cameras.register("folder")
@dataclass(frozen=True)
class PictureFolder:
    """The pictures of a folder, by name, at a rate; again from the first after the last.

    Args:
        path: the folder. Its files are read once more in each round, so that pictures may be added.
        rate_hz: pictures a second.
        loop: begin again after the last; otherwise the camera ends, and its age grows.
    """

    path: str
    rate_hz: float = 10.0
    loop: bool = True

    def __post_init__(self) -> None:
        _check_rate(self.rate_hz)

    def open(self) -> TimedFrames:
        self._files()
        return TimedFrames(self._frames(), self.rate_hz)

    def _files(self) -> list[Path]:
        found = sorted(path for path in Path(self.path).iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
        if not found:
            raise FileNotFoundError(f"{self.path} has no picture ({', '.join(SUFFIXES)})")
        return found

    def _frames(self) -> Iterator[UInt8Array]:
        from PIL import Image

        for _ in itertools.count() if self.loop else (0,):
            for path in self._files():
                try:
                    with Image.open(path) as picture:
                        frame = np.asarray(picture.convert("RGB")).copy()
                except (OSError, SyntaxError, Image.DecompressionBombError) as error:
                    raise OSError(f"{path.name} is no picture that can be read: {error}") from error
                yield frame


@cameras.register("video", needs=("av",))
@dataclass(frozen=True)
class VideoFile:
    """A video file at its own rate; again from its beginning after its end.

    Args:
        path: the file.
        rate_hz: frames a second; otherwise the file's own.
        loop: begin again after the end; otherwise the camera ends, and its age grows.
    """

    path: str
    rate_hz: float | None = None
    loop: bool = True

    def __post_init__(self) -> None:
        if self.rate_hz is not None:
            _check_rate(self.rate_hz)

    def open(self) -> FrameStream:
        opened = [AVStream(str(Path(self.path)))]

        def frames() -> Iterator[UInt8Array]:
            while True:
                try:
                    yield opened[0].read()
                except EOFError:
                    opened[0].close()
                    if not self.loop:
                        return
                    opened[0] = AVStream(str(Path(self.path)))

        return TimedFrames(frames(), self.rate_hz or opened[0].rate_hz or 30.0, lambda: opened[0].close())


def _check_rate(rate_hz: float) -> None:
    if not 0 < rate_hz <= 1000:
        raise ConfigError(f"rate_hz is {rate_hz}; expected more than 0 and at most 1000")
