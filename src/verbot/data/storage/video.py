"""Camera frames as H.264 video through PyAV: encode, decode, and join without re-encoding.

The codec is H.264 4:4:4 (`libx264`, ultrafast, zero latency, CRF 18). The usual 4:2:0 halves the color resolution; on 64×64
frames that costs 13 dB at the same speed and size, because a colored object covers few pixels. There are no B-frames, and each
episode starts with a keyframe. Joining videos therefore only copies packets, and a random read starts at most `GOP` frames early.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from verbot.errors import CorruptFileError, DataError
from verbot.spec import UInt8Array

CODEC, ENCODER, PIXELS, GOP = "h264", "libx264", "yuv444p", 10
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
    with cast(InputContainer, av.open(io.BytesIO(video))) as container:
        context = container.streams.video[0].codec_context
        return {"video.codec": context.codec.canonical_name, "video.pix_fmt": str(context.pix_fmt)}


def frame_rate(rate_hz: float) -> Fraction:
    return Fraction(rate_hz).limit_denominator(1001)


@dataclass(frozen=True)
class EncodedVideo:
    """A demultiplexed video; its packets are not decoded.

    Args:
        signature: the decoder's configuration, the size and the time base. Clips in one file must have equal signatures.
    """

    video: bytes
    packets: Sequence[av.Packet]
    signature: bytes

    @staticmethod
    def of(video: bytes) -> EncodedVideo:
        with cast(InputContainer, av.open(io.BytesIO(video))) as container:
            stream = container.streams.video[0]
            context = stream.codec_context
            signature = f"{context.width}×{context.height} {stream.time_base} ".encode() + bytes(context.extradata or b"")
            return EncodedVideo(video, [packet for packet in container.demux(stream) if packet.size], signature)

    def payload(self) -> list[bytes]:
        """The content of every packet, in order. Equal lists decode to equal frames."""
        return [bytes(packet) for packet in self.packets]


def join(clips: Sequence[EncodedVideo]) -> bytes:
    """Join several clips into one mp4 by copying packets.

    Raises `DataError` unless all have the same signature and the result holds exactly their packets.
    """
    if len({clip.signature for clip in clips}) != 1:
        raise DataError(
            f"{len(clips)} videos of {len({clip.signature for clip in clips})} encodings cannot be joined in one file"
        )
    payload = [packet for clip in clips for packet in clip.payload()]
    sink = io.BytesIO()
    with av.open(io.BytesIO(clips[0].video)) as first, av.open(sink, "w", format="mp4") as container:
        source = first.streams.video[0]
        base = cast(Fraction, source.time_base)
        step = round(1 / (cast(Fraction, source.average_rate) * base))  # ticks a frame
        stream = stream_like(container, source)
        stream.time_base = base
        for number, packet in enumerate(packet for clip in clips for packet in clip.packets):
            packet.pts = packet.dts = number * step
            packet.stream, packet.time_base = stream, base
            container.mux(packet)
    joined = sink.getvalue()
    if EncodedVideo.of(joined).payload() != payload:
        raise DataError(f"joining {len(clips)} videos did not keep every packet")
    return joined


def stream_like(container: OutputContainer, source: VideoStream) -> VideoStream:
    """A stream of `container` for packets of `source`, also where its decoder has no encoder of the same name, as for AV1."""
    try:
        av.Codec(source.codec_context.codec.name, "w")
    except ValueError:
        return container.add_stream_from_template(source, opaque=True)
    return container.add_stream_from_template(source)


class Decoder:
    """Reads frames of one mp4 file, which stays open. Use as a context manager.

    Args:
        name: name of the video, for messages.

    Raises `CorruptFileError` when the file cannot be decoded or holds fewer frames than requested.
    """

    def __init__(self, video: bytes | Path, name: object, rate_hz: float):
        self._name, self._rate_hz = name, rate_hz
        self._reformatter = VideoReformatter()  # reused on one thread: five times as fast as frame.to_ndarray("rgb24")
        try:
            self._container = cast(InputContainer, av.open(io.BytesIO(video) if isinstance(video, bytes) else str(video)))
            self._stream = self._container.streams.video[0]
        except (av.FFmpegError, OSError, IndexError) as error:
            raise CorruptFileError(name, f"is not a video ({error})") from error
        self._stream.codec_context.thread_count = 1

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *exception: object) -> None:
        self._container.close()

    def read(self, start_s: float, count: int, out: UInt8Array | None = None) -> UInt8Array:
        """Read `count` successive frames from `start_s` (seconds) on: uint8 RGB (count, h, w, 3), into `out` if given."""
        context = self._stream.codec_context
        out = np.empty((count, context.height, context.width, 3), np.uint8) if out is None else out
        filled = 0
        try:
            for frame in self._frames_from(start_s):
                out[filled] = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
                filled += 1
                if filled == count:
                    break
        except (av.FFmpegError, OSError) as error:
            place = f"frame {filled} from {start_s:.3f} s"
            raise CorruptFileError(self._name, f"cannot be decoded at {place} ({error})") from error
        if filled < count:
            raise CorruptFileError(self._name, f"holds {filled} frames from {start_s:.3f} s on; {count} were recorded")
        return out

    def _frames_from(self, start_s: float) -> Iterator[av.VideoFrame]:
        base = float(cast(Fraction, self._stream.time_base))
        earliest = start_s - 0.5 / self._rate_hz
        self._container.seek(max(0, round((start_s + 0.25 / self._rate_hz) / base)), stream=self._stream)
        for frame in self._container.decode(self._stream):
            if frame.pts is None or frame.pts * base >= earliest:
                yield frame
