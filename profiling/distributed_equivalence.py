"""Compares the losses of the same training in one process, in two processes of torchrun, and in two with sharded weights.

Run it as ``python profiling/distributed_equivalence.py --data outputs/demo/dataset``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from verbot.training import read_log


@dataclass(frozen=True)
class Arguments:
    """Options of training; the batch size of 64 is the same for all runs."""

    data: Path
    out: Path = Path("outputs/curves")
    recipe: str = "starter"
    steps: int = 40
    set: tuple[str, ...] = ()  # fields of the training, as of `verbot train`


def main() -> None:
    arguments = tyro.cli(Arguments)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "verbot"]
    runs = {
        "one process": (["-m", "verbot"], ["processes=1"]),
        "two, data": (launch, []),
        "two, fsdp": (launch, ["parallel=fsdp"]),
    }
    curves = {name: curve(arguments, name, *how) for name, how in runs.items()}
    base = curves["one process"]
    print(f"{arguments.steps} steps of 64; loss of one process {base[0]:.4f} at first, {base[-10:].mean():.4f} in the last ten")
    for name, losses in curves.items():
        apart = np.abs(losses / base - 1)
        print(f"{name}: relative difference {apart.max():.2e} at most, {apart[0]:.2e} at first, {apart.mean():.2e} on average")
    apart = np.abs(curves["two, fsdp"] / curves["two, data"] - 1)
    print(f"two, fsdp against two, data: at most {apart.max():.2e}")


def curve(arguments: Arguments, name: str, start: list[str], settings: list[str]) -> np.ndarray:
    out = arguments.out / name.replace(", ", "-").replace(" ", "-")
    settings = [*settings, "log_every=1", "validation_batches=0", "threads=1", *arguments.set]
    command = [sys.executable, *start, "train", arguments.recipe, "--data", str(arguments.data), "--out", str(out)]
    subprocess.run(
        [*command, "--steps", str(arguments.steps), "--set", *settings], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return np.array([line["loss"] for line in read_log(out) if line["kind"] == "train"])


if __name__ == "__main__":
    main()
