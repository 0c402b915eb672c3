"""Estimates the requirements of a million episodes and 64 GPUs from measurements on this machine.

Run it as ``python profiling/scaling_estimate.py --dataset outputs/demo/dataset``. It measures the bytes of that dataset and the
memory that training holds for it. It also renders, encodes, decodes and reads a few episodes at another image size, in CPU
seconds, so that other work matters little. All other figures are extrapolated from these. No figure was measured on a GPU; those
of GPUs follow from the assumptions among the arguments.
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "LP_NUM_THREADS"), "1"))

import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from verbot.data import FrameCache, Loader, WindowConfig, Windows, open_dataset
from verbot.rollout.collect import collect

KINDS = {"videos": "videos", "states and actions": "data", "metadata": "meta"}
FLOAT = 4  # bytes
FEW = 2  # episodes, to measure the constant cost


@dataclass(frozen=True)
class Arguments:
    """Options of the measurement, and assumptions."""

    dataset: Path
    image_size: int = 224  # at which a few more episodes are made
    made: int = 12  # of these
    episodes: int = 1_000_000
    gpus: int = 64
    flops: float = 989e12  # of a GPU in a second, bfloat16 without sparsity: the data sheet of an H100 SXM
    used: float = 0.4  # the share of them that training uses
    tokens: int = 560  # a sample: two cameras of 256 patches, 32 words, 16 of state and actions
    batch: int = 32  # samples of a GPU in a step
    out: Path | None = None  # writes the figures as JSON
    held: bool = False  # only measure the memory; how this script calls itself


def main() -> None:
    arguments = tyro.cli(Arguments)
    if arguments.held:
        print(memory(arguments.dataset))
        return
    figures: dict[str, Any] = {"measured": measured(arguments)}
    figures["computed"] = computed(arguments, figures["measured"])
    figures["gpus"] = [gpu(arguments, parameters) for parameters in (1.1e6, 1e8, 1e9, 2.8e9)]
    for title, values in (("measured", figures["measured"]), ("computed", figures["computed"])):
        print(f"\n| {title} | |\n|---|---|")
        for name, value in values.items():
            print(f"| {name} | {value:,.4g} |")
    rows = figures["gpus"]
    print(f"\n| {arguments.gpus} GPUs | " + " | ".join(f"{row['parameters, M']:,.4g} M" for row in rows) + " |")
    print("|---|" + "---|" * len(rows))
    for name in rows[0]:
        print(f"| {name} | " + " | ".join(f"{row[name]:,.3g}" for row in rows) + " |")
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1))


def measured(arguments: Arguments) -> dict[str, float]:
    dataset = open_dataset(arguments.dataset)
    episodes, frames, cameras = len(dataset), int(dataset.info["total_frames"]), len(dataset.camera_names)
    found: dict[str, float] = {"episodes": episodes, "frames of an episode": frames / episodes}
    files = [path for path in arguments.dataset.rglob("*") if path.is_file() and ".cache" not in path.parts]
    for name, folder in KINDS.items():
        inside = [path.stat().st_size for path in files if path.is_relative_to(arguments.dataset / folder)]
        found[f"bytes an episode, {name}"] = sum(inside) / episodes
    found["files an episode"] = len(files) / episodes
    found["bytes a camera and frame, encoded"] = found["bytes an episode, videos"] * episodes / frames / cameras
    found["bytes a camera and frame, decoded"] = float(np.prod(dataset[0].images(dataset.camera_names[0]).shape[1:]))
    FrameCache(dataset)
    call = [sys.executable, __file__, "--dataset", str(arguments.dataset), "--held"]
    found["bytes of memory an episode"] = float(subprocess.run(call, check=True, capture_output=True, text=True).stdout)
    with tempfile.TemporaryDirectory() as folder:
        small = made(arguments, Path(folder) / "small", int(np.sqrt(found["bytes a camera and frame, decoded"] / 3)))
        large = made(arguments, Path(folder) / "large", arguments.image_size)
    for name in small:
        found[f"{name}, as it is"] = small[name]
        found[f"{name}, {arguments.image_size}×{arguments.image_size}"] = large[name]
    return found


def made(arguments: Arguments, path: Path, size: int) -> dict[str, float]:
    """The cost of a few episodes of the starter suite with cameras of `size`, in bytes and core seconds."""
    few, _ = collected(path.with_name(f"{path.name}-few"), FEW, size)
    spent, frames = collected(path, FEW + arguments.made, size)
    spent = (spent - few) / arguments.made  # without what starting costs
    dataset = open_dataset(path)
    videos = sum(file.stat().st_size for file in path.rglob("*.mp4"))
    started = time.process_time()
    cache = FrameCache(dataset, threads=1)
    decoding = time.process_time() - started
    loader = Loader(Windows(dataset, WindowConfig(chunk=10), cache=cache), 64)
    loader.batch(0)
    started = time.process_time()
    for step in range(1, 21):
        loader.batch(step)
    reading = time.process_time() - started
    views = frames * len(dataset.camera_names)
    return {
        "made: bytes a camera and frame, encoded": videos / views,
        "made: core seconds an episode": spent,
        "made: frames decoded in a core second": views / decoding,
        "made: windows read in a core second": 20 * 64 / reading,
    }


def collected(path: Path, episodes: int, size: int) -> tuple[float, int]:
    """Core seconds of collecting this many episodes, in this process and its worker together, and their frames."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.process_time()
    options = {"image_size": size}
    result = collect("tabletop-starter", path, episodes, seed=1, workers=1, options=options, progress=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    children = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return children + time.process_time() - started, result.frames


def memory(dataset: Path) -> float:
    """Bytes that training holds for each episode of `dataset`, without memory-mapped frames, whose cache must exist."""
    from verbot.recipes.config import resolve
    from verbot.recipes.overrides import override
    from verbot.training.imitation.data import TrainingData

    def held() -> int:
        gc.collect()
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    config = override(resolve("starter").training, {"datasets": (str(dataset),), "processes": 1})
    before, episodes = held(), len(open_dataset(dataset))
    supply = TrainingData(config, dataset, 0, 0)
    supply.batch(0, 0)
    return (held() - before) / episodes


def computed(arguments: Arguments, found: dict[str, float]) -> dict[str, float]:
    """Figures extrapolated to `arguments.episodes` episodes like the measured ones."""
    count, frames = arguments.episodes, found["frames of an episode"]
    tables = found["bytes an episode, states and actions"] + found["bytes an episode, metadata"]
    values = {
        "frames": count * frames,
        "files": count * found["files an episode"],
        "memory of a process that trains, GB": count * found["bytes of memory an episode"] / 1e9,
        "order of an epoch, GB": 8 * count * frames / 1e9,
    }
    for size in ("as it is", f"{arguments.image_size}×{arguments.image_size}"):
        encoded = found[f"made: bytes a camera and frame, encoded, {size}"]
        pixels = found["bytes a camera and frame, decoded"] if size == "as it is" else 3 * arguments.image_size**2
        values[f"dataset on the disk, GB, {size}"] = count * (2 * frames * encoded + tables) / 1e9
        values[f"decoded frames on the disk, GB, {size}"] = 2 * count * frames * pixels / 1e9
        values[f"collection, core hours, {size}"] = count * found[f"made: core seconds an episode, {size}"] / 3600
        values[f"decoding, core hours, {size}"] = (
            2 * count * frames / found[f"made: frames decoded in a core second, {size}"] / 3600
        )
    return values


def gpu(arguments: Arguments, parameters: float) -> dict[str, float]:
    """Requirements of a network of this size on each GPU. Forward and backward take 6 operations per parameter and token."""
    count, samples = arguments.gpus, arguments.flops * arguments.used / (6 * parameters * arguments.tokens)
    step = arguments.batch / samples
    image = 2 * 3 * arguments.image_size**2
    return {
        "parameters, M": parameters / 1e6,
        "samples/s of one": samples,
        "samples/s of all": count * samples,
        "images into one, MB/s": samples * image / 1e6,
        "a step, ms": 1e3 * step,
        "memory, data: weights, gradient, average, moments, GB": 5 * FLOAT * parameters / 1e9,
        "memory, fsdp: the share of 7 vectors, GB": 7 * FLOAT * parameters / count / 1e9,
        "sent by one in a step, data: GB": 2 * (count - 1) / count * FLOAT * parameters / 1e9,
        "sent by one in a step, fsdp: GB": 3 * (count - 1) / count * FLOAT * parameters / 1e9,
        "network of one, data, GB/s": 2 * (count - 1) / count * FLOAT * parameters / step / 1e9,
        "network of one, fsdp, GB/s": 3 * (count - 1) / count * FLOAT * parameters / step / 1e9,
        "a checkpoint, GB": 4 * FLOAT * parameters / 1e9,
    }


if __name__ == "__main__":
    main()
