"""Measures training windows per second beside LeRobot's own loader, in one run: on the fly and from the cache.

It makes 50 episodes of two 640×480 cameras, once as AV1 as LeRobot records it (g=2, CRF 30) and once as H.264, reads them with
verbot and with LeRobot, and writes a table. LeRobot has an environment of its own, because it pins other packages:

    python -m venv /tmp/lerobot
    /tmp/lerobot/bin/pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
    /tmp/lerobot/bin/pip install --no-deps lerobot==0.4.4 torchcodec==0.13.0 av==18.1.0
    /tmp/lerobot/bin/pip install "datasets>=4,<5" "huggingface-hub<0.36" "packaging<26" draccus==0.10.0 "deepdiff<9" einops \
        jsonlines termcolor gymnasium imageio accelerate
    python profiling/data_loader_lerobot.py --lerobot /tmp/lerobot/bin/python

torchcodec needs the libraries of FFmpeg: `--ffmpeg` links those that come with PyAV. torchvision is not installed, because its
wheel needs CUDA beside the CPU's torch; `lerobot_items.stub_torchvision` says why LeRobot's loader does not miss it.

What is compared: random items of two pictures, a state and ten actions, in batches, by two worker processes (LeRobot: also
without workers). LeRobot gives pictures of 640×480 as float32; a policy resizes them afterwards. verbot gives them at the
network's size as uint8, which is what its training reads. On the fly, only the first epoch counts, from the start of the
workers on.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import datetime
import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import tyro

from verbot.data import DatasetWriter, EpisodeRecord, Loader, WindowConfig, Windows, open_dataset
from verbot.data.samples.frame_source import FrameOptions, open_frames
from verbot.data.samples.windows import fits_of
from verbot.data.storage.frame_cache import FrameSelection
from verbot.spec import Camera, Component, RobotSpec
from verbot.transforms import FitImage

HERE = Path(__file__).resolve().parent
RATE_HZ, TINY = 30, (12, 16)
CODECS = {
    "AV1": ("libsvtav1", {"g": "2", "crf": "30", "preset": "12"}),
    "H.264": ("libx264", {"g": "2", "crf": "23", "bf": "0", "preset": "veryfast"}),
}


@dataclass(frozen=True)
class Arguments:
    """Options of the measurement."""

    episodes: int = 50
    frames: int = 300  # of an episode, at 30 Hz
    camera_size: tuple[int, int] = (480, 640)
    image_size: tuple[int, int] = (96, 128)  # of the network
    batch: int = 64
    workers: int = 2
    seconds: float = 30.0  # of each measurement
    lerobot: Path | None = None  # Python of LeRobot's environment
    ffmpeg: bool = True  # link PyAV's FFmpeg for torchcodec
    whole: bool = False  # measure also a cache of whole pictures, as before: 28 GB while it runs
    folder: Path | None = None  # for the datasets, which are kept; a temporary one by default
    page: Path | None = None  # gets the table, e.g. docs/results/data_loading.md


def main() -> None:
    arguments = tyro.cli(Arguments)
    rows: list[tuple[str, str, int]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        source = folder / "recorded"
        if not source.exists():
            record(source, arguments)
        for codec in CODECS:
            root = folder / codec.lower().replace(".", "")
            if not root.exists():
                transcode(source, root, codec)
            rows += measure(root, codec, arguments, Path(temporary))
    for name, value, _ in rows:
        print(f"{name:90s} {value}")
    if arguments.page:
        write_page(arguments.page, rows, arguments)


def record(root: Path, arguments: Arguments) -> None:
    """Episodes of a smooth scene in which something moves; noise would cost more to decode than any camera does."""
    vector = Component("joints", "joint_position", tuple("abcdef"), "rad", "", (-1.0,) * 6, (1.0,) * 6)
    height, width = arguments.camera_size
    spec = RobotSpec("so101", RATE_HZ, (Camera("front", height, width), Camera("wrist", height, width)), (vector,), (vector,))
    with DatasetWriter(root, spec) as writer:
        for number in range(arguments.episodes):
            rng = np.random.default_rng(number)
            states = np.cumsum(rng.normal(0, 0.01, (arguments.frames, 6)), 0).clip(-1, 1).astype(np.float32)
            images = {name: scene(rng, arguments.frames, (height, width)) for name in ("front", "wrist")}
            writer.save_episode(EpisodeRecord(f"task {number % 5}", states, np.roll(states, -1, 0), images))


def scene(rng: np.random.Generator, frames: int, size: tuple[int, int]) -> np.ndarray:
    """uint8 (frames, h, w, 3)."""
    background = FitImage(TINY, size).forward(rng.integers(40, 216, (*TINY, 3), np.uint8))
    images = np.repeat(background[None], frames, 0)
    side = size[0] // 6
    for _ in range(3):
        color, (y, x) = rng.integers(0, 256, 3), rng.integers(0, side, 2)
        for t in range(frames):
            top, left = (y + t) % (size[0] - side), (x + 2 * t) % (size[1] - side)
            images[t, top : top + side, left : left + side] = color
    return images


def transcode(source: Path, root: Path, codec: str) -> None:
    """The dataset with videos of another codec, as if other software had recorded it."""
    encoder, options = CODECS[codec]
    for path in sorted(path for path in source.rglob("*") if path.is_file() and ".cache" not in path.parts):
        target = root / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".mp4":
            target.write_bytes(path.read_bytes())
            continue
        with av.open(str(path)) as video, av.open(str(target), "w") as out:
            stream: Any = out.add_stream(encoder, rate=Fraction(RATE_HZ), options=options)
            stream.height, stream.width = video.streams.video[0].height, video.streams.video[0].width
            stream.pix_fmt = "yuv420p"
            for frame in video.decode(video=0):
                out.mux(stream.encode(frame.reformat(format="yuv420p")))
            out.mux(stream.encode())
    info = json.loads((root / "meta/info.json").read_text())
    del info["verbot"]
    (root / "meta/info.json").write_text(json.dumps(info, indent=1))


def measure(root: Path, codec: str, arguments: Arguments, folder: Path) -> list[tuple[str, str, int]]:
    """Rows of the table: name, value, number of windows."""
    size = "×".join(map(str, arguments.image_size))
    videos = sum(path.stat().st_size for path in root.rglob("*.mp4")) / 1e6
    rows = [(f"{codec}: videos on disk", f"{videos:.0f} MB", 0)]
    cases: list[tuple[str, str, tuple[int, int] | None]] = [
        (f"decoded on the fly at {size}", "decode", arguments.image_size),
        (f"cache at {size}", "cache", arguments.image_size),
    ]
    cases += [("cache of whole pictures, as before", "cache", None)] if arguments.whole else []
    rates: dict[str, float] = {}
    for name, frames, image_size in cases:
        found = run_apart(root, frames, image_size, folder, arguments)
        rates[name] = found["windows_per_s"]
        rows += [
            (f"{codec}: {name}", f"{found['windows_per_s']:.0f} windows/s", found["windows"]),
            (f"{codec}: {name}, memory with workers", f"{found['memory_mb']:.0f} MB", 0),
            (f"{codec}: {name}, on disk", f"{found['disk_mb']:.0f} MB", 0),
            (f"{codec}: {name}, until the first batch", f"{found['first_s']:.1f} s", 0),
        ]
    if arguments.lerobot:
        for workers in dict.fromkeys((0, arguments.workers)):
            rows += lerobot(root, codec, workers, arguments, rates)
    return rows


def lerobot(root: Path, codec: str, workers: int, arguments: Arguments, rates: dict[str, float]) -> list[tuple[str, str, int]]:
    script = [str(arguments.lerobot), str(HERE / "lerobot_items.py"), str(root), "--workers", str(workers)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    with tempfile.TemporaryDirectory() as libraries:
        if arguments.ffmpeg:
            link_ffmpeg(Path(libraries), arguments.lerobot)
            environment["LD_LIBRARY_PATH"] = libraries
        done = subprocess.run(
            [*script, "--batch", str(arguments.batch), "--seconds", str(arguments.seconds)],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    name = f"{codec}: LeRobot, {workers} workers"
    if done.returncode:
        print(done.stderr[-3000:], file=sys.stderr)
        return [(name, f"fails: {done.stderr.strip().splitlines()[-1][:80]}", 0)]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{name}: {found}", file=sys.stderr)
    rows = [
        (f"{name} ({found['versions'].get('lerobot', '')})", f"{found['items_per_s']:.1f} windows/s", found["items"]),
        (f"{name}, peak memory", f"{found['peak_mb']:.0f} MB", 0),
    ]
    return rows + [(f"{codec}: {each} / {name}", f"{rate / found['items_per_s']:.1f}", 0) for each, rate in rates.items()]


def link_ffmpeg(folder: Path, python: Path | None) -> None:
    """The FFmpeg of PyAV in LeRobot's environment, under the names that torchcodec looks for."""
    where = subprocess.run([str(python), "-c", "import av; print(av.__file__)"], capture_output=True, text=True, check=True)
    for library in (Path(where.stdout.strip()).parent.parent / "av.libs").glob("*.so*"):
        name, _, version = library.name.partition(".so")
        for alias in {library.name, f"{name.partition('-')[0]}.so{'.'.join(version.split('.')[:2])}"}:
            if not (folder / alias).exists():
                (folder / alias).symlink_to(library)


