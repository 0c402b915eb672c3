"""Videos of episodes: camera views side by side with a caption, as mp4, gif or in a window."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from verbot.errors import ConfigError, MissingDependencyError
from verbot.files import replacing
from verbot.spec import FloatArray, UInt8Array

RGB = tuple[int, int, int]

BACKGROUND, INK = (24, 26, 31), (236, 239, 244)
GREEN, RED, GRAY = (64, 190, 110), (226, 82, 82), (136, 140, 150)
GAP = 6
DEPTH_M = 2.0


def compose(
    images: Mapping[str, UInt8Array], caption: str = "", height: int = 256, border: tuple[int, int, int] | None = None
) -> UInt8Array:
    """One frame (H, W, 3): every camera's image scaled to `height`, side by side, the caption below, a border around.

    Example:
        >>> compose({"front": np.zeros((64, 64, 3), np.uint8), "wrist": np.zeros((64, 64, 3), np.uint8)}).shape
        (268, 530, 3)
    """
    views = []
    for image in map(_colored, images.values()):
        width = round(image.shape[1] * height / image.shape[0])
        # Whole factors keep the pixels that the policy sees; others are smoothed.
        whole = height % image.shape[0] == 0
        views.append(
            Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST if whole else Image.Resampling.BICUBIC)
        )
    width = sum(view.width for view in views) + GAP * (len(views) + 1)
    size = max(12, height // 14)
    lines = textwrap.wrap(caption, max(8, int(width / (0.55 * size)))) if caption else []
    total = height + 2 * GAP + round(len(lines) * size * 1.35) + (GAP if lines else 0)
    # Video codecs want even sizes.
    sheet = Image.new("RGB", (width + width % 2, total + total % 2), BACKGROUND)
    left = GAP
    for view in views:
        sheet.paste(view, (left, GAP))
        left += view.width + GAP
    draw = ImageDraw.Draw(sheet)
    for row, line in enumerate(lines):
        draw.text((GAP + 2, height + 2 * GAP + round(row * size * 1.35)), line, fill=INK, font=_font(size))
    if border:
        draw.rectangle((0, 0, sheet.width - 1, sheet.height - 1), outline=border, width=GAP - 2)
    return np.asarray(sheet).copy()


def _colored(image: UInt8Array | FloatArray) -> UInt8Array:
    """A depth image (h, w) in gray, near ones brighter; black where unknown and beyond `DEPTH_M`. Others as they are."""
    if image.ndim == 3:
        return image.astype(np.uint8, copy=False)
    gray = np.where(image > 0, 255 * (1 - np.clip(image / DEPTH_M, 0, 1)), 0).astype(np.uint8)
    return np.repeat(gray[..., None], 3, -1)


def write(path: str | Path, frames: Sequence[UInt8Array], rate_hz: float) -> Path:
    """Frames of one size as ``.mp4`` (H.264) or ``.gif``. Raises `ConfigError` on another ending or on no frames."""
    path = Path(path)
    if not len(frames):
        raise ConfigError(f"there are no frames to write to {path}")
    writers = {".mp4": _write_mp4, ".gif": _write_gif}
    if path.suffix not in writers:
        raise ConfigError(f"cannot write {path}: a video ends in .mp4 or .gif")
    with replacing(path) as draft:
        writers[path.suffix](draft, frames, rate_hz)
    return path


def show(frames: Sequence[UInt8Array], rate_hz: float, title: str = "verbot") -> None:
    """Frames in a window until it is closed. Raises `MissingDependencyError` if there is no screen or no Tk."""
    window = _window("Write a video file with --out instead")
    import tkinter

    from PIL import ImageTk

    window.title(title)
    label = tkinter.Label(window)
    label.pack()
    pictures = [ImageTk.PhotoImage(Image.fromarray(frame)) for frame in frames]

    def turn(number: int) -> None:
        label.configure(image=pictures[number % len(pictures)])
        window.after(round(1000 / rate_hz), turn, number + 1)

    turn(0)
    window.mainloop()


def check_window() -> None:
    """Raise `MissingDependencyError` where `show` could not open a window."""
    _window("Leave --window off: the video is then written to a file").destroy()


def _window(instead: str) -> Any:
    """An empty window. Raises `MissingDependencyError`, which advises to do `instead`."""
    try:
        import tkinter

        return tkinter.Tk()
    except (ImportError, RuntimeError) as error:
        raise MissingDependencyError(f"no window: {error}. Install python3-tk. {instead}") from error
    except Exception as error:  # tkinter.TclError, which cannot be named without tkinter
        raise MissingDependencyError(f"no window: {error}. {instead}") from error


def _write_mp4(path: Path, frames: Sequence[UInt8Array], rate_hz: float) -> None:
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(rate_hz).limit_denominator(1000))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "20"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _write_gif(path: Path, frames: Sequence[UInt8Array], rate_hz: float) -> None:
    images = [Image.fromarray(frame).quantize(128, dither=Image.Dither.NONE) for frame in frames]
    images[0].save(path, "gif", save_all=True, append_images=images[1:], duration=round(1000 / rate_hz), loop=0, optimize=True)


@lru_cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)
