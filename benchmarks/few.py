"""A new verb from few demonstrations: everything trained on, adapters alone, and from scratch, at equal samples.

Run it as ``python benchmarks/few.py outputs/stack --start outputs/starter/policy``, where the demonstrations are of one task of a
suite (``verbot collect outputs/stack --suite tabletop-full --tasks stack --episodes 400``) and the start is a policy of the
recipe `starter` that never saw it. One line of JSON for each arm as it ends, then a table. Called again it goes on.
"""

from __future__ import annotations

import os

os.environ.setdefault("LP_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

import verbot
from verbot.evaluation.intervals import Estimate
from verbot.evaluation.summary import written

LORA = {"rank": 16, "alpha": 32.0}


@dataclass(frozen=True)
class Arguments:
    """What to measure. An arm is a method (start, full, lora or scratch) and the number of demonstrations, e.g. full-50."""

    data: tyro.conf.Positional[Path]
    start: str
    out: Path = Path("outputs/few")
    suite: str = "tabletop-full"
    task: str = "stack"
    arms: tuple[str, ...] = ("start-0", *(f"{how}-{n}" for n in (50, 100, 200, 400) for how in ("full", "lora", "scratch")))
    samples: int = 20_000
    episodes: int = 100
    learning_rate: float = 1e-3  # of what begins with the start; from scratch the recipe's own


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    rows = []
    for arm in arguments.arms:
        method, count = arm.rsplit("-", 1)
        rows.append({"method": method, "demonstrations": int(count), **measure(arguments, method, int(count))})
        print(json.dumps(rows[-1]), flush=True)
    print("\n| method | demonstrations | samples | numbers trained | success |\n|---|---|---|---|---|")
    for row in rows:
        told = written("success_rate", Estimate(**row["success"]))
        print(f"| {row['method']} | {row['demonstrations']} | {row['samples']} | {row['trained']} | {told} |")


def measure(arguments: Arguments, method: str, count: int) -> dict[str, Any]:
    """One arm, trained as far as it is not yet, and its success."""
    out, policy, record = arguments.out / f"{method}-{count}", arguments.start, {"samples": 0, "trained": 0, "parameters": 0}
    if method != "start":
        settings: dict[str, Any] = {"selections": [{"episodes": count}], "processes": 1, "samples": arguments.samples}
        if method != "scratch":
            settings |= {"start": arguments.start, "learning_rate": arguments.learning_rate}
        if method == "lora":
            settings["lora"] = LORA
        result = verbot.train("starter", data=arguments.data, out=out, progress=False, **settings)
        policy, record = result.policy, {name: getattr(result, name) for name in record}
    summary = verbot.evaluate(
        policy, arguments.suite, out=out / "evaluation", episodes=arguments.episodes, baselines=False, videos=0, conditions=(),
        latency_calls=1, workers=1, options={"tasks": [arguments.task]}, progress=False,
    )  # fmt: skip
    return {**record, "success": summary.metrics["success_rate"].to_json()}


if __name__ == "__main__":
    main()
