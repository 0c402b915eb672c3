"""The journal: each saved episode as one file, until it is merged into the dataset's v3.0 files.

``journal/episode-000042.episode`` starts with three lines: the magic, the sha256 of the rest, and a JSON header. The header
describes the episode and gives the name and length of each block. The blocks follow: states, actions, one mp4 or the PNGs of each
camera, and further columns.
The rename that gives the file its name is the commit of the episode; no other step is needed to read it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from verbot.data.storage.files import parsed, read_bytes
from verbot.data.storage.own_files import ENTRY
from verbot.data.storage.segments import InstructionSegment, segments_from_json, segments_to_json
from verbot.errors import CorruptFileError, UnwritableError
from verbot.files import below, remove, sha256, write_atomic
from verbot.spec import FloatArray

MAGIC = b"verbot episode 1"
FOLDER = "journal"


@dataclass(frozen=True)
class JournalEntry:
    """One saved episode.

    Args:
        index: its number in the dataset.
        states, actions: float32 (t, s) and (t, a).
        videos: the mp4 file of each camera that is stored as video.
        statistics: the statistics of each camera in LeRobot's form, for ``meta/episodes``.
        segments: the instruction of every frame, if it changes.
        columns: further values (t, …) by feature name.
        pictures: the PNG of each frame of the other cameras.
        copied_from: the identity of the episode, if this is a copy of one, whose files may be laid out otherwise.
    """

    index: int
    instruction: str
    states: FloatArray
    actions: FloatArray
    videos: Mapping[str, bytes]
    calibration: Mapping[str, Any]
    extras: Mapping[str, Any]
    statistics: Mapping[str, Any]
    segments: tuple[InstructionSegment, ...] = ()
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    pictures: Mapping[str, Sequence[bytes]] = field(default_factory=dict)
    copied_from: str | None = None

    @property
    def length(self) -> int:
        return len(self.actions)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The instructions of the episode, in the order in which they begin."""
        return tuple(dict.fromkeys(segment.wordings[0] for segment in self.segments)) or (self.instruction,)

    def frame_sentences(self) -> list[str]:
        """The instruction of every frame."""
        if not self.segments:
            return [self.instruction] * self.length
        return [segment.wordings[0] for segment in self.segments for _ in range(segment.start, segment.stop)]

    @property
    def identity(self) -> str:
        """A hash of the content. Episodes of equal content have equal identities, wherever they are stored."""
        if self.copied_from is not None:
            return self.copied_from
        videos = [self.videos[name] for name in sorted(self.videos)]
        pictures = [png for name in sorted(self.pictures) for png in self.pictures[name]]
        columns = [name.encode() + _block(self.columns[name]) for name in sorted(self.columns)]
        return sha256(b"".join([self.states.tobytes(), self.actions.tobytes(), *videos, *pictures, *columns]))[:32]

    def to_bytes(self) -> bytes:
        blocks = {"states": self.states.tobytes(), "actions": self.actions.tobytes()}
        blocks |= {f"videos/{name}": video for name, video in self.videos.items()}
        blocks |= {f"pictures/{name}": b"".join(pictures) for name, pictures in self.pictures.items()}
        blocks |= {f"columns/{name}": _block(values) for name, values in self.columns.items()}
        header = {
            "instruction": self.instruction,
            "shapes": [self.states.shape, self.actions.shape],
            "calibration": self.calibration,
            "extras": self.extras,
            "statistics": self.statistics,
            "blocks": [[name, len(block)] for name, block in blocks.items()],
            "segments": segments_to_json(self.segments),
            "columns": {name: [_type(values), values.shape] for name, values in self.columns.items()},
            "pictures": {name: [len(png) for png in pictures] for name, pictures in self.pictures.items()},
            "copied_from": self.copied_from,
        }
        body = b"\n".join([json.dumps(header).encode(), b"".join(blocks.values())])
        return b"\n".join([MAGIC, sha256(body).encode(), body])

    @staticmethod
    def from_bytes(content: bytes, index: int, path: Path) -> JournalEntry:
        """Inverse of `to_bytes`; `index` is the number in the file name. Raises `CorruptFileError` naming `path`."""
        magic, _, rest = content.partition(b"\n")
        checksum, _, body = rest.partition(b"\n")
        if magic != MAGIC or checksum.decode(errors="replace") != sha256(body):
            raise CorruptFileError(path, "differs from what was written; remove it to continue without that episode")
        head, _, tail = body.partition(b"\n")
        header = parsed(head)
        blocks, start = {}, 0
        for name, size in header["blocks"]:
            blocks[name], start = tail[start : start + size], start + size
        states, actions = (
            np.frombuffer(blocks.pop(name), np.float32).reshape(shape)
            for name, shape in zip(("states", "actions"), header["shapes"], strict=True)
        )
        columns = {
            name: _values(blocks.pop(f"columns/{name}"), dtype, shape)
            for name, (dtype, shape) in header.get("columns", {}).items()
        }
        pictures = {name: _split(blocks.pop(f"pictures/{name}"), sizes) for name, sizes in header.get("pictures", {}).items()}
        kept = {key: header[key] for key in ("instruction", "calibration", "extras", "statistics")}
        return JournalEntry(
            index=index,
            states=states,
            actions=actions,
            videos={name.removeprefix("videos/"): block for name, block in blocks.items()},  # older entries have no prefix
            segments=segments_from_json(header.get("segments", ())),
            columns=columns,
            pictures=pictures,
            copied_from=header.get("copied_from"),
            **kept,
        )


