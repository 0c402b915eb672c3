"""Camera frames as H.264 video through PyAV: encode, decode, and join without re-encoding.

The codec is H.264 4:4:4 (`libx264`, ultrafast, zero latency, CRF 18). The usual 4:2:0 halves the color resolution; on 64×64
frames that costs 13 dB at the same speed and size, because a colored object covers few pixels. There are no B-frames, and each
episode starts with a keyframe. Joining videos therefore only copies packets, and a random read starts at most `GOP` frames early.
"""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import av.filter
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation, VideoReformatter

from verbot.data.storage.containers import open_video
from verbot.data.storage.depth import DepthCode
from verbot.data.storage.layout import INFO
from verbot.errors import CorruptFileError
from verbot.spec import BoolArray, Float64Array, FloatArray, UInt8Array
from verbot.transforms import FitImage, fit_depth

CODEC, ENCODER, PIXELS, GOP = "h264", "libx264", "yuv444p", 10
SAME_TIME = 0.05  # periods between a row and a picture that are one instant: rounding of time bases and of float32
ON_GRID = 0.02  # periods by which a recorded time may miss a whole period
GAP = 1.5  # periods between two rows from which on some may have been dropped
SKIP = 8  # frames that a seek must skip to be cheaper than decoding them
# A triangle filter over luma and chroma alike. Without "full chroma" swscale drops every other chroma sample when it shrinks.
SCALING_FLAGS = "bilinear+accurate_rnd+full_chroma_inp+full_chroma_int"
SCALING = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP | Interpolation.FULL_CHR_H_INT
OPTIONS = {"preset": "ultrafast", "tune": "zerolatency", "crf": "18", "g": str(GOP)}


def encode_video(frames: UInt8Array, rate_hz: float) -> bytes:
    """An mp4 file of `frames` (t, h, w, 3) RGB."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        stream = cast(Any, container.add_stream(ENCODER, rate=frame_rate(rate_hz), options=OPTIONS))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.codec_context.thread_count = PIXELS, 1
        reformatter = VideoReformatter()
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(reformatter.reformat(picture, format=PIXELS, threads=1)))
        container.mux(stream.encode())
    return sink.getvalue()


def encoding_of(video: bytes) -> dict[str, str]:
    """Codec and pixel format of an mp4 file, as the feature table of ``info.json`` states them."""
    with open_video(video) as container:
        context = container.streams.video[0].codec_context
        return {"video.codec": context.codec.canonical_name, "video.pix_fmt": str(context.pix_fmt)}


def frame_rate(rate_hz: float) -> Fraction:
    return Fraction(rate_hz).limit_denominator(1001)


@dataclass(frozen=True)
class EpisodeVideo:
    """Where the pictures of one camera in one episode lie.

    Args:
        source: the video file, or its content.
        name: of the video, for messages.
        episode: number of the episode, for messages.
        times_s: time of each row in the video, seconds: float64 (t,).
        rate_hz: rate of the rows.
        tolerance_s: a row takes the nearest picture, which is at most so far away; half a period of the rows if None.
        depth: how the numbers of a depth video stand for meters; None for color.
        size: (height, width) that the pictures must have, if known.
    """

    source: Path | bytes
    name: object
    episode: int
    times_s: Float64Array
    rate_hz: float
    tolerance_s: float | None = None
    depth: DepthCode | None = None
    size: tuple[int, int] | None = None

    def open(self) -> Decoder:
        """Raises `CorruptFileError` for a video that cannot be read, and for pictures of another size than `size`."""
        decoder = Decoder(self.source, self.name, self.rate_hz, self.tolerance_s)
        if self.size is not None and decoder.size != self.size:
            found, expected = ("×".join(map(str, size)) for size in (decoder.size, self.size))
            decoder.close()
            raise CorruptFileError(self.name, f"has pictures of {found}; {INFO} says {expected}")
        return decoder


def row_times(stamps: np.ndarray | None, length: int, rate_hz: float, duration_s: float = np.inf) -> Float64Array:
    """Seconds from the start of an episode to each of its rows: float64 (length,).

    They come from the recorded `stamps` (length,) where these are relative and regular: whole periods, ascending, within
    `duration_s`. Anything else (clock time, jitter) cannot be compared with the times of a video, so row i lies at i / rate_hz.
    """
    periods = _relative(stamps, length, rate_hz, duration_s)
    if periods is None or not _is_regular(periods):
        return np.arange(length) / rate_hz
    return np.rint(periods) / rate_hz


def ignored_gap(stamps: np.ndarray | None, length: int, rate_hz: float, duration_s: float = np.inf) -> int | None:
    """The frame before the longest gap in recorded times that are relative, but that `row_times` ignores as irregular.

    Arguments are as there. None without a gap, of clock times too, which say nothing about places in a video.

    Example:
        >>> ignored_gap(np.array([0.0, 0.104, 0.2, 0.697, 0.8]), 5, 10.0), ignored_gap(np.array([0.0, 0.104, 0.2]), 3, 10.0)
        (2, None)
    """
    periods = _relative(stamps, length, rate_hz, duration_s)
    if periods is None or _is_regular(periods) or len(periods) < 2:
        return None
    frame = int(np.diff(periods).argmax())
    return frame if periods[frame + 1] - periods[frame] > GAP else None


def _relative(stamps: np.ndarray | None, length: int, rate_hz: float, duration_s: float) -> Float64Array | None:
    """Recorded times in periods; None unless they lie within the episode's part of a video."""
    if stamps is None or len(stamps) != length or not length:
        return None
    periods = np.asarray(stamps, np.float64).reshape(-1) * rate_hz
    if not np.isfinite(periods).all() or np.abs(periods).max() > 2**52:
        return None
    first, last = np.rint(periods[[0, -1]])
    return periods if first >= 0 and last < duration_s * rate_hz + 0.5 else None