def run_apart(root: Path, frames: str, image_size: tuple[int, int] | None, folder: Path, arguments: Arguments) -> dict[str, Any]:
    """`read_windows` in a process of its own, so that its memory is its own."""
    setup = {
        "root": str(root), "frames": frames, "size": image_size, "cache": str(folder / f"cache {root.name} {image_size}"),
        "batch": arguments.batch, "workers": arguments.workers, "seconds": arguments.seconds,
    }  # fmt: skip
    code = "import json, sys; sys.path.insert(0, sys.argv[1]); import data_loader_lerobot as it; it.read_windows(sys.argv[2])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(HERE), json.dumps(setup)], stdout=subprocess.PIPE, text=True, check=True
    )
    shutil.rmtree(str(setup["cache"]), ignore_errors=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def read_windows(text: str) -> None:
    """Print what a training run would see: windows per second, memory, disk, time until the first batch."""
    setup = json.loads(text)
    start = time.perf_counter()
    dataset = open_dataset(setup["root"])
    size = tuple(setup["size"]) if setup["size"] else None
    selection = FrameSelection(fits=fits_of(dataset.spec.cameras, size))
    options = FrameOptions(setup["frames"], setup["cache"], workers=setup["workers"], limit_gb=1e9)
    with closing(open_frames(dataset, selection, options)) as source:
        windows = Windows(dataset, WindowConfig(chunk=10), cache=source)
        batches, began = Loader(windows, setup["batch"]).iterate(), time.perf_counter()
        count = len(next(batches))
        first_s = time.perf_counter() - start
        # Decoded clips stay in memory for a while, so only the first epoch shows what decoding costs.
        most = len(windows) if setup["frames"] == "decode" else np.inf
        while (elapsed := time.perf_counter() - began) < setup["seconds"] and count < most:
            count += len(next(batches))
        memory = sum(proportional_mb(pid) for pid in [os.getpid(), *children()])
    disk = sum(path.stat().st_blocks * 512 for path in Path(setup["cache"]).rglob("*") if path.is_file()) / 1e6
    figures = {"windows_per_s": count / elapsed, "windows": count, "memory_mb": memory, "disk_mb": disk, "first_s": first_s}
    print(json.dumps(figures))


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def proportional_mb(pid: int) -> float:
    """Memory of a process; what several share counts in parts."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def write_page(page: Path, rows: list[tuple[str, str, int]], arguments: Arguments) -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True, cwd=HERE)
    date, head = datetime.date.today().isoformat(), commit.stdout.strip()
    height, width = arguments.camera_size
    lines = [
        "# Reading training windows",
        "",
        f"{arguments.episodes} episodes of {arguments.frames} frames of two {width}×{height} cameras; a window has two pictures, "
        f"a state and ten actions; batches of {arguments.batch}, {arguments.workers} worker processes. LeRobot gives whole "
        f"pictures, verbot pictures of the network's size.",
        "",
        "```bash",
        "python profiling/data_loader_lerobot.py --lerobot /tmp/lerobot/bin/python --page docs/results/data_loading.md",
        "```",
        "",
        "| Measurement | Value | 95 % interval | n | Seeds | Date | Commit | Script |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {name} | {value} | – | {n or '–'} | – | {date} | {head} | `profiling/data_loader_lerobot.py` |"
            for name, value, n in rows
        ),
        "",
    ]
    page.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
