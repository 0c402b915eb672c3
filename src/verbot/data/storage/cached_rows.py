"""Memory-mapped arrays with one row for each frame of a dataset, computed once; see `verbot.data.storage.frame_cache`."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from verbot.data.storage.files import read_json
from verbot.data.storage.reader import Dataset
from verbot.errors import CorruptFileError, DataError, UnwritableError
from verbot.files import lock, write_atomic
from verbot.spec import Int64Array

CACHE = ".cache"  # below the dataset
ZEROS = bytes(1 << 20)

# ``fill(numbers, ends, out)`` computes the rows of the episodes `numbers`; number i has ``out[ends[i] : ends[i + 1]]``.
Fill = Callable[[range, Int64Array, Any], None]


def cache_folders(dataset: Dataset, given: str | Path | None = None) -> tuple[Path, ...]:
    """Folders of what is computed from a dataset: where it is written, then others where it may lie already.

    It is written below `given` or `VERBOT_CACHE`, in a folder of the dataset's own; else below the dataset; else, where that is
    read-only, below ``~/.cache/verbot``.
    """
    whole, root = dataset.root / CACHE, dataset.root.resolve()
    own = (whole,) if _is_direct(whole) else ()  # a link would lead what is written elsewhere
    content = dataset[0].identity if len(dataset) else ""
    name = f"{root.name}-{hashlib.sha256(f'{root} {content}'.encode()).hexdigest()[:12]}"
    chosen = given or os.environ.get("VERBOT_CACHE")
    if chosen:
        return Path(chosen) / "datasets" / name, *own
    if own and os.access(whole if whole.exists() else dataset.root, os.W_OK):
        return own
    return Path.home() / CACHE / "verbot" / "datasets" / name, *own


def _is_direct(folder: Path) -> bool:
    """Whether neither the cache nor a folder in it is a link."""
    try:
        with os.scandir(folder) as entries:
            return not folder.is_symlink() and not any(entry.is_symlink() for entry in entries)
    except OSError:  # there is none yet, or it may not be read
        return not folder.is_symlink()


class CachedRows:
    """Arrays with one row for each frame of some episodes. Each array is one file that grows with the dataset.

    Args:
        numbers: numbers of the episodes.
        folders: the first is written; complete arrays are read from any.
        content: name of the cached values, for messages.
        suffix, dtype: the suffix and the dtype of the files.
        block: episodes between commits.
        camera: whose pictures the values are of; if None, they are of the whole episode.
    """

    def __init__(
        self,
        dataset: Dataset,
        numbers: Sequence[int],
        folders: Sequence[Path],
        content: str,
        suffix: str,
        dtype: npt.DTypeLike,
        block: int,
        camera: str | None = None,
    ):
        self._dataset, self._folders, self._content = dataset, folders, content
        self._suffix, self._dtype, self._block = suffix, np.dtype(dtype), block
        episodes = [dataset[int(number)] for number in numbers]
        if not episodes:
            raise DataError(f"{dataset.root} has no episodes yet")
        self.ends = np.cumsum([0, *(len(episode) for episode in episodes)])
        known = [episode.identity if camera is None else episode.pictures_identity(camera) for episode in episodes]
        self.digests = running_digests([f"{one} {len(episode)}" for one, episode in zip(known, episodes, strict=True)])

    def missing_bytes(self, name: str, shape: Callable[[], tuple[int, ...]]) -> int:
        """What computing the array called `name` still adds to the disk; `shape` as in `open`."""
        if self.complete(name) is not None:
            return 0
        done = self._state(self._folders[0], name)[1]
        return int(self.ends[-1] - self.ends[done]) * _row_bytes(self.row(name, shape), self._dtype)

    def row(self, name: str, shape: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
        """The shape of a row as recorded, else by `shape`."""
        return self._state(self._folders[0], name)[2] or shape()

    def open(self, name: str, shape: Callable[[], tuple[int, ...]], fill: Fill) -> npt.NDArray[Any]:
        """The array called `name`, read-only; missing rows are computed by `fill`.

        Args:
            shape: returns the shape of a row; called only if there are no rows yet.
        """
        found = self.complete(name)
        if found is None:
            folder = self._folders[0]
            try:
                with lock(folder / f"{name}.lock", wait=True, holder="another process is filling this cache"):
                    path, done, row = self._state(folder, name)
                    if done < len(self.digests):
                        row = row or shape()
                        self._fill(name, path, done, row, fill)
            except (OSError, UnwritableError) as error:  # the disk is full, or the folder is not writable
                raise self._refusal(folder, error) from error
            found = path, row
        path, row = found
        whole = (int(self.ends[-1]), *row)
        if path.stat().st_size < whole[0] * _row_bytes(row, self._dtype):
            raise CorruptFileError(path, f"is shorter than its {whole[0]} frames; remove it, and it is computed again")
        return np.asarray(np.memmap(path, self._dtype, mode="r", shape=whole))

    def complete(self, name: str) -> tuple[Path, tuple[int, ...]] | None:
        """The file and the shape of a row, if every row is there."""
        for folder in self._folders:
            path, done, row = self._state(folder, name)
            if done == len(self.digests):
                return path, row
        return None

    def _state(self, folder: Path, name: str) -> tuple[Path, int, tuple[int, ...]]:
        """The file of rows, the number of the episodes that it already holds, and the shape of a row."""
        record = folder / f"{name}.json"
        if record.is_file():
            try:
                state = read_json(record)
                held, path = state["digests"], folder / str(state["file"])
                if path.parent != folder or path.is_symlink() or not self._named(name).fullmatch(path.name):
                    raise KeyError("file")  # leads elsewhere
                done = min(len(held), len(self.digests))
                # The cache may hold more episodes than a process that opened the dataset earlier knows of.
                if done and held[done - 1] == self.digests[done - 1] and path.suffix == self._suffix and path.is_file():
                    # Older records of frames have "height" and "width" instead of "row".
                    return path, done, tuple(state["row"] if "row" in state else (state["height"], state["width"], 3))
            except (CorruptFileError, KeyError, TypeError):
                pass  # unreadable: compute the rows again
        # A new file name, because other processes may still map rows of another state of the dataset.
        return folder / f"{name}-{uuid.uuid4().hex[:8]}{self._suffix}", 0, ()

    def _fill(self, name: str, path: Path, done: int, row: tuple[int, ...], fill: Fill) -> None:
        """Compute the rows of episodes from number `done` on, with a commit after each block."""
        size = _row_bytes(row, self._dtype)
        try:
            with open(path, "r+b" if path.is_file() else "w+b") as file:
                for start in range(done, len(self.digests), self._block):
                    stop = min(start + self._block, len(self.digests))
                    allocate(file, int(self.ends[start]) * size, int(self.ends[stop]) * size)
                    out = np.memmap(path, self._dtype, mode="r+", shape=(int(self.ends[stop]), *row))
                    fill(range(start, stop), self.ends, out)
                    out.flush()
                    os.fsync(file.fileno())
                    state = {"file": path.name, "row": row, "digests": self.digests[:stop]}
                    write_atomic(path.with_name(f"{name}.json"), json.dumps(state).encode(), follow=False)
        except BaseException:  # an interruption too: rows that are not committed would only take room
            held, committed, _ = self._state(path.parent, name)
            if held == path:
                os.truncate(path, int(self.ends[committed]) * size)
            else:
                path.unlink(missing_ok=True)
            raise
        for old in path.parent.iterdir():
            if old != path and self._named(name).fullmatch(old.name):
                old.unlink()

    def _named(self, name: str) -> re.Pattern[str]:
        """The files of rows called `name`."""
        return re.compile(re.escape(name) + "-[0-9a-f]{8}" + re.escape(self._suffix))

    def _refusal(self, folder: Path, error: OSError | UnwritableError) -> DataError:
        reason = error.strerror or str(error)
        if error.errno == errno.ENOSPC:
            reason += f" ({gigabytes(free_bytes(folder))} free)"
        return DataError(f"{self._content} cannot be cached in {folder}: {reason}; choose another folder")


def allocate(file: IO[bytes], start: int, stop: int) -> None:
    """Reserve the bytes from `start` to `stop` of a file, which then has exactly `stop` bytes.

    A mapped file with holes kills the process (SIGBUS) when the disk is full; a reserved one cannot.
    Raises `OSError` if it is full.
    """
    file.truncate(start)
    if stop == start:
        return
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), start, stop - start)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
    file.seek(start)
    for place in range(start, stop, len(ZEROS)):
        file.write(ZEROS[: stop - place])
    file.flush()


def free_bytes(folder: Path) -> int:
    """What can still be written into `folder`, which need not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def gigabytes(count: float) -> str:
    """
    Example:
        >>> gigabytes(4_400_000), gigabytes(123e9)
        ('4.4 MB', '123.0 GB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def running_digests(identities: Sequence[str]) -> list[str]:
    """A running checksum: element n covers the first n + 1 identities."""
    chain, out = hashlib.sha256(), []
    for identity in identities:
        chain.update(identity.encode() + b"\n")
        out.append(chain.hexdigest()[:16])
    return out


def _row_bytes(row: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return int(np.prod(row, dtype=np.int64)) * dtype.itemsize
