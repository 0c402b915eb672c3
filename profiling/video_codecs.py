"""Measures the recording rate of episodes, and the cost and loss of each video codec on small images.

Run it as ``python profiling/video_codecs.py``: 25 frames per episode, two cameras of 64×64, one thread. CPU seconds are those of
this process; wall-clock rates need an idle machine. For comparison, LeRobot 0.4.4 recorded 4.7 such episodes per second on an
idle core.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import io
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import tyro
from av.video.reformatter import VideoReformatter

from verbot.data import DatasetWriter, EpisodeRecord, open_dataset
from verbot.data.storage.video import ENCODER, GOP, OPTIONS, PIXELS
from verbot.spec import Camera, Component, RobotSpec, UInt8Array

LENGTH, SIZE, RATE_HZ = 25, 64, 10.0
CODECS: dict[str, tuple[str, str, dict[str, str]]] = {
    "verbot: H.264 4:4:4, CRF 18": (ENCODER, PIXELS, OPTIONS),
    "H.264 4:4:4, CRF 12": (ENCODER, PIXELS, OPTIONS | {"crf": "12"}),
    "H.264 4:2:0, CRF 18": (ENCODER, "yuv420p", OPTIONS),
    "H.264 4:2:0, CRF 6": (ENCODER, "yuv420p", OPTIONS | {"crf": "6"}),
    "H.264 RGB, lossless": ("libx264rgb", "rgb24", {"preset": "ultrafast", "tune": "zerolatency", "qp": "0", "g": str(GOP)}),
    "VP9 4:4:4, realtime": ("libvpx-vp9", "yuv444p", {"deadline": "realtime", "cpu-used": "8", "crf": "18", "b": "0"}),
    "AV1 4:2:0, as LeRobot": ("libsvtav1", "yuv420p", {"preset": "12", "crf": "30", "g": "2"}),
}


@dataclass(frozen=True)
class Arguments:
    """Options of the measurement."""

    episodes: int = 200
    out: Path | None = None  # writes the figures as JSON


def main() -> None:
    arguments = tyro.cli(Arguments)
    rng = np.random.default_rng(0)
    scenes = [scene(rng) for _ in range(16)]
    figures: dict[str, Any] = {"record": measure_recording(scenes, arguments.episodes)}
    for name, value in figures["record"].items():
        print(f"{name:32s} {value:10.2f}")
    print(f"\n{'codec':32s} {'ms/episode':>10s} {'decode f/s':>10s} {'bytes/frame':>11s} {'PSNR dB':>8s}")
    figures["codecs"] = {name: measure_codec(scenes, *codec) for name, codec in CODECS.items()}
    for name, codec in figures["codecs"].items():
        print(f"{name:32s} {codec['ms']:10.2f} {codec['decoded']:10.0f} {codec['bytes']:11.0f} {codec['psnr']:8.1f}")
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1))


def scene(rng: np.random.Generator) -> UInt8Array:
    """Small saturated objects on a textured table, one of them moving, and a light arm (t, h, w, 3)."""
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    table = np.stack([120 + 0.5 * y, 110 + 0.3 * x, 100 + 0.2 * y], -1) + rng.normal(0, 4, (SIZE, SIZE, 1))
    frames = np.repeat(table[None], LENGTH, axis=0)
    for number, color in enumerate(((220, 30, 30), (30, 60, 220), (30, 200, 60), (240, 220, 40))):
        place = rng.uniform(10, SIZE - 10, 2)
        for t in range(LENGTH):
            left = place[0] + 0.5 * t * (number == 0)
            frames[t][(abs(x - left) < 4) & (abs(y - place[1]) < 3.5)] = color
            frames[t][(abs(x - left) < 4) & (abs(y - place[1] - 5) < 1.5)] = np.array(color) * 0.6
    for t in range(LENGTH):
        frames[t][(abs(x - 20 - t) < 3) & (y < 40)] = 235
    return np.clip(frames, 0, 255).astype(np.uint8)


def measure_recording(scenes: list[UInt8Array], count: int) -> dict[str, float]:
    """Episodes per second, each durable on disk when saved, and merged at the end."""
    vector = Component("joints", "joint_position", tuple("abcdefgh"), "rad", "base", (-4.0,) * 8, (4.0,) * 8)
    cameras = (Camera("front", SIZE, SIZE), Camera("wrist", SIZE, SIZE))
    spec = RobotSpec("benchmark", RATE_HZ, cameras, (vector,), (vector,))
    rng = np.random.default_rng(1)
    records = [
        EpisodeRecord(
            f"task {i % 20}",
            rng.normal(size=(LENGTH, 8)).astype(np.float32),
            rng.normal(size=(LENGTH, 8)).astype(np.float32),
            {"front": scenes[i % len(scenes)], "wrist": scenes[(i + 5) % len(scenes)]},
        )
        for i in range(count)
    ]
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        with DatasetWriter(folder, spec) as writer:
            for record in records:
                writer.save_episode(record)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        assert len(open_dataset(folder)) == count
    return {"episodes/s, wall clock": count / wall, "episodes/s, CPU time": count / cpu}


def measure_codec(scenes: list[UInt8Array], encoder: str, pixels: str, options: dict[str, str]) -> dict[str, float]:
    """Cost, size and loss of one codec; every encoder on one thread."""
    start = time.process_time()
    videos = [_encode(frames, encoder, pixels, options) for frames in scenes]
    encoded = time.process_time()
    decoded = [_decode(video) for video in videos]
    end = time.process_time()
    errors = [np.mean((frames.astype(float) - seen) ** 2) for frames, seen in zip(scenes, decoded, strict=True)]
    frames = len(scenes) * LENGTH
    return {
        "ms": (encoded - start) / len(scenes) * 1e3,
        "decoded": frames / (end - encoded),
        "bytes": sum(map(len, videos)) / frames,
        "psnr": float(10 * np.log10(255**2 / max(float(np.mean(errors)), 1e-9))),
    }


def _encode(frames: UInt8Array, encoder: str, pixels: str, options: dict[str, str]) -> bytes:
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        stream: Any = container.add_stream(encoder, rate=int(RATE_HZ), options=options)
        stream.height, stream.width, stream.pix_fmt = SIZE, SIZE, pixels
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return sink.getvalue()


def _decode(video: bytes) -> UInt8Array:
    reformatter = VideoReformatter()
    with av.open(io.BytesIO(video), "r") as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = [reformatter.reformat(f, format="rgb24", threads=1).to_ndarray() for f in container.decode(video=0)]
    return np.stack(frames)


if __name__ == "__main__":
    main()
