"""Turns a run of journal entries into the content of v3.0 files. Nothing here touches the disk."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from verbot.data.storage import layout
from verbot.data.storage.files import parquet_bytes
from verbot.data.storage.journal import JournalEntry
from verbot.data.storage.video import EncodedVideo, join
from verbot.errors import DataError
from verbot.spec import RobotSpec, UInt8Array
from verbot.statistics import QUANTILES, FeatureStatistics, quantile_name

# Image statistics use this many evenly spaced frames of an episode, and every second row and column of each.
SAMPLED_FRAMES = 32


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
    run: Run, spec: RobotSpec, features: Mapping[str, Any], number: int, frames: int, tasks: Sequence[str]
) -> dict[str, bytes]:
    """The files, by name, that hold `run`: file number `number` of each kind.

    Args:
        frames: number of frames in the dataset before these episodes.
        tasks: every sentence of the dataset, including those of `run`.
    """
    task_index = {task: i for i, task in enumerate(tasks)}
    rows, columns = [], []
    for entry in run.entries:
        columns.append(frame_columns(entry, spec.rate_hz, frames, task_index[entry.instruction]))
        rows.append(_episode_row(entry, columns[-1], features, number, frames))
        frames += entry.length
    files = {layout.place(layout.DATA_PATH, number): parquet_bytes(_data_table(columns, spec))}
    for camera in spec.camera_names:
        key, clips = layout.IMAGES + camera, [clips[camera] for clips in run.clips]
        files[layout.place(layout.VIDEO_PATH, number, video_key=key)] = join(clips)
        _place_videos(rows, key, [len(clip.packets) for clip in clips], spec.rate_hz)
    table = pa.Table.from_pylist(rows, schema=layout.episodes_schema(features))
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


def frame_columns(entry: JournalEntry, rate_hz: float, first: int, task: int) -> dict[str, np.ndarray]:
    """The columns of ``data/*.parquet`` for one episode; `first` is the index of its first frame in the dataset."""
    t = np.arange(entry.length)
    columns = {layout.STATE: entry.states} if entry.states.shape[1] else {}
    return columns | {
        layout.ACTION: entry.actions,
        "timestamp": (t / rate_hz).astype(np.float32),
        "frame_index": t,
        "episode_index": np.full(entry.length, entry.index),
        "index": first + t,
        "task_index": np.full(entry.length, task),
    }


def _data_table(episodes: Sequence[Mapping[str, np.ndarray]], spec: RobotSpec) -> pa.Table:
    schema = layout.data_schema(spec)
    sizes = {layout.STATE: spec.state_size, layout.ACTION: spec.action_size}
    joined = {name: np.concatenate([columns[name] for columns in episodes]) for name in schema.names}
    arrays = [
        layout.vectors(joined[name], sizes[name]) if name in sizes else pa.array(joined[name], schema.field(name).type)
        for name in schema.names
    ]
    return pa.table(arrays, schema=schema)


def _episode_row(
    entry: JournalEntry, columns: Mapping[str, np.ndarray], features: Mapping[str, Any], number: int, first: int
) -> dict[str, Any]:
    chunk, file = divmod(number, layout.FILES_PER_CHUNK)
    row: dict[str, Any] = {"episode_index": entry.index, "tasks": [entry.instruction], "length": entry.length}
    row |= {"dataset_from_index": first, "dataset_to_index": first + entry.length}
    places = ["data", "meta/episodes", *(f"videos/{key}" for key, feature in features.items() if feature["dtype"] == "video")]
    for place in places:
        row |= {f"{place}/chunk_index": chunk, f"{place}/file_index": file}
    for key, feature in features.items():
        if feature["dtype"] == "video":
            statistics = entry.statistics[key.removeprefix(layout.IMAGES)]
        else:
            values = np.asarray(columns[key]).reshape(entry.length, -1)
            statistics = FeatureStatistics.of(values, key).to_json()
            if feature["dtype"] == "int64":
                statistics |= {bound: [int(value) for value in statistics[bound]] for bound in ("min", "max")}
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


def image_statistics(images: UInt8Array) -> dict[str, Any]:
    """Statistics of uint8 (t, h, w, 3) in LeRobot's form: per channel, shape (3, 1, 1), in 0..1; exact for the sampled pixels."""
    sampled = images[:: -(-len(images) // SAMPLED_FRAMES), ::2, ::2]
    shifted = sampled + np.array([0, 256, 512], np.uint16)
    counts = np.bincount(shifted.reshape(-1), minlength=768).reshape(3, 256)
    level, total = np.arange(256) / 255, counts[0].sum()
    mean = counts @ level / total
    cumulative = np.cumsum(counts, axis=1)
    values = {
        "min": level[np.argmax(counts > 0, axis=1)],
        "max": level[255 - np.argmax(counts[:, ::-1] > 0, axis=1)],
        "mean": mean,
        "std": np.sqrt(np.maximum(counts @ level**2 / total - mean**2, 0)),
    }
    values |= {quantile_name(q): level[np.argmax(cumulative >= q * total, axis=1)] for q in QUANTILES}
    return {name: value.reshape(3, 1, 1).tolist() for name, value in values.items()} | {"count": [len(sampled)]}


def combined_image_statistics(episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Image statistics of a dataset from those of its episodes. Quantiles are averages over episodes, as in LeRobot."""
    arrays = {name: np.array([episode[name] for episode in episodes], float) for name in layout.STATISTICS_KEYS}
    counts = arrays.pop("count").reshape(-1, 1, 1, 1)
    share = counts / counts.sum()
    out = {name: (values * share).sum(axis=0) for name, values in arrays.items()}
    out["min"], out["max"] = arrays["min"].min(axis=0), arrays["max"].max(axis=0)
    out["std"] = np.sqrt((share * (arrays["std"] ** 2 + (arrays["mean"] - out["mean"]) ** 2)).sum(axis=0))
    return {name: value.tolist() for name, value in out.items()} | {"count": [int(counts.sum())]}