def _type(values: np.ndarray) -> str:
    return "string" if values.dtype.kind in "UOT" else values.dtype.str


def _block(values: np.ndarray) -> bytes:
    return json.dumps(values.tolist()).encode() if _type(values) == "string" else values.tobytes()


def _values(block: bytes, dtype: str, shape: Sequence[int]) -> np.ndarray:
    if dtype == "string":
        return np.array(parsed(block), object).reshape(shape)
    return np.frombuffer(block, dtype).reshape(shape)


def _split(block: bytes, sizes: Sequence[int]) -> list[bytes]:
    stops = np.cumsum([0, *sizes]).tolist()
    return [block[start:stop] for start, stop in itertools.pairwise(stops)]


class EpisodeJournal:
    """The journal of the dataset at `root`."""

    def __init__(self, root: Path):
        self._folder = root / FOLDER

    def write(self, entry: JournalEntry) -> int:
        """Commit one episode: on return it survives a crash; if this raises, it is not there. Returns the bytes written."""
        content, path = entry.to_bytes(), self._path(entry.index)
        try:
            write_atomic(path, content, follow=False)
        except UnwritableError:
            remove(path)  # the disk may have refused it after it had its name
            raise
        return len(content)

    def read(self, start: int) -> Iterator[JournalEntry]:
        """The entries from episode `start` on, up to the first gap. Raises `CorruptFileError` at a damaged one."""
        while (path := self._path(start)).is_file():
            below(self._folder.parent, path.relative_to(self._folder.parent).as_posix())
            try:
                content = read_bytes(path)
            except CorruptFileError:
                if path.is_file():
                    raise
                return  # merged and removed meanwhile; the caller reads the dataset again
            yield JournalEntry.from_bytes(content, start, path)
            start += 1

    def paths(self) -> list[Path]:
        found = [path for path in self._folder.glob("episode-*.episode") if ENTRY.fullmatch(path.name)]
        return sorted(path for path in found if path.is_file() and not path.is_symlink())

    def renumber(self, start: int) -> None:
        """Renumber entries consecutively from `start`. A gap remains where a user removed a damaged entry."""
        for index, path in enumerate(self.paths(), start):
            path.rename(self._path(index))

    def clear(self, before: int) -> None:
        """Remove entries below episode `before`, which the v3.0 files hold."""
        for path in self.paths():
            if int(path.stem.partition("-")[2]) < before:
                path.unlink()

    def remove(self) -> None:
        """Remove the folder if it is empty."""
        if self._folder.is_dir() and not self._folder.is_symlink() and not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _path(self, index: int) -> Path:
        return self._folder / f"episode-{index:06d}.episode"
