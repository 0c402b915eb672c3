"""Measures a training step and a prediction of each published model size on one device.

Run it as ``python profiling/paper_sizes.py --device cuda`` on a machine with a GPU. The weights and the batch are random; only
their sizes matter. A size that does not fit into memory is reported, and the others continue.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from verbot.envs import make_env
from verbot.models.network import NetworkConfig, VLANetwork
from verbot.models.tokens import Batch, Masked
from verbot.recipes.config import Recipe, resolve
from verbot.spec import RobotSpec
from verbot.training.distributed.optimizer import Optimizer

TEXTS = ("pick up the red cube", "push the green ball to the left", "put the blue cylinder into the gray tray")
WARM = 2  # untimed repetitions


@dataclass(frozen=True)
class Arguments:
    """Options of the measurement."""

    sizes: tuple[str, ...] = ("rt1-paper", "octo-small-paper", "octo-base-paper", "act-paper", "pi0-paper")
    device: str = "cuda"
    steps: int = 20  # timed training steps, and as many predictions
    batch: int = 8  # samples of a training step; predictions are of one observation
    bf16: bool = True  # compute in bfloat16; the weights stay float32
    out: Path | None = None  # writes the figures as JSON


def main() -> None:
    arguments = tyro.cli(Arguments)
    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(f"torch {torch.__version__}, {name}, {'bf16' if arguments.bf16 else 'float32'}, batch {arguments.batch}\n")
    print("| size | parameters | training, samples/s | memory, GiB | prediction, ms |\n|---|---|---|---|---|")
    rows = []
    for size in arguments.sizes:
        row = measure(resolve(size), device, arguments)
        rows.append({"size": size, **row})
        print(line(size, row), flush=True)
    if arguments.out is not None:
        figures = {"device": name, "torch": torch.__version__, **dataclasses.asdict(arguments), "rows": rows}
        arguments.out.write_text(json.dumps(figures, indent=2, default=str) + "\n", encoding="utf-8")


def line(size: str, row: dict[str, Any]) -> str:
    if "error" in row:
        return f"| {size} | {row['error']} | | | |"
    memory = f"{row['memory_gib']:.1f}" if row["memory_gib"] is not None else "–"
    rate, latency = row["training_samples_per_s"], row["prediction_ms"]
    return f"| {size} | {row['parameters'] / 1e6:,.1f} M | {rate:.1f} | {memory} | {latency:.1f} |"


def measure(run: Recipe, device: torch.device, arguments: Arguments) -> dict[str, Any]:
    """The figures of one size, or the device's error if its memory does not suffice."""
    assert run.collection is not None
    with closing(make_env(run.collection.env, render_cameras=False, **run.collection.options)) as env:
        spec = env.robot_spec
    config = run.training.network.fit(list(TEXTS), chunks(run.training.network, spec))
    try:
        return figures(VLANetwork(config, spec).to(device), run, arguments, device)
    except torch.OutOfMemoryError as error:
        return {"error": f"out of memory: {str(error).splitlines()[0]}"}
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)


def figures(network: VLANetwork, run: Recipe, arguments: Arguments, device: torch.device) -> dict[str, Any]:
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=arguments.bf16)
    one = batch(network, 1).to(device)

    def predict() -> None:
        with torch.inference_mode(), autocast:
            network.predict(one)

    network.eval()
    latency = statistics.median(timed(predict, arguments.steps, device))
    network.train()
    optimizer = Optimizer(network, run.training.optimizer)
    rows = arguments.batch * network.config.sequence
    many = batch(network, rows).to(device)

    def step() -> None:
        optimizer.gradient.zero_()
        with autocast:
            loss = network.losses(many)["loss"]
        loss.backward()
        optimizer.step(run.training.optimizer.learning_rate)

    seconds = statistics.median(timed(step, arguments.steps, device))
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "training_samples_per_s": rows / seconds,
        "memory_gib": memory,
        "prediction_ms": 1e3 * latency,
    }


def timed(act: Callable[[], None], times: int, device: torch.device) -> list[float]:
    """Seconds of each call after `WARM` warm-up calls, with synchronization after each."""
    found = []
    for number in range(WARM + times):
        start = time.perf_counter()
        act()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= WARM:
            found.append(time.perf_counter() - start)
    return found


def chunks(config: NetworkConfig, spec: RobotSpec) -> np.ndarray | None:
    """Random normalized actions, for a head that must be fitted to data."""
    if not config.learns_from_chunks:
        return None
    size = sum(component.size for component in spec.action)
    return np.random.default_rng(0).standard_normal((500, config.chunk, size)).astype(np.float32)


def batch(network: VLANetwork, rows: int) -> Batch:
    """A complete random batch on the CPU."""
    sizes, g = network.sizes, torch.Generator().manual_seed(0)
    t, v, k, pixels = sizes.history, sizes.views, sizes.chunk, (3, sizes.height, sizes.width_px)
    goal, places = network.config.goal is not None, torch.rand(rows, v, 3, 2, generator=g) * 2 - 1
    return Batch(
        images=torch.randint(0, 256, (rows, t, v, *pixels), generator=g, dtype=torch.uint8),
        images_mask=torch.ones(rows, t, v, dtype=torch.bool),
        state=torch.randn(rows, t, sizes.state, generator=g),
        state_mask=torch.ones(rows, t, dtype=torch.bool),
        text=network.backbone.prepare([TEXTS[i % len(TEXTS)] for i in range(rows)]),
        actions=torch.rand(rows, k, sizes.action_size, generator=g),
        actions_mask=torch.ones(rows, k, dtype=torch.bool),
        targets={"keypoints": Masked(places, torch.ones(rows, v, 3, dtype=torch.bool))},
        goal=torch.randint(0, 256, (rows, *pixels), generator=g, dtype=torch.uint8) if goal else None,
        goal_mask=torch.ones(rows, dtype=torch.bool) if goal else None,
    )


if __name__ == "__main__":
    main()
