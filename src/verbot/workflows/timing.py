"""What a prediction of two policies costs: latency on one core, side by side, and the memory of a process that predicts."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from verbot.contracts import Policy
from verbot.errors import PolicyError
from verbot.registry import installed
from verbot.spec import Observation

WARM = 20  # predictions before any is counted
_PEAK = "import sys\nfrom verbot.workflows.timing import peak_mb\nprint(peak_mb(sys.argv[1]))"


@contextmanager
def one_core() -> Iterator[None]:
    """Torch computes with one thread, as exported graphs do."""
    if not installed("torch"):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def latencies(
    policies: dict[str, Policy],
    observations: Sequence[Observation],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
    report: Callable[[int], None] = lambda done: None,
) -> dict[str, dict[str, float]]:
    """p50 and p99 of single predictions in milliseconds. The policies take turns, so that what else the machine does hits all."""
    taken: dict[str, list[float]] = {name: [] for name in policies}
    with one_core():
        for turn in range(WARM + repeats):
            one = [observations[turn % len(observations)]]
            for name, policy in policies.items():
                started = clock()
                policy.predict(one)
                taken[name].append(clock() - started)
            report(turn + 1)
    return {
        name: {"p50_ms": 1000 * float(np.quantile(each[WARM:], 0.5)), "p99_ms": 1000 * float(np.quantile(each[WARM:], 0.99))}
        for name, each in taken.items()
    }


def peak_mb(policy: str) -> float:
    """The peak of resident memory in MB after this process has loaded the policy and predicted from blank observations."""
    from verbot.policy.opening import load_policy

    found = load_policy(policy)
    images = {c.name: np.zeros((c.height, c.width, 3), np.uint8) for c in found.spec.color_cameras}
    seen = Observation(images, np.zeros(found.spec.state_size, np.float32), "put the red cube in the blue box")
    for _ in range(3):
        found.predict([seen])
    return highest_mb()


def highest_mb() -> float:
    """Of this process alone: on Linux, ``ru_maxrss`` begins with that of the process which started it."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def memory_mb(policy: str, trust: str) -> float:
    """`peak_mb` in a process of its own; `trust` is the variable that lets it open files it would otherwise refuse."""
    env = {**os.environ, trust: "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", _PEAK, policy], env=env, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise PolicyError(f"{policy} could not be measured: {done.stderr.strip()[-300:]}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def size_mb(folder: Path) -> dict[str, float]:
    """The files of a policy in MB: all, and those of its language encoder alone, which an exported policy brings along."""
    sizes = {path.name: path.stat().st_size / 1e6 for path in folder.iterdir() if path.is_file()}
    language = sum(size for name, size in sizes.items() if name.startswith(("language.", "tokenizer.")))
    return {"all": sum(sizes.values()), "language": language}
