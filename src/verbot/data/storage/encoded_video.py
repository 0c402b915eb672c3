"""Videos as packets, which are copied without decoding."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av
from av.container import OutputContainer
from av.video.stream import VideoStream

from verbot.data.storage.containers import open_video
from verbot.errors import DataError


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
        with open_video(video) as container:
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
    with open_video(clips[0].video) as first, av.open(sink, "w", format="mp4") as container:
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
