"""Frames of a camera as they are stored, taken out of a dataset's files without decoding where that is possible."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np

from verbot.data.storage import layout
from verbot.data.storage.containers import open_video
from verbot.data.storage.dataset_statistics import image_statistics, sampled_rows
from verbot.data.storage.encoded_video import EncodedVideo, stream_like
from verbot.data.storage.files import read_bytes, read_parquet
from verbot.data.storage.info import placed
from verbot.data.storage.journal import JournalEntry
from verbot.data.storage.png import EncodedImages
from verbot.data.storage.reader import Dataset, Episode
from verbot.data.storage.schema import IMAGE
from verbot.errors import CorruptFileError
from verbot.spec import Int64Array

NEAR = 0.1  # of a period: a packet this far from its frame's time is that of the frame


class StoredImages:
    """The encoded frames of the episodes of one dataset."""

    def __init__(self, dataset: Dataset):
        self._dataset, self._verified = dataset, set[Path]()
        self._depth = {camera.name for camera in dataset.spec.cameras if camera.kind == "depth"}

    def copied(self, episode: Episode, camera: str, rows: Int64Array) -> EncodedImages | None:
        """The frames `rows` (ascending) of a camera of an episode; None if they cannot be had without encoding them again.

        A video can be copied from a keyframe on, if its frames are stored in their order and lie one period apart.

        Raises `CorruptFileError` for a file that differs from what verbot wrote.
        """
        entry, key = self._entry(episode), self._dataset._camera_keys[camera]
        if entry is not None:
            pictures = entry.pictures.get(camera)
            found = self._part(entry.videos[camera], 0.0, rows) if pictures is None else [pictures[row] for row in rows]
        elif self._dataset.info["features"][key]["dtype"] == IMAGE:
            found = self._pictures(episode, key, rows, depth=camera in self._depth)
        else:
            found = self._video(episode, camera, key, rows)
        if found is None:
            return None
        statistics = self._statistics(episode, camera, rows)
        return EncodedImages(found, (), statistics) if isinstance(found, bytes) else EncodedImages(None, found, statistics)

    def _entry(self, episode: Episode) -> JournalEntry | None:
        return episode._source if isinstance(episode._source, JournalEntry) else None

    def _row(self, episode: Episode) -> Mapping[str, Any]:
        assert not isinstance(episode._source, JournalEntry)
        return episode._source

    def _video(self, episode: Episode, camera: str, key: str, rows: Int64Array) -> bytes | None:
        row = self._row(episode)
        path = self._dataset._video_path(row, key)
        self._verify(path)
        clip = self._part(path, float(row[f"videos/{key}/from_timestamp"]), rows)
        if clip is None or self._dataset.is_ours:
            return clip
        # Another reader may turn or color pictures by what the copy no longer says.
        size = next((c.height, c.width) for c in self._dataset.spec.cameras if c.name == camera)
        first = _first_frame(clip, size)
        same = first is not None and np.array_equal(first, episode.images(camera, [int(rows[0])])[0])
        return clip if same else None

    def _part(self, video: bytes | Path, start_s: float, rows: Int64Array) -> bytes | None:
        rate_hz = float(self._dataset.info["fps"])
        if len(rows) != rows[-1] - rows[0] + 1:
            return None
        return cut_video(video, start_s + float(rows[0]) / rate_hz, len(rows), rate_hz)

    def _pictures(self, episode: Episode, key: str, rows: Int64Array, depth: bool) -> list[bytes] | None:
        """Color pictures are copied as they are; depth only in verbot's own encoding."""
        if depth and not self._dataset.is_ours:
            return None
        return [content for _, content in self._dataset._stored.pictures(self._row(episode), key, rows.tolist())]

    def _verify(self, path: Path) -> None:
        """Compare a file with its checksum, once."""
        checksum = self._dataset._checksums.get(path.relative_to(self._dataset.root).as_posix())
        if checksum is not None and path not in self._verified:
            read_bytes(path, checksum)
            self._verified.add(path)

    def _statistics(self, episode: Episode, camera: str, rows: Int64Array) -> Mapping[str, Any]:
        whole, entry = len(rows) == len(episode), self._entry(episode)
        if whole and entry is not None:
            return cast(Mapping[str, Any], entry.statistics[camera])
        if whole and self._dataset.is_ours:
            row = self._row(episode)
            keys = {"chunk_index": row["meta/episodes/chunk_index"], "file_index": row["meta/episodes/file_index"]}
            return self._recorded(layout.EPISODES_PATH.format(**keys), camera)[episode.index]
        return image_statistics(episode.images(camera, [int(rows[i]) for i in sampled_rows(len(rows))]))

    @functools.lru_cache(maxsize=8)  # noqa: B019  # one object for each dataset that is edited
    def _recorded(self, name: str, camera: str) -> dict[int, dict[str, Any]]:
        """The image statistics of each episode in a file of ``meta/episodes``."""
        prefix = f"stats/{self._dataset._camera_keys[camera]}/"
        table = read_parquet(
            placed(self._dataset.root, name),
            self._dataset._checksums.get(name),
            lambda column: column == "episode_index" or column.startswith(prefix),
        )
        return {
            row["episode_index"]: {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}
            for row in table.to_pylist()
        }


