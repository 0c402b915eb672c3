"""What is made of every frame of a dataset, on disk, memory-mapped: made once, read at memory speed, grown with the dataset.

For each camera a cache holds one file of rows, one for each frame (n, …), and a small JSON file that says how many of them are
there and of which episodes (by content, not by place). The JSON file, replaced atomically, is the commit; rows beyond what it
counts do not exist.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from verbot.data.storage.files import lock, read_json, write_atomic
from verbot.data.storage.reader import Dataset
from verbot.errors import CorruptFileError, DataError
from verbot.parallel.progress import Progress
from verbot.spec import FloatArray, UInt8Array

FOLDER, FEATURES = ".cache/frames", ".cache/features"
BLOCK = 256  # episodes between commits: what an interruption costs at most
SEEN_BLOCK, SEEN_TOGETHER = 16, 32  # episodes between commits of features, and frames that an encoder is given at once

Features = npt.NDArray[np.float16]


class FrameCache:
    """All decoded frames of `dataset`, in the order of its episodes.

    Args:
        cameras: of the dataset; all of them if None.
        folder: where the files lie; below the dataset if None.
        threads: that decode what is missing; one per core if None.

    Example:
        >>> import tempfile
        >>> from verbot.data.storage.reader import open_dataset
        >>> from verbot.data.storage.writer import example_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     FrameCache(open_dataset(example_dataset(folder))).frames("front").shape
        (24, 32, 32, 3)
    """

    def __init__(
        self, dataset: Dataset, cameras: Sequence[str] | None = None, folder: Path | None = None, threads: int | None = None
    ):
        self.dataset, self._threads = dataset, threads or len(os.sched_getaffinity(0))
        rows = _Rows(dataset, folder or dataset.root / FOLDER, "decoded frames", ".rgb", np.dtype(np.uint8), BLOCK)
        self._frames: dict[str, UInt8Array] = {
            camera: rows.open(camera, _size(dataset, camera), self._decoder(camera))
            for camera in (dataset.camera_names if cameras is None else cameras)
        }

    @property
    def cameras(self) -> tuple[str, ...]:
        return tuple(self._frames)

    def frames(self, camera: str) -> UInt8Array:
        """Every frame of the dataset from one camera, (n, h, w, 3), read-only."""
        return self._frames[camera]

    def _decoder(self, camera: str) -> Fill:
        def fill(numbers: range, ends: npt.NDArray[np.int64], out: UInt8Array) -> None:
            def decode(number: int) -> None:
                out[ends[number] : ends[number + 1]] = self.dataset[number].images(camera)

            with ThreadPoolExecutor(self._threads) as pool:
                list(pool.map(decode, numbers))

        return fill


class FeatureCache:
    """What an encoder that never learns makes of all frames, in the order of the episodes, as float16.

    That rounds each number to within 0.05 % of itself (half a unit of the eleventh binary place), and numbers below 6e-5 to
    within 3e-8.

    Args:
        frames: of the dataset.
        key: names the encoder; it must change whenever the features do. Those of every key are kept beside each other.
        compute: frames uint8 (n, h, w, 3) to features (n, p, d).
        show: show rate and time left while features are computed.

    Raises `DataError` where they do not fit into float16.
    """

    def __init__(self, frames: FrameCache, key: str, compute: Callable[[UInt8Array], FloatArray], show: bool = False):
        self._cache, self._compute, self._show = frames, compute, show
        folder = frames.dataset.root / FEATURES / hashlib.sha256(key.encode()).hexdigest()[:16]
        rows = _Rows(frames.dataset, folder, "features", ".f16", np.dtype(np.float16), SEEN_BLOCK)
        self._features: dict[str, Features] = {}
        for camera in frames.cameras:
            with ExitStack() as shown:
                self._features[camera] = rows.open(camera, self._shape(camera), self._seer(camera, shown))

    def features(self, camera: str) -> Features:
        """The features of every frame of the dataset from one camera, (n, p, d), read-only."""
        return self._features[camera]

    def _shape(self, camera: str) -> Callable[[], tuple[int, ...]]:
        return lambda: self._compute(self._cache.frames(camera)[:1]).shape[1:]

    def _seer(self, camera: str, shown: ExitStack) -> Fill:
        frames, bars = self._cache.frames(camera), list[Progress]()

        def fill(numbers: range, ends: npt.NDArray[np.int64], out: Features) -> None:
            first, last = int(ends[numbers.start]), int(ends[numbers.stop])
            if not bars:
                bars.append(shown.enter_context(Progress(f"see {camera}", len(frames), "frames", first, self._show)))
            with np.errstate(over="ignore"):
                for start in range(first, last, SEEN_TOGETHER):
                    stop = min(start + SEEN_TOGETHER, last)
                    out[start:stop] = self._compute(frames[start:stop])
                    bars[0].update(stop)
            if not np.isfinite(out[first:last]).all():
                raise DataError(
                    f"the features of camera {camera!r} in {self._cache.dataset.root} do not fit into float16 (beyond "
                    f"{np.finfo(np.float16).max:.0f}, or not a number): train with cache_features=False"
                )

        return fill


Fill = Callable[[range, npt.NDArray[np.int64], Any], None]


class _Rows:
    """Arrays with a row for each frame of a dataset, each in one file that grows with the dataset.

    Args:
        what: is kept, for messages.
        suffix, dtype: of the files.
        block: episodes between commits.
    """

    def __init__(self, dataset: Dataset, folder: Path, what: str, suffix: str, dtype: np.dtype[Any], block: int):
        self._dataset, self._folder, self._what = dataset, folder, what
        self._suffix, self._dtype, self._block = suffix, dtype, block
        episodes = list(dataset)
        self._ends = np.cumsum([0, *(len(episode) for episode in episodes)])
        self._digests = _digests([f"{episode.identity} {len(episode)}" for episode in episodes])

    def open(self, name: str, shape: Callable[[], tuple[int, ...]], fill: Fill) -> npt.NDArray[Any]:
        """The array called `name`, read-only.

        Args:
            shape: of a row; asked for when there are none yet.
            fill: ``fill(numbers, ends, out)`` makes the rows of these episodes; number i has ``out[ends[i] : ends[i + 1]]``.
        """
        if not len(self._dataset):
            raise DataError(f"{self._dataset.root} has no episodes yet")
        try:
            with lock(self._folder / f"{name}.lock", wait=True, holder="another process fills it"):
                path, done, row = self._state(name)
                if done < len(self._dataset):
                    row = row or shape()
                    self._fill(name, path, done, row, fill)
        except OSError as error:  # no room, or no right to write there
            raise DataError(f"{self._what} cannot be kept in {self._folder}: {error.strerror}; choose another folder") from error
        whole = (int(self._ends[-1]), *row)
        if path.stat().st_size < np.prod(whole, dtype=np.int64) * self._dtype.itemsize:
            raise CorruptFileError(path, f"is shorter than its {whole[0]} frames; remove it and it is made anew")
        return np.asarray(np.memmap(path, self._dtype, mode="r", shape=whole))

    def _state(self, name: str) -> tuple[Path, int, tuple[int, ...]]:
        """The file of rows, how many of the dataset's episodes it already holds, and a row's shape."""
        record = self._folder / f"{name}.json"
        if record.is_file():
            try:
                state = read_json(record)
                held, path = state["digests"], self._folder / state["file"]
                done = min(len(held), len(self._digests))
                # A process that opened the dataset earlier finds more here than it asks for.
                if done and held[done - 1] == self._digests[done - 1] and path.is_file():
                    # Records of frames told their size alone before there were other rows.
                    return path, done, tuple(state["row"] if "row" in state else (state["height"], state["width"], 3))
            except (CorruptFileError, KeyError, TypeError):
                pass  # unreadable: make them anew
        # A new name: processes that still map rows of another state of the dataset keep them.
        return self._folder / f"{name}-{uuid.uuid4().hex[:8]}{self._suffix}", 0, ()

    def _fill(self, name: str, path: Path, done: int, row: tuple[int, ...], fill: Fill) -> None:
        """Make the rows of episodes from number `done` on, committing block by block."""
        size = int(np.prod(row, dtype=np.int64)) * self._dtype.itemsize
        with open(path, "r+b" if path.is_file() else "w+b") as file:
            for start in range(done, len(self._dataset), self._block):
                stop = min(start + self._block, len(self._dataset))
                file.truncate(int(self._ends[stop]) * size)
                out = np.memmap(path, self._dtype, mode="r+", shape=(int(self._ends[stop]), *row))
                fill(range(start, stop), self._ends, out)
                out.flush()
                os.fsync(file.fileno())
                state = {"file": path.name, "row": row, "digests": self._digests[:stop]}
                write_atomic(self._folder / f"{name}.json", json.dumps(state).encode())
        for old in self._folder.glob(f"{name}-*{self._suffix}"):
            if old != path:
                old.unlink()


def _size(dataset: Dataset, camera: str) -> Callable[[], tuple[int, ...]]:
    return lambda: dataset[0].images(camera).shape[1:]


def _digests(identities: Sequence[str]) -> list[str]:
    """For every n, a checksum of the first n + 1 identities."""
    chain, out = hashlib.sha256(), []
    for identity in identities:
        chain.update(identity.encode() + b"\n")
        out.append(chain.hexdigest()[:16])
    return out
