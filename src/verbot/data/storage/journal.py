"""The journal: each saved episode as one whole file, until it is merged into the dataset's v3.0 files.

``journal/episode-000042.episode`` is a line of magic, a line with the sha256 of the rest, a line of JSON (what the episode is,
and name and length of each block), then the blocks: states, actions, and one mp4 per camera. The rename that gives the file its
name *is* the commit of the episode; nothing else has to happen for it to be read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.storage.files import read_bytes, sha256, write_atomic
from verbot.errors import CorruptFileError
from verbot.spec import FloatArray

MAGIC = b"verbot episode 1"
FOLDER = "journal"


@dataclass(frozen=True)
class Entry:
    """One saved episode.

    Args:
        index: its number in the dataset.
        states, actions: float32 (t, s) and (t, a).
        videos: camera to mp4.
        statistics: feature to its statistics in LeRobot's form, for ``meta/episodes``.
    """

    index: int
    instruction: str
    states: FloatArray
    actions: FloatArray
    videos: Mapping[str, bytes]
    calibration: Mapping[str, Any]
    extras: Mapping[str, Any]
    statistics: Mapping[str, Any]

    @property
    def length(self) -> int:
        return len(self.actions)

    @property
    def identity(self) -> str:
        """Equal for episodes of equal content, wherever they are stored."""
        blocks = b"".join([self.states.tobytes(), self.actions.tobytes(), *(self.videos[name] for name in sorted(self.videos))])
        return sha256(blocks)[:32]

    def to_bytes(self) -> bytes:
        blocks = {"states": self.states.tobytes(), "actions": self.actions.tobytes(), **self.videos}
        header = {
            "instruction": self.instruction,
            "shapes": [self.states.shape, self.actions.shape],
            "calibration": self.calibration,
            "extras": self.extras,
            "statistics": self.statistics,
            "blocks": [[name, len(block)] for name, block in blocks.items()],
        }
        body = b"\n".join([json.dumps(header).encode(), b"".join(blocks.values())])
        return b"\n".join([MAGIC, sha256(body).encode(), body])

    @staticmethod
    def from_bytes(content: bytes, index: int, path: Path) -> Entry:
        """Inverse of `to_bytes`; the number is the file name's. Raises `CorruptFileError` naming `path`."""
        magic, _, rest = content.partition(b"\n")
        checksum, _, body = rest.partition(b"\n")
        if magic != MAGIC or checksum.decode(errors="replace") != sha256(body):
            raise CorruptFileError(path, "does not hold what was written; remove it to go on without that episode")
        head, _, tail = body.partition(b"\n")
        header = json.loads(head)
        blocks, start = {}, 0
        for name, size in header["blocks"]:
            blocks[name], start = tail[start : start + size], start + size
        states, actions = (
            np.frombuffer(blocks.pop(name), np.float32).reshape(shape)
            for name, shape in zip(("states", "actions"), header["shapes"], strict=True)
        )
        kept = {key: header[key] for key in ("instruction", "calibration", "extras", "statistics")}
        return Entry(index=index, states=states, actions=actions, videos=blocks, **kept)


class Journal:
    """The journal of the dataset at `root`."""

    def __init__(self, root: Path):
        self._folder = root / FOLDER

    def write(self, entry: Entry) -> int:
        """Commit one episode: on return it survives a crash. Returns the bytes written."""
        content = entry.to_bytes()
        write_atomic(self._path(entry.index), content)
        return len(content)

    def read(self, start: int) -> Iterator[Entry]:
        """The unbroken run of entries from episode `start` on. Raises `CorruptFileError` at a damaged one."""
        while (path := self._path(start)).is_file():
            try:
                content = read_bytes(path)
            except CorruptFileError:
                if path.is_file():
                    raise
                return  # merged and removed meanwhile; the caller looks at the dataset again
            yield Entry.from_bytes(content, start, path)
            start += 1

    def paths(self) -> list[Path]:
        return sorted(self._folder.glob("episode-*.episode"))

    def renumber(self, start: int) -> None:
        """Close gaps, so that entries count from `start` on: a person may have removed a damaged one."""
        for index, path in enumerate(self.paths(), start):
            path.rename(self._path(index))

    def clear(self, before: int) -> None:
        """Remove entries that the dataset's own files hold (below episode `before`), and drafts of a writer that died."""
        for path in self.paths():
            if int(path.stem.partition("-")[2]) < before:
                path.unlink()
        for draft in self._folder.glob(".*.tmp"):
            draft.unlink()

    def remove(self) -> None:
        """Remove the folder once nothing is in it."""
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _path(self, index: int) -> Path:
        return self._folder / f"episode-{index:06d}.episode"
