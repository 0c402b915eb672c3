"""Where the pictures of merged episodes lie: in videos, or one by one in the rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from verbot.data.storage.features import image_size
from verbot.data.storage.files import is_lfs_pointer, read_bytes
from verbot.data.storage.info import is_number
from verbot.data.storage.layout import INFO
from verbot.data.storage.stored_frames import Row, StoredFrames
from verbot.data.storage.stored_pictures import stored_pictures
from verbot.data.storage.video import EpisodeVideo, ignored_gap, row_times
from verbot.errors import CorruptFileError
from verbot.spec import FloatArray, UInt8Array


class StoredCameras:
    """The cameras of merged episodes. A file of verbot is compared with its checksum once, others are checked when read."""

    def __init__(self, stored: StoredFrames):
        self._stored, self._keys = stored, stored.roles.cameras
        self._verified: set[str] = set()

    def video(self, number: int, row: Row, camera: str) -> EpisodeVideo | None:
        """The video of episode `number`; None if the pictures are stored one by one."""
        key, info = self._keys[camera], self._stored.info
        if info["features"][key]["dtype"] == "image":
            return None
        path = self._stored.video_path(row, key)
        name = path.relative_to(self._stored.root).as_posix()
        if name in self._stored.checksums and name not in self._verified:
            read_bytes(path, self._stored.checksums[name])
            self._verified.add(name)
        rate_hz, stamps = float(info["fps"]), None
        size = image_size(key, info["features"][key], self._stored.root)
        start_s, end_s = self._bounds(number, row, key)
        if not self._stored.ours:
            self._check_present(row, key)
            stamps = self._stored.numbers(row, "timestamp")
        times_s = start_s + row_times(stamps, row["length"], rate_hz, end_s - start_s)
        return EpisodeVideo(path, path, number, times_s, rate_hz, self._tolerance(), self._stored.roles.depth.get(camera), size)

    def ignored_gap(self, row: Row, camera: str) -> int | None:
        """As `verbot.data.storage.video.ignored_gap`, of an episode in a video."""
        key, info = self._keys[camera], self._stored.info
        if info["features"][key]["dtype"] == "image":
            return None
        start_s, end_s = self._bounds(row["episode_index"], row, key)
        return ignored_gap(self._stored.numbers(row, "timestamp"), row["length"], float(info["fps"]), end_s - start_s)

    def _bounds(self, number: int, row: Row, key: str) -> tuple[float, float]:
        """Where an episode begins and ends in its video, in seconds; the end may be infinite."""
        start_s: Any = row.get(f"videos/{key}/from_timestamp")
        end_s: Any = row.get(f"videos/{key}/to_timestamp", math.inf)
        if not is_number(start_s) or not (is_number(end_s) or end_s == math.inf) or start_s < 0:
            reason = f"episode {number} lies from {start_s} to {end_s} s in the video of {key}; expected two numbers"
            raise CorruptFileError(self._stored.metadata.path, reason)
        return float(start_s), float(end_s)

    def _tolerance(self) -> float | None:
        tolerance_s: Any = self._stored.info.get("tolerance_s")
        if tolerance_s is not None and not (is_number(tolerance_s) and tolerance_s > 0):
            raise CorruptFileError(self._stored.root / INFO, f"has tolerance_s {tolerance_s!r}; expected seconds, above 0")
        return None if tolerance_s is None else float(tolerance_s)

    def stored_images(self, row: Row, camera: str, rows: Sequence[int] | None = None) -> UInt8Array | FloatArray:
        """Pictures that are stored one by one: uint8 RGB (t, h, w, 3), or float32 (t, h, w) meters of depth.

        Args:
            rows: only these frames of the episode, ascending; all of them if None.
        """
        key, path = self._keys[camera], self._stored.data_path(row)
        size = image_size(key, self._stored.info["features"][key], self._stored.root)
        return stored_pictures(self._stored.pictures(row, key, rows), path, key, self._stored.roles.depth.get(camera), size)

    def _check_present(self, row: Row, key: str) -> None:
        """Raise `CorruptFileError` if the video file is absent, or the rows of the episode are: they count its pictures."""
        path = self._stored.video_path(row, key)
        if is_lfs_pointer(path) or not path.is_file():
            found = "is a pointer of Git LFS; fetch it with `git lfs pull`" if path.is_file() else "is not there"
            raise CorruptFileError(path, f"{found}: it holds episode {row['episode_index']} of camera {key!r}")
        self._stored.check_whole(row)
