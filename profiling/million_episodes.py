"""Measures what a dataset of a million episodes costs: opening it, and the memory of training on it.

It writes the dataset (numbers and metadata in full, a few videos that all episodes share; about 0.6 GB), opens it, and reads
windows that are decoded on the fly. Memory must not grow with the windows read.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import json
import tempfile
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from verbot.data import Loader, WindowConfig, Windows, open_dataset
from verbot.data.samples.frame_source import FrameOptions, open_frames
from verbot.data.storage import layout, schema
from verbot.data.storage.frame_cache import FrameSelection
from verbot.data.storage.video import encode_video
from verbot.spec import Camera, Component, RobotSpec

RATE_HZ, LENGTH, SIZE = 10, 10, 64
VIDEOS, CLIPS = 20, 50  # files, and episodes in each
PER_DATA_FILE, PER_META_FILE = 1000, 20_000
TASKS = [f"task {number}" for number in range(50)]


@dataclass(frozen=True)
class Arguments:
    """Options of the measurement."""

    episodes: int = 1_000_000
    milestones: tuple[int, ...] = (1_000, 10_000, 100_000)  # windows read when memory is measured
    batch: int = 64
    workers: int = 0
    folder: Path | None = None  # for the dataset, which is kept; a temporary one by default
    out: Path | None = None  # writes the figures as JSON


def main() -> None:
    arguments = tyro.cli(Arguments)
    with tempfile.TemporaryDirectory() as temporary:
        root = (arguments.folder or Path(temporary)) / f"episodes-{arguments.episodes}"
        if not (root / layout.INFO).exists():
            generate(root, arguments.episodes)
        figures = measure(root, arguments)
    for name, value in figures.items():
        print(f"{name:60s} {value:12.2f}")
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1))


def generate(root: Path, episodes: int) -> None:
    """A dataset as other software writes it: `LENGTH` frames an episode, one camera."""
    vector = Component("joints", "other", tuple("abcd"), "1", "", (-1.0,) * 4, (1.0,) * 4)
    spec = RobotSpec("generated", RATE_HZ, (Camera("front", SIZE, SIZE),), (vector,), (vector,))
    features, rng = schema.features_of(spec, schema.storage_of(spec, "video"), {}), np.random.default_rng(0)
    for number in range(VIDEOS):
        path = root / layout.place(layout.VIDEO_PATH, number, video_key=layout.IMAGES + "front")
        path.parent.mkdir(parents=True, exist_ok=True)
        shade = rng.integers(0, 200, (CLIPS, 1, 1, 1, 3)) + 4 * np.arange(LENGTH)[:, None, None, None]
        images = np.broadcast_to(shade.reshape(-1, 1, 1, 3), (CLIPS * LENGTH, SIZE, SIZE, 3)).astype(np.uint8)
        path.write_bytes(encode_video(images, RATE_HZ))
    for number, start in enumerate(range(0, episodes, PER_DATA_FILE)):
        numbers = np.arange(start, min(start + PER_DATA_FILE, episodes))
        write(root / layout.place(layout.DATA_PATH, number), data_table(numbers, rng, features))
    for number, start in enumerate(range(0, episodes, PER_META_FILE)):
        numbers = np.arange(start, min(start + PER_META_FILE, episodes))
        write(root / layout.place(layout.EPISODES_PATH, number), episode_table(numbers))
    pq.write_table(layout.tasks_table(TASKS), root / layout.TASKS)
    one = {name: [value] * 4 for name, value in {"min": -1.0, "max": 1.0, "mean": 0.0, "std": 0.5}.items()}
    stats = {key: {**one, "count": [episodes * LENGTH]} for key in (layout.STATE, layout.ACTION)}
    (root / layout.STATS).write_text(json.dumps(stats))
    info = {
        "codebase_version": layout.VERSION,
        "robot_type": spec.name,
        "total_episodes": episodes,
        "total_frames": episodes * LENGTH,
        "total_tasks": len(TASKS),
        "chunks_size": layout.FILES_PER_CHUNK,
        "fps": RATE_HZ,
        "splits": {"train": f"0:{episodes}"},
        "data_path": layout.DATA_PATH,
        "video_path": layout.VIDEO_PATH,
        "features": features,
    }
    (root / layout.INFO).write_text(json.dumps(info))


def data_table(numbers: np.ndarray, rng: np.random.Generator, features: dict[str, Any]) -> pa.Table:
    rows = len(numbers) * LENGTH
    states = rng.uniform(-1, 1, (rows, 4)).astype(np.float32)
    frame = np.tile(np.arange(LENGTH), len(numbers))
    episode = np.repeat(numbers, LENGTH)
    columns = {
        layout.STATE: vectors(states), layout.ACTION: vectors(np.roll(states, -1, 0)),
        "timestamp": (frame / RATE_HZ).astype(np.float32), "frame_index": frame, "episode_index": episode,
        "index": episode * LENGTH + frame, "task_index": episode % len(TASKS),
    }  # fmt: skip
    return pa.table(columns, schema=schema.data_schema(features))


def vectors(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def episode_table(numbers: np.ndarray) -> pa.Table:
    key, zeros = f"videos/{layout.IMAGES}front", np.zeros(len(numbers), np.int64)
    start_s = numbers // VIDEOS % CLIPS * LENGTH / RATE_HZ
    data = numbers // PER_DATA_FILE
    return pa.table(
        {
            "episode_index": numbers, "tasks": [[TASKS[number % len(TASKS)]] for number in numbers.tolist()],
            "length": np.full(len(numbers), LENGTH), "dataset_from_index": numbers * LENGTH,
            "dataset_to_index": (numbers + 1) * LENGTH, "data/chunk_index": data // layout.FILES_PER_CHUNK,
            "data/file_index": data % layout.FILES_PER_CHUNK, f"{key}/chunk_index": zeros, f"{key}/file_index": numbers % VIDEOS,
            f"{key}/from_timestamp": start_s, f"{key}/to_timestamp": start_s + LENGTH / RATE_HZ,
            "meta/episodes/chunk_index": zeros, "meta/episodes/file_index": zeros,
        }
    )  # fmt: skip


def write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def measure(root: Path, arguments: Arguments) -> dict[str, float]:
    figures = {"memory before, MB": memory_mb()}
    start = time.perf_counter()
    dataset = open_dataset(root)
    figures["open, s"] = time.perf_counter() - start
    start = time.perf_counter()
    figures["episodes, thousands"], last = len(dataset) / 1000, dataset[len(dataset) - 1]
    figures["first episode read (metadata too), s"] = time.perf_counter() - start
    assert len(last.states) == LENGTH
    figures["memory once open, MB"] = memory_mb()
    start = time.perf_counter()
    source = open_frames(dataset, FrameSelection(), FrameOptions("decode", workers=arguments.workers))
    windows = Windows(dataset, WindowConfig(chunk=5), cache=source)
    batches, read = Loader(windows, arguments.batch).iterate(), 0
    next(batches)
    figures["until the first batch, s"] = time.perf_counter() - start
    for milestone in arguments.milestones:
        start, before = time.perf_counter(), read
        for _ in count():
            read += len(next(batches))
            if read >= milestone:
                break
        figures[f"windows/s up to {milestone}"] = (read - before) / (time.perf_counter() - start)
        figures[f"memory after {milestone} windows, MB"] = memory_mb()
    source.close()
    return figures


def memory_mb() -> float:
    """Memory of this process and its workers; what several share counts in parts."""
    gc.collect()
    workers = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    lines = [line for pid in (str(os.getpid()), *workers) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


if __name__ == "__main__":
    main()
