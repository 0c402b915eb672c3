"""Turns a run of journal entries into the content of v3.0 files. Nothing here touches the disk."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from verbot.data.storage import layout
from verbot.data.storage.dataset_statistics import column_statistics
from verbot.data.storage.encoded_video import EncodedVideo, join
from verbot.data.storage.files import parquet_bytes
from verbot.data.storage.journal import JournalEntry
from verbot.data.storage.schema import IMAGE, VIDEO, FeatureEntry, column_array, data_schema, episodes_schema
from verbot.errors import DataError
from verbot.spec import RobotSpec


@dataclass(frozen=True)
class Run:
    """Successive entries whose videos can share a file, with those videos demultiplexed."""

    entries: Sequence[JournalEntry]
    clips: Sequence[Mapping[str, EncodedVideo]]


def runs(entries: Iterable[JournalEntry]) -> Iterator[Run]:
    """Split `entries` into as few runs as possible. A new run starts where the video encoder's configuration changes."""
    opened = ((entry, {camera: EncodedVideo.of(video) for camera, video in entry.videos.items()}) for entry in entries)
    for _, run in groupby(opened, key=lambda pair: sorted((camera, clip.signature) for camera, clip in pair[1].items())):
        yield Run(*zip(*run, strict=True))


def merged(
    run: Run, spec: RobotSpec, features: Mapping[str, FeatureEntry], number: int, frames: int, tasks: Sequence[str]
) -> dict[str, bytes]:
    """The files, by name, that hold `run`: file number `number` of each kind.

    Args:
        frames: number of frames in the dataset before these episodes.
        tasks: every sentence of the dataset, including those of `run`.
    """
    task_index = {task: i for i, task in enumerate(tasks)}
    schema = data_schema(features)
    rows, tables = [], []
    for entry in run.entries:
        columns = frame_columns(entry, spec.rate_hz, frames, task_index)
        rows.append(_episode_row(entry, columns, features, number, frames))
        tables.append(columns)
        frames += entry.length
    by_episode = any(feature["dtype"] == IMAGE for feature in features.values())
    files = {layout.place(layout.DATA_PATH, number): _data_file(tables, schema, by_episode)}
    for camera in (name for name in spec.camera_names if features[layout.IMAGES + name]["dtype"] == VIDEO):
        key, clips = layout.IMAGES + camera, [clips[camera] for clips in run.clips]
        files[layout.place(layout.VIDEO_PATH, number, video_key=key)] = join(clips)
        _place_videos(rows, key, [len(clip.packets) for clip in clips], spec.rate_hz)
    table = pa.Table.from_pylist(rows, schema=episodes_schema(features))
    files[layout.place(layout.EPISODES_PATH, number)] = parquet_bytes(table)
    extras = [
        {
            "episode_index": entry.index,
            "identity": entry.identity,
            "calibration": json.dumps(entry.calibration),
            "extras": json.dumps(entry.extras),
        }
        for entry in run.entries
    ]
    files[layout.place(layout.EXTRAS_PATH, number)] = parquet_bytes(pa.Table.from_pylist(extras, schema=layout.EXTRAS_SCHEMA))
    return files


def frame_columns(entry: JournalEntry, rate_hz: float, first: int, tasks: Mapping[str, int]) -> dict[str, Any]:
    """The columns of ``data/*.parquet`` for one episode.

    Args:
        first: index of its first frame in the dataset.
        tasks: the number of each sentence.
    """
    t = np.arange(entry.length)
    columns: dict[str, Any] = {layout.STATE: entry.states} if entry.states.shape[1] else {}
    columns |= {
        layout.ACTION: entry.actions,
        "timestamp": (t / rate_hz).astype(np.float32),
        "frame_index": t,
        "episode_index": np.full(entry.length, entry.index),
        "index": first + t,
        "task_index": np.array([tasks[sentence] for sentence in entry.frame_sentences()]),
        **entry.columns,
    }
    for camera, pictures in entry.pictures.items():
        place = f"images/{layout.IMAGES}{camera}/episode-{entry.index:06d}"
        columns[layout.IMAGES + camera] = [
            {"bytes": png, "path": f"{place}/frame-{number:06d}.png"} for number, png in enumerate(pictures)
        ]
    return columns


def _data_file(episodes: Sequence[Mapping[str, Any]], schema: pa.Schema, by_episode: bool) -> bytes:
    """Args: `by_episode` makes each episode a row group, so that one can be read alone."""
    if not by_episode:
        return parquet_bytes(_table(_concatenated(episodes, schema.names), schema))
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, compression="snappy", write_page_checksum=True) as writer:
        for columns in episodes:
            writer.write_table(_table(columns, schema))
    return sink.getvalue()


def _table(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    return pa.table([_array(columns[field.name], field.type) for field in schema], schema=schema)


def _concatenated(episodes: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([columns[name] for columns in episodes]) for name in names}


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    return pa.array(values, kind) if isinstance(values, list) else column_array(values, kind)


def _episode_row(
    entry: JournalEntry, columns: Mapping[str, Any], features: Mapping[str, FeatureEntry], number: int, first: int
) -> dict[str, Any]:
    chunk, file = divmod(number, layout.FILES_PER_CHUNK)
    row: dict[str, Any] = {"episode_index": entry.index, "tasks": list(entry.sentences), "length": entry.length}
    row |= {"dataset_from_index": first, "dataset_to_index": first + entry.length}
    places = ["data", "meta/episodes", *(f"videos/{key}" for key, feature in features.items() if feature["dtype"] == VIDEO)]
    for place in places:
        row |= {f"{place}/chunk_index": chunk, f"{place}/file_index": file}
    for key, feature in features.items():
        if feature["dtype"] in (VIDEO, IMAGE):
            statistics = entry.statistics[key.removeprefix(layout.IMAGES)]
        else:
            statistics = column_statistics(np.asarray(columns[key]), feature, key)
            if feature["dtype"] == "int64" and statistics:
                statistics |= {bound: _whole(statistics[bound]) for bound in ("min", "max")}
        row |= {f"stats/{key}/{name}": value for name, value in statistics.items()}
    return row


def _place_videos(rows: Sequence[dict[str, Any]], key: str, counts: Sequence[int], rate_hz: float) -> None:
    start = 0
    for row, count in zip(rows, counts, strict=True):
        if count != row["length"]:
            raise DataError(f"episode {row['episode_index']} has {row['length']} frames, its video {key!r} {count}")
        row[f"videos/{key}/from_timestamp"] = start / rate_hz
        row[f"videos/{key}/to_timestamp"] = (start + count) / rate_hz
        start += count


def _whole(values: Any) -> Any:
    """Nested lists of floats as ints."""
    return [_whole(value) for value in values] if isinstance(values, list) else int(values)
