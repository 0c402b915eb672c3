"""Measures training samples per second, and the time of each part of a step.

Run it as ``python profiling/training_throughput.py --dataset outputs/demo/dataset`` on an idle machine. The profile is in CPU
seconds of one process with one thread. The rates are wall-clock rates of the third and the last quarter of short runs.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import dataclasses
import json
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from verbot.parallel.workers import cores
from verbot.policy.policy import VLAPolicy
from verbot.recipes.config import resolve
from verbot.recipes.overrides import override
from verbot.rollout.collect import collect
from verbot.training import TrainConfig, read_log, train_policy
from verbot.training.distributed.optimizer import Optimizer
from verbot.training.imitation.augment import jitter_colors, torch_numbers
from verbot.training.imitation.data import TrainingData


@dataclass(frozen=True)
class Arguments:
    """Options of the measurement."""

    recipe: str = "starter"
    dataset: Path | None = None  # made (60 demonstrations) if not given
    steps: int = 200  # of each run
    out: Path | None = None  # writes the figures as JSON


def main() -> None:
    arguments = tyro.cli(Arguments)
    with tempfile.TemporaryDirectory() as folder:
        dataset = arguments.dataset or Path(collect("tabletop-starter", Path(folder) / "demos", 60, workers=cores()).path)
        config = override(
            resolve(arguments.recipe).training,
            {
                "datasets": (str(dataset),), "steps": arguments.steps, "validation.share": 0.0,
                "log_every": max(1, arguments.steps // 4), "checkpoint_every": 10_000_000,
            },
        )  # fmt: skip
        profile = stages(config, 20)
        whole = sum(profile.values())
        print(f"one step of {config.data.batch_size} samples, one thread: {1e3 * whole:.1f} ms of CPU")
        for name, seconds in profile.items():
            print(f"  {name:10s} {1e3 * seconds:8.2f} ms {seconds / whole:7.1%}")
        rates = {}
        for processes, threads in ((1, 1), (1, 2), (2, 1)):
            name = f"{processes} processes of {threads} threads"
            run = override(config, {"processes": processes, "threads": threads})
            rates[name] = rate(run, Path(folder) / f"{processes}-{threads}")
            print(f"{name}: {rates[name]:.0f} samples/s")
    if arguments.out is not None:
        record = {"recipe": arguments.recipe, "cores": cores(), "stages_s": profile, "samples_per_s": rates}
        arguments.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def stages(config: TrainConfig, steps: int) -> dict[str, float]:
    """CPU seconds of each part of a step, in one process with one thread, with the calls of the training loop."""
    torch.set_num_threads(1)
    config = override(config, {"processes": 1})
    TrainingData.prepare(config)
    supply = TrainingData(config, Path(), 0, 0)
    policy = VLAPolicy.create(config.network, supply.spec, supply.statistics, supply.instructions)
    policy.network.backbone.prepare(supply.instructions)
    optimizer, spent, clock = Optimizer(policy.network, config.optimizer), defaultdict[str, float](float), time.process_time

    def lap(name: str, since: float) -> float:
        now = clock()
        spent[name] += now - since
        return now

    for step in range(steps + 3):
        if step == 3:  # the first steps are slow: memory, caches
            spent.clear()
        at = clock()
        window = supply.batch(step, 0)
        at = lap("read", at)
        batch = policy.collate(window)
        at = lap("collate", at)
        batch = dataclasses.replace(batch, images=jitter_colors(batch.images, config.augment, torch_numbers(step)))
        at = lap("colors", at)
        optimizer.gradient.zero_()
        losses = policy.network.losses(batch, torch_numbers(step))
        at = lap("forward", at)
        losses["loss"].backward()
        at = lap("backward", at)
        optimizer.step(config.optimizer.learning_rate)
        lap("optimizer", at)
    return {name: seconds / steps for name, seconds in spent.items()}


def rate(config: TrainConfig, out: Path) -> float:
    """Samples per second of wall-clock time, the mean of the third and the last quarter of a run."""
    train_policy(config, out, progress=False)
    speeds = [line["samples_per_s"] for line in read_log(out) if line["kind"] == "train"]
    return sum(speeds[-2:]) / 2


if __name__ == "__main__":
    main()
