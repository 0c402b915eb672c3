"""Decoded frames on disk, memory-mapped: decoded once, read at memory speed, grown when episodes are added.

For each camera the cache holds one file of raw frames (n, h, w, 3) and a small JSON file that says how many of them are there
and of which episodes (by content, not by place). The JSON file, replaced atomically, is the commit; frames beyond what it
counts do not exist.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from verbot.data.files import lock, read_json, write_atomic
from verbot.data.reader import Dataset
from verbot.errors import CorruptFileError, DataError
from verbot.spec import UInt8Array

FOLDER = ".cache/frames"
BLOCK = 256  # episodes between commits: what an interruption costs at most


class FrameCache:
    """All frames of `dataset`, in the order of its episodes.

    Args:
        cameras: of the dataset; all of them if None.
        folder: where the files lie; below the dataset if None.
        threads: that decode what is missing; one per core if None.

    Example:
        >>> import tempfile
        >>> from verbot.data.reader import open_dataset
        >>> from verbot.data.store import example_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     FrameCache(open_dataset(example_dataset(folder))).frames("front").shape
        (24, 32, 32, 3)
    """

    def __init__(
        self, dataset: Dataset, cameras: Sequence[str] | None = None, folder: Path | None = None, threads: int | None = None
    ):
        self._dataset, self._folder = dataset, folder or dataset.root / FOLDER
        self._threads = threads or len(os.sched_getaffinity(0))
        episodes = list(dataset)
        self._ends = np.cumsum([0, *(len(episode) for episode in episodes)])
        self._digests = _digests([f"{episode.identity} {len(episode)}" for episode in episodes])
        self._frames = {camera: self._open(camera) for camera in (dataset.camera_names if cameras is None else cameras)}

    def frames(self, camera: str) -> UInt8Array:
        """Every frame of the dataset from one camera, (n, h, w, 3), read-only."""
        return self._frames[camera]

    def _open(self, camera: str) -> UInt8Array:
        if not len(self._dataset):
            raise DataError(f"{self._dataset.root} has no episodes yet")
        try:
            with lock(self._folder / f"{camera}.lock", wait=True, holder="another process is decoding"):
                path, done, height, width = self._state(camera)
                if done < len(self._dataset):
                    height, width = self._fill(camera, path, done)
        except OSError as error:  # no room, or no right to write there
            raise DataError(
                f"decoded frames cannot be kept in {self._folder}: {error.strerror}; choose another folder"
            ) from error
        shape = (int(self._ends[-1]), height, width, 3)
        if path.stat().st_size < np.prod(shape, dtype=np.int64):
            raise CorruptFileError(path, f"is shorter than its {shape[0]} frames; remove it and it is made anew")
        return np.asarray(np.memmap(path, np.uint8, mode="r", shape=shape))

    def _state(self, camera: str) -> tuple[Path, int, int, int]:
        """The file of frames, how many of the dataset's episodes it already holds, and the frames' size."""
        record = self._folder / f"{camera}.json"
        if record.is_file():
            try:
                state = read_json(record)
                held, path = state["digests"], self._folder / state["file"]
                done = min(len(held), len(self._digests))
                # A process that opened the dataset earlier finds more here than it asks for.
                if done and held[done - 1] == self._digests[done - 1] and path.is_file():
                    return path, done, state["height"], state["width"]
            except (CorruptFileError, KeyError, TypeError):
                pass  # unreadable: decode anew
        # A new name: processes that still map frames of another state of the dataset keep them.
        return self._folder / f"{camera}-{uuid.uuid4().hex[:8]}.rgb", 0, 0, 0

    def _fill(self, camera: str, path: Path, done: int) -> tuple[int, int]:
        """Decode the episodes from number `done` on, committing block by block."""
        height, width = self._dataset[done].images(camera).shape[1:3]
        frame = height * width * 3
        with open(path, "r+b" if path.is_file() else "w+b") as file, ThreadPoolExecutor(self._threads) as pool:
            for start in range(done, len(self._dataset), BLOCK):
                stop = min(start + BLOCK, len(self._dataset))
                file.truncate(int(self._ends[stop]) * frame)
                out = np.memmap(path, np.uint8, mode="r+", shape=(int(self._ends[stop]), height, width, 3))

                def decode(number: int, out: UInt8Array = out) -> None:
                    out[self._ends[number] : self._ends[number + 1]] = self._dataset[number].images(camera)

                list(pool.map(decode, range(start, stop)))
                out.flush()
                os.fsync(file.fileno())
                self._commit(camera, path, stop, height, width)
        for old in self._folder.glob(f"{camera}-*.rgb"):
            if old != path:
                old.unlink()
        return height, width

    def _commit(self, camera: str, path: Path, episodes: int, height: int, width: int) -> None:
        state = {"file": path.name, "height": height, "width": width, "digests": self._digests[:episodes]}
        write_atomic(self._folder / f"{camera}.json", json.dumps(state).encode())


def _digests(identities: Sequence[str]) -> list[str]:
    """For every n, a checksum of the first n + 1 identities."""
    chain, out = hashlib.sha256(), []
    for identity in identities:
        chain.update(identity.encode() + b"\n")
        out.append(chain.hexdigest()[:16])
    return out
