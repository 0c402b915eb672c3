"""The frames of merged episodes: where each episode's are, and their columns as arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from verbot.data.storage import layout
from verbot.data.storage.arrow_rows import Chosen
from verbot.data.storage.columns import FrameColumns, float32, numbers_of, values_of
from verbot.data.storage.features import PICTURES, VECTORS, FeatureRoles
from verbot.data.storage.files import read_bytes, read_parquet, read_rows
from verbot.data.storage.info import checksums, is_ours, place_of, placed
from verbot.data.storage.parquet_limits import CELL, UNDECLARED, Limits
from verbot.data.storage.versions import EpisodeMetadata, template_keys
from verbot.errors import CorruptFileError, DataError
from verbot.files import below
from verbot.spec import FloatArray

Row = Mapping[str, Any]
ROWS, SPARE_ROWS = 4, 5 * 10**5  # a file may hold so many times the frames of the episodes, and so many more: of deleted ones


class StoredFrames:
    """The frames of a dataset's files.

    Args:
        roles: the features that are read, and as what.
    """

    def __init__(self, root: Path, info: Mapping[str, Any], roles: FeatureRoles):
        self.root, self.info, self.roles = root, info, roles
        self.checksums, self.ours = checksums(info), is_ours(info)  # a dataset of other software is checked as it is read
        self._derived: Mapping[str, Any] = info["verbot"]["derived"] if self.ours else {}
        self._features, self._verified = info["features"], set[str]()
        videos = [key for key in roles.cameras.values() if self._features[key]["dtype"] == "video"]
        self.metadata = EpisodeMetadata(root, info, self.checksums, videos, self.read)
        checks = () if self.ours else ("episode_index",)
        self._columns = FrameColumns(self.read, (*roles.state, *roles.action, "index", *checks))

    def read(self, path: Path, wanted: Chosen = lambda name: True) -> pa.Table:
        """Columns of a parquet file, which must have its checksum, if there is one."""
        name = path.relative_to(self.root).as_posix()
        return read_parquet(
            placed(self.root, name), self.checksums.get(name, self._derived.get(name)), wanted, self._limits(name)
        )

    def data_path(self, row: Row) -> Path:
        return place_of(self.root, self.info["data_path"], template_keys(row, "data"))

    def video_path(self, row: Row, key: str) -> Path:
        return place_of(self.root, self.info.get("video_path"), template_keys(row, f"videos/{key}"))

    def vectors(self, row: Row, keys: Sequence[str]) -> FloatArray:
        """The frames of one episode in some vector columns, joined: float32 (t, d)."""
        path, columns, frames = self._place(row)
        parts = []
        for key in keys:
            if key not in columns:
                raise CorruptFileError(path, f"lacks the column {key!r}")
            size = int(np.prod(self._features[key]["shape"], dtype=np.int64))
            if columns[key].shape[1] != size:
                raise CorruptFileError(
                    path, f"column {key!r} has {columns[key].shape[1]} numbers a row; meta/info.json says {size}"
                )
            parts.append(float32(columns[key][frames]))
        if not parts:
            return np.zeros((row["length"], 0), np.float32)
        return (
            parts[0].copy() if len(parts) == 1 else np.concatenate(parts, axis=1)
        )  # not a view, which would hold the whole file

    def numbers(self, row: Row, key: str) -> np.ndarray | None:
        """The frames of one episode in a column of single numbers: (t,). None if the file lacks it."""
        path, _, frames = self._place(row)
        column = self._columns.numbers(path, key)
        return None if column is None or not column.shape[1] else column[frames, 0]

    def values(self, row: Row, key: str) -> np.ndarray | None:
        """The frames of one episode in any column, see `columns.values_of`. None if the file lacks it."""
        path, _, frames = self._place(row)
        table = self._rows(path, key, frames)
        return values_of(table.column(key), self._features[key].get("shape") or [1], path, key) if table.column_names else None

    def check_whole(self, row: Row) -> None:
        """Raise `CorruptFileError` unless the files hold every frame of an episode."""
        self._place(row)

    def pictures(self, row: Row, key: str, rows: Sequence[int] | None = None) -> Iterator[tuple[int, bytes]]:
        """The encoded pictures of one episode with their frames, which are stored in its rows or as files of their own.

        Args:
            rows: only these frames, ascending; all of them if None.
        """
        path, _, frames = self._place(row)
        chosen = range(row["length"]) if rows is None else rows
        first = chosen[0]
        table = self._rows(path, key, slice(frames.start + first, frames.start + chosen[-1] + 1))
        if not table.column_names:
            raise CorruptFileError(path, f"lacks the column {key!r}")
        cells = table.column(key)
        for frame in chosen:
            cell = cells[frame - first].as_py()
            content = cell.get("bytes") if isinstance(cell, dict) else cell
            if content is None and isinstance(cell, dict) and isinstance(cell.get("path"), str):
                content = read_bytes(self._picture_path(path, cell["path"]))
            if not isinstance(content, bytes):
                raise CorruptFileError(
                    path, f"column {key!r} holds no picture at frame {frame} of episode {row['episode_index']}"
                )
            yield frame, content

    def ranges(self, keys: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The least and the largest finite value of vector features over all files, which are read one after the other."""
        out: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for path in self.data_paths():
            table = self.read(path, lambda name: name in keys)
            for key in table.column_names:
                values = numbers_of(table.column(key), path, key).astype(np.float64)
                good = np.isfinite(values := float32(values).astype(np.float64))
                if not good.any():
                    continue
                low = np.where(good, values, np.inf).min(axis=0)
                high = np.where(good, values, -np.inf).max(axis=0)
                if key in out and out[key][0].shape != low.shape:
                    raise CorruptFileError(
                        path, f"column {key!r} has {len(low)} numbers a row; other files have {len(out[key][0])}"
                    )
                out[key] = (np.minimum(low, out[key][0]), np.maximum(high, out[key][1])) if key in out else (low, high)
        for key in keys:
            size = int(np.prod(self._features[key]["shape"], dtype=np.int64))
            low, high = out.get(key, (np.zeros(size), np.zeros(size)))
            known = np.isfinite(low) & np.isfinite(high)
            out[key] = np.where(known, low, 0.0), np.where(known, high, 0.0)
        return out

    def data_paths(self) -> list[Path]:
        """The files of frames, in the order of their first episodes."""
        rows = self.metadata.rows
        try:
            places = np.stack([rows.column("data/chunk_index"), rows.column("data/file_index")], axis=1)
        except (KeyError, ValueError) as error:
            raise CorruptFileError(self.metadata.path, "lacks the place of an episode's frames") from error
        _, first = np.unique(places, axis=0, return_index=True)
        return [self.data_path(self.metadata.row(int(place))) for place in np.sort(first)]

    def _rows(self, path: Path, key: str, frames: slice) -> pa.Table:
        """Some rows of one column, if the file has it. Its checksum is verified once."""
        name = path.relative_to(self.root).as_posix()
        if name in self.checksums and name not in self._verified:
            read_bytes(path, self.checksums[name])
            self._verified.add(name)
        limits = None if name in self.checksums else self._limits(name)
        table = read_rows(path, key.__eq__, frames.start, frames.stop - frames.start, limits)
        if len(table.column_names) > 1:
            raise CorruptFileError(path, f"has the column {key!r} twice")
        return table

    def _limits(self, name: str) -> Limits:
        """What a file of the dataset may hold: of frames as many as the episodes have, each as large as ``info.json`` says."""
        if name == layout.INFO or name.startswith("meta/"):
            return UNDECLARED
        return Limits(ROWS * int(self.metadata.lengths.sum()) + SPARE_ROWS, self._cell)

    def _cell(self, key: str) -> int:
        """Bytes of a feature in one row. PNG without any compression takes a little more than its pixels."""
        feature = self._features.get(key, {})
        if feature.get("dtype") in PICTURES:
            return CELL + 8 * math.prod(feature["shape"])
        return 64 + 16 * math.prod(feature["shape"]) if VECTORS.fullmatch(feature.get("dtype", "")) else CELL

    def _picture_path(self, path: Path, name: str) -> Path:
        try:
            return below(self.root, name, "a picture's cell")
        except DataError as error:
            raise CorruptFileError(path, f"names the picture {name!r:.200}, which is not below the dataset") from error

    def _place(self, row: Row) -> tuple[Path, dict[str, np.ndarray], slice]:
        """The file of an episode, its columns, and which of their rows are the episode's.

        Raises `CorruptFileError` if they are not all there, or belong to another episode by their ``episode_index``.
        """
        path, number, length = self.data_path(row), row["episode_index"], row["length"]
        columns = self._columns.group(path)
        total = max((len(values) for values in columns.values()), default=0)
        start = self._start(row, columns, path)
        if start is None and total != length:
            raise CorruptFileError(path, f"has {total} frames; {self.metadata.path} gives episode {number} {length}")
        start = start or 0
        whole = start >= 0 and start + length <= total
        labels = columns.get("episode_index")
        if not self.ours and labels is not None and labels.size:
            own = np.flatnonzero(labels[:, 0] == number)
            # Files whose `index` counts from 0 again: the frames are where they say that they are.
            if not whole and len(own) == length and own[-1] - own[0] == length - 1:
                start, whole = int(own[0]), True
            if whole and (wrong := labels[start : start + length, 0] != number).any():
                other = labels[start + int(np.argmax(wrong)), 0]
                raise CorruptFileError(
                    path, f"gives rows {start} to {start + length} to episode {other:g} by their episode_index; "
                    f"{self.metadata.path} gives them to episode {number}"
                )  # fmt: skip
        if not whole:
            raise CorruptFileError(path, f"lacks frames of episode {number}: it should have {length}")
        return path, columns, slice(start, start + length)

    def _start(self, row: Row, columns: Mapping[str, np.ndarray], path: Path) -> int | None:
        """The row of a file where an episode begins by the metadata; None if the file is the episode's own."""
        first, index = row["dataset_from_index"], columns.get("index")
        if first is None or index is None or not index.size:
            return first
        if not np.isfinite(index[0, 0]) or index[0, 0] != int(index[0, 0]):
            raise CorruptFileError(path, f"has the index {index[0, 0]:g} in its first row; expected a whole number")
        return int(first) - int(index[0, 0])


class FurtherColumns(Mapping[str, np.ndarray]):
    """The further columns of one episode, each read when it is asked for; see `Episode.columns`."""

    def __init__(self, stored: StoredFrames, row: Row):
        self._stored, self._row = stored, row

    def __getitem__(self, key: str) -> np.ndarray:
        """Raises `KeyError` for a column that there is none of, `CorruptFileError` for one that the files lack."""
        if key not in self._stored.roles.columns:
            raise KeyError(key)
        values = self._stored.values(self._row, key)
        if values is None:
            raise CorruptFileError(self._stored.data_path(self._row), f"lacks the column {key!r}")
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored.roles.columns)

    def __len__(self) -> int:
        return len(self._stored.roles.columns)
