"""What a robot makes of a camera's frames: their declared size, how they are brought to it, and where the camera is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verbot.errors import ConfigError, RobotError
from verbot.spec import Camera, UInt8Array

FITS = ("exact", "resize", "crop")


@dataclass(frozen=True)
class CameraView:
    """The images of one camera of a robot. The fields are options of the camera.

    Args:
        height, width: of the images that the robot shows.
        fit: ``"exact"`` refuses frames of another size; ``"resize"`` scales both sides, whatever that does to the shape;
            ``"crop"`` cuts the middle to the shape, then scales.
        source_height, source_width: of the device's frames, for which `intrinsics` hold; needed to convert them.
        intrinsics, extrinsics, frame: as in `verbot.spec.Camera`; the intrinsics are those of the device's frames.
    """

    height: int = 480
    width: int = 640
    fit: str = "exact"
    source_height: int | None = None
    source_width: int | None = None
    intrinsics: tuple[float, ...] | None = None
    extrinsics: tuple[float, ...] | None = None
    frame: str = "base"

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise ConfigError(f"fit is {self.fit!r}; expected one of {', '.join(FITS)}")
        for name in ("height", "width", "source_height", "source_width"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not 1 <= value <= 1 << 15):
                raise ConfigError(f"{name} is {value!r}; expected pixels, 1 to {1 << 15}")
        if self.intrinsics is not None and self.fit != "exact" and None in (self.source_height, self.source_width):
            raise ConfigError("intrinsics of a view that is not exact need source_height and source_width, for which they hold")

    def camera(self, name: str) -> Camera:
        """The camera as a robot's spec states it, with the intrinsics of the converted images."""
        return Camera(name, self.height, self.width, self._converted(), _floats(self.extrinsics), self.frame)

    def words(self, height: int, width: int) -> str:
        """How a frame (height, width) is converted, in words."""
        if (height, width) == (self.height, self.width):
            return f"{width}×{height}"
        *_, tall, wide = self._cut(height, width)
        cut = "" if (tall, wide) == (height, width) else f" → the middle {wide}×{tall}"
        scaled = "" if (tall, wide) == (self.height, self.width) else f" → scaled to {self.width}×{self.height}"
        return f"{width}×{height}{cut}{scaled}"

    def apply(self, frame: UInt8Array) -> UInt8Array:
        """A frame (h, w, 3) as an image of this view. Raises `RobotError` where it may not be converted."""
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise RobotError(f"a frame is {frame.dtype} {frame.shape}; expected uint8 (h, w, 3)")
        height, width = frame.shape[:2]
        if (height, width) == (self.height, self.width):
            return frame
        if self.fit == "exact":
            raise RobotError(
                f"the frames are {width}×{height}, and the robot's images {self.width}×{self.height}; "
                f"say how to convert them: fit=crop or fit=resize, or width={width} and height={height}"
            )
        from PIL import Image

        top, left, tall, wide = self._cut(height, width)
        middle = Image.fromarray(np.ascontiguousarray(frame[top : top + tall, left : left + wide]))
        return np.asarray(middle.resize((self.width, self.height), Image.Resampling.BOX if tall > self.height else
                                        Image.Resampling.BILINEAR)).copy()  # fmt: skip

    def _cut(self, height: int, width: int) -> tuple[int, int, int, int]:
        """The part of a frame that is kept: top, left, height, width."""
        if self.fit != "crop":
            return 0, 0, height, width
        wide = min(width, round(height * self.width / self.height))
        tall = min(height, round(width * self.height / self.width))
        return (height - tall) // 2, (width - wide) // 2, max(1, tall), max(1, wide)

    def _converted(self) -> tuple[float, ...] | None:
        matrix = _floats(self.intrinsics)
        if matrix is None or self.fit == "exact" or self.source_height is None or self.source_width is None:
            return matrix
        top, left, tall, wide = self._cut(self.source_height, self.source_width)
        x, y = self.width / wide, self.height / tall
        cut = np.array([[x, 0.0, -left * x], [0.0, y, -top * y], [0.0, 0.0, 1.0]]) @ np.reshape(matrix, (3, 3))
        return tuple(float(value) for value in cut.ravel())


def _floats(values: tuple[float, ...] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(value) for value in values)
