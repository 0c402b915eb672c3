"""Metadata of the episodes of a LeRobotDataset, in one form for every version.

Version 3.0 lists episodes in parquet files, with the place of each in shared files of frames and videos. Versions 2.1 and 2.0
list them in ``meta/episodes.jsonl`` and give each episode files of its own. All are read as rows with the columns of 3.0; a row
of 2.x has no ``dataset_from_index``, because the episode is its whole file.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from verbot.data.storage import layout
from verbot.data.storage.arrow_rows import Rows, TablePart
from verbot.data.storage.columns import ReadTable
from verbot.data.storage.files import parsed, read_bytes, read_json, read_rows, row_groups
from verbot.data.storage.info import is_count, is_number, is_ours
from verbot.errors import CorruptFileError
from verbot.files import below
from verbot.spec import Int64Array
from verbot.text import repaired_text

EPISODES, EPISODE_LINES, TASK_LINES, STAT_LINES = (
    "meta/episodes",
    "meta/episodes.jsonl",
    "meta/tasks.jsonl",
    "meta/episodes_stats.jsonl",
)

PART = 2**16  # rows that are read together
MOST_FRAMES = 10**9  # of an episode; more is a damaged number


class EpisodeMetadata:
    """The episodes that ``info.json`` counts. Nothing is read before it is needed.

    Args:
        checksums: see `verbot.data.storage.info.checksums`.
        videos: the camera features that are videos.
        read: reads columns of a parquet file.
    """

    def __init__(self, root: Path, info: Mapping[str, Any], checksums: Mapping[str, Any], videos: Sequence[str], read: ReadTable):
        self._root, self._info, self._checksums, self._videos, self._read = root, info, checksums, tuple(videos), read
        self._ours = is_ours(info)
        self._old = info["codebase_version"] != layout.VERSION
        self.path = below(root, EPISODE_LINES if self._old else EPISODES)  # for messages
        self.tasks_path = below(root, TASK_LINES if self._old else layout.TASKS)

    @functools.cached_property
    def rows(self) -> Rows:
        """A row for each episode, in the order of their numbers. Raises `CorruptFileError` if ``info.json`` counts others."""
        total = int(self._info["total_episodes"])
        parts = [TablePart.of(self._from_lines())] if self._old else self._parquet_parts()
        count = sum(part.count for part in parts)
        if count < total or (count > total and not self._ours):
            for name, checksum in self._checksums.items():
                if name.startswith(EPISODES):
                    read_bytes(self._root / name, checksum)  # names the file that is damaged
            raise CorruptFileError(
                self.path, f"has {count} episodes; {layout.INFO} counts {total}: the recording may be unfinished"
            )
        return Rows(parts, self._wanted, total)

    @functools.cached_property
    def numbers(self) -> Int64Array:
        """The number that the files give each episode: ascending int64 (n,), with gaps where episodes were removed."""
        numbers = self._integers("episode_index")
        if (np.diff(numbers) <= 0).any() or (len(numbers) and numbers[0] < 0):
            place = int(np.argmax(np.diff(numbers) <= 0)) if len(numbers) > 1 else 0
            raise CorruptFileError(self.path, f"lists episode {numbers[place]} twice, or not in ascending order")
        if self._ours and len(numbers) and numbers[-1] != len(numbers) - 1:
            raise CorruptFileError(self.path, f"lists episodes up to {numbers[-1]}; {layout.INFO} counts {len(numbers)}")
        return numbers

    @functools.cached_property
    def lengths(self) -> Int64Array:
        """The frames of each episode: int64 (n,)."""
        lengths = self._integers("length")
        if len(lengths) and (lengths.min() < 1 or lengths.max() > MOST_FRAMES):
            place = int(np.argmax((lengths < 1) | (lengths > MOST_FRAMES)))
            raise CorruptFileError(self.path, f"episode {place} has length {lengths[place]}; expected 1 to {MOST_FRAMES} frames")
        return lengths

    def row(self, place: int) -> dict[str, Any]:
        """The row of an episode. Raises `CorruptFileError` unless each place in it can be one."""
        row = self.rows[place]
        if self._ours:
            if row["episode_index"] != place:
                raise CorruptFileError(self.path, f"lists episode {row['episode_index']} where {place} should be")
            return row
        self.numbers  # noqa: B018  # raises unless the episodes are in order
        row.setdefault("dataset_from_index", None)
        number = row.get("episode_index", place)
        wrong = [key for key in self._place_keys if not is_count(row.get(key), 0, 10**9)]
        for key in self._videos:
            start, stop = bounds = [row.get(f"videos/{key}/{end}_timestamp", other) for end, other in (("from", None), ("to", 0))]
            if not all(isinstance(bound, int | float) and is_number(bound) and 0 <= bound <= 1e9 for bound in bounds):
                lies = f"episode {number} lies from {start} to {stop} s in the video of {key}"
                raise CorruptFileError(self.path, f"{lies}; expected two numbers")
        if not is_count(row.get("length"), 1, MOST_FRAMES):
            wrong.append("length")
        first, last = row["dataset_from_index"], row.get("dataset_to_index")
        wrong += [
            key for key in ("dataset_from_index", "dataset_to_index") if row.get(key) is not None and not is_count(row[key])
        ]
        if wrong:
            found = ", ".join(f"{key} {row.get(key)!r}" for key in wrong[:3])
            raise CorruptFileError(self.path, f"episode {number} has {found}; expected the place of its frames")
        if first is not None and last is not None and last - first != row["length"]:
            raise CorruptFileError(
                self.path, f"episode {number} has length {row['length']}, but its frames are {first} to {last} ({last - first})"
            )
        return row

    @functools.cached_property
    def sentences(self) -> dict[int, str]:
        """The sentence of each ``task_index``. Empty if there is no such file."""
        if not self.tasks_path.exists():
            return {}
        if self._old:
            records = _lines(self.tasks_path)
            pairs: list[tuple[Any, Any]] = [(record.get("task_index"), record.get("task")) for record in records]
        else:
            pairs = self._task_pairs()
        for number, sentence in pairs:
            if not is_count(number) or not isinstance(sentence, str):
                raise CorruptFileError(
                    self.tasks_path, f"numbers the sentence {sentence!r} with {number!r}; expected a count and a text"
                )
        if len({number for number, _ in pairs}) != len(pairs):
            raise CorruptFileError(self.tasks_path, "gives two sentences one task_index")
        return {number: repaired_text(sentence) for number, sentence in pairs}

    def _task_pairs(self) -> list[tuple[Any, Any]]:
        table = self._read(self.tasks_path, lambda name: True)
        kinds = {field.name: field.type for field in table.schema}
        texts = [name for name, kind in kinds.items() if pa.types.is_string(kind) or pa.types.is_large_string(kind)]
        if len(kinds) != table.num_columns or "task_index" not in kinds or not texts:
            found = ", ".join(table.column_names)
            raise CorruptFileError(self.tasks_path, f"has the columns {found}; expected task_index and sentences")
        text = "task" if "task" in texts else texts[0]
        return list(zip(table.column("task_index").to_pylist(), table.column(text).to_pylist(), strict=True))

    def data_range(self, key: str) -> tuple[np.ndarray, np.ndarray] | None:
        """The least and the largest value of a feature by the stored statistics; None if they do not hold them."""
        path = below(self._root, layout.STATS)
        if path.is_file():
            return _bounds([read_json(path)], key)
        lines = below(self._root, STAT_LINES)
        return _bounds([record.get("stats") for record in _lines(lines)], key) if self._old and lines.is_file() else None

    @functools.cached_property
    def _place_keys(self) -> tuple[str, ...]:
        places = ("data", *(f"videos/{key}" for key in self._videos))
        return tuple(f"{place}/{kind}_index" for place in places for kind in ("chunk", "file"))

    @functools.cached_property
    def _start_keys(self) -> tuple[str, ...]:
        return tuple(f"videos/{key}/from_timestamp" for key in self._videos)

    def _wanted(self, name: str) -> bool:
        return not name.startswith("stats/")

    def _integers(self, name: str) -> Int64Array:
        try:
            return self.rows.column(name)
        except (KeyError, ValueError) as error:
            raise CorruptFileError(self.path, f"lacks {name!r} of an episode, or holds something else there") from error

    def _parquet_parts(self) -> list[TablePart]:
        listed = [self._root / name for name in self._checksums if name.startswith(EPISODES + "/")]
        paths = sorted(listed if self._ours else self._root.glob(f"{EPISODES}/*/*.parquet"))
        placed = [below(self._root, path.relative_to(self._root).as_posix()) for path in paths]
        return [part for path in placed for part in self._parts(path)]

    def _parts(self, path: Path) -> list[TablePart]:
        """A file in parts of whole row groups, so that a row can be read without the rest of a large file."""
        sizes = row_groups(path)
        if self._ours or sum(sizes) <= PART:
            return [TablePart(sum(sizes), functools.partial(self._read, path))]
        parts, start, count = [], 0, 0
        for number, size in enumerate(sizes, 1):
            count += size
            if count >= PART or number == len(sizes):
                parts.append(TablePart(count, functools.partial(read_rows, path, start=start, count=count)))
                start, count = start + count, 0
        return parts

    def _from_lines(self) -> pa.Table:
        """The episodes of version 2.x as a table of version 3.0."""
        records = _lines(self.path)
        for line, record in enumerate(records, 1):
            if not is_count(record.get("episode_index"), 0, 10**9) or not is_count(record.get("length"), 1):
                raise CorruptFileError(self.path, f"line {line} has no episode_index and length that are counts")
            tasks = record.get("tasks")
            if tasks is not None and not (isinstance(tasks, list) and all(isinstance(task, str) for task in tasks)):
                raise CorruptFileError(self.path, f"line {line} has the tasks {tasks!r}; expected a list of sentences")
        numbers = np.array([record["episode_index"] for record in records], np.int64)
        columns: dict[str, Any] = {
            "episode_index": numbers,
            "length": np.array([record["length"] for record in records], np.int64),
            "tasks": pa.array([record.get("tasks") for record in records], pa.list_(pa.string())),
        }
        for place in ("data", *(f"videos/{key}" for key in self._videos)):
            columns |= {
                f"{place}/chunk_index": numbers // int(self._info.get("chunks_size", 1000)),
                f"{place}/file_index": numbers,
            }
        columns |= {key: np.zeros(len(records)) for key in self._start_keys}
        return pa.table(columns)


def template_keys(row: Mapping[str, Any], place: str) -> dict[str, Any]:
    """What fills a template of ``info.json``: `place` is ``"data"`` or ``"videos/KEY"``."""
    chunk, file = row[f"{place}/chunk_index"], row[f"{place}/file_index"]
    return {
        "chunk_index": chunk, "file_index": file, "episode_chunk": chunk, "episode_index": file,
        "video_key": place.partition("/")[2],
    }  # fmt: skip


def _lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON Lines file. Raises `CorruptFileError` that names the line."""
    out = []
    for number, line in enumerate(read_bytes(path).splitlines(), 1):
        if line.strip():
            try:
                record = parsed(line)
            except (ValueError, RecursionError) as error:
                raise CorruptFileError(path, f"line {number} is not JSON ({error})") from error
            if not isinstance(record, dict):
                raise CorruptFileError(path, f"line {number} is not a record")
            out.append(record)
    return out


def _bounds(records: Sequence[Any], key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The range of a feature over records of statistics; None unless each record has a finite one of one size."""
    found = []
    for record in records:
        feature = record.get(key) if isinstance(record, dict) else None
        try:
            low, high = (np.asarray(feature[name], np.float64).reshape(-1) for name in ("min", "max"))  # type: ignore[index]
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        if low.shape != high.shape or not np.isfinite([low, high]).all() or (low > high).any():
            return None
        found.append((low, high))
    if not found or len({low.shape for low, _ in found}) != 1:
        return None
    return np.min([low for low, _ in found], axis=0), np.max([high for _, high in found], axis=0)
