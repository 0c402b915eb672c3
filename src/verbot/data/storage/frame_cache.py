"""Memory-mapped caches of decoded frames and of frozen encoder features, with one row for each frame of a dataset.

A cache is computed once, read at memory speed, and extended when the dataset grows. For each camera it has one file of rows
(n, …) and a small JSON file. The JSON file counts the rows and identifies their episodes by content, not by place. It is replaced
atomically and is the commit: rows beyond its count do not exist.
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
from verbot.parallel.workers import cores
from verbot.spec import FloatArray, UInt8Array

FOLDER, FEATURES = ".cache/frames", ".cache/features"
BLOCK = 256  # episodes between commits; an interruption loses at most this many
FEATURE_BLOCK, FEATURE_BATCH = 16, 32  # episodes between commits of features, and frames in a batch of the encoder

FeatureArray = npt.NDArray[np.float16]


class FrameCache:
    """All decoded frames of `dataset`, in episode order.

    Args:
        cameras: names of the cameras to cache; all of them if None.
        folder: folder of the cache files; below the dataset if None.
        threads: number of threads that decode missing frames; one per core if None.

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
        self.dataset, self._threads = dataset, threads or cores()
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
    """Features of all frames from a frozen encoder, in episode order, as float16.

    Rounding to float16 has a relative error of at most 0.05 % (half a unit of the eleventh binary place). Numbers below 6e-5
    have an absolute error of at most 3e-8.

    Args:
        frames: decoded frames of the dataset.
        key: identifies the encoder and must change whenever the features do. Features of different keys are kept separately.
        compute: maps frames uint8 (n, h, w, 3) to features (n, p, d).
        show: show rate and time left while features are computed.

    Raises `DataError` if features do not fit into float16.
    """

    def __init__(self, frames: FrameCache, key: str, compute: Callable[[UInt8Array], FloatArray], show: bool = False):
        self._cache, self._compute, self._show = frames, compute, show
        folder = frames.dataset.root / FEATURES / hashlib.sha256(key.encode()).hexdigest()[:16]
        rows = _Rows(frames.dataset, folder, "features", ".f16", np.dtype(np.float16), FEATURE_BLOCK)
        self._features: dict[str, FeatureArray] = {}
        for camera in frames.cameras:
            with ExitStack() as shown:
                self._features[camera] = rows.open(camera, self._shape(camera), self._encoder(camera, shown))

    def features(self, camera: str) -> FeatureArray:
        """The features of every frame of the dataset from one camera, (n, p, d), read-only."""
        return self._features[camera]

    def _shape(self, camera: str) -> Callable[[], tuple[int, ...]]:
        return lambda: self._compute(self._cache.frames(camera)[:1]).shape[1:]

    def _encoder(self, camera: str, shown: ExitStack) -> Fill:
        frames, bars = self._cache.frames(camera), list[Progress]()

        def fill(numbers: range, ends: npt.NDArray[np.int64], out: FeatureArray) -> None:
            first, last = int(ends[numbers.start]), int(ends[numbers.stop])
            if not bars:
                bars.append(shown.enter_context(Progress(f"encode {camera}", len(frames), "frames", first, self._show)))
            with np.errstate(over="ignore"):
                for start in range(first, last, FEATURE_BATCH):
                    stop = min(start + FEATURE_BATCH, last)
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
    """Arrays with one row for each frame of a dataset. Each array is one file that grows with the dataset.

    Args:
        content: name of the cached values, for messages.
        suffix, dtype: the suffix and the dtype of the files.
        block: episodes between commits.
    """

    def __init__(self, dataset: Dataset, folder: Path, content: str, suffix: str, dtype: np.dtype[Any], block: int):
        self._dataset, self._folder, self._content = dataset, folder, content
        self._suffix, self._dtype, self._block = suffix, dtype, block
        episodes = list(dataset)
        self._ends = np.cumsum([0, *(len(episode) for episode in episodes)])
        self._digests = _digests([f"{episode.identity} {len(episode)}" for episode in episodes])

    def open(self, name: str, shape: Callable[[], tuple[int, ...]], fill: Fill) -> npt.NDArray[Any]:
        """The array called `name`, read-only.

        Args:
            shape: returns the shape of a row; called only if there are no rows yet.
            fill: ``fill(numbers, ends, out)`` computes the rows of episodes `numbers`; episode i has
                ``out[ends[i] : ends[i + 1]]``.
        """
        if not len(self._dataset):
            raise DataError(f"{self._dataset.root} has no episodes yet")
        try:
            with lock(self._folder / f"{name}.lock", wait=True, holder="another process is filling this cache"):
                path, done, row = self._state(name)
                if done < len(self._dataset):
                    row = row or shape()
                    self._fill(name, path, done, row, fill)
        except OSError as error:  # the disk is full, or the folder is not writable
            raise DataError(
                f"{self._content} cannot be cached in {self._folder}: {error.strerror}; choose another folder"
            ) from error
        whole = (int(self._ends[-1]), *row)
        if path.stat().st_size < np.prod(whole, dtype=np.int64) * self._dtype.itemsize:
            raise CorruptFileError(path, f"is shorter than its {whole[0]} frames; remove it, and it is computed again")
        return np.asarray(np.memmap(path, self._dtype, mode="r", shape=whole))

    def _state(self, name: str) -> tuple[Path, int, tuple[int, ...]]:
        """The file of rows, the number of the dataset's episodes it already holds, and the shape of a row."""
        record = self._folder / f"{name}.json"
        if record.is_file():
            try:
                state = read_json(record)
                held, path = state["digests"], self._folder / state["file"]
                done = min(len(held), len(self._digests))
                # The cache may hold more episodes than a process that opened the dataset earlier knows of.
                if done and held[done - 1] == self._digests[done - 1] and path.is_file():
                    # Older records of frames have "height" and "width" instead of "row".
                    return path, done, tuple(state["row"] if "row" in state else (state["height"], state["width"], 3))
            except (CorruptFileError, KeyError, TypeError):
                pass  # unreadable: compute the rows again
        # A new file name, because other processes may still map rows of another state of the dataset.
        return self._folder / f"{name}-{uuid.uuid4().hex[:8]}{self._suffix}", 0, ()

    def _fill(self, name: str, path: Path, done: int, row: tuple[int, ...], fill: Fill) -> None:
        """Compute the rows of episodes from number `done` on, with a commit after each block."""
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
    """A running checksum: element n covers the first n + 1 identities."""
    chain, out = hashlib.sha256(), []
    for identity in identities:
        chain.update(identity.encode() + b"\n")
        out.append(chain.hexdigest()[:16])
    return out
