"""Small datasets that `metadata.py` changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq


def make_bases(folder: Path) -> dict[str, Path]:
    """A dataset of verbot with a video, pictures, depth and further columns; what others make of it; one of version 2.1."""
    from verbot.data import DatasetWriter, EpisodeRecord
    from verbot.spec import Camera, Component, RobotSpec

    state = (Component("ee_position", "position", ("x", "y", "z"), "m", "base", (-1.0,) * 3, (1.0,) * 3),)
    action = (Component("position_delta", "position_delta", ("x", "y", "z"), "m", "base", (-1.0,) * 3, (1.0,) * 3),)
    cameras = (Camera("front", 16, 32), Camera("wrist", 16, 16), Camera("depth", 8, 8, kind="depth"))
    spec, rng, ours = RobotSpec("toy", 10.0, cameras, state, action), np.random.default_rng(0), folder / "ours"
    with DatasetWriter(ours, spec, images={"wrist": "image"}) as writer:
        for number, length in enumerate((6, 5)):
            images = {c.name: rng.integers(0, 256, (length, c.height, c.width, 3), np.uint8) for c in cameras[:2]}
            images["depth"] = rng.uniform(0.1, 2.0, (length, 8, 8)).astype(np.float32)
            states, actions = (rng.uniform(-0.9, 0.9, (length, 3)).astype(np.float32) for _ in range(2))
            columns = {"next.reward": np.zeros(length, np.float32), "note": np.array(["word"] * length, object)}
            extras = {"goal": {"object": "cube"}, "instructions": [f"touch cube {number}", f"reach cube {number}"]}
            writer.save_episode(EpisodeRecord(f"touch cube {number}", states, actions, images, columns=columns, extras=extras))
    foreign = folder / "foreign"
    shutil.copytree(ours, foreign)
    shutil.rmtree(foreign / "meta/verbot")
    info = json.loads((foreign / "meta/info.json").read_text())
    del info["verbot"]
    (foreign / "meta/info.json").write_text(json.dumps(info))
    return {"ours": ours, "foreign": foreign, "old": older(ours, folder / "old")}


def older(source: Path, root: Path) -> Path:
    """The dataset in version 2.1: files of each episode, and lines of JSON."""
    from verbot.data import open_dataset

    info = json.loads((source / "meta/info.json").read_text())
    del info["verbot"]
    for key in ("observation.images.wrist", "observation.images.depth", "note"):
        del info["features"][key]
    info |= {
        "codebase_version": "v2.1",
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    table = pq.read_table(source / "data/chunk-000/file-000.parquet")
    kept = [name for name in table.column_names if name in info["features"]]
    dataset = open_dataset(source)
    for folder in ("meta", "data/chunk-000", "videos/chunk-000/observation.images.front"):
        (root / folder).mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    start, episodes = 0, []
    for number, episode in enumerate(dataset):
        part = table.select(kept).slice(start, len(episode))
        pq.write_table(part, root / f"data/chunk-000/episode_{number:06d}.parquet")
        start += len(episode)
        film(root / f"videos/chunk-000/observation.images.front/episode_{number:06d}.mp4", episode.images("front"))
        episodes.append(json.dumps({"episode_index": number, "tasks": [episode.instruction], "length": len(episode)}))
    (root / "meta/episodes.jsonl").write_text("\n".join(episodes))
    tasks = [json.dumps({"task_index": i, "task": f"touch cube {i}"}) for i in range(2)]
    (root / "meta/tasks.jsonl").write_text("\n".join(tasks))
    stats = {"action": {"min": [-1.0] * 3, "max": [1.0] * 3}, "observation.state": {"min": [-1.0] * 3, "max": [1.0] * 3}}
    (root / "meta/episodes_stats.jsonl").write_text("\n".join(json.dumps({"episode_index": i, "stats": stats}) for i in range(2)))
    return root


def film(path: Path, frames: np.ndarray, codec: str = "libx264", kind: str = "mp4") -> None:
    with av.open(str(path), "w", format=kind) as container:
        stream: Any = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = (
            frames.shape[1],
            frames.shape[2],
            "yuvj420p" if codec == "mjpeg" else "yuv420p",
        )
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