def cut_video(video: bytes | Path, start_s: float, count: int, rate_hz: float) -> bytes | None:
    """`count` frames from `start_s` (seconds) on as an mp4 file of their own, whose packets are copied.

    None if that is not possible: the first frame is no keyframe, frames are missing, stored in another order than shown, or not
    ``1 / rate_hz`` apart. Raises `CorruptFileError` for a file that is no video.
    """
    try:
        with open_video(video) as container:
            stream = container.streams.video[0]
            base = cast(Fraction, stream.time_base)
            container.seek(max(0, round((start_s + 0.25 / rate_hz) / base)), stream=stream)
            packets: list[av.Packet] = []
            for packet in container.demux(stream):
                if packet.pts is None or packet.size == 0:
                    continue
                place = (float(packet.pts * base) - start_s) * rate_hz
                if place < -0.5:
                    continue
                if len(packets) == count:
                    if place < count - 0.5:
                        return None  # stored later than it is shown
                    break
                if abs(place - len(packets)) > NEAR or packet.is_corrupt:
                    return None
                packets.append(packet)
            if len(packets) != count or not packets[0].is_keyframe:
                return None
            return _muxed(stream, packets, rate_hz)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise CorruptFileError(video if isinstance(video, Path) else "a video", f"is not a video ({error})") from error


def _muxed(source: Any, packets: list[av.Packet], rate_hz: float) -> bytes | None:
    base = cast(Fraction, source.time_base)
    step = round(1 / (rate_hz * base))  # ticks a frame
    if abs(step * base * rate_hz - 1) * len(packets) > NEAR:
        return None
    content, sink = [bytes(packet) for packet in packets], io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        stream = stream_like(container, source)
        stream.time_base = base
        for number, packet in enumerate(packets):
            packet.pts = packet.dts = number * step
            packet.duration = step
            packet.stream, packet.time_base = stream, base
            container.mux(packet)
    clip = sink.getvalue()
    return clip if EncodedVideo.of(clip).payload() == content else None


def _first_frame(video: bytes, size: tuple[int, int]) -> np.ndarray | None:
    """The first picture of a clip; None, without unpacking it, unless it has `size` (height, width)."""
    try:
        with open_video(video) as container:
            codec = container.streams.video[0].codec_context
            if (codec.height, codec.width) != size:
                return None
            codec.options = {"max_pixels": str((size[0] + 64) * (size[1] + 64))}  # as of `video.Decoder`
            frame = next(container.decode(container.streams.video[0]))
            return frame.to_ndarray(format="rgb24") if (frame.height, frame.width) == size else None
    except (av.FFmpegError, OSError, ValueError, IndexError, StopIteration):
        return None  # it cannot be copied; whether it can be decoded at all is found where its frames are