def _is_regular(periods: Float64Array) -> bool:
    whole = np.rint(periods)
    return bool(np.abs(periods - whole).max() < ON_GRID and (np.diff(whole) >= 1).all())


class Decoder:
    """Reads frames of one video file by their times; the file stays open. Use as a context manager, or call `close`.

    Args:
        name: name of the video, for messages.
        rate_hz: rate of the rows whose pictures are read.
        tolerance_s: a time has the nearest picture, which is at most so far away; half a period of the rows if None.

    Raises `CorruptFileError` when the file cannot be decoded, or has no picture near a requested time.
    """

    def __init__(self, video: bytes | Path, name: object, rate_hz: float, tolerance_s: float | None = None):
        self._name, self._rate_hz = name, rate_hz
        self._tolerance_s = 0.5 / rate_hz if tolerance_s is None else tolerance_s
        self._slack_s = min(SAME_TIME / rate_hz, self._tolerance_s)
        self._reformatter = VideoReformatter()  # reused on one thread: five times as fast as frame.to_ndarray("rgb24")
        self._cropper: tuple[FitImage, av.filter.Graph] | None = None
        try:
            self._container = open_video(video)
            self._stream = self._container.streams.video[0]
        except (av.FFmpegError, OSError, IndexError) as error:
            raise CorruptFileError(name, f"is not a video ({error})") from error
        self._stream.codec_context.thread_count = 1
        # A picture that is larger than the file declares is not decoded; coded sizes are multiples of up to 64.
        height, width = self.size
        self._stream.codec_context.options = {"max_pixels": str((height + 64) * (width + 64))}
        self._base_s = float(cast(Fraction, self._stream.time_base))

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._container.close()

    def frames_at(
        self,
        times_s: npt.ArrayLike,
        fit: FitImage | None = None,
        depth: DepthCode | None = None,
        episode: int | None = None,
        rows: Sequence[int] | None = None,
    ) -> UInt8Array | FloatArray:
        """The pictures nearest to `times_s` (n,), in any order. Decoding starts at the keyframe before the first of them.

        Args:
            fit: crops and resizes the pictures as `FitImage` does, directly from the decoder's planes.
            depth: how its numbers stand for meters; the video is one of depth, of 10 to 16 bits a pixel.
            episode, rows: numbers of the episode and of its rows, for messages.

        Returns uint8 RGB (n, h, w, 3), or float32 (n, h, w) in meters for depth.
        """
        times = np.asarray(times_s, np.float64)
        order = np.argsort(times, kind="stable")
        place = f"frame {{}} of episode {episode}" if episode is not None else "frame {}"
        out, done = self._empty(len(times), fit, depth), 0
        try:
            for number, frame, ended in self._nearest(times[order]):
                row = int(order[number])
                apart = abs(self._time(frame) - times[row])
                if apart > self._tolerance_s * (1 + 1e-6) + 1e-9:
                    where = place.format(row if rows is None else rows[row])
                    raise self._absent(times, done, where, times[row], self._time(frame), ended)
                out[row] = self._depth(frame, fit, depth) if depth is not None else self._color(frame, fit)
                done += 1
        except (av.FFmpegError, OSError) as error:
            where = place.format("?" if done == len(times) else int(order[done]) if rows is None else rows[int(order[done])])
            raise CorruptFileError(self._name, f"cannot be decoded at {where} ({error})") from error
        return out

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pictures."""
        return self._stream.codec_context.height, self._stream.codec_context.width

    def _empty(self, count: int, fit: FitImage | None, depth: DepthCode | None) -> UInt8Array | FloatArray:
        size = self.size
        if fit is not None and fit.source != size:
            expected = "×".join(map(str, fit.source))
            raise CorruptFileError(self._name, f"has pictures of {size[0]}×{size[1]}; expected {expected}, as the dataset says")
        size = size if fit is None else fit.target
        return np.empty((count, *size), np.float32) if depth is not None else np.empty((count, *size, 3), np.uint8)

    def _nearest(self, times: Float64Array) -> Iterator[tuple[int, av.VideoFrame, bool]]:
        """For each of the ascending `times` its number, the nearest frame, and whether that is the last of the video."""
        number, before = 0, cast("av.VideoFrame | None", None)
        frames = self._frames_from(times[0]) if len(times) else iter(())
        while number < len(times):
            frame = next(frames, None)
            if frame is not None and (frame.height, frame.width) != self.size:
                sizes = [f"{height}×{width}" for height, width in ((frame.height, frame.width), self.size)]
                raise CorruptFileError(self._name, f"has a picture of {sizes[0]} among those of {sizes[1]}")
            if frame is None:
                if before is None:
                    raise CorruptFileError(self._name, "holds no frame")
                yield from ((rest, before, True) for rest in range(number, len(times)))
                return
            at = self._time(frame)
            while number < len(times) and at >= times[number] - self._slack_s:
                earlier = before is not None and self._is_nearer(self._time(before), at, times[number])
                yield number, cast(av.VideoFrame, before) if earlier else frame, False
                number += 1
            before = frame
            if number < len(times) and self._keyframe_ahead(at, times[number]):
                frames, before = self._frames_from(times[number]), None

    def _is_nearer(self, before_s: float, at_s: float, time_s: float) -> bool:
        """Whether the picture at `before_s` is at least as near to `time_s` as the next one at `at_s`, up to rounding."""
        return at_s - time_s > self._slack_s and time_s - before_s <= at_s - time_s + 2 * self._base_s

    def _frames_from(self, time_s: float) -> Iterator[av.VideoFrame]:
        """Frames from the last keyframe at or before `time_s` on."""
        frames, first = cast("Iterator[av.VideoFrame]", iter(())), cast("av.VideoFrame | None", None)
        # After a keyframe of an open group of pictures, frames may follow that precede it in time: look further back then.
        for back_s in (0.0, 1.0, 10.0, np.inf):
            earliest = self._stream.start_time or 0
            ticks = max(earliest, int((time_s + self._slack_s - back_s) / self._base_s)) if np.isfinite(back_s) else earliest
            self._container.seek(ticks, stream=self._stream)
            frames = self._container.decode(self._stream)
            first = next(frames, None)
            if (first is not None and self._time(first) <= time_s + self._slack_s) or ticks == earliest:
                break
        return itertools.chain(() if first is None else (first,), frames)

    def _keyframe_ahead(self, at_s: float, time_s: float) -> bool:
        """Whether a seek to `time_s` skips enough frames to be worth it."""
        if (time_s - at_s) * self._rate_hz < SKIP:
            return False
        times, keyframes = self._index
        here, there = np.searchsorted(times, (at_s, time_s - self._slack_s), side="right")
        skipped = np.flatnonzero(keyframes[here:there])
        return bool(len(skipped) and skipped[-1] >= SKIP)

    @functools.cached_property
    def _index(self) -> tuple[Float64Array, BoolArray]:
        """The decoding time of every frame, seconds, shifted to the first presentation time; and which are keyframes."""
        entries = [(entry.timestamp, entry.is_keyframe) for entry in self._stream.index_entries]
        times = np.array([time for time, _ in entries], np.float64)
        shift = (self._stream.start_time or 0) - times[0] if entries else 0.0
        return (times + shift) * self._base_s, np.array([key for _, key in entries], bool)

    def _time(self, frame: av.VideoFrame) -> float:
        if frame.pts is None:
            raise CorruptFileError(self._name, "has frames without a time")
        return float(frame.pts * self._base_s)

    def _color(self, frame: av.VideoFrame, fit: FitImage | None) -> UInt8Array:
        if fit is None or fit.source == fit.target:
            return _array(self._reformatter.reformat(frame, format="rgb24", threads=1))
        if fit != FitImage(fit.source, fit.target):  # another way of fitting than the centered crop
            return fit.forward(_array(self._reformatter.reformat(frame, format="rgb24", threads=1)))
        height, width = fit.target
        if fit.crop == fit.source:
            resized = self._reformatter.reformat(frame, width, height, "rgb24", interpolation=SCALING, threads=1)
            return _array(resized)
        graph = self._crop(fit)
        graph.push(frame)
        return _array(cast(av.VideoFrame, graph.pull()))

    def _crop(self, fit: FitImage) -> av.filter.Graph:
        if self._cropper is None or self._cropper[0] != fit:
            (height, width), (kept_height, kept_width), graph = fit.source, fit.crop, av.filter.Graph()
            graph.threads = 1
            top, left = (height - kept_height) // 2, (width - kept_width) // 2
            # A crop from an odd place on would shift chroma that is stored at half the resolution.
            whole = (("scale", f"flags={SCALING_FLAGS}"), ("format", "yuv444p")) if top % 2 or left % 2 else ()
            steps = [
                graph.add_buffer(template=self._stream),
                *(graph.add(name, options) for name, options in whole),
                graph.add("crop", f"{kept_width}:{kept_height}:{left}:{top}:exact=1"),
                graph.add("scale", f"{fit.target[1]}:{fit.target[0]}:flags={SCALING_FLAGS}"),
                graph.add("format", "rgb24"),
                graph.add("buffersink"),
            ]
            for one, other in itertools.pairwise(steps):
                one.link_to(other)
            graph.configure()
            self._cropper = fit, graph
        return self._cropper[1]

    def _depth(self, frame: av.VideoFrame, fit: FitImage | None, code: DepthCode) -> FloatArray:
        if frame.format.components[0].bits <= 8 or frame.format.is_big_endian:
            raise CorruptFileError(
                self._name, f"is in {frame.format.name}, whose pixels are no distances; 12 or 16 bits are needed"
            )
        plane = frame.planes[0]
        units = np.frombuffer(memoryview(plane), "<u2").reshape(frame.height, plane.line_size // 2)[:, : frame.width]
        meters = code.meters(units)
        return meters if fit is None else fit_depth(meters, fit)

    def _absent(
        self, times: Float64Array, done: int, where: str, time_s: float, nearest_s: float, ended: bool
    ) -> CorruptFileError:
        start, tolerance = times.min(), f"{self._tolerance_s:.3g} s"
        if ended and time_s > nearest_s:
            return CorruptFileError(
                self._name,
                f"holds {done} frames from {start:.3f} s on; {len(times)} were recorded: it ends at {nearest_s:.3f} s, and "
                f"{where} is at {time_s:.3f} s",
            )
        return CorruptFileError(
            self._name,
            f"has no picture within {tolerance} of {time_s:.3f} s, where {where} is: the nearest is at {nearest_s:.3f} s. "
            f"If it may stand for it, write a greater tolerance_s (seconds) into meta/info.json",
        )


def _array(frame: av.VideoFrame) -> UInt8Array:
    return cast(UInt8Array, frame.to_ndarray())
