"""The times of a video's pictures from its packets, without decoding; what a check of a dataset compares its rows with."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
import numpy as np

from verbot.data.storage.containers import open_video
from verbot.data.storage.video import EpisodeVideo
from verbot.errors import CorruptFileError, DataError
from verbot.spec import Float64Array, Int64Array

if TYPE_CHECKING:
    from verbot.data.storage.reader import Dataset


@dataclass(frozen=True)
class PacketTimes:
    """The pictures of a video in the order in which they are shown.

    Args:
        times_s: presentation times, ascending: float64 (n,).
    """

    times_s: Float64Array

    def nearest(self, times_s: Float64Array) -> Int64Array:
        """Numbers of the pictures nearest to `times_s`, the earlier one of two equally near."""
        if len(self.times_s) == 1:
            return np.zeros(len(times_s), np.int64)
        right = np.clip(np.searchsorted(self.times_s, times_s), 1, len(self.times_s) - 1)
        return right - (times_s - self.times_s[right - 1] <= self.times_s[right] - times_s)


def packet_times(path: Path) -> PacketTimes:
    """Read the packets of a video file once; the result is kept until the file changes.

    Raises `CorruptFileError` for a file that is no video, or has no pictures.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise CorruptFileError(path, f"cannot be read ({error.strerror})") from error
    return _packet_times(path, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _packet_times(path: Path, size: int, changed_ns: int) -> PacketTimes:
    try:
        with open_video(path) as container:
            stream = container.streams.video[0]
            base = float(cast(Fraction, stream.time_base))
            packets = [p.pts for p in container.demux(stream) if p.size and not p.is_discard]
    except (av.FFmpegError, OSError, IndexError) as error:
        raise CorruptFileError(path, f"is not a video ({error})") from error
    if not packets or any(pts is None for pts in packets):
        raise CorruptFileError(path, "has no pictures" if not packets else "has pictures without a time")
    return PacketTimes(np.sort([cast(int, pts) * base for pts in packets]))


def frame_findings(dataset: Dataset, camera: str) -> Iterator[tuple[Path, str]]:
    """The rows of a camera that have no picture near their time, as (video file, problem); one problem an episode.

    It reads the packets of every video once and decodes nothing. Pictures that are stored one by one have no times; they are
    decoded. Episodes of the journal are checked by their checksums.
    """
    for episode in dataset:
        try:
            video = episode.video(camera)
            if video is None:
                episode.stored_images(camera)
            elif isinstance(video.source, Path):
                problem = _problem(video, packet_times(video.source))
                if problem:
                    yield video.source, problem
        except CorruptFileError as error:
            yield Path(error.path), error.reason
        except DataError as error:
            yield dataset.root, str(error)


def _problem(video: EpisodeVideo, packets: PacketTimes) -> str:
    tolerance = 0.5 / video.rate_hz if video.tolerance_s is None else video.tolerance_s
    nearest = packets.times_s[packets.nearest(video.times_s)]
    missing = np.flatnonzero(np.abs(nearest - video.times_s) > tolerance * (1 + 1e-6) + 1e-9)
    if not len(missing):
        return ""
    first = int(missing[0])
    return (
        f"{len(missing)} of {len(video.times_s)} frames of episode {video.episode} have no picture within {tolerance:.3g} s: "
        f"frame {first} is at {video.times_s[first]:.3f} s, and the nearest picture at {nearest[first]:.3f} s"
    )
