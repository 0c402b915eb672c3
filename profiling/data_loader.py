"""Measures the rate of reading training samples from disk: first decoding, then windows from the frame cache.

Run it as ``python profiling/data_loader.py``: two cameras of 64×64, ten actions per window, one thread by default. For
comparison, LeRobot 0.4.4 read 454–508 such items per second on an idle core.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from verbot.data import Dataset, DatasetWriter, EpisodeRecord, FrameCache, Loader, WindowConfig, Windows, open_dataset
from verbot.spec import Camera, Component, RobotSpec

SIZE = 64


@dataclass(frozen=True)
class Arguments:
    """Options of the measurement."""

    dataset: Path | None = None  # your own; without it one is made
    episodes: int = 300  # of the dataset that is made, 40 frames each
    batch: int = 64
    batches: int = 500
    out: Path | None = None  # writes the figures as JSON


def main() -> None:
    arguments = tyro.cli(Arguments)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.dataset or make_dataset(Path(folder) / "dataset", arguments.episodes)
        figures |= measure_cache(open_dataset(path), Path(folder))
        for name, options, threads in (
            ("windows/s", {}, 0),
            ("windows/s, two threads", {}, 2),
            ("windows/s, history 4", {"history": 4}, 0),
            ("windows/s, relabeling half", {"relabel": 0.5}, 0),
        ):
            figures[name] = measure_loader(open_dataset(path), options, threads, arguments)
    for name, value in figures.items():
        print(f"{name:32s} {value:12.1f}")
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1))


def make_dataset(path: Path, episodes: int) -> Path:
    """Episodes of 40 frames of moving noise with all fields that windows use: wordings, calibration, other goals."""
    position = Component("ee_position", "position", tuple("xyz"), "m", "base", (-1.0,) * 3, (1.0,) * 3)
    quaternion = Component("ee_quaternion", "quaternion", tuple("wxyz"), "1", "base", (-1.0,) * 4, (1.0,) * 4)
    grip = Component("gripper", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
    moves = Component("motion", "other", tuple("abcdef"), "1", "base", (-1.0,) * 6, (1.0,) * 6)
    cameras = (Camera("front", SIZE, SIZE), Camera("wrist", SIZE, SIZE, frame="tool"))
    spec = RobotSpec("benchmark", 10.0, cameras, (position, quaternion, grip), (moves, grip))
    lens = {"intrinsics": (60, 0, 32, 0, 60, 32, 0, 0, 1), "extrinsics": np.diag([1.0, -1, -1, 1]).ravel().tolist()}
    goals: list[dict[str, Any]] = [
        {"instructions": [f"goal {i}", f"aim {i}"], "target_base_m": [0.1 * i, 0, -1], "receptacle_base_m": None}
        for i in range(4)
    ]
    rng = np.random.default_rng(0)
    with DatasetWriter(path, spec) as writer:
        for number in range(episodes):
            states = rng.normal(size=(40, 8)).astype(np.float32)
            actions = rng.normal(size=(40, 7)).astype(np.float32)
            actions[:, 6] = (np.arange(40) < 15) | (np.arange(40) > 30)
            table = rng.integers(60, 200, (SIZE, SIZE, 3), np.uint8)
            images = np.stack([np.roll(table, t, axis=1) for t in range(40)])
            calibration = {"front": {**lens, "frame": "base"}, "wrist": {**lens, "frame": "tool"}}
            extras = {"grounding": goals, "first_contact_frame": 12, "instructions": ["one", "two", "three"]}
            both = {"front": images, "wrist": images[::-1]}
            writer.save_episode(EpisodeRecord(f"task {number % 20}", states, actions, both, calibration, extras))
    return path


def measure_cache(dataset: Dataset, folder: Path) -> dict[str, float]:
    """Frames decoded per second, and the time to open the finished cache."""
    start = time.perf_counter()
    cache = FrameCache(dataset, folder=folder / "cache")
    filled = time.perf_counter()
    FrameCache(open_dataset(dataset.root), folder=folder / "cache")
    frames = sum(len(cache.frames(camera)) for camera in dataset.camera_names)
    return {"frames decoded/s": frames / (filled - start), "ms to open decoded frames": (time.perf_counter() - filled) * 1e3}


def measure_loader(dataset: Dataset, options: dict[str, Any], threads: int, arguments: Arguments) -> float:
    loader = Loader(Windows(dataset, WindowConfig(chunk=10, **options)), arguments.batch, threads=threads)
    batches = loader.iterate()
    next(batches)
    start = time.perf_counter()
    count = sum(len(batch) for batch in islice(batches, arguments.batches))
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
