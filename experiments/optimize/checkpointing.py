"""Memory and time of a training step with and without gradient checkpointing, in one process each. Prints one JSON record.

Example:
    python experiments/optimize/checkpointing.py --recipe starter --batch 256 --out outputs/checkpointing.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from verbot.files import write_atomic


def measured(recipe: str, data: str, out: str, batch: int, steps: int, checkpointing: bool, seed: int) -> dict[str, Any]:
    """The peak of resident memory, and the time of a step, of a short training in this process."""
    import verbot
    from verbot.workflows.timing import highest_mb

    settings: dict[str, Any] = {"checkpointing": checkpointing, "batch_size": batch, "steps": steps, "seed": seed}
    verbot.train(recipe, data=data, out=f"{out}/warm", progress=False, **{**settings, "steps": 1, "batch_size": 2})
    before, started = highest_mb(), time.perf_counter()
    verbot.train(recipe, data=data, out=f"{out}/run", progress=False, **settings)
    return {"peak_mb": highest_mb(), "before_mb": before, "seconds_per_step": (time.perf_counter() - started) / steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="starter")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=20, help="of the expert, on which is trained")
    parser.add_argument("--suite", default="tabletop-starter")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the record here")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # in the processes that are measured: their arguments
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(**json.loads(arguments.one))))
        return
    import verbot

    found: dict[str, Any] = {
        "recipe": arguments.recipe,
        "batch": arguments.batch,
        "steps": arguments.steps,
        "seed": arguments.seed,
    }
    with tempfile.TemporaryDirectory(prefix="verbot-checkpointing-") as folder:
        data = f"{folder}/data"
        verbot.collect(arguments.suite, data, arguments.episodes, arguments.seed, workers=1, progress=False)
        for name, enabled in (("plain", False), ("checkpointing", True)):
            one = {"recipe": arguments.recipe, "data": data, "out": f"{folder}/{name}", "batch": arguments.batch,
                   "steps": arguments.steps, "checkpointing": enabled, "seed": arguments.seed}  # fmt: skip
            call = [sys.executable, __file__, "--one", json.dumps(one)]
            done = subprocess.run(call, capture_output=True, text=True, check=True)
            found[name] = json.loads(done.stdout.splitlines()[-1])
    record = json.dumps(found, indent=2)
    if arguments.out:
        write_atomic(arguments.out, record + "\n")
    print(record)


if __name__ == "__main__":
    main()
